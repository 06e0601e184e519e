//! Completes the termination hooks of instances that Auto Scaling waits to terminate, that are not members, and whose
//! skep has ended: it crashed during the boot, its configuration has mistakes, or the node left earlier for another
//! reason (`skep leave`, a spot notice, maintenance, a power-off) and the machine stayed. Only a manager can end that
//! wait.
//!
//! Guarantees: the termination hook alone is completed, and only of an instance that every successful answer has listed
//! as waiting for it for [`PATIENCE`], or for [`PATIENCE_WITH_ENDED`] if its skep has recorded that it has ended; the
//! node list has no node of that instance, the ledger has no departure under way, and it can be none of the nodes whose
//! instance is unknown. Such a node may be any instance, but not one whose departure is over, because a node that joins
//! again is identified first, and not one that had begun to wait before the node joined. Where this cannot be determined, or the instance's departure cannot be read, the hook is left
//! alone, and `skep status` reports it; the same holds for a hook that cannot be completed, and it delays no other hook. A
//! launch hook is left to its own deadline. Assumes that the cluster's groups contain nothing but its nodes.
//!
//! An instance whose skep is alive and only slow loses nothing: it has no tasks and no vote, and if its join ends after
//! all, the entry that it leaves is removed like any entry of a dead node.

use std::collections::BTreeMap;
use std::time::Duration;

use time::OffsetDateTime;
use tokio::time::Instant;

use super::complaints::{Complaints, some_of};
use super::duty::{Duty, Poll};
use super::error::ManagerError;
use super::observe::{Fleet, lately};
use super::placed::{Placed, placed};
use super::stand_in::{self, is_silent};
use crate::clients::aws::autoscaling::{GroupInstance, HookResult};
use crate::clients::docker::NodeView;
use crate::clients::ledger::{DepartureRow, MemberRows, Rows};
use crate::common::errors::chain;
use crate::common::fact::Fact;
use crate::common::held_since::HeldSince;
use crate::common::timing::JOIN_IS_RECORDED;
use crate::node::Node;

/// Name of this duty and of its trouble.
pub(super) const NAME: &str = "termination hooks";
/// Time between two polls of all groups, which are one call: the account shares Auto Scaling's limit.
const INTERVAL: Duration = Duration::from_secs(30);
/// The same for the other managers, in case the leader's skep is dead.
const BACKUP_INTERVAL: Duration = Duration::from_secs(120);
/// Time that a living skep has to act: it sees the notice within seconds, and its boot ends after the step that is
/// under way, at the longest a join. Then it asks to leave, or completes the hook itself.
const PATIENCE: Duration = JOIN_IS_RECORDED;
/// The same after a skep has recorded that it has ended, because it then completes no hook; an answer may be some
/// seconds old.
const PATIENCE_WITH_ENDED: Duration = Duration::from_secs(20);
/// Largest difference between the clocks of two managers.
const CLOCKS_DIFFER: Duration = Duration::from_secs(60);

/// Completes such hooks for as long as this node is a manager.
pub(super) async fn run(fleet: &Fleet<'_>) {
    let duty = Duty { name: NAME, first: INTERVAL, after_failure: INTERVAL, trouble: None };
    duty.run(fleet, poll).await;
}

/// Polls once. `memory` has the instances that Auto Scaling waits to terminate.
async fn poll(
    Poll { fleet, memory, complaints }: Poll<'_, HeldSince<String>>,
) -> Result<Duration, ManagerError> {
    let node = fleet.node;
    let listed = fleet.groups(lately(INTERVAL / 2)).await?;
    if listed.values().all(|it| !it.lifecycle_state.waits_for_departure()) {
        if listed.contains_key(&node.instance.id) {
            memory.observe([], Instant::now());
        }
        complaints.retain(|id| memory.since(id).is_some());
        node.state.trouble(NAME, None);
        return Ok(interval(fleet, &fleet.nodes(lately(INTERVAL)).await?));
    }
    // The rows and the list are read last, so that they contain a node that has joined while Auto Scaling answered.
    let now = Instant::now();
    let mut departures = fleet.departures(now).await?.copy();
    let waiting = listed.iter().filter(|(_, it)| it.lifecycle_state.waits_for_departure());
    departures.extend(node.ledger.fetch_workers_departures(waiting.map(|(id, _)| id)).await?);
    let managers = fleet.managers(now).await?;
    let nodes = fleet.nodes(Instant::now()).await?;
    let seen = Observed {
        listed: &listed,
        placed: &placed(&nodes, &managers.rows),
        managers: &managers,
        departures: &departures,
        nodes: &nodes,
        answering_since: node.ledger.answering_since(),
        time: OffsetDateTime::now_utc(),
    };
    let mut overdue = overdue(&seen, &node.instance.id, memory, Instant::now());
    overdue.refused = release(node, &overdue.nobody, complaints).await;
    complaints.retain(|id| memory.since(id).is_some());
    let held = overdue.held();
    if let Some(held) = &held {
        complaints.record(held.clone());
    }
    node.state.trouble(NAME, held);
    Ok(interval(fleet, &nodes))
}

fn interval(fleet: &Fleet<'_>, nodes: &[NodeView]) -> Duration {
    if fleet.is_leader(nodes) { INTERVAL } else { BACKUP_INTERVAL }
}

/// Completes the hook of each instance, even if others fail. Returns the failures, with their instances.
async fn release(
    node: &Node,
    instances: &[String],
    complaints: &mut Complaints,
) -> BTreeMap<String, Vec<String>> {
    const WHY: &str = "Auto Scaling waits to terminate this instance, which is not a member and whose skep has ended or does not answer";
    let mut refused: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for instance in instances {
        if complaints.is_news(instance, WHY) {
            tracing::warn!(instance, "{WHY}");
        }
        if let Err(error) = stand_in::release(node, instance, HookResult::Continue).await {
            refused.entry(chain(&error)).or_default().push(instance.clone());
        }
    }
    refused
}

