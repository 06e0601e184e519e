//! The notice comes while the node still joins: it leaves as cleanly as a node that never joined.

use std::sync::Arc;
use std::time::Duration;

use harness::PATIENCE;
use harness::departures::{
    Leaver, hook_results, hook_timed_out, ledger, options_with, row, shell, standing,
};
use skep_sim::cloud::{ActionResult, Fault, Service};
use skep_sim::fleet::{ClusterSpec, Fleet, FleetOptions, Instance};

/// Longer than the test waits: a held call is not answered in time.
const HELD_MS: u64 = 600_000;

#[tokio::test]
async fn a_worker_that_waits_for_its_token() -> anyhow::Result<()> {
    let spec = ClusterSpec::new("demo", 1, 0);
    let fleet = standing(options_with(""), &spec).await?;
    hold(&fleet, Service::Ssm, "GetParameter");
    let worker = launch_worker(&fleet, &spec).await?;
    called(&fleet, &worker, "waits for its token", async || {
        Ok(worker.log().contains("looking for the swarm") && worker.dockerd_running())
    })
    .await?;

    fleet.cloud().terminate(worker.id(), true)?;
    hook_is_completed(&fleet, &worker).await?;
    no_trace_of(&fleet, &worker, 1).await?;
    fleet.stop().await
}

/// The manager's Docker is frozen in the middle of the join, and answers after the notice: the join succeeds although
/// skep has ended it.
#[tokio::test]
async fn a_worker_whose_join_ends_after_the_notice() -> anyhow::Result<()> {
    let spec = ClusterSpec::new("demo", 1, 0);
    let fleet = standing(options_with(""), &spec).await?;
    let manager = fleet.leader().await?;
    freeze(&manager, "STOP").await?;
    let worker = launch_worker(&fleet, &spec).await?;
    called(&fleet, &worker, "joins", async || {
        Ok(worker.log().contains("joining generation 1 as worker"))
    })
    .await?;

    fleet.cloud().terminate(worker.id(), true)?;
    called(&fleet, &worker, "has its notice", async || {
        Ok(worker.log().contains("this node must leave"))
    })
    .await?;
    freeze(&manager, "CONT").await?;
    hook_is_completed(&fleet, &worker).await?;
    no_trace_of(&fleet, &worker, 1).await?;
    fleet.stop().await
}

/// Its claim must not remain, or no manager could found the swarm before the lease has expired: here the lease is
/// longer than the next manager's boot deadline.
#[tokio::test]
async fn a_founder_before_it_has_published() -> anyhow::Result<()> {
    let spec = ClusterSpec::new("demo", 1, 0);
    let options = FleetOptions {
        // The founder drops the swarm that it has created.
        one_swarm: false,
        ..options_with("[boot]\nlease = \"20m\"\ndeadline = \"30m\"\n")
    };
    let fleet = harness::fleet(options).await?;
    hold(&fleet, Service::Ssm, "PutParameter");
    fleet.create_cluster(&spec)?;
    let founder = fleet
        .wait_for("a founder", PATIENCE, async || {
            Ok(fleet.group(&spec.managers_group()).into_iter().next())
        })
        .await?;
    called(&fleet, &founder, "founds", async || Ok(founder.log().contains("publishing"))).await?;
    let charter = row(&fleet, "charter")?.expect("a claim");
    assert_eq!(
        (&charter["phase"], &charter["founder"]),
        (&"founding".into(), &founder.id().into())
    );

    // Without a decrement: the next manager must be able to found.
    fleet.cloud().terminate(founder.id(), false)?;
    hook_is_completed(&fleet, &founder).await?;
    assert!(founder.log().contains("leaving the swarm that was never published"));
    fleet.cloud().faults().clear();
    let next = fleet
        .wait_for("the next manager", PATIENCE, async || {
            let mut managers = fleet.group(&spec.managers_group());
            managers.retain(|one| one.id() != founder.id() && one.is_ready());
            Ok(managers.pop())
        })
        .await?;
    let charter = row(&fleet, "charter")?.expect("a charter");
    assert_eq!((&charter["phase"], &charter["founder"]), (&"open".into(), &next.id().into()));
    assert_eq!(charter["generation"], 2);
    no_trace_of(&fleet, &founder, 1).await?;
    fleet.stop().await
}

fn hold(fleet: &Fleet, service: Service, action: &str) {
    let fault = Fault { latency_ms: Some((HELD_MS, HELD_MS)), ..Fault::default() };
    fleet.cloud().faults().set(service, Some(action), fault);
}

async fn launch_worker(fleet: &Fleet, spec: &ClusterSpec) -> anyhow::Result<Arc<Instance>> {
    fleet.cloud().set_desired(&spec.workers_group(), 1)?;
    fleet
        .wait_for("a worker", PATIENCE, async || {
            Ok(fleet.group(&spec.workers_group()).into_iter().next())
        })
        .await
}

async fn called(
    fleet: &Fleet,
    instance: &Instance,
    what: &str,
    look: impl AsyncFnMut() -> anyhow::Result<bool>,
) -> anyhow::Result<()> {
    fleet.wait_until(&format!("{} {what}", instance.id()), PATIENCE, look).await
}

async fn freeze(instance: &Instance, signal: &str) -> anyhow::Result<()> {
    shell(instance, &format!("kill -{signal} $(busybox pidof dockerd)")).await.map(drop)
}

/// The group has two hooks: the termination ends the launch hook.
async fn hook_is_completed(fleet: &Fleet, instance: &Arc<Instance>) -> anyhow::Result<()> {
    let leaver = Leaver { instance: Arc::clone(instance), node_id: String::new() };
    leaver.hook_is_completed(fleet).await?;
    assert_eq!(hook_results(fleet, instance), [ActionResult::Continue]);
    assert!(!hook_timed_out(fleet, instance));
    Ok(())
}

async fn no_trace_of(fleet: &Fleet, instance: &Instance, nodes: usize) -> anyhow::Result<()> {
    // By then a join that ends after skep has stopped waiting for it would be visible.
    tokio::time::sleep(Duration::from_secs(2)).await;
    fleet
        .wait_until(&format!("{nodes} nodes"), PATIENCE, async || {
            Ok(fleet.nodes().await?.len() == nodes)
        })
        .await?;
    let members = ledger(fleet)?;
    let of_it = |item: &str| item.starts_with("member#") && item.ends_with(instance.id());
    let left: Vec<_> =
        members.iter().filter(|row| row["item"].as_str().is_some_and(of_it)).collect();
    assert!(left.is_empty(), "{left:?}");
    assert!(!instance.is_ready(), "it never was Ready");
    Ok(())
}
