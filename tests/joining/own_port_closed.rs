//! The security group blocks the others from this manager's port 2377. Every attempt to join leaves a dead entry in the
//! node list, so skep makes few attempts and then reports a clear error.

use anyhow::ensure;
use harness::gate::Gate;
use harness::swarm;
use skep_sim::fleet::{FleetOptions, Restart};

/// The number of attempts that `src/boot/join.rs` makes.
const ATTEMPTS: usize = 3;

#[tokio::test]
async fn a_manager_gives_up_after_a_few_attempts() -> anyhow::Result<()> {
    let (gate, options) = Gate::new(false)?;
    let fleet = harness::fleet(FleetOptions { restart: Restart::Never, ..options }).await?;
    fleet.create_cluster(&swarm::cluster(1, 0))?;
    swarm::all_ready(&fleet, 1).await?;
    let manager = gate.open_for_unreachable_manager(&fleet).await?;

    let end = "skep to give up";
    fleet
        .wait_until(end, harness::secs(240), async || Ok(!manager.exit_codes().is_empty()))
        .await?;
    assert_eq!(manager.exit_codes(), [1]);
    swarm::gave_up(&fleet, &manager).await?;
    let log = manager.log();
    ensure!(log.contains("cannot reach this manager's own port 2377"), "{log}");
    ensure!(log.contains("security group"), "it names the remedy: {log}");
    ensure!(log.contains(&manager.address().to_string()), "{log}");
    let dockerd = manager.dockerd_log();
    let attempts = dockerd.matches("/swarm/join returned error").count();
    ensure!((1..=ATTEMPTS).contains(&attempts), "{attempts} attempts: {log}");

    let nodes = fleet.nodes().await?;
    ensure!(nodes.len() <= 1 + attempts, "{}", swarm::summary(&nodes));
    println!("{attempts} attempts, node list: {}", swarm::summary(&nodes));
    let managers = nodes.iter().filter(|node| node.manager_status.is_some()).count();
    assert_eq!(managers, 1, "raft still has one member: {}", swarm::summary(&nodes));
    fleet.stop().await
}

/// The operator repairs the security group in time.
#[tokio::test]
async fn a_manager_comes_in_when_the_port_is_opened() -> anyhow::Result<()> {
    let (gate, options) = Gate::new(false)?;
    let fleet = harness::fleet(options).await?;
    fleet.create_cluster(&swarm::cluster(1, 0))?;
    swarm::all_ready(&fleet, 1).await?;
    let manager = gate.open_for_unreachable_manager(&fleet).await?;
    swarm::logged(&fleet, &manager, "check the security group").await?;
    swarm::sh(&manager, "iptables -D INPUT -i ens5 -p tcp --dport 2377 -j DROP").await?;
    swarm::ready(&fleet, &manager).await?;
    let nodes = fleet.nodes().await?;
    let managers = nodes.iter().filter(|node| node.manager_status.is_some()).count();
    println!("node list: {}", swarm::summary(&nodes));
    assert_eq!(managers, 2, "{}", swarm::summary(&nodes));
    swarm::announced(&fleet).await?;
    fleet.stop().await
}
