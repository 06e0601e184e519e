//! The executables in `/etc/skep/hooks.d`: one of the event's name, or a folder of that name whose
//! executables run in the order of their names.
//!
//! Guarantees: each ends within its time-out, together with what it has started, unless that has left
//! its process group; of what it says a bounded part is kept, in the log; that it fails is said there,
//! too, and changes nothing else.

use std::io::Result;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::Child;

use super::Message;
use crate::child;
use crate::config::Hooks;
use crate::flush::executables;
use crate::metrics::metrics;

pub const RESULTS: [&str; 3] = ["ok", "failed", "timed_out"];

/// Of each of a hook's two streams; what comes beyond is read and thrown away.
const MOST_OUTPUT: usize = 4096;
/// A line of the log is read by people.
const LONGEST_LINE: usize = 500;
/// Something that has left the hook's process group may hold its output open.
const OUTPUT_PATIENCE: Duration = Duration::from_millis(200);

/// Runs what there is for an event, one after the other.
pub async fn run(settings: &Hooks, message: &Message) {
    let event = message.event.as_str();
    for program in programs(&settings.dir, event).await {
        let hook = program.display();
        let result = match tokio::time::timeout(settings.timeout, one(&program, message)).await {
            Ok(Ok(status)) if status.success() => {
                tracing::info!(%hook, event, "hook done");
                "ok"
            }
            Ok(Ok(status)) => {
                tracing::warn!(%hook, event, "hook failed: {status}");
                "failed"
            }
            Ok(Err(error)) => {
                tracing::warn!(%hook, event, "hook failed: {error}");
                "failed"
            }
            Err(_) => {
                tracing::warn!(%hook, event, "hook killed: not done within {:?}", settings.timeout);
                "timed_out"
            }
        };
        metrics().hook_run(event, result);
    }
}

async fn programs(dir: &Path, event: &str) -> Vec<PathBuf> {
    let of_the_event = dir.join(event);
    if of_the_event.is_dir() {
        return executables(&of_the_event).await;
    }
    let mut all = executables(dir).await;
    all.retain(|program| *program == of_the_event);
    if all.is_empty() && of_the_event.exists() {
        tracing::warn!(hook = %of_the_event.display(), "it is not executable");
    }
    all
}

/// Ends a hook with all that it has started, also where nobody waits for it any more.
struct Group(Child);

impl Drop for Group {
    fn drop(&mut self) {
        // Nobody has waited for its first process yet, or nobody else: the number is still its own.
        if let Some(id) = self.0.id().and_then(|id| i32::try_from(id).ok()) {
            let _ = killpg(Pid::from_raw(id), Signal::SIGKILL);
        }
    }
}

/// Runs one hook, with the message on its standard input.
///
/// | variable | holds |
/// |---|---|
/// | `SKEP_EVENT` | `joined`, `departing`, `drained`, `left` or `failed` |
/// | `SKEP_REASON`, `SKEP_DEADLINE` | of a departure, as for flushers |
/// | `SKEP_INSTANCE_ID`, `SKEP_CLUSTER`, `SKEP_ROLE`, `SKEP_ZONE`, `SKEP_NODE_ID` | whose event it is |
/// | `SKEP_OUTCOME` | how it ended, in words |
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
    let mut hook = Group(
        child::command(program)
            .envs(variables.into_iter().filter_map(|(name, value)| Some((name, value?))))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()?,
    );
    let (input, out, err) = (hook.0.stdin.take(), hook.0.stdout.take(), hook.0.stderr.take());
    let group = hook.0.id().and_then(|id| i32::try_from(id).ok());
    let (mut said, mut complained) = (Said::default(), Said::default());
    let status = {
        let write = async {
            if let Some(mut input) = input {
                // One that does not read it has gone or does not care.
                let _ = input.write_all(message.json().as_bytes()).await;
            }
        };
        let read = async { tokio::join!(write, said.read(out), complained.read(err)) };
        tokio::pin!(read);
        tokio::select! {
            status = hook.0.wait() => {
                let status = status?;
                // What it has left behind in its group goes with it.
                if let Some(group) = group {
                    let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
                }
                let _ = tokio::time::timeout(OUTPUT_PATIENCE, read).await;
                status
            }
            _ = &mut read => hook.0.wait().await?,
        }
    };
    let hook = program.display();
    said.lines(|line| tracing::info!(%hook, "{line}"));
    complained.lines(|line| tracing::warn!(%hook, "{line}"));
    Ok(status)
}

/// The beginning of a stream.
#[derive(Default)]
struct Said {
    text: Vec<u8>,
    left_out: usize,
}

impl Said {
    async fn read(&mut self, stream: Option<impl AsyncRead + Unpin>) {
        let Some(mut stream) = stream else { return };
        let mut buffer = [0; 1024];
        while let Ok(read @ 1..) = stream.read(&mut buffer).await {
            let kept = read.min(MOST_OUTPUT - self.text.len());
            self.text.extend_from_slice(&buffer[..kept]);
            self.left_out += read - kept;
        }
    }

    fn lines(&self, mut log: impl FnMut(&str)) {
        for line in String::from_utf8_lossy(&self.text).lines() {
            let end = line.char_indices().nth(LONGEST_LINE).map_or(line.len(), |(at, _)| at);
            log(&line[..end]);
        }
        if self.left_out > 0 {
            log(&format!("{} more bytes are left out", self.left_out));
        }
    }
}
