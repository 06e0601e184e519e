//! A worker is scaled in: its tasks stop with their grace, other nodes run them, and nothing of it remains.

use harness::departures::{Leaver, departure_state, drains, options_with, running, standing};
use harness::secs;
use skep_sim::fleet::{ClusterSpec, workload};

#[tokio::test]
async fn its_tasks_stop_with_their_grace_and_nothing_of_it_is_left() -> anyhow::Result<()> {
    let spec = ClusterSpec::new("demo", 1, 2);
    let fleet = standing(options_with(""), &spec).await?;
    fleet.create_service("web", 6, workload::slow_to_stop(2.0), secs(30)).await?;
    running(&fleet, "web", 6).await?;
    let worker = Leaver::of(&fleet.group(&spec.workers_group())[0]).await?;
    let tasks = worker.tasks("start").len();
    assert!(tasks > 0, "the worker has tasks");

    fleet.cloud().terminate(worker.id(), true)?;
    worker.has_left_by_its_hook(&fleet).await?;
    // The drain has stopped them, not the node or the power-off.
    assert_eq!(worker.tasks("die").len(), tasks);
    assert_eq!(drains(&fleet, &worker.instance), 1);
    assert_eq!(departure_state(&fleet, &worker.instance).as_deref(), Some("removed"));
    running(&fleet, "web", 6).await?;
    assert_eq!(fleet.nodes().await?.len(), 2, "no entry is left behind");
    fleet.stop().await
}
