//! Two managers are scaled in at the same moment, and the quorum holds.

use std::sync::Arc;
use std::time::SystemTime;

use anyhow::{Context, ensure};
use harness::departures::{Leaver, is_listed, options_with, running, standing};
use harness::quorum::keeping_quorum;
use harness::{secs, swarm};
use serde_json::{Map, json};
use skep_sim::fleet::{ClusterSpec, Fleet, Instance, workload};

#[tokio::test]
async fn two_of_five_with_the_leader() -> anyhow::Result<()> {
    let spec = ClusterSpec::new("demo", 5, 0);
    let fleet = standing(options_with(""), &spec).await?;
    let leader = fleet.leader().await?;
    let others = followers(&fleet, &spec, &leader);
    leave_together(&fleet, [&leader, &others[0]], &others[1], 3).await?;
    fleet.stop().await
}

#[tokio::test]
async fn two_of_three_with_the_leader() -> anyhow::Result<()> {
    let spec = ClusterSpec::new("demo", 3, 0);
    let fleet = standing(options_with(""), &spec).await?;
    let leader = fleet.leader().await?;
    let others = followers(&fleet, &spec, &leader);
    leave_together(&fleet, [&leader, &others[0]], &others[1], 1).await?;
    assert_eq!(fleet.leader().await?.id(), others[1].id());
    fleet.stop().await
}

#[tokio::test]
async fn two_of_three_without_the_leader() -> anyhow::Result<()> {
    let spec = ClusterSpec::new("demo", 3, 0);
    let fleet = standing(options_with(""), &spec).await?;
    let leader = fleet.leader().await?;
    let others = followers(&fleet, &spec, &leader);
    leave_together(&fleet, [&others[0], &others[1]], &leader, 1).await?;
    fleet.stop().await
}

/// As if the skep of another manager had died in the middle of a demotion: this one waits for its lease to expire.
#[tokio::test]
async fn one_waits_for_the_turn_of_another() -> anyhow::Result<()> {
    const WHY: &str = "its turn: the demotion of node another is under way";
    let spec = ClusterSpec::new("demo", 3, 0);
    let fleet = standing(options_with(""), &spec).await?;
    let leader = fleet.leader().await?;
    let manager = Leaver::of(&followers(&fleet, &spec, &leader)[0]).await?;
    let lease = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)? + secs(60);
    let turn = [
        ("cluster", json!("demo")),
        ("item", json!("lease#demotion")),
        ("schema", json!(2)),
        ("node_id", json!("another")),
        ("taken_by", json!("i-another")),
        ("expires_at", json!(lease.as_secs())),
    ];
    let turn = turn.map(|(name, value)| (name.to_owned(), value));
    swarm::put_row(&fleet, &Map::from_iter(turn)).await?;
    fleet.cloud().terminate(manager.id(), true)?;
    fleet
        .wait_until("it to wait for its turn", secs(60), async || {
            Ok(manager.instance.log().contains(WHY))
        })
        .await?;
    ensure!(is_listed(&fleet, &manager.node_id).await?, "it has left");
    manager.has_left_by_its_hook(&fleet).await?;
    let elapsed = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    ensure!(elapsed.as_secs() >= lease.as_secs(), "it has left before the lease was over");
    fleet.stop().await
}

fn followers(fleet: &Fleet, spec: &ClusterSpec, leader: &Instance) -> Vec<Arc<Instance>> {
    let mut followers = fleet.group(&spec.managers_group());
    followers.retain(|one| one.id() != leader.id());
    followers
}

async fn leave_together(
    fleet: &Fleet,
    leavers: [&Arc<Instance>; 2],
    survivor: &Instance,
    left: usize,
) -> anyhow::Result<()> {
    fleet.create_service("web", 6, workload::graceful(), secs(30)).await?;
    running(fleet, "web", 6).await?;
    let (one, other) = (Leaver::of(leavers[0]).await?, Leaver::of(leavers[1]).await?);
    keeping_quorum(survivor, async {
        fleet.cloud().terminate(one.id(), true)?;
        fleet.cloud().terminate(other.id(), true)?;
        one.has_left_by_its_hook(fleet).await?;
        other.has_left_by_its_hook(fleet).await?;
        running(fleet, "web", 6).await
    })
    .await?;
    let nodes = survivor.docker()?.list_nodes(None).await.context("the survivor's node list")?;
    assert_eq!(nodes.len(), left, "no entry is left behind: {nodes:?}");
    fleet.create_service("more", 1, workload::graceful(), secs(10)).await?;
    running(fleet, "more", 1).await
}
