//! Shows the progress of a departure. No decision uses it.

use std::time::Duration;

use futures_util::future::join_all;
use time::OffsetDateTime;
use tokio::time::Instant;

use super::budget::Budget;
use super::memory::Memory;
use crate::common::state::{Progress, Remaining};
use crate::node::Node;

/// Docker answers within milliseconds. A Docker that does not must not delay the departure.
const INSPECT_TIMEOUT: Duration = Duration::from_millis(500);

/// Shows the containers of the last observation.
pub async fn show(node: &Node, budget: &Budget, memory: &mut Memory) {
    let containers = std::mem::take(&mut memory.containers);
    // At the same time, so that together they take no longer than one.
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

/// Returns wall-clock time, rounded to the second, so that smaller shifts do not count as a change.
pub fn at(instant: Instant) -> OffsetDateTime {
    let wall = OffsetDateTime::now_utc() + instant.saturating_duration_since(Instant::now());
    let rounded = wall + Duration::from_millis(500);
    rounded.replace_nanosecond(0).unwrap_or(rounded)
}
