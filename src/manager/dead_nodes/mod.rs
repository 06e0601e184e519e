//! Removes nodes that died without a departure: no notice, no row, only an entry that stays Down; and the entries that
//! failed joins leave behind.
//!
//! Guarantees: a node is removed from the list only when Docker has called it Down for a while **and** either a
//! successful answer of Auto Scaling no longer lists its instance, for which its row names a group, or its address
//! belongs to another live node. An answer that does not list the asking instance either proves nothing. A manager is
//! demoted first, one per poll. An entry that is left alone is reported, with the reason, once in the log and in
//! `skep status`.
//!
//! Assumes a member row, or an attempt to join, that names the node's instance; a node without either is left alone,
//! and so is one whose row may be among those that cannot be read.

mod decide;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::time::Duration;

use time::OffsetDateTime;
use tokio::time::Instant;

use super::error::ManagerError;
use super::rounds;
use super::stand_in::{self, WaitingSince};
use crate::clients::aws::autoscaling::Survey;
use crate::clients::docker::NodeView;
use crate::clients::ledger::{Charter, Member};
use crate::common::instance::Role;
use crate::manager::demotion::{Demotion, demote_under_lease};
use crate::node::Node;
use crate::telemetry::metrics::metrics;

use decide::{Decision, Observed, Step, Verdict};

const WHAT: &str = "looking for dead nodes";
/// Time between two polls of Docker's list, which is local; Auto Scaling is asked only about nodes that look dead.
const INTERVAL: Duration = Duration::from_secs(15);
/// The same while time alone will change a verdict.
const BUSY_INTERVAL: Duration = Duration::from_secs(5);
/// Time that a node must look dead before the leader acts: an engine that restarts is Down for some seconds, too.
const LEADER_PATIENCE: Duration = Duration::from_secs(20);
/// The same for the other managers, which act when the leader's skep has not.
const BACKUP_PATIENCE: Duration = Duration::from_secs(60);
/// Interval at which the leader asks about every node. In a fleet that needs many calls it is [`SURVEY_PACE`] for each
/// call, if that is longer: the whole account shares Auto Scaling's limit.
const SURVEY_INTERVAL: Duration = Duration::from_secs(15);
const SURVEY_PACE: Duration = Duration::from_secs(4);
/// Number of other instances' ids in one call.
const IDS_PER_CALL: usize = 49;
/// Factor by which the other managers ask less often.
const BACKUP_FACTOR: u32 = 4;

/// State that cannot be read anywhere. After a restart it starts empty, which only costs time.
#[derive(Default)]
struct Memory {
    /// Since when each node has looked lifeless, by node id.
    lifeless_since: BTreeMap<String, Instant>,
    /// Since when every answer has reported more than half of the swarm gone.
    majority_since: Option<Instant>,
    /// Since when Auto Scaling has been waiting to terminate each instance.
    waiting_since: WaitingSince,
    surveyed_at: Option<(Instant, usize)>,
    /// The verdicts that were logged, and the last failure.
    said: BTreeMap<String, (Verdict, Option<String>)>,
    complaint: Option<String>,
}

/// Removes dead nodes from the list for as long as this node is a manager; never returns.
pub async fn remove_dead_nodes(node: &Node, node_id: &str) -> Infallible {
    rounds::go(node, WHAT, (INTERVAL, INTERVAL), async |memory: &mut Memory| {
        let looked = look(node, node_id, memory).await;
        if looked.as_ref().is_err_and(ManagerError::is_not_manager) {
            node.state.set_verdicts(BTreeMap::new());
        }
        Ok(if looked? { BUSY_INTERVAL } else { INTERVAL })
    })
    .await
}

