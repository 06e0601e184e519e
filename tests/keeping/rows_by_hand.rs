//! Rows that differ from those that their nodes wrote: forged or deleted.

use anyhow::{Context, ensure};
use harness::departures::node_id;
use harness::swarm::{self, CLUSTER};
use harness::{PATIENCE, seen};
use serde_json::{Map, Value, json};
use skep_sim::fleet::Instance;

use super::manager_rejoins::two_followers;

/// A departure as a node requests it, except for its state.
async fn has_left(
    partition: &str,
    instance: &Instance,
    role: &str,
) -> anyhow::Result<Map<String, Value>> {
    let now = time::OffsetDateTime::now_utc().unix_timestamp();
    let row = json!({
        "cluster": partition, "item": format!("departure#{}", instance.id()),
        "schema": 2, "instance_id": instance.id(), "node_id": node_id(instance).await?,
        "role": role, "reason": "lifecycle", "state": "left", "boot_id": "forged",
        "requested_at": now, "deadline": now + 600, "expires_at": now + 3600,
    });
    row.as_object().cloned().context("no object")
}

#[tokio::test]
async fn who_is_said_to_have_left_stays_and_a_deleted_row_is_written_again() -> anyhow::Result<()> {
    let fleet = swarm::standing(harness::options(), 3, 1).await?;
    let worker = fleet.group(&format!("{CLUSTER}-workers")).pop().context("no worker")?;
    let (follower, other) = two_followers(&fleet).await?;
    let before = (node_id(&follower).await?, node_id(&worker).await?);
    let own = fleet.cloud().workers_partition(CLUSTER, worker.id());
    swarm::put_row(&fleet, &has_left(CLUSTER, &follower, "manager").await?).await?;
    swarm::put_row(&fleet, &has_left(&own, &worker, "worker").await?).await?;
    let key = format!("member#worker#{}", worker.id());
    let row = json!({
        "cluster": { "S": own }, "item": { "S": key },
    });
    fleet.cloud().delete_row("skep", &row)?;

    fleet
        .wait_until("the worker's row to be written again", PATIENCE, async || {
            Ok(!swarm::rows(&fleet, &own, &key).await?.is_empty())
        })
        .await?;
    // The worker needs half a minute to write it again: meanwhile managers have polled thirty times.
    swarm::whole(&fleet, 3, 1).await?;
    assert_eq!((node_id(&follower).await?, node_id(&worker).await?), before);
    ensure!(worker.log().contains("writing it again"), "{}", worker.log());

    let demoted = node_id(&other).await?;
    swarm::demote(&fleet.leader().await?.docker()?, &demoted).await?;
    fleet
        .wait_until("the demoted manager to report it", PATIENCE, async || {
            let status = seen::status_text(&other).await?;
            Ok(status.contains("this manager was demoted") && status.contains(&demoted))
        })
        .await?;
    fleet.stop().await
}
