//! The leader's instance is terminated and replaced: another manager leads, and the quorum is never lost.

use harness::PATIENCE;
use harness::departures::{Leaver, options_with, running, standing};
use harness::quorum::keeping_quorum;
use harness::secs;
use skep_sim::fleet::{ClusterSpec, workload};

#[tokio::test]
async fn another_manager_leads_and_a_new_one_takes_its_place() -> anyhow::Result<()> {
    let spec = ClusterSpec::new("demo", 3, 1);
    let fleet = standing(options_with(""), &spec).await?;
    fleet.create_service("web", 8, workload::slow_to_stop(1.0), secs(30)).await?;
    running(&fleet, "web", 8).await?;
    let leader = Leaver::of(&fleet.leader().await?).await?;
    let managers = fleet.group(&spec.managers_group());
    let survivor = managers.iter().find(|one| one.id() != leader.id()).expect("two of three");

    keeping_quorum(survivor, async {
        fleet.cloud().terminate(leader.id(), false)?;
        leader.has_left_by_its_hook(&fleet).await?;
        fleet
            .wait_until("three managers again", PATIENCE, async || {
                let nodes = fleet.nodes().await?;
                let managers = nodes.iter().filter(|node| node.manager_status.is_some()).count();
                Ok(managers == 3 && nodes.len() == 4)
            })
            .await?;
        running(&fleet, "web", 8).await
    })
    .await?;
    assert_ne!(fleet.leader().await?.id(), leader.id());
    // The swarm still accepts new services.
    fleet.create_service("more", 2, workload::graceful(), secs(10)).await?;
    running(&fleet, "more", 2).await?;
    fleet.stop().await
}
