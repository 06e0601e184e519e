//! Nodes as the swarm lists them.

use std::collections::HashMap;

use anyhow::Context;
use bollard::models::NodeSpecAvailabilityEnum;
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
