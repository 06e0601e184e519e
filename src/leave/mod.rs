//! From a member to nobody: announce → drain → tasks have stopped → logs are flushed → (manager:
//! demoted) → left → off the list.
//!
//! Guarantees: a raft member never leaves by force, unless it is the last manager; a swarm that is
//! not this cluster's is not touched; flushing and leaving have a share of the deadline that
//! draining cannot eat. Every step may be killed and repeated: each round looks afresh at Docker
//! and the ledger. Assumes that some manager's skep reads the ledger; where none does, the node
//! stops its tasks itself.

mod act;
mod budget;
mod decide;
mod observe;
mod progress;
#[cfg(test)]
mod quorum_tests;
#[cfg(test)]
mod tests;

use std::time::Duration;

use time::OffsetDateTime;
use tokio::time::Instant;

use crate::instance::Departure;
use crate::ledger::LedgerError;
use crate::node::Node;
use crate::state::Phase;
use crate::watch::{Notice, Notices};

use act::Next;
pub use budget::Budget;
pub use decide::{Clock, Observed, Outcome, Step, decide};
use observe::Memory;

/// Between two looks. A departure lasts seconds to minutes; the leader looks once a second.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// A single look or step never takes longer than this, so that the clock is always heeded.
const LOOK_TIMEOUT: Duration = Duration::from_secs(45);

/// Takes this node out of its swarm by the departure's deadline, which may come nearer meanwhile.
/// A notice that is taken back meanwhile is forgotten where the node can still stay.
pub async fn leave(node: &Node, notices: &Notices) -> Outcome {
    let start = Instant::now();
    let mut memory = Memory::new(start);
    let mut news = notices.subscribe();
    loop {
        let Notice { departure, is_withdrawn } = news.borrow_and_update().clone();
        let Some(departure) = departure else { return Outcome::NothingToLeave };
        node.state.set_departure(&departure);
        let budget = budget_of(node, &departure, start);
        let round = round(node, &departure, is_withdrawn, &budget, &mut memory);
        match tokio::time::timeout(LOOK_TIMEOUT, round).await {
            // It has been given again this moment: the next round asks anew.
            Ok(Ok(Next::Done(Outcome::Stayed))) if !notices.forget() => continue,
            Ok(Ok(Next::Done(outcome))) => return outcome,
            Ok(Ok(Next::LookAtOnce)) if Instant::now() < budget.deadline => continue,
            Ok(Ok(_)) => {}
            Ok(Err(error)) => {
                let problem = crate::errors::chain(&error);
                node.state.enter(Phase::Leaving, format!("trying again after: {problem}"));
            }
            Err(_) => tracing::warn!("no answer from Docker within {LOOK_TIMEOUT:?}"),
        }
        // A Docker that does not answer must not keep the node beyond its deadline.
        if Instant::now() >= budget.deadline + LOOK_INTERVAL {
            return Outcome::TooLate;
        }
        let _ = tokio::time::timeout(LOOK_INTERVAL, news.changed()).await;
    }
}

/// Takes up a departure that a crash or a restart of skep has interrupted, however far it was; one
/// of an earlier start of the machine is void. One that a manager has written on this node's behalf says
/// that Auto Scaling ends the instance: this node takes it over. What it finds goes to the notices.
///
/// # Errors
/// When the ledger does not answer: until it has, this node must not join.
pub async fn resume(node: &Node, notices: &Notices) -> Result<(), LedgerError> {
    match node.ledger.fetch_departure(&node.instance.id).await? {
        Some(row) if row.boot_id != node.boot_id && !row.stand_in => {
            node.ledger.delete_departure(&node.instance.id).await?;
        }
        Some(row) if !row.ended => {
            tracing::warn!(
                stand_in = row.stand_in,
                "a departure was interrupted: going on with it"
            );
            let now = OffsetDateTime::now_utc();
            let mut departure = row.departure();
            if departure.deadline <= now {
                // The machine has outlived it: the node still wants to leave in good order.
                departure.noticed_at = now;
                departure.deadline = now + node.settings.leave.shutdown_deadline;
            }
            notices.give(departure);
        }
        _ => {}
    }
    Ok(())
}

async fn round(
    node: &Node,
    departure: &Departure,
    is_withdrawn: bool,
    budget: &Budget,
    memory: &mut Memory,
) -> Result<Next, act::LeaveError> {
    let seen = observe::observe(node, is_withdrawn, budget, memory).await?;
    progress::show(node, budget, memory).await;
    let step = decide(node.role, &seen);
    memory.stopwatch.enter(decide::stage(&seen, &step));
    act::act(node, departure, budget, &seen, step, memory).await
}

/// The deadline is wall-clock time; from here on only the monotonic clock counts.
fn budget_of(node: &Node, departure: &Departure, start: Instant) -> Budget {
    let left = departure.deadline - OffsetDateTime::now_utc();
    let left = Duration::try_from(left).unwrap_or(Duration::ZERO);
    let settings = &node.settings.leave;
    Budget::new(start, Instant::now() + left, settings.flush_share, settings.manager_patience)
}
