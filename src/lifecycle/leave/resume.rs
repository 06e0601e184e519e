//! Continues or discards the departure that the ledger has of this node, when skep starts or the node joins again.

use std::time::Duration;

use time::OffsetDateTime;

use super::decide::Outcome;
use crate::clients::ledger::{DepartureRow, DepartureState, LedgerError};
use crate::common::instance::{Departure, Reason};
use crate::lifecycle::notices::Notices;
use crate::node::Node;

/// Meaning of an earlier departure now.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Earlier {
    /// It is from an earlier start of the machine, or it was for the warm pool, and the instance is not in the pool any
    /// more.
    Void,
    /// It failed, and the ledger records that. A notice that is still in force is given again.
    Failed,
    /// It failed, and the ledger does not record that yet.
    Unrecorded,
    /// It has ended.
    Over,
    /// It was interrupted.
    GoOn(Departure),
}

/// Facts for the decision beside the row.
struct Start<'a> {
    boot_id: &'a str,
    /// Docker reports that this host is in no swarm.
    is_out: bool,
    /// The instance is in the warm pool.
    is_pooled: bool,
    /// A departure of this process failed, and the ledger has not recorded that yet.
    has_failed: bool,
    now: OffsetDateTime,
    /// Time that a shutdown may take.
    shutdown: Duration,
}

impl<'a> Start<'a> {
    fn of(node: &'a Node, is_out: bool, is_pooled: bool) -> Self {
        Self {
            boot_id: &node.boot_id,
            is_out,
            is_pooled,
            has_failed: node.state.now().unrecorded_failure.is_some(),
            now: OffsetDateTime::now_utc(),
            shutdown: node.settings.leave.shutdown_deadline,
        }
    }
}

fn judge(row: &DepartureRow, start: &Start<'_>) -> Earlier {
    let is_for_the_pool = row.reason == Reason::Pool;
    if row.boot_id != start.boot_id || is_for_the_pool && !start.is_pooled {
        Earlier::Void
    } else if row.state == DepartureState::Failed {
        Earlier::Failed
    } else if row.ended {
        Earlier::Over
    } else if has_failed(row, start) {
        Earlier::Unrecorded
    } else {
        Earlier::GoOn(rest_of(row, start))
    }
}

/// Whether the departure failed: an operator's deadline passed before the node was out, so the machine stays, and the
/// node with it.
fn has_failed(row: &DepartureRow, start: &Start<'_>) -> bool {
    let is_too_late = row.reason.keeps_the_machine() && row.deadline <= start.now && !start.is_out;
    row.state < DepartureState::Left && (start.has_failed || is_too_late)
}

fn rest_of(row: &DepartureRow, start: &Start<'_>) -> Departure {
    let departure = row.departure();
    if departure.deadline > start.now {
        return departure;
    }
    // The machine has outlived the deadline. The node still leaves in good order.
    let deadline = start.now + start.shutdown;
    Departure { noticed_at: start.now, deadline, ..departure }
}

/// Whether this node, which is in no swarm and in the warm pool, was interrupted between leaving the swarm and the end
/// of its departure.
///
/// # Errors
/// When the ledger does not answer.
pub async fn is_interrupted(node: &Node) -> Result<bool, LedgerError> {
    let row = node.ledger.fetch_departure(node.role, &node.instance.id).await?;
    let start = Start::of(node, true, true);
    Ok(row.is_some_and(|row| matches!(judge(&row, &start), Earlier::GoOn(_))))
}

