//! Notifies systemd of skep's state, and asks systemd why it stops skep.
//!
//! Guarantees: everything here is best effort and limited in time. Without systemd the notifications have no effect and
//! no shutdown is detected; nothing fails. Where systemd runs this machine and does not report why it stops skep, that
//! is "cannot tell". `NOTIFY_SOCKET` is read anew each time and never changed.

mod unit;

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use sd_notify::NotifyState;

pub use unit::{PowerButton, Unit, fetch_power_button, fetch_unit};

use crate::common::process;
use crate::common::state::{NodeState, StateHandle};

/// Time limit of a question to systemd. skep asks in the first moments of a stop, within the departure's budget.
/// systemd answers within milliseconds or, when it is shutting down itself, not at all.
const LIST_JOBS_TIMEOUT: Duration = Duration::from_secs(3);
/// Time limit for the order to power off.
const POWER_OFF_TIMEOUT: Duration = Duration::from_secs(10);
/// Pings per watchdog period: one ping can be late by a whole interval without harm.
const PINGS_PER_WATCHDOG: u32 = 2;
/// Interval of the timer without a watchdog, which sends no pings; changes of the state wake the task.
const NO_WATCHDOG: Duration = Duration::from_secs(3600);

/// Exists where systemd runs this machine; see `sd_booted(3)`.
const BOOTED: &str = "/run/systemd/system";

/// The kind of shutdown in which systemd stops skep.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shutdown {
    /// The machine is powered off or halted: a departure.
    PowerOff,
    /// The machine comes back (reboot, kexec, soft-reboot): no departure.
    Reboot,
    /// Only skep is stopped or restarted, or there is no systemd.
    None,
    /// systemd runs this machine and did not answer.
    CannotTell {
        /// The reason, for the log.
        why: String,
    },
}

/// Notifies systemd that the node is Ready (`READY=1`); units ordered after skep start now.
pub fn notify_ready() {
    notify(&[NotifyState::Ready]);
}

/// Notifies systemd that skep is stopping (`STOPPING=1`).
pub fn notify_stopping() {
    notify(&[NotifyState::Stopping]);
}

/// Requests `more` time, from now, for the start or stop in progress (`EXTEND_TIMEOUT_USEC`, at most about 71 minutes).
/// The caller must repeat it before that time is over.
pub fn extend_timeout(more: Duration) {
    notify(&[NotifyState::ExtendTimeoutUsec(u32::try_from(more.as_micros()).unwrap_or(u32::MAX))]);
}

/// Shows the state as systemd's status line (`STATUS=phase: doing`) whenever it changes, and pings the watchdog where
/// the unit has one. Never returns: spawn it.
pub async fn follow(state: StateHandle) {
    let watchdog = sd_notify::watchdog_enabled().map(|period| period / PINGS_PER_WATCHDOG);
    let mut pings = tokio::time::interval(watchdog.unwrap_or(NO_WATCHDOG));
    let mut changes = state.subscribe();
    changes.mark_changed();
    let mut shown = String::new();
    loop {
        tokio::select! {
            // `state` holds a sender, so the channel never closes.
            _ = changes.changed() => {
                let status = status_line(&changes.borrow_and_update());
                if status != shown {
                    notify(&[NotifyState::Status(&status)]);
                    shown = status;
                }
            }
            _ = pings.tick(), if watchdog.is_some() => notify(&[NotifyState::Watchdog]),
        }
    }
}

fn status_line(state: &NodeState) -> String {
    // A line break would end the variable, and the rest would be another variable.
    format!("{}: {}", state.phase.as_str(), state.headline()).replace(['\n', '\r'], " ")
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!("cannot notify systemd: {error}");
    }
}

/// Finds out from systemd's queued jobs whether the machine shuts down, and whether it comes back. Takes at most three
/// seconds. Call it when systemd stops skep.
pub async fn shutdown_kind() -> Shutdown {
    ask_shutdown_kind("systemctl".as_ref(), BOOTED.as_ref()).await
}

async fn ask_shutdown_kind(systemctl: &OsStr, booted: &Path) -> Shutdown {
    let asked = process::command(systemctl)
        .args(["list-jobs", "--no-legend", "--plain", "--no-pager"])
        .stderr(Stdio::null())
        .output();
    let why = match tokio::time::timeout(LIST_JOBS_TIMEOUT, asked).await {
        Ok(Ok(output)) if output.status.success() => {
            return shutdown_job(&String::from_utf8_lossy(&output.stdout));
        }
        Ok(Ok(output)) => format!("systemctl list-jobs failed ({})", output.status),
        Ok(Err(error)) => format!("systemctl could not be run: {error}"),
        Err(_) => format!("systemctl list-jobs did not answer within {LIST_JOBS_TIMEOUT:?}"),
    };
    match tokio::fs::try_exists(booted).await {
        Ok(false) => Shutdown::None,
        Ok(true) | Err(_) => Shutdown::CannotTell { why },
    }
}

/// Finds the start job of a shutdown target among lines of `JOB UNIT TYPE STATE`.
fn shutdown_job(jobs: &str) -> Shutdown {
    jobs.lines()
        .filter_map(|line| {
            let mut columns = line.split_whitespace().skip(1);
            let (unit, kind) = (columns.next()?, columns.next()?);
            match unit {
                _ if kind != "start" => None,
                "poweroff.target" | "halt.target" => Some(Shutdown::PowerOff),
                "reboot.target" | "kexec.target" | "soft-reboot.target" => Some(Shutdown::Reboot),
                _ => None,
            }
        })
        .next()
        .unwrap_or(Shutdown::None)
}

/// Powers the machine off, as far as this user may do that. Returns as soon as systemd has accepted it.
///
/// # Errors
/// `systemctl` cannot be run, refuses, or does not answer within ten seconds.
pub async fn power_off() -> io::Result<()> {
    ask_to_power_off("systemctl".as_ref()).await
}

async fn ask_to_power_off(systemctl: &OsStr) -> io::Result<()> {
    let asked = process::command(systemctl).args(["--no-ask-password", "poweroff"]).output();
    let output = tokio::time::timeout(POWER_OFF_TIMEOUT, asked).await??;
    if output.status.success() {
        return Ok(());
    }
    let why = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!("systemctl poweroff failed ({}): {}", output.status, why.trim())))
}

/// Returns the kernel's random id of this boot of the machine, as text.
///
/// `SKEP_BOOT_ID` overrides it, because the instances of the local cloud share one kernel.
///
/// # Errors
/// `/proc` cannot be read.
pub fn boot_id() -> io::Result<String> {
    match std::env::var("SKEP_BOOT_ID") {
        Ok(id) if !id.is_empty() => Ok(id),
        _ => Ok(std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned()),
    }
}

/// Returns the uptime of this machine, hibernation included.
///
/// # Errors
/// `/proc/uptime` cannot be read, or cannot be parsed.
pub fn uptime() -> io::Result<Duration> {
    let text = std::fs::read_to_string("/proc/uptime")?;
    let seconds = text.split_whitespace().next().and_then(|seconds| seconds.parse().ok());
    let uptime = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    uptime.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "/proc/uptime is malformed"))
}

#[cfg(test)]
mod tests;