/// Polls once. Returns whether time alone will change something soon.
async fn look(node: &Node, me: &str, memory: &mut Memory) -> Result<bool, ManagerError> {
    let nodes = node.swarm.fetch_nodes().await?;
    let is_leader = nodes.iter().any(|view| view.id == me && view.is_leader());
    let now = Instant::now();
    let lifeless_for = memory.lifeless_for(&nodes, now);
    let is_survey_due = memory.is_survey_due(is_leader, now);
    if lifeless_for.is_empty() && !is_survey_due && memory.waiting_since.is_empty() {
        memory.say(node, &nodes, &lifeless_for, BTreeMap::new(), &BTreeMap::new());
        return Ok(false);
    }
    let (members, attempts) =
        tokio::try_join!(node.ledger.survey_members(), node.ledger.survey_attempts())?;
    let unreadable = members.unreadable.into_iter().chain(attempts.unreadable).collect();
    let (members, attempts) = (members.rows, attempts.rows);
    let nothing = Survey::default();
    let wall_clock = OffsetDateTime::now_utc();
    let charter = if decide::needs_charter(me, &members, wall_clock) {
        fetch_charter(node).await
    } else {
        None
    };
    let mut seen = Observed {
        me,
        nodes: &nodes,
        lifeless_for: &lifeless_for,
        patience: if is_leader { LEADER_PATIENCE } else { BACKUP_PATIENCE },
        members: &members,
        attempts: &attempts,
        unreadable: &unreadable,
        charter: charter.as_ref(),
        survey: &nothing,
        majority_for: memory.majority_since.map_or(Duration::ZERO, |since| now - since),
        now: wall_clock,
    };
    let mut ids = decide::ask_about(&seen, is_survey_due);
    ids.extend(memory.waiting_since.keys().map(String::as_str));
    if is_survey_due {
        memory.surveyed_at = Some((now, ids.len()));
    }
    let survey = match node.autoscaling.survey(&node.instance.id, &ids).await {
        Ok(survey) => {
            memory.complaint = None;
            survey
        }
        Err(error) => {
            // No answer is no evidence; entries that are left alone are reported below.
            memory.complain(crate::common::errors::chain(&error));
            Survey::default()
        }
    };
    seen.survey = &survey;
    let decision = decide::decide(&seen);
    memory.majority_since = decision.is_majority.then(|| memory.majority_since.unwrap_or(now));
    stand_in::follow(&mut memory.waiting_since, &survey, &members, &node.instance.id, now);
    let is_busy = decision.verdicts.values().any(Verdict::is_passing)
        || stand_in::is_waiting(&memory.waiting_since, now);
    let acted = act(node, &decision, &members).await;
    let refused = acted.as_ref().map(Clone::clone).unwrap_or_default();
    memory.say(node, &nodes, &lifeless_for, decision.verdicts, &refused);
    acted?;
    stand_in::begin(node, &memory.waiting_since, &members, now).await?;
    Ok(is_busy)
}

/// Returns the charter. Only rows that nothing needs any more wait for it: they stay where it cannot be read, which
/// other duties report.
async fn fetch_charter(node: &Node) -> Option<Charter> {
    match node.ledger.fetch_charter().await {
        Ok(charter) => charter,
        Err(error) => {
            tracing::debug!("{WHAT}: {}", crate::common::errors::chain(&error));
            None
        }
    }
}

/// Carries out the steps. A manager that cannot be demoted yet must not keep the others on the list; only one manager
/// is demoted at a time, so that raft has settled before the next. Returns the refusals, by node id.
async fn act(
    node: &Node,
    decision: &Decision<'_>,
    members: &[Member],
) -> Result<BTreeMap<String, String>, ManagerError> {
    let mut refused = BTreeMap::new();
    let mut is_raft_changing = false;
    for (view, step) in &decision.steps {
        let id = view.id.as_str();
        let because = decision.verdicts.get(id).map(ToString::to_string).unwrap_or_default();
        match step {
            Step::Demote if is_raft_changing => {}
            Step::Demote => match demote_under_lease(node, id).await {
                Ok(Demotion::Accepted) => {
                    is_raft_changing = true;
                    tracing::warn!(node = id, because, "demoted a dead manager");
                }
                Ok(Demotion::HeldUp { waiting_for }) => {
                    refused.insert(id.to_owned(), format!("waiting for {waiting_for}"));
                }
                Err(error) => drop(refused.insert(id.to_owned(), error.to_string())),
            },
            Step::Remove => match node.swarm.remove(id).await {
                Ok(()) => {
                    tracing::warn!(node = id, because, "removed a dead node from the node list");
                    metrics().removal("none", "dead");
                    let rows = || members.iter().filter(|row| row.node_id == id);
                    // A manager, or the entry without a row that a manager's failed join has left.
                    if rows().all(|row| row.role == Role::Manager) {
                        node.ledger.return_lease(id).await?;
                    }
                    forget(node, rows()).await?;
                }
                Err(error) => drop(refused.insert(id.to_owned(), error.to_string())),
            },
        }
    }
    forget(node, decision.orphans.iter().copied()).await?;
    for attempt in &decision.spent {
        node.ledger.delete_attempt(&attempt.instance_id).await?;
    }
    Ok(refused)
}

