//! Carries out one step of a boot. Every write is conditional or harmless to repeat.

use std::collections::HashMap;
use std::time::Duration;

use time::OffsetDateTime;

use super::BootError;
use super::decide::{Refusal, Stale, Step};
use super::join::{self, Joining};
use super::recreate;
use crate::clients::docker::{
    ADOPTED_LABEL, CLUSTER_LABEL, Cluster, GENERATION_LABEL, InitSpec, RECOVERED_LABEL, Stop,
    SwarmError, SwarmErrorKind,
};
use crate::clients::ledger::{Charter, CharterPhase, DemotionRequest, Traces};
use crate::common::instance::{Membership, Role};
use crate::common::state::Phase;
use crate::lifecycle::notices::Notices;
use crate::node::{Node, Unlocking, publish_again, store, unlock};

/// Length of the first pauses between two observations: a founder needs about a second, and waiting nodes should not
/// lose another one.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// Number of these short pauses; later pauses grow.
const SHORT_PAUSES: u32 = 12;
/// Longest pause; it limits how often 1,000 waiting nodes read the charter.
const LONGEST_PAUSE: Duration = Duration::from_secs(3);

/// Grace of the tasks when this node leaves a stale swarm: no deadline presses, but the node is of no use until they
/// have ended.
const TASKS_GRACE: Duration = Duration::from_secs(60);
/// Time that Docker needs to kill the tasks that still run after the grace.
const KILLED_WITHIN: Duration = Duration::from_secs(10);

/// State that one round keeps for the next: the length of the pause, and the managers through which joining failed.
#[derive(Default)]
pub struct Progress {
    pauses: u32,
    pub joining: Joining,
}

impl Progress {
    /// Pauses, longer each time, with jitter so that a fleet does not poll in step. A notice ends the pause.
    pub async fn pause(&mut self, notices: &Notices) {
        let pause = pause_after(self.pauses);
        self.pauses = self.pauses.saturating_add(1);
        let _ = tokio::time::timeout(pause, notices.given()).await;
    }

    /// Makes the next pause short again.
    pub fn moved(&mut self) {
        self.pauses = 0;
    }
}

/// Returns the pause of a boot that has paused `pauses` times since its last step, with jitter.
#[must_use]
pub fn pause_after(pauses: u32) -> Duration {
    let growth = 2u32.saturating_pow(pauses.saturating_sub(SHORT_PAUSES).min(8));
    let longest = LONGEST_PAUSE.min(FIRST_PAUSE * growth);
    longest.mul_f64(0.5 + 0.5 * fastrand::f64())
}

/// How the boot continues after a step.
pub enum Next {
    In(Membership),
    LookAtOnce,
    Pause,
}

/// Carries out the step.
pub async fn act(node: &Node, step: Step, progress: &mut Progress) -> Result<Next, BootError> {
    match step {
        Step::Ready(membership) => return Ok(Next::In(membership)),
        Step::Refuse(refusal) => return Err(refusal.into()),
        Step::Wait { why } => {
            let finding = progress.joining.absence_tracker.finding();
            node.state.enter(Phase::Booting, format!("waiting for {why}{finding}"));
            return Ok(Next::Pause);
        }
        Step::Claim { seen, traces } => claim(node, seen.as_ref(), &traces).await?,
        Step::Init { claim } => init(node, &claim).await?,
        Step::Mark { claim } => mark(node, &claim).await?,
        Step::Recreate { claim } => recreate::recreate(node, &claim, init_spec(node)).await?,
        Step::Publish { claim, membership } => {
            if !publish(node, &claim, &membership).await? {
                return Ok(Next::Pause);
            }
        }
        Step::PublishAgain { membership } => drop(publish_again(node, &membership, None).await?),
        Step::Join { charter } => {
            if !join::join(node, &charter, &mut progress.joining).await? {
                return Ok(Next::Pause);
            }
        }
        Step::Discard { why } => {
            node.state.enter(Phase::Booting, format!("leaving by force: {why}"));
            node.swarm.leave(true).await?;
        }
        Step::Unlock { generation } => {
            if let Unlocking::Waiting(why) = unlock(node, generation).await? {
                node.state.enter(Phase::Booting, why);
                return Ok(Next::Pause);
            }
        }
        Step::AskOut { node_id, why } => {
            tracing::warn!(node = node_id, "{why}: the other managers are asked to take it out");
            let now = OffsetDateTime::now_utc();
            let request = DemotionRequest::new(&node.instance.id, &node_id, why, now);
            node.ledger.request_demotion(&request).await?;
        }
        Step::LeaveStale { by_force, why } => {
            if by_force && node.role == Role::Manager && why != Stale::Demoted {
                tracing::error!(
                    "this manager is fenced out: the state of the swarm that it leaves is lost"
                );
            }
            leave_stale(node, by_force, why.as_str()).await?;
        }
    }
    Ok(Next::LookAtOnce)
}

