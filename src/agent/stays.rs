//! From one stay in the swarm to the next: a notice may be taken back, an operator's deadline may come too early,
//! and a warm pool may take the instance back.

use time::OffsetDateTime;
use tokio::time::Instant;

use super::warm_pool::{self, Wait};
use super::{Ended, RunError, boot_and_serve, depart, earlier_membership, termination_hook};
use crate::clients::imds::TargetState;
use crate::common::instance::{Departure, Reason};
use crate::lifecycle::leave::{self, Outcome};
use crate::lifecycle::notices::Notices;
use crate::lifecycle::self_replacement;
use crate::lifecycle::signals::Announcer;
use crate::node::Node;

/// Boots by `deadline`, serves, leaves: once, as a rule. `target` is what the metadata has said at the
/// start.
///
/// # Errors
/// As for [`super::run`].
pub async fn run_stays(
    node: &Node,
    announcer: &Announcer,
    notices: &Notices,
    mut deadline: Instant,
    target: Option<TargetState>,
) -> Result<Ended, RunError> {
    let mut is_pooled = target.map(|target| target.is_pooled());
    loop {
        // An instance that is to go already must not begin to join, nor one of a warm pool.
        let outcome = match warm_pool::await_service(node, announcer, notices, is_pooled).await {
            Wait::None => stay(node, announcer, notices, deadline).await?,
            Wait::Over => {
                deadline = Instant::now() + node.settings.boot.deadline;
                stay(node, announcer, notices, deadline).await?
            }
            Wait::MustLeave => {
                notices.give(back_to_the_pool(node));
                depart(node, announcer, notices).await
            }
            Wait::Departs => depart(node, announcer, notices).await,
            Wait::Ended(departure) => {
                let outcome = Outcome::NothingToLeave;
                termination_hook::complete(node, announcer, &departure, outcome).await;
                outcome
            }
        };
        if outcome.stays() {
            // Only a member that was found in the pool comes here. It may have been taken out of it meanwhile.
            is_pooled = None;
            deadline = Instant::now() + node.settings.boot.deadline;
            continue;
        }
        let reason = notices.now().map(|departure| departure.reason);
        if reason != Some(Reason::Pool) || outcome.is_failure() {
            return Ok(Ended::Left(outcome));
        }
        earlier_membership::forget(node);
        // In this order: as long as it counts as a member, the watch takes the pool for news.
        node.state.update(|state| {
            state.membership = None;
            state.forget_departure();
        });
        notices.forget_pool();
        is_pooled = Some(true);
    }
}

/// In the swarm until a notice comes that is not taken back; then out of it.
async fn stay(
    node: &Node,
    announcer: &Announcer,
    notices: &Notices,
    deadline: Instant,
) -> Result<Outcome, RunError> {
    let mut first_boot = Some(deadline);
    loop {
        let ended = tokio::select! {
            ended = boot_and_serve(node, announcer, notices, first_boot.take()) => ended,
            never = self_replacement::watch_docker(node) => match never {},
            never = leave::record_failure(node) => match never {},
        };
        if let Err(RunError::Boot(error)) = &ended {
            self_replacement::after_failure(node, notices, error).await;
        }
        ended?;
        match depart(node, announcer, notices).await {
            outcome if outcome.stays() => {}
            outcome => return Ok(outcome),
        }
    }
}

/// For a skep that has died on the way there.
fn back_to_the_pool(node: &Node) -> Departure {
    let noticed_at = OffsetDateTime::now_utc();
    let deadline = noticed_at + node.settings.leave.deadline;
    Departure { reason: Reason::Pool, noticed_at, deadline }
}
