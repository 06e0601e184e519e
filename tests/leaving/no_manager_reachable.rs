//! No manager drains the worker: it stops its tasks itself, each with its grace, and leaves.

use harness::PATIENCE;
use harness::departures::{
    Leaver, departure_state, drains, is_listed, options_with, row, running, standing,
};
use harness::secs;
use skep_sim::fleet::{ClusterSpec, workload};

const IMPATIENT: &str = "[leave]\nmanager_patience = \"3s\"\n";

/// The manager's Docker is alive, but no skep reads the ledger there.
#[tokio::test]
async fn its_skep_is_dead() -> anyhow::Result<()> {
    let spec = ClusterSpec::new("demo", 1, 2);
    let fleet = standing(options_with(IMPATIENT), &spec).await?;
    // Longer than the 10 s that Docker gives a container without a grace of its own.
    fleet.create_service("web", 6, workload::slow_to_stop(15.0), secs(40)).await?;
    running(&fleet, "web", 6).await?;
    let manager = fleet.leader().await?;
    manager.stop_skep().await?;
    let worker = Leaver::of(&fleet.group(&spec.workers_group())[0]).await?;
    assert!(!worker.tasks("start").is_empty(), "the worker has tasks");

    fleet.cloud().terminate(worker.id(), true)?;
    worker.hook_is_completed(&fleet).await?;
    worker.lost_no_grace(&fleet)?;
    assert_eq!(drains(&fleet, &worker.instance), 0);
    assert!(worker.instance.log().contains("no manager has answered"));
    assert_eq!(departure_state(&fleet, &worker.instance).as_deref(), Some("left"));
    running(&fleet, "web", 6).await?;

    // Its entry is removed as soon as a skep runs there again.
    assert!(is_listed(&fleet, &worker.node_id).await?);
    manager.start_skep()?;
    worker.has_left(&fleet).await?;
    fleet.stop().await
}

/// The worker cannot reach the manager at all, neither through Docker nor through the ledger.
#[tokio::test]
async fn it_is_cut_off() -> anyhow::Result<()> {
    let spec = ClusterSpec::new("demo", 1, 1);
    let fleet = standing(options_with(IMPATIENT), &spec).await?;
    fleet.create_service("web", 4, workload::slow_to_stop(2.0), secs(30)).await?;
    running(&fleet, "web", 4).await?;
    let manager = fleet.leader().await?;
    let worker = Leaver::of(&fleet.group(&spec.workers_group())[0]).await?;
    let tasks = worker.tasks("start").len();
    assert!(tasks > 0, "the worker has tasks");
    manager.link(false)?;

    fleet.cloud().terminate(worker.id(), true)?;
    worker.hook_is_completed(&fleet).await?;
    worker.lost_no_grace(&fleet)?;
    assert_eq!(worker.tasks("die").len(), tasks);
    let departure = row(&fleet, &format!("departure#{}", worker.id()))?.expect("a departure");
    assert_eq!(departure["state"], "left");

    manager.link(true)?;
    fleet
        .wait_until("the manager to remove it from the list", PATIENCE, async || {
            Ok(!is_listed(&fleet, &worker.node_id).await?)
        })
        .await?;
    fleet.stop().await
}
