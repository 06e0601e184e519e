//! Operators' mistakes, each on its own instance, all at once beside one healthy manager. Each one produces a clear
//! line on the console and reports the failure, and leaves nothing in the swarm.

use std::convert::Infallible;

use anyhow::{Context, ensure};
use harness::PATIENCE;
use harness::departures::ledger_of;
use harness::secs;
use skep_sim::booted::{self, BootedFleet, BootedInstance};
use skep_sim::cloud::{EventKind, Transition};

use crate::cluster::{fleet, possible, spec};
use crate::groups::{
    failed, first_of, for_worker, launch, launch_tagged, multipart, succeeded, tells,
};
use crate::member::Member;

/// Makes boot time out while this test waits.
const HURRY: &str = "mkdir -p /etc/skep/conf.d\n\
    printf '[boot]\\ndeadline = \"20s\"\\n' >/etc/skep/conf.d/40-hurry.toml\n";

/// How the CloudFormation template brings the settings of a stack, without a limit on their content. These are
/// `[labels]`, `color = "red"`, `[boot]` and `dedline = "20s"`, a line each.
const STACK_SETTINGS: &str = "bootcmd: [\"mkdir -p /etc/skep/conf.d && \
    echo W2xhYmVsc10KY29sb3IgPSAicmVkIgpbYm9vdF0KZGVkbGluZSA9ICIyMHMiCg== | \
    base64 -d >/etc/skep/conf.d/60-settings.toml\"]\n";

/// UserData with which an instance must not become a node.
struct Mistake {
    name: &'static str,
    user_data: String,
    /// Texts that one line of skep's on the console must contain.
    words: &'static [&'static str],
    /// Swarm state that Docker reports; empty where there is no Docker.
    docker: &'static str,
}

fn mistakes() -> anyhow::Result<Vec<Mistake>> {
    let (config, script) = (for_worker("cloud-config.yaml")?, for_worker("skep.sh")?);
    let mistake = |name, user_data, words| Mistake { name, user_data, words, docker: "inactive" };
    let gone = |name, commands| Mistake {
        docker: "",
        ..mistake(
            name,
            after(&in_a_hurry(commands), &script),
            &["not in the swarm within boot.deadline", "Docker"],
        )
    };
    Ok(vec![
        mistake(
            "typo",
            config.replace("role = ", "rol = "),
            &["/etc/skep/conf.d/50-userdata.toml:2: rol: unknown key", "role"],
        ),
        mistake(
            "leader",
            script.replace("\"worker\"", "\"leader\""),
            &["/etc/skep/conf.d/50-userdata.toml:2: role", "\"leader\"", "manager, worker"],
        ),
        mistake(
            "settings",
            format!("{config}{STACK_SETTINGS}"),
            &["/etc/skep/conf.d/60-settings.toml:4: boot.dedline: unknown key", "boot.deadline"],
        ),
        // A part that two systems have written. cloud-init repairs UserData in which all lines end as on Windows.
        mistake(
            "mixed-line-endings",
            script.replace('\n', "\r\n").replacen("\r\n", "\n", 1),
            &["cloud-init has failed", "part-001"],
        ),
        gone("masked", "systemctl mask --now docker.service docker.socket"),
        gone("missing", "dpkg --purge --force-depends docker.io"),
        mistake(
            "full-disk",
            after(&in_a_hurry(&full("/var/lib/docker/swarm")), &script),
            &["not in the swarm within boot.deadline", "no space left on device"],
        ),
        Mistake {
            docker: "active",
            ..mistake(
                "baked",
                after(&in_a_hurry("docker swarm init --advertise-addr ens5"), &script),
                &["Docker is in a swarm that is not this cluster's", "out of the image"],
            )
        },
    ])
}

/// UserData with its own part before skep's, which damages the machine.
fn after(commands: &str, script: &str) -> String {
    multipart(&[&format!("#!/bin/bash\nset -e\n{commands}\n"), script])
}

/// For a node that must fail. A node that must come up keeps the normal deadline, because the machine may be busy.
fn in_a_hurry(commands: &str) -> String {
    format!("{HURRY}{commands}")
}

/// A command that leaves no space in a directory, not even for an empty file. Docker empties its own directory before
/// it retries, so a file that fills the disk would not be enough.
fn full(dir: &str) -> String {
    format!("mkdir -p {dir} && mount -t tmpfs -o size=4k,nr_inodes=1 tmpfs {dir}")
}

