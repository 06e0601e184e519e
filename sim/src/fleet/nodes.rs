//! Reads the instances' entries of the node list, and changes them as an operator does.

use std::time::Duration;

use anyhow::Context;
use bollard::models::{Node, NodeSpec};
use bollard::query_parameters::UpdateNodeOptionsBuilder;

use super::{Fleet, Instance};

/// Other writers change the same entry, and an election takes time.
const UPDATE_PATIENCE: Duration = Duration::from_secs(120);

impl Fleet {
    /// The entry of an instance's node in the managers' list.
    ///
    /// # Errors
    /// When it has none, or no manager answers.
    pub async fn listed(&self, instance: &Instance) -> anyhow::Result<Node> {
        let address = instance.address().to_string();
        let is_its = |node: &Node| {
            node.status.as_ref().and_then(|status| status.addr.as_ref()) == Some(&address)
        };
        let found = self.nodes().await?.into_iter().find(is_its);
        found.with_context(|| format!("{address}: not listed"))
    }

    /// `docker node update` by an operator.
    ///
    /// # Errors
    /// When no manager accepts it.
    pub async fn operate(
        &self,
        instance: &Instance,
        edit: impl Fn(&mut NodeSpec),
    ) -> anyhow::Result<()> {
        // Another writer may change the entry in between.
        self.wait_until("an operator's update", UPDATE_PATIENCE, async || {
            let node = self.listed(instance).await?;
            let version = node.version.and_then(|version| version.index).context("no version")?;
            let options = UpdateNodeOptionsBuilder::default().version(version.try_into()?).build();
            let mut spec = node.spec.context("no spec")?;
            edit(&mut spec);
            let (id, docker) = (node.id.context("no id")?, self.manager_docker().await?);
            docker.update_node(&id, spec, options).await?;
            Ok(true)
        })
        .await
    }
}
