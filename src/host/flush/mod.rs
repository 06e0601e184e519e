//! Flushes the node's log lines between the end of the last task and leaving the swarm.
//!
//! All flushers run at once; the executables of `flush.d` run one after the other. Each flusher has its own time-out,
//! and an outcome in the log and in `skep status`. No flusher can delay the departure beyond flushing's share of the
//! deadline.
//!
//! Each shipper has a file, which describes the source of the shipper's numbers and the proof that everything has
//! arrived; `poll.rs` describes the common part of the proofs.

mod cloudwatch_agent;
mod command;
mod filebeat;
mod files;
mod fluent_bit;
mod http;
mod journal;
mod journal_upload;
mod page;
mod poll;
mod progress;
mod ship;
#[cfg(test)]
mod tests;
mod vector;

use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::{LocalBoxFuture, join_all};
use tokio::time::Instant;

use crate::common::flush_result::FlushResult;
use crate::common::instance::Departure;
use crate::common::process::executables;
use crate::config::Flush as Settings;
use crate::config::Shipper;
use crate::node::Node;
use progress::{Progress, report};

/// Runs every flusher, until `until` at the latest.
pub async fn run(node: &Node, departure: &Departure, until: Instant) {
    node.state.update(|state| state.flush.clear());
    let settings = &node.settings.flush;
    let time = time_left(settings, until);
    let mut flushers: Vec<LocalBoxFuture<'_, ()>> = Vec::new();
    if settings.journal {
        flushers.push(
            report(&node.state, "journal", time, async |_| journal::sync().await).boxed_local(),
        );
    }
    for shipper in &settings.shippers {
        let settle = settle_time(*shipper, settings.settle);
        let wait = async move |progress| has_sent(*shipper, settings, settle, &progress).await;
        flushers.push(report(&node.state, shipper.as_str(), time, wait).boxed_local());
    }
    for condition in &settings.http {
        let wait = async |progress| http::wait(condition, &progress).await;
        let name = condition.url.as_str();
        flushers.push(report(&node.state, name, time, wait).boxed_local());
    }
    if let Some(to) = &node.settings.ship.to {
        let wait =
            async |progress| ship::wait(&node.settings.ship, to, node, departure, &progress).await;
        flushers.push(report(&node.state, "ship", time, wait).boxed_local());
    }
    flushers.push(run_executables(node, departure, until).boxed_local());
    join_all(flushers).await;
}

async fn run_executables(node: &Node, departure: &Departure, until: Instant) {
    let settings = &node.settings.flush;
    let found = match executables(&settings.dir).await {
        Ok(found) => found,
        Err(error) => {
            let name = settings.dir.display().to_string();
            let unreadable = async |_| Err(error.to_string());
            return report(&node.state, &name, Duration::ZERO, unreadable).await;
        }
    };
    for path in found {
        let name = path.display().to_string();
        let run = async |progress| command::run(&path, node, departure, until, &progress).await;
        report(&node.state, &name, time_left(settings, until), run).await;
    }
}

fn time_left(settings: &Settings, until: Instant) -> Duration {
    until.saturating_duration_since(Instant::now()).min(settings.timeout)
}

/// Waits until a shipper has sent everything that was written before the flush.
async fn has_sent(
    shipper: Shipper,
    settings: &Settings,
    settle: Duration,
    progress: &Progress,
) -> Result<FlushResult, String> {
    match shipper {
        Shipper::JournalUpload => journal_upload::wait(progress).await,
        Shipper::Filebeat => filebeat::wait(&settings.filebeat_url, settle, progress).await,
        Shipper::FluentBit => fluent_bit::wait(&settings.fluent_bit_url, settle, progress).await,
        Shipper::Vector => vector::wait(&settings.vector_url, settle, progress).await,
        Shipper::CloudwatchAgent => {
            cloudwatch_agent::wait(&settings.cloudwatch_agent_state, settle, progress).await
        }
    }
}

/// Returns the time after the last task's end from which on a shipper's numbers include all lines of the tasks:
/// `flush.settle` for reading, at least as long as the shipper needs, plus the age of its numbers.
fn settle_time(shipper: Shipper, configured: Duration) -> Duration {
    match shipper {
        Shipper::JournalUpload | Shipper::CloudwatchAgent => configured,
        Shipper::Filebeat => configured.max(filebeat::SHORTEST_SETTLE),
        Shipper::FluentBit => configured + fluent_bit::OLDEST_READING,
        Shipper::Vector => configured + vector::OLDEST_READING,
    }
}
