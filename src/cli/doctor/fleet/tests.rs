//! Tests of the answers of other nodes, and of the output.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;

use super::ask::{LARGEST_ANSWER, MOST_FINDINGS, parse};
use super::*;
use crate::api::findings::PATH;
use crate::common::report::ViewSource;

const WELL: &str = r#"{ "worst": "ok", "age_seconds": 7, "findings": [
    { "check": "region", "verdict": "ok", "evidence": "eu-central-1" },
    { "check": "hop limit", "verdict": "skipped", "evidence": "unknown", "remedy": "aws" }] }"#;
/// What it calls its worst finding does not count.
const BROKEN: &str = r#"{ "worst": "ok", "findings": [
    { "check": "disk", "verdict": "warning", "evidence": "1 GiB\u001b[2J", "remedy": "prune" },
    { "check": "clock", "verdict": "failed", "evidence": "an hour behind", "remedy": "chrony" }] }"#;

fn member(id: &str, address: Option<&str>) -> FleetMember {
    serde_json::from_value(json!({
        "instance_id": id, "role": "worker", "node_id": format!("n-{id}"), "address": address,
        "zone": null, "group": null, "state": "ready", "docker_state": "ready",
        "docker_availability": "active", "leader": false, "departure": null, "updated_at": null,
    }))
    .unwrap()
}

fn examined(id: &str, answer: Answer) -> Examined {
    Examined { member: member(id, Some("10.0.0.2")), is_this_node: false, answer }
}

/// Serves an answer on a port of this host.
async fn serve(status: u16, body: &str) -> u16 {
    let body = body.to_owned();
    let status = StatusCode::from_u16(status).unwrap();
    listen(Router::new().route(PATH, get(async move || (status, body.clone())))).await
}

async fn listen(app: Router) -> u16 {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async { axum::serve(listener, app).await });
    port
}

async fn asked(port: u16) -> Answer {
    ask(&member("i-2", Some("127.0.0.1")), port).await
}

#[tokio::test]
async fn findings_are_taken_from_the_answer_and_their_verdicts_count() {
    let told = asked(serve(200, WELL).await).await.unwrap();
    assert_eq!((told.findings.len(), told.age_seconds), (2, 7));
    assert_eq!(examined("i-2", Ok(told)).verdict(), NodeVerdict::Ok);
    let told = asked(serve(200, BROKEN).await).await.unwrap();
    assert_eq!(told.findings[0].evidence, r"1 GiB\u001b[2J");
    assert_eq!(examined("i-2", Ok(told)).verdict(), NodeVerdict::Failed);
}

