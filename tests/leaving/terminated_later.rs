//! An instance that has left for another reason stays until Auto Scaling terminates it. By then its skep has ended, so
//! a manager completes the hook.

use std::time::Duration;

use anyhow::{Context, ensure};
use harness::PATIENCE;
use harness::departures::{
    Leaver, departure_state, hook_results, hook_timed_out, options_with, row, running, signal,
    standing, systemctl_with_job,
};
use harness::nodes::all_active;
use harness::quorum::cut_apart;
use harness::secs;
use skep_sim::cloud::{ActionResult, Maintenance, Market};
use skep_sim::fleet::{ClusterSpec, workload};
use tokio::time::Instant;

/// A manager polls every 30 s, and waits 20 s for the instance's own skep.
const BOUND: Duration = secs(90);
/// Later than the end of the scenario.
const RECLAIM: Duration = secs(1200);

/// Four of five workers leave, each for a reason that does not end the machine at once. One stays, because managers ask
/// Auto Scaling only about the groups of members.
#[tokio::test]
async fn the_hook_of_an_instance_that_has_left_earlier_is_completed() -> anyhow::Result<()> {
    let spec = ClusterSpec { workers_market: Market::Spot, ..ClusterSpec::new("demo", 1, 5) };
    let fleet = standing(options_with(""), &spec).await?;
    fleet.create_service("web", 4, workload::slow_to_stop(1.0), secs(20)).await?;
    running(&fleet, "web", 4).await?;
    let mut leavers = Vec::new();
    for worker in fleet.group(&spec.workers_group()) {
        leavers.push(Leaver::of(&worker).await?);
    }
    leavers.pop();
    let [by_hand, spot, maintenance, switched_off] = &leavers[..] else { panic!("five workers") };
    fleet.cloud().spot_notice(spot.id(), "terminate", RECLAIM)?;
    let retirement = Maintenance {
        code: "instance-retirement".to_owned(),
        in_seconds: RECLAIM.as_secs(),
        ..Maintenance::default()
    };
    fleet.cloud().schedule_maintenance(maintenance.id(), retirement)?;
    systemctl_with_job(&switched_off.instance, Some("poweroff.target"))?;
    signal(&switched_off.instance, "SIGTERM")?;
    let left = by_hand.instance.skep(["leave", "--deadline", "2m"]).await?;
    ensure!(left.status.success(), "{left:?}");
    let reasons = ["operator", "spot", "maintenance", "shutdown"];
    for (leaver, reason) in leavers.iter().zip(reasons) {
        leaver.has_left(&fleet).await?;
        leaver.skep_has_ended_well(&fleet).await?;
        ensure!(leaver.instance.is_on() && hook_results(&fleet, &leaver.instance).is_empty());
        let departure =
            row(&fleet, &format!("departure#{}", leaver.id()))?.context("a departure")?;
        ensure!(departure["reason"] == reason, "{departure:?}");
    }

    let terminated = Instant::now();
    for leaver in &leavers {
        fleet.cloud().terminate(leaver.id(), true)?;
    }
    for (leaver, reason) in leavers.iter().zip(reasons) {
        let what = format!("the hook of {} to end, which left by {reason}", leaver.id());
        fleet
            .wait_until(&what, PATIENCE, async || {
                Ok(!hook_results(&fleet, &leaver.instance).is_empty()
                    || hook_timed_out(&fleet, &leaver.instance))
            })
            .await?;
        let results = hook_results(&fleet, &leaver.instance);
        ensure!(results == [ActionResult::Continue], "{results:?}\n{}", fleet.report());
    }
    let took = terminated.elapsed();
    ensure!(took < BOUND, "it took {took:?}\n{}", fleet.report());
    running(&fleet, "web", 4).await?;
    fleet.stop().await
}

/// A deadline that comes too early ends the attempt to leave, but neither the node nor its skep: managers without a
/// leader cannot demote a node.
#[tokio::test]
async fn a_manager_that_did_not_leave_in_time_serves_again() -> anyhow::Result<()> {
    let spec = ClusterSpec::new("demo", 3, 0);
    let fleet = standing(options_with(""), &spec).await?;
    let managers = fleet.group(&spec.managers_group());
    let manager = Leaver::of(&managers[0]).await?;
    cut_apart(&fleet, &managers).await?;
    let left = manager.instance.skep(["leave", "--deadline", "20s"]).await?;
    ensure!(!left.status.success(), "{left:?}");
    ensure!(departure_state(&fleet, &manager.instance).as_deref() == Some("failed"));
    for one in &managers {
        one.isolate(false)?;
    }
    fleet
        .wait_until("the node to serve again, as any other", PATIENCE, async || {
            let is_back = manager.instance.is_ready() && manager.instance.skep_running();
            Ok(is_back && all_active(&fleet, 3).await?)
        })
        .await?;
    ensure!(manager.instance.exit_codes().is_empty(), "skep went on");
    fleet
        .wait_until("a status that is ready and without its trouble", PATIENCE, async || {
            let status = manager.instance.skep(["status", "--json"]).await?;
            let status: serde_json::Value = serde_json::from_slice(&status.stdout)?;
            let trouble = status["node"]["trouble"].to_string();
            Ok(status["node"]["phase"] == "ready" && !trouble.contains("departure:"))
        })
        .await?;
    fleet.stop().await
}
