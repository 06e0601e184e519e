//! Nodes whose skep is dead: the managers carry out their departures, and report the true result to Auto Scaling.

use std::time::Duration;

use anyhow::ensure;
use harness::PATIENCE;
use harness::departures::{
    Leaver, events_of, hook_results, hook_timed_out, is_listed, ledger, options_with, row, running,
    standing,
};
use harness::gate::Gate;
use harness::quorum::keeping_quorum;
use harness::secs;
use harness::swarm;
use nix::sys::signal::Signal;
use skep_sim::cloud::{ActionResult, EventKind};
use skep_sim::fleet::{ClusterSpec, Fleet, FleetOptions, Restart, workload};

/// A killed skep is not restarted.
fn options() -> FleetOptions {
    FleetOptions { restart: Restart::Never, ..options_with("") }
}

async fn kill(fleet: &Fleet, node: &Leaver) -> anyhow::Result<()> {
    ensure!(node.instance.kill_skep(Signal::SIGKILL), "skep does not run on {}", node.id());
    let what = format!("skep of {} to be dead", node.id());
    fleet.wait_until(&what, PATIENCE, async || Ok(!node.instance.skep_running())).await
}

/// Waits until the hook ends, and returns the results with which it was completed.
async fn hook_ends(fleet: &Fleet, node: &Leaver) -> anyhow::Result<Vec<ActionResult>> {
    let what = format!("the hook of {} to end", node.id());
    fleet
        .wait_until(&what, PATIENCE, async || {
            Ok(!hook_results(fleet, &node.instance).is_empty()
                || hook_timed_out(fleet, &node.instance))
        })
        .await?;
    ensure!(!hook_timed_out(fleet, &node.instance), "timed out\n{}", fleet.report());
    Ok(hook_results(fleet, &node.instance))
}

fn beats(fleet: &Fleet, node: &Leaver) -> usize {
    let is_beat = |kind: &EventKind| matches!(kind, EventKind::Heartbeat { .. });
    events_of(fleet, &node.instance).iter().filter(|kind| is_beat(kind)).count()
}

/// A worker, and then the leader, for which another manager's skep must act.
#[tokio::test]
async fn a_worker_and_the_leader_are_seen_out_with_their_tasks_grace() -> anyhow::Result<()> {
    let spec = ClusterSpec::new("demo", 3, 2);
    let fleet = standing(options(), &spec).await?;
    // Longer than the duty that ends skep's own changes of the availability waits.
    fleet.create_service("web", 10, workload::slow_to_stop(12.0), secs(30)).await?;
    running(&fleet, "web", 10).await?;
    let worker = Leaver::of(&fleet.group(&spec.workers_group())[0]).await?;
    let leader = Leaver::of(&fleet.leader().await?).await?;
    for node in [&worker, &leader] {
        assert!(!node.tasks("start").is_empty(), "{} has tasks", node.id());
    }
    kill(&fleet, &worker).await?;
    fleet.cloud().terminate(worker.id(), true)?;
    assert_eq!(hook_ends(&fleet, &worker).await?, [ActionResult::Continue]);
    worker.has_left(&fleet).await?;
    assert!(beats(&fleet, &worker) > 0, "the hook was kept open");

    let managers = fleet.group(&spec.managers_group());
    for manager in &managers {
        let log = manager.log();
        assert!(!log.contains("availability set"), "it was activated again: {log}");
    }
    let survivor = managers.iter().find(|one| one.id() != leader.id()).expect("two of three");
    keeping_quorum(survivor, async {
        kill(&fleet, &leader).await?;
        fleet.cloud().terminate(leader.id(), true)?;
        assert_eq!(hook_ends(&fleet, &leader).await?, [ActionResult::Continue]);
        leader.has_left(&fleet).await
    })
    .await?;
    running(&fleet, "web", 10).await?;
    assert_eq!(fleet.nodes().await?.len(), 3, "no entry is left behind");
    fleet.stop().await
}

/// Auto Scaling has detected that the machine is gone, but still waits for its hook.
#[tokio::test]
async fn a_dead_machine_does_not_hold_up_its_replacement() -> anyhow::Result<()> {
    let spec = ClusterSpec::new("demo", 1, 2);
    let fleet = standing(options(), &spec).await?;
    let dead = Leaver::of(&fleet.group(&spec.workers_group())[0]).await?;
    kill(&fleet, &dead).await?;
    dead.instance.link(false)?;
    fleet.cloud().terminate(dead.id(), true)?;
    assert_eq!(hook_ends(&fleet, &dead).await?, [ActionResult::Abandon], "it was not drained");
    dead.has_left(&fleet).await?;
    fleet.stop().await
}

