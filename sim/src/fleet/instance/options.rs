//! The options of a fleet: every field has a default that suits a test.

use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::Instance;

/// systemd's default stop timeout for services at a shutdown.
pub const SHUTDOWN: Duration = Duration::from_secs(90);
/// `RestartSec` of docker.service.
pub const DOCKER_PAUSE: Duration = Duration::from_secs(2);

/// Called for every instance before it is switched on, for example to write a `skep.toml` or a stub command.
pub type Prepare = Arc<dyn Fn(&Instance) -> anyhow::Result<()> + Send + Sync>;

/// The options of [`crate::fleet::Fleet::start`].
#[derive(Clone)]
pub struct FleetOptions {
    /// Parent of the run's directory. Sockets are below it: keep the path short.
    pub dir: PathBuf,
    /// Keep each instance's logs and events after the run; data roots are always removed.
    pub keep_logs: bool,
    /// The private network. Every run has its own; the first address is the gateway.
    pub subnet: (Ipv4Addr, u8),
    pub region: String,
    /// Names of the availability zones.
    pub zones: Vec<String>,
    /// Seed of all random numbers of the cloud.
    pub seed: u64,
    /// The skep binary; `None` starts instances without skep.
    pub skep: Option<PathBuf>,
    /// Additional environment of skep.
    pub skep_env: BTreeMap<String, String>,
    /// `skep.toml` of every instance.
    pub config: Option<String>,
    pub prepare: Option<Prepare>,
    /// Restart of skep.
    pub restart: Restart,
    /// Restart of dockerd.
    pub docker_restart: Restart,
    pub docker_start: DockerStart,
    pub power_off: PowerOff,
    /// A folder with another engine (dockerd, containerd, runc), put first in the PATH.
    pub engine: Option<PathBuf>,
    /// Instances speak TLS with AWS, and trust the cloud's authority.
    pub tls: bool,
    /// Host names that resolve to the AWS gateway, such as a registry's name.
    pub hosts: Vec<String>,
    /// Tasks pull their images; otherwise they run the preloaded images, and Docker asks no registry.
    pub pulls: bool,
    /// A second swarm in one cluster makes [`crate::fleet::Fleet::stop`] fail.
    pub one_swarm: bool,
    /// Swarms have Docker's network for published ports. Without it a scenario costs a quarter less.
    pub ingress: bool,
    /// More keys for each `daemon.json`; they override the defaults.
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
            tls: false,
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

/// The supervisor's reaction when its program ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restart {
    Never,
    /// Restarts the program after this pause (systemd's `RestartSec`): skep after a failure, as `Restart=on-failure`
    /// does, but never after exit code 78; dockerd after every end that was not requested, as docker.service's
    /// `Restart=always` does, but without its limit of three starts in a minute.
    OnFailure(Duration),
}

/// Start of an instance's dockerd relative to skep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DockerStart {
    /// Both at once: skep must wait for Docker itself.
    WithSkep,
    /// skep starts once the Docker API answers.
    BeforeSkep,
    /// This long after skep.
    AfterSkep(Duration),
    /// Only [`Instance::start_dockerd`] starts it.
    Manual,
}

/// Way in which a terminated machine is switched off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PowerOff {
    /// The power is cut: no process gets a signal first.
    Cut,
    /// The OS shuts down: SIGTERM for skep, then for dockerd, with this time for each; then the power is cut.
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
