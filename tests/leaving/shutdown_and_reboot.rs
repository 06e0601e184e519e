//! systemd stops skep: at a power-off the node leaves; at a reboot, or when only skep is restarted, it stays.

use std::sync::Arc;

use harness::PATIENCE;
use harness::departures::{
    Leaver, departure_state, is_listed, node_id, options_with, row, running, signal, standing,
    systemctl_with_job,
};
use harness::secs;
use skep_sim::fleet::{ClusterSpec, Fleet, Instance, workload};

#[tokio::test]
async fn a_power_off_is_a_departure() -> anyhow::Result<()> {
    let spec = ClusterSpec::new("demo", 1, 1);
    let fleet = standing(options_with(""), &spec).await?;
    fleet.create_service("web", 4, workload::slow_to_stop(1.0), secs(20)).await?;
    running(&fleet, "web", 4).await?;
    let worker = Leaver::of(&fleet.group(&spec.workers_group())[0]).await?;
    assert!(!worker.tasks("start").is_empty(), "the worker has tasks");
    systemctl_with_job(&worker.instance, Some("poweroff.target"))?;

    signal(&worker.instance, "SIGTERM")?;
    worker.has_left(&fleet).await?;
    worker.skep_has_ended_well(&fleet).await?;
    assert_eq!(worker.instance.exit_codes(), [0]);
    let departure = row(&fleet, &format!("departure#{}", worker.id()))?.expect("a departure");
    assert_eq!(departure["reason"], "shutdown");
    running(&fleet, "web", 4).await?;
    fleet.stop().await
}

#[tokio::test]
async fn a_reboot_and_a_restart_of_skep_are_none() -> anyhow::Result<()> {
    let spec = ClusterSpec::new("demo", 1, 2);
    let fleet = standing(options_with(""), &spec).await?;
    fleet.create_service("web", 4, workload::graceful(), secs(20)).await?;
    running(&fleet, "web", 4).await?;
    let workers = fleet.group(&spec.workers_group());
    let [rebooted, restarted] = &workers[..] else { panic!("two workers") };
    systemctl_with_job(rebooted, Some("reboot.target"))?;
    systemctl_with_job(restarted, None)?;
    for worker in [rebooted, restarted, &fleet.leader().await?] {
        stops_and_stays(&fleet, worker).await?;
    }
    fleet.stop().await
}

/// Stops skep and starts it again; checks that the node is the same and its tasks have run all the time.
async fn stops_and_stays(fleet: &Fleet, node: &Arc<Instance>) -> anyhow::Result<()> {
    let member = Leaver::of(node).await?;
    let id = &member.node_id;
    signal(node, "SIGTERM")?;
    member.skep_has_ended_well(fleet).await?;
    assert_eq!(node.exit_codes(), [0], "{}", node.log());
    assert_eq!(departure_state(fleet, node), None);
    assert!(is_listed(fleet, id).await?);

    node.start_skep()?;
    let ready = format!("{} to be Ready again", node.id());
    fleet.wait_until(&ready, PATIENCE, async || Ok(node.is_ready())).await?;
    assert_eq!(node_id(node).await?, *id);
    assert_eq!(departure_state(fleet, node), None);
    assert!(node.deaths().is_empty(), "{:?}", node.deaths());
    Ok(())
}
