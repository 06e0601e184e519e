//! Maintenance that ends the instance makes the node leave; a reboot, or maintenance in the far future, does not.

use harness::departures::{Leaver, departure_state, options_with, row, running, standing};
use harness::secs;
use skep_sim::cloud::Maintenance;
use skep_sim::fleet::{ClusterSpec, workload};

const TWO_WEEKS: u64 = 14 * 24 * 3600;

#[tokio::test]
async fn a_retirement_is_a_departure_a_reboot_is_none() -> anyhow::Result<()> {
    let spec = ClusterSpec::new("demo", 1, 3);
    let fleet = standing(options_with(""), &spec).await?;
    fleet.create_service("web", 8, workload::slow_to_stop(1.0), secs(20)).await?;
    running(&fleet, "web", 8).await?;
    let workers = fleet.group(&spec.workers_group());
    let [retired, rebooted, later] = &workers[..] else { panic!("three workers") };
    let leaver = Leaver::of(retired).await?;
    assert!(!leaver.tasks("start").is_empty(), "the worker has tasks");

    let maintenance = |code: &str, in_seconds| Maintenance {
        code: code.to_owned(),
        in_seconds,
        ..Maintenance::default()
    };
    // First the events that must have no effect: they have the whole time in which the other node leaves.
    fleet.cloud().schedule_maintenance(rebooted.id(), maintenance("system-reboot", 300))?;
    fleet.cloud().schedule_maintenance(rebooted.id(), maintenance("instance-reboot", 300))?;
    fleet
        .cloud()
        .schedule_maintenance(later.id(), maintenance("instance-retirement", TWO_WEEKS))?;
    fleet.cloud().schedule_maintenance(retired.id(), maintenance("instance-retirement", 300))?;

    leaver.has_left(&fleet).await?;
    leaver.skep_has_ended_well(&fleet).await?;
    let departure = row(&fleet, &format!("departure#{}", leaver.id()))?.expect("a departure");
    assert_eq!(departure["reason"], "maintenance");
    for stays in [rebooted, later] {
        assert_eq!(departure_state(&fleet, stays), None);
        assert!(stays.skep_running() && stays.is_ready(), "{}", fleet.report());
        assert!(stays.deaths().is_empty());
    }
    running(&fleet, "web", 8).await?;
    assert_eq!(fleet.nodes().await?.len(), 3);
    fleet.stop().await
}