async fn forget<'a>(
    node: &Node,
    rows: impl Iterator<Item = &'a Member>,
) -> Result<(), ManagerError> {
    for row in rows {
        if node.ledger.forget_member(row).await? {
            tracing::info!(
                instance = row.instance_id,
                node = row.node_id,
                group = row.group,
                swarm_id = row.swarm_id,
                written_at = %row.updated_at,
                "deleted the row of a node that is no longer on the node list"
            );
        }
    }
    Ok(())
}

impl Memory {
    /// Returns the time for which each node has looked lifeless. It starts anew for a node that was alive meanwhile.
    fn lifeless_for(&mut self, nodes: &[NodeView], now: Instant) -> BTreeMap<String, Duration> {
        let lifeless = nodes.iter().filter(|view| decide::is_lifeless(view));
        self.lifeless_since = lifeless
            .map(|view| {
                let since = self.lifeless_since.get(&view.id).copied();
                (view.id.clone(), since.unwrap_or(now))
            })
            .collect();
        self.lifeless_since.iter().map(|(id, since)| (id.clone(), now - *since)).collect()
    }

    fn is_survey_due(&self, is_leader: bool, now: Instant) -> bool {
        let factor = if is_leader { 1 } else { BACKUP_FACTOR };
        self.surveyed_at.is_none_or(|(at, ids)| {
            let calls = u32::try_from(ids.div_ceil(IDS_PER_CALL)).unwrap_or(u32::MAX);
            now - at >= SURVEY_INTERVAL.max(SURVEY_PACE.saturating_mul(calls)) * factor
        })
    }

    /// Logs a failure once, until it changes.
    fn complain(&mut self, complaint: String) {
        if self.complaint.as_ref() != Some(&complaint) {
            tracing::warn!("{WHAT}: {complaint}");
            self.complaint = Some(complaint);
        }
    }

    /// Shows the verdicts and the refusals, and logs the new ones.
    fn say(
        &mut self,
        node: &Node,
        nodes: &[NodeView],
        lifeless_for: &BTreeMap<String, Duration>,
        mut verdicts: BTreeMap<String, Verdict>,
        refused: &BTreeMap<String, String>,
    ) {
        let mut shown = BTreeMap::new();
        let mut said = BTreeMap::new();
        for view in nodes {
            let Some(verdict) = verdicts.remove(&view.id) else { continue };
            let so_long = lifeless_for.get(&view.id).copied().unwrap_or_default().as_secs();
            let looks = if view.is_down() { "Down" } else { "has not come up" };
            let mut text = format!("{looks} for {so_long} s; {verdict}");
            if decide::is_forgotten(view) {
                text.push_str("; raft reaches it, so its Docker runs: restart Docker on that node, and it is listed as Ready again");
            }
            let refusal = refused.get(&view.id).cloned();
            if let Some(refusal) = &refusal {
                text.push_str(&format!("; not yet: {refusal}"));
            }
            let (is_settling, new) = (verdict == Verdict::Settling, (verdict, refusal));
            if !is_settling && self.said.get(&view.id) != Some(&new) {
                tracing::warn!(node = view.id, address = view.address, "{text}");
            }
            shown.insert(view.id.clone(), text);
            said.insert(view.id.clone(), new);
        }
        self.said = said;
        node.state.set_verdicts(shown);
    }
}
