//! An instance that has left for another reason stays until Auto Scaling terminates it. Its skep has ended by
//! then, so a manager completes the hook.

use std::time::Duration;

use anyhow::ensure;
use bollard::models::{Node, NodeSpecAvailabilityEnum};
use harness::PATIENCE;
use harness::departures::{
    Leaver, departure_state, hook_results, hook_timed_out, options_with, running, standing,
};
use harness::secs;
use skep_sim::cloud::ActionResult;
use skep_sim::fleet::{ClusterSpec, workload};
use tokio::time::Instant;

/// A manager looks every 30 s, and waits 20 s for a skep that may have a word to say.
const BOUND: Duration = secs(90);

#[tokio::test]
async fn the_hook_of_an_instance_that_has_left_by_hand_is_completed() -> anyhow::Result<()> {
    let spec = ClusterSpec::new("demo", 1, 2);
    let fleet = standing(options_with(""), &spec).await?;
    fleet.create_service("web", 4, workload::slow_to_stop(1.0), secs(20)).await?;
    running(&fleet, "web", 4).await?;
    let worker = Leaver::of(&fleet.group(&spec.workers_group())[0]).await?;
    let left = worker.instance.skep(["leave", "--deadline", "2m"]).await?;
    ensure!(left.status.success(), "{left:?}");
    worker.has_left(&fleet).await?;
    worker.skep_has_ended_well(&fleet).await?;
    ensure!(worker.instance.is_on() && hook_results(&fleet, &worker.instance).is_empty());

    let terminated = Instant::now();
    fleet.cloud().terminate(worker.id(), true)?;
    let what = format!("the hook of {} to end", worker.id());
    fleet
        .wait_until(&what, PATIENCE, async || {
            Ok(!hook_results(&fleet, &worker.instance).is_empty()
                || hook_timed_out(&fleet, &worker.instance))
        })
        .await?;
    let took = terminated.elapsed();
    ensure!(
        hook_results(&fleet, &worker.instance) == [ActionResult::Continue],
        "{}",
        fleet.report()
    );
    ensure!(took < BOUND, "it took {took:?}\n{}", fleet.report());
    running(&fleet, "web", 4).await?;
    fleet.stop().await
}

/// A deadline that comes too early ends the attempt, and neither the node nor its skep: managers without a leader
/// cannot demote anybody.
#[tokio::test]
async fn a_manager_that_did_not_leave_in_time_serves_again() -> anyhow::Result<()> {
    let spec = ClusterSpec::new("demo", 3, 0);
    let fleet = standing(options_with(""), &spec).await?;
    let managers = fleet.group(&spec.managers_group());
    let manager = Leaver::of(&managers[0]).await?;
    for one in &managers {
        one.isolate(true)?;
    }
    fleet
        .wait_until("the managers to be without a leader", PATIENCE, async || {
            Ok(fleet.leader().await.is_err())
        })
        .await?;
    let left = manager.instance.skep(["leave", "--deadline", "20s"]).await?;
    ensure!(!left.status.success(), "{left:?}");
    ensure!(departure_state(&fleet, &manager.instance).as_deref() == Some("failed"));
    for one in &managers {
        one.isolate(false)?;
    }
    fleet
        .wait_until("the node to serve again, as any other", PATIENCE, async || {
            let nodes = fleet.nodes().await?;
            let is_active = |node: &Node| {
                let availability = node.spec.as_ref().and_then(|spec| spec.availability);
                availability == Some(NodeSpecAvailabilityEnum::ACTIVE)
            };
            let is_back = manager.instance.is_ready() && manager.instance.skep_running();
            Ok(is_back && nodes.len() == 3 && nodes.iter().all(is_active))
        })
        .await?;
    ensure!(manager.instance.exit_codes().is_empty(), "skep went on");
    fleet.stop().await
}