#[tokio::test(flavor = "multi_thread")]
async fn no_mistake_becomes_a_node() -> anyhow::Result<()> {
    if !possible()? {
        return Ok(());
    }
    let fleet = fleet().await?;
    // Failed instances stay on, so that the test can inspect them.
    fleet.cloud().set_transition_delay(Transition::Terminating, secs(3600));
    let verdicts = async {
        spec(1, 0, "cloud-config.yaml")?.create(fleet.cloud())?;
        let mistakes = mistakes()?;
        for Mistake { name, user_data, .. } in &mistakes {
            launch(&fleet, name, user_data.clone())?;
        }
        // Without tags and UserData, skep knows only the names of stack and group.
        let no_yaml = booted::user_data("cloud-config.yaml")?.replace("content: |", "content: [");
        launch_tagged(&fleet, "no-yaml", no_yaml, &[])?;
        // These are no mistakes: the instances become nodes all the same.
        let mended = ["windows-script", "windows-config", "full-state"];
        launch(&fleet, mended[0], for_worker("skep.sh")?.replace('\n', "\r\n"))?;
        launch(&fleet, mended[1], for_worker("cloud-config.yaml")?.replace('\n', "\r\n"))?;
        launch(&fleet, mended[2], after(&full("/var/lib/skep"), &for_worker("skep.sh")?))?;

        for mistake in &mistakes {
            is_no_node(&fleet, mistake).await.context(mistake.name)?;
        }
        let instance = first_of(&fleet, "no-yaml").await?;
        tells(&fleet, &instance, &["role: no source names the role (manager or worker)"]).await?;
        failed(&fleet, &instance).await?;

        fleet.wait_formed(1, mended.len(), PATIENCE).await?;
        for name in mended {
            let instance = first_of(&fleet, name).await?;
            succeeded(&fleet, &instance).await?;
            Member::of(&instance).await?.is_ready(&fleet).await?;
        }
        let instance = first_of(&fleet, "full-state").await?;
        tells(&fleet, &instance, &["/var/lib/skep/", "No space left on device"]).await
    };
    tokio::select! {
        verdicts = verdicts => verdicts?,
        never = replace_nobody(&fleet) => match never {},
    }
    fleet.stop().await
}

async fn is_no_node(fleet: &BootedFleet, mistake: &Mistake) -> anyhow::Result<()> {
    let instance = first_of(fleet, mistake.name).await?;
    tells(fleet, &instance, mistake.words).await?;
    failed(fleet, &instance).await?;
    let stack = fleet.cloud().stack(mistake.name).context("there is no stack")?;
    ensure!(stack.resources[0].failed.contains(instance.id()), "{stack:?}");
    // The ledger may hold the attempt to join, and no other row.
    let mut rows = ledger_of(fleet.cloud())?;
    rows.retain(|row| row["item"] != format!("attempt#{}", instance.id()));
    ensure!(!format!("{rows:?}").contains(instance.id()), "it is in the ledger: {rows:?}");
    let state = instance
        .say("docker info --format '{{.Swarm.LocalNodeState}}' 2>/dev/null || true")
        .await?;
    ensure!(state == mistake.docker, "Docker is {state:?}");
    if mistake.words[0].contains("50-userdata.toml") {
        is_not_tried_again(fleet, &instance).await?;
    }
    Ok(())
}

/// systemd repeats neither the start by UserData nor the one after cloud-init.
async fn is_not_tried_again(fleet: &BootedFleet, instance: &BootedInstance) -> anyhow::Result<()> {
    let show = "systemctl show skep.service --property=ExecMainStatus,NRestarts,ActiveState";
    fleet
        .wait_until("the end of skep with 78", PATIENCE, async || {
            let unit = instance.say(show).await?;
            ensure!(unit == "NRestarts=0\nExecMainStatus=78\nActiveState=failed", "{unit}");
            Ok(true)
        })
        .await
}

/// Auto Scaling would replace each failed instance by one that fails in the same way. This sets the group's desired
/// capacity to 0 and crashes the replacement.
async fn replace_nobody(fleet: &BootedFleet) -> Infallible {
    let mut events = fleet.cloud().subscribe();
    loop {
        let Ok(event) = events.recv().await else { continue };
        let EventKind::Replaced { group, new, .. } = event.kind else { continue };
        fleet.cloud().set_desired(&group, 0).ok();
        let on = fleet.wait_for("a replacement", PATIENCE, async || {
            Ok(fleet.instance(&new).filter(|instance| instance.is_on()))
        });
        if let Ok(instance) = on.await {
            instance.crash().await;
        }
    }
}
