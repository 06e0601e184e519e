//! Removes nodes that died without a departure: no notice, no row, only an entry that stays Down; and the entries that
//! failed joins leave behind.
//!
//! Guarantees: a node is removed from the list only when Docker has called it Down for a while **and** either a
//! successful answer of Auto Scaling no longer lists its instance, which was in a group, or its host or its address
//! belongs to another live node. An answer that does not list the asking instance either proves nothing. A manager is
//! demoted first, one per poll. An entry that is left alone is reported, with the reason, once in the log and in
//! `skep status`. No row of a worker is read: a node's instance is the one in its label.
//!
//! Assumes that managers have labelled the node with its instance while the instance existed, or that the node is a
//! manager with a row; any other node is left alone.

mod decide;
#[cfg(test)]
pub(super) mod tests;

use std::collections::BTreeMap;
use std::time::Duration;

use time::OffsetDateTime;
use tokio::time::Instant;

use super::duty::{Duty, Poll};
use super::error::ManagerError;
use super::observe::{Fleet, Seen};
use super::placed::{self, Placed};
use crate::clients::aws::autoscaling::Survey;
use crate::clients::docker::NodeView;
use crate::clients::ledger::Charter;
use crate::common::errors::chain;
use crate::common::held_since::HeldSince;
use crate::common::instance::Role;
use crate::common::log_once::LogOnce;
use crate::manager::demotion::{Demotion, demote_under_lease};
use crate::node::Node;
use crate::telemetry::metrics::metrics;

use decide::{Decision, Observed, Step, Verdict};

/// Name of this duty.
const NAME: &str = "dead nodes";
/// Time between two polls; Auto Scaling is asked only about nodes that look dead.
const INTERVAL: Duration = Duration::from_secs(15);
/// The same while time alone will change a verdict.
const BUSY_INTERVAL: Duration = Duration::from_secs(5);
/// Time that a node must look dead before the leader acts: an engine that restarts is Down for some seconds, too.
const LEADER_PATIENCE: Duration = Duration::from_secs(20);
/// The same for the other managers, which act when the leader's skep has not.
const BACKUP_PATIENCE: Duration = Duration::from_secs(60);
/// Interval at which the leader asks about all managers with a row. If that needs many calls it is [`SURVEY_PACE`] for each
/// call, if that is longer: the whole account shares Auto Scaling's limit.
const SURVEY_INTERVAL: Duration = Duration::from_secs(60);
const SURVEY_PACE: Duration = Duration::from_secs(4);
/// Number of other instances' ids in one call.
const IDS_PER_CALL: usize = 49;
/// Factor by which the other managers ask less often.
const BACKUP_FACTOR: u32 = 4;

/// State that cannot be read anywhere. After a restart it starts empty, which only costs time.
#[derive(Default)]
struct Memory {
    /// Nodes that look lifeless, by node id.
    lifeless: HeldSince<String>,
    /// Since when every answer has reported more than half of the swarm gone.
    majority_since: Option<Instant>,
    surveyed_at: Option<(Instant, usize)>,
    /// The verdicts that were logged, with their refusals, by node id.
    logged: LogOnce<String, (Verdict, Option<String>)>,
    /// The last failure of Auto Scaling that was logged.
    failures: LogOnce<(), Option<String>>,
}

/// Removes dead nodes from the list for as long as this node is a manager.
pub(super) async fn run(fleet: &Fleet<'_>) {
    let duty = Duty { name: NAME, first: INTERVAL, after_failure: INTERVAL, trouble: None };
    duty.run(fleet, poll).await;
}

