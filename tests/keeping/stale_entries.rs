//! Entries that failed joins and rejoining hosts leave in the node list, and entries that match no known instance.

use std::time::Duration;

use bollard::models::NodeState;
use bollard::query_parameters::LeaveSwarmOptionsBuilder;
use harness::PATIENCE;
use harness::departures::{Leaver, is_listed, node_id, options_with, standing};
use harness::gate::Gate;
use harness::secs;
use harness::swarm;
use skep_sim::cloud::Transition;
use skep_sim::fleet::{ClusterSpec, Fleet, Instance};

/// Longer than the leader waits for a Down node, and two of its polls.
const LONG_ENOUGH: Duration = secs(60);

/// Leaves the swarm without skep, and joins again as skep does at its next start.
async fn joins_again(fleet: &Fleet, instance: &std::sync::Arc<Instance>) -> anyhow::Result<String> {
    instance.stop_skep().await?;
    let by_force = LeaveSwarmOptionsBuilder::default().force(true).build();
    instance.docker()?.leave_swarm(Some(by_force)).await?;
    instance.start_skep()?;
    swarm::ready(fleet, instance).await?;
    node_id(instance).await
}

#[tokio::test]
async fn a_worker_and_a_manager_that_join_again_are_listed_once() -> anyhow::Result<()> {
    let spec = ClusterSpec::new("demo", 3, 1);
    let fleet = standing(options_with(""), &spec).await?;
    let leader = fleet.leader().await?;
    let managers = fleet.group(&spec.managers_group());
    let follower = managers.iter().find(|one| one.id() != leader.id()).expect("two of three");
    for instance in [&fleet.group(&spec.workers_group())[0], follower] {
        let old = Leaver::of(instance).await?;
        let new = joins_again(&fleet, instance).await?;
        assert_ne!(old.node_id, new);
        fleet
            .wait_until("the old entry to go", PATIENCE, async || {
                Ok(!is_listed(&fleet, &old.node_id).await?)
            })
            .await?;
        assert!(is_listed(&fleet, &new).await?, "{}", fleet.report());
    }
    let nodes = fleet.nodes().await?;
    let raft = nodes.iter().filter(|node| node.manager_status.is_some()).count();
    assert_eq!((nodes.len(), raft), (4, 3), "{}", swarm::summary(&nodes));
    fleet.stop().await
}

/// Its port is closed, each attempt leaves an entry, and Auto Scaling replaces the instance.
#[tokio::test]
async fn what_a_failed_manager_left_goes_with_its_instance() -> anyhow::Result<()> {
    let (gate, options) = Gate::new(false)?;
    let fleet = harness::fleet(options).await?;
    fleet.create_cluster(&swarm::cluster(1, 0))?;
    swarm::all_ready(&fleet, 1).await?;
    // EC2 lists an instance for many seconds after ABANDON. The entry of the last attempt is identified when Docker has
    // noticed that the one before it is Down, 15 s after that attempt.
    fleet.cloud().set_transition_delay(Transition::Terminating, secs(20));
    let failing = gate.open_for_unreachable_manager(&fleet).await?;
    let attempt = format!("attempt#{}", failing.id());
    fleet
        .wait_until("the attempt to be known", PATIENCE, async || {
            Ok(!swarm::rows(&fleet, swarm::CLUSTER, &attempt).await?.is_empty())
        })
        .await?;
    fleet
        .wait_until("skep to give up", secs(240), async || Ok(!failing.exit_codes().is_empty()))
        .await?;
    let nodes = fleet.nodes().await?;
    println!("left behind: {}", swarm::summary(&nodes));
    assert!(nodes.len() > 1, "no entry was left: {}", swarm::summary(&nodes));
    fleet
        .wait_until("the entries to go", PATIENCE, async || Ok(fleet.nodes().await?.len() == 1))
        .await?;
    fleet.stop().await
}

/// A machine that the cloud does not know: there is no proof that it is dead.
#[tokio::test]
async fn an_entry_that_nobody_can_place_is_left_alone() -> anyhow::Result<()> {
    let spec = swarm::cluster(1, 0);
    let fleet = standing(options_with(""), &spec).await?;
    let manager = &fleet.group(&spec.managers_group())[0];
    let stranger = fleet.launch(skep_sim::machines::Launch {
        instance_id: "i-0ffffffffffffffff".to_owned(),
        private_address: [10, 78, 0, 99].into(),
        zone: "eu-central-1a".to_owned(),
        group: "foreign".to_owned(),
        image_id: String::new(),
        tags: std::collections::BTreeMap::new(),
    })?;
    fleet.wait_until("it to be on", PATIENCE, async || Ok(stranger.is_on())).await?;
    let tokens = manager.docker()?.inspect_swarm().await?.join_tokens.expect("tokens");
    let request = bollard::models::SwarmJoinRequest {
        listen_addr: Some("0.0.0.0:2377".to_owned()),
        advertise_addr: Some(stranger.address().to_string()),
        remote_addrs: Some(vec![format!("{}:2377", manager.address())]),
        join_token: tokens.worker,
        ..Default::default()
    };
    stranger.wait_docker().await?.join_swarm(request).await?;
    let id = node_id(&stranger).await?;
    stranger.link(false)?;
    fleet
        .wait_until("it to be Down", PATIENCE, async || {
            let node = manager.docker()?.inspect_node(&id).await?;
            Ok(node.status.and_then(|status| status.state) == Some(NodeState::DOWN))
        })
        .await?;
    tokio::time::sleep(LONG_ENOUGH).await;
    assert!(is_listed(&fleet, &id).await?);
    let why = "it is unknown which instance it was";
    let said = manager.skep(["status"]).await?;
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(said.contains(&format!("{id}: Down for ")) && said.contains(why), "{said}");
    assert_eq!(manager.log().matches(why).count(), 1, "{}", manager.log());
    fleet.stop().await
}
