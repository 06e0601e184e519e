//! Every way to leave and to return, on machines that boot: scale-in, power-off, reboot, stop and start, and a crash.

use anyhow::{Context, ensure};
use harness::PATIENCE;
use harness::departures::events_in;
use harness::trouble::aws_at;
use skep_sim::booted::{BootedFleet, IMAGE, user_data};
use skep_sim::cloud::{ActionResult, EventKind, LifecycleState};
use skep_sim::fleet::{TERMINATION_HOOK, preload};

use crate::cluster::CLUSTER;
use crate::member::{Containers, Member, running, working};

const WORKERS: &str = "booted-workers";
const MANAGERS: &str = "booted-managers";
/// Account that owns the image.
const OWNER: &str = "123456789012";
const REPLICAS: u32 = 6;

#[tokio::test(flavor = "multi_thread")]
async fn every_way_to_go_and_to_come_back() -> anyhow::Result<()> {
    let Some(fleet) = working(3, 2, REPLICAS).await? else { return Ok(()) };
    powered_off(&fleet).await?;
    scaled_in(&fleet).await?;
    rebooted(&fleet).await?;
    stopped_and_started(&fleet).await?;
    crashed(&fleet).await?;
    fleet.stop().await
}

/// `systemctl poweroff` inside a worker: it leaves while everything still works.
async fn powered_off(fleet: &BootedFleet) -> anyhow::Result<()> {
    let worker = Member::of(fleet.group(WORKERS).first().context("no worker")?).await?;
    let containers = Containers::watch(&worker.instance);
    worker.instance.say("systemctl poweroff").await?;
    worker.has_left(fleet, "shutdown").await?;
    containers.all_ended_well().await?;
    fleet.wait_until("its end", PATIENCE, async || Ok(worker.instance.is_gone())).await?;
    // skep's lines reach the console through the journal, and can be later than systemd's own.
    in_order(
        &worker,
        &[
            "this node must leave reason=shutdown",
            "flushed flusher=\"journal\"",
            "the departure has ended: ",
        ],
    )?;
    in_order(
        &worker,
        &["Stopped skep.service", "Stopped docker.service", "Reached target poweroff.target"],
    )?;
    // By then its group has a replacement.
    fleet.wait_formed(3, 2, PATIENCE).await?;
    running(fleet, REPLICAS).await?;
    Ok(())
}

/// Desired capacity 2 → 1: the hook is completed when nothing can be lost any more.
async fn scaled_in(fleet: &BootedFleet) -> anyhow::Result<()> {
    let workers = Member::of_group(fleet, WORKERS).await?;
    let watched: Vec<_> = workers.iter().map(|it| Containers::watch(&it.instance)).collect();
    fleet.cloud().set_desired(WORKERS, 1)?;
    let gone = fleet
        .wait_for("the choice of a worker", PATIENCE, async || {
            let instances = fleet.cloud().instances().into_iter();
            let mut leaving =
                instances.filter(|it| it.lifecycle == LifecycleState::TerminatingWait);
            let Some(leaving) = leaving.next() else { return Ok(None) };
            Ok(workers.iter().position(|worker| worker.id() == leaving.id))
        })
        .await?;
    let worker = &workers[gone];
    worker.has_left(fleet, "lifecycle").await?;
    fleet.wait_until("its end", PATIENCE, async || Ok(worker.instance.is_gone())).await?;
    let watched = watched.into_iter().nth(gone).context("it was watched")?;
    watched.all_ended_well().await?;
    let results: Vec<ActionResult> = events_in(fleet.cloud(), worker.id())
        .into_iter()
        .filter_map(|event| match event {
            EventKind::HookCompleted { hook, result, .. } if hook == TERMINATION_HOOK => {
                Some(result)
            }
            _ => None,
        })
        .collect();
    ensure!(results == [ActionResult::Continue], "the termination hook: {results:?}");
    in_order(
        worker,
        &[
            "this node must leave reason=lifecycle",
            "flushed flusher=\"journal\"",
            "termination hook: Continue",
        ],
    )?;
    in_order(worker, &["Stopped skep.service", "Reached target poweroff.target"])?;
    fleet.wait_formed(3, 1, PATIENCE).await?;
    running(fleet, REPLICAS).await?;
    Ok(())
}

