//! Three managers and two workers boot at once and form one swarm.

use anyhow::{Context, anyhow, ensure};
use harness::PATIENCE;
use harness::policies;
use skep_sim::booted::{BootedFleet, BootedInstance};
use skep_sim::cloud::LifecycleState;

use crate::cluster::{CLUSTER, fleet, possible, spec};
use crate::neighbours;

#[tokio::test(flavor = "multi_thread")]
async fn from_a_cloud_config() -> anyhow::Result<()> {
    match formed_with("cloud-config.yaml").await? {
        Some(fleet) => fleet.stop().await,
        None => Ok(()),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn from_a_script() -> anyhow::Result<()> {
    let Some(fleet) = formed_with("skep.sh").await? else { return Ok(()) };
    neighbours::reach_nothing(&fleet).await?;
    fleet.stop().await
}

/// `None` where instances cannot boot.
async fn formed_with(user_data: &str) -> anyhow::Result<Option<BootedFleet>> {
    if !possible()? {
        return Ok(None);
    }
    let fleet = fleet().await?;
    policies::enforce(fleet.cloud(), &[CLUSTER], &["ssm"])?;
    spec(3, 2, user_data)?.create(fleet.cloud())?;
    fleet.wait_formed(3, 2, PATIENCE).await?;
    told(&fleet).await?;
    for instance in fleet.instances() {
        let shipped = is_as_shipped(&instance).await;
        shipped.map_err(|error| anyhow!("{}: {error:#}\n{}", instance.id(), fleet.report()))?;
    }
    Ok(Some(fleet))
}

/// Waits until CloudFormation has the signals and the launch hooks are completed.
async fn told(fleet: &BootedFleet) -> anyhow::Result<()> {
    fleet
        .wait_until("signals and hooks", PATIENCE, async || {
            let stack = fleet.cloud().stack(CLUSTER).context("there is no stack")?;
            ensure!(stack.status == "CREATE_COMPLETE", "{stack:?}");
            let signals: usize = stack.resources.iter().map(|it| it.succeeded.len()).sum();
            ensure!(signals == 5, "{signals} signals");
            let instances = fleet.cloud().instances();
            let serves = |state| state == LifecycleState::InService;
            ensure!(instances.iter().all(|it| serves(it.lifecycle)), "{instances:?}");
            Ok(true)
        })
        .await
}

/// cloud-init has detected EC2 by itself and succeeded, and skep runs as the package defines it.
async fn is_as_shipped(instance: &BootedInstance) -> anyhow::Result<()> {
    let cloud_init = instance.say("cloud-init status --wait --long").await?;
    ensure!(cloud_init.contains("status: done"), "{cloud_init}");
    let datasource = instance.say("cloud-id").await?;
    ensure!(datasource == "aws", "cloud-init has detected {datasource:?}");
    let unit = instance.say("systemctl show skep --property=User,FragmentPath,ActiveState").await?;
    for expected in
        ["User=skep", "FragmentPath=/usr/lib/systemd/system/skep.service", "ActiveState=active"]
    {
        ensure!(
            unit.lines().any(|line| line.replace("=/lib/", "=/usr/lib/") == expected),
            "{unit}"
        );
    }
    let user = instance.say("ps -o user= -C skep").await?;
    ensure!(user.lines().all(|user| user == "skep") && !user.is_empty(), "skep runs as {user:?}");
    let failed = instance.say("systemctl list-units --failed --no-legend --plain").await?;
    ensure!(failed.is_empty(), "failed units:\n{failed}");
    Ok(())
}
