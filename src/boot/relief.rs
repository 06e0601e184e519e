//! A manager that is of no use as the node that it is: the swarm knows it by another address, or its
//! certificate is refused. Left by force it would stay in raft as a dead member, so it asks the other
//! managers to take it out, and leaves on their word. Pure.

use super::decide::not_sound;
pub use super::types::Relief;
use super::types::{Observed, STUCK_TIME, Step};
use crate::ledger::Rejoin;

pub const MOVED: &str = "the swarm knows this node by an address that is not its own";
pub const TAKEN_OUT: &str = "another manager has taken it out of raft";
const REFUSED: &str = "this node's certificate is refused";
const NOBODY_CAN: &str = "another manager that has a leader, to take this one out";
const TO_BE_TAKEN_OUT: &str = "another manager to take this one out of raft, so that it joins anew";

/// Docker is in the charter's swarm by an address that is not this node's. A manager that raft reaches all
/// the same serves where nobody can take it out.
pub fn of_moved(seen: &Observed) -> Option<Step> {
    if !seen.is_moved {
        return None;
    }
    if seen.local.is_manager {
        let unable = || Step::Wait { why: format!("{NOBODY_CAN}: {MOVED}") };
        return be_taken_out(seen, MOVED).or_else(|| (!seen.local.is_sound()).then(unable));
    }
    let is_unconfirmed = own_request(seen).is_some_and(|request| !request.is_out);
    Some(if is_unconfirmed {
        Step::Wait { why: TO_BE_TAKEN_OUT.to_owned() }
    } else {
        Step::LeaveStale { by_force: false, why: MOVED }
    })
}

/// What this very node has asked.
fn own_request(seen: &Observed) -> Option<&Rejoin> {
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

/// The same of one that Docker does not get in. What is no member by its own row has nothing to be taken
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
