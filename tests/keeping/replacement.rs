//! A node whose own machine is broken for good is replaced: a manager asks Auto Scaling, a worker asks the managers. One
//! node of a group at a time, and never because of the swarm's trouble or AWS's.

use std::sync::Arc;
use std::time::Duration;

use anyhow::ensure;
use bollard::query_parameters::LeaveSwarmOptionsBuilder;
use harness::PATIENCE;
use harness::departures::Leaver;
use harness::secs;
use harness::swarm::{self, CLUSTER};
use skep_sim::cloud::{Deny, Fault, Service, Who};
use skep_sim::fleet::{Fleet, FleetOptions, Instance};

/// No node asks earlier: a manager that has lost its leader reports it within this time.
const SURE_AFTER: Duration = secs(150);
/// Longer than that, and several polls.
const LONG_ENOUGH: Duration = secs(210);

/// The shortest value that skep accepts.
fn options() -> FleetOptions {
    let config = "[autoscaling]\nreplace_after = \"75s\"\n";
    FleetOptions { config: Some(config.into()), ..harness::options() }
}

fn workers(fleet: &Fleet) -> Vec<Arc<Instance>> {
    fleet.group(&format!("{CLUSTER}-workers"))
}

/// Ids of the instances whose replacement was asked for, one per call. No worker calls by itself.
fn requests(fleet: &Fleet) -> Vec<String> {
    let calls = fleet.cloud().requests();
    let asked = calls.into_iter().filter(|call| call.action == "SetInstanceHealth");
    let asked = asked.inspect(|call| assert_eq!(call.principal.as_deref(), Some("skep-manager")));
    let id = |summary: &str| {
        let (_, id) = summary.split_once("InstanceId=")?;
        id.split(' ').next().map(str::to_owned)
    };
    asked.filter_map(|call| id(&call.summary)).collect()
}

async fn says(fleet: &Fleet, instance: &Instance, text: &str) -> anyhow::Result<()> {
    let what = format!("{text:?} in the log of {}", instance.id());
    fleet.wait_until(&what, PATIENCE, async || Ok(instance.log().contains(text))).await
}

#[tokio::test]
async fn of_two_that_are_broken_one_is_replaced_and_the_other_waits() -> anyhow::Result<()> {
    let fleet = swarm::standing(options(), 1, 2).await?;
    let broken = workers(&fleet);
    let begin = tokio::time::Instant::now();
    let leavers = [Leaver::of(&broken[0]).await?, Leaver::of(&broken[1]).await?];
    for worker in &broken {
        worker.kill_dockerd().await?;
    }
    fleet.wait_until("one to ask", PATIENCE, async || Ok(!requests(&fleet).is_empty())).await?;
    println!("asked {:.1} s after its Docker died", begin.elapsed().as_secs_f64());
    ensure!(begin.elapsed() >= SURE_AFTER, "it asked too early");
    let asked = requests(&fleet);
    let (first, second) = if asked[0] == leavers[0].id() { (0, 1) } else { (1, 0) };
    let manager = &fleet.group(&format!("{CLUSTER}-managers"))[0];
    const WAITS: &str = "another node of the group has asked within ten minutes";
    says(&fleet, manager, WAITS).await?;
    fleet
        .wait_until("the instance to be gone", PATIENCE, async || {
            Ok(fleet.cloud().instance(leavers[first].id()).is_none())
        })
        .await?;
    println!("gone after {:.1} s", begin.elapsed().as_secs_f64());
    let is_new = |one: &&Arc<Instance>| broken.iter().all(|old| old.id() != one.id());
    fleet
        .wait_until("its replacement to be Ready", PATIENCE, async || {
            Ok(workers(&fleet).iter().filter(is_new).any(|one| one.is_ready()))
        })
        .await?;
    println!("replaced after {:.1} s", begin.elapsed().as_secs_f64());
    ensure!(fleet.cloud().instance(leavers[second].id()).is_some(), "both are gone");
    // It is well again before its turn comes.
    broken[second].start_dockerd()?;
    broken[second].wait_docker().await?;
    fleet
        .wait_until("one swarm of three", PATIENCE, async || {
            Ok(swarm::whole(&fleet, 1, 2).await.is_ok())
        })
        .await?;
    assert_eq!(requests(&fleet), [leavers[first].id()], "one request");
    assert_eq!(manager.log().matches(WAITS).count(), 1, "logged once");
    assert_eq!(swarm::said(&fleet, leavers[first].id()).0, ["SUCCESS"], "it was no failed launch");
    fleet.stop().await
}

