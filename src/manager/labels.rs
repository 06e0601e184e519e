//! Sets node labels: a node's ledger row lists the labels that it requests, and only a manager can set them. Likewise
//! drains or pauses a node that stays but must get no new tasks, and activates it afterwards.
//!
//! Guarantees: labels that skep has not set are never changed, whatever their value. The node itself lists the keys
//! that skep has set ([`OWNED`]); that list is written together with the labels, at the version of the node that was
//! read. A node that joined paused is activated in the write that first labels it, and never again: a later pause is an
//! operator's. An availability that another actor has set is not changed (see [`crate::clients::docker::settle`]), and
//! a departing node is not activated. Assumes nothing about earlier acts.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::time::Duration;

use tokio::time::Instant;

use super::error::ManagerError;
use super::rounds::{self, AT_ONCE};
use super::troubles::Complaints;
use crate::clients::docker::{Availability, NodeView, SwarmErrorKind, settle};
use crate::clients::ledger::{DepartureState, LedgerError, Member, MemberState};
use crate::common::instance::SchedulingHold;
use crate::common::labels::{AVAILABILITY, Labels, OWNED, is_storable};
use crate::node::Node;

/// Intervals of a manager's polls.
struct Rhythm {
    /// Time between two reads of Docker's list, which is local: a node that joined paused waits at most this long.
    look: Duration,
    /// Time that a node can be without labels before this manager labels it.
    patience: Duration,
    /// Time between two reads of the ledger, which costs money by the row; changed labels follow within this time.
    read: Duration,
}

const LEADER: Rhythm = Rhythm {
    look: Duration::from_secs(2),
    patience: Duration::ZERO,
    read: Duration::from_secs(30),
};
/// The other managers act when the leader's skep has not.
const BACKUP: Rhythm = Rhythm {
    look: Duration::from_secs(15),
    patience: Duration::from_secs(20),
    read: Duration::from_secs(300),
};
/// Time between two reads of the ledger while there is a node whose availability skep has changed: the node must be
/// active again soon.
const MARKED: Duration = Duration::from_secs(5);
/// Age at which a node without labels is taken to have no skep: the ledger is no longer read for it.
const NEW: Duration = Duration::from_secs(120);

/// State that one poll leaves for the next. It only saves reads and repeated log lines.
#[derive(Default)]
struct Memory {
    /// Since when each node has been seen without labels, by node id.
    bare_since: BTreeMap<String, Instant>,
    read_at: Option<Instant>,
    /// Labels set by others that were already logged, by node id.
    said: BTreeMap<String, BTreeSet<String>>,
    /// Failures with one node, by instance id.
    complaints: Complaints,
}

/// Labels nodes for as long as this node is a manager; never returns.
pub async fn keep_labelled(node: &Node, node_id: &str) -> Infallible {
    rounds::go(node, "labelling nodes", (AT_ONCE, BACKUP.look), async |memory: &mut Memory| {
        Ok(look(node, node_id, memory).await?.look)
    })
    .await
}

async fn look(node: &Node, me: &str, memory: &mut Memory) -> Result<&'static Rhythm, ManagerError> {
    let nodes = node.swarm.fetch_nodes().await?;
    let is_leader = nodes.iter().any(|view| view.id == me && view.is_leader());
    let rhythm = if is_leader { &LEADER } else { &BACKUP };
    let now = Instant::now();
    if !memory.is_due(&nodes, rhythm, now) {
        return Ok(rhythm);
    }
    let members = node.ledger.fetch_members().await?;
    memory.read_at = Some(now);
    memory.said.retain(|id, _| nodes.iter().any(|view| view.id == *id));
    memory.complaints.retain(|id| members.iter().any(|row| row.instance_id == id));
    for view in &nodes {
        let Some(member) = row_of(&view.id, &members) else { continue };
        let said = memory.said.entry(view.id.clone()).or_default();
        let done = match label(node, view, member, said).await {
            Err(ManagerError::Swarm(error)) if error.kind == SwarmErrorKind::Stale => {
                tracing::debug!(instance = member.instance_id, "{error}");
                continue;
            }
            done => done,
        };
        // Neither a refusal for one node nor an unreadable departure may delay the other nodes.
        memory.complaints.take("labelling", &member.instance_id, done)?;
    }
    Ok(rhythm)
}

impl Memory {
    /// Whether it is time to read the ledger.
    fn is_due(&mut self, nodes: &[NodeView], rhythm: &Rhythm, now: Instant) -> bool {
        let is_bare = |view: &&NodeView| !view.is_down() && !view.labels.contains_key(OWNED);
        let bare: Vec<&NodeView> = nodes.iter().filter(is_bare).collect();
        self.bare_since.retain(|id, _| bare.iter().any(|view| view.id == *id));
        let since = |view: &&NodeView| *self.bare_since.entry(view.id.clone()).or_insert(now);
        let ages: Vec<Duration> = bare.iter().map(since).map(|since| now - since).collect();
        let is_marked = nodes.iter().any(|view| view.labels.contains_key(AVAILABILITY));
        let read = if is_marked { MARKED + rhythm.patience } else { rhythm.read };
        ages.into_iter().any(|age| (rhythm.patience..NEW).contains(&age))
            || self.read_at.is_none_or(|at| now - at >= read)
    }
}

