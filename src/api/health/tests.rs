//! Tests with real connections.

use std::collections::VecDeque;

use reqwest::Method;
use time::OffsetDateTime;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::connections::{MOST, MOST_OF_A_PEER};
use super::*;
use crate::common::fact::Fact;
use crate::common::instance::{Departure, Membership, Reason};
use crate::common::state::Phase;
use crate::config::Settings;

fn start() -> (StateHandle, String) {
    start_with(Settings::default().health)
}

fn start_with(settings: config::Health) -> (StateHandle, String) {
    let state = StateHandle::default();
    let server = Server::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let base = format!("http://{}", server.local_addr().unwrap());
    tokio::spawn(server.serve(state.clone(), settings, Router::new()));
    (state, base)
}

async fn ask(method: Method, uri: &str) -> (u16, String) {
    ask_as("127.0.0.1", method, uri).await
}

async fn ask_as(host: &str, method: Method, uri: &str) -> (u16, String) {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let request = client.request(method, uri).header(header::HOST, host);
    let response = request.send().await.unwrap();
    (response.status().as_u16(), response.text().await.unwrap())
}

#[tokio::test]
async fn it_is_healthy_while_ready_and_not_departing() {
    let (state, base) = start();
    let (code, body) = ask(Method::GET, &base).await;
    assert_eq!(code, 503);
    assert_eq!(
        body,
        r#"{"status":"unhealthy","phase":"starting","doing":"reading the instance metadata"}"#
    );
    state.enter(Phase::Ready, "worker of generation 1");
    let (code, body) = ask(Method::GET, &base).await;
    assert_eq!(code, 200);
    assert_eq!(body, r#"{"status":"healthy","phase":"ready","doing":"worker of generation 1"}"#);
    let now = OffsetDateTime::now_utc();
    state.set_quorum_lost(Some(now));
    let (code, body) = ask(Method::GET, &base).await;
    assert_eq!(code, 200, "replacing this manager would cure nothing");
    let seen: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(seen["quorum"].as_str(), state.now().quorum_lost().as_deref());
    state.set_quorum_lost(None);
    state.update(|state| (state.departure, state.is_given_up) = (None, true));
    assert_eq!(ask(Method::GET, &base).await.0, 503, "permanently broken, to be replaced");
}

#[tokio::test]
async fn a_node_that_leaves_is_healthy_only_where_503_would_do_harm() {
    let (state, base) = start();
    state.enter(Phase::Leaving, "waiting for the load balancer");
    let now = OffsetDateTime::now_utc();
    let leaves = |reason, membership, is_out_of_traffic| {
        state.update(|state| {
            state.departure = Some(Departure { reason, noticed_at: now, deadline: now });
            (state.membership, state.is_out_of_traffic) = (membership, is_out_of_traffic);
        });
    };
    assert!(!state.now().is_refusal_seen);
    for (reason, code) in [
        (Reason::Lifecycle, 200),
        (Reason::Pool, 200),
        (Reason::Spot, 200),
        (Reason::Maintenance, 200),
        (Reason::Rebalance, 200),
        (Reason::Shutdown, 503),
        (Reason::Operator, 503),
    ] {
        leaves(reason, Some(Membership::example()), false);
        assert_eq!(ask(Method::GET, &base).await.0, code, "{reason}");
        leaves(reason, Some(Membership::example()), true);
        assert_eq!(ask(Method::GET, &base).await.0, 503, "{reason}: its traffic has ended");
        assert!(state.now().is_refusal_seen);
        leaves(reason, None, false);
        assert_eq!(ask(Method::GET, &base).await.0, 503, "{reason}: it has never served");
    }
}

#[tokio::test]
async fn a_member_whose_skep_was_restarted_during_an_outage_stays_healthy() {
    let (state, base) = start();
    let waiting = "waiting for a manager to be connected";
    state.enter(Phase::Booting, waiting);
    assert_eq!(ask(Method::GET, &base).await.0, 503, "a node that has never served");
    for (known, expected) in [(Fact::Yes, 200), (Fact::No, 503), (Fact::Yes, 200)] {
        state.update(|state| state.is_still_member = known);
        assert_eq!(ask(Method::GET, &base).await.0, expected, "{known:?}");
    }
    let body = ask(Method::GET, &base).await.1;
    assert!(body.contains("cannot tell more yet") && body.contains(waiting), "{body}");
    assert!(!state.now().is_serving(), "the janitor does not run during boot");
    state.enter(Phase::Failed, "not in the swarm within boot.deadline");
    assert_eq!(ask(Method::GET, &base).await.0, 200, "the next start continues");
    let now = OffsetDateTime::now_utc();
    state.update(|state| {
        let reason = Reason::Operator;
        state.departure = Some(Departure { reason, noticed_at: now, deadline: now });
    });
    assert_eq!(ask(Method::GET, &base).await.0, 503, "departing");
    for phase in [Phase::Warmed, Phase::Leaving, Phase::Left] {
        state.update(|state| state.departure = None);
        state.enter(phase, "elsewhere");
        assert_eq!(ask(Method::GET, &base).await.0, 503, "{phase:?}");
    }
}

#[tokio::test]
async fn head_is_answered_and_nothing_else_is_there() {
    let (state, base) = start();
    state.enter(Phase::Ready, "serving");
    assert_eq!(ask(Method::HEAD, &base).await, (200, String::new()));
    assert_eq!(ask(Method::POST, &base).await.0, 404);
    assert_eq!(ask(Method::GET, &format!("{base}/x")).await.0, 404);
    let (code, page) = ask(Method::GET, &format!("{base}/metrics")).await;
    assert_eq!(code, 200);
    assert!(page.contains("skep_phase{phase=\"ready\"} 1\n"), "{page}");
    let mut settings = Settings::default().health;
    settings.metrics = false;
    let (_, without) = start_with(settings);
    assert_eq!(ask(Method::GET, &format!("{without}/metrics")).await.0, 404);
}

#[tokio::test]
async fn a_taken_port_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = taken.local_addr().unwrap();
    let error = Server::bind(listen).unwrap_err();
    assert!(error.to_string().contains(&listen.to_string()), "{error}");
}

