//! The ledger names managers that do not exist any more, or addresses where another program listens.

use std::sync::Arc;

use anyhow::{Context, ensure};
use harness::PATIENCE;
use harness::swarm::{self, CLUSTER};
use nix::sys::signal::Signal;
use serde_json::json;
use skep_sim::fleet::{Fleet, FleetOptions, Instance, Restart};

/// An address of the subnet that no instance has.
const NOBODY: &str = "10.78.0.200";

/// Docker would spend 10 to 20 s on each of them: skep detects them before it calls Docker.
#[tokio::test]
async fn that_are_dead_are_passed_over() -> anyhow::Result<()> {
    let fleet = founded(1).await?;
    let live = fleet.group("test-managers").pop().context("no manager")?;
    let refuses = fleet.group("test-workers").pop().context("no worker")?;
    let cut_off = {
        swarm::resize(&fleet, "worker", 2)?;
        swarm::newest(&fleet, "worker", 2).await?
    };
    swarm::ready(&fleet, &cut_off).await?;
    cut_off.isolate(true)?;
    for address in [NOBODY.to_owned(), refuses.address().to_string(), cut_off.address().to_string()]
    {
        name_as_manager(&fleet, &address).await?;
    }
    let joiner = join(&fleet, 3).await?;
    swarm::ready(&fleet, &joiner).await?;
    let log = joiner.log();
    let through: Vec<&str> =
        log.lines().filter(|line| line.contains("joining generation")).collect();
    ensure!(through.len() == 1, "one attempt: {through:?}");
    ensure!(through[0].contains(&format!("through {}", live.address())), "{through:?}");
    cut_off.isolate(false)?;
    swarm::whole(&fleet, 1, 3).await?;
    fleet.stop().await
}

/// A group that has lost one manager after the other without a notice leaves many rows.
#[tokio::test]
async fn that_are_many_and_dead_do_not_hide_the_live_one() -> anyhow::Result<()> {
    let fleet = founded(1).await?;
    for host in 201..=209 {
        name_as_manager(&fleet, &format!("10.78.0.{host}")).await?;
    }
    let joiner = join(&fleet, 2).await?;
    swarm::ready(&fleet, &joiner).await?;
    swarm::whole(&fleet, 1, 2).await?;
    fleet.stop().await
}

/// It accepts the connection and does not answer: Docker stops waiting after 20 s and retries in the background, so
/// skep must end that attempt before the next.
#[tokio::test]
async fn that_is_silent_is_left_for_another() -> anyhow::Result<()> {
    let fleet = founded(1).await?;
    let live = fleet.group("test-managers").pop().context("no manager")?;
    let silent = false_manager(&fleet, "sleep 3600").await?;
    let joiner = join(&fleet, 2).await?;
    swarm::logged(&fleet, &joiner, &format!("through {}", silent.address())).await?;
    swarm::logged(&fleet, &joiner, &format!("{} did not answer", silent.address())).await?;
    inside(&fleet, &joiner, &live).await
}

/// It accepts the connection and closes it.
#[tokio::test]
async fn that_is_no_manager_is_left_for_another() -> anyhow::Result<()> {
    let fleet = founded(1).await?;
    let live = fleet.group("test-managers").pop().context("no manager")?;
    let rude = false_manager(&fleet, "true").await?;
    let joiner = join(&fleet, 2).await?;
    swarm::logged(&fleet, &joiner, &format!("through {}", rude.address())).await?;
    inside(&fleet, &joiner, &live).await
}

/// The only live manager hangs for a while: a joining node that has stopped waiting for it tries it again, however many
/// dead rows there are beside it.
#[tokio::test]
async fn that_have_failed_are_tried_again_when_no_other_answers() -> anyhow::Result<()> {
    let fleet = founded(1).await?;
    let live = fleet.group("test-managers").pop().context("no manager")?;
    name_as_manager(&fleet, NOBODY).await?;
    // The kernel still accepts connections for it.
    swarm::sh(&live, "kill -STOP $(pidof dockerd)").await?;
    let joiner = join(&fleet, 2).await?;
    swarm::logged(&fleet, &joiner, &format!("{} did not answer", live.address())).await?;
    swarm::sh(&live, "kill -CONT $(pidof dockerd)").await?;
    swarm::ready(&fleet, &joiner).await?;
    swarm::whole(&fleet, 1, 2).await?;
    fleet.stop().await
}

