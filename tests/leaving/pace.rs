//! Several workers leave at the same moment: they are drained one after the other, as far as their deadlines allow, and a
//! service is never short of more tasks than those of one node. A new node reports success once its services are whole.

use anyhow::ensure;
use harness::departures::{Leaver, events_of, options_with, row, running, standing};
use harness::seen::{from_health_port, status};
use harness::services::{fewest_during, running_by_node};
use harness::{PATIENCE, secs};
use skep_sim::cloud::EventKind;
use skep_sim::fleet::{ClusterSpec, Fleet, Instance, LAUNCH_HOOK, workload};

const REPLICAS: usize = 10;

async fn leave_at_once(leaving: usize) -> anyhow::Result<()> {
    let spec = ClusterSpec::new("demo", 1, 5);
    let fleet = standing(options_with(""), &spec).await?;
    fleet.create_service("web", REPLICAS as u32, workload::slow_to_stop(2.0), secs(30)).await?;
    running(&fleet, "web", REPLICAS).await?;
    let before = running_by_node(&fleet, "web").await?;
    let most = before.values().max().copied().unwrap_or_default();
    ensure!(before.len() >= 5 && most <= 2, "the tasks are spread: {before:?}");
    let workers = fleet.group(&spec.workers_group());
    let mut leavers = vec![];
    for worker in &workers[..leaving] {
        leavers.push(Leaver::of(worker).await?);
    }
    let fewest = fewest_during(&fleet, "web", async {
        for leaver in &leavers {
            fleet.cloud().terminate(leaver.id(), true)?;
        }
        is_told(&fleet, &leavers).await?;
        for leaver in &leavers {
            leaver.has_left_by_its_hook(&fleet).await?;
        }
        running(&fleet, "web", REPLICAS).await
    })
    .await?;
    ensure!(
        fewest >= REPLICAS - most,
        "{fewest} of {REPLICAS} tasks ran, and a node had {most}\n{}",
        fleet.report()
    );
    ensure!(fleet.nodes().await?.len() == 6 - leaving, "no entry is left behind");
    fleet.stop().await
}

/// Waits until the ledger names whom one of them waits for, as does its status; a metric counts it.
async fn is_told(fleet: &Fleet, leavers: &[Leaver]) -> anyhow::Result<()> {
    let waits_for = |instance: &Instance| -> Option<String> {
        let row = row(fleet, &format!("departure#{}", instance.id())).ok()??;
        Some(row.get("turn_after")?.as_str()?.to_owned())
    };
    let manager = fleet.leader().await?;
    fleet
        .wait_until("one that waits for its turn", PATIENCE, async || {
            for leaver in leavers {
                let after = waits_for(&leaver.instance).unwrap_or_default();
                let doing = status(&leaver.instance).await?["node"]["doing"].to_string();
                let page = from_health_port(&manager, "/metrics").await?;
                let count = page.lines().find_map(|line| {
                    let is_it =
                        line.starts_with("skep_departures_waiting") && line.contains("turn");
                    is_it.then(|| line.rsplit_once(' ')?.1.parse::<u32>().ok())?
                });
                if after.contains("i-")
                    && after.contains("service web")
                    && doing.contains(&after)
                    && count.is_some_and(|count| count > 0)
                {
                    return Ok(true);
                }
            }
            Ok(false)
        })
        .await
}

#[tokio::test]
async fn three_of_five_workers_leave_at_once() -> anyhow::Result<()> {
    leave_at_once(3).await
}

#[tokio::test]
async fn all_workers_leave_at_once() -> anyhow::Result<()> {
    leave_at_once(5).await
}

/// A group replaces a worker whose tasks take their time to stop.
#[tokio::test]
async fn a_new_node_reports_success_once_the_services_are_whole() -> anyhow::Result<()> {
    let spec = ClusterSpec::new("demo", 1, 2);
    let fleet = standing(options_with("[pace]\ndelay_success = true\n"), &spec).await?;
    fleet.create_service("web", 6, workload::slow_to_stop(45.0), secs(90)).await?;
    running(&fleet, "web", 6).await?;
    let group = spec.workers_group();
    let leaver = Leaver::of(&fleet.group(&group)[0]).await?;
    ensure!(!leaver.tasks("start").is_empty(), "the worker has tasks");
    let before: Vec<_> = fleet.group(&group).iter().map(|one| one.id().to_owned()).collect();
    fleet.cloud().terminate(leaver.id(), true)?;
    fleet
        .wait_until("the managers to state it", PATIENCE, async || {
            Ok(row(&fleet, "services")?.is_some_and(|row| row["after"].is_string()))
        })
        .await?;
    fleet.cloud().set_desired(&group, 2)?;
    let new = fleet
        .wait_for("a new node that is Ready", PATIENCE, async || {
            let is_new = |one: &std::sync::Arc<Instance>| {
                !before.iter().any(|id| id == one.id()) && one.is_ready()
            };
            Ok(fleet.group(&group).into_iter().find(is_new))
        })
        .await?;
    fleet
        .wait_until("it to wait", secs(30), async || {
            Ok(new.log().contains("success is not reported yet: services are worse off, after i-"))
        })
        .await?;
    let has_reported = || {
        let is_launch = |kind: &EventKind| matches!(kind, EventKind::HookCompleted { hook, .. } if hook == LAUNCH_HOOK);
        events_of(&fleet, &new).iter().any(is_launch)
    };
    ensure!(!has_reported(), "it has reported too early");
    fleet.wait_until("the report", PATIENCE, async || Ok(has_reported())).await?;
    let running = running_by_node(&fleet, "web").await?;
    ensure!(running.values().sum::<usize>() == 6, "it has reported too early: {running:?}");
    ensure!(row(&fleet, "services")?.is_none(), "the statement is taken back");
    leaver.has_left_by_its_hook(&fleet).await?;
    fleet.stop().await
}
