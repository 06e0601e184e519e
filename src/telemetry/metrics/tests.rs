//! Tests the page, its names, and the files in `docs/` that use them.

use std::collections::{BTreeMap, BTreeSet};

use aws_config::retry::RetryConfig;
use axum::http::{HeaderMap, HeaderValue, header};
use time::OffsetDateTime;

use super::capacity::Capacities;
use super::expose::{classic, open_metrics};
use super::*;
use crate::clients::aws::Aws;
use crate::clients::aws::stub::Stub;
use crate::common::capacity::GroupCapacity;
use crate::common::instance::{Departure, Reason};
use crate::common::state::StateHandle;

/// Returns a page with every metric.
fn full_page() -> String {
    let metrics = Metrics::new();
    metrics.aws_call("ssm", "GetParameter", "throttled");
    metrics.aws_call("dynamodb", "GetItem", "ok");
    metrics.docker_call("list the nodes", true);
    metrics.departure("spot", "left");
    metrics.flushed("journal", "done", Some(7), Some(2));
    metrics.quorum(Some(1.0), Some(3));
    metrics.departures_waiting(Some((1, 2)));
    metrics.capacity(Some(capacities()));
    metrics.step("join", Duration::from_millis(700));
    metrics.duty_polled("departures", Duration::from_millis(300));
    let state = StateHandle::default();
    let now = OffsetDateTime::UNIX_EPOCH + Duration::from_secs(1000);
    state.update(|state| {
        state.departure = Some(Departure { reason: Reason::Spot, noticed_at: now, deadline: now });
    });
    state.set_quorum_lost(Some(now));
    state.report_duty("departures", None);
    state.report_duty("departures", Some("refused".into()));
    open_metrics(&metrics, &state.now())
}

#[test]
fn the_longest_poll_of_each_duty_stays() {
    let metrics = Metrics::new();
    for (duty, millis) in [("labels", 500), ("labels", 250), ("tokens", 125)] {
        metrics.duty_polled(duty, Duration::from_millis(millis));
    }
    let page = open_metrics(&metrics, &StateHandle::default().now());
    for line in [
        r#"skep_duty_longest_poll_seconds{duty="labels"} 0.5"#,
        r#"skep_duty_longest_poll_seconds{duty="tokens"} 0.125"#,
    ] {
        assert!(page.lines().any(|it| it == line), "{line} is not in {page}");
    }
}

fn capacities() -> Capacities<'static> {
    let capacity = GroupCapacity { nodes: 4, idle: 1, needed: 3, ..Default::default() };
    let capacity = GroupCapacity { cpus_reserved: 1.5, memory_available: 2048, ..capacity };
    ([("prod-workers", capacity)].into(), [("resources", 2), ("platform", 0)].into())
}

/// Returns name, kind and help of each metric on a page in the classic format.
fn described(page: &str) -> BTreeMap<String, (String, String)> {
    let part = |what: &str| -> BTreeMap<String, String> {
        let lines = page.lines().filter_map(|line| line.strip_prefix(what)?.split_once(' '));
        lines.map(|(name, text)| (name.to_owned(), text.to_owned())).collect()
    };
    let kinds = part("# TYPE ");
    let helps = part("# HELP ").into_iter();
    helps.map(|(name, help)| (name.clone(), (kinds[&name].clone(), help))).collect()
}

#[test]
fn what_is_not_known_is_not_shown_and_what_may_happen_begins_at_zero() {
    let metrics = Metrics::new();
    let page = open_metrics(&metrics, &StateHandle::default().now());
    for absent in ["quorum_", "ledger_age", "departure_deadline", "aws_calls"] {
        assert!(!page.contains(&format!("skep_{absent}")), "{absent} in {page}");
    }
    for series in [
        r#"skep_phase{phase="starting"} 1"#,
        r#"skep_phase{phase="ready"} 0"#,
        r#"skep_aws_throttles_total{service="ssm"} 0"#,
        r#"skep_removals_total{cause="spot",outcome="too_late"} 0"#,
        r#"skep_hook_script_runs_total{event="left",result="timed_out"} 0"#,
        r#"skep_webhook_deliveries_total{event="left",result="given_up"} 0"#,
        r#"skep_heartbeats_total{result="failed"} 0"#,
    ] {
        assert!(page.lines().any(|line| line == series), "{series} is not in {page}");
    }
    metrics.quorum(Some(2.0), Some(5));
    metrics.quorum(None, None);
    metrics.departures_waiting(Some((1, 2)));
    metrics.departures_waiting(None);
    metrics.capacity(Some(capacities()));
    metrics.capacity(None);
    let page = open_metrics(&metrics, &StateHandle::default().now());
    assert!(!page.contains("quorum_") && !page.contains("waiting{"), "{page}");
    assert!(!page.contains("group=") && !page.contains("tasks_pending{"), "{page}");
}

