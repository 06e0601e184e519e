//! Nodes that stay with a scheduling hold: drained in Standby, paused on a rebalance recommendation, and active again
//! afterwards; an availability that an operator has set stays.

use std::sync::Arc;

use anyhow::ensure;
use bollard::models::NodeSpecAvailabilityEnum::{self, ACTIVE, DRAIN, PAUSE};
use harness::PATIENCE;
use harness::departures::{Leaver, departure_state, options_with, running, running_on, standing};
use harness::nodes::{availability, labels};
use harness::secs;
use harness::seen::{health, member, status};
use skep_sim::cloud::Market;
use skep_sim::fleet::{ClusterSpec, Fleet, Instance, workload};

const MARK: &str = "skep.availability";

#[tokio::test]
async fn standby_drains_a_recommendation_pauses_and_both_pass() -> anyhow::Result<()> {
    let spec = ClusterSpec { workers_market: Market::Spot, ..ClusterSpec::new("demo", 1, 3) };
    let fleet = standing(options_with("rebalance = \"pause\"\n"), &spec).await?;
    fleet.create_service("web", 8, workload::slow_to_stop(2.0), secs(20)).await?;
    running(&fleet, "web", 8).await?;
    let manager = fleet.leader().await?;
    let workers = fleet.group(&spec.workers_group());
    let [by_hand, recommended, stands_by] = &workers[..] else { panic!("three workers") };
    let drained = [Leaver::of(&manager).await?, Leaver::of(stands_by).await?];
    for node in drained.iter().chain(&[Leaver::of(recommended).await?]) {
        assert!(!node.tasks("start").is_empty(), "{} has tasks", node.id());
    }

    let cloud = fleet.cloud();
    fleet.operate(by_hand, |spec| spec.availability = Some(DRAIN)).await?;
    cloud.rebalance(recommended.id())?;
    for instance in [by_hand, stands_by, &manager] {
        cloud.standby(instance.id(), true)?;
    }
    is_set(&fleet, &manager, DRAIN, Some("drain, was active")).await?;
    is_set(&fleet, stands_by, DRAIN, Some("drain, was active")).await?;
    is_set(&fleet, by_hand, DRAIN, Some("drain, was drain")).await?;
    is_set(&fleet, recommended, PAUSE, Some("pause, was active")).await?;
    // Then all tasks run on nodes that keep theirs.
    fleet
        .wait_until("the tasks to stop", PATIENCE, async || {
            let left = |node: &Leaver| node.tasks("start").len() - node.tasks("die").len();
            Ok(drained.iter().map(left).sum::<usize>() == 0)
        })
        .await?;
    assert!(recommended.deaths().is_empty(), "it keeps its tasks");

    let seen = status(&manager).await?;
    assert_eq!(seen["node"]["scheduling_hold"], "standby");
    for (instance, why) in [(stands_by, "standby"), (recommended, "rebalance")] {
        assert_eq!(member(&seen["fleet"], instance.id())?["scheduling_hold"], why);
    }
    let quorum = serde_json::json!({ "managers": 1, "reachable": 1, "may_be_lost": 0 });
    assert_eq!(seen["fleet"]["quorum"], quorum, "it stays a member of raft");
    for instance in fleet.instances() {
        assert_eq!(health(&instance).await?.0, 200, "no reason for a replacement");
        assert_eq!(departure_state(&fleet, &instance), None);
    }

    // An availability that an operator sets later stays, although the recommendation stays, too.
    fleet.operate(recommended, |spec| spec.availability = Some(ACTIVE)).await?;
    for instance in [by_hand, stands_by, &manager] {
        cloud.exit_standby(instance.id())?;
    }
    is_set(&fleet, &manager, ACTIVE, None).await?;
    is_set(&fleet, stands_by, ACTIVE, None).await?;
    is_set(&fleet, by_hand, DRAIN, None).await?;
    is_set(&fleet, recommended, ACTIVE, Some("pause, was active")).await?;
    running(&fleet, "web", 8).await?;
    fleet.create_service("more", 8, workload::graceful(), secs(10)).await?;
    running(&fleet, "more", 8).await?;
    assert!(running_on(&fleet, stands_by).await? > 0, "it has tasks again");
    for node in &drained {
        assert!(
            node.tasks("die").iter().all(|death| death.exit_code == Some(0)),
            "each had its grace"
        );
        // It is paused first if the managers do not know yet whether a load balancer sends to it.
        let changed = [DRAIN, ACTIVE].map(|to| changes(&fleet, node.id(), to));
        assert_eq!(changed, [1, 1], "drained once, activated once");
        assert!(node.instance.is_ready() && node.instance.exit_codes().is_empty());
    }
    let of = |node: &Instance| [PAUSE, DRAIN, ACTIVE].map(|to| changes(&fleet, node.id(), to));
    assert_eq!(of(recommended), [1, 0, 0], "paused once");
    assert_eq!(of(by_hand), [0, 0, 0], "it was drained already");
    fleet.stop().await
}

/// Waits until the managers have set an availability, and their mark on it is present or absent.
async fn is_set(
    fleet: &Fleet,
    instance: &Arc<Instance>,
    expected: NodeSpecAvailabilityEnum,
    mark: Option<&str>,
) -> anyhow::Result<()> {
    let what = format!("{} to be {expected} ({mark:?})", instance.id());
    fleet
        .wait_until(&what, PATIENCE, async || {
            let seen = availability(fleet, instance).await?;
            let labels = labels(fleet, instance).await?;
            let seen_mark = labels.get(MARK).map(String::as_str);
            ensure!(seen == expected && seen_mark == mark, "{seen} ({seen_mark:?})");
            Ok(true)
        })
        .await
}

/// How often managers' skeps have given a node this availability, according to their logs.
fn changes(fleet: &Fleet, id: &str, to: NodeSpecAvailabilityEnum) -> usize {
    let to = format!("availability=\"{to}\"");
    let is_change =
        |line: &&str| line.contains("availability set") && line.contains(id) && line.contains(&to);
    let logs = fleet.all_instances().into_iter().map(|one| one.log());
    logs.map(|log| log.lines().filter(is_change).count()).sum()
}
