//! Instances with their own UserData, each in its own group and stack beside the cluster.

use std::sync::Arc;

use anyhow::ensure;
use harness::PATIENCE;
use harness::swarm::said_to;
use harness::trouble::{create_group_in, tags_of};
use skep_sim::booted::{self, BootedFleet, BootedInstance, IMAGE};
use skep_sim::cloud::{ActionResult, GroupSpec};
use skep_sim::fleet::{LAUNCH_HOOK, TERMINATION_HOOK};

use crate::cluster::CLUSTER;

/// A file of `userdata/` for a worker of the cluster.
pub fn for_worker(file: &str) -> anyhow::Result<String> {
    Ok(booted::user_data(file)?.replace("${cluster}", CLUSTER).replace("${role}", "worker"))
}

/// Several parts of UserData in one, in the format of cloud-init.
pub fn multipart(parts: &[&str]) -> String {
    let part = |part: &&str| {
        let kind = if part.starts_with("#!") { "x-shellscript" } else { "cloud-config" };
        format!("--part\nContent-Type: text/{kind}; charset=\"utf-8\"\n\n{part}\n")
    };
    let parts: String = parts.iter().map(part).collect();
    format!(
        "MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=\"part\"\n\n{parts}--part--\n"
    )
}

/// Creates a group of one instance whose tags make it a worker of the cluster.
pub fn launch(fleet: &BootedFleet, name: &str, user_data: String) -> anyhow::Result<()> {
    launch_tagged(fleet, name, user_data, &[("skep:cluster", CLUSTER), ("skep:role", "worker")])
}

/// [`launch`] with these tags.
pub fn launch_tagged(
    fleet: &BootedFleet,
    name: &str,
    user_data: String,
    tags: &[(&str, &str)],
) -> anyhow::Result<()> {
    let group = GroupSpec {
        name: name.to_owned(),
        tags: tags_of(tags),
        image_id: IMAGE.to_owned(),
        user_data: Some(user_data),
        ..GroupSpec::default()
    };
    create_group_in(fleet.cloud(), group, &[LAUNCH_HOOK, TERMINATION_HOOK])
}

/// The first instance of a group, once it is switched on.
pub async fn first_of(fleet: &BootedFleet, group: &str) -> anyhow::Result<Arc<BootedInstance>> {
    fleet
        .wait_for(&format!("an instance of {group}"), PATIENCE, async || {
            let mut all = fleet.all_instances().into_iter();
            Ok(all.find(|instance| instance.launch().group == group && instance.is_on()))
        })
        .await
}

/// Waits until an instance has reported that it is Ready: SUCCESS and CONTINUE, nothing else.
pub async fn succeeded(fleet: &BootedFleet, instance: &BootedInstance) -> anyhow::Result<()> {
    said(fleet, instance, "SUCCESS", ActionResult::Continue).await
}

/// Waits until an instance has reported that it has failed: FAILURE and ABANDON, nothing else.
pub async fn failed(fleet: &BootedFleet, instance: &BootedInstance) -> anyhow::Result<()> {
    said(fleet, instance, "FAILURE", ActionResult::Abandon).await
}

async fn said(
    fleet: &BootedFleet,
    instance: &BootedInstance,
    signal: &str,
    result: ActionResult,
) -> anyhow::Result<()> {
    let what = format!("{signal} and {result:?} of {}", instance.launch().group);
    fleet
        .wait_until(&what, PATIENCE, async || {
            let (signals, hooks) = said_to(fleet.cloud(), instance.id());
            ensure!(signals == [signal], "signals {signals:?}");
            ensure!(hooks == [result], "hooks {hooks:?}");
            Ok(true)
        })
        .await
}

/// Waits until one line of skep's on the console contains all these texts.
pub async fn tells(
    fleet: &BootedFleet,
    instance: &BootedInstance,
    words: &[&str],
) -> anyhow::Result<()> {
    let what = format!("{words:?} on the console of {}", instance.launch().group);
    fleet
        .wait_until(&what, PATIENCE, async || {
            let console = instance.console();
            let mut lines = console.lines().filter(|line| line.contains("skep["));
            Ok(lines.any(|line| words.iter().all(|word| line.contains(word))))
        })
        .await
}
