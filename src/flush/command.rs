//! The executables in `/etc/skep/flush.d`: whatever an operator needs done before the node goes.

use std::io::Error;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::time::Instant;

use super::progress::Progress;
use crate::child;
use crate::flushed::Flushed;
use crate::instance::Departure;
use crate::node::Node;

/// Executable files of a directory, in the order of their names. A directory that is not there is
/// an empty one.
pub async fn executables(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let Ok(mut entries) = tokio::fs::read_dir(dir).await else { return found };
    while let Ok(Some(entry)) = entries.next_entry().await {
        // Through a link, as operators put them there.
        if let Ok(metadata) = tokio::fs::metadata(entry.path()).await
            && metadata.is_file()
            && metadata.permissions().mode() & 0o111 != 0
        {
            found.push(entry.path());
        }
    }
    found.sort();
    found
}

/// Runs one of them, with why and until when in its environment.
///
/// | variable | holds |
/// |---|---|
/// | `SKEP_REASON` | `lifecycle`, `spot`, `maintenance`, `shutdown` or `operator` |
/// | `SKEP_DEADLINE` | when the machine goes, in seconds since 1970 |
/// | `SKEP_FLUSH_SECONDS` | seconds that are left for flushing |
/// | `SKEP_INSTANCE_ID`, `SKEP_CLUSTER` | whose logs these are |
///
/// What it prints goes to the log. A line `unsent=<n>` or `sent=<n>` is a count, for `skep status`; the
/// last one of each outlives a time-out.
pub async fn run(
    path: &Path,
    node: &Node,
    departure: &Departure,
    until: Instant,
    progress: &Progress,
) -> Result<Flushed, String> {
    let left = until.saturating_duration_since(Instant::now());
    let failed = |error: Error| format!("{}: {error}", path.display());
    let mut child = child::command(path)
        .env("SKEP_REASON", departure.reason.as_str())
        .env("SKEP_DEADLINE", departure.deadline.unix_timestamp().to_string())
        .env("SKEP_FLUSH_SECONDS", left.as_secs().to_string())
        .env("SKEP_INSTANCE_ID", &node.instance.id)
        .env("SKEP_CLUSTER", &node.cluster)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let says = async {
        each_line(stdout, |line| match count(line) {
            Some((Count::Sent, count)) => progress.count(|row| row.sent = Some(count)),
            Some((Count::Unsent, count)) => progress.count(|row| row.unsent = Some(count)),
            None => tracing::info!(flusher = %path.display(), "{line}"),
        })
        .await
    };
    let complains = async {
        each_line(stderr, |line| {
            tracing::warn!(flusher = %path.display(), "{line}");
            progress.complain(line);
        })
        .await
    };
    let (status, (), ()) = tokio::join!(child.wait(), says, complains);
    match status.map_err(failed)? {
        status if status.success() => Ok(Flushed::Done),
        status => Err(status.to_string()),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Count {
    Sent,
    Unsent,
}

fn count(line: &str) -> Option<(Count, u64)> {
    let (name, count) = line.trim().split_once('=')?;
    let name = match name {
        "sent" => Count::Sent,
        "unsent" => Count::Unsent,
        _ => return None,
    };
    Some((name, count.parse().ok()?))
}

/// Line by line as they come: what was said before a time-out is in the log.
async fn each_line(pipe: Option<impl AsyncRead + Unpin>, mut line: impl FnMut(&str)) {
    let Some(pipe) = pipe else { return };
    let mut lines = BufReader::new(pipe).split(b'\n');
    while let Ok(Some(bytes)) = lines.next_segment().await {
        line(&String::from_utf8_lossy(&bytes));
    }
}
