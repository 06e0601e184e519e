//! An instance refresh replaces the root volume of a node: managers drain the node, it leaves, and comes back as a new
//! node with the same instance id and address.

use std::sync::Arc;

use anyhow::{Context, ensure};
use harness::PATIENCE;
use harness::departures::{
    Leaver, departure_state, hook_results, is_listed, node_id, options_with, running, running_on,
};
use harness::quorum::keeping_a_leader;
use harness::{secs, swarm};
use skep_sim::cloud::{ActionResult, RefreshSpec, RefreshStatus};
use skep_sim::fleet::{Fleet, Instance, workload};

/// The first departure, which managers carried out, does not hold the new node back, and is none of its own.
#[tokio::test]
async fn a_worker_comes_back_as_a_new_node_and_leaves_later() -> anyhow::Result<()> {
    let fleet = swarm::standing(options_with(""), 1, 1).await?;
    fleet.create_service("web", 4, workload::slow_to_stop(1.0), secs(20)).await?;
    running(&fleet, "web", 4).await?;
    let group = swarm::cluster(1, 1).workers_group();
    let worker = fleet.group(&group)[0].clone();
    ensure!(running_on(&fleet, &worker).await? > 0, "it has tasks");
    renewed(&fleet, &group, &worker, fleet.cloud().root_volumes_of(&group)?).await?;
    swarm::whole(&fleet, 1, 1).await?;
    fleet.create_service("more", 4, workload::graceful(), secs(10)).await?;
    running(&fleet, "more", 4).await?;
    ensure!(running_on(&fleet, &worker).await? > 0, "it has tasks again");

    let again = node_id(&worker).await?;
    fleet.cloud().terminate(worker.id(), true)?;
    fleet
        .wait_until("its second hook to be completed", PATIENCE, async || {
            let results = hook_results(&fleet, &worker);
            ensure!(results == [ActionResult::Continue; 2], "{results:?}");
            Ok(!is_listed(&fleet, &again).await?)
        })
        .await?;
    running(&fleet, "web", 4).await?;
    fleet.stop().await
}

#[tokio::test]
async fn one_of_three_managers_comes_back_as_a_new_manager() -> anyhow::Result<()> {
    let fleet = swarm::standing(options_with(""), 3, 0).await?;
    let group = swarm::cluster(3, 0).managers_group();
    let manager = fleet.group(&group)[0].clone();
    keeping_a_leader(&fleet, &group, async {
        // The only checkpoint ends the refresh after one of three.
        let volumes = fleet.cloud().root_volumes_of(&group)?;
        let spec = RefreshSpec { checkpoints: vec![33], ..volumes };
        renewed(&fleet, &group, &manager, spec).await
    })
    .await?;
    swarm::whole(&fleet, 3, 0).await?;
    fleet.stop().await
}

/// Starts a refresh that replaces the root volume of this instance first, and waits until it has succeeded.
async fn renewed(
    fleet: &Fleet,
    group: &str,
    instance: &Arc<Instance>,
    spec: RefreshSpec,
) -> anyhow::Result<()> {
    let before = Leaver::of(instance).await?;
    let address = instance.address();
    fleet.cloud().start_refresh(group, spec)?;
    before.hook_is_completed(fleet).await?;
    fleet
        .wait_until("the root volume to be replaced", PATIENCE, async || {
            let seen = fleet.cloud().refresh(group).context("no refresh")?;
            ensure!(seen.status == RefreshStatus::Successful, "{seen:?}");
            Ok(true)
        })
        .await?;
    before.lost_no_grace(fleet)?;
    let now = node_id(instance).await?;
    ensure!(now != before.node_id, "it is the same node");
    ensure!(instance.is_ready() && instance.address() == address);
    before.is_off_the_list(fleet).await?;
    let seen = fleet.cloud().instance(instance.id()).context("the same instance")?;
    ensure!(seen.lifecycle.as_str() == "InService" && seen.address == address, "{seen:?}");
    let departure = departure_state(fleet, instance);
    ensure!(departure.as_deref().is_none_or(|it| it == "removed"), "{departure:?}");
    Ok(())
}
