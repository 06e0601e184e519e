//! Measures what follows a notice: Auto Scaling terminates a worker, its metadata shows the notice, and a manager's node
//! list shows the node as held back from new tasks (availability `pause` or `drain`), and as draining.

use std::time::Duration;

use anyhow::Context;
use bollard::Docker;
use bollard::models::NodeSpecAvailabilityEnum;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::boot::{POLL_EVERY, find};
use crate::fleet::{ClusterSpec, Fleet, Instance};

const LIMIT: Duration = Duration::from_secs(60);

/// The times since each notice.
#[derive(Debug, Default)]
pub struct Notices {
    /// Until the node gets no new tasks.
    pub held: Vec<Duration>,
    /// Until it is drained.
    pub drained: Vec<Duration>,
}

/// Measures `count` new workers, one after the other: a manager that is busy with one departure would see the next one
/// sooner.
pub async fn measure(
    fleet: &Fleet,
    cluster: &ClusterSpec,
    manager: &Docker,
    count: u32,
) -> anyhow::Result<Notices> {
    let (cloud, group) = (fleet.cloud(), cluster.workers_group());
    let before = fleet.group(&group).len();
    cloud.set_desired(&group, cluster.workers + count)?;
    fleet
        .wait_until("the workers that must leave", LIMIT, async || {
            let workers = fleet.group(&group);
            Ok(workers.len() == before + count as usize
                && workers.iter().all(|worker| worker.is_ready()))
        })
        .await?;
    let mut notices = Notices::default();
    for worker in fleet.group(&group).into_iter().skip(before) {
        let start = Instant::now();
        cloud.terminate(worker.id(), true)?;
        let (held, drained) = until_drained(manager, &worker, start).await?;
        notices.held.push(held);
        notices.drained.push(drained);
        fleet.wait_until("the worker's end", LIMIT, async || Ok(worker.is_gone())).await?;
    }
    Ok(notices)
}

/// Returns the times until the node is held back, and until it is drained.
async fn until_drained(
    manager: &Docker,
    worker: &Instance,
    start: Instant,
) -> anyhow::Result<(Duration, Duration)> {
    let mut ticks = interval(POLL_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut held = None;
    let polling = async {
        loop {
            ticks.tick().await;
            let node = find(manager, worker).await?.context("off the list before a drain")?;
            let availability = node.spec.and_then(|spec| spec.availability);
            if availability != Some(NodeSpecAvailabilityEnum::ACTIVE) {
                held.get_or_insert_with(|| start.elapsed());
            }
            if availability == Some(NodeSpecAvailabilityEnum::DRAIN) {
                let drained = start.elapsed();
                return anyhow::Ok((held.unwrap_or(drained), drained));
            }
        }
    };
    timeout(LIMIT, polling).await.context("the node was not drained")?
}
