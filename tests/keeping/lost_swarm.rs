//! All managers are gone, or only seem to be: the next swarm is founded once, and only on evidence.

use std::time::Instant;

use anyhow::ensure;
use harness::PATIENCE;
use harness::swarm::{self, CLUSTER, Charter};
use harness::{departures, secs};
use skep_sim::cloud::{Fault, Service};
use skep_sim::fleet::{Fleet, FleetOptions, workload};

/// The shortest value that skep accepts.
const LOST_AFTER: std::time::Duration = secs(75);
/// Longer than that, and several polls.
const LONG_ENOUGH: std::time::Duration = secs(110);

fn options() -> FleetOptions {
    FleetOptions {
        config: Some("[boot]\nlost_after = \"75s\"\n".into()),
        // The next generation is another swarm.
        one_swarm: false,
        ..harness::options()
    }
}

async fn opened(fleet: &Fleet, generation: u64) -> anyhow::Result<Charter> {
    fleet
        .wait_for(&format!("an open charter of generation {generation}"), PATIENCE, async || {
            let charter = swarm::charter(fleet).await?;
            Ok(charter.filter(|it| it.phase == "open" && it.generation == generation))
        })
        .await
}

#[tokio::test]
async fn replacements_found_the_next_one_and_workers_move_over() -> anyhow::Result<()> {
    let fleet = swarm::standing(options(), 3, 2).await?;
    let old = swarm::charter(&fleet).await?.expect("a charter");
    fleet.create_service("old", 2, workload::graceful(), secs(10)).await?;
    departures::running(&fleet, "old", 2).await?;

    let begin = Instant::now();
    for manager in fleet.group(&format!("{CLUSTER}-managers")) {
        fleet.cloud().crash(manager.id())?;
    }
    let next = opened(&fleet, 2).await?;
    println!("founded {:.1} s after the loss", begin.elapsed().as_secs_f64());
    ensure!(begin.elapsed() >= LOST_AFTER, "founded too early");
    assert_ne!(next.swarm_id, old.swarm_id);
    fleet
        .wait_until("every node to be in it", PATIENCE, async || {
            Ok(swarm::whole(&fleet, 3, 2).await.is_ok())
        })
        .await?;
    println!("whole {:.1} s after the loss", begin.elapsed().as_secs_f64());
    assert_eq!(swarm::charter(&fleet).await?, Some(next), "founded once");

    let says_loss = |log: &str| log.contains("ERROR") && log.contains("are lost with it");
    let logs: Vec<String> = fleet.instances().iter().map(|it| it.log()).collect();
    assert_eq!(logs.iter().filter(|log| says_loss(log)).count(), 1, "it is logged once");
    for worker in fleet.group(&format!("{CLUSTER}-workers")) {
        assert_eq!(worker.exit_codes(), Vec::<i32>::new(), "the same process");
        assert_eq!(swarm::said(&fleet, worker.id()).0, ["SUCCESS"], "nothing is reported twice");
        ensure!(worker.deaths().iter().all(|end| end.exit_code == Some(0)), "tasks had no grace");
    }
    fleet.create_service("new", 4, workload::graceful(), secs(10)).await?;
    departures::running(&fleet, "new", 4).await?;
    fleet.stop().await
}

#[tokio::test]
async fn managers_that_only_do_not_answer_keep_their_swarm() -> anyhow::Result<()> {
    let fleet = swarm::standing(options(), 3, 0).await?;
    let charter = swarm::charter(&fleet).await?;
    let managers = fleet.group(&format!("{CLUSTER}-managers"));
    for manager in &managers {
        manager.kill_dockerd().await?;
    }
    swarm::resize(&fleet, "manager", 4)?;
    let fourth = swarm::newest(&fleet, "manager", 4).await?;
    let says = "no new swarm is founded: 0 of 3 managers of generation 1 are gone";
    swarm::logged(&fleet, &fourth, says).await?;
    ensure!(managers.iter().all(|one| fourth.log().contains(one.id())), "{}", fourth.log());
    tokio::time::sleep(LONG_ENOUGH).await;
    assert_eq!(swarm::charter(&fleet).await?, charter, "silence is no evidence");
    assert_eq!(swarm::swarm_of(&fourth).await?, None);

    for manager in &managers {
        manager.start_dockerd()?;
    }
    swarm::ready(&fleet, &fourth).await?;
    fleet
        .wait_until("four managers", PATIENCE, async || {
            Ok(swarm::whole(&fleet, 4, 0).await.is_ok())
        })
        .await?;
    assert_eq!(swarm::charter(&fleet).await?, charter);
    fleet.stop().await
}

#[tokio::test]
async fn without_auto_scalings_word_nothing_is_founded() -> anyhow::Result<()> {
    let fleet = swarm::standing(options(), 1, 0).await?;
    let charter = swarm::charter(&fleet).await?;
    let faults = fleet.cloud().faults();
    let fails = Fault { error: 1.0, ..Fault::default() };
    faults.set(Service::AutoScaling, Some("DescribeAutoScalingInstances"), fails);
    let manager = fleet.leader().await?;
    fleet.cloud().crash(manager.id())?;
    let replacement = fleet
        .wait_for("a replacement", PATIENCE, async || {
            Ok(fleet.instances().into_iter().find(|it| it.id() != manager.id() && it.is_on()))
        })
        .await?;
    swarm::logged(&fleet, &replacement, "while skep cannot tell which managers are gone").await?;
    tokio::time::sleep(LONG_ENOUGH).await;
    assert_eq!(swarm::charter(&fleet).await?, charter, "an error is no evidence");

    let begin = Instant::now();
    faults.clear();
    opened(&fleet, 2).await?;
    ensure!(begin.elapsed() >= LOST_AFTER, "the patience begins with the first answer");
    swarm::ready(&fleet, &replacement).await?;
    fleet.stop().await
}
