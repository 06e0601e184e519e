//! Decides when a manager asks the others to demote it, because its present node is of no use: the swarm knows it by
//! another address, its certificate is refused, or raft admitted it and it never gets a leader. If it left by force, it
//! would stay in raft as a dead member; so it leaves only once the others confirm that they removed it. Pure.

use std::time::Duration;

use super::belonging::{is_row_ours, not_sound};
pub use super::types::PeerDemotion;
use super::types::{Observed, STUCK_TIME, Stale, Step};
use crate::clients::docker::{LocalNode, LocalState};
use crate::clients::ledger::DemotionRequest;
use crate::common::fact::Fact;
use crate::common::instance::Role;
use crate::manager::peers::no_leader;

const REFUSED: &str = "this node's certificate is refused";
const STUCK: &str = "raft has admitted this manager, and its Docker does not get a leader";
const NOBODY_CAN: &str = "another manager that has a leader, to demote this one";
const TO_BE_TAKEN_OUT: &str =
    "another manager to remove this one from raft, so that it can join again";

/// Returns the step for a node that is in the charter's swarm and cannot work there: by an address that is not its own,
/// as a worker that has asked for its demotion, or as a manager that does not get a leader. A sound manager that has
/// moved keeps serving while no other manager can demote it.
pub fn of_settled(seen: &Observed) -> Option<Step> {
    if seen.local.is_manager {
        let unable = || Step::Wait { why: format!("{NOBODY_CAN}: {}", Stale::Moved.as_str()) };
        return match seen.local.is_sound() {
            true => seen.is_moved.then(|| be_taken_out(seen, Stale::Moved.as_str()))?,
            false if seen.is_moved => {
                Some(be_taken_out(seen, Stale::Moved.as_str()).unwrap_or_else(unable))
            }
            false => of_stuck(seen),
        };
    }
    match own_request(seen) {
        Some(request) if !request.is_out => Some(Step::Wait { why: TO_BE_TAKEN_OUT.to_owned() }),
        Some(_) => Some(Step::LeaveStale { by_force: false, why: Stale::Demoted }),
        None => seen.is_moved.then_some(Step::LeaveStale { by_force: false, why: Stale::Moved }),
    }
}

/// Whether raft has admitted this manager, and Docker has been pending, or active without a leader, for too long since:
/// the manager counts in the quorum and does nothing for it. While Docker is pending, the certificate shows that raft
/// admitted it. A manager that has written its row since it started to join is not stuck: the quorum needs its raft
/// state.
pub fn is_stuck(
    local: &LocalNode,
    certified: Option<Role>,
    is_joining: Fact,
    unsettled_for: Duration,
) -> bool {
    let is_let_in = match local.state {
        LocalState::Pending => certified == Some(Role::Manager),
        LocalState::Active => local.is_manager && no_leader(None, local).is_no(),
        _ => false,
    };
    is_let_in && is_joining.is_yes() && unsettled_for >= STUCK_TIME
}

/// Returns the demotion request of this very node.
fn own_request(seen: &Observed) -> Option<&DemotionRequest> {
    let request = seen.peer_demotion.as_ref()?.request.as_ref()?;
    (Some(&request.node_id) == seen.local.node_id.as_ref()).then_some(request)
}

/// Returns the next step towards a demotion. A manager that leaves by force would stay in raft, so the others remove it
/// first, and confirm that. `None` when no other manager can do so.
fn be_taken_out(seen: &Observed, why: &'static str) -> Option<Step> {
    let node_id = seen.local.node_id.clone()?;
    match own_request(seen) {
        Some(request) if request.is_out => {
            Some(Step::LeaveStale { by_force: true, why: Stale::Demoted })
        }
        Some(_) => Some(Step::Wait { why: format!("{TO_BE_TAKEN_OUT}: {why}") }),
        None => seen
            .peer_demotion
            .as_ref()
            .is_some_and(|peer_demotion| peer_demotion.is_led)
            .then_some(Step::AskOut { node_id, why }),
    }
}

/// Returns the same step for a manager that gets no leader.
pub fn of_stuck(seen: &Observed) -> Option<Step> {
    let is_stuck = is_stuck(&seen.local, seen.certified, seen.is_joining, seen.unsettled_for);
    let is_due = is_stuck && !is_row_ours(seen) || own_request(seen).is_some();
    is_due.then(|| be_taken_out(seen, STUCK))?
}

/// Returns the same step for a manager whose certificate is refused, or that has moved, while Docker is neither in a
/// swarm nor out of it. A node that is no member by its own row is not in raft, but waits: its state may be all that is
/// left of the swarm.
pub fn of_unsettled(seen: &Observed, is_member: bool) -> Option<Step> {
    let is_refused = seen.local.is_certificate_refused();
    if !(is_refused || is_member && seen.is_moved) {
        return None;
    }
    let is_due = seen.unsettled_for >= STUCK_TIME || own_request(seen).is_some();
    if !is_member || !is_due {
        return Some(Step::Wait { why: not_sound(&seen.local) });
    }
    let why = if is_refused { REFUSED } else { Stale::Moved.as_str() };
    let unable = || Step::Wait { why: format!("{NOBODY_CAN}: {why}") };
    Some(be_taken_out(seen, why).unwrap_or_else(unable))
}
