//! The executables in `/etc/skep/flush.d`: whatever an operator needs done before the node goes.

use std::io::{Error, Result};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tokio::time::Instant;

use super::Flushed;
use crate::child;
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
pub async fn run(
    path: &Path,
    node: &Node,
    departure: &Departure,
    until: Instant,
) -> Result<Flushed> {
    let left = until.saturating_duration_since(Instant::now());
    let output = child::command(path)
        .env("SKEP_REASON", departure.reason.as_str())
        .env("SKEP_DEADLINE", departure.deadline.unix_timestamp().to_string())
        .env("SKEP_FLUSH_SECONDS", left.as_secs().to_string())
        .env("SKEP_INSTANCE_ID", &node.instance.id)
        .env("SKEP_CLUSTER", &node.cluster)
        .output()
        .await
        .map_err(|error| Error::new(error.kind(), format!("{}: {error}", path.display())))?;
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        tracing::info!(flusher = %path.display(), "{line}");
    }
    for line in String::from_utf8_lossy(&output.stderr).lines() {
        tracing::warn!(flusher = %path.display(), "{line}");
    }
    if output.status.success() {
        Ok(Flushed::Done)
    } else {
        tracing::warn!(flusher = %path.display(), "{}", output.status);
        Ok(Flushed::Failed)
    }
}
