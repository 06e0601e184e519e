//! A departure that fails in a group whose instance lifecycle policy retains instances.

use anyhow::ensure;
use harness::PATIENCE;
use harness::departures::{
    Leaver, departure_state, hook_results, is_listed, options_with, running, running_on,
};
use harness::nodes::availability;
use harness::swarm::sh;
use harness::{secs, swarm};
use skep_sim::cloud::{ActionResult, LifecycleState};
use skep_sim::fleet::{ClusterSpec, Fleet, Instance, workload};

/// Less than Docker is stopped, so that the departure fails; too short for managers to call the node Down.
const IMPATIENT: &str = "[leave]\ndeadline = \"12s\"\nmanager_patience = \"3s\"\n";

/// The operator terminates it: the hook holds the instance again, and managers complete it for the skep that has ended.
#[tokio::test]
async fn managers_drain_a_retained_node_that_is_terminated() -> anyhow::Result<()> {
    let (fleet, worker) = retained().await?;
    fleet.cloud().terminate(worker.id(), false)?;
    fleet
        .wait_until("the instance to be gone", PATIENCE, async || {
            let results = hook_results(&fleet, &worker.instance);
            ensure!(results == [ActionResult::Abandon, ActionResult::Continue], "{results:?}");
            Ok(!is_listed(&fleet, &worker.node_id).await?)
        })
        .await?;
    running(&fleet, "web", 2).await?;
    fleet.stop().await
}

/// The operator starts skep: the metadata still announce the termination, and no hook waits.
#[tokio::test]
async fn a_retained_node_leaves_when_its_skep_is_started() -> anyhow::Result<()> {
    let (fleet, worker) = retained().await?;
    worker.instance.start_skep()?;
    worker.is_off_the_list(&fleet).await?;
    worker.skep_has_ended_well(&fleet).await?;
    assert!(worker.tasks("die").iter().all(|it| it.exit_code == Some(0)), "each had its grace");
    assert_eq!(hook_results(&fleet, &worker.instance), [ActionResult::Abandon]);
    let seen = fleet.cloud().instance(worker.id()).map(|it| it.lifecycle);
    assert_eq!(seen, Some(LifecycleState::TerminatingRetained), "the machine is the operator's");
    fleet.stop().await
}

/// A worker whose Docker hangs while it leaves, and hangs no more: its departure has failed, the group has retained the
/// instance and launched another.
async fn retained() -> anyhow::Result<(Fleet, Leaver)> {
    let spec = ClusterSpec { retain_abandoned: true, ..swarm::cluster(1, 1) };
    let fleet = harness::departures::standing(options_with(IMPATIENT), &spec).await?;
    fleet.create_service("web", 2, workload::slow_to_stop(1.0), secs(20)).await?;
    running(&fleet, "web", 2).await?;
    let worker = Leaver::of(&fleet.group(&spec.workers_group())[0]).await?;
    ensure!(running_on(&fleet, &worker.instance).await? > 0, "it has tasks");

    sh(&worker.instance, "pkill -STOP -x dockerd").await?;
    fleet.cloud().terminate(worker.id(), false)?;
    is_in(&fleet, &worker.instance, LifecycleState::TerminatingRetained).await?;
    assert_eq!(hook_results(&fleet, &worker.instance), [ActionResult::Abandon]);
    sh(&worker.instance, "pkill -CONT -x dockerd").await?;
    worker.skep_has_ended_well(&fleet).await?;
    ensure!(worker.instance.is_on() && is_listed(&fleet, &worker.node_id).await?, "it stays");
    assert_eq!(departure_state(&fleet, &worker.instance).as_deref(), Some("failed"));
    fleet
        .wait_until("the replacement", PATIENCE, async || {
            let workers = fleet.group(&spec.workers_group());
            Ok(workers.len() == 2 && workers[1].is_ready())
        })
        .await?;
    running(&fleet, "web", 2).await?;
    ensure!(is_listed(&fleet, &worker.node_id).await?, "nobody removes it");
    assert_eq!(availability(&fleet, &worker.instance).await?.to_string(), "drain");
    Ok((fleet, worker))
}

async fn is_in(fleet: &Fleet, instance: &Instance, state: LifecycleState) -> anyhow::Result<()> {
    fleet
        .wait_until(&format!("{} to be {state}", instance.id()), PATIENCE, async || {
            Ok(fleet.cloud().instance(instance.id()).is_some_and(|it| it.lifecycle == state))
        })
        .await
}
