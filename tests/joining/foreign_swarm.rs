//! Docker is already in a swarm that is not this cluster's: skep reports it, and does not touch that swarm.

use std::sync::Arc;

use anyhow::ensure;
use bollard::Docker;
use bollard::models::{
    Reachability, ServiceSpec, SwarmJoinRequest, TaskSpec, TaskSpecContainerSpec,
};
use harness::gate::Gate;
use harness::{PATIENCE, swarm};
use skep_sim::fleet::{Fleet, FleetOptions, IMAGE, Instance, Restart, workload};

/// The image was made from a machine that is a manager of another swarm.
#[tokio::test]
async fn as_its_manager_before_the_cluster_is_founded() -> anyhow::Result<()> {
    let (gate, fleet) = start(true).await?;
    fleet.create_cluster(&swarm::cluster(1, 0))?;
    let manager = swarm::newest(&fleet, "manager", 1).await?;
    refused(&fleet, &gate, &manager, true).await?;
    ensure!(
        swarm::charter(&fleet).await?.is_none_or(|charter| charter.swarm_id.is_none()),
        "nothing was published"
    );
    ensure!(fleet.cloud().parameter_names().is_empty(), "no token of it went to the store");
    fleet.stop().await
}

#[tokio::test]
async fn as_its_manager_when_the_cluster_is_there() -> anyhow::Result<()> {
    let (gate, fleet) = start(false).await?;
    fleet.create_cluster(&swarm::cluster(1, 0))?;
    swarm::all_ready(&fleet, 1).await?;
    let charter = swarm::charter(&fleet).await?;
    gate.close();
    swarm::resize(&fleet, "manager", 2)?;
    let manager = swarm::newest(&fleet, "manager", 2).await?;
    refused(&fleet, &gate, &manager, true).await?;
    assert_eq!(swarm::charter(&fleet).await?, charter);
    fleet.stop().await
}

/// The certificate names the foreign swarm: `/info` of a worker does not.
#[tokio::test]
async fn as_its_worker() -> anyhow::Result<()> {
    let (gate, fleet) = start(false).await?;
    fleet.create_cluster(&swarm::cluster(1, 0))?;
    swarm::all_ready(&fleet, 1).await?;
    gate.close();
    swarm::resize(&fleet, "worker", 1)?;
    let worker = swarm::newest(&fleet, "worker", 1).await?;
    refused(&fleet, &gate, &worker, false).await?;
    fleet.stop().await
}

/// The image was made from a running manager of this cluster: its Docker has that manager's identity.
#[tokio::test]
async fn as_a_copy_of_a_manager_that_lives() -> anyhow::Result<()> {
    let (gate, fleet) = start(false).await?;
    fleet.create_cluster(&swarm::cluster(3, 0))?;
    swarm::whole(&fleet, 3, 0).await?;
    let leader = fleet.leader().await?;
    let managers = fleet.group(&format!("{}-managers", swarm::CLUSTER));
    let original = managers.iter().find(|one| one.id() != leader.id()).expect("three managers");
    gate.close();
    swarm::resize(&fleet, "manager", 4)?;
    let copy = swarm::newest(&fleet, "manager", 4).await?;
    let root = async |docker: Docker| docker.info().await.map(|info| info.docker_root_dir);
    let [theirs, own] = [root(original.docker()?).await?, root(copy.wait_docker().await?).await?];
    let (theirs, own) = theirs.zip(own).expect("Docker names its root");
    copy.stop_dockerd().await?;
    swarm::sh(&copy, &format!("rm -rf {own}/swarm && cp -a {theirs}/swarm {own}/swarm")).await?;
    copy.start_dockerd()?;
    copy.wait_docker().await?;
    gate.open_for(&copy)?;

    assert_eq!(swarm::ended(&fleet, &copy).await?, 1);
    swarm::gave_up(&fleet, &copy).await?;
    let log = copy.log();
    ensure!(log.contains("started from an image of a running manager"), "{log}");
    // The replacement does not start: the gate is closed.
    let what = "the three managers as they were";
    fleet
        .wait_until(what, PATIENCE, async || {
            let nodes = fleet.nodes().await?;
            let raft = nodes.iter().filter_map(|node| node.manager_status.as_ref());
            let reachable =
                raft.filter(|raft| raft.reachability == Some(Reachability::REACHABLE)).count();
            Ok((nodes.len(), reachable) == (3, 3))
        })
        .await?;
    let place = swarm::place(original).await?;
    ensure!(place.control_available == Some(true), "the original is still a manager: {place:?}");
    ensure!(original.exit_codes().is_empty(), "and its skep has gone on");
    fleet.stop().await
}

async fn start(closed: bool) -> anyhow::Result<(Gate, Fleet)> {
    let (gate, options) = Gate::new(closed)?;
    let options = FleetOptions { restart: Restart::Never, one_swarm: false, ..options };
    Ok((gate, harness::fleet(options).await?))
}

/// Puts the machine into another swarm, starts skep, and checks that it refuses to boot.
async fn refused(
    fleet: &Fleet,
    gate: &Gate,
    instance: &Arc<Instance>,
    as_manager: bool,
) -> anyhow::Result<()> {
    let docker = instance.wait_docker().await?;
    let foreign;
    if as_manager {
        foreign = swarm::found_by_hand(instance).await?;
        docker.create_service(service(), None).await?;
    } else {
        let other = swarm::another_swarm(fleet).await?;
        foreign = swarm::swarm_of(&other).await?.expect("it is a manager");
        let tokens = other.docker()?.inspect_swarm().await?.join_tokens.expect("tokens");
        let join = SwarmJoinRequest {
            advertise_addr: Some(instance.address().to_string()),
            listen_addr: Some("0.0.0.0:2377".to_owned()),
            remote_addrs: Some(vec![format!("{}:2377", other.address())]),
            join_token: tokens.worker,
            ..Default::default()
        };
        docker.join_swarm(join).await?;
    }
    let before = swarm::place(instance).await?;

    gate.open_for(instance)?;
    assert_eq!(swarm::ended(fleet, instance).await?, 1);
    swarm::gave_up(fleet, instance).await?;
    let log = instance.log();
    ensure!(log.contains("is in a swarm that is not this cluster's"), "{log}");
    ensure!(log.contains(&foreign), "it names the swarm: {log}");
    ensure!(log.contains("docker swarm leave"), "it names the remedy: {log}");
    ensure!(!instance.is_ready());

    let after = swarm::place(instance).await?;
    assert_eq!(after.node_id, before.node_id);
    assert_eq!(after.local_node_state, before.local_node_state);
    assert_eq!(swarm::swarm_of(instance).await?.is_some(), as_manager);
    if as_manager {
        let swarm = docker.inspect_swarm().await?;
        let labels = swarm.spec.and_then(|spec| spec.labels).unwrap_or_default();
        ensure!(labels.is_empty(), "nothing was written into it: {labels:?}");
        assert_eq!(docker.list_services(None).await?.len(), 1, "its service is there");
    }
    Ok(())
}

fn service() -> ServiceSpec {
    let container = TaskSpecContainerSpec {
        image: Some(IMAGE.to_owned()),
        command: Some(workload::graceful()),
        ..Default::default()
    };
    let task = TaskSpec { container_spec: Some(container), ..Default::default() };
    ServiceSpec { name: Some("theirs".to_owned()), task_template: Some(task), ..Default::default() }
}
