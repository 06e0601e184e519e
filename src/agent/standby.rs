//! What Auto Scaling is told of a node that serves, also of one that comes back from Standby.

use std::convert::Infallible;

use crate::announce::Announcer;
use crate::instance::Quiet;
use crate::node::Node;

/// Says that the node is Ready, and again when it is back from Standby: the group takes it in by way of
/// `Pending` then, where a launch hook may hold it once more. Never returns.
pub async fn announce(node: &Node, announcer: &Announcer) -> Infallible {
    let mut state = node.state.subscribe();
    let is_standby = |quiet: Option<Quiet>| quiet == Some(Quiet::Standby);
    loop {
        if is_standby(node.state.now().quiet) {
            announcer.forget_launch().await;
            // The sender is in `node`, so neither wait can fail.
            let _ = state.wait_for(|state| !is_standby(state.quiet)).await;
        }
        announcer.ready().await;
        let _ = state.wait_for(|state| is_standby(state.quiet)).await;
    }
}
