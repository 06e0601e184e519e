//! Tests of the shippers, each against a stub that answers as the shipper's documentation describes.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use reqwest::Url;

use super::progress::Progress;
use super::*;
use crate::common::flush_result::Outcome;
use crate::common::state::StateHandle;

/// The answers of each path, in order; the last one repeats for ever.
type Answers = Vec<(&'static str, Vec<String>)>;

struct Stub {
    url: Url,
    state: StateHandle,
    settings: Settings,
}

impl Stub {
    async fn of(answers: Answers) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url: Url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        let app = Router::new().fallback(answer).with_state(Arc::new(Mutex::new(answers)));
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self::at(url)
    }

    /// The settings for any address, whether a stub listens there or not.
    fn at(url: Url) -> Self {
        let mut settings = crate::config::Settings::default().flush;
        settings.settle = Duration::from_millis(600);
        (settings.filebeat_url, settings.fluent_bit_url) = (url.clone(), url.clone());
        settings.vector_url = url.join("metrics").unwrap();
        Self { url, state: StateHandle::default(), settings }
    }

    async fn asked(&self, shipper: Shipper, time: u64) -> Outcome {
        let settle = self.settings.settle;
        let wait = async move |progress| has_sent(shipper, &self.settings, settle, &progress).await;
        self.reported(time, wait).await
    }

    async fn reported<F, Fut>(&self, time: u64, flush: F) -> Outcome
    where
        F: FnOnce(Progress) -> Fut,
        Fut: Future<Output = Result<FlushResult, String>>,
    {
        report(&self.state, "x", Duration::from_secs(time), flush).await;
        self.state.now().flush.pop().unwrap()
    }

    async fn meets(&self, path: &str, condition: &str) -> Outcome {
        let url = self.url.join(path).unwrap();
        let condition = format!("{url} {condition}").parse().unwrap();
        self.reported(20, async |progress| http::wait(&condition, &progress).await).await
    }
}

async fn answer(
    State(answers): State<Arc<Mutex<Answers>>>,
    request: Request,
) -> (StatusCode, String) {
    let mut answers = answers.lock().unwrap();
    match answers.iter_mut().find(|(path, _)| *path == request.uri().path()) {
        Some((_, next)) if next.len() > 1 => (StatusCode::OK, next.remove(0)),
        Some((_, next)) => (StatusCode::OK, next[0].clone()),
        None => (StatusCode::NOT_FOUND, "not found".to_owned()),
    }
}

/// With less time than a shipper needs to read a file and to write its numbers, skep would accept an answer from before
/// the last task's end.
#[test]
fn no_shorter_settling_time_is_believed_than_a_shipper_needs() {
    let second = Duration::from_secs(1);
    assert_eq!(settle_time(Shipper::Filebeat, second), Duration::from_secs(11));
    assert_eq!(settle_time(Shipper::Filebeat, second * 60), second * 60);
    assert_eq!(settle_time(Shipper::FluentBit, second), second + fluent_bit::OLDEST_READING);
    assert_eq!(settle_time(Shipper::Vector, second), second + vector::OLDEST_READING);
    assert_eq!(settle_time(Shipper::CloudwatchAgent, second), second);
}

/// As in <https://www.elastic.co/guide/en/beats/filebeat/7.3/http-endpoint.html>, with the fields that matter.
fn filebeat_stats(published: u64, active: u64, unwritten: u64, dropped: u64) -> String {
    let acked = published - active;
    format!(
        r#"{{"beat":{{"info":{{"uptime":{{"ms":63}}}}}},"filebeat":{{"events":{{"active":{unwritten},"added":{acked},"done":0}},
        "harvester":{{"closed":0,"open_files":1,"running":1,"skipped":0,"started":1}}}},
        "libbeat":{{"output":{{"events":{{"acked":{acked},"active":0,"batches":1,"dropped":{dropped},"duplicates":0,"failed":0,"total":{acked}}},
        "type":"elasticsearch"}},"pipeline":{{"clients":1,"events":{{"active":{active},"dropped":0,"failed":0,"filtered":0,"published":{published},"retry":0,"total":9}},
        "queue":{{"acked":{acked},"max_events":4096}}}}}}}}"#
    )
}

