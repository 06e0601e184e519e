//! Warm pools: an instance that was prepared ahead is no node until it is taken into service.

use std::time::Duration;

use tokio::time::Instant;

use crate::announce::Announcer;
use crate::imds::TargetState;
use crate::instance::Departure;
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
}

/// Waits for as long as the instance is in a warm pool. `target` is what the metadata has said at
/// the start.
pub async fn await_service(
    node: &Node,
    announcer: &Announcer,
    notices: &Notices,
    target: Option<TargetState>,
) -> Wait {
    let is_pooled = match is_pooled(target.as_ref()) {
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
        departure = notices.given() => Wait::Ended(departure),
        () = until_in_service(node) => Wait::Over,
        never = admit(announcer) => match never {},
    }
}

async fn admit(announcer: &Announcer) -> std::convert::Infallible {
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

/// Whether the target is in a warm pool; `None` where it does not tell.
fn is_pooled(target: Option<&TargetState>) -> Option<bool> {
    target.map(|target| target.as_str().starts_with("Warmed:"))
}

/// Whether an instance of the pool has been taken out of it in order to live. A termination is a
/// notice, which ends the wait by itself.
fn is_taken(target: Option<&TargetState>) -> bool {
    is_pooled(target) == Some(false) && target != Some(&TargetState::Terminated)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_of_the_pool_waits_until_it_is_taken_into_service() {
        let waits = |target: &str| is_pooled(Some(&TargetState::from(target)));
        for target in ["Stopped", "Running", "Hibernated", "Terminated", "Elsewhere"] {
            assert_eq!(waits(&format!("Warmed:{target}")), Some(true));
        }
        for target in ["InService", "Standby", "Detached", "Terminated"] {
            assert_eq!(waits(target), Some(false));
        }
        assert_eq!(is_pooled(None), None, "Auto Scaling has to say");
    }

    #[test]
    fn neither_silence_nor_a_termination_takes_it_into_service() {
        let taken = |target: &str| is_taken(Some(&TargetState::from(target)));
        assert!(taken("InService"));
        assert!(["Warmed:Running", "Warmed:Terminated", "Terminated"].iter().all(|it| !taken(it)));
        assert!(!is_taken(None));
    }
}
