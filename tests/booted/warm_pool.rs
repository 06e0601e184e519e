//! A warm pool keeps an instance stopped: it is no node until the group takes it into service.

use anyhow::ensure;
use harness::PATIENCE;
use harness::departures::ledger_of;
use harness::swarm::said_to;
use skep_sim::booted::{BootedFleet, BootedInstance, user_data};
use skep_sim::cloud::{ActionResult, LifecycleState, PoolState, WarmPoolSpec};
use skep_sim::fleet::ClusterSpec;

use crate::cluster::{fleet, possible, spec};
use crate::groups::{first_of, multipart, tells};
use crate::member::{Member, row};

/// Writes one line per run of UserData.
const COUNT: &str = "#!/bin/sh\necho ran >>/user-data\n";

#[tokio::test(flavor = "multi_thread")]
async fn stopped_until_it_is_wanted() -> anyhow::Result<()> {
    if !possible()? {
        return Ok(());
    }
    let fleet = fleet().await?;
    let spec = ClusterSpec {
        user_data: Some(multipart(&[COUNT, &user_data("cloud-config.yaml")?])),
        ..spec(1, 1, "cloud-config.yaml")?
    };
    spec.create(fleet.cloud())?;
    fleet.wait_formed(1, 1, PATIENCE).await?;
    let group = spec.workers_group();
    let first = first_of(&fleet, &group).await?;

    let pool = WarmPoolSpec {
        max_prepared: Some(2),
        state: PoolState::Stopped,
        ..WarmPoolSpec::default()
    };
    fleet.cloud().put_warm_pool(&group, pool)?;
    let instance = fleet
        .wait_for("an instance that was prepared", PATIENCE, async || {
            let other = fleet.group(&group).into_iter().find(|other| other.id() != first.id());
            Ok(other.filter(|other| is_in(&fleet, other, LifecycleState::WarmedStopped)))
        })
        .await?;
    fleet.wait_until("the stop", PATIENCE, async || Ok(!instance.is_on())).await?;
    tells(&fleet, &instance, &["waiting to enter service"]).await?;
    tells(&fleet, &instance, &["there was nothing to leave"]).await?;
    ensure!(instance.console().contains("Reached target poweroff.target"), "the power was cut");
    // It has entered the pool, and nothing else has happened.
    let (signals, hooks) = said_to(fleet.cloud(), instance.id());
    ensure!(signals.is_empty() && hooks == [ActionResult::Continue], "{signals:?}, {hooks:?}");
    let rows = ledger_of(fleet.cloud())?;
    ensure!(!format!("{rows:?}").contains(instance.id()), "it is in the ledger: {rows:?}");
    fleet.wait_formed(1, 1, PATIENCE).await?;

    fleet.cloud().set_desired(&group, 2)?;
    fleet.wait_formed(1, 2, PATIENCE).await?;
    fleet
        .wait_until("SUCCESS and the second CONTINUE", PATIENCE, async || {
            let (signals, hooks) = said_to(fleet.cloud(), instance.id());
            ensure!(signals == ["SUCCESS"], "signals {signals:?}");
            ensure!(hooks == [ActionResult::Continue; 2], "hooks {hooks:?}");
            Ok(is_in(&fleet, &instance, LifecycleState::InService))
        })
        .await?;
    let member = Member::of(&instance).await?;
    member.is_ready(&fleet).await?;
    let departure = row(&fleet, &format!("departure#{}", instance.id()))?;
    ensure!(departure.is_none(), "the stop was a departure: {departure:?}");
    let runs = instance.say("cat /user-data; journalctl --list-boots --quiet | wc -l").await?;
    ensure!(runs == "ran\n2", "UserData and boots: {runs}");
    fleet.stop().await
}

fn is_in(fleet: &BootedFleet, instance: &BootedInstance, state: LifecycleState) -> bool {
    fleet.cloud().instance(instance.id()).is_some_and(|seen| seen.lifecycle == state)
}
