//! What managers look at again and again.

use std::convert::Infallible;
use std::time::Duration;

use super::error::ManagerError;
use crate::clients::docker::SwarmError;
use crate::node::Node;

/// How soon a worker notices that it has been promoted. Its own care asks Docker a little more often than that, and
/// everybody else who waits for it shares the answer.
pub(super) const WORKER_INTERVAL: Duration = Duration::from_secs(20);

/// The first round of those for which a node waits. The others have time, and do not all ask AWS at once when
/// all boot.
pub(super) const AT_ONCE: Duration = Duration::ZERO;

/// Looks for as long as this node is a manager, and pauses for as long as each look says; never returns.
/// A node that was none meanwhile begins with nothing in its memory, and after `first`. `what` failed is
/// said once, until a look succeeds or something else fails; the pause is `after_failure` then. That there
/// is no leader is said elsewhere, once for all of them.
pub(super) async fn go<Memory: Default>(
    node: &Node,
    what: &str,
    (first, after_failure): (Duration, Duration),
    mut look: impl AsyncFnMut(&mut Memory) -> Result<Duration, ManagerError>,
) -> Infallible {
    loop {
        until_manager(node).await;
        let (mut memory, mut said) = (Memory::default(), Said::default());
        let mut pause = first;
        loop {
            tokio::time::sleep(pause).await;
            pause = match look(&mut memory).await {
                Ok(pause) => {
                    said = Said::default();
                    pause
                }
                Err(error) if error.is_not_manager() => break,
                Err(error) => {
                    if let Some(complaint) = said.news(&error) {
                        tracing::warn!("{what}: {complaint}");
                    }
                    after_failure
                }
            };
        }
        // In the middle of a demotion the two may disagree for a while.
        tokio::time::sleep(after_failure).await;
    }
}

/// What was said of looks that failed one after the other.
#[derive(Default)]
struct Said {
    complaint: String,
    was_silent: bool,
}

impl Said {
    /// What is to be said of this one, if anything.
    fn news(&mut self, error: &ManagerError) -> Option<String> {
        // A call that was under way when the leader went has no answer. The next one says which it was.
        let is_silent = error.of_docker().is_some_and(SwarmError::is_silence);
        let is_first = !std::mem::replace(&mut self.was_silent, is_silent);
        if error.has_no_leader() || (is_silent && is_first) {
            return None;
        }
        let complaint = crate::common::errors::chain(error);
        if self.complaint == complaint {
            return None;
        }
        self.complaint.clone_from(&complaint);
        Some(complaint)
    }
}

/// Returns once this node is a manager. It asks Docker about this host alone: a worker that asks for the
/// swarm gets a refusal, which Docker writes into its log each time.
async fn until_manager(node: &Node) {
    while !node.swarm.is_manager_lately(WORKER_INTERVAL).await.is_yes() {
        tokio::time::sleep(WORKER_INTERVAL / 4).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clients::docker::SwarmErrorKind;

    fn failed(kind: SwarmErrorKind) -> ManagerError {
        SwarmError { operation: "list the nodes", kind, message: format!("{kind:?}") }.into()
    }

    #[test]
    fn a_leader_that_is_gone_is_no_line_of_each_loop() {
        let (mut said, mut other) = (Said::default(), Said::default());
        let (gone, silent) = (failed(SwarmErrorKind::NoLeader), failed(SwarmErrorKind::TimedOut));
        for error in [&silent, &gone, &gone, &silent, &gone] {
            assert_eq!(said.news(error), None);
        }
        let first = [&silent, &silent, &silent].map(|error| other.news(error).is_some());
        assert_eq!(first, [false, true, false], "a Docker that hangs is said once");
        let refused = failed(SwarmErrorKind::Unreachable);
        assert!(said.news(&refused).is_some() && said.news(&refused).is_none());
    }
}
