//! A worker that must wait for its swarm.

use anyhow::{Context, ensure};
use harness::PATIENCE;
use harness::trouble::{all_ready, first_of, launch_results, signals};
use harness::{options, secs};
use skep_sim::cloud::{ActionResult, LifecycleState};
use skep_sim::fleet::ClusterSpec;

#[tokio::test]
async fn success_is_said_after_ready_and_not_before() -> anyhow::Result<()> {
    let fleet = harness::fleet(options()).await?;
    let cloud = fleet.cloud();
    fleet.create_cluster(&ClusterSpec::new("test", 0, 1))?;
    let worker = first_of(&fleet, "test-workers").await?;
    let waits = "waiting for a manager to found the swarm";
    fleet
        .wait_until("the worker to wait", PATIENCE, async || Ok(worker.log().contains(waits)))
        .await?;
    tokio::time::sleep(secs(3)).await;
    ensure!(signals(&fleet, &worker).is_empty() && launch_results(&fleet, &worker).is_empty());
    let lifecycle = cloud.instance(worker.id()).map(|instance| instance.lifecycle);
    assert_eq!(lifecycle, Some(LifecycleState::PendingWait));

    cloud.set_desired("test-managers", 1)?;
    all_ready(&fleet, 2).await?;
    // The stack expects no signals of managers, so it does not wait for them.
    for node in [&worker] {
        fleet
            .wait_until("both signals", PATIENCE, async || {
                let told = (signals(&fleet, node), launch_results(&fleet, node));
                Ok(told == (vec!["SUCCESS".to_owned()], vec![ActionResult::Continue]))
            })
            .await?;
        let log = node.log();
        let line = |words: &str| {
            let at = log.lines().position(|line| line.contains(words));
            at.with_context(|| format!("no line has {words}:\n{log}"))
        };
        let ready = line("phase=\"ready\"")?;
        ensure!(line("signalled Success")? > ready && line("launch hook: Continue")? > ready);
    }
    fleet.stop().await
}
