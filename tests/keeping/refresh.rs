//! A rolling instance refresh replaces the workers while a service runs, and can be cancelled in between.

use std::sync::Arc;

use anyhow::ensure;
use harness::PATIENCE;
use harness::departures::{Leaver, options_with, running};
use harness::{secs, swarm};
use skep_sim::cloud::{EventKind, LifecycleState, RefreshSpec, RefreshStatus};
use skep_sim::fleet::{Fleet, Instance, workload};

const REPLICAS: u32 = 4;

#[tokio::test]
async fn a_refresh_is_cancelled_after_one_worker_and_the_next_one_replaces_both()
-> anyhow::Result<()> {
    let fleet = swarm::standing(options_with(""), 1, 2).await?;
    fleet.create_service("web", REPLICAS, workload::slow_to_stop(1.0), secs(20)).await?;
    running(&fleet, "web", REPLICAS as usize).await?;
    let group = swarm::cluster(1, 2).workers_group();
    let workers = fleet.group(&group);
    let [first, second] = &workers[..] else { anyhow::bail!("two workers") };

    // Launch before terminating: a third worker boots when the operator cancels, and still takes the place of one.
    let before = Leaver::of(first).await?;
    let spec = RefreshSpec { min_healthy: 100, ..RefreshSpec::default() };
    fleet.cloud().start_refresh(&group, spec)?;
    fleet.cloud().cancel_refresh(&group)?;
    is_in(&fleet, &group, RefreshStatus::Cancelling).await?;
    let serves = |it: &Arc<Instance>| {
        let seen = fleet.cloud().instance(it.id());
        seen.is_some_and(|it| it.lifecycle == LifecycleState::InService)
    };
    let launched = fleet.cloud().instances().iter().filter(|it| it.group == group).count();
    ensure!(launched == 3 && workers.iter().all(serves), "{launched} instances, or one leaves");
    before.has_left_by_its_hook(&fleet).await?;
    is_in(&fleet, &group, RefreshStatus::Cancelled).await?;
    swarm::whole(&fleet, 1, 2).await?;
    ensure!(fleet.cloud().instance(second.id()).is_some(), "the other worker is untouched");
    running(&fleet, "web", REPLICAS as usize).await?;

    // Terminate and launch, one at a time: the default for a group of this size.
    let mut leavers = Vec::new();
    for worker in fleet.group(&group).iter().filter(|it| it.id() != before.id()) {
        leavers.push(Leaver::of(worker).await?);
    }
    ensure!(leavers.len() == 2, "one of the two is new");
    let before_both = fleet.cloud().events_since(0).len();
    fleet.cloud().start_refresh(&group, RefreshSpec::default())?;
    for leaver in &leavers {
        leaver.has_left_by_its_hook(&fleet).await?;
    }
    is_in(&fleet, &group, RefreshStatus::Successful).await?;
    // The first replacement was in service before the second worker had its notice.
    let events = fleet.cloud().events_since(before_both);
    let changes = events.iter().filter_map(|event| match &event.kind {
        EventKind::LifecycleChanged { group: of, to, .. } if *of == group => Some(*to),
        _ => None,
    });
    let is_either =
        |to: &LifecycleState| matches!(to, LifecycleState::Terminating | LifecycleState::InService);
    let order: Vec<LifecycleState> = changes.filter(is_either).collect();
    let one = [LifecycleState::Terminating, LifecycleState::InService];
    ensure!(order == [one, one].concat(), "not one at a time: {order:?}");
    swarm::whole(&fleet, 1, 2).await?;
    running(&fleet, "web", REPLICAS as usize).await?;
    fleet.stop().await
}

async fn is_in(fleet: &Fleet, group: &str, status: RefreshStatus) -> anyhow::Result<()> {
    let what = format!("a refresh that is {}", status.as_str());
    fleet
        .wait_until(&what, PATIENCE, async || {
            let seen = fleet.cloud().refresh(group);
            ensure!(seen.as_ref().is_some_and(|it| it.status == status), "{seen:?}");
            Ok(true)
        })
        .await
}
