//! systemd: telling it how skep does, and asking it why it stops us.
//!
//! Guarantees: everything here is best effort and bounded. Without systemd the notifications go nowhere and no
//! shutdown is seen; nothing fails. Where systemd runs this machine and does not say why it stops skep, that is
//! "cannot tell". `NOTIFY_SOCKET` is read anew each time and never changed.

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

/// systemd is asked in the first moments of a stop, out of the departure's budget; its answer
/// comes within milliseconds or, when it is going down itself, not at all.
const LIST_JOBS_TIMEOUT: Duration = Duration::from_secs(3);
/// Pings per watchdog period: one may be late by a whole interval and nothing happens.
const PINGS_PER_WATCHDOG: u32 = 2;
/// Without a watchdog there is nothing to ping; the state's changes wake the task.
const NO_WATCHDOG: Duration = Duration::from_secs(3600);

/// Where systemd is the one that runs this machine: see `sd_booted(3)`.
const BOOTED: &str = "/run/systemd/system";

/// What is happening to the machine while systemd stops skep.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shutdown {
    /// It is powered off or halted: a departure.
    PowerOff,
    /// It comes back (reboot, kexec, soft-reboot): no departure.
    Reboot,
    /// Only skep is stopped or restarted, or there is no systemd.
    None,
    /// systemd runs this machine and gave no answer.
    CannotTell {
        /// In words.
        why: String,
    },
}

/// Says that the node is Ready (`READY=1`); units ordered after skep start now.
pub fn notify_ready() {
    notify(&[NotifyState::Ready]);
}

/// Says that skep is on its way out (`STOPPING=1`).
pub fn notify_stopping() {
    notify(&[NotifyState::Stopping]);
}

/// Asks for `more` time, from now, for the start or stop that is under way
/// (`EXTEND_TIMEOUT_USEC`, at most some 71 minutes). To be repeated before it is over.
pub fn extend_timeout(more: Duration) {
    notify(&[NotifyState::ExtendTimeoutUsec(u32::try_from(more.as_micros()).unwrap_or(u32::MAX))]);
}

/// Shows the state as systemd's status line (`STATUS=phase: doing`) whenever it changes, and
/// answers the watchdog where the unit has one. Never returns: spawn it.
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
    // A line break would end the variable, and what follows would be another one.
    format!("{}: {}", state.phase.as_str(), state.headline()).replace(['\n', '\r'], " ")
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!("systemd could not be notified: {error}");
    }
}

/// Is the machine going down, and will it come back? To be asked when systemd stops skep; asks
/// systemd for its queued jobs, three seconds at most.
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

/// Which start of the machine this is: the kernel's random id of this boot, as text.
///
/// `SKEP_BOOT_ID` goes before it: the instances of the local cloud share one kernel.
///
/// # Errors
/// `/proc` is not there.
pub fn boot_id() -> io::Result<String> {
    match std::env::var("SKEP_BOOT_ID") {
        Ok(id) if !id.is_empty() => Ok(id),
        _ => Ok(std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned()),
    }
}

/// For how long this machine has been up, hibernation included.
///
/// # Errors
/// `/proc` is not there, or says something else.
pub fn uptime() -> io::Result<Duration> {
    let text = std::fs::read_to_string("/proc/uptime")?;
    let seconds = text.split_whitespace().next().and_then(|seconds| seconds.parse().ok());
    let uptime = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    uptime.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "/proc/uptime is malformed"))
}

#[cfg(test)]
mod tests;
