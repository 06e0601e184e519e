//! The metadata service fails for a while, in different ways, while the node is Ready.

use anyhow::ensure;
use harness::PATIENCE;
use harness::trouble::{all_ready, fleet_prepared};
use harness::{options, secs};
use skep_sim::fleet::ClusterSpec;

const SILENT: &str = "cannot poll the instance metadata for notices";

#[tokio::test]
async fn the_node_stays_and_a_later_notice_is_seen() -> anyhow::Result<()> {
    let fleet = fleet_prepared(options(), |_, _| Ok(())).await?;
    fleet.create_cluster(&ClusterSpec::new("test", 1, 3))?;
    all_ready(&fleet, 4).await?;
    let cloud = fleet.cloud();
    let workers = fleet.group("test-workers");
    cloud.imds_knobs(workers[0].id()).drop_connections(true);
    cloud.imds_knobs(workers[1].id()).switch_off(true);
    cloud.imds_knobs(workers[2].id()).latency(secs(30));

    let all_silent = async || Ok(workers.iter().all(|worker| worker.log().contains(SILENT)));
    fleet.wait_until("the silence to be detected", PATIENCE, all_silent).await?;
    // Several more failed polls.
    tokio::time::sleep(secs(8)).await;
    for worker in &workers {
        ensure!(worker.is_ready() && worker.exits().is_empty(), "{}", worker.log());
        let told = worker.log().matches(SILENT).count();
        ensure!(told == 1, "one absence is one line, not {told}:\n{}", worker.log());
    }
    let ready = fleet.nodes().await?.into_iter().filter_map(|node| node.status);
    let ready = ready.filter(|it| it.state.is_some_and(|state| state.to_string() == "ready"));
    assert_eq!(ready.count(), 4, "nobody left");

    for worker in &workers {
        cloud.imds_knobs(worker.id()).reset();
        cloud.terminate(worker.id(), true)?;
    }
    for worker in &workers {
        fleet.wait_until("the worker to go", PATIENCE, async || Ok(worker.is_gone())).await?;
        ensure!(worker.log().contains("metadata service answers again"), "{}", worker.log());
        ensure!(worker.log().contains("the departure has ended: left"), "{}", worker.log());
    }
    fleet
        .wait_until("a list of one", PATIENCE, async || Ok(fleet.nodes().await?.len() == 1))
        .await?;
    fleet.stop().await
}
