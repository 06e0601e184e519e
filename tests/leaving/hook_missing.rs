//! The group has no termination hook: nothing holds the instance, and the node still leaves.

use harness::departures::{Leaver, events_of, options_with, running, standing, systemctl_with_job};
use harness::secs;
use skep_sim::cloud::{EventKind, Service, Transition};
use skep_sim::fleet::{ClusterSpec, FleetOptions, PowerOff, TERMINATION_HOOK, workload};

/// The notice in the metadata comes before the power-off.
#[tokio::test]
async fn it_leaves_before_the_machine_goes() -> anyhow::Result<()> {
    let spec = ClusterSpec::new("demo", 1, 1);
    let fleet = standing(options_with(""), &spec).await?;
    fleet.create_service("web", 4, workload::slow_to_stop(1.0), secs(30)).await?;
    running(&fleet, "web", 4).await?;
    let worker = Leaver::of(&fleet.group(&spec.workers_group())[0]).await?;
    fleet.cloud().delete_hook(&spec.workers_group(), TERMINATION_HOOK)?;
    // The time from the start of a shutdown to the power-off.
    fleet.cloud().set_transition_delay(Transition::Terminating, secs(60));

    fleet.cloud().clear_requests();
    fleet.cloud().terminate(worker.id(), true)?;
    worker.has_left(&fleet).await?;
    worker.skep_has_ended_well(&fleet).await?;
    let is_hook = |kind: &EventKind| {
        matches!(kind, EventKind::HookStarted { transition: Transition::Terminating, .. })
    };
    assert!(!events_of(&fleet, &worker.instance).iter().any(is_hook));
    // There is no hook to complete, and skep does not try.
    let requests = fleet.cloud().requests();
    assert!(!requests.iter().any(|request| {
        request.service == Service::AutoScaling && request.action == "CompleteLifecycleAction"
    }));
    fleet.stop().await
}

/// Its only notice is the shutdown of its own machine.
#[tokio::test]
async fn it_leaves_while_the_machine_shuts_down() -> anyhow::Result<()> {
    let spec = ClusterSpec::new("demo", 1, 1);
    let options = FleetOptions { power_off: PowerOff::Clean(secs(60)), ..options_with("") };
    let fleet = standing(options, &spec).await?;
    fleet.create_service("web", 4, workload::slow_to_stop(1.0), secs(30)).await?;
    running(&fleet, "web", 4).await?;
    let worker = Leaver::of(&fleet.group(&spec.workers_group())[0]).await?;
    systemctl_with_job(&worker.instance, Some("poweroff.target"))?;
    fleet.cloud().delete_hook(&spec.workers_group(), TERMINATION_HOOK)?;

    fleet.cloud().terminate(worker.id(), true)?;
    worker.has_left(&fleet).await?;
    worker.skep_has_ended_well(&fleet).await?;
    fleet.stop().await
}
