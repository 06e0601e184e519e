//! Creates the [`Node`] of this host, for commands that work without a running skep.

use std::time::Duration;

use tokio::time::Instant;

use crate::clients::aws::Aws;
use crate::clients::docker::Swarm;
use crate::clients::imds::Imds;
use crate::common::state::StateHandle;
use crate::config::Settings;
use crate::node::{Node, assemble};
use crate::telemetry::notifications::Events;

/// Time limit for the metadata, which answer in milliseconds on an instance.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// Reads the instance metadata, and creates the node with its clients. Calls neither AWS nor Docker yet, and sends no
/// event.
///
/// # Errors
/// When the metadata do not answer, or neither settings nor tags name the cluster and the role.
pub async fn this_node(settings: &Settings) -> anyhow::Result<Node> {
    let imds = Imds::from_env()?;
    let instance = imds.fetch_instance(Instant::now() + ANSWER_WITHIN).await?;
    let docker = Swarm::new(settings.docker.host.to_string());
    let aws = Aws::load(settings.region.as_deref(), &instance.region).await;
    let state = StateHandle::default();
    let events = Events::silent(&state);
    Ok(assemble(settings, instance, imds, docker, &aws, &state, &events)?)
}
