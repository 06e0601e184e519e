//! Runs one stay in the swarm after the other: a notice may be withdrawn, an operator's deadline may come too early,
//! and an instance may return to the warm pool.

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

/// Boots by `deadline`, serves, leaves: usually once. `target` is the target state in the metadata at the start.
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
        // An instance that must already leave must not start to join, nor must one in a warm pool.
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
            // Only a member that was found in the pool gets here. It may have left the pool meanwhile.
            is_pooled = None;
            deadline = Instant::now() + node.settings.boot.deadline;
            continue;
        }
        let reason = notices.now().map(|departure| departure.reason);
        if reason != Some(Reason::Pool) || outcome.is_failure() {
            return Ok(Ended::Left(outcome));
        }
        earlier_membership::forget(node);
        // In this order: while the node counts as a member, the watch treats the pool as a notice.
        node.state.update(|state| {
            state.membership = None;
            state.forget_departure();
        });
        notices.forget_pool();
        is_pooled = Some(true);
    }
}

/// Boots and serves until a notice comes that is not withdrawn; then leaves.
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

/// Returns a departure into the pool, for a skep that died during such a departure.
fn back_to_the_pool(node: &Node) -> Departure {
    let noticed_at = OffsetDateTime::now_utc();
    let deadline = noticed_at + node.settings.leave.deadline;
    Departure { reason: Reason::Pool, noticed_at, deadline }
}