#[tokio::test]
async fn checks_that_run_are_waited_for() {
    let asked_for = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked_for);
    let app = Router::new().route(
        PATH,
        get(async move || match counted.fetch_add(1, Ordering::SeqCst) {
            0 | 1 => (StatusCode::ACCEPTED, r#"{ "running": true }"#),
            _ => (StatusCode::OK, WELL),
        }),
    );
    assert!(asked(listen(app).await).await.is_ok());
    assert_eq!(asked_for.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn whatever_is_no_findings_is_cannot_tell_with_its_reason() {
    let many = format!(
        r#"{{ "findings": [{}] }}"#,
        vec![r#"{ "check": "a", "verdict": "ok", "evidence": "" }"#; MOST_FINDINGS + 1].join(",")
    );
    for (status, body, words) in [
        (404, "", "its skep is older than this command"),
        (403, "the findings are for managers\n", "it answers 403: the findings are for"),
        (503, "a\u{1b}[2Jb", r"it answers 503: a\u001b[2Jb"),
        (200, "hello", "its answer cannot be read"),
        (
            200,
            r#"{ "findings": [{ "check": "a", "verdict": "fine", "evidence": "" }] }"#,
            "cannot be read",
        ),
        (200, &many, "more than 500 findings"),
        (200, &"x".repeat(LARGEST_ANSWER + 1), "larger than 512 KiB"),
        (302, "", "it answers 302"),
    ] {
        let why = asked(serve(status, body).await).await.unwrap_err();
        assert!(why.contains(words), "{why}");
        assert_eq!(examined("i-2", Err(why)).verdict(), NodeVerdict::CannotTell);
    }
    let closed = serve(200, "").await;
    let unknown = ask(&member("i-2", None), closed).await.unwrap_err();
    assert_eq!(unknown, "its address is not known");
    let elsewhere = ask(&member("i-2", Some("8.8.8.8")), closed).await.unwrap_err();
    assert_eq!(elsewhere, "its address 8.8.8.8 is not private");
    let nothing = Told { findings: vec![], age_seconds: 0 };
    assert_eq!(examined("i-2", Ok(nothing)).verdict(), NodeVerdict::CannotTell);
    let mut down = member("i-2", Some("127.0.0.1"));
    down.docker_state = Some("down".into());
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let free = listener.local_addr().unwrap().port();
    drop(listener);
    let why = ask(&down, free).await.unwrap_err();
    assert!(why.starts_with(&format!("no answer from 127.0.0.1:{free}")), "{why}");
    assert!(why.ends_with("; Docker reports it as down"), "{why}");
}

#[tokio::test]
async fn every_node_is_in_the_result_in_the_order_of_the_fleet() {
    let port = serve(200, WELL).await;
    let fleet = FleetView {
        source: ViewSource::LedgerAndDocker,
        quorum: None,
        quorum_lost_since: None,
        members: (0..40).map(|n| member(&format!("i-{n}"), Some("127.0.0.1"))).collect(),
        problem: None,
        warnings: vec![],
        departed: vec![],
        outsiders: None,
    };
    let mut settings = Settings::default();
    settings.health.listen.set_port(port);
    let examined = ask_all(&fleet, Some("n-of-nobody"), &settings).await;
    let ids: Vec<_> = examined.iter().map(|it| it.member.instance_id.clone()).collect();
    assert_eq!(ids, fleet.members.iter().map(|it| it.instance_id.clone()).collect::<Vec<_>>());
    assert!(examined.iter().all(|it| it.verdict() == NodeVerdict::Ok));
    assert_eq!(worst(&examined, None), NodeVerdict::Ok);
}

fn fleet() -> Vec<Examined> {
    vec![
        examined("i-1", parse(WELL.as_bytes())),
        examined("i-2", parse(BROKEN.as_bytes())),
        examined("i-3", Err("no answer".into())),
    ]
}

#[test]
fn a_node_is_a_line_with_its_faults_below() {
    assert_eq!(
        text(&fleet(), Some("the ledger did not answer"), None, false),
        "i-1 (worker, 10.0.0.2): ok\n\
         i-2 (worker, 10.0.0.2): 1 warning, 1 failed\n  \
         warning  disk: 1 GiB\\u001b[2J\n           remedy: prune\n  \
         failed   clock: an hour behind\n           remedy: chrony\n\
         i-3 (worker, 10.0.0.2): cannot tell: no answer\n\
         \nNot the whole fleet: the ledger did not answer\n\
         \n1 ok, 0 with warnings, 1 with failures, 1 cannot tell\n"
    );
}

#[test]
fn the_worst_node_counts_and_nothing_unknown_is_ok() {
    let mut all = fleet();
    assert_eq!(worst(&all, None), NodeVerdict::Failed);
    all.remove(1);
    assert_eq!(worst(&all, None), NodeVerdict::CannotTell);
    all.pop();
    assert_eq!(worst(&all, None), NodeVerdict::Ok);
    assert_eq!(worst(&all, Some("no ledger")), NodeVerdict::CannotTell);
    assert_eq!(worst(&[], None), NodeVerdict::CannotTell);
}

/// The keys of docs/operating.md.
#[test]
fn json_has_the_documented_keys() {
    let shown = report(&fleet(), None);
    assert_eq!((&shown["worst"], &shown["problem"]), (&json!("failed"), &json!(null)));
    let nodes = shown["nodes"].as_array().unwrap();
    let verdicts: Vec<_> = nodes.iter().map(|node| node["verdict"].as_str().unwrap()).collect();
    assert_eq!(verdicts, ["ok", "failed", "cannot-tell"]);
    assert_eq!(nodes[0]["age_seconds"], 7);
    assert_eq!(nodes[1]["findings"][1]["check"], "clock");
    let silent = json!({
        "instance_id": "i-3", "node_id": "n-i-3", "role": "worker", "address": "10.0.0.2",
        "verdict": "cannot-tell", "why": "no answer", "age_seconds": null, "findings": null,
    });
    assert_eq!(nodes[2], silent);
    let page = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/operating.md"));
    for key in silent.as_object().unwrap().keys().chain(shown.as_object().unwrap().keys()) {
        assert!(page.contains(&format!("| `{key}` |")), "{key} is not in the page");
    }
}
