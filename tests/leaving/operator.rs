//! `skep leave`: the operator takes a node out, and the machine stays.

use harness::departures::{Leaver, options_with, row, running, standing};
use harness::secs;
use skep_sim::fleet::{ClusterSpec, workload};

#[tokio::test]
async fn the_node_leaves_and_the_machine_stays() -> anyhow::Result<()> {
    let spec = ClusterSpec::new("demo", 1, 1);
    let fleet = standing(options_with(""), &spec).await?;
    fleet.create_service("web", 4, workload::slow_to_stop(3.0), secs(20)).await?;
    running(&fleet, "web", 4).await?;
    let worker = Leaver::of(&fleet.group(&spec.workers_group())[0]).await?;
    assert!(!worker.tasks("start").is_empty(), "the worker has tasks");

    let said = worker.instance.skep(["leave", "--deadline", "5m"]).await?;
    assert!(said.status.success(), "{said:?}");
    assert!(String::from_utf8_lossy(&said.stdout).contains("leaving"), "{said:?}");
    // Asking twice is asking once.
    let again = worker.instance.skep(["leave"]).await?;
    assert!(again.status.success(), "{again:?}");

    worker.has_left(&fleet).await?;
    worker.skep_has_ended_well(&fleet).await?;
    let departure = row(&fleet, &format!("departure#{}", worker.id()))?.expect("a departure");
    assert_eq!(departure["reason"], "operator");
    let seconds = departure["deadline"].as_i64().zip(departure["requested_at"].as_i64());
    assert_eq!(seconds.map(|(deadline, asked)| deadline - asked), Some(300));
    assert!(worker.instance.is_on());
    running(&fleet, "web", 4).await?;

    let nobody = worker.instance.skep(["leave"]).await?;
    assert!(!nobody.status.success(), "no skep runs any more: {nobody:?}");
    fleet.stop().await
}
