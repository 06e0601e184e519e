//! Decides which entries of the node list are dead, and by which evidence. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use time::OffsetDateTime;

use crate::clients::aws::autoscaling::Survey;
use crate::clients::docker::NodeView;
use crate::clients::ledger::{Charter, CharterPhase, Member};
use crate::common::timing::{JOIN_IS_OVER, JOIN_IS_RECORDED, UNGROUPED_ROW_KEPT};
use crate::manager::placed::{Placed, address_of, instance_of};

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
    /// Which instance each node is.
    pub placed: &'a [Placed],
    /// The rows of managers.
    pub managers: &'a [Member],
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
    /// Its host or its address is that of another node of the swarm: the host has joined again, or the address has a new
    /// owner.
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
    /// It was in no group, so its absence from Auto Scaling's answer is no evidence.
    Ungrouped { instance: String },
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
    /// Rows of managers whose node no longer exists.
    pub orphans: Vec<&'a Member>,
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
                write!(f, "its host or its address is that of {by} now; removing the old entry")
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
            Self::Unplaced => f.write_str(
                "it is unknown which instance it was; left alone (run `docker node rm` if it is dead)",
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
/// enough; if `everybody`, also those of all managers' rows.
#[must_use]
pub fn ask_about<'a>(seen: &Observed<'a>, everybody: bool) -> BTreeSet<&'a str> {
    let due: Vec<&NodeView> = seen
        .nodes
        .iter()
        .filter(|node| seen.lifeless_for.get(&node.id).is_some_and(|&so| so >= seen.patience))
        .collect();
    let is_due = |it: &&Placed| due.iter().any(|node| node.id == it.node_id);
    let placed = seen.placed.iter().filter(is_due).map(|it| it.instance_id.as_str());
    let managers = seen.managers.iter().filter(|_| everybody).map(|row| row.instance_id.as_str());
    placed.chain(managers).collect()
}

/// Returns the verdicts, and the steps that follow from them.
#[must_use]
pub fn decide<'a>(seen: &Observed<'a>) -> Decision<'a> {
    // Everybody with a join token can add entries; those that are alive and identified are as many as instances.
    let alive: Vec<&NodeView> =
        seen.nodes.iter().filter(|node| node.is_ready() && instance_of(node).is_some()).collect();
    let judged = |node: &NodeView| Some((node.id.clone(), judge(seen, &alive, node)?));
    let mut verdicts: BTreeMap<String, Verdict> = seen.nodes.iter().filter_map(judged).collect();
    let gone = verdicts.values().filter(|it| matches!(it, Verdict::Gone { .. })).count();
    // Everybody with a join token can add entries that look lifeless and are of no instance.
    let is_counted =
        |node: &&NodeView| !is_lifeless(node) || seen.placed.iter().any(|it| it.node_id == node.id);
    let is_majority = 2 * gone > seen.nodes.iter().filter(is_counted).count();
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
        orphans: seen.managers.iter().filter(|row| is_orphan(seen, row)).collect(),
        verdicts,
        is_majority,
    }
}

/// `alive` are the nodes that can be the successor of an entry.
fn judge(seen: &Observed<'_>, alive: &[&NodeView], node: &NodeView) -> Option<Verdict> {
    if node.id == seen.me || !is_lifeless(node) {
        return None;
    }
    let lifeless_for = *seen.lifeless_for.get(&node.id)?;
    let mut instances = seen.placed.iter().filter(|it| it.node_id == node.id).peekable();
    Some(if lifeless_for < seen.patience {
        Verdict::Settling
    } else if let Some(successor) = alive.iter().find(|other| is_successor(node, other)) {
        Verdict::Superseded { by: successor.id.clone() }
    } else if instances.peek().is_some() {
        by_instances(seen, instances.map(|it| (it.instance_id.as_str(), it.group.is_some())))
    } else if node.hostname.is_empty() && address_of(node).is_none() && node.raft.is_none() {
        // No host was ever behind it, but its join may still be under way.
        if lifeless_for >= JOIN_IS_OVER { Verdict::Stillborn } else { Verdict::Settling }
    } else {
        Verdict::Unplaced
    })
}

/// Whether the host or the address of an entry is that of another node by now, which has joined later and is alive: the
/// host has joined again, or another instance has got the address. EC2 has identified that node.
fn is_successor(node: &NodeView, other: &NodeView) -> bool {
    let Some(instance) = instance_of(other) else { return false };
    let is_same_host = instance_of(node) == Some(instance);
    let is_same_address = address_of(node).is_some() && address_of(node) == address_of(other);
    let is_later =
        other.joined_at.zip(node.joined_at).is_some_and(|(joined, earlier)| joined > earlier);
    other.id != node.id && other.is_ready() && is_later && (is_same_host || is_same_address)
}

/// Judges an entry by the instances that its label and the rows of managers name. All of them must be gone: of two that
/// contradict each other, one was made by hand. Each id comes with a flag: whether its absence from Auto Scaling's answer is
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
pub fn needs_charter(me: &str, managers: &[Member], now: OffsetDateTime) -> bool {
    let own = own_swarm(me, managers);
    let is_elsewhere = |row: &&Member| row.swarm_id.is_none() || row.swarm_id.as_ref() != own;
    managers.iter().filter(is_elsewhere).any(|row| is_old_and_ungrouped(row, now))
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
    let Some(own) = own_swarm(seen.me, seen.managers) else { return false };
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
