//! A watch on raft while a scenario goes on.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{bail, ensure};
use bollard::models::{Node, NodeSpecRoleEnum, NodeState, Reachability};
use skep_sim::fleet::{Fleet, Instance};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::{PATIENCE, secs};

/// Longer than any election; a lost quorum lasts for ever.
const LONGEST_ELECTION: Duration = secs(45);
/// Without a leader Docker's API hangs: a look that takes longer has seen none.
const ANSWER_PATIENCE: Duration = secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Between two looks at all managers: they share the machine with what is looked at.
const LOOK_AT_ALL_EVERY: Duration = Duration::from_millis(300);

/// Does something while the swarm is looked at from a manager that survives it.
///
/// # Errors
/// What the body says; a majority of managers that was not reachable, a manager that was left as a
/// dead member of raft, or a swarm that did not answer for longer than an election takes.
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

/// Does something while all managers of a group are looked at, whoever they are by then.
///
/// # Errors
/// What the body says; a majority of managers that was not reachable, a manager that was left as a
/// dead member of raft, or nobody who knew a leader for longer than an election takes.
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

/// One member at most is on its way out of raft, and of those that stay a majority is reachable. The one
/// that goes does not count: when the leader of two has handed over, the other one calls it unreachable
/// until it has struck it out. Were it really gone by then, there would be no leader any more.
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
/// When they keep one.
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