#[test]
fn the_page_says_what_was_counted() {
    let page = full_page();
    for series in [
        r#"skep_aws_calls_total{service="ssm",operation="GetParameter",result="throttled"} 1"#,
        r#"skep_aws_throttles_total{service="ssm"} 1"#,
        r#"skep_aws_throttles_total{service="dynamodb"} 0"#,
        r#"skep_docker_calls_total{operation="list the nodes",result="ok"} 1"#,
        r#"skep_departures_total{cause="spot",outcome="left"} 1"#,
        r#"skep_departures_waiting{for="traffic"} 1"#,
        r#"skep_departures_waiting{for="turn"} 2"#,
        r#"skep_group_nodes_needed{group="prod-workers"} 3.0"#,
        r#"skep_group_nodes_idle{group="prod-workers"} 1.0"#,
        r#"skep_group_cpus_reserved{group="prod-workers"} 1.5"#,
        r#"skep_group_memory_available_bytes{group="prod-workers"} 2048.0"#,
        r#"skep_tasks_pending{reason="resources"} 2.0"#,
        r#"skep_flushes_total{flusher="journal",result="done"} 1"#,
        r#"skep_flush_lines_total{flusher="journal",result="sent"} 7"#,
        r#"skep_flush_lines_total{flusher="journal",result="unsent"} 2"#,
        r#"skep_step_duration_seconds_bucket{le="0.5",step="join"} 0"#,
        r#"skep_step_duration_seconds_bucket{le="1.0",step="join"} 1"#,
        r#"skep_departure_noticed_timestamp_seconds{} 1000.0"#,
    ] {
        assert!(page.lines().any(|line| line == series), "{series} is not in {page}");
    }
    assert!(page.ends_with("# EOF\n"));
}

#[test]
fn a_lost_quorum_is_a_trouble_and_says_since_when() {
    let page = full_page();
    for series in ["skep_in_trouble 1", "skep_quorum_lost_timestamp_seconds{} 1000.0"] {
        assert!(page.lines().any(|line| line == series), "{series} is not in {page}");
    }
}

