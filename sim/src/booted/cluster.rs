//! Reads the swarm that UserData forms, as its managers list it.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use bollard::models::{Node, NodeState};

use super::{BootedFleet, BootedInstance};
use crate::fleet::swarm::wait_for;

/// Time for one manager to answer before the next one is asked.
const ANSWER_PATIENCE: Duration = Duration::from_secs(5);
/// Lines of each console that go into an error.
const TAIL: usize = 15;

impl BootedFleet {
    /// Polls `look` until it returns a value. Errors of `look` only count at the timeout.
    ///
    /// # Errors
    ///
    /// At the timeout: `what`, the last error, and the end of every console.
    pub async fn wait_for<T, F>(&self, what: &str, timeout: Duration, look: F) -> anyhow::Result<T>
    where
        F: AsyncFnMut() -> anyhow::Result<Option<T>>,
    {
        wait_for(what, timeout, look, || self.report()).await
    }

    /// Waits for a condition with [`BootedFleet::wait_for`].
    pub async fn wait_until<F>(
        &self,
        what: &str,
        timeout: Duration,
        mut look: F,
    ) -> anyhow::Result<()>
    where
        F: AsyncFnMut() -> anyhow::Result<bool>,
    {
        self.wait_for(what, timeout, async || Ok(look().await?.then_some(()))).await
    }

    /// A manager that answers.
    pub async fn manager(&self) -> anyhow::Result<Arc<BootedInstance>> {
        for instance in self.instances() {
            let Ok(docker) = instance.docker().await else { continue };
            let nodes = tokio::time::timeout(ANSWER_PATIENCE, docker.list_nodes(None)).await;
            if matches!(nodes, Ok(Ok(_))) {
                return Ok(instance);
            }
        }
        anyhow::bail!("no manager answers")
    }

    /// The swarm's nodes, as a live manager lists them.
    pub async fn nodes(&self) -> anyhow::Result<Vec<Node>> {
        Ok(self.manager().await?.docker().await?.list_nodes(None).await?)
    }

    /// Waits until the node list has exactly this number of managers and workers, all of them ready.
    pub async fn wait_formed(
        &self,
        managers: usize,
        workers: usize,
        timeout: Duration,
    ) -> anyhow::Result<Vec<Node>> {
        let what = format!("one swarm of {managers} managers and {workers} workers");
        self.wait_for(&what, timeout, async || {
            let nodes = self.nodes().await?;
            let ready = |node: &Node| {
                node.status.as_ref().and_then(|status| status.state) == Some(NodeState::READY)
            };
            let leads = |node: &Node| node.manager_status.is_some();
            let found = (nodes.iter().filter(|node| leads(node)).count(), nodes.len());
            ensure!(found == (managers, managers + workers), "{found:?} managers and nodes");
            let unready = nodes.iter().find(|node| !ready(node)).and_then(|node| node.id.clone());
            ensure!(unready.is_none(), "not ready: {}", unready.unwrap_or_default());
            Ok(Some(nodes))
        })
        .await
    }

    /// The state of every instance and the end of its console, for a developer who looks for the cause.
    pub fn report(&self) -> String {
        let mut report = format!("run in {}", self.dir().display());
        for instance in self.all_instances() {
            let state = match (instance.is_gone(), instance.is_on()) {
                (true, _) => "gone",
                (_, true) => "on",
                (_, false) => "off",
            };
            let (launch, console) = (instance.launch(), instance.console());
            let lines: Vec<&str> = console.lines().filter(|line| !line.trim().is_empty()).collect();
            report += &format!(
                "\n── {} {} {}: {state}\n   {}",
                launch.instance_id,
                launch.private_address,
                launch.group,
                lines[lines.len().saturating_sub(TAIL)..].join("\n   ")
            );
        }
        report
    }
}

/// Reads a file of `userdata/`, with its placeholders.
pub fn user_data(name: &str) -> anyhow::Result<String> {
    let file = super::images::workspace().join("userdata").join(name);
    std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))
}
