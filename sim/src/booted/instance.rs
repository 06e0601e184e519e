//! One booted instance, as tests use it.
//!
//! Its directory contains `console.log`. Its disk is elsewhere, and is removed with the instance.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use bollard::{ClientVersion, Docker};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::sync::{Mutex as Turn, watch};

use super::images::{Image, Images};
use super::machine::{self, Disk, Hardware, Machine};
use super::network::Network;
use crate::cloud::Cloud;
use crate::fleet::clean::{remove_cgroup, remove_dir};
use crate::fleet::netns::Namespace;
use crate::fleet::run::Run;
use crate::fleet::timeline::Timeline;
use crate::fleet::wire::Wire;
use crate::machines::Launch;

/// Time for a system to shut down before EC2 cuts the power.
const SHUTDOWN_PATIENCE: Duration = Duration::from_secs(180);
/// Time for the kernel to end the killed processes.
const CUT_PATIENCE: Duration = Duration::from_secs(20);
/// Timeout of one call of a Docker client, in seconds.
const CALL_TIMEOUT: u64 = 60;
/// Longest delay of a shutdown by a script that runs inside.
const SCRIPT_PAUSE: Duration = Duration::from_secs(1);
/// API version of Docker 20.10; with newer engines a version is negotiated.
const OLDEST_API: ClientVersion = ClientVersion { major_version: 1, minor_version: 41 };

/// The resources that all instances of a run share.
#[derive(Debug)]
pub(super) struct Site {
    pub run: Run,
    pub aws: Namespace,
    pub network: Network,
    pub cloud: Cloud,
    pub images: Images,
    pub timeline: Timeline,
    pub runtime: tokio::runtime::Handle,
}

#[derive(Debug)]
enum Power {
    /// Launched, or stopped: the disk is kept.
    Off,
    On(Machine),
    /// Terminated and removed.
    Gone,
}

/// An instance that boots. It needs little memory after its end; its console stays readable.
#[derive(Debug)]
pub struct BootedInstance {
    launch: Launch,
    site: Arc<Site>,
    dir: PathBuf,
    netns: Namespace,
    wire: Wire,
    cgroup: String,
    disk: Disk,
    /// The image of its present root volume.
    image_id: Mutex<String>,
    power: Mutex<Power>,
    /// Number of times that the machine was switched off.
    ends: watch::Sender<u64>,
    /// EC2 has requested its end: the end is not reported to the cloud.
    wanted_off: AtomicBool,
    /// Held while EC2 switches it on or off: one operation at a time.
    pub(super) turn: Arc<Turn<()>>,
}

impl BootedInstance {
    pub(super) fn new(site: &Arc<Site>, launch: Launch) -> BootedInstance {
        let id = &launch.instance_id;
        let host = launch.private_address.to_string().replace('.', "-");
        let netns = Namespace::named(&format!("{}-ip-{host}", site.run.namespace()));
        BootedInstance {
            dir: site.run.record.dir.join(id),
            wire: Wire::new(&site.aws, &netns, launch.private_address),
            netns,
            cgroup: format!("{}/{id}", site.run.cgroup()),
            disk: Disk(site.run.record.scratch.join(id)),
            image_id: Mutex::new(launch.image_id.clone()),
            power: Mutex::new(Power::Off),
            ends: watch::channel(0).0,
            wanted_off: AtomicBool::new(false),
            turn: Arc::default(),
            site: Arc::clone(site),
            launch,
        }
    }

    pub fn id(&self) -> &str {
        &self.launch.instance_id
    }

    /// The cloud's request: zone, group, image and tags.
    pub fn launch(&self) -> &Launch {
        &self.launch
    }

