//! Tests the pace against worlds of services and nodes, and against an engine and a ledger.

mod world;

use std::time::Duration;

use serde_json::json;
use time::OffsetDateTime;

use super::*;
use crate::clients::aws::stub::Stub;
use crate::clients::docker::NodeView;
use crate::clients::docker::tests::fake_engine::{FakeEngine, Instead, RELEASES};
use crate::clients::ledger::{DepartureRow, DepartureState};
use crate::common::instance::{self, Membership, Reason, Role};
use crate::config::Settings;
use crate::node::Node;

/// A request of a worker at `NOW`, which has `seconds`.
pub(super) fn request(name: &str, reason: Reason, seconds: u64) -> DepartureRow {
    let noticed_at = services::tests::NOW;
    let deadline = noticed_at + Duration::from_secs(seconds);
    let departure = instance::Departure { reason, noticed_at, deadline };
    DepartureRow::request(&format!("i-{name}"), name, Role::Worker, &departure, "boot")
}

#[test]
fn a_node_waits_for_a_share_of_its_time_and_spot_and_power_off_least() {
    let mut settings = Settings::default();
    let wait = |row: &DepartureRow, late: u64, settings: &Settings| {
        let since = row.requested_at + Duration::from_secs(late);
        (decide::latest(row, since, settings) - row.requested_at).whole_seconds()
    };
    let others = [Reason::Lifecycle, Reason::Maintenance, Reason::Rebalance, Reason::Operator];
    for reason in others.into_iter().chain([Reason::Spot, Reason::Shutdown]) {
        let is_urgent = matches!(reason, Reason::Spot | Reason::Shutdown);
        let expected = if is_urgent { 12 } else { 36 };
        assert_eq!(wait(&request("a", reason, 120), 0, &settings), expected, "{reason}");
    }
    assert_eq!(wait(&request("a", Reason::Lifecycle, 1800), 0, &settings), 540);
    assert_eq!(wait(&request("a", Reason::Lifecycle, 48 * 3600), 0, &settings), 600);
    // It was held by traffic, or seen late.
    assert_eq!(wait(&request("a", Reason::Spot, 120), 30, &settings), 42);
    assert_eq!(wait(&request("a", Reason::Spot, 120), 80, &settings), 82, "half of what is left");
    assert_eq!(wait(&request("a", Reason::Spot, 120), 90, &settings), 90);
    let mut told = request("a", Reason::Lifecycle, 1800);
    told.turn_by = Some(told.requested_at + Duration::from_secs(100));
    assert_eq!(wait(&told, 90, &settings), 100, "it was told so");
    told.turn_by = Some(told.requested_at + Duration::from_secs(1700));
    assert_eq!(wait(&told, 0, &settings), 540, "nobody waits longer than it may");
    (settings.pace.share, settings.leave.flush_share) = (0.5, 0.5);
    assert_eq!(wait(&request("a", Reason::Lifecycle, 100), 0, &settings), 20, "half of draining");
}

/// The list of a swarm of a manager and these workers.
fn nodes(workers: &[(&str, &str)]) -> Vec<NodeView> {
    let worker = |(id, state): &(&str, &str)| NodeView {
        state: (*state).into(),
        ..NodeView::example(id, Role::Worker)
    };
    workers.iter().map(worker).chain([NodeView::example("n1", Role::Manager)]).collect()
}

struct Case {
    engine: FakeEngine,
    stub: Stub,
    node: Node,
    pace: Pace,
    now: OffsetDateTime,
}

impl Case {
    async fn new() -> Self {
        let (engine, stub) = (FakeEngine::start(RELEASES[0]), Stub::start().await);
        engine.lock().service_spec =
            json!({ "Name": "web", "Mode": { "Replicated": { "Replicas": 2 } } });
        engine.lock().instead.insert("/nodes", Instead::Answer(NODES));
        let node = Node::example(engine.swarm(), &stub).await;
        Self { engine, stub, node, pace: Pace::default(), now: OffsetDateTime::now_utc() }
    }

    fn request(&self, name: &str) -> DepartureRow {
        let noticed_at = self.now;
        let deadline = noticed_at + Duration::from_secs(1800);
        let departure = instance::Departure { reason: Reason::Lifecycle, noticed_at, deadline };
        DepartureRow::request(&format!("i-{name}"), name, Role::Worker, &departure, "boot")
    }

    fn tasks(&self, tasks: &[(i64, &str, &str)]) {
        let task = |(slot, node, state): &(i64, &str, &str)| {
            json!({
                "ID": "t", "CreatedAt": "2026-11-21T10:00:00Z", "ServiceID": "s1", "Slot": slot,
                "NodeID": node, "DesiredState": "running", "Status": { "State": state },
            })
        };
        self.engine.lock().tasks = tasks.iter().map(task).collect();
    }

    /// Returns those that may begin, by one poll.
    async fn poll(
        &self,
        rows: &[DepartureRow],
        nodes: &[NodeView],
        is_leader: bool,
    ) -> Vec<String> {
        let membership = Membership::example();
        let fleet = Fleet::new(&self.node, &membership);
        let departures: Vec<Departure<'_>> = rows
            .iter()
            .map(|row| (row, nodes.iter().find(|view| view.id == row.node_id)))
            .collect();
        let mut complaints = Complaints::default();
        let turns = async {
            let is_unanswered = |_: &str| false;
            self.pace.turns(&fleet, &departures, is_unanswered, is_leader, &mut complaints).await
        };
        let turns = tokio::select! {
            turns = turns => turns,
            never = self.pace.serve(&fleet) => match never {},
        };
        let may = |key: &Key| turns.get(key).is_none_or(|turn| *turn == Turn::Now);
        rows.iter().map(Key::of).filter(may).map(|key| key.node_id).collect()
    }

