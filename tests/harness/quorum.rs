//! Watches raft while a scenario runs.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{bail, ensure};
use bollard::models::{Node, NodeSpecRoleEnum, NodeState, Reachability};
use skep_sim::fleet::{Fleet, Instance};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::{PATIENCE, secs};

/// Longer than any election; a lost quorum never ends by itself.
const LONGEST_ELECTION: Duration = secs(45);
/// Without a leader Docker's API hangs: a poll that takes longer has found none.
const ANSWER_PATIENCE: Duration = secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Pause between two polls of all managers: the polls share the machine with the managers.
const LOOK_AT_ALL_EVERY: Duration = Duration::from_millis(300);

/// Runs `body` while polling the swarm at a manager that survives it.
///
/// # Errors
/// The body's error; no majority of managers was reachable, a dead member of raft stayed, or the swarm did not answer
/// for longer than an election takes.
pub async fn keeping_quorum<T>(
    survivor: &Instance,
    body: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<T> {
    let docker = survivor.docker()?;
    let watch = async {
        let mut answered = Instant::now();
        loop {
            if let Ok(Ok(nodes)) = timeout(ANSWER_PATIENCE, docker.list_nodes(None)).await {
                check(&nodes)?;
                answered = Instant::now();
            }
            check_election(answered, survivor.id())?;
            sleep(LOOK_EVERY).await;
        }
    };
    watched(watch, body).await
}

/// Runs `body` while polling all managers that a group has at the time.
///
/// # Errors
/// The body's error; no majority of managers was reachable, a dead member of raft stayed, or no manager had a leader
/// for longer than an election takes.
pub async fn keeping_a_leader<T>(
    fleet: &Fleet,
    group: &str,
    body: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<T> {
    let watch = async {
        let mut answered = Instant::now();
        loop {
            let mut looks = JoinSet::new();
            for manager in fleet.group(group) {
                let Ok(docker) = manager.docker() else { continue };
                looks.spawn(async move {
                    timeout(ANSWER_PATIENCE, docker.list_nodes(None)).await.ok()?.ok()
                });
            }
            for nodes in looks.join_all().await.into_iter().flatten() {
                check(&nodes)?;
                answered = Instant::now();
            }
            check_election(answered, group)?;
            sleep(LOOK_AT_ALL_EVERY).await;
        }
    };
    watched(watch, body).await
}

async fn watched<T>(
    watch: impl Future<Output = anyhow::Result<Infallible>>,
    body: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<T> {
    tokio::select! {
        result = body => result,
        broken = watch => broken.map(|never| match never {}),
    }
}

fn check_election(answered: Instant, who: &str) -> anyhow::Result<()> {
    if answered.elapsed() > LONGEST_ELECTION {
        bail!("no leader has answered {who} for {LONGEST_ELECTION:?}");
    }
    Ok(())
}

/// At most one member is leaving raft, and a majority of the staying ones is reachable. The leaving one does not count:
/// when the leader of two has handed over, the other one lists it as unreachable until it has removed it. Were it
/// really gone by then, there would be no leader any more.
fn check(nodes: &[Node]) -> anyhow::Result<()> {
    let (mut staying, mut reachable, mut going) = (0, 0, 0);
    for node in nodes {
        let Some(raft) = &node.manager_status else { continue };
        let state = node.status.as_ref().and_then(|status| status.state);
        let is_reachable = raft.reachability == Some(Reachability::REACHABLE);
        // After an election a manager that raft reaches may be Down until it has registered with the new leader.
        ensure!(
            state != Some(NodeState::DOWN) || is_reachable,
            "a dead member of raft is left: {node:?}"
        );
        if node.spec.as_ref().and_then(|spec| spec.role) == Some(NodeSpecRoleEnum::WORKER) {
            going += 1;
        } else {
            staying += 1;
            reachable += usize::from(is_reachable);
        }
    }
    ensure!(going <= 1, "{going} managers are demoted at once: {nodes:?}");
    ensure!(2 * reachable > staying, "{reachable} of {staying} managers are reachable: {nodes:?}");
    Ok(())
}

/// Cuts managers off from each other, and waits until none of them has a leader.
///
/// # Errors
/// When they still have one.
pub async fn cut_apart(fleet: &Fleet, managers: &[Arc<Instance>]) -> anyhow::Result<()> {
    for one in managers {
        one.isolate(true)?;
    }
    fleet
        .wait_until("the managers to be without a leader", PATIENCE, async || {
            Ok(fleet.leader().await.is_err())
        })
        .await
}