/// Continues a departure that a crash or a restart of skep interrupted at any point: `row`, if the ledger has one.
/// `is_out`: Docker reports that this host is in no swarm. Gives the rest of the departure to `notices`.
///
/// # Errors
/// When the ledger does not answer: until it has, this node must not join.
pub async fn resume(
    node: &Node,
    notices: &Notices,
    row: Option<DepartureRow>,
    is_out: bool,
) -> Result<(), LedgerError> {
    let Some(row) = row else { return Ok(()) };
    match judge(&row, &Start::of(node, is_out, false)) {
        Earlier::Void => node.ledger.delete_departure(node.role, &node.instance.id).await?,
        Earlier::Failed => {
            tracing::warn!(reason = %row.reason, "an earlier departure failed: the node serves again");
        }
        Earlier::Unrecorded => {
            tracing::warn!(reason = %row.reason, deadline = %row.deadline, "an earlier departure failed, because its deadline came before the node had left: the node serves again");
            node.state.update(|state| {
                state.unrecorded_failure.get_or_insert_default();
                let words = || Outcome::Failed.as_str().to_owned();
                state.failed_departure.get_or_insert_with(words);
            });
        }
        Earlier::Over => {}
        Earlier::GoOn(departure) => {
            tracing::info!("continuing a departure that was interrupted");
            notices.give(departure);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clients::aws::stub::Stub;
    use crate::clients::docker::Swarm;
    use crate::common::instance::Role;

    const NOW: OffsetDateTime = time::macros::datetime!(2026-11-28 12:00 UTC);
    const MINUTE: Duration = Duration::from_secs(60);

    fn row(reason: Reason, deadline: OffsetDateTime) -> DepartureRow {
        let departure = Departure { reason, noticed_at: NOW - 10 * MINUTE, deadline };
        DepartureRow::request("i-0abc", "n1", Role::Worker, &departure, "boot")
    }

    fn with(row: &DepartureRow, change: impl FnOnce(&mut DepartureRow)) -> DepartureRow {
        let mut row = row.clone();
        change(&mut row);
        row
    }

    fn start() -> Start<'static> {
        Start {
            boot_id: "boot",
            is_out: false,
            is_pooled: false,
            has_failed: false,
            now: NOW,
            shutdown: MINUTE,
        }
    }

    #[test]
    fn an_operators_departure_whose_deadline_is_over_has_failed_unless_the_node_is_out() {
        let (over, ahead) = (NOW - MINUTE, NOW + MINUTE);
        let operators = row(Reason::Operator, over);
        assert_eq!(judge(&operators, &start()), Earlier::Unrecorded);
        let more = Departure { reason: Reason::Operator, noticed_at: NOW, deadline: NOW + MINUTE };
        let is_out = Start { is_out: true, ..start() };
        assert_eq!(judge(&operators, &is_out), Earlier::GoOn(more.clone()), "it records that");
        let left = with(&operators, |row| row.state = DepartureState::Left);
        assert_eq!(judge(&left, &start()), Earlier::GoOn(more));
        let in_time = row(Reason::Operator, ahead);
        assert_eq!(judge(&in_time, &start()), Earlier::GoOn(in_time.departure()));
        for reason in [Reason::Lifecycle, Reason::Spot, Reason::Maintenance, Reason::Shutdown] {
            let judged = judge(&row(reason, over), &start());
            assert!(matches!(judged, Earlier::GoOn(_)), "{reason}: the machine may still end");
        }
    }

    /// For example while Docker did not answer: the deadline need not have passed.
    #[test]
    fn what_has_failed_in_this_process_is_not_taken_up_again() {
        let start = Start { has_failed: true, ..start() };
        assert_eq!(judge(&row(Reason::Operator, NOW + MINUTE), &start), Earlier::Unrecorded);
    }

    #[test]
    fn a_row_of_another_start_or_that_has_ended_is_no_order() {
        let row = row(Reason::Lifecycle, NOW + MINUTE);
        assert_eq!(judge(&row, &Start { boot_id: "next", ..start() }), Earlier::Void);
        let failed = with(&row, |row| row.state = DepartureState::Failed);
        assert_eq!(judge(&failed, &start()), Earlier::Failed);
        let ended = with(&row, |row| row.ended = true);
        assert_eq!(judge(&ended, &start()), Earlier::Over);
    }

    #[test]
    fn a_departure_for_the_warm_pool_goes_on_in_the_pool_alone() {
        let pools = row(Reason::Pool, NOW + MINUTE);
        assert_eq!(judge(&pools, &start()), Earlier::Void, "it is wanted again");
        let pooled = Start { is_pooled: true, is_out: true, ..start() };
        assert_eq!(judge(&pools, &pooled), Earlier::GoOn(pools.departure()));
        let ended = with(&pools, |row| row.ended = true);
        assert_eq!(judge(&ended, &pooled), Earlier::Over);
    }

    #[tokio::test]
    async fn a_failure_is_shown_and_gives_no_notice() {
        let stub = Stub::start().await;
        let node = Node::example(Swarm::new("unix:///nowhere".to_owned()), &stub).await;
        let notices = Notices::default();
        let late = row(Reason::Operator, OffsetDateTime::now_utc() - MINUTE);
        let late = with(&late, |row| row.boot_id.clone_from(&node.boot_id));
        resume(&node, &notices, Some(late.clone()), false).await.unwrap();
        assert_eq!(notices.now(), None);
        let state = node.state.now();
        assert_eq!(state.unrecorded_failure, Some(0));
        assert_eq!(state.failed_departure.as_deref(), Some(Outcome::Failed.as_str()));
        node.state.update(|state| state.unrecorded_failure = None);
        resume(&node, &notices, Some(late), true).await.unwrap();
        assert!(notices.now().is_some(), "it is out");
        assert_eq!(stub.requests(), [""; 0]);
    }
}
