//! Finds the instance that a command names.

use anyhow::bail;
use clap::Args;
use skep_sim::cloud::InstanceView;

use super::current::Endpoint;

#[derive(Debug, Args)]
pub struct OfInstance {
    /// Id of the instance, the beginning of its id, or its address
    #[arg(value_name = "INSTANCE")]
    pub name: String,
    #[command(flatten)]
    pub endpoint: Endpoint,
}

impl OfInstance {
    /// Returns the complete id.
    pub async fn id(&self) -> anyhow::Result<String> {
        let instances: Vec<InstanceView> = self.endpoint.get("instances").await?;
        let is_meant = |view: &&InstanceView| {
            view.id.starts_with(&self.name) || view.address.to_string() == self.name
        };
        let mut found = instances.iter().filter(is_meant);
        match (found.next(), found.next()) {
            (Some(view), None) => Ok(view.id.clone()),
            (None, _) => bail!("no instance is called {}; see `skep-sim list`", self.name),
            (Some(_), Some(_)) => bail!("more than one instance begins with {}", self.name),
        }
    }
}
