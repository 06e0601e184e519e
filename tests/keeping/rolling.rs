//! Managers are replaced while a service runs: the swarm always has a leader, and a task ends only with its instance,
//! with its grace.

use std::sync::Arc;

use anyhow::ensure;
use bollard::models::{Node, NodeState, Reachability};
use harness::PATIENCE;
use harness::departures::{Leaver, options_with, row, running, standing};
use harness::quorum::keeping_a_leader;
use harness::secs;
use skep_sim::fleet::{ClusterSpec, Fleet, Instance, workload};

const REPLICAS: u32 = 6;

#[tokio::test]
async fn three_managers_one_by_one_and_two_at_a_time() -> anyhow::Result<()> {
    roll(3, &[1, 1, 1, 2]).await
}

#[tokio::test]
async fn five_managers_one_by_one() -> anyhow::Result<()> {
    roll(5, &[1, 1, 1, 1, 1]).await
}

#[tokio::test]
async fn five_managers_two_at_a_time() -> anyhow::Result<()> {
    roll(5, &[2, 2, 1]).await
}

/// All get their notices at the same moment, and the group keeps its size: the last one waits for a replacement.
#[tokio::test]
async fn three_managers_all_at_once() -> anyhow::Result<()> {
    roll(3, &[3]).await
}

/// Replaces the oldest managers, this many at a time.
async fn roll(managers: u32, steps: &[usize]) -> anyhow::Result<()> {
    let spec = ClusterSpec::new("demo", managers, 1);
    let fleet = standing(options_with(""), &spec).await?;
    fleet.create_service("web", REPLICAS, workload::slow_to_stop(1.0), secs(30)).await?;
    running(&fleet, "web", REPLICAS as usize).await?;
    let swarm = fleet.manager_docker().await?.inspect_swarm().await?.id;
    keeping_a_leader(&fleet, &spec.managers_group(), async {
        for step in steps {
            let oldest = fleet.group(&spec.managers_group());
            replace(&fleet, &spec, &oldest[..*step]).await?;
        }
        Ok(())
    })
    .await?;
    ensure!(fleet.manager_docker().await?.inspect_swarm().await?.id == swarm, "another swarm");
    let charter = row(&fleet, "charter")?.unwrap_or_default();
    ensure!(charter["phase"] == "open" && charter["generation"] == 1, "{charter:?}");
    fleet.stop().await
}

async fn replace(
    fleet: &Fleet,
    spec: &ClusterSpec,
    oldest: &[Arc<Instance>],
) -> anyhow::Result<()> {
    let mut leavers = Vec::new();
    for instance in oldest {
        leavers.push(Leaver::of(instance).await?);
    }
    for leaver in &leavers {
        fleet.cloud().terminate(leaver.id(), false)?;
    }
    for leaver in &leavers {
        leaver.has_left_by_its_hook(fleet).await?;
    }
    let size = (spec.managers + spec.workers) as usize;
    fleet
        .wait_until("the replacements", PATIENCE, async || {
            let instances = fleet.instances();
            let ready = instances.iter().filter(|instance| instance.is_ready()).count();
            Ok(ready == size && instances.len() == size && is_whole(&fleet.nodes().await?, spec))
        })
        .await?;
    running(fleet, "web", REPLICAS as usize).await?;
    for instance in fleet.instances() {
        let lost = instance.deaths();
        ensure!(lost.is_empty(), "{} has lost {lost:?}\n{}", instance.id(), fleet.report());
    }
    Ok(())
}

/// Whether only the cluster's nodes are listed, all ready, all managers reachable.
fn is_whole(nodes: &[Node], spec: &ClusterSpec) -> bool {
    let is_well = |node: &&Node| {
        let raft = node.manager_status.as_ref().and_then(|raft| raft.reachability);
        node.status.as_ref().and_then(|status| status.state) == Some(NodeState::READY)
            && raft.is_none_or(|raft| raft == Reachability::REACHABLE)
    };
    let managers = nodes.iter().filter(|node| node.manager_status.is_some()).count();
    nodes.iter().filter(is_well).count() == (spec.managers + spec.workers) as usize
        && nodes.len() == (spec.managers + spec.workers) as usize
        && managers == spec.managers as usize
}
