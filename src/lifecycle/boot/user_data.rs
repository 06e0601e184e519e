//! Keeps an instance whose UserData failed out of the swarm: it must not get tasks, because it is not set up as its
//! operator wanted.
//!
//! cloud-init records failures only at its end. A skep that UserData itself starts runs before that and finds nothing;
//! a skep that starts after cloud-init finds them.
//!
//! Guarantees: UserData that failed only because it waited for a start of skep that failed does not keep a later start
//! out; a failure from before an instance entered a warm pool is still known when the instance leaves the pool,
//! although cloud-init loses it at the stop.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use tokio::time::Instant;

use super::decide::Refusal;
use crate::clients::docker::LocalState;
use crate::clients::systemd;
use crate::common::disk;
use crate::common::errors::chain;
use crate::config::Settings;
use crate::node::Node;

/// Directory in which cloud-init records its progress; empty after the next start of the machine. Source: cloud-init's
/// documentation, "Reported status".
const CLOUD_INIT: &str = "/run/cloud-init";
/// Exists as soon as cloud-init has started.
const STATUS: &str = "status.json";
/// Written when cloud-init has ended.
const RESULT: &str = "result.json";
/// Contains the boot id of the machine at which a start of skep failed before cloud-init had ended.
const FAILED_START: &str = "failed-start";
/// Contains the failures from before the instance entered a warm pool.
const FAILED_BEFORE_THE_POOL: &str = "user-data-failed";
/// Time between two attempts: Docker may still be starting.
const DOCKER_INTERVAL: Duration = Duration::from_secs(1);
const CLOUD_INIT_INTERVAL: Duration = Duration::from_secs(1);

#[derive(Deserialize)]
struct Report {
    v1: Outcome,
}

#[derive(Deserialize)]
struct Outcome {
    #[serde(default)]
    errors: Vec<String>,
}

/// The progress of cloud-init at this start of the machine.
#[derive(Debug, PartialEq, Eq)]
enum CloudInit {
    /// It does not run here.
    Absent,
    /// It has not ended, as far as skep can tell.
    Running,
    Ended {
        errors: Vec<String>,
    },
}

/// Checks the result of cloud-init.
///
/// # Errors
/// When cloud-init has failed on an instance that is in no swarm yet. A member stays one.
pub async fn check(node: &Node) -> Result<(), Refusal> {
    if !node.settings.boot.cloud_init {
        return Ok(());
    }
    let Some(errors) = failure(node) else { return Ok(()) };
    loop {
        match node.swarm.fetch_local_node().await {
            Ok(local) if local.state == LocalState::Inactive => {
                return Err(Refusal::UserDataFailed { errors });
            }
            Ok(_) => {
                tracing::warn!(errors, "cloud-init has failed; the node is a member and stays one");
                return Ok(());
            }
            Err(error) => tracing::warn!("{}", chain(&error)),
        }
        tokio::time::sleep(DOCKER_INTERVAL).await;
    }
}

/// Records that this start of skep has failed, if cloud-init still runs: UserData that waits for the start fails with
/// it, and the next start must not stay out for that reason.
pub fn remember_failed_start(settings: &Settings) {
    let written = systemd::boot_id()
        .and_then(|id| note_failed_start(CLOUD_INIT.as_ref(), &settings.state_dir, &id));
    if let Err(error) = written {
        tracing::warn!("{}: {error}", settings.state_dir.display());
    }
}

fn note_failed_start(cloud_init: &Path, state_dir: &Path, boot_id: &str) -> io::Result<()> {
    match observe(cloud_init) {
        CloudInit::Running => disk::replace(&state_dir.join(FAILED_START), boot_id.as_bytes()),
        CloudInit::Absent | CloudInit::Ended { .. } => Ok(()),
    }
}

/// Waits until cloud-init has ended, `boot.deadline` at most, and records its failures. Auto Scaling may stop an
/// instance as soon as it is in a warm pool, even in the middle of UserData, and after the stop the failures are lost.
pub async fn finish_before_the_pool(node: &Node) {
    if !node.settings.boot.cloud_init {
        return;
    }
    let deadline = Instant::now() + node.settings.boot.deadline;
    while observe(CLOUD_INIT.as_ref()) == CloudInit::Running && Instant::now() < deadline {
        tokio::time::sleep(CLOUD_INIT_INTERVAL).await;
    }
    let Some(errors) = failure_of_this_start(node) else { return };
    tracing::warn!(errors, "cloud-init has failed: this instance will stay out of the swarm");
    if let Err(error) = disk::replace(&before_the_pool(node), errors.as_bytes()) {
        tracing::warn!("{}: {error}", before_the_pool(node).display());
    }
}

/// Returns the failures of this instance's UserData, at this start of the machine or before it entered a warm pool.
fn failure(node: &Node) -> Option<String> {
    failure_of_this_start(node).or_else(|| {
        let mark = before_the_pool(node);
        let errors = match std::fs::read_to_string(&mark) {
            Err(error) if error.kind() == ErrorKind::NotFound => return None,
            // The mark exists: its content does not matter for the decision.
            answer => answer.unwrap_or_else(|error| format!("{}: {error}", mark.display())),
        };
        Some(format!("before this instance entered the warm pool: {errors}"))
    })
}

