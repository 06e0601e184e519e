//! One instance, as tests and the demo hold it.
//!
//! Layout of its directory: `skep.log`, `dockerd.log`, `docker-events.jsonl`, `docker.sock`,
//! `notify.sock`, `etc/skep.toml`, `bin/` (first in skep's PATH), `run/` and `state/`. Docker's data
//! root is elsewhere, and goes with the instance.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail};
use bollard::{ClientVersion, Docker};
use nix::sys::signal::Signal;

use super::dockerd::{API_PATIENCE, Dockerd, append, oldest_api};
use super::events::{ContainerEvent, Events};
use super::image::Template;
use super::machine::Machine;
use super::netns::Namespace;
use super::notify::{Notification, Notifications};
use super::options::FleetOptions;
use super::process::{Exit, Process};
use super::run::Run;
use super::supervisor::Supervisor;
use super::timeline::Timeline;
use crate::machines::Launch;

/// How long dockerd gets to stop when it is asked to.
const DOCKERD_STOP_PATIENCE: Duration = Duration::from_secs(30);

/// What all instances of a run share.
#[derive(Debug)]
pub(crate) struct Site {
    pub run: Run,
    pub options: FleetOptions,
    pub aws: Namespace,
    pub gateway: Ipv4Addr,
    pub template: Template,
    pub timeline: Timeline,
    /// The cloud calls from wherever it likes; work goes to the runtime that started the fleet.
    pub runtime: tokio::runtime::Handle,
}

/// Whether the computer is on.
#[derive(Debug)]
pub(super) enum Power {
    /// Launched, not booted yet, or switched off with its disk kept.
    Off,
    On(Machine),
    /// Thrown away.
    Gone,
}

/// An instance of the fleet. Cheap to hold after its end: logs and records stay readable.
#[derive(Debug)]
pub struct Instance {
    pub(super) launch: Launch,
    pub(super) site: Arc<Site>,
    pub(super) dir: PathBuf,
    pub(super) netns: Namespace,
    pub(super) dockerd: Dockerd,
    /// A launch, a stop and a start that overtake each other come one after the other.
    pub(super) turn: Arc<tokio::sync::Mutex<()>>,
    /// Held while the machine is made, switched on or thrown away.
    pub(super) switching: Mutex<()>,
    /// Held for moments.
    pub(super) power: Mutex<Power>,
    pub(super) supervisor: Supervisor,
    pub(super) notifications: Notifications,
    events: Events,
    daemon: Mutex<Option<Process>>,
    api: OnceLock<ClientVersion>,
}

impl Instance {
    pub(super) fn new(site: &Arc<Site>, launch: Launch) -> Instance {
        let dir = site.run.record.dir.join(&launch.instance_id);
        let netns = format!("{}-{}", site.run.namespace(), hostname(launch.private_address));
        Instance {
            dockerd: Dockerd {
                dir: site.run.record.scratch.join(&launch.instance_id),
                socket: dir.join("docker.sock"),
                log: dir.join("dockerd.log"),
                cgroup: format!("{}/{}", site.run.cgroup(), launch.instance_id),
                engine: site.options.engine.clone(),
                pulls: site.options.pulls,
            },
            netns: Namespace::named(&netns),
            site: Arc::clone(site),
            launch,
            dir,
            turn: Arc::default(),
            switching: Mutex::new(()),
            power: Mutex::new(Power::Off),
            supervisor: Supervisor::default(),
            notifications: Notifications::default(),
            events: Events::default(),
            daemon: Mutex::new(None),
            api: OnceLock::new(),
        }
    }

    pub fn id(&self) -> &str {
        &self.launch.instance_id
    }

    /// What the cloud asked for: zone, group and tags.
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
    /// `nsenter -t <pid> -a` looks inside.
    pub fn init_pid(&self) -> Option<u32> {
        match &*self.power() {
            Power::On(machine) => Some(machine.init()),
            Power::Off | Power::Gone => None,
        }
    }

    pub fn is_on(&self) -> bool {
        matches!(*self.power(), Power::On(_))
    }

    /// Terminated and thrown away.
    pub fn is_gone(&self) -> bool {
        matches!(*self.power(), Power::Gone)
    }

    pub fn log_path(&self) -> PathBuf {
        self.dir.join("skep.log")
    }

    /// What skep has written so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// What dockerd has written so far.
    pub fn dockerd_log(&self) -> String {
        std::fs::read_to_string(&self.dockerd.log).unwrap_or_default()
    }

    /// Writes `skep.toml`; skep reads it when it starts.
    pub fn write_config(&self, toml: &str) -> anyhow::Result<()> {
        let file = self.dir.join("etc").join("skep.toml");
        std::fs::write(&file, toml).with_context(|| format!("cannot write {}", file.display()))
    }

