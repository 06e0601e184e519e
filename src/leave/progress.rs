//! How far a departure is, for whoever watches it: nothing is decided by it.

use std::time::Duration;

use time::OffsetDateTime;
use tokio::time::Instant;

use super::budget::Budget;
use super::observe::Memory;
use crate::node::Node;
use crate::state::{Progress, Remaining};

/// Docker answers within milliseconds; one that does not must not hold the departure up.
const INSPECT_TIMEOUT: Duration = Duration::from_millis(500);

/// Shows what was seen last.
pub async fn show(node: &Node, budget: &Budget, memory: &mut Memory) {
    let containers = std::mem::take(&mut memory.containers);
    let mut remaining = Vec::with_capacity(containers.len());
    for container in containers {
        let grace_seconds = match memory.graces.get(&container.id) {
            Some(known) => *known,
            None => {
                let asked = node.swarm.fetch_grace(&container.id);
                let grace = tokio::time::timeout(INSPECT_TIMEOUT, asked).await.ok().flatten();
                memory.graces.insert(container.id, grace);
                grace
            }
        };
        let is_task = container.task_id.is_some();
        remaining.push(Remaining { name: container.name, is_task, grace_seconds });
    }
    node.state.set_progress(Progress {
        drain_until: at(budget.drain_until),
        flush_until: at(budget.flush_until),
        containers: remaining,
    });
}

/// As wall-clock time, to the second: what moves by less is no news.
fn at(instant: Instant) -> OffsetDateTime {
    let wall = OffsetDateTime::now_utc() + instant.saturating_duration_since(Instant::now());
    let rounded = wall + Duration::from_millis(500);
    rounded.replace_nanosecond(0).unwrap_or(rounded)
}