#[tokio::test]
async fn filebeat_is_done_when_its_queue_and_its_registry_are() {
    let stub = |stats: &[String]| Stub::of(vec![("/stats", stats.to_vec())]);
    let stats =
        [filebeat_stats(9, 2, 2, 0), filebeat_stats(9, 0, 1, 0), filebeat_stats(9, 0, 0, 0)];
    let outcome = stub(&stats).await.asked(Shipper::Filebeat, 20).await;
    assert_eq!(
        (outcome.result, outcome.sent, outcome.unsent),
        (FlushResult::Done, Some(9), Some(0))
    );
    assert!(outcome.seconds >= 0.6, "{outcome:?}");

    let stuck = stub(&stats[..1]).await.asked(Shipper::Filebeat, 2).await;
    let counts = (stuck.sent, stuck.unsent);
    assert_eq!((stuck.result, counts), (FlushResult::TimedOut, (Some(7), Some(2))));

    let dropping = [filebeat_stats(9, 2, 0, 4), filebeat_stats(9, 0, 0, 6)];
    let outcome = stub(&dropping).await.asked(Shipper::Filebeat, 20).await;
    assert_eq!(outcome.result, FlushResult::Failed);
    assert!(outcome.detail.unwrap().contains("discarded 2 since"));
}

/// Counters that rise at every poll, with some events under way at each.
fn rising(page: impl Fn(u64) -> String) -> Vec<String> {
    (0..1000).map(|n| page(100 + 3 * n)).collect()
}

#[tokio::test]
async fn a_busy_shipper_is_done_although_its_counters_never_stand_still() {
    let filebeat = rising(|n| filebeat_stats(n, 3, 3, 0));
    let vector = rising(|n| vector(1, n, n - 2, 0));
    let filebeat = Stub::of(vec![("/stats", filebeat)]).await;
    let vector = Stub::of(vec![("/metrics", vector)]).await;
    let (filebeat, vector) =
        tokio::join!(filebeat.asked(Shipper::Filebeat, 20), vector.asked(Shipper::Vector, 20));
    for outcome in [filebeat, vector] {
        assert_eq!((outcome.result, outcome.unsent), (FlushResult::Done, Some(0)), "{outcome:?}");
        assert!(outcome.detail.as_ref().unwrap().contains("3 newer under way"), "{outcome:?}");
    }
    // The queue is full, and the files behind it are not read to their ends.
    let backlog = rising(|n| filebeat_stats(10 * n + 4000, 4000, 4000, 0));
    let backlog = Stub::of(vec![("/stats", backlog)]).await.asked(Shipper::Filebeat, 2).await;
    assert_eq!(backlog.result, FlushResult::TimedOut);
    assert!(backlog.detail.unwrap().contains("buffer is full"));
}

/// More and more events are under way, and none arrives.
#[tokio::test]
async fn a_busy_shipper_that_delivers_nothing_is_not_done() {
    let filebeat = rising(|n| filebeat_stats(n, n - 100, n - 100, 0));
    let vector = rising(|n| vector(0, n, 100, 0));
    let filebeat = Stub::of(vec![("/stats", filebeat)]).await;
    let vector = Stub::of(vec![("/metrics", vector)]).await;
    let (filebeat, vector) =
        tokio::join!(filebeat.asked(Shipper::Filebeat, 3), vector.asked(Shipper::Vector, 3));
    for outcome in [filebeat, vector] {
        assert_eq!(outcome.result, FlushResult::TimedOut, "{outcome:?}");
    }
}

/// As in <https://docs.fluentbit.io/manual/administration/monitoring>.
fn fluent_bit(chunks: u64, taken: u64, sent: u64, dropped: u64) -> (String, String) {
    (
        format!(
            r#"{{"storage_layer":{{"chunks":{{"total_chunks":{chunks},"mem_chunks":{chunks},"fs_chunks":0,"fs_chunks_up":0,"fs_chunks_down":0}}}},
            "input_chunks":{{"tail.0":{{"status":{{"overlimit":false,"mem_size":"0b","mem_limit":"0b"}},"chunks":{{"total":{chunks},"up":0,"down":0,"busy":0,"busy_size":"0b"}}}}}}}}"#
        ),
        format!(
            r#"{{"input":{{"tail.0":{{"records":{taken},"bytes":2536}}}},"filter":{{}},
            "output":{{"es.0":{{"proc_records":{sent},"proc_bytes":1585,"errors":0,"retries":0,"retries_failed":0,"dropped_records":{dropped},"retried_records":0}}}}}}"#
        ),
    )
}

