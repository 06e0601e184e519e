//! What Auto Scaling is told of a node that serves, also of one that comes back from Standby or was detached.

use std::convert::Infallible;
use std::time::Duration;

use tokio::time::Instant;

use crate::common::state::NodeState;
use crate::lifecycle::signals::Announcer;
use crate::node::Node;

/// Tags that are not there by now do not hold a signal up.
const TAGS_WITHIN: Duration = Duration::from_secs(5);

/// Says that the node is Ready, and again when it is back from Standby, or attached to a group after it was
/// detached: the group takes it in by way of `Pending` then, where a launch hook may hold it once more. Never
/// returns.
pub async fn announce(node: &Node, announcer: &Announcer) -> Infallible {
    let mut state = node.state.subscribe();
    loop {
        if node.state.now().is_out_of_its_group() {
            announcer.forget_launch().await;
            // The sender is in `node`, so neither wait can fail.
            let _ = state.wait_for(|state| !state.is_out_of_its_group()).await;
        }
        with_late_tags(node, announcer).await.ready().await;
        let _ = state.wait_for(NodeState::is_out_of_its_group).await;
    }
}

/// Stack and group are known by the tags, which may come to the metadata later than all else.
async fn with_late_tags(node: &Node, announcer: &Announcer) -> Announcer {
    if !node.instance.tags.is_empty() {
        return announcer.clone();
    }
    match node.imds.fetch_tags_of(&node.instance, Instant::now() + TAGS_WITHIN).await {
        Ok(instance) => announcer.of(instance),
        Err(error) => {
            tracing::debug!("{}", crate::common::errors::chain(&error));
            announcer.clone()
        }
    }
}
