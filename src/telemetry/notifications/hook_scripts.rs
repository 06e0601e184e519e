//! Runs the hook scripts in `/etc/skep/hooks.d`: an executable with the event's name, or a folder of that name whose
//! executables run in the order of their names.
//!
//! Guarantees: each hook script ends within its timeout, with the processes that it has started, except those that have
//! left its process group. A bounded part of its output is logged. Its failure is logged, too, and has no other effect.

use std::io::Result;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;

use super::Message;
use crate::common::process::{self, Pipe, Quota, executables};
use crate::config::HookScripts;
use crate::telemetry::metrics::metrics;

/// Limit in bytes for each of a hook script's two streams; the rest is read and discarded.
const MOST_OUTPUT: usize = 4096;

/// Runs the hook scripts of an event, one after the other.
pub async fn run(settings: &HookScripts, message: &Message) {
    let event = message.event.as_str();
    for program in programs(&settings.dir, event).await {
        let hook = program.display();
        let result = match tokio::time::timeout(settings.timeout, one(&program, message)).await {
            Ok(Ok(status)) if status.success() => {
                tracing::info!(%hook, event, "hook script finished");
                "ok"
            }
            Ok(Ok(status)) => {
                tracing::warn!(%hook, event, "hook script failed: {status}");
                "failed"
            }
            Ok(Err(error)) => {
                tracing::warn!(%hook, event, "hook script failed: {error}");
                "failed"
            }
            Err(_) => {
                tracing::warn!(%hook, event, "hook script killed: not finished within {:?}", settings.timeout);
                "timed_out"
            }
        };
        metrics().hook_script_run(event, result);
    }
}

async fn programs(dir: &Path, event: &str) -> Vec<PathBuf> {
    let of_the_event = dir.join(event);
    let is_folder = of_the_event.is_dir();
    let dir = if is_folder { &of_the_event } else { dir };
    let mut all = executables(dir).await.unwrap_or_else(|error| {
        tracing::warn!(hooks = %dir.display(), "cannot list the hook scripts: {error}");
        Vec::new()
    });
    if is_folder {
        return all;
    }
    all.retain(|program| *program == of_the_event);
    if all.is_empty() && of_the_event.exists() {
        tracing::warn!(hook = %of_the_event.display(), "hook script is not executable");
    }
    all
}

/// Runs one hook script, with the message on its standard input.
///
/// | variable | content |
/// |---|---|
/// | `SKEP_EVENT` | `joined`, `departing`, `drained`, `left` or `failed` |
/// | `SKEP_REASON`, `SKEP_DEADLINE` | of a departure, as for flushers |
/// | `SKEP_INSTANCE_ID`, `SKEP_CLUSTER`, `SKEP_ROLE`, `SKEP_ZONE`, `SKEP_NODE_ID` | the node of the event |
/// | `SKEP_OUTCOME` | the outcome, in words |
async fn one(program: &Path, message: &Message) -> Result<ExitStatus> {
    let variables = [
        ("SKEP_EVENT", Some(message.event.as_str().to_owned())),
        ("SKEP_REASON", message.reason.map(|reason| reason.to_string())),
        ("SKEP_DEADLINE", message.deadline.map(|at| at.unix_timestamp().to_string())),
        ("SKEP_INSTANCE_ID", message.instance_id.clone()),
        ("SKEP_CLUSTER", message.cluster.clone()),
        ("SKEP_ROLE", message.role.map(|role| role.to_string())),
        ("SKEP_ZONE", message.zone.clone()),
        ("SKEP_NODE_ID", message.node_id.clone()),
        ("SKEP_OUTCOME", message.outcome.clone()),
    ];
    let mut command = process::command(program);
    command.envs(variables.into_iter().filter_map(|(name, value)| Some((name, value?))));
    let (mut said, mut complained) = (Quota::new(MOST_OUTPUT), Quota::new(MOST_OUTPUT));
    let hook = program.display();
    let status = process::run(command, message.json().as_bytes(), |pipe, line| match pipe {
        Pipe::Stdout if said.admits(line) => tracing::info!(%hook, "{line}"),
        Pipe::Stderr if complained.admits(line) => tracing::warn!(%hook, "{line}"),
        Pipe::Stdout | Pipe::Stderr => {}
    })
    .await;
    let left_out = said.left_out() + complained.left_out();
    if left_out > 0 {
        tracing::info!(%hook, "{left_out} more bytes of its output were dropped");
    }
    status
}