/// One observation.
struct Observed<'a> {
    /// All instances of the cluster's groups, from one answer.
    listed: &'a BTreeMap<String, GroupInstance>,
    /// Which instance each node is.
    placed: &'a [Placed],
    managers: &'a MemberRows,
    departures: &'a Rows<DepartureRow>,
    nodes: &'a [NodeView],
    /// Since when the ledger has answered this manager.
    answering_since: Option<Instant>,
    /// The time by the clock.
    time: OffsetDateTime,
}

/// Instances that have waited for long enough.
#[derive(Debug, Default, PartialEq, Eq)]
struct Overdue {
    /// Instances that have no node: a manager completes their hooks.
    nobody: Vec<String>,
    /// Instances of which a row in the ledger cannot be read.
    unreadable: Vec<String>,
    /// Instances whose hook could not be completed, by the reason.
    refused: BTreeMap<String, Vec<String>>,
    /// Instances that may be the node of this id, whose instance is unknown.
    maybe: Option<(String, Vec<String>)>,
}

impl Overdue {
    /// Returns the reasons why hooks are not completed, with the remedy, as text.
    fn held(&self) -> Option<String> {
        let unreadable = (!self.unreadable.is_empty()).then(|| {
            format!(
                "the termination hook of {} is not completed: one of its rows in the ledger cannot be read, so it may be a member, or about to leave; repair or delete that row",
                some_of(&self.unreadable)
            )
        });
        let maybe = self.maybe.as_ref().map(|(node, instances)| {
            format!(
                "the termination hook of {} is not completed: it is unknown which instance node {node} is, and it may be that one; remove that node from the swarm, or complete the hook by hand",
                some_of(instances)
            )
        });
        let refused = self.refused.iter().map(|(why, instances)| {
            format!("the termination hook of {} cannot be completed: {why}", some_of(instances))
        });
        let all: Vec<String> = unreadable.into_iter().chain(maybe).chain(refused).collect();
        (!all.is_empty()).then(|| all.join("; "))
    }
}

/// Takes in an answer, and returns the instances whose wait must end. An answer that does not list the asking instance
/// either is about another account or region, and proves nothing.
fn overdue(seen: &Observed<'_>, own: &str, since: &mut HeldSince<String>, now: Instant) -> Overdue {
    let mut overdue = Overdue::default();
    if !seen.listed.contains_key(own) {
        return overdue;
    }
    let waits = |id: &String| {
        let instance = seen.listed.get(id);
        let is_held = instance.is_some_and(|it| it.lifecycle_state.waits_for_departure());
        *id != own && is_held && !is_nobody(seen, id).is_no()
    };
    since.observe(seen.listed.keys().filter(|id| waits(id)).cloned(), now);
    // A node whose instance is unknown may be any instance that has not left, but not one that had begun to wait before
    // the node joined: whoever joins then has no tasks and no vote yet.
    let unexplained = |since: Instant| {
        let mut nodes =
            seen.nodes.iter().filter(|view| !view.is_down() && !is_explained(seen, view));
        let began = seen.time - (now - since) + CLOCKS_DIFFER;
        nodes.find(|view| view.joined_at.is_none_or(|at| at <= began))
    };
    let is_due = |(id, since): &(&String, Instant)| {
        is_silent(*since, patience(seen, id), seen.answering_since, now)
    };
    for (id, since) in since.iter().filter(is_due) {
        match is_nobody(seen, id) {
            Fact::No => {}
            Fact::CannotTell => overdue.unreadable.push(id.clone()),
            Fact::Yes => match unexplained(since).filter(|_| !has_left(seen, id)) {
                Some(view) => {
                    let (_, maybe) = overdue.maybe.get_or_insert((view.id.clone(), vec![]));
                    maybe.push(id.clone());
                }
                None => overdue.nobody.push(id.clone()),
            },
        }
    }
    overdue
}

/// Returns the time in which the instance's own skep may still act.
fn patience(seen: &Observed<'_>, id: &str) -> Duration {
    let has_ended = seen.departures.rows.iter().any(|row| row.instance_id == id && row.ended);
    if has_ended { PATIENCE_WITH_ENDED } else { PATIENCE }
}

/// Whether the instance is no node and has no departure under way.
fn is_nobody(seen: &Observed<'_>, id: &str) -> Fact {
    let mut departures = seen.departures.rows.iter().filter(|row| row.instance_id == id);
    if seen.placed.iter().any(|it| it.instance_id == id)
        || departures.any(|row| !is_over(seen, row))
    {
        return Fact::No;
    }
    let is_hidden = seen.managers.hides(id) || seen.departures.hides(id);
    if is_hidden { Fact::CannotTell } else { Fact::Yes }
}

/// Whether the departure is over. An instance that left earlier, for any reason, has ended its skep: only a manager can
/// complete its hook. An instance whose departure has failed is served as a member for as long as the swarm lists its
/// node.
fn is_over(seen: &Observed<'_>, row: &DepartureRow) -> bool {
    row.state.is_over() && seen.nodes.iter().all(|view| view.id != row.node_id)
}

fn has_left(seen: &Observed<'_>, id: &str) -> bool {
    seen.departures.rows.iter().any(|row| row.instance_id == id && is_over(seen, row))
}

fn is_explained(seen: &Observed<'_>, view: &NodeView) -> bool {
    seen.placed.iter().any(|it| it.node_id == view.id)
}

#[cfg(test)]
pub(super) mod tests;
