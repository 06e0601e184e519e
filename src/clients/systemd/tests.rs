//! A child process sends the notifications, because all tests share the environment of this process.

use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::Instant;

use super::*;
use crate::common::state::Phase;

/// Runs one ignored test of this module in a process with the variables `vars`, and waits for its end.
fn in_child(test: &str, vars: &[(&str, &str)]) {
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &format!("clients::systemd::tests::{test}"), "--ignored"])
        .envs(vars.iter().copied())
        .output()
        .unwrap();
    let report = String::from_utf8_lossy(&output.stdout);
    // A name that matches no test would succeed, too.
    assert!(output.status.success() && report.contains("1 passed"), "{test}: {report}");
}

/// Returns the messages that a child running `test` sends to its NOTIFY_SOCKET.
fn told_by(test: &str, vars: &[(&str, &str)]) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_nonblocking(true).unwrap();
    let mut vars = vars.to_vec();
    vars.push(("NOTIFY_SOCKET", path.to_str().unwrap()));
    in_child(test, &vars);
    let mut buffer = [0; 1024];
    let mut told = Vec::new();
    while let Ok(length) = socket.recv(&mut buffer) {
        told.push(String::from_utf8_lossy(&buffer[..length]).trim_end().to_owned());
    }
    told
}

#[test]
#[ignore = "run by the test beside it, in a process of its own"]
fn child_says_everything_once() {
    notify_ready();
    extend_timeout(Duration::from_secs(90));
    extend_timeout(Duration::from_secs(1 << 40));
    notify_stopping();
}

#[test]
fn systemd_is_told_what_it_understands() {
    let told = told_by("child_says_everything_once", &[]);
    let expected =
        ["READY=1", "EXTEND_TIMEOUT_USEC=90000000", "EXTEND_TIMEOUT_USEC=4294967295", "STOPPING=1"];
    assert_eq!(told, expected);
    in_child("child_says_everything_once", &[("NOTIFY_SOCKET", "/nowhere/at/all")]);
}

#[test]
#[ignore = "run by the test beside it, in a process of its own"]
fn child_follows_the_state() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let pause = || tokio::time::sleep(Duration::from_millis(50));
        let state = StateHandle::default();
        let following = tokio::spawn(follow(state.clone()));
        pause().await;
        state.enter(Phase::Booting, "waiting for i-0abc\nREADY=1");
        pause().await;
        state.update(|state| state.cluster = Some("prod".into()));
        pause().await;
        following.abort();
    });
}

#[test]
fn the_status_follows_the_state_and_says_nothing_twice() {
    let told = told_by("child_follows_the_state", &[]);
    assert_eq!(
        told,
        [
            "STATUS=starting: reading the instance metadata",
            "STATUS=booting: waiting for i-0abc READY=1",
        ]
    );
}

#[test]
fn the_watchdog_is_answered_twice_per_period() {
    let told = told_by("child_follows_the_state", &[("WATCHDOG_USEC", "80000")]);
    let pings = told.iter().filter(|line| *line == "WATCHDOG=1").count();
    // Some 150 ms at one ping per 40 ms, on a machine that may be slow.
    assert!(pings >= 2, "{told:?}");
}

#[test]
fn only_a_start_job_of_a_shutdown_target_is_a_shutdown() {
    for (jobs, expected) in [
        ("", Shutdown::None),
        ("12 skep.service stop running\n", Shutdown::None),
        ("12 skep.service restart running\n", Shutdown::None),
        ("9 docker.service stop running\n12 poweroff.target start waiting\n", Shutdown::PowerOff),
        ("12 halt.target start waiting\n", Shutdown::PowerOff),
        ("12 reboot.target start waiting\n", Shutdown::Reboot),
        ("12 kexec.target start waiting\n", Shutdown::Reboot),
        ("12 soft-reboot.target start waiting\n", Shutdown::Reboot),
        ("12 poweroff.target stop waiting\n", Shutdown::None),
        ("12 my-poweroff.target start waiting\n", Shutdown::None),
        ("poweroff.target start\nnonsense\n", Shutdown::None),
    ] {
        assert_eq!(shutdown_job(jobs), expected, "{jobs:?}");
    }
}

fn script(dir: &Path, name: &str, body: &str) -> std::path::PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path
}

#[tokio::test]
async fn systemctl_that_is_absent_failing_or_silent_cannot_tell_where_systemd_runs_the_machine() {
    let dir = tempfile::tempdir().unwrap();
    let line = "12 poweroff.target start waiting";
    let answer =
        format!("[ \"$*\" = 'list-jobs --no-legend --plain --no-pager' ] && echo '{line}'");
    let answering = script(dir.path(), "answering", &answer);
    let failing = script(dir.path(), "failing", &format!("echo '{line}'; exit 1"));
    let silent = script(dir.path(), "silent", "exec sleep 600");
    let (booted, elsewhere) = (dir.path(), dir.path().join("nowhere"));
    for booted in [booted, elsewhere.as_path()] {
        let told = ask_shutdown_kind(answering.as_os_str(), booted).await;
        assert_eq!(told, Shutdown::PowerOff);
    }
    for (systemctl, says) in [
        (failing.as_path(), "failed (exit status: 1)"),
        (Path::new("/nowhere/systemctl"), "could not be run"),
    ] {
        let systemctl = systemctl.as_os_str();
        assert_eq!(ask_shutdown_kind(systemctl, &elsewhere).await, Shutdown::None);
        let Shutdown::CannotTell { why } = ask_shutdown_kind(systemctl, booted).await else {
            panic!("{systemctl:?} did not lead to CannotTell")
        };
        assert!(why.contains(says), "{why}");
    }
    let started = Instant::now();
    let told = ask_shutdown_kind(silent.as_os_str(), booted).await;
    assert!(matches!(told, Shutdown::CannotTell { .. }), "{told:?}");
    assert!(started.elapsed() < LIST_JOBS_TIMEOUT * 20, "{:?}", started.elapsed());
}

#[test]
#[ignore = "run by the test beside it, in a process of its own"]
fn child_boot_id_is_seven() {
    assert_eq!(boot_id().unwrap(), "7");
}

#[test]
fn the_boot_id_is_the_kernels_unless_it_is_given() {
    let id = boot_id().unwrap();
    assert_eq!(id.len(), 36, "{id:?} is not a UUID");
    assert_eq!(id, boot_id().unwrap());
    in_child("child_boot_id_is_seven", &[("SKEP_BOOT_ID", "7")]);
}

#[tokio::test]
async fn a_machine_is_powered_off_or_the_reason_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let asked = dir.path().join("asked");
    let body = format!("echo \"$@\" > {}", asked.display());
    let willing = script(dir.path(), "willing", &body);
    ask_to_power_off(willing.as_os_str()).await.unwrap();
    assert_eq!(std::fs::read_to_string(asked).unwrap(), "--no-ask-password poweroff\n");
    let refusing = script(dir.path(), "refusing", "echo 'Access denied' >&2; exit 4");
    let error = ask_to_power_off(refusing.as_os_str()).await.unwrap_err().to_string();
    assert!(error.ends_with(": Access denied") && error.contains("poweroff failed"), "{error}");
    assert!(ask_to_power_off("/nonexistent".as_ref()).await.is_err());
}