/// First the managers have no quorum, then the ledger fails, then the role lacks the permission to ask.
#[tokio::test]
async fn nobody_asks_for_the_swarms_trouble_or_for_aws() -> anyhow::Result<()> {
    let fleet = swarm::standing(options(), 3, 1).await?;
    let worker = workers(&fleet).pop().expect("a worker");
    let managers = fleet.group(&format!("{CLUSTER}-managers"));
    let begin = tokio::time::Instant::now();
    worker.kill_dockerd().await?;
    for manager in &managers[1..] {
        manager.isolate(true)?;
    }
    says(&fleet, &worker, "no other manager that has a leader answers").await?;
    tokio::time::sleep_until(begin + LONG_ENOUGH).await;
    assert!(requests(&fleet).is_empty(), "no quorum");

    let fails = Fault { error: 1.0, ..Fault::default() };
    fleet.cloud().faults().set(Service::DynamoDb, None, fails);
    for manager in &managers[1..] {
        manager.isolate(false)?;
    }
    says(&fleet, &worker, "not replaced: dynamodb").await?;
    tokio::time::sleep(secs(30)).await;
    assert!(requests(&fleet).is_empty(), "no ledger");

    let role = Who::Role("skep-manager".to_owned());
    fleet.cloud().deny(Deny::new(role, Service::AutoScaling, "SetInstanceHealth"));
    fleet.cloud().faults().clear();
    fleet
        .wait_until("a manager to report the missing permission", PATIENCE, async || {
            Ok(managers.iter().any(|manager| manager.log().contains("SetInstanceHealth")))
        })
        .await?;
    tokio::time::sleep(secs(45)).await;
    assert!(requests(&fleet).iter().all(|id| id == worker.id()));
    assert_eq!(workers(&fleet).len(), 1);
    fleet.stop().await
}

/// Its boot is refused because of this machine: an operator has put it into another swarm meanwhile.
#[tokio::test]
async fn a_manager_that_cannot_come_back_is_replaced() -> anyhow::Result<()> {
    let options = FleetOptions { one_swarm: false, ..options() };
    let fleet = swarm::standing(options, 3, 0).await?;
    let leader = fleet.leader().await?;
    let managers = fleet.group(&format!("{CLUSTER}-managers"));
    let broken = managers.iter().find(|one| one.id() != leader.id()).expect("another one");
    let (id, leaver) = (broken.id().to_owned(), Leaver::of(broken).await?);
    broken.stop_skep().await?;
    let force = LeaveSwarmOptionsBuilder::default().force(true).build();
    broken.docker()?.leave_swarm(Some(force)).await?;
    swarm::found_by_hand(broken).await?;
    broken.start_skep()?;
    says(&fleet, broken, "in a swarm that is not this cluster's").await?;
    fleet.wait_until("it to ask", PATIENCE, async || Ok(requests(&fleet) == [id.clone()])).await?;
    fleet
        .wait_until("it to be replaced", PATIENCE, async || {
            let is_gone = fleet.cloud().instance(&id).is_none();
            Ok(is_gone && swarm::whole(&fleet, 3, 0).await.is_ok())
        })
        .await?;
    let nodes = fleet.nodes().await?;
    ensure!(nodes.iter().all(|node| node.id.as_ref() != Some(&leaver.node_id)), "it is listed");
    assert_eq!(requests(&fleet), [id], "one request");
    fleet.stop().await
}
