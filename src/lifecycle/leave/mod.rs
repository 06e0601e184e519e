//! Takes this node out of the swarm: announce → traffic ended → drain → tasks stopped → logs flushed → (manager: demoted)
//! → left → removed from the node list.
//!
//! Guarantees: a raft member never leaves by force, unless it is the last manager; a swarm that is not this cluster's
//! is not touched; draining cannot use the shares of the deadline that belong to flushing and leaving. Every step can
//! be killed and repeated: each round reads Docker and the ledger again. Assumes that the skep of some manager reads
//! the ledger; without one, the node stops its tasks itself.

mod act;
mod budget;
mod decide;
mod failed_attempts;
mod final_row;
mod hint;
mod memory;
mod observe;
mod progress;
#[cfg(test)]
mod quorum_tests;
mod recovery;
mod resume;
#[cfg(test)]
mod tests;
mod traffic;
mod traffic_look;
mod which_swarm;

use std::ops::RangeInclusive;
use std::time::Duration;

use time::OffsetDateTime;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::common::errors::chain;
use crate::common::instance::Departure;
use crate::common::state::Phase;
use crate::lifecycle::notices::{Notice, Notices};
use crate::node::Node;
use crate::telemetry::metrics::metrics;

use act::{LeaveError, Next};
pub use budget::Budget;
use decide::decide_blind;
pub use decide::{Clock, Observed, Outcome, Step, decide};
pub use final_row::{forget_failure, record_end, record_failure};
use memory::{Flush, Memory};
use observe::Look;
pub use resume::{is_interrupted, resume};
pub use traffic::Wait;
pub use which_swarm::{Evidence, Lookup, judge};

/// Pause after a failed observation, and the precision of the deadlines.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// Pause between two observations: this share of the time since the last step, so that waiting for others adds no more
/// than a tenth to what they need. A drain of half an hour needs no ten observations a second.
const PAUSE_SHARE: u32 = 10;
const PAUSES: RangeInclusive<Duration> = Duration::from_millis(50)..=Duration::from_secs(1);
/// Docker and DynamoDB answer within milliseconds. An observation or a step that takes longer times out, and the next
/// round repeats it.
const LOOK_TIMEOUT: Duration = Duration::from_secs(45);

/// Takes this node out of its swarm by the departure's deadline, which another notice may bring nearer meanwhile. A
/// notice that is taken back meanwhile is forgotten if the node can still stay.
pub async fn leave(node: &Node, notices: &Notices) -> Outcome {
    let mut memory = Memory::new(Instant::now());
    let mut news = notices.subscribe();
    let mut is_first_round = true;
    let outcome = loop {
        // Not in the first round, which writes the departure to the ledger: managers must not act for a node whose skep
        // is alive.
        if !is_first_round && recovery::is_due(node, &mut memory).await {
            recovery::run(node, &mut memory, &mut news).await;
        }
        is_first_round = false;
        let Notice { departure, is_withdrawn } = news.borrow_and_update().clone();
        let Some(departure) = departure else { break Outcome::NothingToLeave };
        node.state.set_departure(&departure);
        let budget = budget_of(node, &departure, &mut memory);
        let recovery = (!memory.is_recovery_over).then(|| progress::at(budget.drain_until));
        node.state.set_recovery_until(recovery);
        let mut pause = pause_between_looks(memory.moved_at.elapsed());
        match round(node, &departure, is_withdrawn, &budget, &mut memory, &mut news).await {
            // The notice was given again just now: the next round decides anew.
            Ok(Next::Done(Outcome::Stayed)) if !notices.forget() => continue,
            Ok(Next::Done(outcome)) => break outcome,
            Ok(Next::LookAtOnce) if Instant::now() < budget.deadline => {
                (memory.failures, memory.moved_at) = (0, Instant::now());
                continue;
            }
            Ok(_) => memory.failures = 0,
            Err(error) => {
                let problem = chain(&error);
                node.state.enter(Phase::Leaving, format!("retrying after: {problem}"));
                pause = pause_after(memory.failures);
                memory.failures += 1;
            }
        }
        // A service that does not answer must not keep the node beyond its deadline.
        if Instant::now() >= budget.deadline + LOOK_INTERVAL {
            break Outcome::TooLate;
        }
        let pause = pause.min(budget.next_point(Instant::now()));
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            _ = news.changed() => {}
            // Stored again for `recovery::is_due`, which takes it.
            () = node.recovery_begun.notified() => node.recovery_begun.notify_one(),
        }
    };
    node.state.set_recovery_until(None);
    observe::stop_showing_trouble(node);
    let reason = notices.now().map(|departure| departure.reason);
    let outcome = reason.map_or(outcome, |reason| outcome.on_machine(reason, memory.has_left));
    let killed = memory.all_killed(outcome);
    for name in &killed {
        tracing::warn!(container = name, "this task was killed without its grace");
    }
    metrics().tasks_killed(killed.len());
    node.state.update(|state| state.killed = killed.into_iter().collect());
    outcome
}

