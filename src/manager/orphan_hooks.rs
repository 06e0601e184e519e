//! Instances that Auto Scaling waits to terminate, that are no members, and whose skep has ended: it crashed on
//! the way, its configuration has mistakes, or the node has left earlier for another reason (`skep leave`, a
//! spot notice, maintenance, a power-off) and the machine has stayed. Nobody but a manager ends that wait.
//!
//! Guarantees: the termination hook alone is completed, and only of an instance that every successful answer
//! has listed as waiting for it for [`PATIENCE`], or for [`PATIENCE_WITH_ENDED`] where its skep has said that
//! it has ended; of which the ledger has no member and no departure under way, and that can be none of the
//! nodes on the list. A node that no row explains may be any instance, but for those whose departure is over:
//! one that joins again after that has a row before. Where this cannot be told, or one of the instance's own rows
//! cannot be read, the hook is left alone, and `skep status` says so; the same for a hook that cannot be completed,
//! which holds up no other. A launch hook is left to its own deadline. Assumes that the cluster's groups hold nothing
//! but its nodes. They are known from the rows of members and of departures, and remembered: whoever leaves last of
//! its group leaves nothing else that names it.
//!
//! One whose skep lives, and is only slow, loses nothing by it: it has no tasks and no vote, and what a join
//! leaves behind that ends after all goes like any entry of a dead node.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::time::Duration;

use tokio::time::Instant;

use super::error::ManagerError;
use super::rounds;
use super::stand_in::{self, WaitingSince, is_silent};
use super::troubles::{Complaints, show_unreadable, some_of};
use crate::clients::aws::autoscaling::{GroupInstance, HookResult};
use crate::clients::docker::NodeView;
use crate::clients::ledger::{Attempt, DepartureRow, Member, MemberRows, Rows};
use crate::common::fact::Fact;
use crate::node::Node;

/// Who has the trouble.
const WHO: &str = "termination hooks";
/// The same for rows of attempts that cannot be read.
const ATTEMPTS: &str = "attempts to join";
/// Between two questions about all groups, which are one call: Auto Scaling's limit is shared by the account.
const INTERVAL: Duration = Duration::from_secs(30);
/// The other managers, in case the leader's skep is dead.
const BACKUP_INTERVAL: Duration = Duration::from_secs(120);
/// A skep that lives sees the notice within seconds, and its boot ends after the step that is under way:
/// the longest is a join, which is over within 90 s. Then it asks to leave, or completes the hook itself.
const PATIENCE: Duration = Duration::from_secs(120);

/// After its own last word a skep completes nothing any more; an answer may be behind by some seconds.
const PATIENCE_WITH_ENDED: Duration = Duration::from_secs(20);

/// Of an Auto Scaling group.
const LONGEST_NAME: usize = 255;
/// Groups that no row names any more are remembered up to so many: one question is about no more.
const MOST_GROUPS: usize = 50;

/// What one look leaves for the next.
#[derive(Default)]
struct Memory {
    since: WaitingSince,
    /// The groups that rows have named.
    groups: BTreeSet<String>,
    complaints: Complaints,
}

/// Ends such waits for as long as this node is a manager; never returns.
pub async fn release_orphan_hooks(node: &Node, node_id: &str) -> Infallible {
    let what = "looking for instances that never joined";
    rounds::go(node, what, (INTERVAL, INTERVAL), async |memory: &mut Memory| {
        let is_leader = look(node, node_id, memory).await.inspect_err(|error| {
            // Others look after it, and say it.
            if error.is_not_manager() {
                node.state.trouble(WHO, None);
                node.state.show_trouble(ATTEMPTS, None);
            }
        })?;
        Ok(if is_leader { INTERVAL } else { BACKUP_INTERVAL })
    })
    .await
}

