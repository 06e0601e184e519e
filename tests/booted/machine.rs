//! Properties of the simulated machines themselves, on one instance of the base image that the `aws` command line
//! controls. Without them no scenario here would prove anything.

use std::sync::Arc;

use anyhow::{Context, ensure};
use harness::PATIENCE;
use harness::secs;
use harness::trouble::aws_at;
use serde_json::Value;
use skep_sim::booted::{BASE_IMAGE, BootedFleet, BootedInstance, BootedOptions};

use crate::cluster::possible;

#[tokio::test(flavor = "multi_thread")]
async fn keeps_its_disk_until_it_is_terminated() -> anyhow::Result<()> {
    if !possible()? {
        return Ok(());
    }
    let fleet = BootedFleet::start(BootedOptions::default()).await?;
    fleet.cloud().register_image(BASE_IMAGE, "debian-12-amd64-local", "136693071363");
    let script = "#!/bin/sh\ntouch /from-user-data\n";
    let run = ["run-instances", "--image-id", BASE_IMAGE, "--user-data", script];
    let reservation = ec2(&fleet, &run).await?;
    let id = reservation["Instances"][0]["InstanceId"].as_str().context("no id")?.to_owned();
    let instance =
        fleet.wait_for("the instance", PATIENCE, async || Ok(fleet.instance(&id))).await?;

    booted(&fleet, &instance, 1).await?;
    ensure!(instance.say("cloud-id").await? == "aws", "cloud-init does not know EC2");
    instance.say("test -e /from-user-data && hostname | grep -qx ip-10-78-0-4").await?;
    ensure!(instance.console().contains("Reached target"), "the console is empty");

    // DNS: late, then available.
    instance.say("getent hosts aws.skep.internal").await?;
    fleet.answer_names(false)?;
    ensure!(instance.say("timeout 2 getent hosts aws.skep.internal").await.is_err(), "answered");
    fleet.answer_names(true)?;
    instance.say("getent hosts aws.skep.internal").await?;

    // The metadata is behind the same link as everything else.
    let metadata = "curl -s -m 2 -o /dev/null http://169.254.169.254/";
    // A link that comes up does not have a route at once.
    let comes = format!("{metadata} --retry 60 --retry-delay 1 --retry-all-errors");
    instance.say(&comes).await?;
    instance.link(false)?;
    ensure!(instance.say(metadata).await.is_err(), "the metadata answers although the link is cut");
    instance.link(true)?;
    instance.say(&comes).await?;

    // A reboot from inside, and a reset: the disk stays the same.
    instance.say("echo kept >/kept && sync").await?;
    instance.run("systemctl reboot").await?;
    booted(&fleet, &instance, 2).await?;
    instance.reset().await?;
    booted(&fleet, &instance, 3).await?;
    instance.say("grep -q kept /kept").await?;

    // EC2 stops and starts it: it shuts down cleanly, and UserData does not run again.
    instance.say("rm /from-user-data").await?;
    ec2(&fleet, &["stop-instances", "--instance-ids", &id]).await?;
    is(&fleet, &id, "stopped").await?;
    ensure!(instance.console().contains("Reached target poweroff.target"), "the power was cut");
    ec2(&fleet, &["start-instances", "--instance-ids", &id]).await?;
    booted(&fleet, &instance, 4).await?;
    instance.say("test ! -e /from-user-data && grep -q kept /kept").await?;

    // A power-off from inside is a stop, too; then its disk becomes an image.
    instance.run("systemctl poweroff").await?;
    is(&fleet, &id, "stopped").await?;
    let create = ["create-image", "--instance-id", &id, "--name", "again"];
    let image = ec2(&fleet, &create).await?["ImageId"].as_str().context("no image")?.to_owned();
    fleet
        .wait_until("the image", PATIENCE, async || {
            let images = ec2(&fleet, &["describe-images", "--image-ids", &image]).await?;
            Ok(images["Images"][0]["State"] == "available")
        })
        .await?;
    let again = ec2(&fleet, &["run-instances", "--image-id", &image]).await?;
    let other = again["Instances"][0]["InstanceId"].as_str().context("no id")?.to_owned();
    let other = fleet.wait_for("the other", PATIENCE, async || Ok(fleet.instance(&other))).await?;
    // The journal in the image contains the four earlier boots.
    booted(&fleet, &other, 5).await?;
    other
        .say("grep -q kept /kept && cloud-init status --wait && hostname | grep -qx ip-10-78-0-5")
        .await?;

    // A crash: no unit gets a chance to stop.
    other.crash().await;
    is(&fleet, other.id(), "stopped").await?;
    ensure!(!other.console().contains("Reached target poweroff.target"), "it was shut down");

    ec2(&fleet, &["terminate-instances", "--instance-ids", &id]).await?;
    is(&fleet, &id, "terminated").await?;
    fleet.wait_until("its end", PATIENCE, async || Ok(instance.is_gone())).await?;
    let unknown = ec2(&fleet, &["describe-vpn-connections"]).await;
    ensure!(unknown.is_err_and(|error| error.to_string().contains("InvalidAction")), "answered");
    fleet.stop().await
}

/// Waits until the machine has booted this many times and cloud-init is done.
async fn booted(
    fleet: &BootedFleet,
    instance: &Arc<BootedInstance>,
    times: usize,
) -> anyhow::Result<()> {
    let what = format!("boot {times} of {}", instance.id());
    fleet
        .wait_until(&what, PATIENCE, async || {
            let boots = instance.say("journalctl --list-boots --quiet | wc -l").await?;
            ensure!(boots == times.to_string(), "{boots} boots");
            let wait = "systemctl is-system-running --wait || systemctl --failed --no-legend";
            let state = tokio::time::timeout(secs(60), instance.say(wait)).await??;
            ensure!(state == "running", "{state}");
            Ok(true)
        })
        .await
}

async fn is(fleet: &BootedFleet, id: &str, state: &str) -> anyhow::Result<()> {
    fleet
        .wait_until(&format!("{id} to be {state}"), PATIENCE, async || {
            let found = ec2(fleet, &["describe-instances", "--instance-ids", id]).await?;
            let found = &found["Reservations"][0]["Instances"][0]["State"]["Name"];
            ensure!(found == state, "{found}");
            Ok(true)
        })
        .await
}

async fn ec2(fleet: &BootedFleet, arguments: &[&str]) -> anyhow::Result<Value> {
    let mut all = vec!["ec2"];
    all.extend(arguments);
    aws_at(&fleet.endpoint(), &all).await
}
