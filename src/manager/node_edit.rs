//! The part that the duties [`super::labels`] and [`super::availability`] share: the pace of their polls, the row of each
//! node, and the write of a node's labels and availability.

use std::cell::Cell;
use std::time::Duration;

use tokio::time::Instant;

use super::claims::{self, Claim};
use super::error::ManagerError;
use super::observe::Fleet;
use super::placed::instance_of;
use crate::clients::docker::{Availability, NodeView, SwarmErrorKind};
use crate::clients::ledger::{Member, MemberState};
use crate::common::instance::SchedulingHold;
use crate::common::labels::{AVAILABILITY, Labels};
use crate::node::Node;

/// Intervals of a manager's polls.
pub struct Rhythm {
    /// Time between two polls, and maximum age of the node list: a node that joined paused waits at most this long.
    pub look: Duration,
    /// Time that a node can be without labels before this manager labels it.
    pub patience: Duration,
    /// Time between two reads of the ledger, which costs money by the row; changed labels follow within this time.
    pub read: Duration,
}

/// Time between two reads of all rows in a large fleet, for each node: 5 reads a second.
const EACH_NODE: Duration = Duration::from_millis(200);

/// The leader acts at once.
pub const LEADER: Rhythm = Rhythm {
    look: Duration::from_secs(3),
    patience: Duration::ZERO,
    read: Duration::from_secs(45),
};
/// The other managers act when the leader's skep has not.
pub const BACKUP: Rhythm = Rhythm {
    look: Duration::from_secs(15),
    patience: Duration::from_secs(20),
    read: Duration::from_secs(300),
};

impl Rhythm {
    pub(super) fn of(fleet: &Fleet<'_>, nodes: &[NodeView]) -> &'static Self {
        if fleet.is_leader(nodes) { &LEADER } else { &BACKUP }
    }

    /// Returns the time between two reads of the rows of so many nodes: one read of each.
    #[must_use]
    pub fn read_interval(&self, nodes: usize) -> Duration {
        self.read.max(EACH_NODE.saturating_mul(u32::try_from(nodes).unwrap_or(u32::MAX)))
    }
}

/// Returns the rows of these nodes, requested at `since` or later: those of managers, and of workers those that speak for
/// the node itself.
pub(super) async fn rows_of(
    fleet: &Fleet<'_>,
    nodes: &[NodeView],
    since: Instant,
) -> Result<Vec<Member>, ManagerError> {
    let managers = fleet.managers(since).await?;
    let ids = nodes.iter().filter_map(instance_of).filter(|id| !managers.has_manager(id));
    let workers = fleet.workers(&ids.map(str::to_owned).collect(), since).await?.rows;
    let is_proven = |row: &Member| {
        matches!(claims::check(nodes, &row.instance_id, &row.node_id), Claim::Own(_))
    };
    Ok(managers.of_managers().cloned().chain(workers.into_iter().filter(is_proven)).collect())
}

/// Returns the nodes that stay, each with its row.
pub(super) fn with_rows<'a>(
    nodes: &'a [NodeView],
    members: &'a [Member],
) -> impl Iterator<Item = (&'a NodeView, &'a Member)> {
    nodes.iter().filter_map(|view| Some((view, row_of(&view.id, members)?)))
}

/// Returns the row of a node that stays. A node that joined under another role before has two rows: the newer one
/// counts.
pub(super) fn row_of<'a>(node_id: &str, members: &'a [Member]) -> Option<&'a Member> {
    members
        .iter()
        .filter(|member| member.node_id == node_id)
        .max_by_key(|member| member.updated_at)
        .filter(|member| member.state == MemberState::Ready)
}

/// Labels and availability that a node must get, or `None` if it has them.
pub(super) type Edit = Option<(Labels, Availability)>;

/// Writes what `decide` returns for the node's present labels and availability. Returns whether anything was written;
/// where another writer was first, the next poll decides again.
pub(super) async fn write(
    node: &Node,
    view: &NodeView,
    member: &Member,
    decide: impl Fn(&Labels, Availability, &Member) -> Edit,
) -> Result<bool, ManagerError> {
    let mark = view.labels.get(AVAILABILITY);
    // If skep's mark on the node has changed meanwhile, the next poll decides, with the row of then.
    let is_due = Cell::new(false);
    let edit = |labels: &Labels, availability| {
        let is_same = labels.get(AVAILABILITY) == mark;
        let edited = is_same.then(|| decide(labels, availability, member)).flatten();
        is_due.set(edited.is_some());
        edited
    };
    let Some((_, availability)) = edit(&view.labels, view.availability) else { return Ok(false) };
    // The mark is set, so the departure that may have set it is already in the ledger.
    let is_let_go = mark.is_some() && availability < view.availability;
    if is_let_go
        && node.ledger.is_leaving(member.role, &member.instance_id, &member.node_id).await?
    {
        return Ok(false);
    }
    match node.swarm.relabel(&view.id, edit).await {
        Err(error) if error.kind == SwarmErrorKind::Stale => {
            tracing::debug!(instance = member.instance_id, "{error}");
            return Ok(false);
        }
        written => written?,
    };
    // Another manager has written it since the list was read.
    if !is_due.get() {
        return Ok(false);
    }
    if availability != view.availability {
        tracing::info!(
            instance = member.instance_id,
            node = view.id,
            scheduling_hold = member.scheduling_hold.map(SchedulingHold::as_str),
            availability = availability.as_str(),
            "availability set"
        );
    }
    Ok(true)
}
