//! Observes one departure and takes its next step.

use std::cell::RefCell;

use time::OffsetDateTime;
use tokio::time::Instant;

use super::decide::{Action, Age, decide};
use crate::clients::docker::NodeView;
use crate::clients::ledger::{DepartureRow, DepartureState, TurnFor};
use crate::common::errors::chain;
use crate::common::instance::Role;
use crate::common::state::in_utc;
use crate::manager::demotion::demote_under_lease;
use crate::manager::error::ManagerError;
use crate::manager::pace::Turn;
use crate::manager::{protection, stand_in};
use crate::node::Node;
use crate::telemetry::metrics::metrics;

/// Takes the next step of a departure. Returns whether the departure is still under way. `view` is the node in a list
/// that was requested after the row was read.
pub async fn serve(
    node: &Node,
    row: &DepartureRow,
    view: Option<&NodeView>,
    turn: &Turn,
    stand_ins: &RefCell<stand_in::Memory>,
) -> Result<bool, ManagerError> {
    let who = row.instance_id.as_str();
    if row.stand_in {
        stand_in::keep_alive(node, row, stand_ins)
            .await
            .unwrap_or_else(|error| tracing::warn!(instance = who, "{}", chain(&error)));
    }
    let now = OffsetDateTime::now_utc();
    let answering_since = node.ledger.answering_since();
    let is_silent = stand_ins.borrow_mut().is_silent(row, answering_since, Instant::now());
    let age = Age::of(row, is_silent, node.settings.leave.shutdown_deadline, now);
    let waits = Waits::of(turn, row);
    let age = Age { is_held: age.is_held || waits.is_some(), ..age };
    let live_tasks = match (view, row.state) {
        (Some(_), DepartureState::Requested | DepartureState::Draining | DepartureState::Left) => {
            node.swarm.count_live_tasks(&row.node_id).await?
        }
        _ => 0,
    };
    let is_self = row.instance_id == node.instance.id;
    let advance = |to| node.ledger.advance_departure(row, to);
    match decide(row, view, live_tasks, is_self, age) {
        Action::None => return Ok(false),
        Action::Forget => {
            node.ledger.forget_departure(row).await?;
            return Ok(false);
        }
        Action::Wait => {}
        Action::Pause => {
            node.swarm.pause(&row.node_id).await?;
            let what =
                if waits.is_some() { "its turn to be drained" } else { "its traffic to end" };
            tracing::info!(instance = who, reason = %row.reason, "no new tasks: waiting for {what}");
        }
        Action::Drain => {
            node.swarm.drain(&row.node_id).await?;
            tracing::info!(instance = who, reason = %row.reason, live_tasks, "draining");
            if row.state == DepartureState::Requested {
                advance(DepartureState::Draining).await?;
            }
        }
        Action::MarkDraining => drop(advance(DepartureState::Draining).await?),
        Action::MarkDrained => {
            if advance(DepartureState::Drained).await? {
                tracing::info!(instance = who, "drained");
            }
        }
        Action::ConfirmDemotion => {
            node.ledger.confirm_demotion(row).await?;
            tracing::info!(instance = who, "no longer a manager");
        }
        Action::Release(result) => {
            // The node may have written its own request since the rows were read; that request has priority.
            let own = node.ledger.fetch_departure(row.role, who).await?;
            let is_requested = |own: &DepartureRow| {
                own.node_id == row.node_id && own.state != DepartureState::Failed
            };
            if own.as_ref().is_some_and(is_requested) {
                return Ok(true);
            }
            stand_in::release(node, who, result).await?;
            advance(DepartureState::Left).await?;
        }
        Action::Demote => drop(demote_under_lease(node, &row.node_id).await?),
        Action::MarkFailed => {
            if advance(DepartureState::Failed).await? {
                tracing::warn!(
                    instance = who,
                    node = row.node_id,
                    reason = %row.reason,
                    "the departure failed: its deadline has passed, and the node is still in the swarm"
                );
            }
            return Ok(false);
        }
        Action::Remove => {
            // A node that the list does not have needs no removal, and what its row names is a claim.
            if let Some(view) = view {
                protection::release(node, view).await?;
                node.swarm.remove(&row.node_id).await?;
            }
            node.ledger.delete_member_of(row.role, who, &row.node_id).await?;
            if row.role == Role::Manager {
                node.ledger.return_lease(&row.node_id).await?;
            }
            if advance(DepartureState::Removed).await? {
                tracing::info!(instance = who, "removed");
                let outcome = match row.state {
                    DepartureState::Left if row.stand_in => "stood_in",
                    DepartureState::Left => "left",
                    _ => "too_late",
                };
                metrics().removal(row.reason.as_str(), outcome);
            }
            return Ok(false);
        }
    }
    if let Some(waits) = waits {
        waits.note(node, row).await?;
        return Ok(false);
    }
    // A departure that never ends, because its machine died or its row is not true, must not keep the leader busy.
    Ok(!age.is_past_deadline && row.state != DepartureState::Left)
}

/// The wait of a node for its turn.
struct Waits<'a> {
    until: OffsetDateTime,
    after: &'a str,
    turn_for: TurnFor,
}

impl<'a> Waits<'a> {
    /// Returns `None` also for a node whose drain has begun.
    fn of(turn: &'a Turn, row: &DepartureRow) -> Option<Self> {
        match turn {
            Turn::Wait { until, after, turn_for } if row.state == DepartureState::Requested => {
                Some(Self { until: *until, after, turn_for: *turn_for })
            }
            _ => None,
        }
    }

