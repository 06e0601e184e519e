//! Notices that are cancelled: the node stays and has tasks again. A notice that stays ends in a departure.

use std::time::Duration;

use harness::PATIENCE;
use harness::departures::{
    Leaver, departure_state, drains, options_with, row, running, running_on, standing,
};
use harness::nodes::{availability, labels};
use harness::secs;
use skep_sim::cloud::{Maintenance, Market};
use skep_sim::fleet::{ClusterSpec, Fleet, workload};

use bollard::models::NodeSpecAvailabilityEnum::{ACTIVE, DRAIN};

/// Seconds that a task takes to stop: it is still stopping when the notices are cancelled.
const STOPS_IN: f32 = 30.0;
/// Longer than a notice must be absent to count as cancelled.
const LONG_ENOUGH: Duration = secs(6);

#[tokio::test]
async fn a_worker_and_the_last_manager_stay_after_all() -> anyhow::Result<()> {
    let spec = ClusterSpec { workers_market: Market::Spot, ..ClusterSpec::new("demo", 1, 2) };
    // All of them are drained at the same time, so that their tasks are still stopping.
    let config = "rebalance = \"leave\"\n[pace]\nenabled = false\n";
    let fleet = standing(options_with(config), &spec).await?;
    fleet.create_service("web", 6, workload::slow_to_stop(STOPS_IN), secs(60)).await?;
    running(&fleet, "web", 6).await?;
    let manager = fleet.leader().await?;
    let workers = fleet.group(&spec.workers_group());
    let [reclaimed, recommended] = &workers[..] else { panic!("two workers") };
    let stays = [Leaver::of(reclaimed).await?, Leaver::of(&manager).await?];

    let cloud = fleet.cloud();
    let stop =
        Maintenance { code: "instance-stop".to_owned(), in_seconds: 900, ..Default::default() };
    cloud.spot_notice(reclaimed.id(), "terminate", secs(300))?;
    cloud.schedule_maintenance(manager.id(), stop)?;
    for node in &stays {
        state(&fleet, node, Some("draining")).await?;
    }
    assert_eq!(availability(&fleet, reclaimed).await?, DRAIN);

    // A failing metadata service does not cancel a notice.
    for node in &stays {
        cloud.imds_knobs(node.id()).fail_probability(1.0);
    }
    cloud.clear_spot_notice(reclaimed.id())?;
    cloud.clear_maintenance(manager.id())?;
    tokio::time::sleep(LONG_ENOUGH).await;
    for node in &stays {
        assert_eq!(departure_state(&fleet, &node.instance).as_deref(), Some("draining"));
        cloud.imds_knobs(node.id()).reset();
    }
    for node in &stays {
        state(&fleet, node, None).await?;
        let what = format!("{} to be active again", node.id());
        fleet
            .wait_until(&what, PATIENCE, async || {
                let is_active = availability(&fleet, &node.instance).await? == ACTIVE;
                Ok(is_active
                    && !labels(&fleet, &node.instance).await?.contains_key("skep.availability"))
            })
            .await?;
        assert_eq!(harness::departures::node_id(&node.instance).await?, node.node_id);
        assert!(node.instance.exit_codes().is_empty(), "the same skep all the time");
    }
    assert_eq!(drains(&fleet, reclaimed), 1, "however often it was polled");
    running(&fleet, "web", 6).await?;

    let leaver = Leaver::of(recommended).await?;
    cloud.rebalance(recommended.id())?;
    leaver.has_left(&fleet).await?;
    leaver.skep_has_ended_well(&fleet).await?;
    let departure = row(&fleet, &format!("departure#{}", leaver.id()))?.expect("a departure");
    assert_eq!(departure["reason"], "rebalance");
    running(&fleet, "web", 6).await?;
    assert!(running_on(&fleet, reclaimed).await? > 0, "it has tasks again");
    fleet.stop().await
}

/// Waits until a departure has this state, or until there is none any more.
async fn state(fleet: &Fleet, node: &Leaver, expected: Option<&str>) -> anyhow::Result<()> {
    fleet
        .wait_until(&format!("{expected:?} of {}", node.id()), PATIENCE, async || {
            Ok(departure_state(fleet, &node.instance).as_deref() == expected)
        })
        .await
}