    fn lists_of_tasks(&self) -> usize {
        let asked = &self.engine.lock().asked;
        asked.iter().filter(|asked| asked.what == "GET /tasks").count()
    }
}

const NODES: &str = r#"[{ "ID": "n1" }, { "ID": "a" }, { "ID": "b" }, { "ID": "c" }]"#;

#[tokio::test]
async fn a_worker_that_leaves_alone_costs_no_list_and_does_not_wait() {
    let case = Case::new().await;
    let nodes = nodes(&[("a", "ready"), ("b", "ready")]);
    let mut row = case.request("a");
    for state in [DepartureState::Requested, DepartureState::Draining, DepartureState::Removed] {
        row.state = state;
        assert_eq!(case.poll(std::slice::from_ref(&row), &nodes, true).await, ["a"]);
    }
    assert_eq!((case.lists_of_tasks(), case.stub.requests().len()), (0, 0));
}

#[tokio::test]
async fn the_second_waits_until_the_tasks_of_the_first_run_elsewhere() {
    let case = Case::new().await;
    let nodes = nodes(&[("a", "ready"), ("b", "ready"), ("c", "ready")]);
    case.tasks(&[(1, "a", "running"), (2, "b", "running")]);
    let mut rows = [case.request("b"), case.request("a")];
    assert_eq!(case.poll(&rows, &nodes, true).await, ["a"], "in order");
    assert_eq!(case.lists_of_tasks(), 1);
    rows[1].state = DepartureState::Draining;
    assert_eq!(case.poll(&rows, &nodes, true).await, ["a"]);
    assert_eq!(case.lists_of_tasks(), 1, "it looks again after a pause");
    rows[1].state = DepartureState::Left;
    let down = self::nodes(&[("a", "down"), ("b", "ready"), ("c", "ready")]);
    assert_eq!(case.poll(&rows, &down, true).await, ["a"], "out, and listed as Down");
    assert_eq!(case.poll(&rows, &nodes[1..], true).await, ["a"], "off the list");
    rows[1].state = DepartureState::Draining;
    let deadline = std::mem::replace(&mut rows[1].deadline, case.now);
    assert_eq!(case.poll(&rows, &nodes, true).await, ["a"], "its machine may have ended");
    rows[1].deadline = deadline;
    let mut later = Case { pace: Pace::default(), ..case };
    assert_eq!(later.poll(&rows, &nodes, true).await, ["a"], "another leader");
    later.pace = Pace::default();
    rows[1].state = DepartureState::Removed;
    assert_eq!(later.poll(&rows, &nodes[1..], true).await, ["a"], "it has left too early");
    later.pace = Pace::default();
    later.tasks(&[(1, "c", "running"), (2, "b", "running")]);
    assert_eq!(later.poll(&rows, &nodes[1..], true).await, ["b", "a"]);
}

#[tokio::test]
async fn workers_without_tasks_do_not_wait_for_each_other() {
    let case = Case::new().await;
    let nodes = nodes(&[("a", "ready"), ("b", "ready"), ("c", "ready")]);
    case.tasks(&[(1, "c", "running"), (2, "n1", "running")]);
    let rows = [case.request("a"), case.request("b"), case.request("c")];
    assert_eq!(case.poll(&rows, &nodes, true).await, ["a", "b", "c"], "c is the first with tasks");
}

#[tokio::test]
async fn what_cannot_be_listed_is_waited_for_and_a_dead_node_is_not() {
    let case = Case::new().await;
    case.engine.lock().instead.insert("/tasks", Instead::Refusal(500, "too large"));
    let nodes = nodes(&[("a", "ready"), ("b", "ready"), ("c", "down")]);
    let rows = [case.request("a"), case.request("b"), case.request("c")];
    assert_eq!(case.poll(&rows, &nodes, true).await, ["a", "c"]);
    let mut late = rows.clone();
    late[1].requested_at -= Duration::from_secs(900);
    late[1].turn_by = Some(case.now - Duration::from_secs(1));
    assert_eq!(case.poll(&late, &nodes, true).await, ["a", "b", "c"], "its time is over");
}

/// The leader's skep may be about to let it begin.
#[tokio::test]
async fn another_manager_follows_the_leaders_answer() {
    let case = Case::new().await;
    let nodes = nodes(&[("a", "ready"), ("b", "ready")]);
    case.tasks(&[(1, "n1", "running"), (2, "n1", "running")]);
    let mut rows = [case.request("a"), case.request("b")];
    rows[0].turn_by = Some(case.now + Duration::from_secs(60));
    rows[0].turn_after = Some("i-z (service db)".into());
    assert_eq!(case.poll(&rows, &nodes, false).await, ["b"], "there is no answer for this one");
    assert_eq!(case.poll(&rows, &nodes, true).await, ["a", "b"], "the leader decides anew");
}

#[tokio::test]
async fn without_the_setting_nobody_waits() {
    let mut case = Case::new().await;
    case.node.settings.pace.enabled = false;
    let nodes = nodes(&[("a", "ready"), ("b", "ready")]);
    case.tasks(&[(1, "a", "running"), (2, "b", "running")]);
    let rows = [case.request("a"), case.request("b")];
    assert_eq!(case.poll(&rows, &nodes, true).await, ["a", "b"]);
    assert_eq!(case.lists_of_tasks(), 0);
}