async fn claim(node: &Node, seen: Option<&Charter>, traces: &Traces) -> Result<(), BootError> {
    node.state.enter(Phase::Booting, "claiming the charter to found the swarm");
    let now = OffsetDateTime::now_utc();
    let lease = node.settings.boot.lease;
    match node.ledger.claim_charter(seen, traces, &node.instance.id, now, lease).await? {
        Some(claim) => {
            if let Some(lost) = seen.filter(|seen| seen.phase == CharterPhase::Open) {
                tracing::error!(
                    swarm_id = lost.swarm_id,
                    generation = lost.generation,
                    "Auto Scaling lists no manager of this swarm any more, and none answers: its services, secrets, configs and networks are lost with it"
                );
            }
            if seen.is_none() && traces.highest > 0 {
                tracing::error!(
                    swarms = ?traces.swarms,
                    generation = traces.highest,
                    "the charter is missing, Auto Scaling lists no manager that has a row in the ledger any more, and none answers: services, secrets, configs and networks of these swarms are lost"
                );
            }
            tracing::info!(generation = claim.generation, "founding the swarm");
        }
        None => tracing::info!("another manager has claimed the charter first"),
    }
    Ok(())
}

/// Stops the tasks of this node with their grace, and leaves the swarm. The node stops them itself, because no manager
/// of its own swarm can drain it here.
pub async fn leave_stale(node: &Node, by_force: bool, why: &str) -> Result<(), BootError> {
    node.state.enter(Phase::Booting, format!("leaving the swarm: {why}"));
    let mut tasks = node.swarm.fetch_containers().await?;
    tasks.retain(|container| container.task_id.is_some());
    let patience = TASKS_GRACE + KILLED_WITHIN;
    let stops = node.swarm.stop_containers(&tasks, Some(TASKS_GRACE), patience).await?;
    let stopped = stops.iter().filter(|stop| **stop == Stop::Stopped).count();
    tracing::info!(stopped, not_yet = stops.len() - stopped, "containers stopped");
    node.swarm.leave(by_force).await?;
    Ok(())
}

async fn init(node: &Node, claim: &Charter) -> Result<(), BootError> {
    node.state.enter(Phase::Booting, "founding the swarm");
    let labels = labels(node, claim);
    match node.swarm.init(InitSpec { labels, ..init_spec(node) }).await {
        Ok(()) => Ok(()),
        // An earlier call of this node succeeded.
        Err(error) if error.kind == SwarmErrorKind::AlreadyInSwarm => Ok(()),
        Err(error) => Err(init_failed(error)),
    }
}

/// Turns an error that comes from Docker's settings into a refusal, which names the remedy.
fn init_failed(error: SwarmError) -> BootError {
    match error.kind {
        SwarmErrorKind::LiveRestore => Refusal::LiveRestore.into(),
        SwarmErrorKind::NftablesFirewall => Refusal::NftablesFirewall.into(),
        _ => error.into(),
    }
}

