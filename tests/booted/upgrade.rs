//! The package upgrades skep under load, then is purged: neither is a departure.

use anyhow::ensure;
use bollard::models::NodeState;
use harness::PATIENCE;
use skep_sim::booted::BootedFleet;

use crate::cluster::package;
use crate::member::{Member, running, working};

const REPLICAS: u32 = 8;

#[tokio::test(flavor = "multi_thread")]
async fn by_package_under_load() -> anyhow::Result<()> {
    let Some(fleet) = working(3, 2, REPLICAS).await? else { return Ok(()) };
    let mut nodes = Member::of_group(&fleet, "booted-managers").await?;
    nodes.extend(Member::of_group(&fleet, "booted-workers").await?);
    let tasks = running(&fleet, REPLICAS).await?;

    let first = &nodes[0];
    first.put(&package()?)?;
    let (version, package) = first.make_newer().await?;
    for node in &nodes {
        if node.id() != first.id() {
            std::fs::copy(&package, node.home()?.join("new.deb"))?;
        }
        upgraded(&fleet, node, &version).await?;
    }
    fleet.wait_formed(3, 2, PATIENCE).await?;
    ensure!(running(&fleet, REPLICAS).await? == tasks, "tasks were moved or started anew");

    purged(&fleet, &nodes[nodes.len() - 1]).await?;
    ensure!(running(&fleet, REPLICAS).await? == tasks, "tasks were moved or started anew");
    fleet.stop().await
}

/// Checks that another skep runs as the same node with the administrator's settings, and that it did not leave.
async fn upgraded(fleet: &BootedFleet, node: &Member, version: &str) -> anyhow::Result<()> {
    node.instance
        .say(
            "sed -i 's/^#level = .*/level = \"debug\"/' /etc/skep/skep.toml
             printf '[notices]\\ninterval = \"3s\"\\n' >/etc/skep/conf.d/60-edited.toml
             sha256sum /etc/skep/skep.toml /etc/skep/conf.d/* >/root/settings",
        )
        .await?;
    let before = node.pid("skep.service").await?;
    node.instance.say("dpkg --install /root/new.deb").await?;
    let installed = node.instance.say("dpkg-query -W -f '${Version}' skep").await?;
    ensure!(installed == version, "{installed} is installed instead of {version}");
    let what = format!("another skep on {}", node.id());
    fleet
        .wait_until(&what, PATIENCE, async || {
            let pid = node.pid("skep.service").await?;
            Ok(pid != 0 && pid != before)
        })
        .await?;
    node.is_ready(fleet).await?;
    node.has_not_left(fleet).await?;
    node.instance.say("sha256sum --quiet --check /root/settings").await?;
    let said = node.instance.say("skep config").await?;
    for file in ["/etc/skep/skep.toml", "60-edited.toml"] {
        ensure!(said.contains(file), "the settings of {file} are not in force:\n{said}");
    }
    Ok(())
}

/// Checks that nothing of the package remains, and that the node is still in the swarm.
async fn purged(fleet: &BootedFleet, node: &Member) -> anyhow::Result<()> {
    let said = node.instance.say("dpkg --purge skep 2>&1").await?;
    ensure!(said.contains("This node stays in its swarm"), "{said}");
    // The first file holds the address of AWS here; the second belongs to the image, not to the package.
    let left = "find / /run -xdev -name '*skep*' ! -path /etc/systemd/system/skep.service.d \
                ! -path /etc/systemd/journald.conf.d/50-skep.conf";
    let left = node.instance.say(left).await?;
    ensure!(left.is_empty(), "left behind:\n{left}");
    ensure!(node.instance.run("pgrep -x skep").await?.stdout.is_empty(), "skep runs");
    ensure!(node.listed(fleet).await? == Some(NodeState::READY), "it is not a ready node");
    Ok(())
}
