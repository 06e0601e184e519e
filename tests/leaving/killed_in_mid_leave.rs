//! skep is killed in the middle of a departure and started again: it continues, and the departure ends in the same way.

use std::time::Duration;

use bollard::models::LocalNodeState;
use harness::PATIENCE;
use harness::departures::{
    Leaver, departure_state, drains, flusher, options_with, running, signal, standing,
};
use harness::quorum::keeping_quorum;
use harness::secs;
use skep_sim::cloud::{Fault, Service};
use skep_sim::fleet::{ClusterSpec, Fleet, workload};

/// One worker after the other, each killed one step later.
#[tokio::test]
async fn a_worker_goes_on_where_the_facts_say_it_is() -> anyhow::Result<()> {
    let steps = ["requested", "draining", "drained", "left"];
    let spec = ClusterSpec::new("demo", 1, steps.len() as u32);
    let fleet = standing(options_with(""), &spec).await?;
    fleet.create_service("web", 10, workload::slow_to_stop(2.0), secs(30)).await?;
    running(&fleet, "web", 10).await?;
    for (step, worker) in steps.into_iter().zip(fleet.group(&spec.workers_group())) {
        // Holds the node between the end of the last task and leaving.
        flusher(&worker, "hold", "#!/bin/sh\nsleep 2\n")?;
        let worker = Leaver::of(&worker).await?;
        assert!(!worker.tasks("start").is_empty(), "{} has tasks", worker.id());
        fleet.cloud().terminate(worker.id(), true)?;
        kill_at(&fleet, &worker, step).await?;
        worker.has_left_by_its_hook(&fleet).await?;
        assert_eq!(drains(&fleet, &worker.instance), 1, "drained once, though killed at {step}");
        // 137 can also be the last code: the machine ends when the hook is completed.
        assert_eq!(worker.instance.exit_codes()[0], 137, "killed at {step}");
        running(&fleet, "web", 10).await?;
    }
    assert_eq!(fleet.nodes().await?.len(), 1, "no entry is left behind");
    fleet.stop().await
}

/// Only the ledger records that this node must leave: it must not join again instead.
#[tokio::test]
async fn a_worker_whose_operator_asked_does_not_come_back() -> anyhow::Result<()> {
    let steps = ["draining", "out of the swarm", "left"];
    let spec = ClusterSpec::new("demo", 1, steps.len() as u32);
    let fleet = standing(options_with(""), &spec).await?;
    for (step, worker) in steps.into_iter().zip(fleet.group(&spec.workers_group())) {
        flusher(&worker, "hold", "#!/bin/sh\nsleep 2\n")?;
        let worker = Leaver::of(&worker).await?;
        assert!(worker.instance.skep(["leave", "--no-wait"]).await?.status.success());
        match step {
            "out of the swarm" => kill_when_out(&fleet, &worker).await?,
            _ => kill_at(&fleet, &worker, step).await?,
        }
        worker.has_left(&fleet).await?;
        worker.skep_has_ended_well(&fleet).await?;
        let address = worker.instance.address().to_string();
        let nodes = fleet.nodes().await?;
        let is_back = nodes.iter().any(|node| {
            node.status.as_ref().and_then(|status| status.addr.as_ref()) == Some(&address)
        });
        assert!(!is_back, "killed at {step}: {nodes:?}\n{}", fleet.report());
        assert_eq!(worker.instance.exit_codes(), [137, 0], "killed at {step}");
    }
    fleet.stop().await
}

#[tokio::test]
async fn a_manager_that_is_demoted_already_goes_on_and_leaves() -> anyhow::Result<()> {
    let spec = ClusterSpec::new("demo", 3, 0);
    let fleet = standing(options_with(""), &spec).await?;
    fleet.create_service("web", 6, workload::graceful(), secs(30)).await?;
    running(&fleet, "web", 6).await?;
    let leader = Leaver::of(&fleet.leader().await?).await?;
    let managers = fleet.group(&spec.managers_group());
    let survivor = managers.iter().find(|one| one.id() != leader.id()).expect("two of three");
    let docker = survivor.docker()?;
    keeping_quorum(survivor, async {
        fleet.cloud().terminate(leader.id(), true)?;
        fleet
            .wait_until("the demotion", PATIENCE, async || {
                let node = docker.inspect_node(&leader.node_id).await?;
                let role = node.spec.and_then(|spec| spec.role);
                Ok(role == Some(bollard::models::NodeSpecRoleEnum::WORKER))
            })
            .await?;
        signal(&leader.instance, "SIGKILL")?;
        leader.has_left_by_its_hook(&fleet).await
    })
    .await?;
    assert_eq!(leader.instance.exit_codes()[0], 137);
    assert_eq!(fleet.nodes().await?.len(), 2, "no entry is left behind");
    running(&fleet, "web", 6).await?;
    fleet.stop().await
}

/// Kills skep as soon as the ledger shows this step.
async fn kill_at(fleet: &Fleet, leaver: &Leaver, step: &str) -> anyhow::Result<()> {
    let end = tokio::time::Instant::now() + PATIENCE;
    loop {
        let state = departure_state(fleet, &leaver.instance);
        if state.as_deref() == Some(step) {
            return signal(&leaver.instance, "SIGKILL");
        }
        assert!(tokio::time::Instant::now() < end, "never {step}\n{}", fleet.report());
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Kills skep after it has left the swarm and before it has recorded this in the ledger.
async fn kill_when_out(fleet: &Fleet, leaver: &Leaver) -> anyhow::Result<()> {
    let docker = leaver.instance.docker()?;
    // It deletes its own row before it records that it is out: this leaves time to kill it.
    let slow = Fault { latency_ms: Some((3000, 3000)), ..Fault::default() };
    fleet.cloud().faults().set(Service::DynamoDb, Some("DeleteItem"), slow);
    let end = tokio::time::Instant::now() + PATIENCE;
    while docker.info().await?.swarm.and_then(|swarm| swarm.local_node_state)
        != Some(LocalNodeState::INACTIVE)
    {
        assert!(tokio::time::Instant::now() < end, "never out\n{}", fleet.report());
    }
    signal(&leaver.instance, "SIGKILL")?;
    fleet.cloud().faults().clear();
    let state = departure_state(fleet, &leaver.instance);
    assert_eq!(state.as_deref(), Some("drained"), "killed too late for what is tested here");
    Ok(())
}