#[test]
fn every_series_names_the_cluster_once_it_is_known() {
    let metrics = Metrics::new();
    metrics.aws_call("ssm", "GetParameter", "ok");
    metrics.quorum(Some(0.0), Some(1));
    let state = StateHandle::default();
    let samples = |page: &str| -> Vec<String> {
        page.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
    };
    let before = samples(&open_metrics(&metrics, &state.now()));
    assert!(before.iter().all(|sample| !sample.contains("cluster")), "{before:?}");
    state.update(|state| state.cluster = Some("prod".into()));
    let page = open_metrics(&metrics, &state.now());
    for samples in [samples(&page), samples(&classic(&page))] {
        assert_eq!(samples.len(), before.len());
        assert!(samples.iter().all(|sample| sample.contains(r#"{cluster="prod""#)), "{samples:?}");
    }
}

#[test]
fn whoever_knows_only_the_older_format_gets_it() {
    let page = classic(&full_page());
    assert!(page.contains("# TYPE skep_heartbeats_total counter\n"), "{page}");
    assert!(page.contains("# TYPE skep_build_info gauge\n"), "{page}");
    assert!(!page.contains("# UNIT") && !page.contains("# EOF"), "{page}");
    // Every sample belongs to a described metric.
    let described = described(&page);
    for sample in page.lines().filter(|line| !line.starts_with('#')) {
        let name = sample.split(['{', ' ']).next().unwrap();
        let parts = ["_bucket", "_sum", "_count"].iter().filter_map(|part| name.strip_suffix(part));
        let names: Vec<&str> = parts.chain([name]).collect();
        assert!(names.iter().any(|name| described.contains_key(*name)), "{sample}");
    }
    let asks = |accept: &'static str| {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, HeaderValue::from_static(accept));
        super::page(&StateHandle::default().now(), &headers).0
    };
    assert!(asks("text/plain;version=0.0.4").starts_with("text/plain"));
    assert!(asks("*/*").starts_with("application/openmetrics-text; version=1.0.0"));
    let prometheus = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5";
    assert!(asks(prometheus).starts_with("application/openmetrics-text"));
}

#[test]
fn the_page_of_docs_lists_every_metric() {
    const DOCS: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/monitoring.md"));
    let row = |(name, (kind, help)): (String, (String, String))| {
        format!("| `{name}` | {kind} | {} |\n", help.trim_end_matches('.'))
    };
    let table: String = described(&classic(&full_page())).into_iter().map(row).collect();
    assert!(DOCS.contains(&table), "docs/monitoring.md should list:\n{table}");
}

/// Returns every `skep_…` in a text.
fn named(text: &str) -> BTreeSet<&str> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.split(|c| !is_part(c)).filter(|word| word.starts_with("skep_")).collect()
}

#[test]
fn dashboard_and_alerts_speak_of_metrics_that_there_are_and_the_dashboard_of_all() {
    const DASHBOARD: &str =
        include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/grafana/skep.json"));
    const ALERTS: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/alerts.yaml"));
    let known: BTreeSet<String> = described(&classic(&full_page())).into_keys().collect();
    let base = |name: &str| name.trim_end_matches("_bucket").to_owned();
    for name in named(DASHBOARD).union(&named(ALERTS)) {
        assert!(known.contains(&base(name)), "there is no {name}");
    }
    let shown: BTreeSet<String> = named(DASHBOARD).into_iter().map(base).collect();
    let missing: Vec<&String> = known.difference(&shown).collect();
    assert!(missing.is_empty(), "not on the dashboard: {missing:?}");
}

/// Returns how often a call had this result, by the process's registry. Other tests count in it, too, but none of them
/// calls this operation of this service.
fn counted(service: &str, operation: &str, result: &str) -> u64 {
    let pairs = [("service", service), ("operation", operation), ("result", result)];
    let labels: Texts = pairs.map(|(name, value)| (name, value.to_owned())).into();
    metrics().calls.get(&labels).map_or(0, |counter| counter.get())
}

#[tokio::test]
async fn every_attempt_at_aws_is_counted_with_what_came_of_it() {
    let stub = Stub::start().await;
    let retry = RetryConfig::standard().with_initial_backoff(Duration::from_millis(1));
    let credentials =
        aws_sdk_ssm::config::Credentials::new("AKIATEST", "secret", None, None, "test");
    let provider = aws_sdk_ssm::config::SharedCredentialsProvider::new(credentials);
    let config = stub.config().retry_config(retry).credentials_provider(provider);
    let aws = Aws::new(&config.load().await);
    stub.answer(400, r#"{"__type": "com.amazonaws.ssm#ThrottlingException"}"#);
    stub.answer(400, r#"{"__type":"AccessDeniedException","message":"no"}"#);
    let denied =
        aws.ssm.list_tags_for_resource().resource_id("x").resource_type("Parameter".into());
    denied.send().await.unwrap_err();
    let of = |result| counted("ssm", "ListTagsForResource", result);
    assert_eq!((of("throttled"), of("access_denied"), of("ok")), (1, 1, 0));

    stub.answer(400, &Stub::xml_error("Throttling", "Rate exceeded"));
    stub.answer(200, "<DescribeAccountResponse><DescribeAccountResult/></DescribeAccountResponse>");
    stub.answer(200, "{}");
    aws.dynamodb.describe_limits().send().await.unwrap_err();
    aws.dynamodb.describe_limits().send().await.unwrap_err();
    aws.dynamodb.describe_limits().send().await.unwrap();
    assert_eq!(counted("dynamodb", "DescribeLimits", "ok"), 1);
    assert!(metrics().ledger_answered.lock().unwrap().is_some(), "the ledger has answered");
}

#[tokio::test(start_paused = true)]
async fn a_step_lasts_until_another_one_begins() {
    let mut stopwatch = Stopwatch::default();
    for (step, seconds) in [("test-wait", 2), ("test-wait", 3), ("test-go", 1), ("test-wait", 4)] {
        stopwatch.enter(step);
        tokio::time::advance(Duration::from_secs(seconds)).await;
    }
    drop(stopwatch);
    let page = open_metrics(metrics(), &StateHandle::default().now());
    for series in [
        r#"count{step="test-wait"} 2"#,
        r#"sum{step="test-wait"} 9.0"#,
        r#"count{step="test-go"} 1"#,
        r#"sum{step="test-go"} 1.0"#,
    ] {
        let line = format!("skep_step_duration_seconds_{series}");
        assert!(page.lines().any(|it| it == line), "{line} is not in {page}");
    }
}
