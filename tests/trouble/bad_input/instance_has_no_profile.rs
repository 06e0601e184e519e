//! An instance without a role has no credentials, neither for its work nor for its signals.

use harness::options;
use harness::trouble::{CLUSTER, Failure, fleet_of_firsts, rows};
use skep_sim::cloud::GroupSpec;

#[tokio::test]
async fn an_instance_without_credentials_is_to_be_given_a_profile() -> anyhow::Result<()> {
    let fleet = fleet_of_firsts(options(), |_, _| Ok(())).await?;
    fleet.cloud().create_table("skep")?;
    let tags = [("skep:cluster", CLUSTER), ("skep:role", "manager")];
    fleet.cloud().create_group(GroupSpec {
        name: "nobody".to_owned(),
        max: 1,
        desired: 1,
        tags: tags.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
        role_name: None,
        ..GroupSpec::default()
    })?;

    let failure = Failure::of(&fleet, "nobody").await?;
    failure.says(1, &["dynamodb:GetItem", "credentials", "instance profile"])?;
    failure.is_unknown()?;
    failure.has_left_nothing().await?;
    assert!(rows(&fleet, "skep")?.is_empty());
    fleet.stop().await
}
