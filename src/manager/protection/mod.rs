//! Protects instances from scale-in whose nodes run jobs, or tasks of services with the label `skep.protect=true`, or any tasks, by
//! the settings: Auto Scaling chooses without knowing of tasks.
//!
//! Guarantees: skep ends only a protection that it has set. The node's label [`PROTECTED`] records that, from before the
//! call until Auto Scaling shows that the protection has ended, so that every leader can end it. Nothing changes while
//! tasks or groups cannot be read, or while a node is not ready. The leader alone acts.

mod decide;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use super::duty::{Duty, Poll};
use super::error::ManagerError;
use super::observe::{Fleet, lately};
use super::placed::instance_of;
use super::placement::{keeps_its_node, occupies};
use crate::clients::aws::{AwsError, AwsErrorKind};
use crate::clients::docker::{Availability, NodeView};
use crate::common::errors::chain;
use crate::common::fact::Fact;
use crate::common::labels::{GROUP, PROTECTED};
use crate::node::Node;

use decide::{Step, decide};

/// Name of this duty.
const NAME: &str = "protection";
/// Time between two polls: a task that has just started can be scaled in for so long.
const INTERVAL: Duration = Duration::from_secs(10);
/// Maximum age of the node list.
const LIST_AGE: Duration = Duration::from_secs(5);
/// Time after which Auto Scaling is asked again about a node on which nothing has to change.
const CONFIRMED_FOR: Duration = Duration::from_secs(300);
/// The same after a failure: the account shares Auto Scaling's limit.
const RETRY_AFTER: Duration = Duration::from_secs(60);

/// Protects instances for as long as this node is a manager.
pub(super) async fn run(fleet: &Fleet<'_>) {
    let (first, after_failure) = (INTERVAL, INTERVAL);
    Duty { name: NAME, first, after_failure, trouble: None }.run(fleet, poll).await;
}

/// What the leader has seen of the nodes, by Docker's ids.
#[derive(Default)]
struct Memory {
    /// When this manager first looked as the leader.
    began: Option<Instant>,
    /// When each node was last seen with such a task.
    busy_at: BTreeMap<String, Instant>,
    quiet: BTreeMap<String, Quiet>,
    /// When a protection was last changed: an older answer does not show it.
    acted_at: Option<Instant>,
}

/// Why Auto Scaling is not asked about a node.
struct Quiet {
    until: Instant,
    /// As long as it is as busy as this.
    is_busy: Fact,
    /// What has failed, if something has.
    failure: Option<String>,
}

async fn poll(
    Poll { fleet, memory, complaints }: Poll<'_, Memory>,
) -> Result<Duration, ManagerError> {
    let (node, settings) = (fleet.node, &fleet.node.settings.protection);
    let nodes = fleet.nodes(lately(LIST_AGE)).await?;
    let is_marked = |view: &NodeView| view.labels.contains_key(PROTECTED);
    let is_concerned = settings.enabled || nodes.iter().any(is_marked);
    if !fleet.is_leader(&nodes) || !is_concerned {
        *memory = Memory::default();
        return Ok(INTERVAL);
    }
    let busy = if settings.enabled { busy_nodes(fleet).await? } else { BTreeSet::new() };
    // What is not wanted any more ends at once.
    let linger = if settings.enabled { settings.linger } else { Duration::ZERO };
    memory.observe(&nodes, busy);
    let wanted: Vec<(&NodeView, &str, Fact)> = nodes
        .iter()
        .filter_map(|view| Some((view, instance_of(view)?, memory.is_busy(view, linger))))
        .filter(|(view, _, is_busy)| memory.is_due(view, *is_busy, is_marked(view)))
        .collect();
    complaints.retain(|id| nodes.iter().any(|view| instance_of(view) == Some(id)));
    // It still fails, although it is not tried in each poll.
    if let Some(failure) = memory.quiet.values().find_map(|quiet| quiet.failure.clone()) {
        complaints.record(failure);
    }
    if wanted.is_empty() {
        return Ok(INTERVAL);
    }
    let since = memory.acted_at.map_or(lately(INTERVAL), |at| at.max(lately(INTERVAL)));
    let groups = fleet.groups(since).await?;
    for (view, instance, is_busy) in wanted {
        let listed = groups.get(instance);
        let step = decide(is_busy, is_marked(view), listed);
        let done = match (step, listed) {
            (Step::None, _) | (_, None) => Ok(()),
            (Step::Forget, Some(_)) => mark(node, &view.id, false).await,
            (Step::Protect, Some(listed)) => {
                memory.acted_at = Some(Instant::now());
                protect(node, view, instance, &listed.group).await
            }
            (Step::Release, Some(listed)) => {
                memory.acted_at = Some(Instant::now());
                let released =
                    node.autoscaling.set_protection(&listed.group, instance, false).await;
                if released.is_ok() {
                    tracing::info!(instance, "no longer protected from scale-in");
                }
                released.map_err(Into::into)
            }
        };
        match (&done, step) {
            (Err(why), _) => memory.be_quiet(view, is_busy, RETRY_AFTER, Some(chain(why))),
            (Ok(()), Step::None) => memory.be_quiet(view, is_busy, CONFIRMED_FOR, None),
            (Ok(()), _) => drop(memory.quiet.remove(&view.id)),
        }
        complaints.take("protecting it from scale-in", instance, done)?;
    }
    Ok(INTERVAL)
}

