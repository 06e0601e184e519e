//! Which instance a command is about.

use anyhow::bail;
use clap::Args;
use skep_sim::cloud::InstanceView;

use super::current::Endpoint;

#[derive(Debug, Args)]
pub struct OfInstance {
    /// Id of the instance, how it begins, or its address
    #[arg(value_name = "INSTANCE")]
    pub name: String,
    #[command(flatten)]
    pub endpoint: Endpoint,
}

impl OfInstance {
    /// The whole id.
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
