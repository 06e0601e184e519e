//! `swarm.advertise_address` is an address that no interface has.

use harness::options;
use harness::trouble::{Failure, fleet_of_firsts, rows};
use skep_sim::fleet::{ClusterSpec, FleetOptions};

#[tokio::test]
async fn an_address_that_is_not_on_the_host_is_refused() -> anyhow::Result<()> {
    let config = "swarm.advertise_address = \"10.99.0.1\"".to_owned();
    let fleet =
        fleet_of_firsts(FleetOptions { config: Some(config), ..options() }, |_, _| Ok(())).await?;
    fleet.create_cluster(&ClusterSpec::new("test", 1, 0))?;

    let failure = Failure::of(&fleet, "test-managers").await?;
    failure.says_only(1, &["10.99.0.1", "no interface of this host", "swarm.advertise_address"])?;
    failure.is_known()?;
    failure.has_left_nothing().await?;
    assert!(rows(&fleet, "skep")?.is_empty());
    fleet.stop().await
}
