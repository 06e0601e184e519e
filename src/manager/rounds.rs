//! What managers look at again and again.

use std::convert::Infallible;
use std::time::Duration;

use super::act::CareError;
use crate::node::Node;

/// How soon a worker notices that it has been promoted.
const WORKER_INTERVAL: Duration = Duration::from_secs(15);

/// The first round of those for which a node waits. The others have time, and do not all ask AWS at once when
/// all boot.
pub(super) const AT_ONCE: Duration = Duration::ZERO;

/// Looks for as long as this node is a manager, and pauses for as long as each look says; never returns.
/// A node that was none meanwhile begins with nothing in its memory, and after `first`. `what` failed is
/// said once, until a look succeeds or something else fails; the pause is `after_failure` then.
pub(super) async fn go<Memory: Default>(
    node: &Node,
    what: &str,
    (first, after_failure): (Duration, Duration),
    mut look: impl AsyncFnMut(&mut Memory) -> Result<Duration, CareError>,
) -> Infallible {
    loop {
        until_manager(node).await;
        let (mut memory, mut said) = (Memory::default(), String::new());
        let mut pause = first;
        loop {
            tokio::time::sleep(pause).await;
            pause = match look(&mut memory).await {
                Ok(pause) => {
                    said.clear();
                    pause
                }
                Err(error) if error.is_not_manager() => break,
                Err(error) => {
                    let complaint = crate::errors::chain(&error);
                    if said != complaint {
                        tracing::warn!("{what}: {complaint}");
                        said = complaint;
                    }
                    after_failure
                }
            };
        }
        // In the middle of a demotion the two may disagree for a while.
        tokio::time::sleep(after_failure).await;
    }
}

/// Returns once this node is a manager. It asks Docker about this host alone: a worker that asks for the
/// swarm gets a refusal, which Docker writes into its log each time.
async fn until_manager(node: &Node) {
    while !node.swarm.fetch_local_node().await.is_ok_and(|local| local.is_manager) {
        tokio::time::sleep(WORKER_INTERVAL).await;
    }
}
