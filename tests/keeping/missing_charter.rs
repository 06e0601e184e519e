//! An operator deletes the charter of a living swarm: its managers write it again, and no manager founds another swarm
//! meanwhile.

use anyhow::{Context, ensure};
use harness::departures::Leaver;
use harness::swarm::{self, CLUSTER, TABLE};
use harness::{PATIENCE, options};
use serde_json::json;
use skep_sim::fleet::Fleet;

async fn delete_charter(fleet: &Fleet) -> anyhow::Result<()> {
    let key = json!({ "cluster": { "S": CLUSTER }, "item": { "S": "charter" } });
    let input = json!({ "TableName": TABLE, "Key": key });
    swarm::call(fleet, "DynamoDB_20120810.DeleteItem", &input).await.map(drop)
}

/// Waits for the charter to exist again, and returns it.
async fn published_again(fleet: &Fleet) -> anyhow::Result<swarm::Charter> {
    fleet
        .wait_for("the charter to be there again", PATIENCE, async || {
            let charter = swarm::charter(fleet).await?;
            Ok(charter.filter(|charter| charter.phase == "open"))
        })
        .await
}

#[tokio::test]
async fn it_is_published_again_and_who_boots_meanwhile_joins_the_same_swarm() -> anyhow::Result<()>
{
    let fleet = swarm::standing(options(), 3, 1).await?;
    let before = swarm::charter(&fleet).await?.context("no charter")?;
    let managers = fleet.group(&format!("{CLUSTER}-managers"));

    let ((), seen) = swarm::swarms_during(&fleet, async {
        // Ready managers write it, while a fourth one boots.
        delete_charter(&fleet).await?;
        swarm::resize(&fleet, "manager", 4)?;
        let again = published_again(&fleet).await?;
        assert_eq!((again.generation, &again.swarm_id), (before.generation, &before.swarm_id));
        assert_eq!(again.ca_digest, before.ca_digest);
        assert_eq!(again.founder, before.founder, "as it was last seen");
        let fourth = swarm::newest(&fleet, "manager", 4).await?;
        swarm::ready(&fleet, &fourth).await?;
        swarm::whole(&fleet, 4, 1).await?;

        // A booting manager writes it, while no other skep runs.
        for manager in fleet.group(&format!("{CLUSTER}-managers")) {
            manager.stop_skep().await?;
        }
        delete_charter(&fleet).await?;
        managers[1].start_skep()?;
        let again = published_again(&fleet).await?;
        assert_eq!((again.generation, &again.swarm_id), (before.generation, &before.swarm_id));
        assert_eq!(again.ca_digest, before.ca_digest);
        for manager in fleet.group(&format!("{CLUSTER}-managers")) {
            if !manager.skep_running() {
                manager.start_skep()?;
            }
            swarm::ready(&fleet, &manager).await?;
        }
        swarm::whole(&fleet, 4, 1).await?;

        // It is deleted while its founder leaves.
        let founder = fleet.instance(&before.founder).context("the founder")?;
        let founder = Leaver::of(&founder).await?;
        delete_charter(&fleet).await?;
        fleet.cloud().terminate(founder.id(), true)?;
        let again = published_again(&fleet).await?;
        assert_eq!((again.generation, &again.swarm_id), (before.generation, &before.swarm_id));
        founder.has_left_by_its_hook(&fleet).await?;
        swarm::whole(&fleet, 3, 1).await.map(drop)
    })
    .await?;

    let swarms: Vec<&String> = seen.values().flatten().collect();
    ensure!(swarms.iter().all(|id| Some(*id) == before.swarm_id.as_ref()), "{seen:?}");
    ensure!(seen.len() == 4, "every manager was polled: {seen:?}");
    assert_eq!(swarm::charter(&fleet).await?.and_then(|it| it.swarm_id), before.swarm_id);
    for row in swarm::rows(&fleet, CLUSTER, "member#manager#").await? {
        assert_eq!(row["state"], "ready", "{row:?}");
    }
    for row in swarm::workers_rows(&fleet, "member#worker#")? {
        assert_eq!(row["state"], "ready", "{row:?}");
    }
    fleet.stop().await
}
