//! Decides the step while Docker is neither in a swarm nor out of it: a join that runs in the background or has failed,
//! or a member that reaches no manager at present. Pure.
//!
//! Guarantees: the certificate on this host has priority; this node's row only adds facts that the certificate lacks.
//! skep never discards a raft member, including a worker that was promoted by hand, and does not touch a swarm of
//! another cluster. While the certificate cannot be read, skep discards only a worker that its own row names and whose
//! certificate Docker refuses.

use super::belonging::{
    foreign, is_in, is_of_the_past, is_removed, is_row_ours, leave_the_past, not_sound, swarm_of,
    unreadable,
};
use super::demotion_request;
use super::types::{Observed, SETTLE_TIME, STUCK_TIME, Stale, Step};
use crate::clients::docker::LocalState;
use crate::clients::ledger::{Charter, CharterPhase};
use crate::common::fact::Fact;
use crate::common::instance::Role;

const CAME_TO_NOTHING: &str = "the join has failed";
const NO_CERTIFICATE: &str = "this manager was a node of the swarm and has no certificate: restore swarm/certificates below Docker's root, or terminate this instance if other managers hold the swarm";

/// The place of a node that Docker does not get into its swarm.
enum Place<'a> {
    /// The charter's swarm.
    Charters,
    /// A swarm that the cluster has abandoned.
    Past { charter: &'a Charter },
    /// Another swarm.
    Another,
    /// Some swarm; no open charter names one to compare it with.
    Unknown,
    /// Unknown: the certificate cannot be read, and nothing else shows the swarm.
    Unreadable { error: &'a str },
    /// No swarm: the node has no certificate, and no row names it.
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

/// Returns the next step of such a node.
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
        // No manager admits it again. A worker whose certificate has the role of a manager may be in raft all the same.
        Place::Charters if is_removed(seen) && !is_promoted(role, seen) => {
            Step::LeaveStale { by_force: true, why: Stale::OffTheList }
        }
        Place::Charters => {
            // A refused certificate never recovers by itself.
            let is_stuck = seen.local.is_certificate_refused() && seen.unsettled_for >= STUCK_TIME;
            if is_stuck && !is_manager {
                Step::Discard { why: "its certificate is no longer valid" }
            } else if has_failed_to_join(is_manager, seen) {
                Step::Discard { why: CAME_TO_NOTHING }
            } else {
                demotion_request::of_stuck(seen).unwrap_or_else(wait)
            }
        }
        Place::Past { charter } if is_manager => leave_the_past(seen, charter, true),
        Place::Past { .. } => Step::LeaveStale { by_force: true, why: Stale::OlderGeneration },
        Place::Another => foreign(&seen.local),
        Place::Unknown => wait(),
        Place::Unreadable { error } => unreadable(error),
        Place::Nowhere if is_pending && seen.unsettled_for < SETTLE_TIME => {
            Step::Wait { why: "the join to go on in the background".into() }
        }
        // Raft may count it all the same, and its raft state may be all that is left of the swarm.
        Place::Nowhere if is_manager && may_have_been_node(seen) => {
            Step::Wait { why: format!("{}; {NO_CERTIFICATE}", not_sound(&seen.local)) }
        }
        Place::Nowhere => Step::Discard { why: CAME_TO_NOTHING },
    }
}

/// Whether raft may count this node. A worker may have been promoted by hand: its certificate shows that, or else its
/// row.
fn may_be_manager(role: Role, seen: &Observed) -> bool {
    let by_row = || seen.member.as_ref().filter(|_| is_row_ours(seen))?.serves_as;
    role == Role::Manager
        || seen.local.is_manager
        || seen.certified.or_else(by_row) == Some(Role::Manager)
}

/// Whether the certificate shows that this worker was promoted by hand.
fn is_promoted(role: Role, seen: &Observed) -> bool {
    role == Role::Worker && seen.certified == Some(Role::Manager)
}

/// Whether this node may have had a certificate: Docker names it, or it was Ready. The row does not count if this node
/// has started to join since: it is from an earlier life.
fn may_have_been_node(seen: &Observed) -> bool {
    let is_recorded = seen.member.is_some() && seen.is_joining != Fact::Yes;
    seen.local.is_manager || seen.local.node_id.is_some() || is_recorded
}

/// Whether the join got a certificate and failed all the same. Raft may count a manager whose join is pending.
fn has_failed_to_join(is_manager: bool, seen: &Observed) -> bool {
    let is_over = seen.local.state == LocalState::Error || !is_manager;
    seen.is_joining == Fact::Yes
        && !is_row_ours(seen)
        && is_over
        && seen.unsettled_for >= SETTLE_TIME
}
