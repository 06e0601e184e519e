//! SSM lets one call through every two seconds.

use anyhow::ensure;
use harness::options;
use harness::trouble::all_ready;
use skep_sim::cloud::{Fault, Service};
use skep_sim::fleet::ClusterSpec;

#[tokio::test]
async fn a_fleet_comes_up_through_a_throttled_token_store() -> anyhow::Result<()> {
    let fleet = harness::fleet(options()).await?;
    let cloud = fleet.cloud();
    let slow = Fault { per_second: Some(0.5), ..Fault::default() };
    cloud.faults().set(Service::Ssm, None, slow);
    fleet.create_cluster(&ClusterSpec::new("test", 1, 3))?;
    all_ready(&fleet, 4).await?;
    let throttled = |it: &skep_sim::cloud::Request| {
        it.service == Service::Ssm && it.code.as_deref().is_some_and(|it| it.contains("Throttl"))
    };
    ensure!(cloud.requests().iter().any(throttled), "nothing was throttled");
    for instance in fleet.instances() {
        ensure!(instance.exits().is_empty(), "{}", instance.log());
    }
    fleet.stop().await
}
