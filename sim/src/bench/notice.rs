//! Measures the time from a notice to the drain: Auto Scaling terminates a worker, its metadata shows the notice, and a
//! manager's node list shows the availability `drain`.

use std::time::Duration;

use anyhow::Context;
use bollard::Docker;
use bollard::models::NodeSpecAvailabilityEnum;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::boot::find;
use crate::fleet::{ClusterSpec, Fleet, Instance};

/// Interval between two polls of the manager.
const POLL_EVERY: Duration = Duration::from_millis(5);
const LIMIT: Duration = Duration::from_secs(60);

/// Measures `count` new workers, one after the other: a manager that is busy with one departure would see the next one
/// sooner.
pub async fn measure(
    fleet: &Fleet,
    cluster: &ClusterSpec,
    manager: &Docker,
    count: u32,
) -> anyhow::Result<Vec<Duration>> {
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
    let mut times = Vec::new();
    for worker in fleet.group(&group).into_iter().skip(before) {
        let start = Instant::now();
        cloud.terminate(worker.id(), true)?;
        times.push(until_drain(manager, &worker, start).await?);
        fleet.wait_until("the worker's end", LIMIT, async || Ok(worker.is_gone())).await?;
    }
    Ok(times)
}

async fn until_drain(
    manager: &Docker,
    worker: &Instance,
    start: Instant,
) -> anyhow::Result<Duration> {
    let mut ticks = interval(POLL_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let polling = async {
        loop {
            ticks.tick().await;
            let availability =
                find(manager, worker).await?.and_then(|node| node.spec?.availability);
            if availability == Some(NodeSpecAvailabilityEnum::DRAIN) {
                return anyhow::Ok(start.elapsed());
            }
        }
    };
    timeout(LIMIT, polling).await.context("the node was not drained")?
}
