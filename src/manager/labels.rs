//! Sets node labels: a node's ledger row lists the labels that it requests, and only a manager can set them.
//!
//! Guarantees: labels that skep has not set are never changed, whatever their value. The node itself lists the keys
//! that skep has set ([`OWNED`]); that list is written together with the labels, at the version of the node that was
//! read. A node that joined paused is activated in the write that first labels it, and never again: a later pause is an
//! operator's. Assumes nothing about earlier acts.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::Instant;

use super::availability;
use super::duty::{Duty, Poll};
use super::error::ManagerError;
use super::node_edit::{BACKUP, Edit, LEADER, Rhythm, rows_of, with_rows, write};
use super::observe::{Fleet, lately};
use super::placed::count_instances;
use crate::clients::docker::{Availability, NodeView};
use crate::clients::ledger::Member;
use crate::common::held_since::HeldSince;
use crate::common::labels::{Labels, OWN_NAMESPACE, OWNED};
use crate::common::log_once::LogOnce;

/// Name of this duty.
const NAME: &str = "labels";
/// Age at which a node without labels is taken to have no skep: the ledger is no longer read for it.
const NEW: Duration = Duration::from_secs(120);
/// Time after which a poll ends although nodes are left, as where a thousand join at once. The next one follows without a
/// pause.
const LONGEST_POLL: Duration = Duration::from_secs(1);

/// State that one poll leaves for the next. It only saves reads and repeated log lines.
#[derive(Default)]
struct Memory {
    /// Nodes without labels, by node id.
    bare: HeldSince<String>,
    read_at: Option<Instant>,
    /// The last poll has left nodes for this one.
    is_more: bool,
    /// Labels set by others that were already logged, by node id.
    left_alone: LogOnce<String, BTreeSet<String>>,
}

/// Labels nodes for as long as this node is a manager.
pub(super) async fn run(fleet: &Fleet<'_>) {
    let (first, after_failure) = (Duration::ZERO, BACKUP.look);
    Duty { name: NAME, first, after_failure, trouble: None }.run(fleet, poll).await;
}

async fn poll(
    Poll { fleet, memory, complaints }: Poll<'_, Memory>,
) -> Result<Duration, ManagerError> {
    // A list from before the last writes would show the same nodes as new.
    let since = if memory.is_more { Instant::now() } else { lately(LEADER.look) };
    let nodes = fleet.nodes(since).await?;
    let rhythm = Rhythm::of(fleet, &nodes);
    let now = Instant::now();
    let is_everybodys_turn = memory.is_everybodys_turn(count_instances(&nodes), rhythm, now);
    let due = memory.due(&nodes, is_everybodys_turn, rhythm.patience, now);
    memory.is_more = false;
    if due.is_empty() {
        return Ok(rhythm.look);
    }
    // An older row could undo the labels that another manager has set by a newer one.
    let members = rows_of(fleet, &due, now).await?;
    memory.left_alone.retain(|id| nodes.iter().any(|view| view.id == *id));
    for (view, member) in with_rows(&due, &members) {
        let left_alone = left_alone(&view.labels, &member.labels);
        memory.log_left_alone(view, member, left_alone);
        let written = write(fleet.node, view, member, decide).await;
        if let Ok(true) = written {
            let (instance, labels) = (&member.instance_id, &member.labels);
            tracing::info!(instance, node = view.id, ?labels, "labelled");
        }
        // Neither a refusal for one node nor an unreadable departure may delay the other nodes.
        complaints.take("labelling", &member.instance_id, written.map(drop))?;
        if now.elapsed() > LONGEST_POLL {
            memory.is_more = true;
            return Ok(Duration::ZERO);
        }
    }
    if is_everybodys_turn {
        memory.read_at = Some(now);
        complaints.retain(|id| members.iter().any(|row| row.instance_id == id));
    }
    Ok(rhythm.look)
}

impl Memory {
    /// Whether it is time to read the rows of all nodes.
    fn is_everybodys_turn(&self, nodes: usize, rhythm: &Rhythm, now: Instant) -> bool {
        self.read_at.is_none_or(|at| now - at >= rhythm.read_interval(nodes))
    }

    /// Returns the nodes whose rows must be read now: all, or those without labels that are new.
    fn due(
        &mut self,
        nodes: &[NodeView],
        is_everybodys_turn: bool,
        patience: Duration,
        now: Instant,
    ) -> Vec<NodeView> {
        let is_bare = |view: &&NodeView| !view.is_down() && !view.labels.contains_key(OWNED);
        self.bare.observe(nodes.iter().filter(is_bare).map(|view| view.id.clone()), now);
        let is_new = |view: &NodeView| {
            let bare_for = self.bare.held_for(&view.id, now);
            bare_for.is_some_and(|bare_for| (patience..NEW).contains(&bare_for))
        };
        nodes.iter().filter(|view| is_everybodys_turn || is_new(view)).cloned().collect()
    }

    fn log_left_alone(&mut self, view: &NodeView, member: &Member, keys: BTreeSet<&str>) {
        let keys: BTreeSet<String> = keys.into_iter().map(str::to_owned).collect();
        if self.left_alone.is_news(view.id.clone(), keys.clone()) && !keys.is_empty() {
            let keys: Vec<String> = keys.into_iter().collect();
            tracing::warn!(
                instance = member.instance_id,
                node = view.id,
                "labels left alone, because skep has not set them: {}",
                keys.join(", ")
            );
        }
    }
}

/// Returns the keys that skep has set on a node with these labels, at its request. The list that an earlier skep has
/// written names the facts of the instance, too: those are not removed.
fn owned(labels: &Labels) -> BTreeSet<&str> {
    let keys = labels.get(OWNED).map(String::as_str).unwrap_or_default();
    keys.split(',').filter(|key| !key.is_empty() && !key.starts_with(OWN_NAMESPACE)).collect()
}

/// Returns the keys that a node requests and does not get, because another actor has set them.
fn left_alone<'a>(seen: &Labels, wanted: &'a Labels) -> BTreeSet<&'a str> {
    let owned = owned(seen);
    let is_taken = |key: &str| seen.contains_key(key) && !owned.contains(key);
    wanted.keys().map(String::as_str).filter(|key| is_taken(key)).collect()
}

/// Returns the labels that a node must get. The first ones come with the availability of a node that is new.
fn decide(seen: &Labels, before: Availability, member: &Member) -> Edit {
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
    let after = if is_first { availability::first(&mut labels, before, member) } else { before };
    (labels != *seen || after != before).then_some((labels, after))
}

#[cfg(test)]
pub(super) mod tests;
