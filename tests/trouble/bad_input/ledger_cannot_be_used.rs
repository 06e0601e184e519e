//! Tables that do not exist, are not skep's, are not allowed, or are too new.

use harness::trouble::{CLUSTER, Failure, create_group, fleet_of_firsts, put_row, rows};
use harness::{options, secs};
use serde_json::json;
use skep_sim::cloud::{Deny, Service, Who};

const GROUPS: [&str; 4] = ["absent", "misshapen", "denied", "newer"];

#[tokio::test]
async fn a_table_that_cannot_be_used_is_named_with_the_remedy() -> anyhow::Result<()> {
    let fleet = fleet_of_firsts(options(), |_, instance| {
        instance.write_config(&format!("table = \"{}\"", instance.launch().group))
    })
    .await?;
    let cloud = fleet.cloud();
    cloud.create_table("skep")?;
    cloud.create_table_with_keys("misshapen", "id", None)?;
    cloud.create_table("denied")?;
    cloud.deny(Deny::new(Who::Role("skep-denied".to_owned()), Service::DynamoDb, "*"));
    cloud.create_table("newer")?;
    let charter = json!({
        "cluster": { "S": CLUSTER },
        "item": { "S": "charter" },
        "schema": { "N": "99" },
        "phase": { "S": "abolished" },
    });
    put_row(&fleet, "newer", &charter)?;
    for group in GROUPS {
        create_group(&fleet, group, &[("skep:cluster", CLUSTER), ("skep:role", "manager")])?;
    }

    let words: [(&str, &[&str]); 4] = [
        ("absent", &["dynamodb:", "table absent", "not found", "create"]),
        ("misshapen", &["table misshapen", "other keys", "`cluster` (S)", "`item` (S)"]),
        ("denied", &["dynamodb:GetItem", "table denied", "access denied", "grant"]),
        ("newer", &["newer skep", "schema 99", "upgrade skep on this node"]),
    ];
    for (group, words) in words {
        let failure = Failure::of(&fleet, group).await?;
        failure.says_only(1, words)?;
        failure.is_known()?;
        failure.has_left_nothing().await?;
    }
    // Replacements would fail in the same way.
    tokio::time::sleep(secs(1)).await;
    assert_eq!(rows(&fleet, "newer")?, [charter], "what a newer skep wrote is not touched");
    assert!(rows(&fleet, "misshapen")?.is_empty());
    assert!(rows(&fleet, "denied")?.is_empty());
    fleet.stop().await
}
