//! Reports to Auto Scaling that a node serves, also after it returns from Standby or is attached to a group again.

use std::convert::Infallible;
use std::time::Duration;

use tokio::time::Instant;

use super::delayed_success;
use crate::common::errors::chain;
use crate::common::state::NodeState;
use crate::lifecycle::signals::Announcer;
use crate::node::Node;

/// How long the signal waits for missing tags.
const TAGS_WITHIN: Duration = Duration::from_secs(5);

/// Reports that the node is Ready, and again when it returns from Standby, or is attached to a group after it was
/// detached: it then passes through `Pending`, where a launch hook may hold it again. `began` is the start of a first
/// boot. Never returns.
pub async fn announce(
    node: &Node,
    announcer: &Announcer,
    mut began: Option<Instant>,
) -> Infallible {
    let mut state = node.state.subscribe();
    loop {
        if node.state.now().is_out_of_its_group() {
            announcer.forget_launch().await;
            // `node` owns the sender, so neither wait can fail.
            let _ = state.wait_for(|state| !state.is_out_of_its_group()).await;
        }
        let announcer = with_late_tags(node, announcer).await;
        delayed_success::delay(node, &announcer, began.take()).await;
        announcer.ready().await;
        let _ = state.wait_for(NodeState::is_out_of_its_group).await;
    }
}

/// Returns an announcer with the tags: they name the stack and the group, and may be the last item in the metadata.
async fn with_late_tags(node: &Node, announcer: &Announcer) -> Announcer {
    if !node.instance.tags.is_empty() {
        return announcer.clone();
    }
    match node.imds.fetch_tags_of(&node.instance, Instant::now() + TAGS_WITHIN).await {
        Ok(instance) => announcer.of(instance),
        Err(error) => {
            tracing::debug!("{}", chain(&error));
            announcer.clone()
        }
    }
}
