//! A founder that dies between two steps continues when it comes back, or another manager takes over; a founder that
//! only slept, and still acts as the founder, does no harm.

use std::sync::Arc;

use anyhow::ensure;
use harness::PATIENCE;
use harness::secs;
use harness::swarm;
use nix::sys::signal::Signal;
use skep_sim::cloud::{Fault, Service};
use skep_sim::fleet::{Fleet, FleetOptions, Instance, Restart};

/// The last step that the founder has completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Done {
    Claim,
    Init,
    Tokens,
    Publish,
}

/// The call is not answered before the test ends.
const HELD: Fault = slow(600_000);
/// Long enough for a test to hold the next call, and shorter than the SDK's timeout for one attempt.
const SLOW: Fault = slow(3_500);

const fn slow(millis: u64) -> Fault {
    Fault {
        latency_ms: Some((millis, millis)),
        per_second: None,
        throttle: 0.0,
        drop: 0.0,
        error: 0.0,
        lose_answer: 0.0,
        unprocessed: 0.0,
        times: None,
    }
}

#[tokio::test]
async fn after_its_claim_it_goes_on() -> anyhow::Result<()> {
    goes_on(Done::Claim).await
}

#[tokio::test]
async fn after_its_init_it_goes_on() -> anyhow::Result<()> {
    goes_on(Done::Init).await
}

#[tokio::test]
async fn after_storing_the_tokens_it_goes_on() -> anyhow::Result<()> {
    goes_on(Done::Tokens).await
}

#[tokio::test]
async fn after_publishing_it_goes_on() -> anyhow::Result<()> {
    goes_on(Done::Publish).await
}

#[tokio::test]
async fn after_its_claim_another_takes_over() -> anyhow::Result<()> {
    gives_way(Done::Claim, Signal::SIGKILL).await
}

#[tokio::test]
async fn after_its_init_another_takes_over() -> anyhow::Result<()> {
    gives_way(Done::Init, Signal::SIGKILL).await
}

#[tokio::test]
async fn after_storing_the_tokens_another_takes_over() -> anyhow::Result<()> {
    gives_way(Done::Tokens, Signal::SIGKILL).await
}

/// No manager needs to take over: the others join the swarm that it has published.
#[tokio::test]
async fn after_publishing_the_others_join() -> anyhow::Result<()> {
    gives_way(Done::Publish, Signal::SIGKILL).await
}

/// It wakes up in the middle of its work; only the conditional write shows it that time has passed.
#[tokio::test]
async fn asleep_after_its_init_it_gives_way() -> anyhow::Result<()> {
    gives_way(Done::Init, Signal::SIGSTOP).await
}

#[tokio::test]
async fn asleep_after_storing_the_tokens_it_gives_way() -> anyhow::Result<()> {
    gives_way(Done::Tokens, Signal::SIGSTOP).await
}

async fn goes_on(done: Done) -> anyhow::Result<()> {
    let fleet = start("").await?;
    let founder = stop_founder(&fleet, done, Signal::SIGKILL).await?;
    let before = swarm::swarm_of(&founder).await?;
    founder.start_skep()?;
    swarm::ready(&fleet, &founder).await?;
    swarm::resize(&fleet, "worker", 1)?;
    swarm::all_ready(&fleet, 2).await?;
    swarm::whole(&fleet, 1, 1).await?;

    let charter = swarm::charter(&fleet).await?.expect("a charter");
    assert_eq!((charter.generation, charter.founder.as_str()), (1, founder.id()));
    if done != Done::Claim {
        assert_eq!(charter.swarm_id, before, "the swarm that it had made is the cluster's");
    }
    swarm::announced(&fleet).await?;
    fleet.stop().await
}

