//! One process of an instance: signalled only while it lives, and always reaped.
//!
//! Guarantee: a thread of its own waits for every child, even if the async runtime ends. A PID namespace ends only
//! when all its processes are reaped, so a child that is never reaped would hang the power-off of its instance.

use std::fmt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus};
use std::sync::{Arc, Mutex, PoisonError, mpsc};

use anyhow::Context;
use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;
use tokio::sync::watch;

/// The way in which a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    Code(i32),
    Signal(i32),
}

impl Exit {
    /// The exit code as a shell reports it: 128 + the signal's number for a killed process.
    pub fn code(self) -> i32 {
        match self {
            Exit::Code(code) => code,
            Exit::Signal(signal) => 128 + signal,
        }
    }

    /// Whether systemd counts this as a failure: SIGHUP, SIGINT, SIGTERM and SIGPIPE are clean.
    pub fn is_failure(self) -> bool {
        const CLEAN: [Signal; 4] =
            [Signal::SIGHUP, Signal::SIGINT, Signal::SIGTERM, Signal::SIGPIPE];
        match self {
            Exit::Code(code) => code != 0,
            Exit::Signal(number) => !CLEAN.iter().any(|clean| *clean as i32 == number),
        }
    }
}

impl From<ExitStatus> for Exit {
    fn from(status: ExitStatus) -> Self {
        match (status.code(), status.signal()) {
            (Some(code), _) => Exit::Code(code),
            (None, Some(signal)) => Exit::Signal(signal),
            (None, None) => Exit::Code(-1),
        }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Exit::Code(code) => write!(f, "exit code {code}"),
            Exit::Signal(number) => match Signal::try_from(*number) {
                Ok(signal) => write!(f, "{signal}"),
                Err(_) => write!(f, "signal {number}"),
            },
        }
    }
}

/// A running or finished child.
#[derive(Clone, Debug)]
pub(crate) struct Process {
    pid: Pid,
    /// True once the child is reaped: then its pid may belong to another process.
    reaped: Arc<Mutex<bool>>,
    exit: watch::Receiver<Option<Exit>>,
}

impl Process {
    /// Takes the child over and waits for it.
    pub(crate) fn watch(child: Child) -> Process {
        Process::watch_then(child, |_| {})
    }

    /// The same for the leader of a process group. When it ends, the other members are killed, as systemd does with
    /// the rest of a service.
    pub(crate) fn watch_group(child: Child) -> Process {
        Process::watch_then(child, |leader| {
            killpg(leader, Signal::SIGKILL).ok();
        })
    }

    /// `ended` is called while the pid still belongs to the child.
    fn watch_then(mut child: Child, ended: fn(Pid)) -> Process {
        let pid = Pid::from_raw(child.id().cast_signed());
        let reaped = Arc::new(Mutex::new(false));
        let (tell, exit) = watch::channel(None);
        let mark = Arc::clone(&reaped);
        std::thread::spawn(move || {
            // Wait without reaping first: the pid must not be signalled between the reaping and `reaped = true`.
            while waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT)
                == Err(nix::errno::Errno::EINTR)
            {}
            ended(pid);
            let mut reaped = mark.lock().unwrap_or_else(PoisonError::into_inner);
            let exit = child.wait().map_or(Exit::Code(-1), Exit::from);
            *reaped = true;
            drop(reaped);
            tell.send_replace(Some(exit));
        });
        Process { pid, reaped, exit }
    }

    /// The pid in the root PID namespace.
    pub(crate) fn pid(&self) -> i32 {
        self.pid.as_raw()
    }

    /// Sends a signal; returns false when the process has ended.
    pub(crate) fn signal(&self, signal: Signal) -> bool {
        let reaped = self.reaped.lock().unwrap_or_else(PoisonError::into_inner);
        !*reaped && kill(self.pid, signal).is_ok()
    }

    /// Asks the process to end, as systemd does: a stopped process must continue before it receives SIGTERM.
    pub(crate) fn terminate(&self) {
        self.signal(Signal::SIGTERM);
        self.signal(Signal::SIGCONT);
    }

    pub(crate) fn is_running(&self) -> bool {
        self.exit.borrow().is_none()
    }

    /// Waits for the end.
    pub(crate) async fn exited(&self) -> Exit {
        let mut exit = self.exit.clone();
        let ended = exit.wait_for(Option::is_some).await;
        ended.ok().and_then(|exit| *exit).unwrap_or(Exit::Code(-1))
    }
}

/// A child that ends when this value is dropped, and when this process ends for any reason.
#[derive(Debug)]
pub(crate) struct Bound {
    pub process: Process,
    /// Dropping it ends the thread that is the child's parent.
    _stay: mpsc::Sender<()>,
}

impl Bound {
    pub(crate) fn spawn(mut command: Command) -> anyhow::Result<Bound> {
        let program = command.get_program().to_string_lossy().into_owned();
        command.process_group(0);
        // SAFETY: the closure makes one system call and allocates nothing.
        unsafe { command.pre_exec(|| Ok(nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?)) };
        let (stay, gone) = mpsc::channel::<()>();
        let (tell, started) = mpsc::channel();
        // The kernel sends the signal when this thread ends. A thread of the runtime could end at any time.
        std::thread::spawn(move || {
            tell.send(command.spawn()).ok();
            gone.recv().ok();
        });
        let child = started.recv().context("the thread that starts a process died")?;
        let child = child.with_context(|| format!("cannot start {program}"))?;
        Ok(Bound { process: Process::watch(child), _stay: stay })
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        self.process.signal(Signal::SIGKILL);
    }
}
