//! A manager that does not lead the swarm is scaled in: it is demoted first, then it leaves.

use harness::departures::{Leaver, options_with, running, standing};
use harness::quorum::keeping_quorum;
use harness::secs;
use skep_sim::fleet::{ClusterSpec, workload};

#[tokio::test]
async fn it_is_demoted_first_and_raft_keeps_no_trace_of_it() -> anyhow::Result<()> {
    let spec = ClusterSpec::new("demo", 3, 0);
    let fleet = standing(options_with(""), &spec).await?;
    fleet.create_service("web", 6, workload::slow_to_stop(1.0), secs(30)).await?;
    running(&fleet, "web", 6).await?;
    let leader = fleet.leader().await?;
    let followers = fleet.group(&spec.managers_group());
    let follower = followers.iter().find(|one| one.id() != leader.id()).expect("two of three");
    let follower = Leaver::of(follower).await?;
    assert!(!follower.tasks("start").is_empty(), "the follower has tasks");

    keeping_quorum(&leader, async {
        fleet.cloud().terminate(follower.id(), true)?;
        follower.has_left_by_its_hook(&fleet).await?;
        running(&fleet, "web", 6).await
    })
    .await?;
    assert_eq!(fleet.leader().await?.id(), leader.id(), "the leader leads on");
    let nodes = fleet.nodes().await?;
    assert_eq!(nodes.len(), 2, "no entry is left behind: {nodes:?}");
    assert!(follower.instance.log().contains("demoting this manager first"));
    fleet.stop().await
}
