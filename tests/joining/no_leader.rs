//! The swarm has lost its quorum: a joining node waits, and joins as soon as the quorum is back.

use anyhow::ensure;
use bollard::models::{Node, NodeState, Reachability};
use harness::PATIENCE;
use harness::swarm;

#[tokio::test]
async fn a_worker_waits_until_the_quorum_is_back() -> anyhow::Result<()> {
    let fleet = harness::fleet(harness::options()).await?;
    fleet.create_cluster(&swarm::cluster(3, 0))?;
    swarm::all_ready(&fleet, 3).await?;
    swarm::whole(&fleet, 3, 0).await?;
    let charter = swarm::charter(&fleet).await?;
    let managers = fleet.group("test-managers");
    let (dead, survivor) = (&managers[..2], &managers[2]);
    for manager in dead {
        manager.kill_dockerd().await?;
    }

    swarm::resize(&fleet, "worker", 1)?;
    let worker = swarm::newest(&fleet, "worker", 1).await?;
    let through = format!("joining generation 1 as worker through {}", survivor.address());
    swarm::logged(&fleet, &worker, &through).await?;
    // Docker reports that there is no leader, or does not answer for 20 s.
    let silent = format!("{} did not answer; retrying", survivor.address());
    fleet
        .wait_until("the attempt to fail", PATIENCE, async || {
            let log = worker.log();
            Ok(log.contains("the swarm has no leader at present") || log.contains(&silent))
        })
        .await?;
    ensure!(!worker.is_ready());
    assert_eq!(swarm::said(&fleet, worker.id()), (vec![], vec![]), "nothing is reported yet");

    for manager in dead {
        manager.start_dockerd()?;
    }
    swarm::ready(&fleet, &worker).await?;
    let nodes = fleet
        .wait_for("three managers and a worker", PATIENCE, async || {
            let nodes = fleet.nodes().await?;
            let ready = nodes.iter().filter(|node| is_ready(node)).count();
            let reachable = nodes.iter().filter(|node| is_reachable(node)).count();
            ensure!((ready, reachable) == (4, 3), "{}", swarm::summary(&nodes));
            Ok(Some(nodes))
        })
        .await?;
    // The swarm may execute the failed attempts' requests once it has a leader again: each adds an entry, without an
    // address, of a node that never existed. Docker offers no way to detect this in advance.
    let attempts = worker.log().matches("joining generation").count();
    let ghosts = nodes.len() - 4;
    println!("{attempts} attempts, {ghosts} entries of nodes that never were");
    ensure!(ghosts < attempts, "{}", swarm::summary(&nodes));
    let own = swarm::place(&worker).await?.node_id;
    let listed = nodes.iter().find(|node| node.id == own);
    ensure!(listed.is_some_and(is_ready), "{}", swarm::summary(&nodes));
    assert_eq!(swarm::charter(&fleet).await?, charter, "no manager founded another swarm");
    assert_eq!(worker.exit_codes(), Vec::<i32>::new(), "it never failed");
    for manager in &managers {
        assert_eq!(manager.exit_codes(), Vec::<i32>::new(), "and no manager's skep failed");
    }
    swarm::announced(&fleet).await?;
    fleet.stop().await
}

fn is_ready(node: &Node) -> bool {
    node.status.as_ref().and_then(|status| status.state) == Some(NodeState::READY)
}

fn is_reachable(node: &Node) -> bool {
    let raft = node.manager_status.as_ref().and_then(|raft| raft.reachability);
    raft == Some(Reachability::REACHABLE)
}