fn labels(node: &Node, claim: &Charter) -> HashMap<String, String> {
    HashMap::from([
        (CLUSTER_LABEL.to_owned(), node.cluster.clone()),
        (GENERATION_LABEL.to_owned(), claim.generation.to_string()),
    ])
}

/// Carries out the second step of Docker's init, which sets labels and autolock.
async fn mark(node: &Node, claim: &Charter) -> Result<(), BootError> {
    node.state.enter(Phase::Booting, "labelling the swarm");
    tracing::info!(
        generation = claim.generation,
        "Docker's init ended before it labelled the swarm that it created under this node's claim: labelling it now"
    );
    let autolock = Some(node.settings.swarm.autolock);
    Ok(node.swarm.label_swarm(&labels(node, claim), autolock).await?)
}

fn init_spec(node: &Node) -> InitSpec {
    let swarm = &node.settings.swarm;
    InitSpec {
        address: node.address,
        address_pool: swarm.address_pool.iter().map(ToString::to_string).collect(),
        subnet_size: swarm.subnet_size.into(),
        labels: HashMap::new(),
        availability: node.join_availability(),
        autolock: swarm.autolock,
        force_new_cluster: false,
    }
}

/// Labels the swarm, and stores the unlock key, the tokens and the first address, before it opens the charter: a node
/// that sees the charter open can join, and can return after a restart. Returns `false` when it must wait.
///
/// # Errors
/// When Docker, the ledger or the token store fails.
pub async fn publish(
    node: &Node,
    claim: &Charter,
    membership: &Membership,
) -> Result<bool, BootError> {
    if claim.is_recovery() && !recreate::strike_out_former(node, &membership.node_id, claim).await?
    {
        return Ok(false);
    }
    node.state.enter(Phase::Booting, "publishing the swarm");
    let cluster = node.swarm.fetch_cluster().await?;
    let generation = claim.generation;
    relabel(node, claim, &cluster).await?;
    let ca_digest = store(node, membership, &cluster.tokens).await?;
    let now = OffsetDateTime::now_utc();
    let swarm_id = &membership.swarm_id;
    if node.ledger.publish_charter(claim, swarm_id, &ca_digest, now).await? {
        tracing::info!(generation, swarm_id, "the swarm is open");
    } else {
        tracing::info!(generation, "another manager has taken over the claim meanwhile");
    }
    Ok(true)
}

/// Labels the swarm with its present generation if it was founded under another one: managers may have to write the
/// charter again from the labels. A publication without its label would let a later claim use its generation again; a
/// label without its publication names a generation that nobody uses.
async fn relabel(node: &Node, claim: &Charter, cluster: &Cluster) -> Result<(), SwarmError> {
    let mut labels = labels(node, claim);
    if claim.is_recovery() {
        labels.insert(RECOVERED_LABEL.to_owned(), claim.generation.to_string());
    }
    if claim.adopts.is_some() {
        labels.insert(ADOPTED_LABEL.to_owned(), "true".to_owned());
    }
    if labels.iter().all(|(key, value)| cluster.labels.get(key) == Some(value)) {
        return Ok(());
    }
    node.swarm.label_swarm(&labels, None).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_dockers_settings_exclude_is_refused_with_the_setting_to_change() {
        let failed = |kind| {
            let message = "incompatible with swarm mode".to_owned();
            init_failed(SwarmError { operation: "init the swarm", kind, message })
        };
        for (kind, setting) in [
            (SwarmErrorKind::LiveRestore, "\"live-restore\": false"),
            (SwarmErrorKind::NftablesFirewall, "\"firewall-backend\": \"iptables\""),
        ] {
            let error = failed(kind);
            assert!(matches!(error, BootError::Refused(_)), "{error:?}");
            assert!(error.to_string().contains(setting), "{error}");
        }
        assert!(matches!(failed(SwarmErrorKind::Other), BootError::Swarm(_)));
    }
}
