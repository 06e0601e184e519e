//! Without its metadata an instance knows neither its identity nor the services to notify.

use harness::options;
use harness::trouble::{Failure, fleet_of_firsts};
use skep_sim::fleet::{ClusterSpec, FleetOptions};

#[tokio::test]
async fn metadata_that_is_switched_off_is_to_be_switched_on() -> anyhow::Result<()> {
    let fleet = fleet_of_firsts(options(), |cloud, instance| {
        cloud.imds_knobs(instance.id()).switch_off(true);
        Ok(())
    })
    .await?;
    fleet.create_cluster(&ClusterSpec::new("test", 1, 0))?;

    let failure = Failure::of(&fleet, "test-managers").await?;
    failure.says_only(1, &["metadata is switched off", "403", "--http-endpoint enabled"])?;
    failure.is_unknown()?;
    failure.has_left_nothing().await?;
    fleet.stop().await
}

#[tokio::test]
async fn metadata_that_does_not_answer_is_given_up_at_the_deadline() -> anyhow::Result<()> {
    let options = FleetOptions { config: Some("boot.deadline = \"8s\"".to_owned()), ..options() };
    let fleet = fleet_of_firsts(options, |_, instance| instance.link(false)).await?;
    fleet.create_cluster(&ClusterSpec::new("test", 1, 0))?;

    let failure = Failure::of(&fleet, "test-managers").await?;
    failure.says_only(1, &["no answer from http://169.254.169.254", "HttpEndpoint", "routed"])?;
    failure.is_unknown()?;
    failure.has_left_nothing().await?;
    fleet.stop().await
}
