//! A manager that is of no use as the node that it is: the swarm knows it by another address, its
//! certificate is refused, or it was let into raft and never gets in. Left by force it would stay in raft as a dead
//! member, so it asks the other managers to take it out, and leaves on their word. Pure.

use std::time::Duration;

use super::belonging::{is_row_ours, not_sound};
pub use super::types::PeerDemotion;
use super::types::{Observed, STUCK_TIME, Step};
use crate::clients::docker::{LocalNode, LocalState};
use crate::clients::ledger::DemotionRequest;
use crate::common::fact::Fact;
use crate::common::instance::Role;
use crate::manager::peers::no_leader;

pub const MOVED: &str = "the swarm knows this node by an address that is not its own";
pub const TAKEN_OUT: &str = "another manager has taken it out of raft";
const REFUSED: &str = "this node's certificate is refused";
const STUCK: &str = "this manager was let into raft, and its Docker does not get a leader";
const NOBODY_CAN: &str = "another manager that has a leader, to take this one out";
const TO_BE_TAKEN_OUT: &str = "another manager to take this one out of raft, so that it joins anew";

/// Docker is in the charter's swarm. That is of no use by an address that is not this node's, as a worker where this
/// node has asked to be taken out of raft, or as a manager that does not get a leader. A manager that has moved
/// and is sound serves while no other manager can take it out.
pub fn of_settled(seen: &Observed) -> Option<Step> {
    if seen.local.is_manager {
        let unable = || Step::Wait { why: format!("{NOBODY_CAN}: {MOVED}") };
        return match seen.local.is_sound() {
            true => seen.is_moved.then(|| be_taken_out(seen, MOVED))?,
            false if seen.is_moved => Some(be_taken_out(seen, MOVED).unwrap_or_else(unable)),
            false => of_stuck(seen),
        };
    }
    match own_request(seen) {
        Some(request) if !request.is_out => Some(Step::Wait { why: TO_BE_TAKEN_OUT.to_owned() }),
        Some(_) => Some(Step::LeaveStale { by_force: false, why: TAKEN_OUT }),
        None => seen.is_moved.then_some(Step::LeaveStale { by_force: false, why: MOVED }),
    }
}

/// It was let into raft, and for too long Docker has called it pending, or active without a leader: it counts in the
/// quorum and does nothing for it. Where Docker is pending, the certificate says that it was let in. One that has
/// written its row since it began to join is not stuck: the quorum needs what it has of raft.
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

/// What this very node has asked.
fn own_request(seen: &Observed) -> Option<&DemotionRequest> {
    let request = seen.relief.as_ref()?.request.as_ref()?;
    (Some(&request.node_id) == seen.local.node_id.as_ref()).then_some(request)
}

/// Left by force, a manager would stay in raft: the others take it out first, and say so. `None` where
/// none of them can.
fn be_taken_out(seen: &Observed, why: &'static str) -> Option<Step> {
    let node_id = seen.local.node_id.clone()?;
    match own_request(seen) {
        Some(request) if request.is_out => {
            Some(Step::LeaveStale { by_force: true, why: TAKEN_OUT })
        }
        Some(_) => Some(Step::Wait { why: format!("{TO_BE_TAKEN_OUT}: {why}") }),
        None => seen
            .relief
            .as_ref()
            .is_some_and(|relief| relief.is_led)
            .then_some(Step::AskOut { node_id, why }),
    }
}

/// The same of one that Docker does not get in.
pub fn of_stuck(seen: &Observed) -> Option<Step> {
    let is_stuck = is_stuck(&seen.local, seen.certified, seen.is_joining, seen.unsettled_for);
    let is_due = is_stuck && !is_row_ours(seen) || own_request(seen).is_some();
    is_due.then(|| be_taken_out(seen, STUCK))?
}

/// The same of a member. What is none by its own row has nothing to be taken
/// out of; but a manager's state may be all that is left of the swarm.
pub fn of_unsettled(seen: &Observed, is_member: bool) -> Option<Step> {
    let is_refused = seen.local.is_certificate_refused();
    if !(is_refused || is_member && seen.is_moved) {
        return None;
    }
    let is_due = seen.unsettled_for >= STUCK_TIME || own_request(seen).is_some();
    if !is_member || !is_due {
        return Some(Step::Wait { why: not_sound(&seen.local) });
    }
    let why = if is_refused { REFUSED } else { MOVED };
    let unable = || Step::Wait { why: format!("{NOBODY_CAN}: {why}") };
    Some(be_taken_out(seen, why).unwrap_or_else(unable))
}
