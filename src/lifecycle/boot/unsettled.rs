//! Docker is neither in a swarm nor out of it: a join that goes on in the background or came to
//! nothing, or a member that sees no manager just now. Pure.
//!
//! Guarantees: the certificate on this host comes first; this node's row only says what the certificate
//! does not. A raft member, also a worker that was promoted by hand, is never discarded, and a swarm that is another
//! cluster's is not touched. Nothing is discarded while the certificate cannot be read, but a worker that its own row
//! names and whose certificate Docker refuses.

use super::belonging::{
    OFF_THE_LIST, OLDER_GENERATION, foreign, is_in, is_of_the_past, is_removed, is_row_ours,
    leave_the_past, not_sound, swarm_of, unreadable,
};
use super::demotion_request;
use super::types::{Observed, SETTLE_TIME, STUCK_TIME, Step};
use crate::clients::docker::LocalState;
use crate::clients::ledger::{Charter, CharterPhase};
use crate::common::fact::Fact;
use crate::common::instance::Role;

const CAME_TO_NOTHING: &str = "the join came to nothing";
const NO_CERTIFICATE: &str = "this manager was a node and has no certificate: restore swarm/certificates below Docker's root, or terminate this instance if others hold the swarm";

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
    /// Its certificate cannot be read, and nothing else says where it belongs.
    Unreadable { error: &'a str },
    /// None: it has no certificate, and no row names it.
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
        _ => match &seen.certificate_error {
            Some(error) => Place::Unreadable { error },
            None => Place::Nowhere,
        },
    }
}

/// The next step of such a node.
pub fn recover(role: Role, seen: &Observed) -> Step {
    let place = place(seen);
    let is_in_charters = matches!(place, Place::Charters);
    if role == Role::Manager
        && let Some(step) =
            demotion_request::of_unsettled(seen, is_in_charters && is_row_ours(seen))
    {
        return step;
    }
    let wait = || Step::Wait { why: not_sound(&seen.local) };
    let is_manager = may_be_manager(role, seen);
    let is_pending = seen.local.state == LocalState::Pending;
    match place {
        // No manager lets it in again. A worker that the certificate calls a manager may be in raft all the same.
        Place::Charters if is_removed(seen) && !is_promoted(role, seen) => {
            Step::LeaveStale { by_force: true, why: OFF_THE_LIST }
        }
        Place::Charters => {
            // It never recovers by itself.
            let is_stuck = seen.local.is_certificate_refused() && seen.unsettled_for >= STUCK_TIME;
            if is_stuck && !is_manager {
                Step::Discard { why: "its certificate is not valid any more" }
            } else if has_failed_to_join(is_manager, seen) {
                Step::Discard { why: CAME_TO_NOTHING }
            } else {
                demotion_request::of_stuck(seen).unwrap_or_else(wait)
            }
        }
        Place::Past { charter } if is_manager => leave_the_past(seen, charter, true),
        Place::Past { .. } => Step::LeaveStale { by_force: true, why: OLDER_GENERATION },
        Place::Another => foreign(&seen.local),
        Place::Unknown => wait(),
        Place::Unreadable { error } => unreadable(error),
        Place::Nowhere if is_pending && seen.unsettled_for < SETTLE_TIME => {
            Step::Wait { why: "the join to go on in the background".into() }
        }
        // Raft may count it all the same, and what it has of raft may be all that is left of the swarm.
        Place::Nowhere if is_manager && may_have_been_node(seen) => {
            Step::Wait { why: format!("{}; {NO_CERTIFICATE}", not_sound(&seen.local)) }
        }
        Place::Nowhere => Step::Discard { why: CAME_TO_NOTHING },
    }
}

/// Raft may count it. A worker may have been promoted by hand: its certificate says so, or where that cannot be read
/// its row.
fn may_be_manager(role: Role, seen: &Observed) -> bool {
    let by_row = || seen.member.as_ref().filter(|_| is_row_ours(seen))?.serves_as;
    role == Role::Manager
        || seen.local.is_manager
        || seen.certified.or_else(by_row) == Some(Role::Manager)
}

/// By hand, and the certificate says so.
fn is_promoted(role: Role, seen: &Observed) -> bool {
    role == Role::Worker && seen.certified == Some(Role::Manager)
}

/// A node that Docker names, or that was Ready, had a certificate. A row is of an earlier life where this node has
/// begun to join since.
fn may_have_been_node(seen: &Observed) -> bool {
    let is_recorded = seen.member.is_some() && seen.is_joining != Fact::Yes;
    seen.local.is_manager || seen.local.node_id.is_some() || is_recorded
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
