//! Tests which managers a worker reaches, and how it leaves if it reaches none that its Docker knows.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use secrecy::SecretString;
use serde_json::{Value, json};
use time::OffsetDateTime;

use super::decide::tests::{charter, local};
use super::reach::{self, Reach};
use crate::clients::aws::stub::Stub;
use crate::clients::docker::tests::fake_engine::{FakeEngine, Instead, RELEASES};
use crate::clients::docker::{Availability, LocalNode, LocalState};
use crate::clients::ledger::{CharterPhase, Ledger};
use crate::common::instance::{Departure, Reason, Role};
use crate::lifecycle::boot;
use crate::lifecycle::notices::Notices;
use crate::node::Node;

const ME: &str = "i-me";
/// Managers that this host's Docker knows.
const KNOWN: [&str; 2] = ["10.0.0.1", "10.0.0.2"];
const OTHER: &str = "10.0.0.7";

fn ip(address: &str) -> IpAddr {
    address.parse().unwrap()
}

fn known() -> BTreeSet<IpAddr> {
    KNOWN.map(ip).into()
}

/// A manager's row as DynamoDB has it, of this age in seconds.
fn manager(address: &str, age: i64) -> Value {
    let id = address.replace('.', "");
    let updated_at = OffsetDateTime::now_utc().unix_timestamp() - age;
    json!({
        "item": { "S": format!("member#manager#i-{id}") },
        "schema": { "N": "2" },
        "instance_id": { "S": format!("i-{id}") },
        "role": { "S": "manager" },
        "node_id": { "S": format!("n-{id}") },
        "swarm_id": { "S": "swarm" },
        "address": { "S": address },
        "zone": { "S": "a" },
        "generation": { "N": "2" },
        "state": { "S": "ready" },
        "has_leader": { "BOOL": true },
        "updated_at": { "N": updated_at.to_string() },
    })
}

fn of_state(mut row: Value, state: &str) -> Value {
    row["state"]["S"] = json!(state);
    row
}

/// Returns the result for a worker that knows [`KNOWN`], and its number of requests to the ledger, which has these
/// rows. `listening` are the addresses that accept a connection.
async fn look(listening: &[&str], rows: &[Value]) -> (Reach, usize) {
    let stub = Stub::start().await;
    let ledger = Ledger::example(&stub).await;
    stub.answer(200, &json!({ "Items": rows, "Count": rows.len() }).to_string());
    let managers = KNOWN.map(ip).to_vec();
    let local = LocalNode { managers, ..local(LocalState::Active, Role::Worker) };
    let listening: Vec<IpAddr> = listening.iter().map(|it| ip(it)).collect();
    let probe = async |asked: &[IpAddr]| asked.iter().find(|it| listening.contains(it)).copied();
    let charter = charter(2, "swarm", CharterPhase::Open);
    let reach = reach::look(&ledger, ME, &charter, &local, probe).await.unwrap();
    (reach, stub.requests().len())
}

#[tokio::test]
async fn a_worker_is_stranded_only_where_the_managers_that_it_knows_neither_listen_nor_write() {
    let others = [manager(KNOWN[0], 200), manager(OTHER, 20)];
    assert_eq!(look(&[KNOWN[1], OTHER], &others).await, (Reach::Open, 0), "no row is read");
    let replaced = Reach::Replaced { known: known(), listening: ip(OTHER) };
    assert_eq!(look(&[OTHER], &others).await, (replaced.clone(), 1));
    assert_eq!(look(&[OTHER], &[manager(OTHER, 20)]).await.0, replaced, "no row is left");
    let removed = [of_state(manager(KNOWN[0], 20), "removed"), manager(OTHER, 20)];
    assert_eq!(look(&[OTHER], &removed).await.0, replaced, "a manager marked it");
}

/// The network between them, or of this host, is cut: the managers serve, and so does this node.
#[tokio::test]
async fn a_manager_that_writes_its_row_and_cannot_be_reached_strands_nobody() {
    let check = async |rows: &[Value], because: &str| {
        let (reach, _) = look(&[OTHER], rows).await;
        let Reach::Silent { known: silent, why } = reach else { panic!("{reach:?}: {because}") };
        assert_eq!(silent, known(), "{because}");
        assert!(why.contains(because), "{why}");
    };
    let other = || manager(OTHER, 20);
    check(&[manager(KNOWN[1], 100), other()], "i-10002 at 10.0.0.2 wrote").await;
    let leaving = of_state(manager(KNOWN[0], 100), "leaving");
    check(&[leaving, other()], "i-10001 at 10.0.0.1 wrote").await;
    let unreadable = json!({ "item": { "S": "member#manager#i-odd" } });
    check(&[other(), unreadable], "member#manager#i-odd cannot be read").await;
}

