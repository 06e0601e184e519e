//! CloudFormation and Auto Scaling do not answer when the node becomes Ready.

use anyhow::ensure;
use harness::PATIENCE;
use harness::trouble::{all_ready, first_of, launch_results, signals};
use harness::{options, secs};
use skep_sim::cloud::{ActionResult, Fault, Service};
use skep_sim::fleet::ClusterSpec;

#[tokio::test]
async fn success_arrives_later_and_is_remembered_over_a_restart() -> anyhow::Result<()> {
    let fleet = harness::fleet(options()).await?;
    let cloud = fleet.cloud();
    let away = Fault { error: 1.0, ..Fault::default() };
    cloud.faults().set(Service::CloudFormation, None, away.clone());
    cloud.faults().set(Service::AutoScaling, None, away);
    fleet.create_cluster(&ClusterSpec::new("test", 1, 0))?;
    all_ready(&fleet, 1).await?;
    let node = first_of(&fleet, "test-managers").await?;
    let tries = |service: Service, status: Option<u16>| {
        let requests = cloud.requests().into_iter().filter(|it| it.service == service);
        requests.filter(|it| status.is_none_or(|status| it.status == status)).count()
    };
    fleet
        .wait_until("vain attempts", PATIENCE, async || {
            // The SDK makes three requests of one call.
            Ok(tries(Service::CloudFormation, None) > 3 && tries(Service::AutoScaling, None) > 3)
        })
        .await?;
    ensure!(signals(&fleet, &node).is_empty() && launch_results(&fleet, &node).is_empty());
    let marks = node.dir().join("state").join(node.id());
    let remembered = || std::fs::read_dir(&marks).map_or(0, Iterator::count);
    assert_eq!(remembered(), 0, "what has not arrived is not remembered");

    cloud.faults().clear();
    fleet
        .wait_until("both signals", PATIENCE, async || {
            let told = (signals(&fleet, &node), launch_results(&fleet, &node));
            Ok(told == (vec!["SUCCESS".to_owned()], vec![ActionResult::Continue]))
        })
        .await?;
    fleet.wait_until("two marks", PATIENCE, async || Ok(remembered() == 2)).await?;
    let signalled = tries(Service::CloudFormation, Some(200));
    ensure!(signalled == 1, "signalled {signalled} times");
    ensure!(node.is_ready() && node.exits().is_empty());

    cloud.clear_requests();
    node.stop_skep().await?;
    node.start_skep()?;
    all_ready(&fleet, 1).await?;
    // Time in which it would repeat the reports.
    tokio::time::sleep(secs(5)).await;
    assert_eq!(tries(Service::CloudFormation, None), 0, "CloudFormation is notified once");
    assert_eq!(tries(Service::AutoScaling, None), 0, "Auto Scaling is notified once");
    fleet.stop().await
}