    /// Tells the node and the other managers, unless the row has it already.
    async fn note(self, node: &Node, row: &DepartureRow) -> Result<(), ManagerError> {
        let Self { until, after, turn_for } = self;
        let noted = (row.turn_by, row.turn_after.as_deref(), row.turn_for);
        if noted == (Some(until), Some(after), turn_for) {
            return Ok(());
        }
        if node.ledger.note_turn(row, until, after, turn_for).await? {
            let until = in_utc(until);
            tracing::info!(
                instance = row.instance_id,
                until,
                "waits for its turn to be drained, after {after}"
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clients::aws::stub::Stub;
    use crate::clients::docker::Availability;
    use crate::clients::docker::tests::fake_engine::{FakeEngine, Instead, RELEASES};
    use crate::common::instance::{Departure, Reason};

    /// Only Docker's list can show that no task is left.
    #[tokio::test]
    async fn tasks_that_cannot_be_counted_are_not_gone() {
        let (engine, stub) = (FakeEngine::start(RELEASES[0]), Stub::start().await);
        let node = Node::example(engine.swarm(), &stub).await;
        node.swarm.drain("n1").await.unwrap();
        let noticed_at = OffsetDateTime::now_utc();
        let deadline = noticed_at + Duration::from_secs(60);
        let departure = Departure { reason: Reason::Lifecycle, noticed_at, deadline };
        let mut row = DepartureRow::request("i-2", "n1", Role::Worker, &departure, "boot");
        row.state = DepartureState::Draining;
        let look = async || {
            let view = node.swarm.fetch_node("n1").await.unwrap();
            serve(&node, &row, view.as_ref(), &Turn::Now, &RefCell::default()).await
        };

        engine.lock().instead.insert("/tasks", Instead::Refusal(500, "rpc error: no leader"));
        assert!(look().await.is_err());
        assert_eq!(stub.requests(), [""; 0], "nothing is written to the ledger");

        engine.lock().instead.clear();
        stub.answer(200, "{}");
        assert!(look().await.unwrap());
        let request = stub.last_request();
        assert!(request.contains(r#"":to":{"S":"drained"}"#), "{request}");
    }

    #[tokio::test]
    async fn a_node_that_waits_for_its_turn_is_paused_and_told_once() {
        let noticed_at = OffsetDateTime::now_utc().replace_nanosecond(0).unwrap();
        let deadline = noticed_at + Duration::from_secs(60);
        let departure = Departure { reason: Reason::Lifecycle, noticed_at, deadline };
        for stand_in in [false, true] {
            let (engine, stub) = (FakeEngine::start(RELEASES[0]), Stub::start().await);
            let node = Node::example(engine.swarm(), &stub).await;
            let mut row = DepartureRow::request("i-2", "n1", Role::Worker, &departure, "boot");
            row.stand_in = stand_in;
            let view = NodeView::example("n1", Role::Worker);
            let (after, turn_for) = ("i-1 (service web)".to_owned(), TurnFor::Others);
            let turn = Turn::Wait { until: deadline, after, turn_for };
            // Without a heartbeat for the hook.
            let ins = RefCell::default();
            stub.always("departure#", "{}");
            stub.always("Action=", "<Response/>");
            let before = stub.requests().len();
            serve(&node, &row, Some(&view), &turn, &ins).await.unwrap();
            assert_eq!(engine.last("POST /nodes/n1/update").body["Availability"], "pause");
            let told = |request: &&String| request.contains("turn_by");
            let written = stub.requests().split_off(before);
            let request = written.iter().find(told).unwrap();
            assert!(request.contains("i-1 (service web)") && request.contains("requested"));
            (row.turn_by, row.turn_after) = (Some(deadline), Some("i-1 (service web)".into()));
            let paused = NodeView { availability: Availability::Pause, ..view };
            let before = stub.requests().len();
            assert!(!serve(&node, &row, Some(&paused), &turn, &ins).await.unwrap(), "no hurry");
            let written = stub.requests().split_off(before);
            assert_eq!(written.iter().find(told), None, "the row has it already");
            serve(&node, &row, Some(&paused), &Turn::Now, &ins).await.unwrap();
            assert_eq!(engine.last("POST /nodes/n1/update").body["Availability"], "drain");
        }
    }

    /// The row was read before the node asked to leave.
    #[tokio::test]
    async fn a_hook_is_not_completed_for_a_node_that_has_spoken_meanwhile() {
        let (engine, stub) = (FakeEngine::start(RELEASES[0]), Stub::start().await);
        let node = Node::example(engine.swarm(), &stub).await;
        let past = OffsetDateTime::UNIX_EPOCH;
        let departure = Departure { reason: Reason::Lifecycle, noticed_at: past, deadline: past };
        let mut row = DepartureRow::request("i-2", "n9", Role::Worker, &departure, "");
        row.stand_in = true;
        stub.answer(403, &Stub::xml_error("AccessDenied", "no heartbeat"));
        let own = r#"{ "Item": { "item": { "S": "departure#i-2" }, "schema": { "N": "2" }, "instance_id": { "S": "i-2" },
            "node_id": { "S": "n9" }, "role": { "S": "worker" }, "reason": { "S": "spot" },
            "state": { "S": "requested" }, "requested_at": { "N": "1" }, "boot_id": { "S": "b" },
            "deadline": { "N": "2" }, "expires_at": { "N": "3" } } }"#;
        stub.answer(200, own);
        assert!(serve(&node, &row, None, &Turn::Now, &RefCell::default()).await.unwrap());
        let asked = stub.requests();
        assert_eq!(asked.len(), 2, "no hook is completed, and nothing is written: {asked:?}");
    }
}