/// Returns the pause between two observations of a departure whose last step was so long ago.
#[must_use]
pub fn pause_between_looks(since_step: Duration) -> Duration {
    (since_step / PAUSE_SHARE).clamp(*PAUSES.start(), *PAUSES.end())
}

/// Returns the pause after a failed round: short after the first failures, up to 5 s in an outage, so that skep does
/// not ask twice a second.
fn pause_after(failures: u32) -> Duration {
    const LONGEST: Duration = Duration::from_secs(5);
    LOOK_INTERVAL.saturating_mul(2u32.saturating_pow(failures.min(8))).min(LONGEST)
}

/// Observes, and takes one step.
async fn round(
    node: &Node,
    departure: &Departure,
    is_withdrawn: bool,
    budget: &Budget,
    memory: &mut Memory,
    news: &mut watch::Receiver<Notice>,
) -> Result<Next, LeaveError> {
    let look = observe::observe(node, departure, is_withdrawn, budget, memory);
    let (step, seen) = match bounded("the observation", look).await? {
        Look::Blind(seen) => (decide_blind(&seen), None),
        Look::Seen(seen) => {
            let step = decide(node.role, &seen);
            memory.stopwatch.enter(decide::stage(&seen, &step));
            // The request to the managers is more urgent than showing the progress.
            if step != Step::Request {
                progress::show(node, budget, memory).await;
            }
            (step, Some(seen))
        }
    };
    if step == Step::Flush {
        flush(node, departure, budget, seen.is_none(), memory, news).await;
        return Ok(Next::LookAtOnce);
    }
    match seen {
        Some(seen) => {
            bounded("the step", act::act(node, departure, budget, &seen, step, memory)).await?
        }
        None => bounded("the step", act_blind(node, departure, step, memory)).await?,
    }
}

/// Ends an observation or a step after [`LOOK_TIMEOUT`], so that the round checks the deadline in time.
async fn bounded<T>(what: &'static str, work: impl Future<Output = T>) -> Result<T, LeaveError> {
    let done = tokio::time::timeout(LOOK_TIMEOUT, work).await;
    done.map_err(|_| LeaveError::Silent { what, limit: LOOK_TIMEOUT })
}

/// Flushes the logs. Flushing has its own share of the deadline, which no other limit shortens; it ends earlier only if
/// the deadline comes nearer meanwhile.
async fn flush(
    node: &Node,
    departure: &Departure,
    budget: &Budget,
    is_blind: bool,
    memory: &mut Memory,
    news: &mut watch::Receiver<Notice>,
) {
    let mut until = budget.flush_until;
    let flushing = act::flush(node, departure, until, is_blind);
    tokio::pin!(flushing);
    loop {
        tokio::select! {
            () = &mut flushing => break,
            () = tokio::time::sleep_until(until + LOOK_INTERVAL) => {
                tracing::warn!("stopped flushing: its share of the deadline is over");
                break;
            }
            Ok(()) = news.changed() => {
                if let Some(departure) = &news.borrow_and_update().departure {
                    until = until.min(budget_of(node, departure, memory).flush_until);
                }
            }
        }
    }
    memory.flush = if is_blind { Flush::Blind } else { Flush::Whole };
}

/// Takes the steps that are possible while Docker does not answer.
async fn act_blind(
    node: &Node,
    departure: &Departure,
    step: Step,
    memory: &mut Memory,
) -> Result<Next, LeaveError> {
    match (step, memory.member.clone()) {
        (Step::Done(outcome), _) => Ok(Next::Done(outcome)),
        (Step::Request, Some(member)) => {
            // Without Docker the node cannot tell when to end a hold.
            act::request(node, departure, &member, None, memory).await?;
            Ok(Next::LookAtOnce)
        }
        (Step::Wait { why }, _) => {
            node.state.enter(Phase::Leaving, format!("waiting for {why}"));
            Ok(Next::Pause)
        }
        (step, _) => unreachable!("without Docker there is no {step:?}"),
    }
}

fn budget_of(node: &Node, departure: &Departure, memory: &mut Memory) -> Budget {
    let deadline = memory.instant_of(departure.deadline, OffsetDateTime::now_utc());
    let settings = &node.settings.leave;
    let (share, patience) = (settings.flush_share, settings.manager_patience);
    Budget::new(memory.start, deadline, share, patience, memory.asked_at)
}
