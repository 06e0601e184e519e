//! The ledger can be read and not written, as with a table that is out of write capacity or a read-only role: the node
//! cannot ask the managers, and still leaves.

use anyhow::ensure;
use harness::departures::{
    Leaver, departure_state, flusher, hook_results, options_with, running, standing,
};
use harness::secs;
use skep_sim::cloud::{Fault, Service};
use skep_sim::fleet::{ClusterSpec, Fleet, workload};

const IMPATIENT: &str = "[leave]\nmanager_patience = \"3s\"\n";

fn refuse_writes(fleet: &Fleet) {
    for action in ["PutItem", "UpdateItem"] {
        let fails = Fault { error: 1.0, ..Fault::default() };
        fleet.cloud().faults().set(Service::DynamoDb, Some(action), fails);
    }
}

/// This lasts longer than the departure.
#[tokio::test]
async fn a_worker_leaves() -> anyhow::Result<()> {
    let spec = ClusterSpec::new("demo", 1, 2);
    let config = format!("{IMPATIENT}deadline = \"60s\"\n");
    let fleet = standing(options_with(&config), &spec).await?;
    fleet.create_service("web", 4, workload::slow_to_stop(5.0), secs(20)).await?;
    running(&fleet, "web", 4).await?;
    let worker = Leaver::of(&fleet.group(&spec.workers_group())[0]).await?;
    assert!(!worker.tasks("start").is_empty(), "the worker has tasks");
    let told = worker.instance.dir().join("told");
    flusher(
        &worker.instance,
        "10-told",
        &format!("#!/bin/sh\necho flushed >>{}\n", told.display()),
    )?;

    refuse_writes(&fleet);
    fleet.cloud().terminate(worker.id(), true)?;
    worker.hook_is_completed(&fleet).await?;
    worker.lost_no_grace(&fleet)?;
    assert_eq!(std::fs::read_to_string(&told)?, "flushed\n");
    assert_eq!(departure_state(&fleet, &worker.instance), None);
    let log = worker.instance.log();
    ensure!(log.contains("this departure cannot write to the ledger"), "{log}");
    ensure!(log.contains("no manager has confirmed"), "{log}");

    fleet.cloud().faults().clear();
    worker.is_off_the_list(&fleet).await?;
    fleet.stop().await
}

/// No manager can confirm its demotion, or remove it from the list, as long as it is there.
#[tokio::test]
async fn a_manager_leaves() -> anyhow::Result<()> {
    let spec = ClusterSpec::new("demo", 3, 0);
    let config = format!("{IMPATIENT}deadline = \"90s\"\n");
    let fleet = standing(options_with(&config), &spec).await?;
    fleet.create_service("web", 3, workload::slow_to_stop(3.0), secs(30)).await?;
    running(&fleet, "web", 3).await?;
    let leader = fleet.leader().await?;
    let managers = fleet.group(&spec.managers_group());
    let follower = managers.iter().find(|one| one.id() != leader.id()).expect("three managers");
    let manager = Leaver::of(follower).await?;

    refuse_writes(&fleet);
    fleet.cloud().terminate(manager.id(), true)?;
    manager.is_out(&fleet).await?;
    assert_eq!(hook_results(&fleet, follower), [], "its machine is held until it can report");
    manager.hook_is_completed(&fleet).await?;
    manager.lost_no_grace(&fleet)?;
    assert_eq!(departure_state(&fleet, follower), None);
    ensure!(
        follower.log().contains("cannot take the demotion lease; demoting without it"),
        "{}",
        follower.log()
    );

    fleet.cloud().faults().clear();
    manager.is_off_the_list(&fleet).await?;
    fleet.stop().await
}
