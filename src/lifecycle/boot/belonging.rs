//! Determines the swarm that this node belongs to, from Docker, its certificate, its row and the charter. Pure.

use super::types::{Observed, Refusal, Stale, Step};
use crate::clients::docker::LocalNode;
use crate::clients::ledger::{Charter, Member, MemberState};
use crate::common::fact::Fact;

const LEADER_TO_KNOW: &str = "Docker to report whether the swarm that this manager is in has a leader, since the charter names a later one";

/// Returns the swarm that Docker is in: from Docker's answer or the certificate, otherwise from this node's row.
pub(super) fn swarm_of(seen: &Observed) -> Option<&String> {
    let by_row = || seen.member.as_ref().filter(|_| is_row_ours(seen))?.swarm_id.as_ref();
    seen.local.swarm_id.as_ref().or_else(by_row)
}

/// Whether this node is in the swarm `swarm_id` of `charter`. A row of an older skep has no swarm id, but it has the
/// generation.
pub(super) fn is_in(seen: &Observed, charter: &Charter, swarm_id: &str) -> bool {
    match swarm_of(seen) {
        Some(own) => own == swarm_id,
        None => {
            is_row_ours(seen)
                && seen.member.as_ref().is_some_and(|row| row.generation == charter.generation)
        }
    }
}

/// Whether this instance wrote its row for the node that Docker reports.
pub(super) fn is_row_ours(seen: &Observed) -> bool {
    names(seen.member.as_ref(), &seen.local)
}

/// Whether this instance's row names the node that Docker reports.
pub(super) fn names(row: Option<&Member>, local: &LocalNode) -> bool {
    row.is_some_and(|row| Some(&row.node_id) == local.node_id.as_ref())
}

/// Whether the managers have removed this very node from the node list; Docker on this host does not learn of that.
pub(super) fn is_removed(seen: &Observed) -> bool {
    let is_marked = seen.member.as_ref().is_some_and(|row| row.state == MemberState::Removed);
    is_marked && is_row_ours(seen) && !seen.local.is_manager
}

/// Whether this node is in a swarm that the cluster has abandoned: the charter lists that swarm as a former one, or by
/// its own row this node joined another swarm than the charter's, under an earlier charter.
pub(super) fn is_of_the_past(seen: &Observed, charter: &Charter) -> bool {
    let own = swarm_of(seen);
    let is_earlier = seen.member.as_ref().is_some_and(|row| row.generation < charter.generation);
    let is_another = own.is_some() && own != charter.swarm_id.as_ref();
    charter.has_given_up(own) || is_row_ours(seen) && is_earlier && is_another
}

/// Returns the step out of an abandoned swarm. A manager leaves by force only if that swarm has no leader: a swarm with
/// a leader may have a quorum that needs this manager.
pub(super) fn leave_the_past(seen: &Observed, charter: &Charter, is_unsettled: bool) -> Step {
    let may_be_manager = seen.local.is_manager || is_unsettled;
    match seen.has_leader {
        _ if !may_be_manager => Step::LeaveStale { by_force: false, why: Stale::OlderGeneration },
        Fact::No => Step::LeaveStale { by_force: true, why: Stale::OlderGeneration },
        Fact::Yes => two_swarms(charter),
        Fact::CannotTell => Step::Wait { why: LEADER_TO_KNOW.to_owned() },
    }
}

/// Waits for the operator, who alone can decide between the two swarms.
pub(super) fn two_swarms(charter: &Charter) -> Step {
    let swarm_id = charter.swarm_id.as_deref().unwrap_or_default();
    let generation = charter.generation;
    Step::Wait {
        why: format!(
            "the operator: this node is in a swarm of this cluster that is alive, but the charter names {swarm_id} as generation {generation}; leave the swarm that is not needed"
        ),
    }
}

pub(super) fn not_sound(local: &LocalNode) -> String {
    if local.error.is_empty() {
        "a manager to be connected".into()
    } else {
        format!("Docker to recover: {}", local.error)
    }
}

/// Waits, because nothing identifies this node.
pub(super) fn unreadable(error: &str) -> Step {
    Step::Wait { why: format!("the node certificate, which alone identifies this node: {error}") }
}

pub(super) fn foreign(local: &LocalNode) -> Step {
    let swarm_id = local.swarm_id.clone().unwrap_or_else(|| "its id cannot be read".into());
    Step::Refuse(Refusal::ForeignSwarm { swarm_id })
}
