//! How a fleet is to be: every field has a default that suits a test.

use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::Instance;

/// What systemd gives the services of a machine that shuts down, by default.
pub const SHUTDOWN: Duration = Duration::from_secs(90);
/// `RestartSec` of docker.service.
pub const DOCKER_PAUSE: Duration = Duration::from_secs(2);

/// Called for every instance before it is switched on: the place to drop a `skep.toml` or a stub
/// command.
pub type Prepare = Arc<dyn Fn(&Instance) -> anyhow::Result<()> + Send + Sync>;

/// What [`crate::fleet::Fleet::start`] builds.
#[derive(Clone)]
pub struct FleetOptions {
    /// Where the run's directory is made. Sockets live below it: keep the path short.
    pub dir: PathBuf,
    /// Keep each instance's logs and events after the run; data roots are always removed.
    pub keep_logs: bool,
    /// The private network. Every run has it for itself; its first address is the gateway.
    pub subnet: (Ipv4Addr, u8),
    pub region: String,
    /// Names of the availability zones.
    pub zones: Vec<String>,
    /// Seed of everything that the cloud draws.
    pub seed: u64,
    /// The skep binary; `None` starts instances without skep.
    pub skep: Option<PathBuf>,
    /// Environment of skep beyond the usual.
    pub skep_env: BTreeMap<String, String>,
    /// `skep.toml` of every instance.
    pub config: Option<String>,
    pub prepare: Option<Prepare>,
    /// Of skep.
    pub restart: Restart,
    /// Of dockerd.
    pub docker_restart: Restart,
    pub docker_start: DockerStart,
    pub power_off: PowerOff,
    /// A folder with another engine (dockerd, containerd, runc), put first in the PATH.
    pub engine: Option<PathBuf>,
    /// Names that instances find at the AWS gateway, such as that of a registry.
    pub hosts: Vec<String>,
    /// Tasks pull their images; otherwise they run what is preloaded, and ask no registry.
    pub pulls: bool,
    /// A second swarm in one cluster is a failure of [`crate::fleet::Fleet::stop`].
    pub one_swarm: bool,
    /// Swarms have Docker's network for published ports. Without it a scenario costs a quarter less.
    pub ingress: bool,
    /// More keys for each `daemon.json`; they win.
    pub daemon: serde_json::Map<String, serde_json::Value>,
}

impl Default for FleetOptions {
    fn default() -> Self {
        FleetOptions {
            dir: default_dir(),
            keep_logs: true,
            subnet: (Ipv4Addr::new(10, 78, 0, 0), 24),
            region: "eu-central-1".to_owned(),
            zones: ["a", "b", "c"].map(|zone| format!("eu-central-1{zone}")).to_vec(),
            seed: 1,
            skep: None,
            skep_env: BTreeMap::new(),
            config: None,
            prepare: None,
            restart: Restart::OnFailure(Duration::from_secs(1)),
            docker_restart: Restart::Never,
            docker_start: DockerStart::WithSkep,
            power_off: PowerOff::Cut,
            engine: None,
            hosts: Vec::new(),
            pulls: false,
            one_swarm: false,
            ingress: true,
            daemon: serde_json::Map::new(),
        }
    }
}

impl fmt::Debug for FleetOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FleetOptions")
            .field("dir", &self.dir)
            .field("skep", &self.skep)
            .field("engine", &self.engine)
            .finish_non_exhaustive()
    }
}

/// What the supervisor does when its program ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restart {
    Never,
    /// Starts the program again, after this pause (systemd's `RestartSec`). skep after a failure, as
    /// `Restart=on-failure` does, but never after exit code 78. dockerd after every end that nobody
    /// asked for, as docker.service's `Restart=always` does, and without its limit of three starts
    /// in a minute.
    OnFailure(Duration),
}

/// When an instance's dockerd starts, seen from skep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DockerStart {
    /// Both at once: skep has to wait for Docker itself.
    WithSkep,
    /// skep starts once the Docker API answers.
    BeforeSkep,
    /// So long after skep.
    AfterSkep(Duration),
    /// Only [`Instance::start_dockerd`] starts it.
    Manual,
}

/// How a machine that is terminated goes down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PowerOff {
    /// The power is cut: no process hears of it.
    Cut,
    /// The OS shuts down: SIGTERM for skep, then for dockerd, with so long for each; then the
    /// power is cut.
    Clean(Duration),
}

/// `$SKEP_SIM_DIR`, or `target/sim` of this workspace.
pub fn default_dir() -> PathBuf {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent();
    std::env::var_os("SKEP_SIM_DIR").map_or_else(
        || workspace.unwrap_or(Path::new("/var/tmp")).join("target").join("sim"),
        PathBuf::from,
    )
}
