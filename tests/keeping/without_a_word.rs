//! Instances that die without a notice: the managers remove them from the list, only on evidence.

use anyhow::Context;
use bollard::models::NodeState;
use harness::departures::{Leaver, is_listed, ledger, options_with, standing};
use harness::secs;
use harness::swarm;
use skep_sim::cloud::{Deny, Fault, Service, Who};
use skep_sim::fleet::{ClusterSpec, Fleet};

type Row = serde_json::Map<String, serde_json::Value>;

/// Docker takes up to 30 s to list a node as Down; managers promise two minutes from then on.
const PATIENCE: std::time::Duration = secs(150);
/// Longer than the leader waits for a Down node, and two of its polls.
const LONG_ENOUGH: std::time::Duration = secs(45);

async fn is_struck_out(fleet: &Fleet, leaver: &Leaver) -> anyhow::Result<()> {
    let what = format!("{} to be off the list and out of the ledger", leaver.id());
    fleet
        .wait_until(&what, PATIENCE, async || {
            let is_its = |row: &Row| row.get("node_id").is_some_and(|id| *id == *leaver.node_id);
            let has_row = ledger(fleet)?.iter().any(is_its);
            Ok(!has_row && !is_listed(fleet, &leaver.node_id).await?)
        })
        .await
}

async fn is_down(fleet: &Fleet, node_id: &str) -> anyhow::Result<bool> {
    let nodes = fleet.nodes().await?;
    let node = nodes.iter().find(|node| node.id.as_deref() == Some(node_id));
    let status = node.and_then(|node| node.status.as_ref());
    Ok(status.and_then(|status| status.state) == Some(NodeState::DOWN))
}

#[tokio::test]
async fn the_leader_and_a_worker_are_gone_within_two_minutes() -> anyhow::Result<()> {
    let spec = ClusterSpec::new("demo", 3, 1);
    let fleet = standing(options_with(""), &spec).await?;
    let leader = Leaver::of(&fleet.leader().await?).await?;
    let worker = Leaver::of(&fleet.group(&spec.workers_group())[0]).await?;
    fleet.cloud().crash(leader.id())?;
    fleet.cloud().crash(worker.id())?;
    is_struck_out(&fleet, &worker).await?;
    is_struck_out(&fleet, &leader).await?;
    fleet
        .wait_until("the replacements", PATIENCE, async || Ok(fleet.nodes().await?.len() == 4))
        .await?;
    fleet.stop().await
}

#[tokio::test]
async fn nobody_is_removed_without_evidence() -> anyhow::Result<()> {
    let spec = ClusterSpec::new("demo", 1, 2);
    let fleet = standing(options_with(""), &spec).await?;
    let workers = fleet.group(&spec.workers_group());
    let (alive, dead) = (Leaver::of(&workers[0]).await?, Leaver::of(&workers[1]).await?);
    let faults = fleet.cloud().faults();
    let fails = Fault { error: 1.0, ..Fault::default() };
    faults.set(Service::AutoScaling, Some("DescribeAutoScalingInstances"), fails);
    alive.instance.isolate(true)?;
    fleet.cloud().crash(dead.id())?;
    for worker in [&alive, &dead] {
        fleet
            .wait_until(&format!("{} to be Down", worker.id()), PATIENCE, async || {
                is_down(&fleet, &worker.node_id).await
            })
            .await?;
    }
    tokio::time::sleep(LONG_ENOUGH).await;
    assert!(is_listed(&fleet, &dead.node_id).await?, "an error is no evidence");

    faults.clear();
    is_struck_out(&fleet, &dead).await?;
    assert!(is_down(&fleet, &alive.node_id).await?, "Auto Scaling lists it: Down is not dead");
    alive.instance.isolate(false)?;
    fleet
        .wait_until("it to be back", PATIENCE, async || Ok(!is_down(&fleet, &alive.node_id).await?))
        .await?;
    assert!(is_listed(&fleet, &alive.node_id).await?);
    fleet.stop().await
}

/// Auto Scaling's answer is throttled, cut off or denied, and rows are written by hand: no node is removed on such
/// evidence. With the right evidence the dead node is, although its row cannot be read.
#[tokio::test]
async fn bad_evidence_removes_nobody() -> anyhow::Result<()> {
    let spec = swarm::cluster(1, 2);
    let fleet = standing(options_with(""), &spec).await?;
    let workers = fleet.group(&spec.workers_group());
    let (alive, dead) = (Leaver::of(&workers[0]).await?, Leaver::of(&workers[1]).await?);
    let rows = swarm::workers_rows(&fleet, "member#worker#")?;
    let of = |leaver: &Leaver| {
        let its = |row: &&Row| row["instance_id"] == *leaver.id();
        rows.iter().find(its).cloned().context("no row")
    };
    // The dead node's row claims the live node, whose row has an invalid generation.
    let (mut claims, mut edited) = (of(&dead)?, of(&alive)?);
    claims.insert("node_id".into(), alive.node_id.clone().into());
    edited.insert("generation".into(), "first".into());
    for row in [&claims, &edited] {
        swarm::put_row(&fleet, row).await?;
    }
    let faults = fleet.cloud().faults();
    let action = Some("DescribeAutoScalingInstances");
    let bad = Fault { throttle: 0.5, drop: 0.5, error: 1.0, ..Fault::default() };
    faults.set(Service::AutoScaling, action, bad);
    alive.instance.isolate(true)?;
    fleet.cloud().crash(dead.id())?;
    for worker in [&alive, &dead] {
        fleet
            .wait_until(&format!("{} to be Down", worker.id()), PATIENCE, async || {
                is_down(&fleet, &worker.node_id).await
            })
            .await?;
    }
    tokio::time::sleep(LONG_ENOUGH).await;
    faults.clear();
    let who = Who::Role("skep-manager".to_owned());
    fleet.cloud().deny(Deny::new(who, Service::AutoScaling, "DescribeAutoScalingInstances"));
    tokio::time::sleep(LONG_ENOUGH).await;
    fleet.cloud().allow_all();
    is_struck_out(&fleet, &dead).await?;
    tokio::time::sleep(LONG_ENOUGH).await;
    assert!(is_listed(&fleet, &alive.node_id).await?, "{} is off the list", alive.id());
    let manager = &fleet.group(&spec.managers_group())[0];
    let said = String::from_utf8(manager.skep(["status"]).await?.stdout)?;
    assert!(said.contains(&format!("Auto Scaling lists {}", alive.id())), "{said}");
    let log = manager.log();
    assert_eq!(log.matches("cannot be read").count(), 1, "logged once: {log}");
    assert!(log.contains("Auto Scaling did not answer about"), "{log}");
    fleet.stop().await
}
