//! Docker stops and starts again under skep: it is restarted, killed and upgraded by its package. For skep this is
//! neither a departure nor a reason to end.

use std::path::PathBuf;

use anyhow::{Context, ensure};
use harness::PATIENCE;
use skep_sim::booted::{BootedFleet, Image};

use crate::member::{Member, running, working};

const REPLICAS: u32 = 4;

#[tokio::test(flavor = "multi_thread")]
async fn docker_comes_back_under_skep() -> anyhow::Result<()> {
    let Some(fleet) = working(3, 1, REPLICAS).await? else { return Ok(()) };
    let [worker] = &Member::of_group(&fleet, "booted-workers").await?[..] else {
        anyhow::bail!("there is one worker")
    };
    let leader = leader(&fleet).await?;
    for node in [worker, &leader] {
        comes_back(&fleet, node, "systemctl restart docker.service").await?;
    }
    // Another node leads now.
    let leader = self::leader(&fleet).await?;
    for node in [worker, &leader] {
        comes_back(&fleet, node, "systemctl kill --signal=KILL docker.service").await?;
    }

    let leader = self::leader(&fleet).await?;
    worker.put(&package().await?)?;
    let (version, package) = worker.make_newer().await?;
    std::fs::copy(package, leader.home()?.join("new.deb"))?;
    for node in [worker, &leader] {
        // Debian's package does not restart the running engine; the administrator does.
        let script = "dpkg --install /root/new.deb && systemctl restart docker.service";
        comes_back(&fleet, node, script).await?;
        let installed = node.instance.say("dpkg-query -W -f '${Version}' docker.io").await?;
        ensure!(installed == version, "{installed} is installed instead of {version}");
    }
    fleet.stop().await
}

/// After `script` another dockerd runs. skep is the same process and reports no trouble, and the node is the same and
/// has its tasks.
async fn comes_back(fleet: &BootedFleet, node: &Member, script: &str) -> anyhow::Result<()> {
    let (skep, docker) = (node.pid("skep.service").await?, node.pid("docker.service").await?);
    // systemd stops starting a unit that is started too often.
    node.instance.say(&format!("systemctl reset-failed docker.service; {script}")).await?;
    let what = format!("another dockerd after `{script}` on {}", node.id());
    fleet
        .wait_until(&what, PATIENCE, async || {
            let pid = node.pid("docker.service").await?;
            Ok(pid != 0 && pid != docker)
        })
        .await?;
    node.is_ready(fleet).await?;
    fleet.wait_formed(3, 1, PATIENCE).await?;
    running(fleet, REPLICAS).await?;
    ensure!(node.pid("skep.service").await? == skep, "skep was restarted on {}", node.id());
    node.has_not_left(fleet).await
}

async fn leader(fleet: &BootedFleet) -> anyhow::Result<Member> {
    let leads = fleet
        .wait_for("a leader", PATIENCE, async || {
            let nodes = fleet.nodes().await?;
            Ok(nodes.into_iter().find_map(|node| {
                let leads = node.manager_status?.leader?;
                leads.then_some(node.id?)
            }))
        })
        .await?;
    let mut managers = Member::of_group(fleet, "booted-managers").await?;
    managers.retain(|node| node.node_id == leads);
    managers.pop().context("the leader is no instance")
}

/// Docker's package, as the base image has downloaded it for Packer.
async fn package() -> anyhow::Result<PathBuf> {
    let base = Image::base().await?;
    let root = base.layers().last().context("the base is a directory")?;
    let archives = root.join("var/cache/apt/archives");
    let entries = std::fs::read_dir(&archives)?;
    let is_docker = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("docker.io_") && name.ends_with(".deb")
    };
    let mut paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    paths.find(is_docker).with_context(|| format!("no docker.io in {}", archives.display()))
}
