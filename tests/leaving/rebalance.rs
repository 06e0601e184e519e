//! Auto Scaling balances the zones of the workers' group: new workers first, and the earlier ones leave with their tasks'
//! grace.

use anyhow::{Context, ensure};
use bollard::models::NodeState;
use harness::departures::{Leaver, options_with, running, standing};
use harness::{PATIENCE, secs};
use skep_sim::cloud::{EventKind, LifecycleState};
use skep_sim::fleet::{ClusterSpec, Fleet, workload};

/// The workers are in the first two zones.
const NEW_ZONE: &str = "eu-central-1c";

#[tokio::test]
async fn workers_move_to_another_zone_and_the_new_ones_come_first() -> anyhow::Result<()> {
    let spec = ClusterSpec { balance_zones: true, ..ClusterSpec::new("demo", 1, 2) };
    let fleet = standing(options_with(""), &spec).await?;
    fleet.create_service("web", 6, workload::slow_to_stop(2.0), secs(30)).await?;
    running(&fleet, "web", 6).await?;
    let group = spec.workers_group();
    let mut leavers = vec![];
    for worker in fleet.group(&group) {
        let leaver = Leaver::of(&worker).await?;
        ensure!(!leaver.tasks("start").is_empty(), "{} has tasks", leaver.id());
        leavers.push(leaver);
    }

    fleet.cloud().set_zones(&group, &[NEW_ZONE])?;
    for leaver in &leavers {
        leaver.has_left_by_its_hook(&fleet).await?;
    }
    running(&fleet, "web", 6).await?;
    let now = fleet.cloud().instances();
    let now: Vec<_> = now.iter().filter(|it| it.group == group).collect();
    ensure!(now.len() == 2 && now.iter().all(|it| it.zone == NEW_ZONE), "{now:?}");
    ensure!(now.iter().all(|it| it.lifecycle == LifecycleState::InService), "{now:?}");
    for leaver in &leavers {
        let (came, went) = (arrivals_before(&fleet, leaver)?, departures_until(&fleet, leaver)?);
        ensure!(came >= went, "{} left as number {went}, after {came} had come", leaver.id());
    }
    fleet
        .wait_until("three Ready nodes and no other", PATIENCE, async || {
            let nodes = fleet.nodes().await?;
            let is_ready = |node: &bollard::models::Node| {
                node.status.as_ref().and_then(|it| it.state) == Some(NodeState::READY)
            };
            ensure!(nodes.iter().all(is_ready), "a node is Down: {nodes:?}");
            Ok(nodes.len() == 3)
        })
        .await?;
    fleet.stop().await
}

/// The number of workers of the new zone that were in service before this one had to leave.
fn arrivals_before(fleet: &Fleet, leaver: &Leaver) -> anyhow::Result<usize> {
    use LifecycleState::InService;
    let new: Vec<String> = fleet.cloud().instances().into_iter().map(|it| it.id).collect();
    let events = fleet.cloud().events_since(0);
    let end = events.iter().position(|event| is_told(&event.kind, leaver.id()));
    let before = &events[..end.context("it was never told to leave")?];
    let is_arrival = |kind: &EventKind| match kind {
        EventKind::LifecycleChanged { instance_id, to: InService, group, .. } => {
            new.contains(instance_id) && group == "demo-workers"
        }
        _ => false,
    };
    Ok(before.iter().filter(|event| is_arrival(&event.kind)).count())
}

/// The number of workers that had to leave up to this one.
fn departures_until(fleet: &Fleet, leaver: &Leaver) -> anyhow::Result<usize> {
    let events = fleet.cloud().events_since(0);
    let end = events.iter().position(|event| is_told(&event.kind, leaver.id()));
    let until = &events[..=end.context("it was never told to leave")?];
    let is_departure = |kind: &EventKind| kind.instance_id().is_some_and(|id| is_told(kind, id));
    Ok(until.iter().filter(|event| is_departure(&event.kind)).count())
}

/// Whether Auto Scaling terminates the instance by this event.
fn is_told(kind: &EventKind, id: &str) -> bool {
    matches!(kind, EventKind::LifecycleChanged { instance_id, to: LifecycleState::Terminating, .. }
        if instance_id == id)
}
