//! What a manager does about one departure, from what it sees. Pure.

use crate::ledger::{DepartureRow, DepartureState};
use crate::swarm::{Availability, NodeView};

/// One act, followed by another look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Nothing to do about it any more.
    None,
    /// The node's own move, or its tasks'.
    Wait,
    /// Take the node's tasks away, then say so.
    Drain,
    /// Say that the tasks have been taken away.
    MarkDraining,
    /// Say that none is left.
    MarkDrained,
    /// Say that raft does not know the node any more.
    ConfirmDemotion,
    /// A node that has left and still counts as a manager: it lost its state.
    Demote,
    /// Take the node off the list, then say so.
    Remove,
}

/// `node` and `live_tasks` are the swarm's word; a node that the swarm does not know has no tasks.
/// `is_self`: the departing node is the one that decides.
#[must_use]
pub fn decide(
    row: &DepartureRow,
    node: Option<&NodeView>,
    live_tasks: usize,
    is_self: bool,
) -> Action {
    let is_drained = node.is_none_or(|node| node.availability == Availability::Drain);
    if let Some(node) = node
        && row.role == crate::instance::Role::Manager
        && row.state < DepartureState::Left
        && !row.demoted
        && !is_self
        && node.is_plain_worker()
    {
        return Action::ConfirmDemotion;
    }
    match row.state {
        DepartureState::Requested | DepartureState::Draining if !is_drained => Action::Drain,
        DepartureState::Requested => Action::MarkDraining,
        DepartureState::Draining if live_tasks == 0 => Action::MarkDrained,
        DepartureState::Draining | DepartureState::Drained => Action::Wait,
        DepartureState::Left => match node {
            Some(node) if !node.is_plain_worker() => Action::Demote,
            _ => Action::Remove,
        },
        DepartureState::Removed => Action::None,
    }
}
