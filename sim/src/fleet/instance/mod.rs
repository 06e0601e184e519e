//! One instance, as tests and the demo use it.
//!
//! Layout of its directory: `skep.log`, `dockerd.log`, `docker-events.jsonl`, `docker.sock`,
//! `notify.sock`, `etc/skep.toml`, `bin/` (first in skep's PATH), `run/` and `state/`. Docker's data
//! root is elsewhere, and is removed with the instance.

mod daemon;
pub(super) mod options;
mod supervisor;
mod tls;

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use anyhow::{Context, bail};
use bollard::{ClientVersion, Docker};

use crate::cloud::Cloud;
use crate::fleet::clean::busy_children;
use crate::fleet::dockerd::{API_PATIENCE, Dockerd, oldest_api};
use crate::fleet::events::{ContainerEvent, Events};
use crate::fleet::image::Template;
use crate::fleet::machine::Machine;
use crate::fleet::netns::Namespace;
use crate::fleet::notify::{Notification, Notifications};
use crate::fleet::run::Run;
use crate::fleet::timeline::Timeline;
use crate::fleet::wire::Wire;
use crate::machines::Launch;
use daemon::Daemon;
use options::FleetOptions;
use supervisor::Supervisor;

/// The resources that all instances of a run share.
#[derive(Debug)]
pub(crate) struct Site {
    pub run: Run,
    pub options: FleetOptions,
    pub aws: Namespace,
    pub cloud: Cloud,
    pub gateway: Ipv4Addr,
    pub template: Template,
    pub timeline: Timeline,
    /// The cloud can call from any thread; work runs on the runtime that started the fleet.
    pub runtime: tokio::runtime::Handle,
}

/// Power state of the computer.
#[derive(Debug)]
pub(in crate::fleet) enum Power {
    /// Launched, not booted yet, or switched off with its disk kept.
    Off,
    On(Machine),
    /// Terminated and removed.
    Gone,
}

/// An instance of the fleet. It needs little memory after its end; logs and records stay readable.
#[derive(Debug)]
pub struct Instance {
    pub(in crate::fleet) launch: Launch,
    pub(in crate::fleet) site: Arc<Site>,
    pub(in crate::fleet) dir: PathBuf,
    pub(in crate::fleet) netns: Namespace,
    pub(in crate::fleet) dockerd: Dockerd,
    /// Serialises launch, stop and start.
    pub(in crate::fleet) turn: Arc<tokio::sync::Mutex<()>>,
    /// Held while the machine is made, switched on or removed.
    pub(in crate::fleet) switching: Mutex<()>,
    /// Held only for short times.
    pub(in crate::fleet) power: Mutex<Power>,
    pub(in crate::fleet) supervisor: Supervisor,
    pub(in crate::fleet) notifications: Notifications,
    pub(in crate::fleet) wire: Wire,
    pub(in crate::fleet) events: Events,
    pub(in crate::fleet) daemon: Mutex<Daemon>,
    /// See [`Instance::speak_tls`].
    tls: AtomicBool,
    api: OnceLock<ClientVersion>,
}

impl Instance {
    pub(in crate::fleet) fn new(site: &Arc<Site>, launch: Launch) -> Instance {
        let dir = site.run.record.dir.join(&launch.instance_id);
        let netns = format!("{}-{}", site.run.namespace(), hostname(launch.private_address));
        let netns = Namespace::named(&netns);
        Instance {
            dockerd: Dockerd {
                dir: site.run.record.scratch.join(&launch.instance_id),
                socket: dir.join("docker.sock"),
                log: dir.join("dockerd.log"),
                cgroup: format!("{}/{}", site.run.cgroup(), launch.instance_id),
                engine: site.options.engine.clone(),
                pulls: site.options.pulls,
            },
            wire: Wire::new(&site.aws, &netns, launch.private_address),
            netns,
            site: Arc::clone(site),
            launch,
            dir,
            turn: Arc::default(),
            switching: Mutex::new(()),
            power: Mutex::new(Power::Off),
            supervisor: Supervisor::default(),
            notifications: Notifications::default(),
            events: Events::default(),
            daemon: Mutex::default(),
            tls: AtomicBool::new(site.options.tls),
            api: OnceLock::new(),
        }
    }

    pub fn id(&self) -> &str {
        &self.launch.instance_id
    }

    /// The cloud's request: zone, group and tags.
    pub fn launch(&self) -> &Launch {
        &self.launch
    }

    pub fn address(&self) -> Ipv4Addr {
        self.launch.private_address
    }

