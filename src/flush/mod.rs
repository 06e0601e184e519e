//! Between the last task's end and leaving: what they wrote must be where it belongs.
//!
//! Each flusher gets the reason and the deadline, a time-out of its own, and an outcome in the
//! log. None can hold the departure up beyond the share of the deadline that flushing has.

mod command;
mod journal;

use std::time::Duration;

use tokio::time::Instant;

pub use command::executables;

use crate::instance::Departure;
use crate::metrics::metrics;
use crate::node::Node;

/// What came of one flusher.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flushed {
    Done,
    /// Nothing to do on this host.
    NotHere,
    Failed,
    TimedOut,
}

impl Flushed {
    fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::NotHere => "not_here",
            Self::Failed => "failed",
            Self::TimedOut => "timed_out",
        }
    }
}

/// Runs every flusher, in order, until `until` at the latest.
pub async fn run(node: &Node, departure: &Departure, until: Instant) {
    let settings = &node.settings.flush;
    let left = || until.saturating_duration_since(Instant::now()).min(settings.timeout);
    if settings.journal {
        report("journal", left(), journal::sync).await;
    }
    for path in command::executables(&settings.dir).await {
        let name = path.display().to_string();
        report(&name, left(), || command::run(&path, node, departure, until)).await;
    }
}

async fn report<F, Fut>(name: &str, time: Duration, flush: F)
where
    F: FnOnce() -> Fut,
    Fut: Future<Output = std::io::Result<Flushed>>,
{
    let started = Instant::now();
    let outcome = match tokio::time::timeout(time, flush()).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(error)) => {
            tracing::warn!(flusher = name, "flush: {error}");
            Flushed::Failed
        }
        Err(_) => Flushed::TimedOut,
    };
    let seconds = started.elapsed().as_secs_f64();
    metrics().flushed(name, outcome.as_str(), None, None);
    match outcome {
        Flushed::Done => tracing::info!(flusher = name, seconds, "flushed"),
        Flushed::NotHere => tracing::debug!(flusher = name, "nothing to flush here"),
        Flushed::Failed => tracing::warn!(flusher = name, seconds, "flushing failed"),
        Flushed::TimedOut => tracing::warn!(flusher = name, seconds, "flushing took too long"),
    }
}