/// Whether this node is the leader.
async fn look(node: &Node, me: &str, memory: &mut Memory) -> Result<bool, ManagerError> {
    let own = node.instance.id.as_str();
    let (members, departures) =
        tokio::try_join!(node.ledger.fetch_members(), node.ledger.survey_departures())?;
    memory.take_in(groups_of(&members, &departures.rows, node.group()));
    let groups = memory.groups.iter().map(String::as_str).collect();
    let listed = node.autoscaling.fetch_groups(&groups).await?;
    // The list and the rows last: whoever has joined while Auto Scaling answered is in them.
    let (members, departures, attempts) = tokio::try_join!(
        node.ledger.survey_members(),
        node.ledger.survey_departures(),
        node.ledger.survey_attempts()
    )?;
    show_unreadable(node, ATTEMPTS, &attempts.unreadable);
    let nodes = node.swarm.fetch_nodes().await?;
    let seen = Observed {
        listed: &listed,
        members: &members,
        departures: &departures,
        attempts: &attempts,
        nodes: &nodes,
        answering_since: node.ledger.answering_since(),
    };
    let mut overdue = overdue(&seen, own, &mut memory.since, Instant::now());
    overdue.refused = release(node, &overdue.nobody, &mut memory.complaints).await;
    memory.complaints.retain(|id| memory.since.contains_key(id));
    node.state.trouble(WHO, overdue.held());
    Ok(nodes.iter().any(|view| view.id == me && view.is_leader()))
}

/// Completes the hook of each, whatever comes of the others'. Returns the failures, with their instances.
async fn release(
    node: &Node,
    instances: &[String],
    complaints: &mut Complaints,
) -> BTreeMap<String, Vec<String>> {
    const WHY: &str = "Auto Scaling waits to terminate it, it is no member and its skep has ended or says nothing";
    let mut refused: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for instance in instances {
        if complaints.is_news(instance, WHY) {
            tracing::warn!(instance, "{WHY}");
        }
        if let Err(error) = stand_in::release(node, instance, HookResult::Continue).await {
            refused.entry(crate::common::errors::chain(&error)).or_default().push(instance.clone());
        }
    }
    refused
}

/// The groups that rows name, and this node's own.
fn groups_of(
    members: &[Member],
    departures: &[DepartureRow],
    own: Option<&String>,
) -> BTreeSet<String> {
    let of_members = members.iter().filter_map(|row| row.group.as_ref());
    let of_departures = departures.iter().filter_map(|row| row.group.as_ref());
    // A name that no group can have would fail the question about all of them.
    let is_name = |group: &&String| (1..=LONGEST_NAME).contains(&group.chars().count());
    of_members.chain(of_departures).chain(own).filter(is_name).cloned().collect()
}

impl Memory {
    fn take_in(&mut self, named: BTreeSet<String>) {
        if self.groups.union(&named).count() > MOST_GROUPS {
            self.groups.clear();
        }
        self.groups.extend(named);
    }
}

/// What a look has seen.
struct Observed<'a> {
    /// All instances of the cluster's groups, by one answer.
    listed: &'a BTreeMap<String, GroupInstance>,
    members: &'a MemberRows,
    departures: &'a Rows<DepartureRow>,
    attempts: &'a Rows<Attempt>,
    nodes: &'a [NodeView],
    /// Since when the ledger has answered this manager.
    answering_since: Option<Instant>,
}

/// Those that have waited for long enough.
#[derive(Debug, Default, PartialEq, Eq)]
struct Overdue {
    /// Their wait is to end.
    nobody: Vec<String>,
    /// Rows of their own in the ledger cannot be read.
    unreadable: Vec<String>,
    /// Those whose wait could not be ended, by why.
    refused: BTreeMap<String, Vec<String>>,
    /// They may be the node of this id, which no row explains.
    maybe: Option<(String, Vec<String>)>,
}