/// Polls once. The pause is shorter where time alone will change something soon.
async fn poll(
    Poll { fleet, memory, complaints }: Poll<'_, Memory>,
) -> Result<Duration, ManagerError> {
    let (node, me) = (fleet.node, fleet.membership.node_id.as_str());
    let nodes = fleet.nodes(Instant::now()).await?;
    let is_leader = fleet.is_leader(&nodes);
    let now = nodes.asked_at;
    let lifeless_for = memory.lifeless_for(&nodes, now);
    let is_survey_due = memory.is_survey_due(is_leader, now);
    if lifeless_for.is_empty() && !is_survey_due {
        memory.say(node, &nodes, &lifeless_for, BTreeMap::new(), &BTreeMap::new());
        return Ok(INTERVAL);
    }
    let mut managers = fleet.managers(nodes.asked_at).await?.copy();
    managers.rows.retain(|row| row.role == Role::Manager);
    let placed = placed::placed(&nodes, &managers.rows);
    let nothing = Survey::default();
    let wall_clock = OffsetDateTime::now_utc();
    let charter = if decide::needs_charter(me, &managers.rows, wall_clock) {
        fetch_charter(fleet).await
    } else {
        None
    };
    let mut seen = Observed {
        me,
        nodes: &nodes,
        lifeless_for: &lifeless_for,
        patience: if is_leader { LEADER_PATIENCE } else { BACKUP_PATIENCE },
        placed: &placed,
        managers: &managers.rows,
        charter: charter.as_ref().and_then(|charter| charter.as_ref()),
        survey: &nothing,
        majority_for: memory.majority_since.map_or(Duration::ZERO, |since| now - since),
        now: wall_clock,
    };
    let ids = decide::ask_about(&seen, is_survey_due);
    if is_survey_due {
        memory.surveyed_at = Some((now, ids.len()));
    }
    let survey = node.autoscaling.survey(&node.instance.id, &ids).await;
    let failure = survey.as_ref().err().map(|error| chain(error));
    if let Some(failure) = &failure {
        complaints.record(failure.clone());
    }
    if memory.failures.is_news((), failure.clone())
        && let Some(failure) = failure
    {
        tracing::warn!("{NAME}: {failure}");
    }
    // No answer is no evidence; entries that are left alone are reported below.
    let survey = survey.unwrap_or_default();
    seen.survey = &survey;
    let decision = decide::decide(&seen);
    memory.majority_since = decision.is_majority.then(|| memory.majority_since.unwrap_or(now));
    let is_busy = decision.verdicts.values().any(Verdict::is_passing);
    let acted = act(node, &decision, &placed).await;
    let refused = acted.as_ref().map(Clone::clone).unwrap_or_default();
    if let Some((id, why)) = refused.first_key_value() {
        complaints.record(format!("{id}: {why}"));
    }
    memory.say(node, &nodes, &lifeless_for, decision.verdicts, &refused);
    acted?;
    Ok(if is_busy { BUSY_INTERVAL } else { INTERVAL })
}

/// Returns the charter. Only rows that nothing needs any more wait for it: they stay where it cannot be read, which
/// other duties report.
async fn fetch_charter(fleet: &Fleet<'_>) -> Option<Seen<Option<Charter>>> {
    let read = fleet.charter(Instant::now()).await;
    read.inspect_err(|error| tracing::debug!("{NAME}: {}", chain(error))).ok()
}

/// Carries out the steps. A manager that cannot be demoted yet must not keep the others on the list; only one manager
/// is demoted at a time, so that raft has settled before the next. Returns the refusals, by node id.
async fn act(
    node: &Node,
    decision: &Decision<'_>,
    placed: &[Placed],
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
                    tracing::info!(node = id, because, "demoted a dead manager");
                }
                Ok(Demotion::HeldUp { waiting_for }) => {
                    refused.insert(id.to_owned(), format!("waiting for {waiting_for}"));
                }
                Err(error) => drop(refused.insert(id.to_owned(), error.to_string())),
            },
            Step::Remove => match node.swarm.remove(id).await {
                Ok(()) => {
                    tracing::info!(node = id, because, "removed a dead node from the node list");
                    metrics().removal("none", "dead");
                    forget_instances(node, id, placed).await?;
                }
                Err(error) => drop(refused.insert(id.to_owned(), error.to_string())),
            },
        }
    }
    for row in &decision.orphans {
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
    Ok(refused)
}

/// Deletes the rows of the instances that a removed node was, and the lease that its demotion may have needed.
async fn forget_instances(
    node: &Node,
    node_id: &str,
    placed: &[Placed],
) -> Result<(), ManagerError> {
    node.ledger.return_lease(node_id).await?;
    for it in placed.iter().filter(|it| it.node_id == node_id) {
        node.ledger.delete_member_of(it.role, &it.instance_id, node_id).await?;
    }
    Ok(())
}

impl Memory {
    /// Returns the time for which each node has looked lifeless. It starts anew for a node that was alive meanwhile.
    fn lifeless_for(&mut self, nodes: &[NodeView], now: Instant) -> BTreeMap<String, Duration> {
        let lifeless = nodes.iter().filter(|view| decide::is_lifeless(view));
        self.lifeless.observe(lifeless.map(|view| view.id.clone()), now);
        self.lifeless.iter().map(|(id, since)| (id.clone(), now - since)).collect()
    }

    fn is_survey_due(&self, is_leader: bool, now: Instant) -> bool {
        let factor = if is_leader { 1 } else { BACKUP_FACTOR };
        self.surveyed_at.is_none_or(|(at, ids)| {
            let calls = u32::try_from(ids.div_ceil(IDS_PER_CALL)).unwrap_or(u32::MAX);
            now - at >= SURVEY_INTERVAL.max(SURVEY_PACE.saturating_mul(calls)) * factor
        })
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
            let is_settling = verdict == Verdict::Settling;
            if self.logged.is_news(view.id.clone(), (verdict, refusal)) && !is_settling {
                tracing::warn!(node = view.id, address = view.address, "{text}");
            }
            shown.insert(view.id.clone(), text);
        }
        self.logged.retain(|id| shown.contains_key(id));
        node.state.set_verdicts(shown);
    }
}