fn fluent_bit_answers(pages: &[(String, String)]) -> Answers {
    let (storage, metrics) = pages.iter().cloned().unzip();
    vec![("/api/v1/storage", storage), ("/api/v1/metrics", metrics)]
}

#[tokio::test]
async fn fluent_bit_is_done_when_no_chunk_is_left() {
    let pages = [fluent_bit(3, 12, 5, 0), fluent_bit(0, 12, 12, 0)];
    let dropping = [fluent_bit(1, 12, 5, 0), fluent_bit(0, 12, 5, 7)];
    let asked = async |answers| Stub::of(answers).await.asked(Shipper::FluentBit, 20).await;
    let (outcome, dropped, failed) = tokio::join!(
        asked(fluent_bit_answers(&pages)),
        asked(fluent_bit_answers(&dropping)),
        asked(vec![("/api/v1/metrics", vec![pages[0].1.clone()])]),
    );
    assert_eq!(
        (outcome.result, outcome.sent, outcome.unsent),
        (FlushResult::Done, Some(12), Some(0))
    );

    let stub = Stub::of(fluent_bit_answers(&pages[..1])).await;
    let stuck = stub.asked(Shipper::FluentBit, 1).await;
    assert_eq!((stuck.result, stuck.unsent), (FlushResult::TimedOut, Some(7)));
    assert_eq!(stuck.detail.as_deref(), Some("3 chunks"));

    assert_eq!((dropped.result, failed.result), (FlushResult::Failed, FlushResult::Failed));
    assert!(dropped.detail.unwrap().contains("discarded 7 since"));
    assert!(failed.detail.unwrap().contains("set storage.metrics on"));
}

/// A page whose counters have other names must not count as one with nothing unsent.
#[tokio::test]
async fn a_page_without_a_counter_is_no_page_with_nothing_unsent() {
    let stats = filebeat_stats(9, 0, 0, 0);
    let (storage, metrics) = fluent_bit(0, 12, 12, 0);
    // Includes the quote in front, so that no longer name is meant.
    let renamed = |page: &str, field: &str| page.replace(field, &field.replacen('"', "\"x_", 1));
    let mut cases = Vec::new();
    for field in ["\"active\":0,\"dropped\"", "\"published\"", "\"acked\":9,\"active\""] {
        let page = renamed(&stats, field);
        assert_ne!(page, stats);
        cases.push((Shipper::Filebeat, vec![("/stats", vec![page])]));
    }
    let fields = [
        "\"total_chunks",
        "\"records",
        "\"proc_records",
        "\"input\"",
        "\"output",
        "\"retries_failed",
    ];
    for field in fields {
        let page = (renamed(&storage, field), renamed(&metrics, field));
        assert_ne!((&page.0, &page.1), (&storage, &metrics));
        cases.push((Shipper::FluentBit, fluent_bit_answers(&[page])));
    }
    let asked = cases.into_iter().map(async |(shipper, answers)| {
        (answers.clone(), Stub::of(answers).await.asked(shipper, 20).await)
    });
    for (answers, outcome) in join_all(asked).await {
        assert_eq!((outcome.result, outcome.unsent), (FlushResult::Failed, None), "{answers:?}");
        let detail = outcome.detail.unwrap();
        assert!(detail.contains("the answer has no "), "{detail}: {answers:?}");
    }
}

/// As Vector's `prometheus_exporter` writes them, with the exporter's own series.
fn vector(buffered: u64, received: u64, sent: u64, discarded: u64) -> String {
    let sink = r#"component_id="out",component_kind="sink",component_type="loki",host="h""#;
    let own =
        r#"component_id="m",component_kind="sink",component_type="prometheus_exporter",host="h""#;
    format!(
        "# HELP vector_buffer_events buffer_events\n# TYPE vector_buffer_events gauge\n\
         vector_buffer_events{{buffer_type=\"memory\",stage=\"0\",{sink}}} {buffered} 1700000000000\n\
         vector_component_received_events_total{{{sink}}} {received} 1700000000000\n\
         vector_component_sent_events_total{{{sink},output=\"_default\"}} {sent} 1700000000000\n\
         vector_component_discarded_events_total{{{sink},intentional=\"false\"}} {discarded}\n\
         vector_component_received_events_total{{{own}}} 812\n\
         vector_component_received_events_total{{component_id=\"in\",component_kind=\"source\",component_type=\"file\"}} 99\n"
    )
}

