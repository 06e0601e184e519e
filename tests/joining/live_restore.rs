//! `live-restore` excludes swarm mode: skep reports it before it has started anything.

use anyhow::ensure;
use harness::swarm;
use serde_json::json;
use skep_sim::fleet::{FleetOptions, Restart};

#[tokio::test]
async fn it_is_refused_before_anything_is_claimed() -> anyhow::Result<()> {
    let mut options = FleetOptions { restart: Restart::Never, ..harness::options() };
    options.daemon.insert("live-restore".to_owned(), json!(true));
    let fleet = harness::fleet(options).await?;
    fleet.create_cluster(&swarm::cluster(1, 0))?;
    let manager = swarm::newest(&fleet, "manager", 1).await?;
    assert_eq!(swarm::ended(&fleet, &manager).await?, 1);
    swarm::gave_up(&fleet, &manager).await?;
    let log = manager.log();
    ensure!(log.contains("live-restore is on"), "{log}");
    ensure!(log.contains("/etc/docker/daemon.json"), "it names the remedy: {log}");
    assert_eq!(swarm::charter(&fleet).await?, None, "nothing was claimed");
    ensure!(fleet.cloud().parameter_names().is_empty());
    fleet.stop().await
}
