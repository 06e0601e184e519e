//! One powered-on computer: a thread in the instance's namespaces, and PID 1.
//!
//! The thread has its own mount, UTS, network and (for its children) PID namespace. It forks all processes of
//! the instance, so nothing needs `nsenter`.
//!
//! Guarantees:
//! - Power off kills every process of the instance, containers included: they are all in a PID
//!   namespace whose init is killed, and [`Machine::power_off`] returns when the last one has ended.
//! - The same happens when the sim process dies in any way: init has a parent-death signal, and its
//!   parent is the thread.
//! - No mount is visible outside.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread::JoinHandle;

use anyhow::{Context, anyhow};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::Signal;
use nix::unistd::sethostname;

/// The bundle of trusted certificates on Debian. TLS clients look there by themselves, but not the `aws` command line,
/// which brings its own.
pub const CERTIFICATES: &str = "/etc/ssl/certs/ca-certificates.crt";
/// PID 1: mounts the instance's own /proc, then only reaps orphans. For the next dockerd, a containerd that stayed a
/// zombie would look alive.
const INIT: &str = "busybox mount -t proc proc /proc && echo up
while :; do busybox sleep 86400 & wait; done";

/// The parts of a machine.
#[derive(Clone, Debug)]
pub(crate) struct Hardware {
    pub hostname: String,
    /// The network namespace, as a path that `setns` can open.
    pub netns: PathBuf,
    /// The instance's `/etc/resolv.conf`.
    pub resolv_conf: PathBuf,
    /// The instance's `/etc/hosts`.
    pub hosts: PathBuf,
    /// The instance's `/etc/docker`.
    pub docker_conf: PathBuf,
    /// The instance's bundle of trusted certificates, if it has one of its own.
    pub certificates: Option<PathBuf>,
}

enum Order {
    Spawn(Box<Command>, mpsc::Sender<std::io::Result<Child>>),
}

/// A machine that is on.
#[derive(Debug)]
pub(crate) struct Machine {
    orders: Option<mpsc::Sender<Order>>,
    thread: Option<JoinHandle<()>>,
    init: u32,
}

impl Machine {
    /// Powers the machine on; blocks for some milliseconds.
    pub(crate) fn power_on(hardware: Hardware) -> anyhow::Result<Machine> {
        let (orders, inbox) = mpsc::channel();
        let (ready, is_ready) = mpsc::channel();
        let thread = std::thread::Builder::new()
            .name(hardware.hostname.clone())
            .spawn(move || live(&hardware, &ready, &inbox))
            .context("cannot start the machine's thread")?;
        let init = is_ready.recv().map_err(|_| anyhow!("the machine's thread died"))??;
        Ok(Machine { orders: Some(orders), thread: Some(thread), init })
    }

    /// The pid of PID 1 in the root namespace: `nsenter -t <pid> -a` enters the instance.
    pub(crate) fn init(&self) -> u32 {
        self.init
    }

    /// Starts a process inside; the caller must reap it in every case.
    pub(crate) fn spawn(&self, mut command: Command) -> anyhow::Result<Child> {
        // A group of its own: Ctrl-C on the sim's terminal must not reach the instances.
        command.stdin(Stdio::null()).process_group(0);
        let program = command.get_program().to_string_lossy().into_owned();
        let (reply, answer) = mpsc::channel();
        let off = || anyhow!("the machine is off");
        let orders = self.orders.as_ref().ok_or_else(off)?;
        orders.send(Order::Spawn(Box::new(command), reply)).map_err(|_| off())?;
        let child = answer.recv().map_err(|_| off())?;
        child.with_context(|| format!("cannot start {program} inside the instance"))
    }

    /// Cuts the power; returns when every process of the machine has ended.
    pub(crate) fn power_off(mut self) {
        self.off();
    }

    fn off(&mut self) {
        drop(self.orders.take());
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.off();
    }
}

/// Runs in the thread. It must not start threads: its children's PID namespace is not its own.
fn live(
    hardware: &Hardware,
    ready: &mpsc::Sender<anyhow::Result<u32>>,
    orders: &mpsc::Receiver<Order>,
) {
    let mut init = match boot(hardware) {
        Ok(init) => init,
        Err(error) => {
            ready.send(Err(error)).ok();
            return;
        }
    };
    ready.send(Ok(init.id())).ok();
    for Order::Spawn(mut command, reply) in orders {
        reply.send(command.spawn()).ok();
    }
    init.kill().ok();
    init.wait().ok();
}

fn boot(hardware: &Hardware) -> anyhow::Result<Child> {
    let netns = File::open(&hardware.netns)?;
    // On some systems a symbolic link into /run: resolved before /run is covered.
    let resolv_conf =
        fs::canonicalize("/etc/resolv.conf").unwrap_or_else(|_| PathBuf::from("/etc/resolv.conf"));
    unshare(
        CloneFlags::CLONE_FS
            | CloneFlags::CLONE_NEWNS
            | CloneFlags::CLONE_NEWUTS
            | CloneFlags::CLONE_NEWPID,
    )
    .context("cannot make namespaces")?;
    setns(netns, CloneFlags::CLONE_NEWNET).context("cannot enter the network namespace")?;
    sethostname(&hardware.hostname)?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
        .context("cannot make mounts private")?;
    // For the run-time files of Docker and iptables, and so that the host's systemd is not reachable.
    mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), Some("mode=755"))
        .context("cannot cover /run")?;
    fs::create_dir_all("/run/lock")?;
    cover(&hardware.resolv_conf, &resolv_conf)?;
    cover(&hardware.hosts, Path::new("/etc/hosts"))?;
    fs::create_dir_all("/etc/docker")?;
    cover(&hardware.docker_conf, Path::new("/etc/docker"))?;
    if let Some(certificates) = &hardware.certificates {
        cover(certificates, Path::new(CERTIFICATES))?;
    }
    start_init()
}

/// Binds `source` over `target`; creates `target` if it existed only under the old /run.
fn cover(source: &Path, target: &Path) -> anyhow::Result<()> {
    if !target.exists() {
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent)?;
        }
        OpenOptions::new().create(true).append(true).open(target)?;
    }
    mount(Some(source), target, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .with_context(|| format!("cannot bind {} over {}", source.display(), target.display()))
}

/// Starts the first child after `unshare`: it is PID 1 of the new namespace.
fn start_init() -> anyhow::Result<Child> {
    let mut command = Command::new("busybox");
    command.args(["sh", "-c", INIT]).env_clear().env("PATH", super::SYSTEM_PATH);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).process_group(0);
    let die_with_parent = || {
        nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
        Ok(())
    };
    // SAFETY: the closure makes one system call and allocates nothing.
    unsafe { command.pre_exec(die_with_parent) };
    let mut init = command.spawn().context("cannot start busybox as PID 1")?;
    let mut line = String::new();
    if let Some(stdout) = init.stdout.take() {
        BufReader::new(stdout).read_line(&mut line)?;
    }
    if line.trim() != "up" {
        init.kill().ok();
        init.wait().ok();
        return Err(anyhow!("PID 1 of the instance could not mount /proc"));
    }
    Ok(init)
}
