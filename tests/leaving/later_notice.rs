//! A second notice comes while the node leaves: an earlier deadline shortens the remaining time.

use harness::PATIENCE;
use harness::departures::{
    Leaver, departure_state, events_of, options_with, row, running, standing,
};
use harness::secs;
use skep_sim::cloud::{EventKind, Market};
use skep_sim::fleet::{ClusterSpec, workload};

#[tokio::test]
async fn a_spot_notice_shortens_a_scale_in() -> anyhow::Result<()> {
    let spec = ClusterSpec { workers_market: Market::Spot, ..ClusterSpec::new("demo", 1, 1) };
    let fleet = standing(options_with(""), &spec).await?;
    // Its tasks would take the whole half hour of the hook.
    fleet.create_service("web", 4, workload::slow_to_stop(1200.0), secs(1500)).await?;
    running(&fleet, "web", 4).await?;
    let worker = Leaver::of(&fleet.group(&spec.workers_group())[0]).await?;
    assert!(!worker.tasks("start").is_empty(), "the worker has tasks");

    fleet.cloud().terminate(worker.id(), true)?;
    fleet
        .wait_until("the drain", PATIENCE, async || {
            Ok(departure_state(&fleet, &worker.instance).as_deref() == Some("draining"))
        })
        .await?;
    fleet.cloud().spot_notice(worker.id(), "terminate", secs(60))?;
    worker.hook_is_completed(&fleet).await?;
    let is_reclaim = |kind: &EventKind| matches!(kind, EventKind::SpotReclaimed { .. });
    let events = events_of(&fleet, &worker.instance);
    assert!(!events.iter().any(is_reclaim), "it had left before: {events:?}");
    let log = worker.instance.log();
    assert!(log.contains("draining has used up its time"), "{log}");
    assert!(log.contains("flushing the logs"), "{log}");
    let departure = row(&fleet, &format!("departure#{}", worker.id()))?.expect("a departure");
    assert_eq!(departure["reason"], "lifecycle", "the first notice wins");
    fleet
        .wait_until("its entry to go", PATIENCE, async || {
            Ok(departure_state(&fleet, &worker.instance).as_deref() == Some("removed")
                && fleet.nodes().await?.len() == 1)
        })
        .await?;
    fleet.stop().await
}
