//! How far a departure is, for whoever watches it: nothing is decided by it.

use std::time::Duration;

use futures_util::future::join_all;
use time::OffsetDateTime;
use tokio::time::Instant;

use super::budget::Budget;
use super::memory::Memory;
use crate::common::state::{Progress, Remaining};
use crate::node::Node;

/// Docker answers within milliseconds; one that does not must not hold the departure up.
const INSPECT_TIMEOUT: Duration = Duration::from_millis(500);

/// Shows what was seen last.
pub async fn show(node: &Node, budget: &Budget, memory: &mut Memory) {
    let containers = std::mem::take(&mut memory.containers);
    // Side by side: together they may take no longer than one.
    let unknown = containers.iter().filter(|one| !memory.graces.contains_key(&one.id));
    let asked = join_all(unknown.map(async |container| {
        let asked = node.swarm.fetch_grace(&container.id);
        let grace = tokio::time::timeout(INSPECT_TIMEOUT, asked).await.ok().flatten();
        (container.id.clone(), grace)
    }));
    let asked = asked.await;
    memory.graces.extend(asked);
    let remaining = containers.into_iter().map(|container| Remaining {
        grace_seconds: memory.graces.get(&container.id).copied().flatten(),
        is_task: container.task_id.is_some(),
        name: container.name,
    });
    let remaining = remaining.collect();
    node.state.set_progress(Progress {
        drain_until: at(budget.drain_until),
        flush_until: at(budget.flush_until),
        containers: remaining,
    });
}

/// As wall-clock time, to the second: what moves by less is no news.
pub fn at(instant: Instant) -> OffsetDateTime {
    let wall = OffsetDateTime::now_utc() + instant.saturating_duration_since(Instant::now());
    let rounded = wall + Duration::from_millis(500);
    rounded.replace_nanosecond(0).unwrap_or(rounded)
}
