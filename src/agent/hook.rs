//! The termination hook around a departure.

use std::convert::Infallible;
use std::time::Duration;

use time::OffsetDateTime;
use tokio::time::Instant;

use crate::announce::Announcer;
use crate::autoscaling::HookResult;
use crate::imds::TargetState;
use crate::instance::Departure;
use crate::leave::Outcome;
use crate::node::Node;
use crate::state::Phase;
use crate::watch::Notices;

/// The metadata is asked this long, where the notice came from elsewhere.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// Sends heartbeats while the node leaves; the hook's own limits become the departure's. A node
/// that leaves for another reason is watched: Auto Scaling may terminate it meanwhile.
pub async fn keep_alive(
    node: &Node,
    announcer: &Announcer,
    notices: &Notices,
    departure: &Departure,
) -> Infallible {
    if !departure.reason.is_auto_scalings() {
        while !is_terminating(node).await {
            tokio::time::sleep(node.settings.watch.interval).await;
        }
    }
    let patience = Instant::now() + node.settings.leave.deadline;
    let hook = announcer.find_termination_hook(patience).await;
    let deadline = match &hook {
        // Heartbeats hold it from now on, whenever this departure began.
        Some(hook) => OffsetDateTime::now_utc() + hook.longest(),
        // Nothing holds the instance: it has the time that a shutdown gives.
        None => OffsetDateTime::now_utc() + node.settings.leave.shutdown_deadline,
    };
    notices.give(Departure { deadline, ..departure.clone() });
    match hook {
        Some(hook) => hook.keep_alive().await,
        None => std::future::pending().await,
    }
}

async fn is_terminating(node: &Node) -> bool {
    let target = node.imds.fetch_target_lifecycle_state(Instant::now() + ANSWER_WITHIN).await;
    target.is_ok_and(|target| target.as_ref().is_some_and(TargetState::is_termination))
}

/// Completes the hook, if Auto Scaling is what ends this instance.
pub async fn complete(node: &Node, announcer: &Announcer, departure: &Departure, outcome: Outcome) {
    if !departure.reason.is_auto_scalings() && !is_terminating(node).await {
        return;
    }
    let deadline = Instant::now() + node.settings.leave.shutdown_deadline;
    if let Some(hook) = announcer.find_termination_hook(deadline).await {
        node.state.enter(Phase::Leaving, "completing the termination hook");
        // Either result terminates the instance; this one says whether it was ready for that.
        let result = match outcome {
            Outcome::TooLate | Outcome::Failed => HookResult::Abandon,
            Outcome::Left
            | Outcome::LeftUnconfirmed
            | Outcome::NothingToLeave
            | Outcome::Stayed => HookResult::Continue,
        };
        hook.complete(result).await;
    }
}
