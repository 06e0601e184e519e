//! Reads the version and the set-up of the engine.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use bollard::models::SystemInfo;
use serde_json::{Map, Value, json};

use super::{Swarm, SwarmError};

/// The driver type that Docker reports when containerd stores the images.
const SNAPSHOTTER: &str = "io.containerd.snapshotter.v1";
/// Root of a containerd that dockerd has started itself, relative to Docker's root.
const OWN_CONTAINERD: &str = "containerd/daemon";
/// Configuration file of a containerd from the distribution or from Docker's package, and its default root.
const CONTAINERD_CONFIG: &str = "/etc/containerd/config.toml";
const CONTAINERD_ROOT: &str = "/var/lib/containerd";

/// The fields of `/info` that [`Swarm::describe`] returns. Labels and proxies, which may hold passwords, are not in it.
const DESCRIBED: &[&str] = &[
    "Architecture",
    "CgroupDriver",
    "CgroupVersion",
    "Containers",
    "ContainersPaused",
    "ContainersRunning",
    "ContainersStopped",
    "Debug",
    "DefaultAddressPools",
    "DefaultRuntime",
    "DockerRootDir",
    "Driver",
    "DriverStatus",
    "ExperimentalBuild",
    "FirewallBackend",
    "Images",
    "InitBinary",
    "KernelVersion",
    "LiveRestoreEnabled",
    "LoggingDriver",
    "MemTotal",
    "NCPU",
    "NFd",
    "NGoroutines",
    "OSType",
    "OperatingSystem",
    "SecurityOptions",
    "ServerVersion",
    "SystemTime",
    "Warnings",
];
/// The same for its part `Swarm`. The swarm object itself has labels.
const DESCRIBED_OF_SWARM: &[&str] = &[
    "ControlAvailable",
    "Error",
    "LocalNodeState",
    "Managers",
    "NodeAddr",
    "NodeID",
    "Nodes",
    "RemoteManagers",
];

/// The daemon, as `/info` describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Engine {
    /// Version of the engine, such as `28.5.2`; empty where Docker does not report it.
    pub version: String,
    /// Directory of volumes and logs, and of images and containers unless `image_dir` is set.
    pub root_dir: Option<PathBuf>,
    /// Containerd's root, where it contains the images and containers. This is the default of an engine that was newly
    /// installed as version 29 or later.
    pub image_dir: Option<PathBuf>,
    /// Whether `live-restore` is on, which is incompatible with swarm mode.
    pub live_restore: bool,
    /// Address pools of bridge networks, as in `default-address-pools`; empty where that is not set.
    pub bridge_pools: Vec<String>,
    /// Address pools of overlay networks; only a manager reports them.
    pub overlay_pools: Option<Vec<String>>,
    /// UDP port of overlay networks; only a manager reports it.
    pub data_path_port: Option<u32>,
    /// Address and port of each manager that Docker connects to; on a manager these are all managers.
    pub managers: Vec<SocketAddr>,
}

impl Swarm {
    /// Fetches the present state of the engine.
    ///
    /// # Errors
    /// When Docker does not answer.
    pub async fn fetch_engine(&self) -> Result<Engine, SwarmError> {
        let info = self.call("read /info", |docker| async move { docker.info().await }).await?;
        let image_dir = image_dir(&info, Path::new(CONTAINERD_CONFIG)).await;
        let pools = info.default_address_pools.unwrap_or_default();
        let swarm = info.swarm.unwrap_or_default();
        let remotes = swarm.remote_managers.unwrap_or_default().into_iter();
        let cluster = swarm.cluster;
        Ok(Engine {
            version: info.server_version.unwrap_or_default(),
            root_dir: info.docker_root_dir.filter(|dir| !dir.is_empty()).map(PathBuf::from),
            image_dir,
            live_restore: info.live_restore_enabled.unwrap_or_default(),
            bridge_pools: pools.into_iter().filter_map(|pool| pool.base).collect(),
            data_path_port: cluster.as_ref().and_then(|cluster| cluster.data_path_port),
            overlay_pools: cluster.and_then(|cluster| cluster.default_addr_pool),
            managers: remotes.filter_map(|remote| remote.addr?.parse().ok()).collect(),
        })
    }
}

impl Swarm {
    /// Returns the versions and the set-up of the engine in Docker's own words, for a bug report.
    ///
    /// # Errors
    /// When Docker does not answer.
    pub async fn describe(&self) -> Result<Value, SwarmError> {
        let version =
            self.call("read /version", |docker| async move { docker.version().await }).await?;
        let info = self.call("read /info", |docker| async move { docker.info().await }).await?;
        Ok(json!({ "version": version, "info": described(&json!(info)) }))
    }
}

/// Returns those fields of `/info` that may leave the host.
fn described(info: &Value) -> Value {
    let pick = |of: &Value, names: &[&str]| -> Map<String, Value> {
        let field = |name: &&str| Some(((*name).to_owned(), of.get(name)?.clone()));
        names.iter().filter_map(field).collect()
    };
    let mut picked = pick(info, DESCRIBED);
    picked.insert("Swarm".into(), pick(&info["Swarm"], DESCRIBED_OF_SWARM).into());
    picked.into()
}

/// Returns containerd's root, where it contains the images. Docker reports the socket of its containerd but not the
/// root, which is in containerd's own configuration.
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

/// Reads `root = "…"` before any section.
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
    async fn an_engine_is_described_without_what_may_be_secret() {
        use crate::clients::docker::tests::fake_engine::{FakeEngine, RELEASES};
        let engine = FakeEngine::start(RELEASES[0]);
        let shown = engine.swarm().describe().await.unwrap();
        assert_eq!(shown["version"]["Version"], shown["info"]["ServerVersion"]);
        assert!(shown["info"]["ServerVersion"].is_string(), "{shown}");
        let shown = described(&json!({
            "ServerVersion": "28.5.2", "Labels": ["password=x"], "HttpProxy": "http://u:x@proxy",
            "Swarm": { "LocalNodeState": "active", "Cluster": { "Spec": { "Labels": {} } } },
        }));
        let expected =
            json!({ "ServerVersion": "28.5.2", "Swarm": { "LocalNodeState": "active" } });
        assert_eq!(shown, expected);
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