/// The node's own departure has priority over the stand-in, which managers delete.
#[tokio::test]
async fn a_skep_that_comes_back_leaves_by_itself() -> anyhow::Result<()> {
    let spec = ClusterSpec::new("demo", 1, 1);
    let fleet = standing(options(), &spec).await?;
    fleet.create_service("web", 4, workload::slow_to_stop(8.0), secs(30)).await?;
    running(&fleet, "web", 4).await?;
    let worker = Leaver::of(&fleet.group(&spec.workers_group())[0]).await?;
    kill(&fleet, &worker).await?;
    fleet.cloud().terminate(worker.id(), true)?;
    let own = format!("departure#{}", worker.id());
    let stand_in = format!("departure#stand-in#{}", worker.id());
    fleet
        .wait_until("a manager to stand in", PATIENCE, async || {
            Ok(row(&fleet, &stand_in)?.is_some() && row(&fleet, &own)?.is_none())
        })
        .await?;
    worker.instance.start_skep()?;
    worker.has_left_by_its_hook(&fleet).await?;
    let log = worker.instance.log();
    assert!(
        log.contains("hook skep-terminate completed") || log.contains("termination hook"),
        "{log}"
    );
    assert!(row(&fleet, &own)?.is_some_and(|row| row["stand_in"] == false));
    assert!(row(&fleet, &stand_in)?.is_none(), "its own request has priority");
    fleet.stop().await
}

/// Managers do not wait for an instance that never was a member, once its skep should have written to the ledger. A
/// launch hook is left to Auto Scaling and the instance.
#[tokio::test]
async fn the_hook_of_an_instance_that_never_joined_is_completed() -> anyhow::Result<()> {
    /// The wait for members, and several polls.
    const LONG_ENOUGH: Duration = secs(60);
    let (gate, options) = Gate::new(false)?;
    let fleet = harness::fleet(FleetOptions { restart: Restart::Never, ..options }).await?;
    fleet.create_cluster(&swarm::cluster(1, 1))?;
    swarm::all_ready(&fleet, 2).await?;
    gate.close();
    swarm::resize(&fleet, "worker", 3)?;
    let waits = async |state: &'static str, count: usize| {
        let what = format!("{count} instances in {state}");
        let is_it = |lifecycle: &str| lifecycle == state;
        let count_now = || {
            let all = fleet.cloud().instances();
            all.iter().filter(|one| is_it(one.lifecycle.as_str())).count()
        };
        fleet.wait_until(&what, PATIENCE, async || Ok(count_now() == count)).await
    };
    waits("Pending:Wait", 2).await?;
    let newest = swarm::newest(&fleet, "worker", 3).await?;
    fleet.cloud().terminate(newest.id(), true)?;
    waits("Terminating:Wait", 1).await?;
    tokio::time::sleep(LONG_ENOUGH).await;
    waits("Pending:Wait", 1).await?;
    waits("Terminating:Wait", 1).await?;
    let what = format!("the hook of {} to end", newest.id());
    fleet
        .wait_until(&what, PATIENCE, async || {
            Ok(!hook_results(&fleet, &newest).is_empty() || hook_timed_out(&fleet, &newest))
        })
        .await?;
    assert_eq!(hook_results(&fleet, &newest), [ActionResult::Continue]);
    waits("Pending:Wait", 1).await?;
    let mut departures = swarm::rows(&fleet, swarm::CLUSTER, "departure#").await?;
    departures.extend(swarm::workers_rows(&fleet, "departure#")?);
    assert!(departures.is_empty(), "{departures:?}");
    fleet.stop().await
}

/// Managers without permission to complete the workers' hook do the rest, and report the missing permission.
#[tokio::test]
async fn a_hook_that_cannot_be_completed_is_left_to_time_out() -> anyhow::Result<()> {
    use skep_sim::cloud::{Deny, Service, Who};
    let spec = ClusterSpec { hook_timeout: secs(75), ..ClusterSpec::new("demo", 1, 1) };
    let fleet = standing(options(), &spec).await?;
    let worker = Leaver::of(&fleet.group(&spec.workers_group())[0]).await?;
    let who = Who::Role("skep-manager".to_owned());
    for action in ["CompleteLifecycleAction", "RecordLifecycleActionHeartbeat"] {
        fleet.cloud().deny(Deny::new(who.clone(), Service::AutoScaling, action));
    }
    kill(&fleet, &worker).await?;
    fleet.cloud().terminate(worker.id(), true)?;
    fleet
        .wait_until("the hook to time out", PATIENCE, async || {
            Ok(hook_timed_out(&fleet, &worker.instance))
        })
        .await?;
    worker.has_left(&fleet).await?;
    assert!(!is_listed(&fleet, &worker.node_id).await? && !ledger(&fleet)?.is_empty());
    let manager = &fleet.group(&spec.managers_group())[0];
    swarm::logged(&fleet, manager, "serving its departure").await?;
    fleet.stop().await
}
