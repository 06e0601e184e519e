//! Instances of a warm pool: prepared, and no nodes until the group takes them into service.

use std::sync::Arc;
use std::time::Duration;

use anyhow::ensure;
use harness::PATIENCE;
use harness::departures::{
    Leaver, departure_state, hook_results, hook_timed_out, ledger, node_id, restart_skep, row,
    running, running_on, systemctl_with_job,
};
use harness::secs;
use harness::seen::health;
use harness::swarm::{self, said};
use nix::sys::signal::Signal;
use skep_sim::cloud::{
    ActionResult, Fault, LifecycleState, PoolState, Service, Transition, WarmPoolSpec,
};
use skep_sim::fleet::{Fleet, FleetOptions, Instance, PowerOff, workload};

const GROUP: &str = "test-workers";
const WAITS: &str = "warmed: waiting to enter service";

#[tokio::test]
async fn stopped_until_it_is_wanted() -> anyhow::Result<()> {
    let fleet = start().await?;
    pool(&fleet, 2, PoolState::Stopped)?;
    let instance = pooled(&fleet, LifecycleState::WarmedStopped, 1).await?.remove(0);
    fleet.wait_until("the stop", PATIENCE, async || Ok(!instance.is_on())).await?;
    assert!(instance.statuses().iter().any(|status| status == WAITS), "{}", instance.log());
    assert_eq!(instance.exit_codes(), [0], "{}", instance.log());
    is_no_node(&fleet, &instance, 1).await?;

    swarm::resize(&fleet, "worker", 2)?;
    serves(&fleet, &instance).await?;
    fleet.stop().await
}

#[tokio::test]
async fn running_until_it_is_wanted() -> anyhow::Result<()> {
    let fleet = start().await?;
    // At first the metadata has no target state: skep must ask Auto Scaling whether the instances belong to the pool.
    fleet.cloud().set_transition_delay(Transition::Launching, secs(5));
    pool(&fleet, 3, PoolState::Running)?;
    let instances = pooled(&fleet, LifecycleState::WarmedRunning, 2).await?;
    fleet.cloud().set_transition_delay(Transition::Launching, Duration::ZERO);
    for instance in &instances {
        assert!(instance.is_ready(), "systemd must not wait for the group");
        is_no_node(&fleet, instance, 1).await?;
        assert_eq!(health(instance).await?.0, 503);
    }

    let [first, second] = &instances[..] else { panic!("two instances") };
    // The next process waits in the same way.
    restart_skep(&fleet, second).await?;

    pool(&fleet, 2, PoolState::Running)?;
    fleet.wait_until("the end of one", PATIENCE, async || Ok(first.is_gone())).await?;
    assert_eq!(hook_results(&fleet, first), [ActionResult::Continue], "{}", first.log());
    assert!(!hook_timed_out(&fleet, first));
    is_no_node(&fleet, first, 1).await?;
    is_no_node(&fleet, second, 1).await?;

    swarm::resize(&fleet, "worker", 2)?;
    serves(&fleet, second).await?;
    fleet.stop().await
}

#[tokio::test]
async fn given_back_and_wanted_again() -> anyhow::Result<()> {
    let fleet = start().await?;
    fleet.cloud().put_warm_pool(GROUP, reused())?;
    fleet.create_service("web", 4, workload::slow_to_stop(10.0), secs(30)).await?;
    running(&fleet, "web", 4).await?;
    let worker = Leaver::of(&fleet.group(GROUP)[0]).await?;
    assert!(!worker.tasks("start").is_empty(), "the worker has tasks");

    swarm::resize(&fleet, "worker", 0)?;
    fleet
        .wait_until("the drain", PATIENCE, async || {
            Ok(departure_state(&fleet, &worker.instance).as_deref() == Some("draining"))
        })
        .await?;
    // Another process finds that a member is in the pool, and continues.
    ensure!(worker.instance.kill_skep(Signal::SIGKILL));
    worker.has_left_by_its_hook(&fleet).await?;
    let departure = row(&fleet, &format!("departure#{}", worker.id()))?.expect("a departure");
    assert_eq!(departure["reason"], "pool");
    pooled(&fleet, LifecycleState::WarmedRunning, 1).await?;
    fleet
        .wait_until("the wait", PATIENCE, async || {
            Ok(worker.instance.statuses().last().is_some_and(|status| status == WAITS))
        })
        .await?;
    assert_eq!(health(&worker.instance).await?.0, 503);
    assert_eq!(fleet.nodes().await?.len(), 1, "the manager");

    let pid = worker.instance.skep_pid();
    swarm::resize(&fleet, "worker", 1)?;
    swarm::whole(&fleet, 1, 1).await?;
    fleet
        .wait_until("the second CONTINUE", PATIENCE, async || {
            Ok(said(&fleet, worker.id()).1 == [ActionResult::Continue; 2])
        })
        .await?;
    assert_ne!(node_id(&worker.instance).await?, worker.node_id, "it has joined again");
    assert_eq!(worker.instance.skep_pid(), pid, "it was the same process that had waited");
    fleet.create_service("more", 4, workload::graceful(), secs(10)).await?;
    fleet
        .wait_until("a task there", PATIENCE, async || {
            Ok(running_on(&fleet, &worker.instance).await? > 0)
        })
        .await?;
    fleet.stop().await
}