/// `systemctl reboot` inside a worker and a manager: the same nodes afterwards, without UserData.
async fn rebooted(fleet: &BootedFleet) -> anyhow::Result<()> {
    const SETTINGS: &str = "/etc/skep/conf.d/50-userdata.toml";
    const BOOTS: &str = "journalctl --list-boots --quiet | wc -l";
    let mut nodes = Member::of_group(fleet, WORKERS).await?;
    nodes.extend(Member::of_group(fleet, MANAGERS).await?.pop());
    for node in &nodes {
        // UserData would overwrite this file.
        node.instance.say(&format!("echo '# kept' >>{SETTINGS}; {BOOTS} >/root/boots")).await?;
        node.instance.say("sync; systemctl reboot").await?;
    }
    for node in &nodes {
        let again = format!("test $({BOOTS}) -gt $(cat /root/boots)");
        let what = format!("{} to boot again", node.id());
        fleet
            .wait_until(&what, PATIENCE, async || node.instance.say(&again).await.map(|_| true))
            .await?;
        node.is_ready(fleet).await?;
        node.has_not_left(fleet).await?;
        node.instance.say(&format!("grep -qx '# kept' {SETTINGS}")).await?;
        let starter = "journalctl --boot --quiet --unit=skep-autostart.service --grep Finished";
        node.instance.say(starter).await?;
    }
    fleet.wait_formed(3, 1, PATIENCE).await?;
    running(fleet, REPLICAS).await?;
    Ok(())
}

/// A worker outside any group, which EC2 stops and starts again.
async fn stopped_and_started(fleet: &BootedFleet) -> anyhow::Result<()> {
    let script = user_data("skep.sh")?.replace("${cluster}", CLUSTER).replace("${role}", "worker");
    let tags = format!(
        "ResourceType=instance,Tags=[{{Key=skep:cluster,Value={CLUSTER}}},\
         {{Key=skep:role,Value=worker}}]"
    );
    fleet.cloud().register_image(IMAGE, "skep", OWNER);
    let run = aws_at(
        &fleet.endpoint(),
        &[
            "ec2",
            "run-instances",
            "--image-id",
            IMAGE,
            "--iam-instance-profile",
            "Name=skep-worker",
            "--metadata-options",
            "HttpTokens=required,InstanceMetadataTags=enabled",
            "--tag-specifications",
            &tags,
            "--user-data",
            &script,
        ],
    )
    .await?;
    let id = run["Instances"][0]["InstanceId"].as_str().context("no id")?;
    fleet.wait_formed(3, 2, PATIENCE).await?;
    let before = Member::of(&fleet.instance(id).context("no instance")?).await?;
    before.is_ready(fleet).await?;

    aws_at(&fleet.endpoint(), &["ec2", "stop-instances", "--instance-ids", id]).await?;
    before.has_left(fleet, "shutdown").await?;
    fleet.wait_until("it to be off", PATIENCE, async || Ok(!before.instance.is_on())).await?;

    aws_at(&fleet.endpoint(), &["ec2", "start-instances", "--instance-ids", id]).await?;
    fleet.wait_formed(3, 2, PATIENCE).await?;
    let after = Member::of(&before.instance).await?;
    after.is_ready(fleet).await?;
    ensure!(after.node_id != before.node_id, "it has left, but is the same node");
    aws_at(&fleet.endpoint(), &["ec2", "terminate-instances", "--instance-ids", id]).await?;
    after.has_left(fleet, "shutdown").await?;
    fleet.wait_formed(3, 1, PATIENCE).await?;
    Ok(())
}

/// A worker dies without a notice: its group replaces it, and the managers remove it from the list.
async fn crashed(fleet: &BootedFleet) -> anyhow::Result<()> {
    let [worker] = &Member::of_group(fleet, WORKERS).await?[..] else {
        anyhow::bail!("one worker is left")
    };
    preload(&worker.instance.docker().await?).await?;
    worker.instance.crash().await;
    fleet
        .wait_until("the dead node to be removed from the list", PATIENCE, async || {
            worker.is_forgotten(fleet).await
        })
        .await?;
    fleet.wait_formed(3, 1, PATIENCE).await?;
    let [heir] = &Member::of_group(fleet, WORKERS).await?[..] else {
        anyhow::bail!("one worker takes its place")
    };
    heir.is_ready(fleet).await?;
    let console = worker.instance.console();
    ensure!(!console.contains("Reached target poweroff.target"), "it was shut down");
    Ok(())
}

/// Checks that the console contains these texts in this order.
fn in_order(node: &Member, texts: &[&str]) -> anyhow::Result<()> {
    let console = node.instance.console();
    let mut rest = console.as_str();
    for text in texts {
        let (_, after) = rest.split_once(text).with_context(|| {
            format!("{}: no {text:?} in its place in {texts:?}:\n{console}", node.id())
        })?;
        rest = after;
    }
    Ok(())
}
