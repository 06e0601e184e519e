//! Runs the executables in `/etc/skep/flush.d`, the operator's own work before the node leaves.

use std::path::Path;

use tokio::time::Instant;

use super::progress::Progress;
use crate::common::flush_result::FlushResult;
use crate::common::instance::Departure;
use crate::common::process::{self, Pipe, Quota};
use crate::node::Node;

/// Bytes of each of the two streams that are logged; counts are read beyond that.
const MOST_LOGGED: usize = 16 << 10;

/// Runs one executable, with the reason and the deadline in its environment.
///
/// | variable | holds |
/// |---|---|
/// | `SKEP_REASON` | `lifecycle`, `spot`, `maintenance`, `shutdown` or `operator` |
/// | `SKEP_DEADLINE` | the time when the machine ends, in seconds since 1970 |
/// | `SKEP_FLUSH_SECONDS` | seconds left for flushing |
/// | `SKEP_INSTANCE_ID`, `SKEP_CLUSTER` | the node of these logs |
///
/// Its output is logged, up to 16 KiB of each stream. A line `unsent=<n>` or `sent=<n>` is a count for `skep status`;
/// the last count of each kind survives a time-out. Its child processes end with it, unless they have left its process
/// group.
pub async fn run(
    path: &Path,
    node: &Node,
    departure: &Departure,
    until: Instant,
    progress: &Progress,
) -> Result<FlushResult, String> {
    let left = until.saturating_duration_since(Instant::now());
    let mut command = process::command(path);
    command
        .env("SKEP_REASON", departure.reason.as_str())
        .env("SKEP_DEADLINE", departure.deadline.unix_timestamp().to_string())
        .env("SKEP_FLUSH_SECONDS", left.as_secs().to_string())
        .env("SKEP_INSTANCE_ID", &node.instance.id)
        .env("SKEP_CLUSTER", &node.cluster);
    let (mut said, mut complained) = (Quota::new(MOST_LOGGED), Quota::new(MOST_LOGGED));
    let flusher = path.display();
    let status = process::run(command, b"", |pipe, line| match (pipe, count(line)) {
        (Pipe::Stdout, Some((Count::Sent, count))) => progress.count(|row| row.sent = Some(count)),
        (Pipe::Stdout, Some((Count::Unsent, count))) => {
            progress.count(|row| row.unsent = Some(count));
        }
        (Pipe::Stdout, None) if said.admits(line) => tracing::info!(%flusher, "{line}"),
        (Pipe::Stdout, None) => {}
        (Pipe::Stderr, _) => {
            if complained.admits(line) {
                tracing::warn!(%flusher, "{line}");
            }
            progress.complain(line);
        }
    })
    .await;
    let left_out = said.left_out() + complained.left_out();
    if left_out > 0 {
        tracing::warn!(%flusher, "{left_out} more bytes of its output were dropped");
    }
    match status.map_err(|error| format!("{flusher}: {error}"))? {
        status if status.success() => Ok(FlushResult::Done),
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