/// The next skep finds an instance in no swarm, and a hook that waits for a departure.
#[tokio::test]
async fn given_back_by_a_skep_that_dies_before_it_completes_the_hook() -> anyhow::Result<()> {
    let fleet = start().await?;
    fleet.cloud().put_warm_pool(GROUP, reused())?;
    let worker = Leaver::of(&fleet.group(GROUP)[0]).await?;
    let faults = fleet.cloud().faults();
    let fails = Fault { error: 1.0, ..Fault::default() };
    faults.set(Service::AutoScaling, Some("CompleteLifecycleAction"), fails);
    swarm::resize(&fleet, "worker", 0)?;
    fleet
        .wait_until("the node to be off the list", PATIENCE, async || {
            Ok(departure_state(&fleet, &worker.instance).as_deref() == Some("removed"))
        })
        .await?;
    ensure!(worker.instance.kill_skep(Signal::SIGKILL));
    faults.clear();
    worker.has_left_by_its_hook(&fleet).await?;
    pooled(&fleet, LifecycleState::WarmedRunning, 1).await?;
    fleet
        .wait_until("the wait in the pool", PATIENCE, async || {
            let departure = row(&fleet, &format!("departure#{}", worker.id()))?;
            let waits = worker.instance.statuses().last().is_some_and(|status| status == WAITS);
            Ok(waits && departure.is_some_and(|row| row["ended"] == true))
        })
        .await?;
    fleet.stop().await
}

/// A pool with room for the worker only: nothing is prepared ahead.
fn reused() -> WarmPoolSpec {
    WarmPoolSpec {
        max_prepared: Some(1),
        state: PoolState::Running,
        reuse: true,
        ..WarmPoolSpec::default()
    }
}

/// A swarm of a manager and a worker, whose machines shut down before they are switched off.
async fn start() -> anyhow::Result<Fleet> {
    let prepare = |instance: &Instance| systemctl_with_job(instance, Some("poweroff.target"));
    let options = FleetOptions {
        prepare: Some(Arc::new(prepare)),
        power_off: PowerOff::Clean(secs(5)),
        ..harness::options()
    };
    let fleet = harness::fleet(options).await?;
    fleet.create_cluster(&swarm::cluster(1, 1))?;
    swarm::all_ready(&fleet, 2).await?;
    swarm::announced(&fleet).await?;
    Ok(fleet)
}

fn pool(fleet: &Fleet, prepared: u32, state: PoolState) -> anyhow::Result<()> {
    let spec = WarmPoolSpec { max_prepared: Some(prepared), state, ..WarmPoolSpec::default() };
    Ok(fleet.cloud().put_warm_pool(GROUP, spec)?)
}

/// Waits until this many instances are in the pool, and returns them, oldest first.
async fn pooled(
    fleet: &Fleet,
    state: LifecycleState,
    count: usize,
) -> anyhow::Result<Vec<Arc<Instance>>> {
    fleet
        .wait_for(&format!("{count} in {state}"), PATIENCE, async || {
            let mut group = fleet.group(GROUP);
            group.retain(|instance| {
                let seen = fleet.cloud().instance(instance.id());
                seen.is_some_and(|seen| seen.lifecycle == state)
            });
            Ok((group.len() == count).then_some(group))
        })
        .await
}

/// Checks that it has entered the pool `completed` times, and that nothing else has happened.
async fn is_no_node(fleet: &Fleet, instance: &Instance, completed: usize) -> anyhow::Result<()> {
    let (signals, hooks) = said(fleet, instance.id());
    assert_eq!(signals, [""; 0], "CloudFormation receives nothing");
    assert_eq!(hooks, vec![ActionResult::Continue; completed], "{}", instance.log());
    let rows = ledger(fleet)?;
    let is_its = |row: &serde_json::Map<_, _>| format!("{row:?}").contains(instance.id());
    assert_eq!(rows.iter().filter(|row| is_its(row)).count(), 0, "{rows:?}");
    assert_eq!(fleet.nodes().await?.len(), 2, "the manager and the first worker");
    Ok(())
}

/// Checks that it is in service: a node like any other, which has completed the hook once more.
async fn serves(fleet: &Fleet, instance: &Instance) -> anyhow::Result<()> {
    swarm::whole(fleet, 1, 2).await?;
    fleet
        .wait_until("the second CONTINUE", PATIENCE, async || {
            let (signals, hooks) = said(fleet, instance.id());
            ensure!(signals == ["SUCCESS"], "signals {signals:?}");
            ensure!(hooks == [ActionResult::Continue; 2], "hooks {hooks:?}");
            let seen = fleet.cloud().instance(instance.id());
            Ok(seen.is_some_and(|seen| seen.lifecycle == LifecycleState::InService))
        })
        .await?;
    assert!(!hook_timed_out(fleet, instance));
    Ok(())
}
