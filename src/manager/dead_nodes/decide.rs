//! Decides which entries of the node list are dead, and by which evidence. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use time::OffsetDateTime;

use crate::clients::aws::autoscaling::Survey;
use crate::clients::docker::NodeView;
use crate::clients::ledger::{Attempt, Charter, CharterPhase, Member, MemberState};
use crate::common::timing::{JOIN_IS_OVER, JOIN_IS_RECORDED, UNGROUPED_ROW_KEPT};

/// Time after which a second answer must confirm that more than half of the swarm is gone: a region in trouble, or the
/// wrong account, must not end the swarm.
pub const SECOND_ANSWER_AFTER: Duration = Duration::from_secs(30);

/// One observation.
pub struct Observed<'a> {
    /// The manager that observes: it does not judge itself.
    pub me: &'a str,
    pub nodes: &'a [NodeView],
    /// Time for which each node has looked lifeless, by node id.
    pub lifeless_for: &'a BTreeMap<String, Duration>,
    /// Time for which a node must have looked lifeless.
    pub patience: Duration,
    pub members: &'a [Member],
    pub attempts: &'a [Attempt],
    /// Keys of members' rows and of attempts that cannot be read: it is unknown which nodes they describe.
    pub unreadable: &'a BTreeSet<String>,
    /// Read only where [`needs_charter`] holds; `None` also where it cannot be read.
    pub charter: Option<&'a Charter>,
    /// Empty where no credible answer came.
    pub survey: &'a Survey,
    /// Time for which every answer has reported more than half of the swarm gone.
    pub majority_for: Duration,
    pub now: OffsetDateTime,
}

/// Verdict about an entry that looks lifeless.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It has not looked lifeless for long enough yet.
    Settling,
    /// Its address now belongs to another node of the swarm: the host has joined again, or the address has a new owner.
    Superseded { by: String },
    /// A join got a certificate and ended before it reported its host's name and address to the managers: no host is
    /// behind it.
    Stillborn,
    /// Auto Scaling no longer lists its instance.
    Gone { instance: String },
    /// The same, but for more than half of the swarm: a second answer must confirm it.
    AskAgain { instance: String },
    /// Auto Scaling lists it, in this lifecycle state.
    Listed { instance: String, lifecycle: String },
    /// No answer covers its instance.
    Unproven { instance: String },
    /// Its row names no group, so its absence from Auto Scaling's answer is no evidence.
    Ungrouped { instance: String },
    /// An attempt to join explains it, but this row cannot be read, and may be its own.
    Hidden { item: String },
    /// It is unknown which instance it is or was.
    Unplaced,
}

/// Act for one entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Demote the manager first, because raft counts it.
    Demote,
    Remove,
}

/// Result of one observation.
#[derive(Debug, Default)]
pub struct Decision<'a> {
    /// Verdicts about all entries that look lifeless, by node id.
    pub verdicts: BTreeMap<String, Verdict>,
    pub steps: Vec<(&'a NodeView, Step)>,
    /// Rows whose node no longer exists.
    pub orphans: Vec<&'a Member>,
    /// Attempts that explain no entry any more.
    pub spent: Vec<&'a Attempt>,
    /// Whether this answer reports more than half of the swarm gone.
    pub is_majority: bool,
}

impl Verdict {
    fn is_death(&self) -> bool {
        matches!(self, Self::Superseded { .. } | Self::Stillborn | Self::Gone { .. })
    }

    /// Whether a later poll may conclude something else by itself.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        self.is_death() || matches!(self, Self::Settling | Self::AskAgain { .. })
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Settling => f.write_str("it may come back"),
            Self::Superseded { by } => {
                write!(f, "its address now belongs to {by}; removing the old entry")
            }
            Self::Stillborn => f.write_str("a failed join has left this entry; removing it"),
            Self::Gone { instance } => {
                write!(f, "{instance} is no longer in an Auto Scaling group; removing its node")
            }
            Self::AskAgain { instance } => write!(
                f,
                "{instance} is no longer in an Auto Scaling group, like more than half of the swarm; nothing is removed before a second answer of Auto Scaling confirms it"
            ),
            Self::Listed { instance, lifecycle } => {
                write!(f, "Auto Scaling lists {instance}: {lifecycle}; left alone")
            }
            Self::Unproven { instance } => {
                write!(f, "Auto Scaling did not answer about {instance}; left alone")
            }
            Self::Ungrouped { instance } => write!(
                f,
                "{instance} was in no Auto Scaling group, so it is unknown whether it is gone; left alone (run `docker node rm` if it is gone)"
            ),
            Self::Hidden { item } => write!(
                f,
                "the ledger row {item} cannot be read and may be this node's; left alone (repair that row, or delete it if nothing needs it)"
            ),
            Self::Unplaced => f.write_str(
                "no row names its instance; left alone (run `docker node rm` if it is dead)",
            ),
        }
    }
}

