//! What a node reports while it leaves: systemd's status, the health port, `skep status`.

use anyhow::Context;
use harness::PATIENCE;
use harness::departures::{Leaver, departure_state, options_with, running, standing};
use harness::secs;
use harness::seen::{health, member, status, status_text};
use serde_json::Value;
use skep_sim::fleet::{ClusterSpec, workload};

#[tokio::test]
async fn a_node_tells_how_it_does_while_ready_and_while_it_leaves() -> anyhow::Result<()> {
    let spec = ClusterSpec::new("demo", 1, 1);
    let fleet = standing(options_with(""), &spec).await?;
    fleet.create_service("web", 4, workload::slow_to_stop(10.0), secs(60)).await?;
    running(&fleet, "web", 4).await?;
    let manager = fleet.leader().await?;
    let worker = Leaver::of(&fleet.group(&spec.workers_group())[0]).await?;
    assert!(!worker.tasks("start").is_empty(), "the worker has tasks");

    // Ready.
    for instance in [&manager, &worker.instance] {
        assert!(instance.is_ready(), "READY=1");
        assert_eq!(health(instance).await?, (200, "healthy".to_owned(), "ready".to_owned()));
    }
    let ready = status(&worker.instance).await?;
    assert_eq!(ready["node"]["phase"], "ready");
    assert_eq!(ready["node"]["instance"]["id"], worker.id());
    assert_eq!(ready["node"]["membership"]["node_id"], worker.node_id.as_str());
    assert_eq!(ready["node"]["departure"], Value::Null);
    assert_eq!(ready["fleet"], Value::Null, "a worker has no view of the fleet");
    let text = status_text(&worker.instance).await?;
    assert!(text.contains(worker.id()) && text.contains("demo, generation 1: worker"), "{text}");
    let fleet_view = status(&manager).await?["fleet"].clone();
    assert_eq!(fleet_view["source"], "ledger-and-docker");
    let alone = serde_json::json!({ "managers": 1, "reachable": 1, "may_be_lost": 0 });
    assert_eq!(fleet_view["quorum"], alone);
    assert_eq!(fleet_view["members"].as_array().map(Vec::len), Some(2), "{fleet_view:#}");
    let seen = member(&fleet_view, worker.id())?;
    assert_eq!((&seen["state"], &seen["docker_state"]), (&"ready".into(), &"ready".into()));
    assert_eq!(member(&fleet_view, manager.id())?["leader"], true);

    // Leaving, while its tasks still stop.
    fleet.cloud().terminate(worker.id(), true)?;
    fleet
        .wait_until("the drain", PATIENCE, async || {
            let is_draining =
                departure_state(&fleet, &worker.instance).as_deref() == Some("draining");
            let doing = status(&worker.instance).await?["node"]["doing"].clone();
            Ok(is_draining && doing == "waiting for the tasks to stop")
        })
        .await?;
    let answer = health(&worker.instance).await?;
    assert_eq!(answer, (503, "unhealthy".to_owned(), "leaving".to_owned()));
    let leaving = status(&worker.instance).await?;
    assert_eq!(leaving["node"]["phase"], "leaving");
    assert_eq!(leaving["node"]["departure"]["reason"], "lifecycle");
    let text = status_text(&worker.instance).await?;
    assert!(text.contains("waiting for the tasks to stop"), "{text}");
    assert!(text.contains("lifecycle notice"), "{text}");
    let seen = member(&status(&manager).await?["fleet"], worker.id())?;
    assert_eq!(seen["state"], "leaving");
    assert_eq!(seen["docker_availability"], "drain");
    assert_eq!(seen["departure"], "lifecycle: draining, waiting for the tasks to stop");
    let table = status_text(&manager).await?;
    let line = table.lines().find(|line| line.starts_with(worker.id())).context("its line")?;
    assert!(line.contains("leaving") && line.contains("lifecycle: draining"), "{table}");
    assert!(table.contains(&format!("{} *", manager.id())), "{table}");
    assert!(table.contains("quorum: 1 manager, 1 reachable, none may be lost"), "{table}");
    assert_eq!(health(&manager).await?.0, 200, "its own node does not leave");

    // It has left.
    worker.has_left_by_its_hook(&fleet).await?;
    let statuses = worker.instance.statuses();
    for (phase, words) in [
        ("booting: ", "joining generation 1 as worker"),
        ("ready: ", "of generation 1"),
        ("leaving: ", "lifecycle notice"),
        ("leaving: ", "waiting for the tasks to stop"),
        ("leaving: ", "flushing the logs"),
        ("leaving: ", "leaving the swarm"),
        ("leaving: ", "completing the termination hook"),
    ] {
        let is_said = |status: &String| status.starts_with(phase) && status.contains(words);
        assert!(statuses.iter().any(is_said), "{phase}{words} in {statuses:#?}");
    }
    let began = |phase: &str| statuses.iter().position(|status| status.starts_with(phase));
    assert!(began("booting") < began("ready") && began("ready") < began("leaving"));
    fleet.stop().await
}