impl Overdue {
    /// Why hooks are not completed, and the remedy, in words.
    fn held(&self) -> Option<String> {
        let unreadable = (!self.unreadable.is_empty()).then(|| {
            format!(
                "the termination hook of {} is not completed: a row of its own in the ledger cannot be read, so that it may be a member, or about to leave; mend or delete that row",
                some_of(&self.unreadable)
            )
        });
        let maybe = self.maybe.as_ref().map(|(node, instances)| {
            format!(
                "the termination hook of {} is not completed: node {node} has no row in the ledger and may be on it; take that node out of the swarm, or complete the hook by hand",
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

/// Takes in an answer, and says whose wait is to end. One that does not list the asking instance
/// either is about another account or region, and proves nothing.
fn overdue(seen: &Observed<'_>, own: &str, since: &mut WaitingSince, now: Instant) -> Overdue {
    let mut overdue = Overdue::default();
    if !seen.listed.contains_key(own) {
        return overdue;
    }
    let waits = |id: &String| {
        let instance = seen.listed.get(id);
        let is_held = instance.is_some_and(|it| it.lifecycle_state.waits_for_departure());
        *id != own && is_held && !is_nobody(seen, id).is_no()
    };
    since.retain(|id, _| waits(id));
    for id in seen.listed.keys().filter(|id| waits(id)) {
        since.entry(id.clone()).or_insert(now);
    }
    let unexplained = seen.nodes.iter().find(|view| !view.is_down() && !is_explained(seen, view));
    let is_due = |(id, since): &(&String, &Instant)| {
        is_silent(**since, patience(seen, id), seen.answering_since, now)
    };
    let mut maybe = vec![];
    for (id, _) in since.iter().filter(is_due) {
        match is_nobody(seen, id) {
            Fact::No => {}
            Fact::CannotTell => overdue.unreadable.push(id.clone()),
            // A node that nobody knows yet may be any of those that have not left.
            Fact::Yes if unexplained.is_some() && !has_left(seen, id) => maybe.push(id.clone()),
            Fact::Yes => overdue.nobody.push(id.clone()),
        }
    }
    overdue.maybe = unexplained.filter(|_| !maybe.is_empty()).map(|view| (view.id.clone(), maybe));
    overdue
}

/// How long the instance's own skep may still have something to say.
fn patience(seen: &Observed<'_>, id: &str) -> Duration {
    let has_ended = seen.departures.rows.iter().any(|row| row.instance_id == id && row.ended);
    if has_ended { PATIENCE_WITH_ENDED } else { PATIENCE }
}

/// No member, nobody who asks to leave, and no node is at the address from which it has tried to join.
fn is_nobody(seen: &Observed<'_>, id: &str) -> Fact {
    let is_at = |view: &NodeView, attempt: &Attempt| {
        view.address.as_ref().and_then(|it| it.parse().ok()) == Some(attempt.address)
    };
    let mut attempts = seen.attempts.rows.iter().filter(|attempt| attempt.instance_id == id);
    let mut departures = seen.departures.rows.iter().filter(|row| row.instance_id == id);
    if seen.members.rows.iter().any(|row| row.instance_id == id)
        || departures.any(|row| !is_over(seen, row))
        || attempts.any(|attempt| seen.nodes.iter().any(|view| is_at(view, attempt)))
    {
        return Fact::No;
    }
    let is_hidden = seen.members.hides(id) || seen.departures.hides(id) || seen.attempts.hides(id);
    if is_hidden { Fact::CannotTell } else { Fact::Yes }
}

/// One that has left earlier, for whatever reason, has ended its skep: nobody else completes its hook. One
/// whose departure has failed is taken care of as a member for as long as the swarm lists it.
fn is_over(seen: &Observed<'_>, row: &DepartureRow) -> bool {
    row.state.is_over() && seen.nodes.iter().all(|view| view.id != row.node_id)
}

fn has_left(seen: &Observed<'_>, id: &str) -> bool {
    seen.departures.rows.iter().any(|row| row.instance_id == id && is_over(seen, row))
}

fn is_explained(seen: &Observed<'_>, view: &NodeView) -> bool {
    seen.members.rows.iter().any(|row| row.node_id == view.id)
        || seen.departures.rows.iter().any(|row| row.node_id == view.id)
}

#[cfg(test)]
mod tests;
