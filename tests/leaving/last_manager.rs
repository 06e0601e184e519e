//! The only manager is terminated: it waits for its replacement, and the swarm survives. Where none comes, it leaves at
//! its deadline, and logs the losses.

use harness::PATIENCE;
use harness::departures::{Leaver, options_with, row, running, standing};
use harness::secs;
use skep_sim::fleet::{ClusterSpec, FleetOptions, workload};

#[tokio::test]
async fn its_replacement_takes_the_swarm_over() -> anyhow::Result<()> {
    let spec = ClusterSpec::new("demo", 1, 1);
    let fleet = standing(options_with(""), &spec).await?;
    fleet.create_service("web", 4, workload::slow_to_stop(1.0), secs(20)).await?;
    running(&fleet, "web", 4).await?;
    let swarm = fleet.manager_docker().await?.inspect_swarm().await?.id;
    let old = Leaver::of(&fleet.leader().await?).await?;

    fleet.cloud().terminate(old.id(), false)?;
    old.has_left_by_its_hook(&fleet).await?;
    let new = fleet.leader().await?;
    assert_ne!(new.id(), old.id());
    assert_eq!(new.docker()?.inspect_swarm().await?.id, swarm, "it is the same swarm");
    assert_eq!(row(&fleet, "charter")?.expect("a charter")["generation"], 1);
    running(&fleet, "web", 4).await?;
    assert_eq!(fleet.nodes().await?.len(), 2);
    fleet.stop().await
}

#[tokio::test]
async fn without_one_it_closes_the_charter_and_says_what_is_lost() -> anyhow::Result<()> {
    let spec = ClusterSpec::new("demo", 1, 0);
    let options = FleetOptions {
        // The next generation is another swarm. A tenth of the deadline is kept for leaving: on a busy machine Docker needs
        // more than 8 s for that.
        one_swarm: false,
        ..options_with("[leave]\ndeadline = \"120s\"\n")
    };
    let fleet = standing(options, &spec).await?;
    fleet.create_service("web", 2, workload::graceful(), secs(10)).await?;
    running(&fleet, "web", 2).await?;
    let manager = Leaver::of(&fleet.leader().await?).await?;

    fleet.cloud().terminate(manager.id(), true)?;
    manager.hook_is_completed(&fleet).await?;
    manager.lost_no_grace(&fleet)?;
    assert_eq!(row(&fleet, "charter")?.expect("a charter")["phase"], "closed");
    assert!(manager.instance.log().contains("are lost with it"), "{}", manager.instance.log());

    // The next manager can found the next swarm.
    fleet.cloud().set_desired(&spec.managers_group(), 1)?;
    fleet
        .wait_until("the next swarm", PATIENCE, async || {
            let charter = row(&fleet, "charter")?;
            let is_next =
                charter.is_some_and(|row| row["phase"] == "open" && row["generation"] == 2);
            Ok(is_next && fleet.nodes().await?.len() == 1)
        })
        .await?;
    fleet.stop().await
}
