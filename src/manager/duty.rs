//! Runs a manager's duty as a series of polls.

use std::convert::Infallible;
use std::time::Duration;

use super::error::ManagerError;
use crate::clients::docker::SwarmError;
use crate::node::Node;

/// Time within which a worker notices that it has been promoted. The check of its own membership asks Docker a little
/// more often than that, and every duty that waits for a promotion shares the answer.
pub(super) const WORKER_INTERVAL: Duration = Duration::from_secs(20);

/// First pause of a duty for which a node waits. The other duties have time, and must not all call AWS at once when all
/// managers boot.
pub(super) const AT_ONCE: Duration = Duration::ZERO;

/// Polls for as long as this node is a manager, and pauses for the time that each poll returns; never returns. After a
/// time as a worker the duty starts with an empty memory, and with the pause `first`. A failure of `what` is logged
/// once, until a poll succeeds or fails in another way; the pause after it is `after_failure`. A missing leader is
/// reported elsewhere, once for all duties.
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
        // In the middle of a demotion Docker's answers about this host and about the swarm may disagree for a while.
        tokio::time::sleep(after_failure).await;
    }
}

/// What was logged about polls that failed one after the other.
#[derive(Default)]
struct Said {
    complaint: String,
    was_silent: bool,
}

impl Said {
    /// Returns the text to log for this failure, if it is new.
    fn news(&mut self, error: &ManagerError) -> Option<String> {
        // A call that was under way when the leader disappeared gets no answer. The next call shows whether there is a
        // leader.
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

/// Returns once this node is a manager. Asks Docker about this host alone: a worker that asks about the swarm gets a
/// refusal, which Docker logs each time.
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
        assert_eq!(first, [false, true, false], "a Docker that hangs is logged once");
        let refused = failed(SwarmErrorKind::Unreachable);
        assert!(said.news(&refused).is_some() && said.news(&refused).is_none());
    }
}
