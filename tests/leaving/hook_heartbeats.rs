//! A hook with a short heartbeat timeout and a node that needs longer: heartbeats keep it open.

use harness::PATIENCE;
use harness::departures::{
    Leaver, departure_state, events_of, hook_results, hook_timed_out, options_with, running,
    standing,
};
use harness::secs;
use skep_sim::cloud::{ActionResult, EventKind, HookSpec, Transition};
use skep_sim::fleet::{ClusterSpec, Fleet, TERMINATION_HOOK, workload};

#[tokio::test]
async fn they_keep_it_open_while_the_tasks_stop() -> anyhow::Result<()> {
    let spec = ClusterSpec::new("demo", 1, 1);
    let fleet = standing(options_with(""), &spec).await?;
    fleet.create_service("web", 4, workload::slow_to_stop(20.0), secs(60)).await?;
    running(&fleet, "web", 4).await?;
    let worker = Leaver::of(&fleet.group(&spec.workers_group())[0]).await?;
    assert!(!worker.tasks("start").is_empty(), "the worker has tasks");
    shorten(&fleet, &spec)?;

    fleet.cloud().terminate(worker.id(), true)?;
    worker.has_left_by_its_hook(&fleet).await?;
    let events = events_of(&fleet, &worker.instance);
    let beats = events.iter().filter(|kind| matches!(kind, EventKind::Heartbeat { .. })).count();
    assert!(beats >= 4, "{beats} heartbeats");
    fleet.stop().await
}

/// Proof that the test above is valid: without a skep that sends heartbeats, the same hook times out.
#[tokio::test]
async fn without_them_the_hook_times_out() -> anyhow::Result<()> {
    let spec = ClusterSpec::new("demo", 1, 1);
    let fleet = standing(options_with(""), &spec).await?;
    let worker = fleet.group(&spec.workers_group()).remove(0);
    shorten(&fleet, &spec)?;
    // Stopped, not killed: it is not restarted.
    worker.stop_skep().await?;

    fleet.cloud().terminate(worker.id(), true)?;
    fleet
        .wait_until("the time-out", PATIENCE, async || Ok(hook_timed_out(&fleet, &worker)))
        .await?;
    assert_eq!(hook_results(&fleet, &worker), Vec::<ActionResult>::new());
    assert_eq!(departure_state(&fleet, &worker), None);
    fleet.stop().await
}

/// Shorter than AWS allows for a hook, and much shorter than the tasks need.
fn shorten(fleet: &Fleet, spec: &ClusterSpec) -> anyhow::Result<()> {
    let hook = HookSpec::new(&spec.workers_group(), TERMINATION_HOOK, Transition::Terminating);
    Ok(fleet.cloud().put_hook(hook.timeout(secs(4), ActionResult::Continue))?)
}
