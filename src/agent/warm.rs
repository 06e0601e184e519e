//! Warm pools: an instance that was prepared ahead, or has come back, is no node until it is taken into
//! service.

use std::time::Duration;

use tokio::time::Instant;

use crate::announce::Announcer;
use crate::boot;
use crate::imds::TargetState;
use crate::instance::{Departure, Reason};
use crate::node::Node;
use crate::state::Phase;
use crate::systemd;
use crate::watch::Notices;

/// The metadata is asked this long; the next look comes soon.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// How the time before boot went.
pub enum Wait {
    /// The instance is in its group, or in none.
    None,
    /// It was in a warm pool, and has been taken into service.
    Over,
    /// It goes without having served: there is nothing to leave.
    Ended(Departure),
    /// It is still a member: skep has died while it went back into the pool.
    MustLeave,
}

/// Waits for as long as the instance is in a warm pool. `is_pooled` is what the metadata has said, if
/// anything.
pub async fn await_service(
    node: &Node,
    announcer: &Announcer,
    notices: &Notices,
    is_pooled: Option<bool>,
) -> Wait {
    let is_pooled = match is_pooled {
        Some(known) => known,
        None => announcer.is_in_warm_pool().await,
    };
    if !is_pooled {
        return Wait::None;
    }
    node.state.enter(Phase::Warmed, "waiting to be taken into service");
    // A unit that is not started by now would be killed for that.
    systemd::notify_ready();
    tokio::select! {
        biased;
        departure = given_in_the_pool(notices) => Wait::Ended(departure),
        () = until_in_service(node) => Wait::Over,
        () = until_found_a_member(node) => Wait::MustLeave,
        never = admit(node, announcer) => match never {},
    }
}

/// That the pool wants the instance back is no news: it is there.
async fn given_in_the_pool(notices: &Notices) -> Departure {
    loop {
        let departure = notices.given().await;
        if departure.reason != Reason::Pool {
            return departure;
        }
        notices.forget_pool();
    }
}

/// Returns if Docker is in a swarm as the very node that this instance's row names. A row goes with the
/// node; an instance that was only prepared has none.
async fn until_found_a_member(node: &Node) {
    /// Docker may be starting.
    const RETRY_INTERVAL: Duration = Duration::from_secs(5);
    loop {
        let local = node.swarm.fetch_local_node().await;
        let row = node.ledger.fetch_member(node.role, &node.instance.id).await;
        match (local, row) {
            (Ok(local), Ok(Some(row))) if local.node_id.as_ref() == Some(&row.node_id) => return,
            (Ok(_), Ok(_)) => std::future::pending().await,
            _ => tokio::time::sleep(RETRY_INTERVAL).await,
        }
    }
}

async fn admit(node: &Node, announcer: &Announcer) -> std::convert::Infallible {
    boot::finish_before_the_pool(node).await;
    announcer.warmed().await;
    std::future::pending().await
}

async fn until_in_service(node: &Node) {
    loop {
        tokio::time::sleep(node.settings.watch.interval).await;
        let deadline = Instant::now() + ANSWER_WITHIN;
        match node.imds.fetch_target_lifecycle_state(deadline).await {
            Ok(target) if is_taken(target.as_ref()) => return,
            // Errors are the watch's to tell, which asks the same service.
            _ => {}
        }
    }
}

/// Whether an instance of the pool has been taken out of it in order to live. A termination is a
/// notice, which ends the wait by itself.
fn is_taken(target: Option<&TargetState>) -> bool {
    target.is_some_and(|target| !target.is_pooled() && !target.is_termination())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_of_the_pool_waits_until_it_is_taken_into_service() {
        let waits = |target: &str| TargetState::from(target).is_pooled();
        for target in ["Stopped", "Running", "Hibernated", "Terminated", "Elsewhere"] {
            assert!(waits(&format!("Warmed:{target}")));
        }
        for target in ["InService", "Standby", "Detached", "Terminated"] {
            assert!(!waits(target));
        }
    }

    #[test]
    fn neither_silence_nor_a_termination_takes_it_into_service() {
        let taken = |target: &str| is_taken(Some(&TargetState::from(target)));
        assert!(taken("InService"));
        assert!(["Warmed:Running", "Warmed:Terminated", "Terminated"].iter().all(|it| !taken(it)));
        assert!(!is_taken(None));
    }
}
