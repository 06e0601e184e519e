//! Tests of sending, against a stub of CloudWatch Logs.

use super::batch::Event;
use super::*;
use crate::clients::aws::stub::Stub;
use crate::common::flush_result::Outcome;
use crate::common::state::StateHandle;

const NOW: i64 = 1_700_000_000_000;

/// Sends two lines each of some sources; the stub answers `CreateLogStream` and `PutLogEvents` in turn. Returns the
/// outcome, and the first line of every `PutLogEvents`.
async fn sent(sources: &[&str], answers: &[(u16, &str)]) -> (Outcome, Vec<String>) {
    let dir = tempfile::tempdir().unwrap();
    let stub = Stub::start().await;
    for (status, body) in answers {
        stub.answer(*status, body);
    }
    let mut spool = Writer::create(dir.path(), "key").unwrap();
    for source in sources {
        let events = ["1", "2"].map(|n| Event { at: NOW, text: format!("{source} {n}") });
        spool.add(source, events.to_vec(), NOW);
    }
    let mut spool = spool.finish().unwrap();
    let credentials =
        aws_credential_types::Credentials::new("AKIATEST", "secret", None, None, "test");
    let provider = aws_credential_types::provider::SharedCredentialsProvider::new(credentials);
    let config = stub.config().credentials_provider(provider).load().await;
    let to = Destination::Logs("/skep/demo".to_owned());
    let target = Target::new(&config, None, &to, "demo", "i-1").unwrap();
    let state = StateHandle::default();
    let flush = async |progress| send(&mut spool, &target, &progress).await;
    super::super::progress::report(&state, "ship", Duration::from_secs(20), flush).await;
    let messages = stub.requests().into_iter().filter_map(|request| {
        let request: serde_json::Value = serde_json::from_str(&request).unwrap();
        Some(request["logEvents"].get(0)?["message"].as_str()?.to_owned())
    });
    (state.now().flush.pop().unwrap(), messages.collect())
}

const ACCEPTED: (u16, &str) = (200, "{}");

#[tokio::test]
async fn a_rejected_event_is_counted_and_stops_nothing() {
    let one_expired = (200, r#"{"rejectedLogEventsInfo":{"expiredLogEventEndIndex":1}}"#);
    let answers = [ACCEPTED, one_expired, ACCEPTED, ACCEPTED];
    let (outcome, messages) = sent(&["a", "b"], &answers).await;
    assert_eq!(messages, ["a 1", "b 1"]);
    assert_eq!((outcome.sent, outcome.unsent), (Some(3), Some(1)));
    assert_eq!(outcome.result, FlushResult::Done);
    assert!(outcome.detail.unwrap().contains("1 events rejected"));
}

#[tokio::test]
async fn a_source_that_is_refused_stops_no_other_one_and_is_named() {
    let refused = (400, r#"{"__type":"InvalidParameterException","message":"no such name"}"#);
    let (outcome, messages) = sent(&["a", "b"], &[refused, ACCEPTED, ACCEPTED]).await;
    assert_eq!(messages, ["b 1"]);
    assert_eq!((outcome.sent, outcome.unsent), (Some(2), Some(2)));
    assert_eq!(outcome.result, FlushResult::Failed);
    let detail = outcome.detail.unwrap();
    assert!(detail.starts_with("a: status 400") && !detail.contains("b:"), "{detail}");
}

#[tokio::test]
async fn a_source_that_is_throttled_does_not_hold_the_others_up() {
    let throttled = (400, r#"{"__type":"ThrottlingException"}"#);
    let answers = [throttled, ACCEPTED, ACCEPTED, ACCEPTED, ACCEPTED];
    let (outcome, messages) = sent(&["a", "b"], &answers).await;
    assert_eq!(messages, ["b 1", "a 1"]);
    assert_eq!((outcome.result, outcome.detail), (FlushResult::Done, None));
}
