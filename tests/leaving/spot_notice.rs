//! EC2 reclaims a spot instance: the node has left before the time in the notice.

use harness::PATIENCE;
use harness::departures::{Leaver, hook_results, options_with, row, running, standing};
use harness::secs;
use skep_sim::cloud::{EventKind, Market};
use skep_sim::fleet::{ClusterSpec, workload};

#[tokio::test]
async fn it_leaves_before_the_instance_is_taken() -> anyhow::Result<()> {
    let spec = ClusterSpec { workers_market: Market::Spot, ..ClusterSpec::new("demo", 1, 2) };
    let fleet = standing(options_with(""), &spec).await?;
    fleet.create_service("web", 6, workload::slow_to_stop(2.0), secs(20)).await?;
    running(&fleet, "web", 6).await?;
    let worker = Leaver::of(&fleet.group(&spec.workers_group())[0]).await?;
    assert!(!worker.tasks("start").is_empty(), "the worker has tasks");

    fleet.cloud().spot_notice(worker.id(), "terminate", secs(45))?;
    worker.has_left(&fleet).await?;
    worker.skep_has_ended_well(&fleet).await?;
    let departure = row(&fleet, &format!("departure#{}", worker.id()))?.expect("a departure");
    assert_eq!(departure["reason"], "spot");
    let is_reclaim = |kind: &EventKind| matches!(kind, EventKind::SpotReclaimed { .. });
    let reclaimed = || harness::departures::events_of(&fleet, &worker.instance);
    assert!(!reclaimed().iter().any(is_reclaim), "it had left before");
    assert!(worker.instance.is_on(), "skep does not switch the machine off");

    fleet
        .wait_until("the reclaim", PATIENCE, async || Ok(reclaimed().iter().any(is_reclaim)))
        .await?;
    assert!(hook_results(&fleet, &worker.instance).is_empty(), "there was no hook to complete");
    running(&fleet, "web", 6).await?;
    fleet.stop().await
}
