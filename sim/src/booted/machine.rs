//! One powered-on computer that boots: systemd-nspawn on an overlay, in a mount namespace of its
//! own.
//!
//! Guarantees:
//! - [`Machine::cut`] kills every process of the machine: they are all in one cgroup.
//! - The same happens when the sim process dies in any way: systemd-nspawn has a parent-death
//!   signal, and the next run kills the remaining processes of the cgroup.
//! - No mount is visible outside: the thread that makes them is in a mount namespace of its own,
//!   which ends with it.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError, mpsc};

use anyhow::{Context, anyhow};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::Signal;

use crate::fleet::clean::{cgroup2, kill_cgroup};
use crate::fleet::dockerd::append;
use crate::fleet::process::{Exit, Process};

/// systemd-nspawn's exit code when the system inside has rebooted.
const REBOOT: Exit = Exit::Code(133);

/// The parts of a machine.
#[derive(Clone, Debug)]
pub(super) struct Hardware {
    /// Name for systemd-nspawn: unique on this host.
    pub name: String,
    pub netns: PathBuf,
    pub cgroup: String,
    /// Layers of the image, the topmost first.
    pub layers: Vec<PathBuf>,
    pub disk: Disk,
    /// File to which the machine's console output is appended.
    pub console: PathBuf,
}

/// One machine's own directories. Docker's are beside the root file system, since overlay2 does not work on an
/// overlay.
#[derive(Clone, Debug)]
pub(super) struct Disk(pub PathBuf);

impl Disk {
    pub(super) fn make(&self) -> anyhow::Result<()> {
        for dir in [self.upper(), self.work(), self.root(), self.docker(), self.containerd()] {
            fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        }
        Ok(())
    }

    pub(super) fn upper(&self) -> PathBuf {
        self.0.join("upper")
    }

    pub(super) fn docker(&self) -> PathBuf {
        self.0.join("docker")
    }

    pub(super) fn containerd(&self) -> PathBuf {
        self.0.join("containerd")
    }

    fn work(&self) -> PathBuf {
        self.0.join("work")
    }

    fn root(&self) -> PathBuf {
        self.0.join("root")
    }
}

/// A machine that was switched on.
#[derive(Debug)]
pub(super) struct Machine {
    cgroup: String,
    /// The present boot's systemd-nspawn.
    nspawn: Arc<Mutex<Option<Process>>>,
}

impl Machine {
    /// Switches the machine on. `ended` is called when it is off for any reason; a reboot does not count.
    pub(super) fn power_on(
        hardware: Hardware,
        ended: impl FnOnce(Exit) + Send + 'static,
    ) -> anyhow::Result<Machine> {
        let machine = Machine { cgroup: hardware.cgroup.clone(), nspawn: Arc::default() };
        let nspawn = Arc::clone(&machine.nspawn);
        let runtime = tokio::runtime::Handle::current();
        let (ready, is_ready) = mpsc::channel();
        std::thread::Builder::new()
            .name(hardware.name.clone())
            .spawn(move || {
                if let Err(error) = assemble(&hardware) {
                    ready.send(Err(error)).ok();
                    return;
                }
                let mut started = Some(ready);
                let exit = loop {
                    let process = match boot(&hardware) {
                        Ok(process) => process,
                        Err(error) => {
                            tracing::error!(machine = hardware.name, "cannot boot: {error:#}");
                            match started.take() {
                                Some(ready) => drop(ready.send(Err(error))),
                                None => ended(Exit::Code(-1)),
                            }
                            return;
                        }
                    };
                    *nspawn.lock().unwrap_or_else(PoisonError::into_inner) = Some(process.clone());
                    if let Some(ready) = started.take() {
                        ready.send(Ok(())).ok();
                    }
                    // The thread must stay: its end would kill its child.
                    let exit = runtime.block_on(process.exited());
                    if exit != REBOOT {
                        break exit;
                    }
                };
                ended(exit);
            })
            .context("cannot start the machine's thread")?;
        is_ready.recv().map_err(|_| anyhow!("the machine's thread died"))??;
        Ok(machine)
    }