/// EC2 assigns addresses again: now the manager of another swarm answers there.
#[tokio::test]
async fn that_belong_to_another_swarm_are_left_for_another() -> anyhow::Result<()> {
    let fleet = founded(1).await?;
    let live = fleet.group("test-managers").pop().context("no manager")?;
    let foreign = swarm::another_swarm(&fleet).await?;
    name_as_manager(&fleet, &foreign.address().to_string()).await?;
    let joiner = join(&fleet, 2).await?;
    swarm::logged(&fleet, &joiner, &format!("through {}", foreign.address())).await?;
    inside(&fleet, &joiner, &live).await?;
    assert_eq!(foreign.docker()?.list_nodes(None).await?.len(), 1, "it did not join there");
    fleet.stop().await
}

/// skep dies while Docker is joining: Docker continues by itself and is first pending, then in error; the next skep
/// finds it in this state.
#[tokio::test]
async fn whose_join_is_pending_in_the_background() -> anyhow::Result<()> {
    let fleet = founded(1).await?;
    let live = fleet.group("test-managers").pop().context("no manager")?;
    let silent = false_manager(&fleet, "sleep 3600").await?;
    let joiner = join(&fleet, 2).await?;
    swarm::logged(&fleet, &joiner, &format!("through {}", silent.address())).await?;
    tokio::time::sleep(harness::secs(2)).await;
    ensure!(joiner.kill_skep(Signal::SIGKILL));
    fleet.wait_until("its end", PATIENCE, async || Ok(!joiner.exit_codes().is_empty())).await?;
    // The ledger is correct again: only Docker's own attempt uses the wrong address.
    forget(&fleet, &silent).await?;
    joiner.start_skep()?;
    swarm::logged(&fleet, &joiner, "waiting for the join to go on in the background").await?;
    inside(&fleet, &joiner, &live).await
}

async fn founded(workers: u32) -> anyhow::Result<Fleet> {
    let options = FleetOptions { restart: Restart::Never, ..harness::options() };
    let fleet = harness::fleet(options).await?;
    fleet.create_cluster(&swarm::cluster(1, workers))?;
    swarm::all_ready(&fleet, 1 + workers as usize).await?;
    swarm::whole(&fleet, 1, workers as usize).await?;
    Ok(fleet)
}

/// Runs a program on the worker's port 2377, and writes a row that makes joining nodes try it first.
async fn false_manager(fleet: &Fleet, program: &str) -> anyhow::Result<Arc<Instance>> {
    let worker = fleet.group("test-workers").pop().context("no worker")?;
    swarm::sh_in_background(&worker, &format!("exec busybox nc -ll -p 2377 -e {program}"));
    name_as_manager(fleet, &worker.address().to_string()).await?;
    Ok(worker)
}

/// An id that no instance has.
fn false_id(address: &str) -> String {
    format!("i-false{}", address.replace('.', "a"))
}

/// Writes a manager's row that is fresher than any other, in another zone than the live manager's.
async fn name_as_manager(fleet: &Fleet, address: &str) -> anyhow::Result<()> {
    let rows = swarm::rows(fleet, CLUSTER, "member#manager#").await?;
    let live = fleet.group("test-managers").pop().context("no manager")?;
    let mut row = rows
        .into_iter()
        .find(|row| row.get("instance_id").is_some_and(|id| id == live.id()))
        .context("no manager's row")?;
    let later = row["updated_at"].as_i64().context("no time")? + 3600;
    let id = false_id(address);
    row.insert("item".to_owned(), json!(format!("member#manager#{id}")));
    row.insert("instance_id".to_owned(), json!(id));
    row.insert("address".to_owned(), json!(address));
    row.insert("zone".to_owned(), json!("eu-central-1c"));
    row.insert("updated_at".to_owned(), json!(later));
    swarm::put_row(fleet, &row).await
}

/// Launches one more worker outside the live manager's zone: it tries the false managers first.
async fn join(fleet: &Fleet, count: u32) -> anyhow::Result<Arc<Instance>> {
    let live = fleet.group("test-managers").pop().context("no manager")?;
    swarm::resize(fleet, "worker", count)?;
    let joiner = swarm::newest(fleet, "worker", count as usize).await?;
    ensure!(joiner.launch().zone != live.launch().zone, "it would try the live one first");
    Ok(joiner)
}

/// Removes a false row.
async fn forget(fleet: &Fleet, instance: &Instance) -> anyhow::Result<()> {
    let item = format!("member#manager#{}", false_id(&instance.address().to_string()));
    let key = json!({ "cluster": { "S": CLUSTER }, "item": { "S": item } });
    let input = json!({ "TableName": swarm::TABLE, "Key": key });
    swarm::call(fleet, "DynamoDB_20120810.DeleteItem", &input).await.map(drop)
}

async fn inside(fleet: &Fleet, joiner: &Instance, live: &Instance) -> anyhow::Result<()> {
    swarm::logged(fleet, joiner, &format!("through {}", live.address())).await?;
    swarm::ready(fleet, joiner).await?;
    swarm::whole(fleet, 1, 2).await?;
    swarm::announced(fleet).await
}
