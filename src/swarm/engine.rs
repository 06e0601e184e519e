//! The engine itself: its version and how it is set up.

use std::path::PathBuf;

use super::{Swarm, SwarmError};

/// What `/info` says of the daemon.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Engine {
    pub version: String,
    /// Where images, containers and volumes are.
    pub root_dir: Option<PathBuf>,
    pub live_restore: bool,
    /// Of bridges, as `default-address-pools` has them; none where that is not set.
    pub bridge_pools: Vec<String>,
    /// Of overlay networks; a manager alone knows.
    pub overlay_pools: Option<Vec<String>>,
}

impl Swarm {
    /// The engine, now.
    ///
    /// # Errors
    /// When Docker does not answer.
    pub async fn fetch_engine(&self) -> Result<Engine, SwarmError> {
        let info = self.call("read /info", |docker| async move { docker.info().await }).await?;
        let pools = info.default_address_pools.unwrap_or_default();
        let cluster = info.swarm.and_then(|swarm| swarm.cluster);
        Ok(Engine {
            version: info.server_version.unwrap_or_default(),
            root_dir: info.docker_root_dir.filter(|dir| !dir.is_empty()).map(PathBuf::from),
            live_restore: info.live_restore_enabled.unwrap_or_default(),
            bridge_pools: pools.into_iter().filter_map(|pool| pool.base).collect(),
            overlay_pools: cluster.and_then(|cluster| cluster.default_addr_pool),
        })
    }
}
