//! Managers that must not leave yet wait, and report the reason; a cluster that is deleted leaves as a whole.

use std::sync::Arc;

use anyhow::{Context, ensure};
use bollard::models::Reachability;
use harness::PATIENCE;
use harness::departures::{Leaver, events_of, is_listed, options_with, row, running, standing};
use harness::secs;
use harness::seen::{member, status, status_text};
use skep_sim::cloud::{ActionResult, EventKind, HookSpec, Transition};
use skep_sim::fleet::{ClusterSpec, Fleet, Instance, TERMINATION_HOOK, workload};

/// A third of the hook's timeout passes between two heartbeats.
const HOOK_TIMEOUT: std::time::Duration = secs(12);

#[tokio::test]
async fn one_that_would_cost_the_quorum_waits_for_the_other_to_come_back() -> anyhow::Result<()> {
    let (fleet, spec) = three_managers().await?;
    let (leader, absent, leaver) = parts(&fleet, &spec).await?;
    absent.instance.isolate(true)?;
    unreachable(&fleet, &leader, &absent).await?;
    fleet.cloud().terminate(leaver.id(), true)?;
    waits(&fleet, &leader, &leaver).await?;

    absent.instance.isolate(false)?;
    leaver.has_left_by_its_hook(&fleet).await?;
    ensure!(is_listed(&fleet, &absent.node_id).await?, "it only had a bad network");
    running(&fleet, "web", 4).await?;
    fleet.stop().await
}

#[tokio::test]
async fn it_goes_once_the_dead_one_has_been_replaced() -> anyhow::Result<()> {
    let (fleet, spec) = three_managers().await?;
    let (leader, dead, leaver) = parts(&fleet, &spec).await?;
    fleet.cloud().crash(dead.id())?;
    fleet.cloud().terminate(leaver.id(), false)?;
    leaver.has_left_by_its_hook(&fleet).await?;
    fleet
        .wait_until("three managers and no trace of the dead one", PATIENCE, async || {
            let view = status(&leader).await?["fleet"].clone();
            let whole = serde_json::json!({ "managers": 3, "reachable": 3, "may_be_lost": 1 });
            Ok(view["quorum"] == whole && !is_listed(&fleet, &dead.node_id).await?)
        })
        .await?;
    running(&fleet, "web", 4).await?;
    fleet.stop().await
}

/// Desired capacity 0 everywhere: all nodes leave. The last manager waits for a replacement until its deadline, then
/// leaves and closes the charter.
#[tokio::test]
async fn a_cluster_that_is_deleted_goes_and_closes_its_charter() -> anyhow::Result<()> {
    let spec = ClusterSpec::new("demo", 3, 1);
    let fleet = standing(options_with("[leave]\ndeadline = \"90s\"\n"), &spec).await?;
    fleet.create_service("web", 4, workload::graceful(), secs(10)).await?;
    running(&fleet, "web", 4).await?;
    let mut leavers = Vec::new();
    for instance in fleet.instances() {
        leavers.push(Leaver::of(&instance).await?);
    }
    fleet.cloud().set_desired(&spec.workers_group(), 0)?;
    fleet.cloud().set_desired(&spec.managers_group(), 0)?;
    for leaver in &leavers {
        leaver.hook_is_completed(&fleet).await?;
        leaver.lost_no_grace(&fleet)?;
    }
    ensure!(row(&fleet, "charter")?.context("a charter")?["phase"] == "closed");
    let logs = leavers.iter().map(|leaver| leaver.instance.log());
    let ends = logs.map(|log| log.matches("leaving as the last manager").count()).sum::<usize>();
    ensure!(ends == 1, "{ends} managers were the last one");
    ensure!(row(&fleet, "lease#demotion")?.is_none(), "a lease is left behind");
    fleet.stop().await
}

async fn three_managers() -> anyhow::Result<(Fleet, ClusterSpec)> {
    let spec = ClusterSpec::new("demo", 3, 1);
    let fleet = standing(options_with(""), &spec).await?;
    let hook = HookSpec::new(&spec.managers_group(), TERMINATION_HOOK, Transition::Terminating);
    fleet.cloud().put_hook(hook.timeout(HOOK_TIMEOUT, ActionResult::Continue))?;
    fleet.create_service("web", 4, workload::graceful(), secs(10)).await?;
    running(&fleet, "web", 4).await?;
    Ok((fleet, spec))
}

/// The leader, and the two others.
async fn parts(
    fleet: &Fleet,
    spec: &ClusterSpec,
) -> anyhow::Result<(Arc<Instance>, Leaver, Leaver)> {
    let leader = fleet.leader().await?;
    let mut others = fleet.group(&spec.managers_group());
    others.retain(|one| one.id() != leader.id());
    Ok((leader, Leaver::of(&others[0]).await?, Leaver::of(&others[1]).await?))
}

async fn unreachable(fleet: &Fleet, leader: &Instance, who: &Leaver) -> anyhow::Result<()> {
    fleet
        .wait_until(&format!("{} to be unreachable", who.id()), PATIENCE, async || {
            let nodes = leader.docker()?.list_nodes(None).await?;
            let node = nodes.iter().find(|node| node.id.as_deref() == Some(&who.node_id));
            let raft = node.and_then(|node| node.manager_status.as_ref());
            let reachability = raft.and_then(|raft| raft.reachability);
            Ok(reachability.is_some_and(|it| it != Reachability::REACHABLE))
        })
        .await
}

/// Checks that it waits longer than its hook would without heartbeats, and that it and every other manager report the
/// reason.
async fn waits(fleet: &Fleet, leader: &Instance, leaver: &Leaver) -> anyhow::Result<()> {
    const WHY: &str = "waiting for a replacement: 3 managers, 2 reachable";
    fleet
        .wait_until("it to wait", PATIENCE, async || {
            let seen = member(&status(leader).await?["fleet"], leaver.id())?;
            Ok(seen["departure"].as_str().is_some_and(|it| it.contains(WHY)))
        })
        .await?;
    tokio::time::sleep(2 * HOOK_TIMEOUT).await;
    let own = status(&leaver.instance).await?;
    ensure!(own["node"]["doing"].as_str().is_some_and(|it| it.starts_with(WHY)), "{own:#}");
    ensure!(leaver.instance.log().contains(WHY), "{}", leaver.instance.log());
    let statuses = leaver.instance.statuses();
    ensure!(statuses.last().is_some_and(|it| it.contains(WHY)), "{statuses:?}");
    let seen = status_text(leader).await?;
    ensure!(seen.contains(WHY), "{seen}");
    ensure!(seen.contains("quorum: 3 managers, 2 reachable, none may be lost"), "{seen}");
    let events = events_of(fleet, &leaver.instance);
    let beats = events.iter().filter(|kind| matches!(kind, EventKind::Heartbeat { .. })).count();
    ensure!(beats >= 4, "{beats} heartbeats");
    ensure!(is_listed(fleet, &leaver.node_id).await?, "it has left");
    Ok(())
}
