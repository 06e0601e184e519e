//! Docker is neither in a swarm nor out of it: a join that goes on in the background or came to
//! nothing, or a member that sees no manager just now. Pure.
//!
//! Guarantees: the certificate on this host comes first; this node's row only says what the certificate
//! does not. A raft member is never discarded, and a swarm that is another cluster's is not touched.

use super::decide::{
    OLDER_GENERATION, Observed, SETTLE_TIME, STUCK_TIME, Step, foreign, is_in, is_of_the_past,
    is_row_ours, leave_the_past, not_sound, swarm_of,
};
use super::relief;
use crate::fact::Fact;
use crate::instance::Role;
use crate::ledger::{Charter, CharterPhase};
use crate::swarm::LocalState;

const CAME_TO_NOTHING: &str = "the join came to nothing";

/// Where a node belongs that Docker does not get in.
enum Place<'a> {
    /// The charter's swarm.
    Charters,
    /// One that the cluster has given up.
    Past { charter: &'a Charter },
    /// Neither of the two.
    Another,
    /// It is a node of some swarm, and no charter names one to compare it with.
    Unknown,
    /// None: it has no certificate, and no row says that it ever was a node.
    Nowhere,
}

fn place(seen: &Observed) -> Place<'_> {
    let charter = seen.charter.as_ref();
    if let Some(charter) = charter
        && charter.swarm().is_some_and(|id| is_in(seen, charter, id))
    {
        return Place::Charters;
    }
    match charter.filter(|charter| charter.phase == CharterPhase::Open) {
        Some(charter) if is_of_the_past(seen, charter) => Place::Past { charter },
        Some(_) if swarm_of(seen).is_some() => Place::Another,
        _ if swarm_of(seen).is_some() || is_row_ours(seen) => Place::Unknown,
        _ => Place::Nowhere,
    }
}

/// The next step of such a node.
pub fn recover(role: Role, seen: &Observed) -> Step {
    let place = place(seen);
    let is_in_charters = matches!(place, Place::Charters);
    if role == Role::Manager
        && let Some(step) = relief::of_unsettled(seen, is_in_charters && is_row_ours(seen))
    {
        return step;
    }
    let wait = || Step::Wait { why: not_sound(&seen.local) };
    let is_manager = role == Role::Manager || seen.local.is_manager;
    let is_pending = seen.local.state == LocalState::Pending;
    let is_named = seen.local.node_id.is_some();
    match place {
        Place::Charters => {
            // It never recovers by itself.
            let is_stuck = seen.local.is_certificate_refused() && seen.unsettled_for >= STUCK_TIME;
            if is_stuck && !is_manager {
                Step::Discard { why: "its certificate is not valid any more" }
            } else if has_failed_to_join(is_manager, seen) {
                Step::Discard { why: CAME_TO_NOTHING }
            } else {
                wait()
            }
        }
        Place::Past { charter } if is_manager => leave_the_past(seen, charter, true),
        Place::Past { .. } => Step::LeaveStale { by_force: true, why: OLDER_GENERATION },
        Place::Another => foreign(&seen.local),
        Place::Unknown => wait(),
        Place::Nowhere if is_pending && seen.unsettled_for < SETTLE_TIME => {
            Step::Wait { why: "the join to go on in the background".into() }
        }
        // Only a node with a certificate is one: it could not be read, and raft may count it.
        Place::Nowhere if seen.local.is_manager || is_named && is_pending && is_manager => wait(),
        Place::Nowhere => Step::Discard { why: CAME_TO_NOTHING },
    }
}

/// The join was given a certificate and came to nothing all the same. Raft may count a manager whose
/// join is pending.
fn has_failed_to_join(is_manager: bool, seen: &Observed) -> bool {
    let is_over = seen.local.state == LocalState::Error || !is_manager;
    seen.is_joining == Fact::Yes
        && !is_row_ours(seen)
        && is_over
        && seen.unsettled_for >= SETTLE_TIME
}