#[tokio::test]
async fn under_a_name_that_is_not_trusted_there_is_the_status_and_nothing_else() {
    let mut settings = Settings::default().health;
    settings.hosts = vec!["swarm.example.com".into()];
    let (state, base) = start_with(settings);
    state.enter(Phase::Ready, "i-0abc cannot reach 10.0.0.9");
    state.set_quorum_lost(Some(OffsetDateTime::now_utc()));
    let metrics = format!("{base}/metrics");
    let answer = ask_as("evil.example", Method::GET, &base).await;
    assert_eq!(answer, (200, r#"{"status":"healthy"}"#.to_owned()));
    let (code, why) = ask_as("evil.example", Method::GET, &metrics).await;
    assert!(code == 403 && why.contains("health.hosts"), "{why}");
    let (_, body) = ask_as("swarm.example.com:44554", Method::GET, &base).await;
    assert!(body.contains("i-0abc") && body.contains("quorum"), "{body}");
    assert_eq!(ask_as("swarm.example.com", Method::GET, &metrics).await.0, 200);
}

#[tokio::test]
async fn a_text_of_others_reaches_no_terminal_unescaped() {
    let (state, base) = start();
    state.enter(Phase::Ready, "\"}\n\x1b[2J\u{9b}2J\x7f</script>");
    let (_, body) = ask(Method::GET, &base).await;
    assert!(!body.contains(char::is_control), "{body:?}");
    let read: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert!(read["doing"].as_str().unwrap().starts_with("\"}"), "{body}");
}

/// Opens a connection from this address of the host.
async fn connect(from: &str, to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(format!("{from}:0").parse().unwrap()).unwrap();
    socket.connect(to).await.unwrap()
}

async fn is_answered(from: &str, to: SocketAddr) -> bool {
    let mut stream = connect(from, to).await;
    let mut answer = String::new();
    let answered = async {
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await?;
        stream.read_to_string(&mut answer).await
    };
    answered.await.is_ok() && answer.starts_with("HTTP/1.0 503 ")
}

/// Returns the number of descriptors of this port: the listener and the accepted connections. A connection without one
/// has the inode 0.
pub(super) fn descriptors(port: u16) -> usize {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let local = format!(":{port:04X}");
    let is_open = |line: &&str| {
        let mut words = line.split_whitespace();
        words.nth(1).is_some_and(|it| it.ends_with(&local)) && words.nth(7) != Some("0")
    };
    table.lines().filter(is_open).count()
}

#[tokio::test]
async fn a_thousand_connections_keep_nobody_from_an_answer() {
    let server = Server::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = server.local_addr().unwrap();
    tokio::spawn(server.serve(StateHandle::default(), Settings::default().health, Router::new()));
    // Only the newest can be open on the other side. Without the older ones, this process needs fewer descriptors.
    let mut open = VecDeque::new();
    for n in 0..1000 {
        open.push_front(connect("127.0.0.2", address).await);
        open.truncate(300);
        assert!(n % 100 != 0 || is_answered("127.0.0.3", address).await, "after {n}");
    }
    assert!(is_answered("127.0.0.2", address).await, "the address of the flood itself");
    let seen = descriptors(address.port());
    assert!((MOST_OF_A_PEER..=MOST_OF_A_PEER + 2).contains(&seen), "{seen}");

    // Every process on this host has all these addresses.
    for n in 0..1000 {
        open.push_front(connect(&format!("127.0.1.{}", n % 250), address).await);
        open.truncate(300);
        assert!(n % 100 != 0 || is_answered("127.0.0.3", address).await, "after {n}");
    }
    assert!(is_answered("127.0.0.3", address).await);
    let seen = descriptors(address.port());
    assert!((MOST - 1..=MOST + 2).contains(&seen), "{seen}");
}
