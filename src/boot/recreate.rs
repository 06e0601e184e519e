//! A quorum that was lost is re-created on this node: Docker's part of it.
//!
//! Replacements wait for a leader in the middle of a join, and come in the moment there is one: they
//! are told from the managers that were by their rows, which those have of an earlier generation.

use std::collections::BTreeSet;

use super::BootError;
use crate::ledger::{Charter, LedgerError};
use crate::node::Node;
use crate::state::Phase;
use crate::swarm::InitSpec;

/// Makes this node the only manager. The swarm's own labels stay as they are; done twice it does no
/// harm.
pub async fn recreate(node: &Node, claim: &Charter, spec: InitSpec) -> Result<(), BootError> {
    let generation = claim.generation;
    let doing = format!("re-creating the quorum on this node alone, as generation {generation}");
    node.state.enter(Phase::Booting, doing);
    node.swarm.init(InitSpec { force_new_cluster: true, ..spec }).await?;
    tracing::warn!(generation, "this node is the only manager of the swarm now");
    Ok(())
}

/// The nodes of other managers that came in under an earlier generation than this charter's.
pub async fn fetch_former(node: &Node, charter: &Charter) -> Result<BTreeSet<String>, LedgerError> {
    let mut rows = node.ledger.fetch_managers().await?;
    rows.retain(|row| row.generation < charter.generation && row.instance_id != node.instance.id);
    Ok(rows.into_iter().map(|row| row.node_id).collect())
}

/// Takes them off the list. Docker refuses the certificate of such a node, so that none becomes a
/// member of raft again before its own skep has it join anew.
pub async fn strike_out_former(node: &Node, claim: &Charter) -> Result<(), BootError> {
    let former = fetch_former(node, claim).await?;
    let nodes = node.swarm.fetch_nodes().await?;
    for view in nodes.iter().filter(|view| former.contains(&view.id)) {
        node.swarm.remove(&view.id).await?;
        tracing::warn!(node = view.id, address = view.address, "a manager no more: off the list");
    }
    Ok(())
}
