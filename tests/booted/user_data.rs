//! UserData in every form, and as often as it can run: it does not change an instance's place in the swarm.

use std::sync::Arc;

use anyhow::ensure;
use harness::PATIENCE;
use harness::departures::ledger_of;
use skep_sim::booted::{BootedFleet, BootedInstance};

use crate::cluster::{fleet, possible, spec};
use crate::groups::{first_of, for_worker, launch, multipart, succeeded};
use crate::member::Member;

/// A part before skep's; writes one line per run.
const FIRST: &str = "#!/bin/sh\n[ -e /run/skep ] || touch /was-first\necho ran >>/first\n";
/// The setting with which AWS's documentation makes a script run at every boot.
const AT_EVERY_BOOT: &str = "#cloud-config\ncloud_final_modules:\n  - [scripts-user, always]\n";
/// The file that UserData writes.
const SETTINGS: &str = "cat /etc/skep/conf.d/50-userdata.toml";
/// Where cloud-init keeps the scripts that it extracts from UserData.
const SCRIPTS: &str = "/var/lib/cloud/instance/scripts";

#[tokio::test(flavor = "multi_thread")]
async fn may_run_again_and_again() -> anyhow::Result<()> {
    if !possible()? {
        return Ok(());
    }
    let fleet = fleet().await?;
    spec(1, 0, "cloud-config.yaml")?.create(fleet.cloud())?;
    let (config, script) = (for_worker("cloud-config.yaml")?, for_worker("skep.sh")?);
    launch(&fleet, "script", script.clone())?;
    launch(&fleet, "parts", multipart(&[FIRST, &config]))?;
    launch(&fleet, "always", multipart(&[AT_EVERY_BOOT, FIRST, &script]))?;
    fleet.wait_formed(1, 3, PATIENCE).await?;

    let mut nodes = vec![];
    for (group, own) in [
        ("booted-managers", "runcmd"),
        ("script", "part-001"),
        ("parts", "runcmd"),
        ("always", "part-003"),
    ] {
        let instance = first_of(&fleet, group).await?;
        succeeded(&fleet, &instance).await?;
        done(&fleet, &instance).await?;
        nodes.push((Node::of(&fleet, &instance).await?, own));
    }
    let [(manager, _), (script, _), (parts, _), (always, _)] = &nodes[..] else { unreachable!() };
    for node in [parts, always] {
        node.say("test -e /was-first").await?;
        node.has_run_first(1).await?;
    }

    // By hand, while skep runs.
    for (node, own) in &nodes {
        let before = node.member.pid("skep").await?;
        node.say(&format!("{SCRIPTS}/{own}")).await?;
        ensure!(node.member.pid("skep").await? == before, "skep was restarted");
        node.is_the_same(&fleet).await?;
    }

    // At the next boot: `script` runs again because cloud-init has forgotten the first run, `parts` does not run, and
    // `always` runs at every boot.
    script.say("cloud-init clean --logs").await?;
    for node in [script, parts, always] {
        node.member.instance.run("systemctl reboot").await?;
    }
    for (node, runs) in [(script, None), (parts, Some(1)), (always, Some(2))] {
        let instance = &node.member.instance;
        fleet
            .wait_until("the second boot", PATIENCE, async || {
                Ok(instance.say("journalctl --list-boots --quiet | wc -l").await? == "2")
            })
            .await?;
        done(&fleet, instance).await?;
        node.is_the_same(&fleet).await?;
        if let Some(runs) = runs {
            node.has_run_first(runs).await?;
        }
    }
    // UserData has written its settings again since the machine started.
    for node in [script, always] {
        node.say("test /etc/skep/conf.d/50-userdata.toml -nt /run/systemd/notify").await?;
    }
    manager.is_the_same(&fleet).await?;
    fleet.wait_formed(1, 3, PATIENCE).await?;
    fleet.stop().await
}

/// Waits until cloud-init has ended successfully.
async fn done(fleet: &BootedFleet, instance: &Arc<BootedInstance>) -> anyhow::Result<()> {
    fleet
        .wait_until("cloud-init to end", PATIENCE, async || {
            Ok(instance.say("cloud-init status").await? == "status: done")
        })
        .await
}

/// A member, and the facts about it that UserData must not change.
struct Node {
    member: Member,
    settings: String,
}

impl Node {
    async fn of(fleet: &BootedFleet, instance: &Arc<BootedInstance>) -> anyhow::Result<Node> {
        let member = Member::of(instance).await?;
        member.is_ready(fleet).await?;
        let settings = instance.say(SETTINGS).await?;
        ensure!(settings.starts_with("cluster = \"booted\"\nrole = "), "{settings}");
        Ok(Node { member, settings })
    }

    async fn say(&self, script: &str) -> anyhow::Result<String> {
        self.member.instance.say(script).await
    }

    /// Checks that it is Ready under its node id, with its settings, and with one row in the ledger.
    async fn is_the_same(&self, fleet: &BootedFleet) -> anyhow::Result<()> {
        self.member.is_ready(fleet).await?;
        let settings = self.say(SETTINGS).await?;
        ensure!(
            settings == self.settings,
            "its settings were\n{}\nand are\n{settings}",
            self.settings
        );
        let mut rows = ledger_of(fleet.cloud())?;
        rows.retain(|row| {
            row["item"].as_str().is_some_and(|item| item.ends_with(self.member.id()))
        });
        let [row] = &rows[..] else { anyhow::bail!("its rows: {rows:?}") };
        ensure!(row["node_id"] == self.member.node_id.as_str(), "{row:?}");
        succeeded(fleet, &self.member.instance).await
    }

    async fn has_run_first(&self, times: usize) -> anyhow::Result<()> {
        let ran = self.say("cat /first").await?;
        ensure!(ran.lines().count() == times, "wrong number of runs of the first part:\n{ran}");
        Ok(())
    }
}