    /// Puts an executable script where skep finds it first: a stub of `systemctl`, for one.
    pub fn write_program(&self, name: &str, script: &str) -> anyhow::Result<()> {
        use std::os::unix::fs::PermissionsExt;
        let file = self.dir.join("bin").join(name);
        std::fs::write(&file, script)?;
        Ok(std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755))?)
    }

    /// Cuts the instance's wire or mends it. Metadata and AWS are cut off as well; see
    /// [`Instance::isolate`].
    pub fn link(&self, up: bool) -> anyhow::Result<()> {
        self.site.timeline.add(self.id(), if up { "link mended" } else { "link cut" });
        self.site.aws.set_link(self.address(), up)
    }

    /// Cuts the instance off from all other instances, or mends that. Metadata and AWS stay within
    /// reach: this is what a partition of the VPC looks like.
    pub fn isolate(&self, isolated: bool) -> anyhow::Result<()> {
        self.site.timeline.add(self.id(), if isolated { "isolated" } else { "not isolated" });
        self.site.aws.isolate(&self.netns, self.address(), isolated)
    }

    /// Every `STATUS=` that skep has sent.
    pub fn statuses(&self) -> Vec<String> {
        self.notifications.statuses()
    }

    /// Every datagram that skep has sent to its `NOTIFY_SOCKET`.
    pub fn notifications(&self) -> Vec<Notification> {
        self.notifications.all()
    }

    /// The present skep process has said `READY=1`.
    pub fn is_ready(&self) -> bool {
        self.notifications.is_ready()
    }

    /// What Docker said about containers, since the launch.
    pub fn container_events(&self) -> Vec<ContainerEvent> {
        self.events.all()
    }

    /// The containers that ended, with their exit codes.
    pub fn deaths(&self) -> Vec<ContainerEvent> {
        self.events.all().into_iter().filter(|event| event.action == "die").collect()
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

    /// Starts a process inside; the caller must wait for it whatever happens.
    pub(super) fn spawn(&self, command: Command) -> anyhow::Result<Child> {
        match &*self.power() {
            Power::On(machine) => machine.spawn(command),
            Power::Off | Power::Gone => bail!("{} is off", self.id()),
        }
    }

    /// Runs a command inside to its end; it dies with the instance. Give it an environment: it
    /// starts with this process's.
    pub async fn run(&self, mut command: Command) -> anyhow::Result<Output> {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = self.spawn(command)?;
        // A thread of its own, not the runtime's: it must reap even if this future is dropped.
        let (tell, output) = tokio::sync::oneshot::channel();
        std::thread::spawn(move || tell.send(child.wait_with_output()));
        Ok(output.await.context("the waiting thread died")??)
    }

    /// Starts dockerd, and follows its events once it is up.
    pub fn start_dockerd(self: &Arc<Self>) -> anyhow::Result<()> {
        let since = time::OffsetDateTime::now_utc().unix_timestamp();
        let process = Process::watch(self.spawn(self.dockerd.command()?)?);
        self.site.timeline.add(self.id(), "dockerd started");
        *self.daemon() = Some(process.clone());
        let record = append(&self.dir.join("docker-events.jsonl"))?;
        let instance = Arc::clone(self);
        self.site.runtime.spawn(async move {
            let follow = async {
                let docker = instance.wait_docker().await?;
                instance.site.timeline.add(instance.id(), "Docker API is up");
                instance.events.follow(&docker, since, record).await;
                anyhow::Ok(())
            };
            // The stream ends with the daemon; the wait for an API that never comes must, too.
            let (_, exit) = tokio::join!(
                async {
                    tokio::select! {
                        _ = follow => {}
                        _ = process.exited() => {}
                    }
                },
                process.exited()
            );
            instance.site.timeline.add(instance.id(), format!("dockerd ended: {exit}"));
        });
        Ok(())
    }

    /// Kills dockerd, and containerd with it; containers go on. It stays down.
    pub async fn kill_dockerd(&self) -> anyhow::Result<Exit> {
        self.end_dockerd(Signal::SIGKILL).await
    }

    /// Stops dockerd as systemd would.
    pub async fn stop_dockerd(&self) -> anyhow::Result<Exit> {
        self.end_dockerd(Signal::SIGTERM).await
    }

    /// Stops dockerd, starts it again and waits for its API.
    pub async fn restart_dockerd(self: &Arc<Self>) -> anyhow::Result<()> {
        self.stop_dockerd().await?;
        self.start_dockerd()?;
        self.wait_docker().await.map(drop)
    }

    pub fn dockerd_running(&self) -> bool {
        self.daemon().as_ref().is_some_and(Process::is_running)
    }

    async fn end_dockerd(&self, signal: Signal) -> anyhow::Result<Exit> {
        let process = self.daemon().clone().context("dockerd was never started")?;
        process.signal(signal);
        tokio::time::timeout(DOCKERD_STOP_PATIENCE, process.exited())
            .await
            .with_context(|| format!("dockerd of {} does not stop", self.id()))
    }

    fn daemon(&self) -> MutexGuard<'_, Option<Process>> {
        self.daemon.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn power(&self) -> MutexGuard<'_, Power> {
        self.power.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `ip-10-78-0-5`, as EC2 names hosts by their address.
fn hostname(address: Ipv4Addr) -> String {
    format!("ip-{}", address.to_string().replace('.', "-"))
}
