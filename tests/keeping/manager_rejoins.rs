//! A manager that cannot serve as its present node, and cannot leave raft by itself: the others remove it, and it joins
//! again.

use std::sync::Arc;

use anyhow::{Context, ensure};
use bollard::models::LocalNodeState;
use harness::PATIENCE;
use harness::departures::node_id;
use harness::gate::Gate;
use harness::swarm::{self, CLUSTER};
use serde_json::json;
use skep_sim::fleet::{Fleet, Instance};

use super::own_care::{expire, is_back, join_elsewhere};

const ASKED: &str = "the other managers are asked to take it out";
const OTHER_ADDRESS: &str = "10.78.0.201";

/// A manager that does not lead, and one that stays unchanged.
pub async fn two_followers(fleet: &Fleet) -> anyhow::Result<(Arc<Instance>, Arc<Instance>)> {
    let leader = fleet.leader().await?;
    let mut managers = fleet.group(&format!("{CLUSTER}-managers"));
    managers.retain(|it| it.id() != leader.id());
    let [one, other] = managers.as_slice() else { anyhow::bail!("three managers") };
    Ok((Arc::clone(one), Arc::clone(other)))
}

async fn show(what: &str, instance: &Instance) -> anyhow::Result<()> {
    let place = swarm::place(instance).await?;
    println!(
        "{what}: {:?}, node {:?} at {:?}, manager {:?}, error {:?}",
        place.local_node_state,
        place.node_id,
        place.node_addr,
        place.control_available,
        place.error
    );
    Ok(())
}

/// Waits until its request is done and deleted, and checks that no entry remains.
async fn is_forgotten(fleet: &Fleet) -> anyhow::Result<()> {
    swarm::whole(fleet, 3, 0).await?;
    fleet
        .wait_until("the request to be forgotten", PATIENCE, async || {
            Ok(swarm::rows(fleet, CLUSTER, "demotion-request#").await?.is_empty())
        })
        .await
}

/// Like an image with Docker's state that was restored on another interface.
#[tokio::test]
async fn a_manager_that_is_known_by_another_address_joins_anew() -> anyhow::Result<()> {
    let fleet = swarm::standing(harness::options(), 3, 0).await?;
    let (moved, survivor) = two_followers(&fleet).await?;
    let stays = node_id(&survivor).await?;
    let token = swarm::parameter(&fleet, &swarm::token_name("manager", 1)).await?;
    let first = node_id(&moved).await?;
    let docker = fleet.leader().await?.docker()?;
    swarm::demote(&docker, &first).await?;
    join_elsewhere(&fleet, &moved, OTHER_ADDRESS, token).await?;
    let force = bollard::query_parameters::DeleteNodeOptionsBuilder::default().force(true).build();
    docker.delete_node(&first, Some(force)).await?;
    let before = node_id(&moved).await?;
    let key = format!("member#manager#{}", moved.id());
    let mut row = swarm::rows(&fleet, CLUSTER, &key).await?.pop().context("no row")?;
    row.insert("node_id".into(), json!(before));
    swarm::put_row(&fleet, &row).await?;
    show("moved", &moved).await?;
    moved.restart_dockerd().await?;
    moved.wait_docker().await?;
    show("restarted", &moved).await?;
    println!("{}", swarm::summary(&docker.list_nodes(None).await?));

    moved.start_skep()?;
    fleet
        .wait_until("it to be another node", PATIENCE, async || {
            Ok(node_id(&moved).await.is_ok_and(|own| !own.is_empty() && own != before))
        })
        .await?;
    ensure!(moved.log().contains(ASKED), "{}", moved.log());
    is_forgotten(&fleet).await?;
    assert_eq!(node_id(&survivor).await?, stays, "no other manager has changed");
    fleet.stop().await
}

/// Like an instance that was stopped for longer than a certificate is valid.
#[tokio::test]
async fn a_manager_whose_certificate_has_expired_joins_anew() -> anyhow::Result<()> {
    let fleet = swarm::standing(harness::options(), 3, 0).await?;
    let (stuck, survivor) = two_followers(&fleet).await?;
    let (before, stays) = (node_id(&stuck).await?, node_id(&survivor).await?);
    expire(&stuck).await?;
    show("expired", &stuck).await?;
    is_back(&fleet, &stuck, &before, PATIENCE).await?;
    ensure!(stuck.log().contains(ASKED), "{}", stuck.log());
    is_forgotten(&fleet).await?;
    assert_eq!(node_id(&survivor).await?, stays, "no other manager has changed");
    fleet.stop().await
}

/// Raft admits and counts it, but it is of no use: its port accepts one connection, the leader's check before raft
/// admits it, and is open again when it joins again.
#[tokio::test]
async fn a_manager_that_was_let_in_and_never_got_in_joins_anew() -> anyhow::Result<()> {
    let (gate, options) = Gate::new(false)?;
    let fleet = swarm::standing(options, 3, 0).await?;
    gate.close();
    swarm::resize(&fleet, "manager", 4)?;
    let stuck = swarm::newest(&fleet, "manager", 4).await?;
    let rules = [
        "INPUT -i ens5 -p tcp --dport 2377 --syn -j DROP",
        "INPUT -i ens5 -p tcp --dport 2377 --syn -m limit --limit 1/hour --limit-burst 1 -j ACCEPT",
    ];
    for rule in rules {
        swarm::sh(&stuck, &format!("iptables -I {rule}")).await?;
    }
    gate.open_for(&stuck)?;
    let raft_address = format!("{}:2377", stuck.address());
    let before = fleet
        .wait_for("it to be let into raft", PATIENCE, async || {
            let nodes = fleet.nodes().await?;
            let listed = nodes.into_iter().find(|node| {
                let raft = node.manager_status.as_ref();
                raft.and_then(|raft| raft.addr.as_ref()) == Some(&raft_address)
            });
            Ok(listed.and_then(|node| node.id))
        })
        .await?;
    swarm::logged(&fleet, &stuck, ASKED).await?;
    let place = swarm::place(&stuck).await?;
    assert_eq!(place.local_node_state, Some(LocalNodeState::ACTIVE), "{:?}", place.error);
    println!("{}", swarm::summary(&fleet.nodes().await?));
    fleet
        .wait_until("the others to have removed it", PATIENCE, async || {
            let nodes = fleet.nodes().await?;
            let listed = nodes.iter().find(|node| node.id.as_ref() == Some(&before));
            Ok(listed.is_none_or(|node| node.manager_status.is_none()))
        })
        .await?;
    for rule in rules {
        swarm::sh(&stuck, &format!("iptables -D {rule}")).await?;
    }
    swarm::whole(&fleet, 4, 0).await?;
    ensure!(node_id(&stuck).await? != before, "it is still the old node");
    assert_eq!(swarm::said(&fleet, stuck.id()).0, ["SUCCESS"]);
    fleet.stop().await
}