/// Whether the node is Down, or an entry that a join has left and that never came to life: unlike a node that the
/// managers have lost contact with for a moment, it has never reported its host's name.
#[must_use]
pub fn is_lifeless(node: &NodeView) -> bool {
    node.is_down() || is_stillborn(node)
}

/// Whether raft reaches a manager that is listed as Down. Docker 20.10 lists a node as Down for as long as its session
/// lasts if its last heartbeat before a restart (10 to 15 s) expired while it registered again: the dispatcher writes
/// Ready first, and stops the old timer after that. For a worker this cannot be determined.
#[must_use]
pub fn is_forgotten(node: &NodeView) -> bool {
    node.is_down() && node.raft.is_some_and(|raft| raft.is_reachable)
}

fn is_stillborn(node: &NodeView) -> bool {
    let is_reachable = node.raft.is_some_and(|raft| raft.is_reachable || raft.is_leader);
    node.state == "unknown" && node.hostname.is_empty() && !is_reachable
}

/// Returns the instances about which Auto Scaling must be asked: those of entries that have looked lifeless for long
/// enough, or all.
#[must_use]
pub fn ask_about<'a>(seen: &Observed<'a>, everybody: bool) -> BTreeSet<&'a str> {
    let due: Vec<&NodeView> = seen
        .nodes
        .iter()
        .filter(|node| seen.lifeless_for.get(&node.id).is_some_and(|&so| so >= seen.patience))
        .collect();
    let is_due = |member: &&Member| due.iter().any(|node| node.id == member.node_id);
    let is_at = |attempt: &&Attempt| due.iter().any(|node| address(node) == Some(attempt.address));
    let members = seen.members.iter().filter(|member| everybody || is_due(member));
    let attempts = seen.attempts.iter().filter(|attempt| everybody || is_at(attempt));
    let members = members.map(|member| member.instance_id.as_str());
    members.chain(attempts.map(|attempt| attempt.instance_id.as_str())).collect()
}

/// Returns the verdicts, and the steps that follow from them.
#[must_use]
pub fn decide<'a>(seen: &Observed<'a>) -> Decision<'a> {
    let judged = |node: &NodeView| Some((node.id.clone(), judge(seen, node)?));
    let mut verdicts: BTreeMap<String, Verdict> = seen.nodes.iter().filter_map(judged).collect();
    let gone = verdicts.values().filter(|it| matches!(it, Verdict::Gone { .. })).count();
    let is_majority = 2 * gone > seen.nodes.len();
    if is_majority && seen.majority_for < SECOND_ANSWER_AFTER {
        for verdict in verdicts.values_mut() {
            if let Verdict::Gone { instance } = verdict {
                *verdict = Verdict::AskAgain { instance: std::mem::take(instance) };
            }
        }
    }
    let steps =
        seen.nodes.iter().filter(|node| verdicts.get(&node.id).is_some_and(Verdict::is_death));
    // An entry with the role of a manager that was never in raft, as a failed join leaves it, cannot be demoted: "can't
    // find manager in raft memberlist".
    let steps = steps.map(|node| match node.raft {
        None => (node, Step::Remove),
        Some(_) => (node, Step::Demote),
    });
    Decision {
        steps: steps.collect(),
        orphans: seen.members.iter().filter(|member| is_orphan(seen, member)).collect(),
        spent: seen.attempts.iter().filter(|attempt| is_spent(seen, attempt)).collect(),
        verdicts,
        is_majority,
    }
}

fn judge(seen: &Observed<'_>, node: &NodeView) -> Option<Verdict> {
    if node.id == seen.me || !is_lifeless(node) {
        return None;
    }
    let lifeless_for = seen.lifeless_for.get(&node.id)?;
    let rows: Vec<&Member> = seen.members.iter().filter(|row| row.node_id == node.id).collect();
    // Only a node that was Ready has written a row: such a node is Down, or not dead.
    if !rows.is_empty() && !node.is_down() {
        return None;
    }
    Some(if *lifeless_for < seen.patience {
        Verdict::Settling
    } else if rows.is_empty() {
        judge_stray(seen, node)
    } else {
        by_instances(seen, rows.iter().map(|row| (row.instance_id.as_str(), row.group.is_some())))
    })
}

/// Judges an entry without a row: that of a join that failed, or of a host that is another node by now.
fn judge_stray(seen: &Observed<'_>, node: &NodeView) -> Verdict {
    let Some(address) = address(node) else { return judge_nameless(seen, node) };
    let is_owner = |other: &&NodeView| {
        other.id != node.id && other.is_ready() && self::address(other) == Some(address) && {
            let is_its = |row: &Member| row.node_id == other.id && row.state == MemberState::Ready;
            seen.members.iter().any(is_its)
        }
    };
    if let Some(owner) = seen.nodes.iter().find(is_owner) {
        return Verdict::Superseded { by: owner.id.clone() };
    }
    let attempts = seen.attempts.iter().filter(|attempt| attempt.address == address);
    // Without a row the node was never Ready: a node that is still alive loses nothing: it joins again.
    match by_instances(seen, attempts.map(|attempt| (attempt.instance_id.as_str(), true))) {
        gone @ Verdict::Gone { .. } => match seen.unreadable.first() {
            Some(item) => Verdict::Hidden { item: item.clone() },
            None => gone,
        },
        verdict => verdict,
    }
}