#[tokio::test]
async fn vector_is_done_when_its_sinks_are() {
    let stub = |pages: &[String]| Stub::of(vec![("/metrics", pages.to_vec())]);
    let pages = [vector(4, 10, 8, 0), vector(0, 14, 14, 0)];
    let outcome = stub(&pages).await.asked(Shipper::Vector, 20).await;
    assert_eq!(
        (outcome.result, outcome.sent, outcome.unsent),
        (FlushResult::Done, Some(14), Some(0))
    );
    let stuck = stub(&pages[..1]).await.asked(Shipper::Vector, 1).await;
    assert_eq!((stuck.result, stuck.unsent), (FlushResult::TimedOut, Some(6)));
    let dropping = [vector(4, 10, 8, 0), vector(0, 14, 11, 3)];
    let outcome = stub(&dropping).await.asked(Shipper::Vector, 20).await;
    assert!(outcome.detail.unwrap().contains("discarded 3 since"));
}

#[tokio::test]
async fn any_url_is_polled_until_its_condition_holds() {
    let stub = Stub::of(vec![
        ("/json", vec![r#"{"q":{"size":3}}"#.into(), r#"{"q":{"size":"0"}}"#.into()]),
        (
            "/text",
            vec!["q{n=\"a\"} 0\nq{n=\"b\"} 2\n".into(), "q{n=\"a\"} 0\nq{n=\"b\"} 0\n".into()],
        ),
    ])
    .await;
    let outcome = stub.meets("json", "/q/size == 0").await;
    assert_eq!((outcome.result, outcome.detail), (FlushResult::Done, None));
    assert!(outcome.seconds >= 0.2, "the first answer did not meet the condition");
    assert_eq!(stub.meets("text", "q{n=\"a\"} < 1").await.result, FlushResult::Done);
    assert_eq!(stub.meets("text", "q <= 0").await.result, FlushResult::Done);
}

/// skep soon stops polling a shipper that is absent or answers rubbish, with a reason; one that hangs, at the time-out
/// at the latest.
#[tokio::test]
async fn what_cannot_be_read_is_given_up_with_a_reason() {
    let rubbish = || {
        Stub::of(vec![
            ("/stats", vec!["<html>no</html>".into()]),
            ("/api/v1/storage", vec!["[]".into()]),
            ("/api/v1/metrics", vec!["{}".into()]),
            ("/metrics", vec!["\u{0}\u{1}{{{".into()]),
        ])
    };
    let held = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent = format!("http://{}", held.local_addr().unwrap()).parse().unwrap();
    let cases = [
        (rubbish().await, Shipper::Filebeat, "did not return JSON"),
        (rubbish().await, Shipper::FluentBit, "no number at /storage_layer/chunks/total_chunks"),
        (rubbish().await, Shipper::Vector, "no metrics of a sink"),
        (Stub::of(Vec::new()).await, Shipper::Vector, "returned 404"),
        (Stub::at(silent), Shipper::Filebeat, "timed out"),
        (Stub::at("http://127.0.0.1:1".parse().unwrap()), Shipper::Filebeat, "refused"),
    ];
    let conditions = rubbish().await;
    let asked =
        cases.iter().map(async |(stub, shipper, reason)| (stub.asked(*shipper, 30).await, *reason));
    let asked = join_all(asked.map(futures_util::FutureExt::boxed_local));
    let (mut outcomes, polled) = tokio::join!(asked, conditions.meets("stats", "/a == 0"));
    outcomes.push((polled, "did not return JSON"));
    for (outcome, reason) in outcomes {
        assert_eq!(outcome.result, FlushResult::Failed);
        assert!(outcome.seconds < 20.0, "{outcome:?}");
        assert!(outcome.detail.as_ref().is_some_and(|it| it.contains(reason)), "{outcome:?}");
    }
}
