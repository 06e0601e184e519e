//! A node that was Ready once, and whose skep restarts on a host without Docker.

use anyhow::ensure;
use harness::PATIENCE;
use harness::options;
use harness::trouble::{all_ready, first_of, launch_results, row, signals};
use skep_sim::cloud::ActionResult;
use skep_sim::fleet::{ClusterSpec, FleetOptions, Restart};

#[tokio::test]
async fn who_was_ready_once_is_never_a_failed_launch() -> anyhow::Result<()> {
    let fleet = harness::fleet(FleetOptions { restart: Restart::Never, ..options() }).await?;
    fleet.create_cluster(&ClusterSpec::new("test", 1, 0))?;
    all_ready(&fleet, 1).await?;
    let node = first_of(&fleet, "test-managers").await?;
    let marks = node.dir().join("state").join(node.id());
    fleet
        .wait_until("two marks", PATIENCE, async || {
            Ok(std::fs::read_dir(&marks).map_or(0, Iterator::count) == 2)
        })
        .await?;
    let charter = row(&fleet, "charter")?;
    let swarm = node.docker()?.inspect_swarm().await?.id;

    node.stop_skep().await?;
    node.stop_dockerd().await?;
    node.write_config("boot.deadline = \"3s\"")?;
    node.start_skep()?;
    let failed = || node.statuses().last().is_some_and(|status| status.starts_with("failed"));
    fleet.wait_until("it to fail", PATIENCE, async || Ok(failed())).await?;

    // It checks whether it must be replaced, and ends for a new start once Docker is back.
    node.start_dockerd()?;
    node.wait_docker().await?;
    fleet.wait_until("its end", PATIENCE, async || Ok(node.exits().len() == 2)).await?;
    assert_eq!(node.exit_codes(), [0, 1]);
    let told = (signals(&fleet, &node), launch_results(&fleet, &node));
    assert_eq!(told, (vec!["SUCCESS".to_owned()], vec![ActionResult::Continue]));
    assert_eq!(row(&fleet, "charter")?, charter, "the charter is not released");

    node.write_config("")?;
    node.start_skep()?;
    all_ready(&fleet, 1).await?;
    assert_eq!(node.docker()?.inspect_swarm().await?.id, swarm, "it is the same swarm");
    ensure!(row(&fleet, "charter")? == charter);
    fleet.stop().await
}