    /// The pid of the machine's PID 1 in the root namespace, while there is one.
    pub(super) fn leader(&self) -> Option<u32> {
        let path = cgroup2()?.join(self.cgroup.trim_start_matches('/'));
        let inits = fs::read_to_string(path.join("payload/init.scope/cgroup.procs")).ok()?;
        inits.lines().find_map(|pid| {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
            let ids = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
            (ids.split_whitespace().last() == Some("1")).then(|| pid.parse().ok())?
        })
    }

    /// Presses the power button: the system shuts down.
    pub(super) fn press_power_button(&self) {
        if let Some(process) = &*self.nspawn.lock().unwrap_or_else(PoisonError::into_inner) {
            // systemd-nspawn passes it on to PID 1 as SIGRTMIN+4: systemd powers off.
            process.signal(Signal::SIGTERM);
        }
    }

    /// Cuts the power: no process gets a signal first.
    pub(super) fn cut(&self) {
        kill_cgroup(&self.cgroup);
    }
}

/// Mounts the root file system in the thread's own mount namespace, where no other process sees it.
fn assemble(hardware: &Hardware) -> anyhow::Result<()> {
    unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS)
        .context("cannot make a mount namespace")?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
        .context("cannot make mounts private")?;
    let disk = &hardware.disk;
    let layers: Vec<_> = hardware.layers.iter().map(|layer| layer.display().to_string()).collect();
    let options = format!(
        "lowerdir={},upperdir={},workdir={}",
        layers.join(":"),
        disk.upper().display(),
        disk.work().display()
    );
    mount(Some("overlay"), &disk.root(), Some("overlay"), MsFlags::empty(), Some(options.as_str()))
        .with_context(|| format!("cannot mount the root file system ({options})"))
}

/// Starts systemd-nspawn in the machine's cgroup.
fn boot(hardware: &Hardware) -> anyhow::Result<Process> {
    let cgroup = cgroup2().context("no cgroup2 hierarchy is mounted")?;
    let cgroup = cgroup.join(hardware.cgroup.trim_start_matches('/'));
    fs::create_dir_all(&cgroup)?;
    let mut members = OpenOptions::new().write(true).open(cgroup.join("cgroup.procs"))?;
    let console = append(&hardware.console)?;
    let mut command = nspawn(hardware);
    command.stdin(Stdio::null()).stdout(console.try_clone()?).stderr(console).process_group(0);
    let enter = move || {
        nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
        members.write_all(b"0")
    };
    // SAFETY: the closure makes two system calls and allocates nothing.
    unsafe { command.pre_exec(enter) };
    Ok(Process::watch(command.spawn().context("cannot start systemd-nspawn")?))
}

fn nspawn(hardware: &Hardware) -> Command {
    let bind = |dir: &Path, target: &str| {
        let mut option = std::ffi::OsString::from("--bind=");
        option.push(dir);
        option.push(":");
        option.push(target);
        option
    };
    let disk = &hardware.disk;
    let mut command = Command::new("systemd-nspawn");
    command
        .env_clear()
        .env("PATH", crate::fleet::SYSTEM_PATH)
        .env("SYSTEMD_NSPAWN_UNIFIED_HIERARCHY", "1")
        // Docker sets net.ipv4.ip_forward and makes bridges.
        .env("SYSTEMD_NSPAWN_API_VFS_WRITABLE", "network")
        .args(["--quiet", "--register=no", "--keep-unit", "--kill-signal=SIGRTMIN+4"])
        .args(["--capability=all", "--system-call-filter=@known"])
        // The image has its own files.
        .args(["--resolv-conf=off", "--timezone=off"])
        .arg("--console=read-only")
        .arg(format!("--machine={}", hardware.name))
        .arg(format!("--network-namespace-path={}", hardware.netns.display()))
        .arg(format!("--directory={}", disk.root().display()))
        .arg(bind(&disk.docker(), "/var/lib/docker"))
        .arg(bind(&disk.containerd(), "/var/lib/containerd"))
        .arg("/ec2-init");
    command
}

/// Runs a program inside, as root, in all of the machine's namespaces.
pub(super) fn inside(leader: u32, program: &str) -> Command {
    let mut command = Command::new("nsenter");
    command
        .args(["--target", &leader.to_string()])
        .args(["--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--"])
        .arg(program)
        .env_clear()
        .env("PATH", crate::fleet::SYSTEM_PATH)
        .env("HOME", "/root")
        .stdin(Stdio::null());
    command
}
