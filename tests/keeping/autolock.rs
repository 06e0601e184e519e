//! Managers that lock themselves: the key is in the store. skep unlocks a manager whose Docker or machine restarts,
//! also with a key that was rotated meanwhile.

use anyhow::{Context, ensure};
use harness::PATIENCE;
use harness::departures::options_with;
use harness::swarm;
use skep_sim::fleet::{Fleet, Instance};

const KEYS: &str = "/skep/test/manager-unlock-key/1";
const UNLOCKED: &str = "unlocked this manager with the key in";

/// The stored keys, newest first.
async fn stored(fleet: &Fleet) -> anyhow::Result<Vec<String>> {
    let keys = swarm::parameter(fleet, KEYS).await?;
    Ok(keys.lines().map(str::to_owned).collect())
}

/// Waits until an instance's skep has unlocked its Docker this many times, and the swarm is whole.
async fn opened(fleet: &Fleet, instance: &Instance, times: usize) -> anyhow::Result<()> {
    let what = format!("{} to be unlocked", instance.id());
    fleet
        .wait_until(&what, PATIENCE, async || {
            Ok(instance.log().matches(UNLOCKED).count() == times && instance.is_ready())
        })
        .await?;
    let managers = fleet.group("test-managers").len();
    swarm::whole(fleet, managers, 0).await.map(drop)
}

async fn locking(managers: u32) -> anyhow::Result<Fleet> {
    swarm::standing(options_with("[swarm]\nautolock = true\n"), managers, 0).await
}

async fn rotate_key(instance: &Instance) -> anyhow::Result<()> {
    let output = instance.skep(["rotate-tokens", "--unlock-key"]).await?;
    ensure!(output.status.success(), "{output:?}");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(said.contains(KEYS) && !said.contains("SWMKEY"), "{said}");
    Ok(())
}

#[tokio::test]
async fn a_manager_that_restarts_is_opened_with_the_key_it_knew() -> anyhow::Result<()> {
    let fleet = locking(3).await?;
    let first = stored(&fleet).await?;
    ensure!(first.len() == 1 && first[0].starts_with("SWMKEY-1-"), "{} keys", first.len());
    let leader = fleet.leader().await?;
    let followers = fleet.group("test-managers");
    let follower = followers.into_iter().find(|it| it.id() != leader.id()).context("a follower")?;

    follower.restart_dockerd().await?;
    opened(&fleet, &follower, 1).await?;

    // It is down while the key is rotated: its data is encrypted with the old key.
    follower.stop_dockerd().await?;
    rotate_key(&leader).await?;
    let second = stored(&fleet).await?;
    assert_eq!(second[1..], first, "the old key is kept");
    follower.reboot().await?;
    opened(&fleet, &follower, 2).await?;
    ensure!(!follower.log().contains(&first[0]) && !follower.log().contains(&second[0]));

    // By now it has received the new key.
    follower.restart_dockerd().await?;
    opened(&fleet, &follower, 3).await?;
    fleet.stop().await
}

/// There is no other manager that could help.
#[tokio::test]
async fn the_only_manager_opens_itself_and_waits_for_its_key() -> anyhow::Result<()> {
    let fleet = locking(1).await?;
    let manager = fleet.leader().await?;
    let keys = swarm::parameter(&fleet, KEYS).await?;
    let wrong = "SWMKEY-1-AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    swarm::put_parameter(&fleet, KEYS, wrong).await?;
    manager.reboot().await?;
    swarm::logged(&fleet, &manager, "Docker has refused what is in").await?;
    ensure!(manager.log().contains(KEYS) && !manager.log().contains(wrong), "{}", manager.log());
    swarm::put_parameter(&fleet, KEYS, &keys).await?;
    opened(&fleet, &manager, 1).await?;
    fleet.stop().await
}