    pub fn hostname(&self) -> String {
        hostname(self.launch.private_address)
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn docker_socket(&self) -> &Path {
        &self.dockerd.socket
    }

    /// Name of the network namespace, for `ip netns`.
    pub fn netns(&self) -> &str {
        self.netns.name()
    }

    /// The pid of the instance's PID 1 in the root namespace, while it is on:
    /// `nsenter -t <pid> -a` enters the instance.
    pub fn init_pid(&self) -> Option<u32> {
        match &*self.power() {
            Power::On(machine) => Some(machine.init()),
            Power::Off | Power::Gone => None,
        }
    }

    pub fn is_on(&self) -> bool {
        matches!(*self.power(), Power::On(_))
    }

    /// Whether it is terminated and removed.
    pub fn is_gone(&self) -> bool {
        matches!(*self.power(), Power::Gone)
    }

    pub fn log_path(&self) -> PathBuf {
        self.dir.join("skep.log")
    }

    /// skep's log so far; empty before the launch. Bytes that are not UTF-8 are replaced.
    ///
    /// # Panics
    /// When the file exists and cannot be read: a check of an empty text would check nothing.
    pub fn log(&self) -> String {
        read_log(&self.log_path())
    }

    /// dockerd's log so far, in the same way.
    pub fn dockerd_log(&self) -> String {
        read_log(&self.dockerd.log)
    }

    /// Writes `skep.toml`; skep reads it when it starts.
    pub fn write_config(&self, toml: &str) -> anyhow::Result<()> {
        let file = self.dir.join("etc").join("skep.toml");
        std::fs::write(&file, toml).with_context(|| format!("cannot write {}", file.display()))
    }

    /// Puts an executable script where skep finds it first, for example a stub of `systemctl`.
    pub fn write_program(&self, name: &str, script: &str) -> anyhow::Result<()> {
        use std::os::unix::fs::PermissionsExt;
        let file = self.dir.join("bin").join(name);
        std::fs::write(&file, script)?;
        Ok(std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755))?)
    }

    /// Every `STATUS=` that skep has sent.
    pub fn statuses(&self) -> Vec<String> {
        self.notifications.statuses()
    }

    /// Every datagram that skep has sent to its `NOTIFY_SOCKET`.
    pub fn notifications(&self) -> Vec<Notification> {
        self.notifications.all()
    }

    /// Whether the present skep process has sent `READY=1`.
    pub fn is_ready(&self) -> bool {
        self.notifications.is_ready()
    }

    /// Docker's events of containers since the launch.
    pub fn container_events(&self) -> Vec<ContainerEvent> {
        self.events.all()
    }

    /// The containers that ended, with their exit codes.
    pub fn deaths(&self) -> Vec<ContainerEvent> {
        self.events.all().into_iter().filter(|event| event.action == "die").collect()
    }

    /// Number of containers that have a process, by their cgroups and not by Docker.
    pub fn running_containers(&self) -> usize {
        busy_children(&self.dockerd.cgroup)
    }

    /// The swarm id in the node's certificate. Workers have one, too, and it is readable while Docker is down. `None`
    /// if there is no certificate or it cannot be read.
    pub fn swarm_by_certificate(&self) -> Option<String> {
        let file = self.dockerd.data_root().join("swarm/certificates/swarm-node.crt");
        let text = std::fs::read(file).ok()?;
        let (_, pem) = x509_parser::pem::parse_x509_pem(&text).ok()?;
        let certificate = pem.parse_x509().ok()?;
        let swarm = certificate.subject().iter_organization().next()?.as_str().ok()?;
        Some(swarm.to_owned())
    }

    /// A client for the instance's daemon; fails while there is no socket.
    pub fn docker(&self) -> anyhow::Result<Docker> {
        self.dockerd.client(self.api.get().unwrap_or_else(|| oldest_api()))
    }

    /// Waits until the Docker API answers.
    pub async fn wait_docker(&self) -> anyhow::Result<Docker> {
        let version = self.dockerd.wait_api(API_PATIENCE).await?;
        self.docker_with(version)
    }

    fn docker_with(&self, version: ClientVersion) -> anyhow::Result<Docker> {
        self.dockerd.client(self.api.get_or_init(|| version))
    }

    /// Starts a process inside; the caller must reap it in every case.
    pub(in crate::fleet) fn spawn(&self, command: Command) -> anyhow::Result<Child> {
        match &*self.power() {
            Power::On(machine) => machine.spawn(command),
            Power::Off | Power::Gone => bail!("{} is off", self.id()),
        }
    }

    /// Runs a command inside to its end; it dies with the instance. Set its environment: by default it gets the
    /// environment of this process.
    pub async fn run(&self, mut command: Command) -> anyhow::Result<Output> {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = self.spawn(command)?;
        // A thread of its own, not one of the runtime: it must reap the child even if this future is dropped.
        let (tell, output) = tokio::sync::oneshot::channel();
        std::thread::spawn(move || tell.send(child.wait_with_output()));
        Ok(output.await.context("the waiting thread died")??)
    }

    pub(in crate::fleet) fn power(&self) -> MutexGuard<'_, Power> {
        self.power.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read_log(path: &Path) -> String {
    match std::fs::read(path) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => panic!("cannot read {}: {error}", path.display()),
    }
}

/// The host's name as on EC2, by its address: `ip-10-78-0-5`.
fn hostname(address: Ipv4Addr) -> String {
    format!("ip-{}", address.to_string().replace('.', "-"))
}