    pub fn address(&self) -> Ipv4Addr {
        self.launch.private_address
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn is_on(&self) -> bool {
        matches!(*self.power(), Power::On(_))
    }

    /// Whether it is terminated and removed.
    pub fn is_gone(&self) -> bool {
        matches!(*self.power(), Power::Gone)
    }

    /// The console output of all its boots.
    pub fn console(&self) -> String {
        let bytes = std::fs::read(self.console_path()).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    pub fn console_path(&self) -> PathBuf {
        self.dir.join("console.log")
    }

    /// The pid of the instance's PID 1 in the root namespace, while there is one.
    pub fn leader(&self) -> Option<u32> {
        match &*self.power() {
            Power::On(machine) => machine.leader(),
            Power::Off | Power::Gone => None,
        }
    }

    /// Runs a shell script inside as root, to its end.
    pub async fn run(&self, script: &str) -> anyhow::Result<Output> {
        let leader = self.leader().with_context(|| format!("{} is off", self.id()))?;
        let mut command = machine::inside(leader, "sh");
        command.args(["-c", script]).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = tokio::process::Command::from(command).kill_on_drop(true).spawn()?;
        let nsenter = Pid::from_raw(child.id().context("it has just started")?.cast_signed());
        let mut output = std::pin::pin!(child.wait_with_output());
        // A system that shuts down stops all processes for a moment, and nsenter stops itself when its child is
        // stopped. Without the SIGCONT, nsenter would stay stopped and not reap its child, and the system would wait
        // for that child.
        loop {
            tokio::select! {
                output = &mut output => return Ok(output?),
                () = tokio::time::sleep(SCRIPT_PAUSE) => drop(kill(nsenter, Signal::SIGCONT)),
            }
        }
    }

    /// Runs a shell script that must succeed, and returns its output.
    ///
    /// # Errors
    ///
    /// When it fails: with its output.
    pub async fn say(&self, script: &str) -> anyhow::Result<String> {
        let output = self.run(script).await?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
        let (said, error) = (text(&output.stdout), text(&output.stderr));
        ensure!(output.status.success(), "{}: `{script}`: {said}\n{error}", self.id());
        Ok(said)
    }

    /// A unit's lines in the journal, over all boots.
    pub async fn journal(&self, unit: &str) -> anyhow::Result<String> {
        self.say(&format!("journalctl --no-pager --output=cat --unit={unit}")).await
    }

    /// A client for the instance's Docker.
    pub async fn docker(&self) -> anyhow::Result<Docker> {
        let leader = self.leader().with_context(|| format!("{} is off", self.id()))?;
        let socket = format!("/proc/{leader}/root/run/docker.sock");
        let docker = Docker::connect_with_unix(&socket, CALL_TIMEOUT, &OLDEST_API)
            .with_context(|| format!("no Docker API on {}", self.id()))?;
        Ok(docker.negotiate_version().await?)
    }

    /// Cuts the instance's wire or mends it. A cut also separates it from metadata and AWS.
    pub fn link(&self, up: bool) -> anyhow::Result<()> {
        self.note(if up { "link mended" } else { "link cut" });
        self.wire.change(|faults| faults.cut = !up)
    }

    /// Isolates the instance from all other instances, or ends that. Metadata and AWS stay reachable, as in a partition
    /// of the VPC.
    pub fn isolate(&self, isolated: bool) -> anyhow::Result<()> {
        self.note(if isolated { "isolated" } else { "not isolated" });
        self.wire.change(|faults| faults.isolated = isolated)
    }

    /// Cuts the power without a warning; EC2 detects it.
    pub async fn crash(&self) {
        self.note("crash");
        self.cut().await;
    }

    /// Cuts the power without a warning and boots again on the same disk; for EC2 this is a reboot.
    pub async fn reset(self: &Arc<Self>) -> anyhow::Result<()> {
        let _turn = self.turn.lock().await;
        self.wanted_off.store(true, Ordering::SeqCst);
        self.cut().await;
        self.switch_on().await
    }

    /// Launches the instance, for EC2.
    pub(super) async fn launch_now(self: Arc<Self>) {
        let instance = Arc::clone(&self);
        let made = tokio::task::spawn_blocking(move || instance.make()).await;
        let made = made.map_err(anyhow::Error::from).and_then(|made| made);
        let launched = match made {
            Ok(()) => self.switch_on().await,
            Err(error) => Err(error),
        };
        if let Err(error) = launched {
            tracing::error!(instance = self.id(), "launch failed: {error:#}");
            self.note(format!("launch failed: {error:#}"));
        }
    }

    /// Starts the instance on its present disk, for EC2.
    pub(super) async fn start_now(self: Arc<Self>) {
        let _turn = self.turn.lock().await;
        if let Err(error) = self.switch_on().await {
            tracing::error!(instance = self.id(), "start failed: {error:#}");
        }
    }

    /// Stops the instance, for EC2: the system shuts down, and the disk stays.
    pub(super) async fn stop_now(self: Arc<Self>) {
        let _turn = self.turn.lock().await;
        self.shut_down().await;
        self.site.cloud.machine_has_stopped(self.id());
    }

    /// Terminates the instance, for EC2: the system shuts down, and everything is removed.
    pub(super) async fn terminate_now(self: Arc<Self>) {
        let _turn = self.turn.lock().await;
        self.shut_down().await;
        let instance = Arc::clone(&self);
        tokio::task::spawn_blocking(move || instance.throw_away()).await.ok();
    }

    /// Replaces the root volume, for EC2: the system shuts down, and boots from a new disk with the same id and address.
    pub(super) async fn replace_root_volume_now(
        self: Arc<Self>,
        image_id: &str,
    ) -> anyhow::Result<()> {
        let _turn = self.turn.lock().await;
        // Refused before the present disk is lost.
        self.site.images.get(image_id)?;
        self.shut_down().await;
        ensure!(!self.is_gone(), "{} is terminated", self.id());
        image_id.clone_into(&mut self.image_id.lock().unwrap_or_else(PoisonError::into_inner));
        let instance = Arc::clone(&self);
        tokio::task::spawn_blocking(move || {
            instance.remove_disk_and_wire()?;
            instance.make()
        })
        .await??;
        self.note("new root volume");
        self.switch_on().await
    }

    /// Stores the disk of an instance that is off as an image.
    pub(super) async fn keep(self: Arc<Self>, image_id: &str) -> anyhow::Result<()> {
        let _turn = self.turn.lock().await;
        ensure!(!self.is_on() && !self.is_gone(), "{} is not stopped", self.id());
        let below = self.image()?;
        let dir = self.site.run.record.scratch.join(image_id);
        let disk = self.disk.clone();
        let image = tokio::task::spawn_blocking(move || below.keep(&disk, &dir)).await??;
        self.site.images.add(image_id, image);
        Ok(())
    }

    /// Cuts the power and removes everything but the records. Blocks; repeating it does nothing.
    pub(super) fn throw_away(&self) {
        self.wanted_off.store(true, Ordering::SeqCst);
        match std::mem::replace(&mut *self.power(), Power::Gone) {
            Power::On(machine) => machine.cut(),
            Power::Off => {}
            Power::Gone => return,
        }
        if let Err(error) = self.remove_disk_and_wire() {
            tracing::warn!(instance = self.id(), "remains are left: {error:#}");
        }
        self.note("power off");
    }

    fn remove_disk_and_wire(&self) -> anyhow::Result<()> {
        self.site.aws.unplug(self.address());
        remove_cgroup(&self.cgroup);
        self.netns.delete().and_then(|()| remove_dir(&self.disk.0))
    }

    fn make(&self) -> anyhow::Result<()> {
        std::fs::create_dir_all(&self.dir)?;
        self.disk.make()?;
        self.image()?.fill(&self.disk)?;
        Namespace::create(self.netns.name())?;
        self.site.aws.connect(&self.netns, self.address())?;
        self.site.network.lease(self.address())
    }

    fn image(&self) -> anyhow::Result<Image> {
        let image_id = self.image_id.lock().unwrap_or_else(PoisonError::into_inner);
        self.site.images.get(&image_id)
    }

    async fn switch_on(self: &Arc<Self>) -> anyhow::Result<()> {
        let hardware = Hardware {
            name: format!("{}-{}", self.site.run.namespace(), self.id()),
            netns: self.netns.path(),
            cgroup: self.cgroup.clone(),
            layers: self.image()?.layers().to_vec(),
            disk: self.disk.clone(),
            console: self.console_path(),
        };
        let instance = Arc::clone(self);
        let on = tokio::task::spawn_blocking(move || {
            let mut power = instance.power();
            match &*power {
                Power::Off => {}
                Power::On(_) => bail!("{} is on", instance.id()),
                // A termination overtook the launch or the start.
                Power::Gone => return Ok(()),
            }
            instance.wanted_off.store(false, Ordering::SeqCst);
            let ending = Arc::downgrade(&instance);
            *power = Power::On(Machine::power_on(hardware, move |exit| {
                if let Some(instance) = ending.upgrade() {
                    instance.has_ended(&exit.to_string());
                }
            })?);
            Ok(())
        });
        on.await??;
        self.note(format!("power on, {}", self.address()));
        Ok(())
    }

    /// Records that the machine is off, for any reason.
    fn has_ended(&self, exit: &str) {
        // Read before others can see that it is off: a following switch-on sets it to false.
        let was_wanted = self.wanted_off.load(Ordering::SeqCst);
        {
            let mut power = self.power();
            if matches!(*power, Power::On(_)) {
                *power = Power::Off;
            }
        }
        self.note(format!("the machine is off: {exit}"));
        self.ends.send_modify(|ends| *ends += 1);
        if !was_wanted {
            self.site.cloud.machine_has_ended(self.id());
        }
    }

    /// Presses the power button, and cuts the power if the system does not shut down in time.
    async fn shut_down(&self) {
        self.wanted_off.store(true, Ordering::SeqCst);
        let pressed = match &*self.power() {
            Power::On(machine) => {
                machine.press_power_button();
                true
            }
            Power::Off | Power::Gone => false,
        };
        if pressed {
            self.note("shutting down");
            if tokio::time::timeout(SHUTDOWN_PATIENCE, self.off()).await.is_err() {
                self.note("does not shut down: power cut");
                self.cut().await;
            }
        }
    }

    async fn cut(&self) {
        if let Power::On(machine) = &*self.power() {
            machine.cut();
        }
        if tokio::time::timeout(CUT_PATIENCE, self.off()).await.is_err() {
            tracing::warn!(instance = self.id(), "does not die");
        }
    }

    /// Waits until no machine is on.
    async fn off(&self) {
        let mut ends = self.ends.subscribe();
        while self.is_on() {
            if ends.changed().await.is_err() {
                return;
            }
        }
    }

    fn note(&self, what: impl Into<String>) {
        self.site.timeline.add(self.id(), what);
    }

    fn power(&self) -> MutexGuard<'_, Power> {
        self.power.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