async fn gives_way(done: Done, signal: Signal) -> anyhow::Result<()> {
    let fleet = start("[boot]\nlease = \"3s\"\n").await?;
    let old = stop_founder(&fleet, done, signal).await?;
    let made = swarm::swarm_of(&old).await?;
    swarm::resize(&fleet, "manager", 3)?;
    fleet
        .wait_until("two others to be Ready", PATIENCE, async || {
            let ready = fleet.instances().into_iter().filter(|it| it.id() != old.id());
            Ok(ready.filter(|it| it.is_ready()).count() == 2)
        })
        .await?;
    let charter = swarm::charter(&fleet).await?.expect("a charter");
    if done == Done::Publish {
        assert_eq!((charter.generation, charter.founder.as_str()), (1, old.id()));
        assert_eq!(charter.swarm_id, made);
    } else {
        assert!(charter.generation > 1 && charter.founder != old.id(), "{charter:?}");
        assert_ne!(charter.swarm_id, made);
    }

    if signal == Signal::SIGSTOP {
        ensure!(old.kill_skep(Signal::SIGCONT), "it is asleep, not dead");
    } else {
        old.start_skep()?;
    }
    swarm::all_ready(&fleet, 3).await?;
    swarm::whole(&fleet, 3, 0).await?;
    assert_eq!(swarm::charter(&fleet).await?.as_ref(), Some(&charter), "the charter stands");
    if matches!(done, Done::Init | Done::Tokens) {
        assert!(old.log().contains("another manager's swarm was published"), "{}", old.log());
    }
    swarm::announced(&fleet).await?;
    fleet.stop().await
}

async fn start(config: &str) -> anyhow::Result<Fleet> {
    let options = FleetOptions {
        restart: Restart::Never,
        config: Some(config.to_owned()),
        // The swarm that a dead founder has created is dropped.
        one_swarm: false,
        ..harness::options()
    };
    harness::fleet(options).await
}

/// Boots a manager alone and stops it with a signal after one step and before the next: the call of the next step is
/// held in the cloud.
async fn stop_founder(fleet: &Fleet, done: Done, signal: Signal) -> anyhow::Result<Arc<Instance>> {
    let faults = fleet.cloud().faults();
    match done {
        Done::Claim => faults.set(Service::DynamoDb, Some("PutItem"), SLOW),
        Done::Init => faults.set(Service::Ssm, Some("PutParameter"), HELD),
        Done::Tokens | Done::Publish => faults.set(Service::Ssm, Some("PutParameter"), SLOW),
    }
    fleet.create_cluster(&swarm::cluster(1, 0))?;
    let founder = swarm::newest(fleet, "manager", 1).await?;
    match done {
        Done::Claim => {
            swarm::logged(fleet, &founder, "claiming the charter to found").await?;
            faults.set(Service::DynamoDb, Some("GetItem"), HELD);
            fleet
                .wait_until("the claim", PATIENCE, async || {
                    Ok(swarm::charter(fleet).await?.is_some())
                })
                .await?;
        }
        Done::Init => {
            swarm::logged(fleet, &founder, "publishing the swarm").await?;
            fleet
                .wait_until("its row", PATIENCE, async || {
                    Ok(!swarm::rows(fleet, swarm::CLUSTER, "member#").await?.is_empty())
                })
                .await?;
        }
        Done::Tokens | Done::Publish => {
            fleet
                .wait_until("its row", PATIENCE, async || {
                    Ok(!swarm::rows(fleet, swarm::CLUSTER, "member#").await?.is_empty())
                })
                .await?;
            let next = if done == Done::Tokens { "PutItem" } else { "GetItem" };
            faults.set(Service::DynamoDb, Some(next), HELD);
            fleet
                .wait_until("the step", PATIENCE, async || {
                    let is_open = swarm::charter(fleet).await?.is_some_and(|it| it.phase == "open");
                    let is_stored = fleet.cloud().parameter_names().len() == 2;
                    Ok(if done == Done::Tokens { is_stored } else { is_open })
                })
                .await?;
            // By then its next call is on its way.
            tokio::time::sleep(secs(1)).await;
        }
    }
    ensure!(founder.kill_skep(signal), "it was there");
    if signal == Signal::SIGKILL {
        swarm::ended(fleet, &founder).await?;
    }
    faults.clear();

    let charter = swarm::charter(fleet).await?.expect("a charter");
    let is_open = charter.phase == "open";
    ensure!(is_open == (done == Done::Publish), "{done:?}: stopped too late: {charter:?}");
    let has_swarm = swarm::swarm_of(&founder).await?.is_some();
    ensure!(has_swarm == (done != Done::Claim), "{done:?}: stopped too late");
    let stored = fleet.cloud().parameter_names().len();
    ensure!(stored == if matches!(done, Done::Claim | Done::Init) { 0 } else { 2 }, "{stored}");
    ensure!(!founder.is_ready(), "it has never been Ready");
    Ok(founder)
}