/// Returns the row of a node that stays. A node that joined under another role before has two rows: the newer one
/// counts.
fn row_of<'a>(node_id: &str, members: &'a [Member]) -> Option<&'a Member> {
    members
        .iter()
        .filter(|member| member.node_id == node_id)
        .max_by_key(|member| member.updated_at)
        .filter(|member| member.state == MemberState::Ready)
}

async fn label(
    node: &Node,
    view: &NodeView,
    member: &Member,
    said: &mut BTreeSet<String>,
) -> Result<(), ManagerError> {
    let who = member.instance_id.as_str();
    let left_alone = left_alone(&view.labels, &member.labels);
    for key in left_alone.iter().filter(|key| !said.contains(**key)) {
        tracing::warn!(
            instance = who,
            node = view.id,
            "the label {key} is left alone: skep has not set it, or must not set it"
        );
    }
    *said = left_alone.into_iter().map(str::to_owned).collect();
    let mark = view.labels.get(AVAILABILITY);
    // If skep's mark on the node has changed meanwhile, the next poll decides, with the row of then.
    let edit = |labels: &Labels, availability| {
        (labels.get(AVAILABILITY) == mark).then(|| decide(labels, availability, member)).flatten()
    };
    let Some((_, availability)) = edit(&view.labels, view.availability) else { return Ok(()) };
    // The mark is set, so the departure that may have set it is already in the ledger.
    let is_let_go = mark.is_some() && availability < view.availability;
    if is_let_go && is_leaving(node, member).await? {
        return Ok(());
    }
    node.swarm.relabel(&view.id, edit).await?;
    if availability != view.availability {
        let scheduling_hold = member.scheduling_hold.map(SchedulingHold::as_str);
        let availability = availability.as_str();
        tracing::info!(
            instance = who,
            node = view.id,
            scheduling_hold,
            availability,
            "availability set"
        );
    }
    tracing::info!(instance = who, node = view.id, labels = ?member.labels, "labelled");
    Ok(())
}

/// Whether a departure of the member is under way, requested by the node or by managers.
async fn is_leaving(node: &Node, member: &Member) -> Result<bool, LedgerError> {
    let row = node.ledger.fetch_departure(&member.instance_id).await?;
    Ok(row.is_some_and(|row| row.node_id == member.node_id && row.state < DepartureState::Removed))
}

/// Returns the availability of a node that stays and has this scheduling hold.
fn wanted(scheduling_hold: SchedulingHold) -> Availability {
    match scheduling_hold {
        SchedulingHold::Rebalance => Availability::Pause,
        SchedulingHold::Standby => Availability::Drain,
    }
}

/// Returns the keys that skep has set on a node with these labels.
fn owned(labels: &Labels) -> BTreeSet<&str> {
    let keys = labels.get(OWNED).map(String::as_str).unwrap_or_default();
    keys.split(',').filter(|key| !key.is_empty() && *key != OWNED).collect()
}

/// Returns the keys that a node requests and does not get: another actor has set them, or its row was edited by hand.
fn left_alone<'a>(seen: &Labels, wanted: &'a Labels) -> BTreeSet<&'a str> {
    let owned = owned(seen);
    let is_taken = |key: &str| seen.contains_key(key) && !owned.contains(key);
    let keys = wanted.iter().filter(|(key, value)| is_taken(key) || !is_storable(key, value));
    keys.map(|(key, _)| key.as_str()).collect()
}

/// Returns the labels and the availability that a node must get, or `None` if it has them.
fn decide(
    seen: &Labels,
    availability: Availability,
    member: &Member,
) -> Option<(Labels, Availability)> {
    let owned = owned(seen);
    let left_alone = left_alone(seen, &member.labels);
    let own = member.labels.iter().filter(|(key, _)| !left_alone.contains(key.as_str()));
    let own: Labels = own.map(|(key, value)| (key.clone(), value.clone())).collect();
    let keys: Vec<&str> = own.keys().map(String::as_str).collect();
    let keys = keys.join(",");
    let mut labels = seen.clone();
    labels.retain(|key, _| !owned.contains(key.as_str()));
    labels.insert(OWNED.to_owned(), keys);
    labels.extend(own);
    let is_first = !seen.contains_key(OWNED);
    let activate = |availability| {
        let activates = is_first && member.joined_paused && availability == Availability::Pause;
        if activates { Availability::Active } else { availability }
    };
    let scheduling_hold = member.scheduling_hold.map(wanted);
    let then = settle(&mut labels, activate(availability), scheduling_hold);
    // A departure that was withdrawn may have come before the first labels.
    let then = if scheduling_hold.is_none() { activate(then) } else { then };
    (labels != *seen || then != availability).then_some((labels, then))
}

#[cfg(test)]
mod tests;
