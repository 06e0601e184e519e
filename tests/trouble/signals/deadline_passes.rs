//! A worker whose swarm is never founded.

use harness::options;
use harness::trouble::{Failure, fleet_of_firsts};
use skep_sim::fleet::{ClusterSpec, FleetOptions};

#[tokio::test]
async fn a_boot_that_is_late_is_a_failure_and_abandons_the_launch() -> anyhow::Result<()> {
    let config = Some("boot.deadline = \"6s\"".to_owned());
    let fleet = fleet_of_firsts(FleetOptions { config, ..options() }, |_, _| Ok(())).await?;
    fleet.create_cluster(&ClusterSpec::new("test", 0, 1))?;

    let failure = Failure::of(&fleet, "test-workers").await?;
    failure.says_only(1, &["boot.deadline (6s)", "waiting for a manager to found the swarm"])?;
    failure.is_known()?;
    failure.has_left_nothing().await?;
    let twice = "waiting for waiting for";
    assert!(!failure.instance.log().contains(twice), "{}", failure.instance.log());
    let stack = fleet.cloud().stack("test").map(|stack| stack.status);
    assert_eq!(stack.as_deref(), Some("CREATE_FAILED"));
    fleet.stop().await
}
