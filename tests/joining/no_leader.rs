//! The swarm has lost its quorum: who comes now waits, and is in as soon as it is back.

use anyhow::ensure;
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
    swarm::logged(&fleet, &worker, "trying again").await?;
    let through = format!("joining generation 1 as worker through {}", survivor.address());
    swarm::logged(&fleet, &worker, &through).await?;
    swarm::logged(&fleet, &worker, "the swarm has no leader at present").await?;
    ensure!(!worker.is_ready());
    assert_eq!(swarm::said(&fleet, worker.id()), (vec![], vec![]), "nothing is said yet");

    for manager in dead {
        manager.start_dockerd()?;
    }
    swarm::ready(&fleet, &worker).await?;
    swarm::whole(&fleet, 3, 1).await?;
    assert_eq!(swarm::charter(&fleet).await?, charter, "nobody founded another swarm");
    assert_eq!(worker.exit_codes(), Vec::<i32>::new(), "it never failed");
    for manager in &managers {
        assert_eq!(manager.exit_codes(), Vec::<i32>::new(), "and no manager's skep did");
    }
    swarm::announced(&fleet).await?;
    fleet.stop().await
}