#[tokio::test]
async fn without_another_manager_to_join_nobody_is_stranded() {
    let why = "no other manager that has a leader listens".to_owned();
    let nobody = Reach::Silent { known: known(), why };
    let own = json!({ "S": ME });
    for (rows, listening) in [
        (vec![], vec![OTHER]),
        (vec![manager(OTHER, 20)], vec![]),
        (vec![of_state(manager(OTHER, 20), "leaving")], vec![OTHER]),
        (vec![with(manager(OTHER, 20), "has_leader", json!({ "BOOL": false }))], vec![OTHER]),
        // It has no leader any more, or this host's clock is an hour ahead, and no row looks fresh.
        (vec![manager(KNOWN[0], 3600), manager(OTHER, 3600)], vec![OTHER]),
        (vec![with(manager(OTHER, 20), "swarm_id", json!({ "S": "another" }))], vec![OTHER]),
        (vec![with(manager(OTHER, 20), "generation", json!({ "N": "1" }))], vec![OTHER]),
        (
            vec![with(with(manager(OTHER, 20), "instance_id", own), "item", item_of_me())],
            vec![OTHER],
        ),
    ] {
        assert_eq!(look(&listening, &rows).await, (nobody.clone(), 1), "{rows:?}");
    }
}

fn with(mut row: Value, attribute: &str, value: Value) -> Value {
    row[attribute] = value;
    row
}

fn item_of_me() -> Value {
    json!({ "S": format!("member#manager#{ME}") })
}

/// Without the addresses that Docker uses there is nothing to probe; a manager learns of the others from raft.
#[tokio::test]
async fn who_knows_no_manager_or_is_one_asks_nobody() {
    let stub = Stub::start().await;
    let ledger = Ledger::example(&stub).await;
    let charter = charter(2, "swarm", CharterPhase::Open);
    for (role, managers) in [(Role::Worker, vec![]), (Role::Manager, KNOWN.map(ip).to_vec())] {
        let local = LocalNode { managers, ..local(LocalState::Active, role) };
        let probe = async |_: &[IpAddr]| -> Option<IpAddr> { panic!("no address is probed") };
        let reach = reach::look(&ledger, ME, &charter, &local, probe).await.unwrap();
        assert_eq!(reach, Reach::NotKnown, "{role}");
    }
    assert_eq!(stub.requests(), [""; 0]);
}

/// A ledger that does not answer proves nothing.
#[tokio::test]
async fn rows_that_cannot_be_fetched_strand_nobody() {
    let stub = Stub::start().await;
    let ledger = Ledger::example(&stub).await;
    let charter = charter(2, "swarm", CharterPhase::Open);
    let managers = KNOWN.map(ip).to_vec();
    let local = LocalNode { managers, ..local(LocalState::Active, Role::Worker) };
    let probe = async |_: &[IpAddr]| None;
    assert!(reach::look(&ledger, ME, &charter, &local, probe).await.is_err());
}

const WHY: &str = "no manager that Docker knows here listens";
/// Time limit of a test that would hang instead of failing.
const PATIENCE: Duration = Duration::from_secs(20);

/// Returns a node that is in a swarm of this engine.
async fn member(engine: &FakeEngine) -> Node {
    let stub = Stub::start().await;
    let node = Node::example(engine.swarm(), &stub).await;
    let token = SecretString::from("SWMTKN-1-a-b");
    node.swarm.join(ip(KNOWN[0]), ip(KNOWN[0]), &token, Availability::Active).await;
    node
}

async fn until_asked_to_leave(engine: &FakeEngine) {
    let is_leave = |what: &str| what.starts_with("POST /swarm/leave");
    while !engine.lock().asked.iter().any(|asked| is_leave(&asked.what)) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Its tasks are stopped by then: a boot would find an active node, and call it Ready.
#[tokio::test]
async fn a_stranded_worker_leaves_again_after_a_refusal() {
    let engine = FakeEngine::start(RELEASES[0]);
    let node = member(&engine).await;
    assert_eq!(node.swarm.fetch_local_node().await.unwrap().state, LocalState::Active);
    engine
        .lock()
        .instead
        .insert("/swarm/leave", Instead::Refusal(500, "context deadline exceeded"));
    let notices = Notices::default();
    let mend = async {
        until_asked_to_leave(&engine).await;
        engine.lock().instead.clear();
    };
    let (is_out, ()) = tokio::join!(boot::leave_stranded(&node, &notices, WHY), mend);
    assert!(is_out);
    assert_eq!(node.swarm.fetch_local_node().await.unwrap().state, LocalState::Inactive);
}

/// A spot notice gives two minutes: the departure's row must not wait for Docker.
#[tokio::test]
async fn a_notice_ends_the_leave_of_a_stranded_worker() {
    let engine = FakeEngine::start(RELEASES[0]);
    let node = member(&engine).await;
    engine.lock().instead.insert("/swarm/leave", Instead::Silence);
    let notices = Notices::default();
    let notice = async {
        until_asked_to_leave(&engine).await;
        let noticed_at = OffsetDateTime::now_utc();
        let deadline = noticed_at + Duration::from_secs(120);
        notices.give(Departure { reason: Reason::Spot, noticed_at, deadline });
    };
    let leave = boot::leave_stranded(&node, &notices, WHY);
    let left = tokio::time::timeout(PATIENCE, async { tokio::join!(leave, notice).0 }).await;
    assert!(!left.expect("the notice ends it"), "the departure leaves");
}
