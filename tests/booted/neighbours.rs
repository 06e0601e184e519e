//! What a local process without privileges and a container can reach of skep: nothing that changes a node, and no
//! credentials. Whatever is refused to them works for root, otherwise the refusal would show nothing.

use anyhow::{Context, ensure};
use skep_sim::booted::{BootedFleet, BootedInstance};
use skep_sim::fleet::{IMAGE, preload};

use crate::member::Member;

/// A session with the metadata, which is the node's role.
const METADATA: &str = "curl --silent --fail --max-time 5 --request PUT \
     --header 'X-aws-ec2-metadata-token-ttl-seconds: 60' http://169.254.169.254/latest/api/token";
const NOBODY: &str = "setpriv --reuid=nobody --regid=nogroup --clear-groups";
/// Files by which skep is configured or started, and its sockets.
const WRITABLE: &str = "find /etc/skep /etc/default /usr/bin/skep /usr/lib/systemd/system \
     /etc/systemd/system /run/systemd/system /var/lib/skep /run/skep /run -maxdepth 2 -name '*skep*' \
     -writable ! -type l 2>/dev/null | grep .";
/// Every method at every path of the health port of a node, under several names.
const REQUESTS: &str = "for method in GET POST PUT DELETE PATCH OPTIONS TRACE LEAVE; do \
     for path in / /health /metrics /status /leave /api/leave '/../../etc/shadow' '/%2e%2e/x'; do \
     for host in localhost skep.internal 'x: y' ''; do \
     code=$(curl --silent --path-as-is --max-time 5 --output /dev/null --write-out '%{http_code}' \
     --request $method --header \"Host: $host\" --data leave http://ADDRESS:44554$path); \
     echo $method $code; done; done; done | sort -u";

/// Checks that neither of them can do anything to the nodes of a fleet.
pub async fn reach_nothing(fleet: &BootedFleet) -> anyhow::Result<()> {
    let manager = Member::of_group(fleet, "booted-managers").await?.pop().context("a manager")?;
    let worker = Member::of_group(fleet, "booted-workers").await?.pop().context("a worker")?;
    let before = [manager.pid("skep").await?, worker.pid("skep").await?];

    for node in [&manager, &worker] {
        local_user(&node.instance, &manager.instance).await?;
        for address in [manager.instance.address(), worker.instance.address()] {
            let requests = REQUESTS.replace("ADDRESS", &address.to_string());
            let codes =
                node.instance.say(&format!("{NOBODY} sh -c '{}'", quoted(&requests))).await?;
            let is_harmless = |line: &str| line.starts_with("GET ") || !line.contains(" 2");
            ensure!(codes.contains("GET 200") && codes.lines().all(is_harmless), "{codes}");
        }
    }
    container(&worker.instance, &manager.instance).await?;

    for member in [&manager, &worker] {
        member.has_not_left(fleet).await?;
        member.is_ready(fleet).await?;
    }
    let after = [manager.pid("skep").await?, worker.pid("skep").await?];
    ensure!(before == after && !before.contains(&0), "{before:?} {after:?}");
    Ok(())
}

async fn local_user(instance: &BootedInstance, manager: &BootedInstance) -> anyhow::Result<()> {
    let pid = "$(pidof skep)";
    for attempt in [
        METADATA,
        "skep status --json",
        "docker info --format '{{.Swarm.NodeID}}' | grep .",
        "ls /var/lib/skep",
        "ls /run/skep",
        "ls /var/lib/docker",
        &format!("cat /proc/{pid}/environ"),
        &format!("head -c 1 /proc/{pid}/mem 2>&1 | grep -v 'ermission'"),
        &format!("kill -0 {pid}"),
        "systemctl kill --signal=CONT skep.service",
        &format!("timeout 5 bash -c '</dev/tcp/{}/2377'", manager.address()),
        WRITABLE,
    ] {
        refused(instance, &format!("{NOBODY} sh -c '{}'", quoted(attempt)), attempt).await?;
    }
    // These would take the node out if they were allowed.
    for attempt in ["skep leave --no-wait", "systemctl stop skep.service", "docker swarm leave"] {
        let run = instance.run(&format!("{NOBODY} {attempt}")).await?;
        ensure!(!run.status.success(), "{}: {attempt}: {run:?}", instance.id());
    }
    Ok(())
}

/// In a container with root's rights and a network of its own, as Docker starts it.
async fn container(instance: &BootedInstance, manager: &BootedInstance) -> anyhow::Result<()> {
    preload(&instance.docker().await?).await?;
    let inside = |command: &str| format!("docker run --rm {IMAGE} sh -c '{}'", quoted(command));
    let metadata = "wget -q -T 5 -O - http://169.254.169.254/latest/meta-data/";
    ensure!(!instance.run(&inside(metadata)).await?.status.success(), "it has the metadata");
    instance.say(METADATA).await?;
    for (node, port) in
        [(manager, 2377), (manager, 7946), (instance, 2377), (instance, 7946), (instance, 4789)]
    {
        let address = node.address();
        let connect = inside(&format!("nc -w 3 {address} {port} </dev/null"));
        // A worker does not listen on 2377, and 4789 is UDP.
        let listens = format!("timeout 3 bash -c '</dev/tcp/{address}/{port}'");
        let is_open = instance.run(&listens).await?.status.success();
        ensure!(is_open || node.id() == instance.id(), "{address}:{port} is closed to root");
        ensure!(!instance.run(&connect).await?.status.success(), "{address}:{port} is open");
    }
    // The network itself works.
    let health = format!("nc -w 3 {} 44554 </dev/null", manager.address());
    instance.say(&inside(&health)).await?;
    Ok(())
}

async fn refused(instance: &BootedInstance, as_nobody: &str, as_root: &str) -> anyhow::Result<()> {
    let root = instance.run(as_root).await?;
    ensure!(root.status.success(), "refused to root, too: {as_root}: {root:?}");
    let nobody = instance.run(as_nobody).await?;
    ensure!(!nobody.status.success(), "{}: {as_nobody}: {nobody:?}", instance.id());
    Ok(())
}

/// Inside single quotes.
fn quoted(script: &str) -> String {
    script.replace('\'', r"'\''")
}