/// Judges an entry without an address: if it has no host name and no place in raft either, no host was ever behind it.
fn judge_nameless(seen: &Observed<'_>, node: &NodeView) -> Verdict {
    if !node.hostname.is_empty() || node.raft.is_some() {
        Verdict::Unplaced
    } else if seen.lifeless_for.get(&node.id).is_some_and(|&so| so >= JOIN_IS_OVER) {
        Verdict::Stillborn
    } else {
        Verdict::Settling
    }
}

/// Judges an entry by the instances that the ledger names for it. All of them must be gone: of two rows that contradict
/// each other, one was made by hand. Each id comes with a flag: whether its absence from Auto Scaling's answer is
/// evidence.
fn by_instances<'a>(seen: &Observed<'_>, ids: impl Iterator<Item = (&'a str, bool)>) -> Verdict {
    let mut verdict = Verdict::Unplaced;
    for (id, had_group) in ids {
        let instance = id.to_owned();
        verdict = match seen.survey.listed.get(id) {
            Some(it) => {
                let lifecycle = it.lifecycle_state.to_string();
                return Verdict::Listed { instance, lifecycle };
            }
            None if !seen.survey.is_gone(id) => Verdict::Unproven { instance },
            None if matches!(verdict, Verdict::Unproven { .. } | Verdict::Ungrouped { .. }) => {
                verdict
            }
            None if !had_group => Verdict::Ungrouped { instance },
            None => Verdict::Gone { instance },
        };
    }
    verdict
}

/// Whether there is a row without a group whose swarm only the charter can determine.
#[must_use]
pub fn needs_charter(me: &str, members: &[Member], now: OffsetDateTime) -> bool {
    let own = own_swarm(me, members);
    let is_elsewhere = |row: &&Member| row.swarm_id.is_none() || row.swarm_id.as_ref() != own;
    members.iter().filter(is_elsewhere).any(|row| is_old_and_ungrouped(row, now))
}

fn is_old_and_ungrouped(row: &Member, now: OffsetDateTime) -> bool {
    row.group.is_none() && now - row.updated_at > UNGROUPED_ROW_KEPT
}

/// Returns the swarm whose node list was read: that of the manager that observes, by its own row.
fn own_swarm<'a>(me: &str, members: &'a [Member]) -> Option<&'a String> {
    members.iter().find(|row| row.node_id == me)?.swarm_id.as_ref()
}

/// Whether the row has outlived its node and its instance, or was invented.
fn is_orphan(seen: &Observed<'_>, row: &Member) -> bool {
    let is_over = if row.group.is_some() {
        seen.survey.is_gone(&row.instance_id) && seen.now - row.updated_at > JOIN_IS_RECORDED
    } else {
        is_old_and_ungrouped(row, seen.now) && is_out_of_its_swarm(seen, row)
    };
    is_over && seen.nodes.iter().all(|node| node.id != row.node_id)
}

/// Whether the row's node, which is not on the observed list, is in no swarm of the cluster: the list is that of the
/// row's swarm, or the row's swarm was given up. A row that names no swarm is of either kind where its generation is
/// not above the charter's: a generation never names two swarms.
fn is_out_of_its_swarm(seen: &Observed<'_>, row: &Member) -> bool {
    let Some(own) = own_swarm(seen.me, seen.members) else { return false };
    if row.swarm_id.as_ref() == Some(own) {
        return true;
    }
    let is_open =
        |it: &&Charter| it.phase == CharterPhase::Open && it.swarm_id.as_ref() == Some(own);
    seen.charter.filter(is_open).is_some_and(|charter| match &row.swarm_id {
        Some(_) => charter.has_given_up(row.swarm_id.as_ref()),
        None => row.generation <= charter.generation,
    })
}

/// Whether the instance is a member or gone, and no entry is left that only this attempt explains.
fn is_spent(seen: &Observed<'_>, attempt: &Attempt) -> bool {
    let is_member = || {
        let mut rows = seen.members.iter().filter(|row| row.instance_id == attempt.instance_id);
        rows.any(|row| seen.nodes.iter().any(|node| node.id == row.node_id && node.is_ready()))
    };
    let is_explained = |node: &NodeView| {
        !is_lifeless(node)
            || address(node) != Some(attempt.address)
            || seen.members.iter().any(|row| row.node_id == node.id)
    };
    seen.now - attempt.at > JOIN_IS_RECORDED
        && (seen.survey.is_gone(&attempt.instance_id) || is_member())
        && seen.nodes.iter().all(is_explained)
}

fn address(node: &NodeView) -> Option<IpAddr> {
    node.address.as_ref()?.parse().ok()
}
