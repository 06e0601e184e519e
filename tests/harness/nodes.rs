//! Nodes as the swarm lists them.

use std::collections::HashMap;

use anyhow::Context;
use bollard::models::{Node, NodeSpecAvailabilityEnum};
use skep_sim::fleet::{Fleet, Instance};

/// The labels of an instance's node.
///
/// # Errors
/// As for [`Fleet::listed`].
pub async fn labels(fleet: &Fleet, instance: &Instance) -> anyhow::Result<HashMap<String, String>> {
    let spec = fleet.listed(instance).await?.spec.context("a node without a spec")?;
    Ok(spec.labels.unwrap_or_default())
}

/// The availability of an instance's node.
///
/// # Errors
/// As for [`Fleet::listed`].
pub async fn availability(
    fleet: &Fleet,
    instance: &Instance,
) -> anyhow::Result<NodeSpecAvailabilityEnum> {
    let spec = fleet.listed(instance).await?.spec.context("no spec")?;
    spec.availability.context("no availability")
}

/// Whether this many nodes are listed, each of them active.
///
/// # Errors
/// When no manager answers.
pub async fn all_active(fleet: &Fleet, count: usize) -> anyhow::Result<bool> {
    let nodes = fleet.nodes().await?;
    let is_active = |node: &Node| {
        let availability = node.spec.as_ref().and_then(|spec| spec.availability);
        availability == Some(NodeSpecAvailabilityEnum::ACTIVE)
    };
    Ok(nodes.len() == count && nodes.iter().all(is_active))
}
