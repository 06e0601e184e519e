//! Nodes as the swarm lists them, and as an operator changes them.

use std::collections::HashMap;

use anyhow::Context;
use bollard::models::{Node, NodeSpec, NodeSpecAvailabilityEnum};
use bollard::query_parameters::UpdateNodeOptionsBuilder;
use skep_sim::fleet::{Fleet, Instance};

use crate::PATIENCE;

/// The entry of an instance's node in the managers' list.
///
/// # Errors
/// When it has none, or no manager answers.
pub async fn listed(fleet: &Fleet, instance: &Instance) -> anyhow::Result<Node> {
    let address = instance.address().to_string();
    let is_its = |node: &Node| {
        node.status.as_ref().and_then(|status| status.addr.as_ref()) == Some(&address)
    };
    fleet.nodes().await?.into_iter().find(is_its).with_context(|| format!("{address}: not listed"))
}

/// The labels of an instance's node.
///
/// # Errors
/// As for [`listed`].
pub async fn labels(fleet: &Fleet, instance: &Instance) -> anyhow::Result<HashMap<String, String>> {
    let spec = listed(fleet, instance).await?.spec.context("a node without a spec")?;
    Ok(spec.labels.unwrap_or_default())
}

/// `docker node update` by an operator.
///
/// # Errors
/// When no manager takes it.
pub async fn operate(
    fleet: &Fleet,
    instance: &Instance,
    edit: impl Fn(&mut NodeSpec),
) -> anyhow::Result<()> {
    // Somebody else may write in between.
    fleet
        .wait_until("an operator's update", PATIENCE, async || {
            let node = listed(fleet, instance).await?;
            let version = node.version.and_then(|version| version.index).context("no version")?;
            let options = UpdateNodeOptionsBuilder::default().version(version.try_into()?).build();
            let mut spec = node.spec.context("no spec")?;
            edit(&mut spec);
            let (id, docker) = (node.id.context("no id")?, fleet.manager_docker().await?);
            docker.update_node(&id, spec, options).await?;
            Ok(true)
        })
        .await
}

/// The availability of an instance's node.
///
/// # Errors
/// As for [`listed`].
pub async fn availability(
    fleet: &Fleet,
    instance: &Instance,
) -> anyhow::Result<NodeSpecAvailabilityEnum> {
    let spec = listed(fleet, instance).await?.spec.context("no spec")?;
    spec.availability.context("no availability")
}