impl Memory {
    /// Takes in a complete observation.
    fn observe(&mut self, nodes: &[NodeView], busy: BTreeSet<String>) {
        let now = Instant::now();
        self.began.get_or_insert(now);
        self.busy_at.extend(busy.into_iter().map(|id| (id, now)));
        let is_there = |id: &String| nodes.iter().any(|view| view.id == *id);
        self.busy_at.retain(|id, _| is_there(id));
        self.quiet.retain(|id, quiet| is_there(id) && now < quiet.until);
    }

    fn be_quiet(
        &mut self,
        view: &NodeView,
        is_busy: Fact,
        wait: Duration,
        failure: Option<String>,
    ) {
        let until = Instant::now() + wait;
        self.quiet.insert(view.id.clone(), Quiet { until, is_busy, failure });
    }

    /// Whether a node has had such a task within `linger`. A new leader has not looked for so long; and a node that is
    /// not ready reports nothing.
    fn is_busy(&self, view: &NodeView, linger: Duration) -> Fact {
        if view.availability == Availability::Drain {
            return Fact::No;
        }
        if !view.is_ready() {
            return Fact::CannotTell;
        }
        match (self.busy_at.get(&view.id), self.began) {
            (Some(at), _) if at.elapsed() <= linger.max(INTERVAL / 2) => Fact::Yes,
            (None, Some(began)) if began.elapsed() < linger => Fact::CannotTell,
            _ => Fact::No,
        }
    }

    /// Whether Auto Scaling must be asked about a node.
    fn is_due(&self, view: &NodeView, is_busy: Fact, is_marked: bool) -> bool {
        let may_differ = is_busy == Fact::Yes || is_busy == Fact::No && is_marked;
        may_differ && self.quiet.get(&view.id).is_none_or(|quiet| quiet.is_busy != is_busy)
    }
}

/// Returns the nodes that run a task for which they are protected.
async fn busy_nodes(fleet: &Fleet<'_>) -> Result<BTreeSet<String>, ManagerError> {
    let node = fleet.node;
    if node.settings.protection.all_tasks {
        let work = fleet.work(lately(INTERVAL)).await?;
        let is_idle = |id: &String| work.services.iter().any(|it| it.id == *id && !occupies(it));
        let tasks = work.tasks.iter().filter(|(service, _)| !is_idle(service));
        let live = tasks.flat_map(|(_, tasks)| tasks).filter(|it| !it.has_ended());
        return Ok(live.filter_map(|it| it.node_id.clone()).collect());
    }
    let mut busy = BTreeSet::new();
    for service in node.swarm.fetch_services().await?.iter().filter(|it| keeps_its_node(it)) {
        let tasks = node.swarm.fetch_tasks_of_service(&service.id).await?;
        busy.extend(tasks.into_iter().filter(|it| !it.has_ended()).filter_map(|it| it.node_id));
    }
    Ok(busy)
}

/// Records first that the protection is skep's: a crash in between leaves a record without a protection, which ends.
async fn protect(
    node: &Node,
    view: &NodeView,
    instance: &str,
    group: &str,
) -> Result<(), ManagerError> {
    mark(node, &view.id, true).await?;
    node.autoscaling.set_protection(group, instance, true).await?;
    let settings = &node.settings.protection;
    let what =
        if settings.all_tasks { "a task" } else { "a job, or a task with skep.protect=true" };
    tracing::info!(instance, "protected from scale-in: its node runs {what}");
    Ok(())
}

async fn mark(node: &Node, node_id: &str, is_protected: bool) -> Result<(), ManagerError> {
    let edited = node.swarm.relabel(node_id, |labels, availability| {
        let mut labels = labels.clone();
        let before = match is_protected {
            true => labels.insert(PROTECTED.to_owned(), "true".to_owned()),
            false => labels.remove(PROTECTED),
        };
        (before.is_some() != is_protected).then_some((labels, availability))
    });
    Ok(edited.await.map(drop)?)
}

/// Ends the protection of a node that is taken off the list while its instance stays in the group: nothing would show
/// afterwards whose it was.
pub(super) async fn release(node: &Node, view: &NodeView) -> Result<(), ManagerError> {
    let group = view.labels.get(GROUP).filter(|_| view.labels.contains_key(PROTECTED));
    let (Some(group), Some(instance)) = (group, instance_of(view)) else { return Ok(()) };
    match node.autoscaling.set_protection(group, instance, false).await {
        // It is on its way out, or the permission was taken away: the entry must go all the same.
        Err(AwsError { kind: AwsErrorKind::Validation, .. }) => Ok(()),
        Err(error) if error.kind == AwsErrorKind::AccessDenied => {
            tracing::warn!(instance, "it stays protected from scale-in: {error}");
            Ok(())
        }
        released => Ok(released?),
    }
}