fn before_the_pool(node: &Node) -> PathBuf {
    node.settings.state_dir.join(&node.instance.id).join(FAILED_BEFORE_THE_POOL)
}

fn failure_of_this_start(node: &Node) -> Option<String> {
    find_failure(CLOUD_INIT.as_ref(), &node.settings.state_dir, &node.boot_id)
}

fn find_failure(cloud_init: &Path, state_dir: &Path, boot_id: &str) -> Option<String> {
    let CloudInit::Ended { errors } = observe(cloud_init) else { return None };
    let failed_at = std::fs::read_to_string(state_dir.join(FAILED_START));
    let has_failed = failed_at.is_ok_and(|id| id == boot_id);
    if has_failed && is_of_one_script(&errors) {
        tracing::warn!(
            errors = errors.join("; "),
            "cloud-init has failed, probably because UserData waited for an earlier start of skep that failed: ignoring it"
        );
        return None;
    }
    Some(errors.join("; ")).filter(|errors| !errors.is_empty())
}

/// Whether exactly one of UserData's scripts has failed, and nothing else: the one that started skep, or `runcmd`. The
/// texts are those of cloud-init's `scripts_user` module and `runparts`.
fn is_of_one_script(errors: &[String]) -> bool {
    let [error] = errors else { return false };
    (error.contains("scripts-user") || error.contains("scripts_user"))
        && error.contains("Runparts: 1 failures")
}

fn observe(directory: &Path) -> CloudInit {
    let file = directory.join(RESULT);
    let text = match std::fs::read(&file) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound && !directory.join(STATUS).exists() => {
            return CloudInit::Absent;
        }
        Err(_) => return CloudInit::Running,
    };
    let report = serde_json::from_slice::<Report>(&text)
        .inspect_err(|error| tracing::warn!("{}: {error}", file.display()));
    CloudInit::Ended { errors: report.map(|report| report.v1.errors).unwrap_or_default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAILED: &str = r#"{"v1": {"datasource": "DataSourceEc2Local", "errors":
        ["('scripts-user', RuntimeError('Runparts: 1 failures (part-001) in 1 attempted'))"]}}"#;

    fn of(text: &str) -> CloudInit {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join(RESULT), text).unwrap();
        observe(directory.path())
    }

    #[test]
    fn what_cloud_init_says_went_wrong_is_told() {
        let CloudInit::Ended { errors } = of(FAILED) else { panic!("it has ended") };
        assert!(errors[0].contains("scripts-user"));
        let fine = r#"{"v1": {"datasource": null, "errors": []}}"#;
        assert_eq!(of(fine), CloudInit::Ended { errors: vec![] });
        assert_eq!(of("{}"), CloudInit::Ended { errors: vec![] }, "unknown content");
    }

    #[test]
    fn it_runs_from_its_status_to_its_result() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(observe(directory.path()), CloudInit::Absent);
        std::fs::write(directory.path().join(STATUS), "{}").unwrap();
        assert_eq!(observe(directory.path()), CloudInit::Running);
        std::fs::write(directory.path().join(RESULT), FAILED).unwrap();
        assert!(matches!(observe(directory.path()), CloudInit::Ended { .. }));
    }

    #[test]
    fn userdata_that_failed_with_a_start_of_skep_keeps_no_later_start_out() {
        let (cloud_init, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (cloud_init, state) = (cloud_init.path(), state.path());
        let end = |text: &str| std::fs::write(cloud_init.join(RESULT), text).unwrap();
        std::fs::write(cloud_init.join(STATUS), "{}").unwrap();
        end(FAILED);
        assert!(find_failure(cloud_init, state, "boot-1").is_some(), "skep had not started");
        note_failed_start(cloud_init, state, "boot-1").unwrap();
        assert!(find_failure(cloud_init, state, "boot-1").is_some(), "it failed after cloud-init");

        std::fs::remove_file(cloud_init.join(RESULT)).unwrap();
        note_failed_start(cloud_init, state, "boot-1").unwrap();
        assert_eq!(find_failure(cloud_init, state, "boot-1"), None, "cloud-init runs");
        end(FAILED);
        assert_eq!(find_failure(cloud_init, state, "boot-1"), None, "the start was the reason");
        assert!(
            find_failure(cloud_init, state, "boot-2").is_some(),
            "another start of the machine"
        );
        end(r#"{"v1": {"errors": ["('ssh', KeyError())"]}}"#);
        assert!(find_failure(cloud_init, state, "boot-1").is_some(), "something else has failed");
    }

    #[test]
    fn only_the_script_that_has_started_skep_may_have_failed_because_of_it() {
        let of = |errors: &[&str]| {
            is_of_one_script(&errors.iter().map(|error| (*error).to_owned()).collect::<Vec<_>>())
        };
        let script = "('scripts_user', RuntimeError('Runparts: 1 failures (runcmd) in 2 attempted commands'))";
        assert!(of(&[script]));
        assert!(of(&[&script.replace("scripts_user", "scripts-user")]));
        assert!(!of(&[]));
        assert!(!of(&[script, "('package_update_upgrade_install', ProcessExecutionError())"]));
        assert!(!of(&[&script.replace("1 failures", "2 failures")]), "another script, too");
        assert!(!of(&["('ssh', KeyError())"]));
    }
}
