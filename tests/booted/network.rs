//! A network that comes late, and one that breaks and heals: every node joins or recovers by itself.

use std::time::Duration;

use anyhow::{Context, ensure};
use bollard::models::{Node, NodeState};
use harness::PATIENCE;
use harness::departures::ledger_of;
use harness::secs;
use skep_sim::booted::BootedFleet;

use crate::cluster::{fleet, possible, spec};
use crate::groups::{first_of, for_worker, launch, multipart, succeeded, tells};
use crate::member::Member;

/// How often the managers ask Auto Scaling about the instances before the network heals: six times a minute, all
/// together; the leader waits 20 s for a node that is Down.
const LOOKS: usize = 6;
/// Delay of the network.
const LATE: Duration = secs(25);
/// Holds UserData until the failure is in place: cloud-init itself needs the metadata.
const GATE: &str = "#!/bin/sh\nuntil [ -e /run/go ]; do sleep 0.2; done\n";

#[tokio::test(flavor = "multi_thread")]
async fn comes_late_breaks_and_heals() -> anyhow::Result<()> {
    if !possible()? {
        return Ok(());
    }
    let fleet = fleet().await?;
    spec(3, 1, "cloud-config.yaml")?.create(fleet.cloud())?;
    for group in ["metadata-late", "names-late", "network-late"] {
        launch(&fleet, group, multipart(&[GATE, &for_worker("skep.sh")?]))?;
    }
    let nodes = fleet.wait_formed(3, 1, PATIENCE).await?;
    let cut_off = a_partition_removes_nobody(&fleet, &nodes).await?;
    tokio::try_join!(it_heals(&fleet, cut_off), boot_waits_for_the_network(&fleet))?;
    fleet.wait_formed(3, 4, PATIENCE).await?;
    fleet.stop().await
}

/// A manager and a worker are cut off from the others for longer than managers keep dead nodes. AWS still lists them.
/// Returns each with the pid of its skep.
async fn a_partition_removes_nobody(
    fleet: &BootedFleet,
    nodes: &[Node],
) -> anyhow::Result<Vec<(Member, u32)>> {
    let leads =
        |node: &&Node| node.manager_status.as_ref().is_some_and(|it| it.leader == Some(true));
    let leader = nodes.iter().find(leads).and_then(|node| node.id.clone()).context("no leader")?;
    let mut members = Member::of_group(fleet, "booted-managers").await?;
    members.retain(|member| member.node_id != leader);
    members.truncate(1);
    members.extend(Member::of_group(fleet, "booted-workers").await?);
    ensure!(members.len() == 2, "a manager and a worker");
    let mut cut_off = vec![];
    for member in members {
        let pid = member.pid("skep").await?;
        member.instance.isolate(true)?;
        cut_off.push((member, pid));
    }
    for (member, _) in &cut_off {
        down(fleet, member).await?;
    }
    let asked = requests(fleet, "DescribeAutoScalingInstances");
    fleet
        .wait_until("the managers to check the dead nodes", PATIENCE, async || {
            Ok(requests(fleet, "DescribeAutoScalingInstances") >= asked + LOOKS)
        })
        .await?;
    for (member, _) in &cut_off {
        down(fleet, member).await?;
        let rows = format!("{:?}", ledger_of(fleet.cloud())?);
        ensure!(rows.contains(&format!("#{}\"", member.id())), "its row is gone: {rows}");
    }
    Ok(cut_off)
}

async fn it_heals(fleet: &BootedFleet, cut_off: Vec<(Member, u32)>) -> anyhow::Result<()> {
    for (member, _) in &cut_off {
        member.instance.isolate(false)?;
    }
    for (member, pid) in cut_off {
        member.is_ready(fleet).await?;
        member.has_not_left(fleet).await?;
        ensure!(member.pid("skep").await? == pid, "skep on {} was restarted", member.id());
    }
    Ok(())
}

async fn down(fleet: &BootedFleet, member: &Member) -> anyhow::Result<()> {
    fleet
        .wait_until(&format!("{} to be Down", member.id()), PATIENCE, async || {
            Ok(member.listed(fleet).await? == Some(NodeState::DOWN))
        })
        .await
}

fn requests(fleet: &BootedFleet, action: &str) -> usize {
    fleet.cloud().requests().iter().filter(|request| request.action == action).count()
}

/// Three instances, where UserData or the operator starts skep while there is no metadata, no DNS, or no network at
/// all.
async fn boot_waits_for_the_network(fleet: &BootedFleet) -> anyhow::Result<()> {
    let metadata = first_of(fleet, "metadata-late").await?;
    let names = first_of(fleet, "names-late").await?;
    let network = first_of(fleet, "network-late").await?;
    for instance in [&metadata, &names, &network] {
        let gate = "systemctl is-active --quiet network-online.target && pgrep -f part-001";
        fleet
            .wait_until("UserData to wait", PATIENCE, async || Ok(instance.say(gate).await.is_ok()))
            .await?;
    }
    fleet.cloud().imds_knobs(metadata.id()).drop_connections(true);
    fleet.answer_names(false)?;
    network.say("systemctl stop networking && ! ip route | grep -q default").await?;
    network.say("systemctl start --no-block skep.service").await?;
    for instance in [&metadata, &names] {
        instance.say("touch /run/go").await?;
    }
    tokio::time::sleep(LATE).await;
    for instance in [&metadata, &names, &network] {
        let state = instance.say("systemctl show skep --property=ActiveState --value").await?;
        ensure!(state == "activating", "skep on {} is {state}", instance.launch().group);
    }
    tells(fleet, &names, &["retrying after", "no answer"]).await?;

    fleet.cloud().imds_knobs(metadata.id()).reset();
    fleet.answer_names(true)?;
    network.say("systemctl start networking && touch /run/go").await?;
    for instance in [&metadata, &names, &network] {
        succeeded(fleet, instance).await?;
        Member::of(instance).await?.is_ready(fleet).await?;
        let cloud_init = instance.say("cloud-init status --wait").await?;
        ensure!(cloud_init.ends_with("status: done"), "{cloud_init}");
    }
    Ok(())
}
