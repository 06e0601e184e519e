//! The engine itself: its version and how it is set up.

use std::path::{Path, PathBuf};

use bollard::models::SystemInfo;

use super::{Swarm, SwarmError};

/// What Docker calls its storage driver where images are containerd's.
const SNAPSHOTTER: &str = "io.containerd.snapshotter.v1";
/// Of a containerd that dockerd has started itself, below its own root.
const OWN_CONTAINERD: &str = "containerd/daemon";
/// Where containerd of the distribution or of Docker's package reads its settings, and its root without any.
const CONTAINERD_CONFIG: &str = "/etc/containerd/config.toml";
const CONTAINERD_ROOT: &str = "/var/lib/containerd";

/// What `/info` says of the daemon.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Engine {
    pub version: String,
    /// Where volumes and logs are; images and containers, too, unless `image_dir` says otherwise.
    pub root_dir: Option<PathBuf>,
    /// Where images and containers are, where that is containerd's root: so by default on an engine that was
    /// installed anew as 29 or later.
    pub image_dir: Option<PathBuf>,
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
        let image_dir = image_dir(&info, Path::new(CONTAINERD_CONFIG)).await;
        let pools = info.default_address_pools.unwrap_or_default();
        let cluster = info.swarm.and_then(|swarm| swarm.cluster);
        Ok(Engine {
            version: info.server_version.unwrap_or_default(),
            root_dir: info.docker_root_dir.filter(|dir| !dir.is_empty()).map(PathBuf::from),
            image_dir,
            live_restore: info.live_restore_enabled.unwrap_or_default(),
            bridge_pools: pools.into_iter().filter_map(|pool| pool.base).collect(),
            overlay_pools: cluster.and_then(|cluster| cluster.default_addr_pool),
        })
    }
}

/// Docker names the socket of its containerd, and not the root: that is in containerd's own settings.
async fn image_dir(info: &SystemInfo, config: &Path) -> Option<PathBuf> {
    let rows = info.driver_status.iter().flatten();
    let mut drivers = rows.filter(|row| row.first().is_some_and(|key| key == "driver-type"));
    if !drivers.any(|row| row.get(1).is_some_and(|driver| driver == SNAPSHOTTER)) {
        return None;
    }
    let socket = info.containerd.as_ref().and_then(|it| it.address.as_deref());
    if socket.is_some_and(|socket| socket.contains("/docker/containerd/")) {
        let root = info.docker_root_dir.as_ref()?;
        return Some(Path::new(root).join(OWN_CONTAINERD));
    }
    let text = tokio::fs::read_to_string(config).await.unwrap_or_default();
    Some(containerd_root(&text).unwrap_or_else(|| PathBuf::from(CONTAINERD_ROOT)))
}

/// `root = "…"` before any section.
fn containerd_root(config: &str) -> Option<PathBuf> {
    let settings: toml::Table = config.parse().ok()?;
    let root = settings.get("root")?.as_str()?;
    (!root.is_empty()).then(|| PathBuf::from(root))
}

#[cfg(test)]
mod tests {
    use bollard::models::ContainerdInfo;

    use super::*;

    fn info(driver_type: &str, socket: &str) -> SystemInfo {
        let row = |key: &str, value: &str| vec![key.to_owned(), value.to_owned()];
        SystemInfo {
            docker_root_dir: Some("/var/lib/docker".into()),
            driver_status: Some(vec![
                row("Supports d_type", "true"),
                row("driver-type", driver_type),
            ]),
            containerd: Some(ContainerdInfo {
                address: Some(socket.into()),
                ..ContainerdInfo::default()
            }),
            ..SystemInfo::default()
        }
    }

    #[tokio::test]
    async fn images_are_below_containerds_root_where_docker_says_so() {
        const SYSTEM: &str = "/run/containerd/containerd.sock";
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("config.toml");
        assert_eq!(image_dir(&SystemInfo::default(), &config).await, None);
        assert_eq!(image_dir(&info("overlay2", SYSTEM), &config).await, None);
        let of_system = info(SNAPSHOTTER, SYSTEM);
        assert_eq!(image_dir(&of_system, &config).await, Some(CONTAINERD_ROOT.into()));
        std::fs::write(&config, "version = 2\nroot = \"/data/containerd\"\n[grpc]\n").unwrap();
        assert_eq!(image_dir(&of_system, &config).await, Some("/data/containerd".into()));
        let own = info(SNAPSHOTTER, "/var/run/docker/containerd/containerd.sock");
        let expected = Some("/var/lib/docker/containerd/daemon".into());
        assert_eq!(image_dir(&own, &config).await, expected);
    }
}
