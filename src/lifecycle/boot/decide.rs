//! Decides the next step of a booting node from an observation. Pure: no clock, no I/O, no memory.

use time::OffsetDateTime;

use super::belonging::{
    foreign, is_in, is_of_the_past, is_removed, is_row_ours, leave_the_past, not_sound, swarm_of,
    two_swarms, unreadable,
};
pub use super::types::{Mark, Observed, OwnSwarm, Refusal, Stale, Step};
use super::{demotion_request, unsettled};
use crate::clients::docker::{LocalNode, LocalState};
use crate::clients::ledger::{Charter, CharterPhase, Traces};
use crate::common::fact::Fact;
use crate::common::instance::{Membership, Role};

/// Returns the next step.
#[must_use]
pub fn decide(me: &str, role: Role, seen: &Observed) -> Step {
    if seen.local.live_restore {
        return Step::Refuse(Refusal::LiveRestore);
    }
    match seen.local.state {
        LocalState::Locked => unlock(role, seen),
        LocalState::Inactive => enter(me, role, seen),
        LocalState::Active | LocalState::Pending | LocalState::Error => recreate(me, role, seen)
            .unwrap_or_else(|| match seen.local.state {
                LocalState::Active => settle(me, role, seen),
                _ => unsettled::recover(role, seen),
            }),
    }
}

/// Returns the step for a swarm whose quorum is being re-created or was, by this manager or without it.
fn recreate(me: &str, role: Role, seen: &Observed) -> Option<Step> {
    let charter = seen.charter.as_ref()?;
    let swarm_id = charter
        .swarm()
        .filter(|id| swarm_of(seen).map_or_else(|| is_row_ours(seen), |own| own == *id))?;
    let is_manager = seen.local.is_manager || role == Role::Manager;
    let generation = seen.member.as_ref().filter(|_| is_row_ours(seen)).map(|row| row.generation);
    if is_manager && generation.is_some_and(|generation| charter.fences(me, generation)) {
        return Some(Step::LeaveStale { by_force: true, why: Stale::QuorumRecreated });
    }
    if seen.local.is_manager && generation.is_none() && charter.fences(me, NEVER_RECORDED) {
        return match seen.own_swarm.map(|own| own.has_former) {
            Some(Fact::Yes) => {
                Some(Step::LeaveStale { by_force: true, why: Stale::QuorumRecreated })
            }
            Some(Fact::No) => None,
            Some(Fact::CannotTell) => Some(Step::Wait { why: ROWS_TO_READ.to_owned() }),
            None => Some(Step::Wait { why: LEADER_TO_ASK.to_owned() }),
        };
    }
    if !(charter.is_recovery() && charter.is_claimed_by(me) && seen.local.is_manager) {
        return None;
    }
    // A leader answers, and raft has no manager from before: the quorum was re-created, perhaps before a crash.
    Some(match seen.own_swarm.map(|own| own.has_former) {
        Some(Fact::No) => Step::Publish {
            claim: charter.clone(),
            membership: membership(&seen.local, charter.generation, swarm_id),
        },
        Some(Fact::CannotTell) => Step::Wait { why: ROWS_TO_READ.to_owned() },
        Some(Fact::Yes) | None => Step::Recreate { claim: charter.clone() },
    })
}

/// Returns the step for a Docker that has restarted in a swarm with autolock. Which swarm that is cannot be read; only
/// its key opens it.
fn unlock(role: Role, seen: &Observed) -> Step {
    match &seen.charter {
        Some(charter) if role == Role::Manager && charter.phase != CharterPhase::Closed => {
            Step::Unlock { generation: charter.generation }
        }
        _ => Step::Refuse(Refusal::Locked),
    }
}

/// Returns the step while Docker is in no swarm.
fn enter(me: &str, role: Role, seen: &Observed) -> Step {
    match &seen.charter {
        Some(charter) if charter.phase == CharterPhase::Open => {
            claim_over_lost(role, charter, seen)
                .unwrap_or_else(|| Step::Join { charter: charter.clone() })
        }
        // Another swarm is founded only once it is certain that nothing is left of the swarm whose quorum was to be
        // re-created.
        Some(charter) if charter.is_recovery() => claim_over_lost(role, charter, seen)
            .unwrap_or_else(|| Step::Wait {
                why: format!("{} to re-create the quorum", charter.founder),
            }),
        // The swarm that was to be adopted exists elsewhere: nothing is founded under that claim.
        Some(charter) if charter.is_claimed_by(me) && charter.adopts.is_some() => {
            claim_or_wait(role, Some(charter), None, seen.now)
        }
        // A founder that restarts after a crash finds its own claim and continues.
        Some(charter) if charter.is_claimed_by(me) => Step::Init { claim: charter.clone() },
        Some(charter) if charter.phase == CharterPhase::Closed && seen.lives_on.is_some() => {
            let address = seen.lives_on.map(|address| address.to_string()).unwrap_or_default();
            Step::Wait {
                why: format!("the manager at {address} to open the charter of its swarm again"),
            }
        }
        None if role == Role::Manager => match &seen.absence {
            Some(left) if left.is_without_trace() || left.is_proof() => {
                Step::Claim { seen: None, traces: left.traces.clone() }
            }
            _ => Step::Wait { why: WHAT_IS_LEFT.to_owned() },
        },
        charter => claim_or_wait(role, charter.as_ref(), None, seen.now),
    }
}

fn claim_over_lost(role: Role, charter: &Charter, seen: &Observed) -> Option<Step> {
    let lost = seen.absence.as_ref().filter(|absence| absence.is_proof())?;
    let traces = lost.traces.clone();
    (role == Role::Manager).then(|| Step::Claim { seen: Some(charter.clone()), traces })
}

/// Returns the step while Docker is in a swarm: compares that swarm with the charter's.
fn settle(me: &str, role: Role, seen: &Observed) -> Step {
    let Some(charter) = &seen.charter else { return unpublished(me, role, seen) };
    if charter.phase != CharterPhase::Open {
        return unpublished(me, role, seen);
    }
    if let Some(swarm_id) = charter.swarm_id.as_ref().filter(|id| is_in(seen, charter, id)) {
        return if is_removed(seen) {
            Step::LeaveStale { by_force: false, why: Stale::OffTheList }
        } else if seen.is_moved && seen.local.is_manager && !is_row_ours(seen) {
            Step::Refuse(Refusal::Copied {
                node_id: seen.local.node_id.clone().unwrap_or_default(),
            })
        } else if let Some(step) = demotion_request::of_settled(seen) {
            step
        } else if seen.local.is_sound() {
            Step::Ready(membership(&seen.local, charter.generation, swarm_id))
        } else {
            Step::Wait { why: not_sound(&seen.local) }
        };
    }
    let is_past = is_of_the_past(seen, charter);
    match seen.own_swarm {
        // Another manager published its swarm while this one founded: the generation fences this one out.
        Some(own)
            if is_never_published(charter, &own)
                && !charter.has_given_up(seen.local.swarm_id.as_ref()) =>
        {
            Step::Discard { why: "another manager's swarm was published" }
        }
        own if is_past && own.is_none_or(|own| own.is_ours()) => {
            leave_the_past(seen, charter, false)
        }
        Some(own) if own.is_ours() => two_swarms(charter),
        None if seen.local.is_manager => {
            Step::Wait { why: "a leader of the swarm that Docker is in".into() }
        }
        None if is_row_ours(seen) => two_swarms(charter),
        own => match &seen.certificate_error {
            Some(error) if own.is_none() && swarm_of(seen).is_none() => unreadable(error),
            _ => foreign(&seen.local),
        },
    }
}

/// Whether no other node is in the swarm, and its claim is older than the charter's.
fn is_never_published(charter: &Charter, own: &OwnSwarm) -> bool {
    let is_earlier = own.generation.is_some_and(|generation| generation < charter.generation);
    own.is_ours() && own.is_alone && is_earlier
}

/// Returns the step while Docker is in a swarm and there is no open charter.
fn unpublished(me: &str, role: Role, seen: &Observed) -> Step {
    match (&seen.charter, seen.own_swarm, &seen.local.swarm_id) {
        (Some(charter), _, Some(own)) if charter.recovers.as_ref() == Some(own) => {
            Step::Wait { why: format!("{} to re-create the quorum", charter.founder) }
        }
        (Some(charter), Some(own), Some(swarm_id))
            if own.is_ours() && charter.is_claimed_by(me) =>
        {
            let membership = membership(&seen.local, charter.generation, swarm_id);
            Step::Publish { claim: charter.clone(), membership }
        }
        (Some(charter), Some(own), _) if is_half_made(me, charter, &own, seen) => {
            Step::Mark { claim: charter.clone() }
        }
        (None, Some(own), Some(swarm_id)) if own.is_ours() => publish_again(seen, &own, swarm_id),
        // This cluster's swarm, but this node has no claim for it any more: the manager that gets the claim publishes
        // its swarm. A worker that was promoted by hand is not permitted to write the charter.
        (Some(charter), Some(own), _) if own.is_ours() => {
            claim_or_wait(role, Some(charter), own.generation, seen.now)
        }
        (_, Some(_), _) => foreign(&seen.local),
        (Some(charter), None, swarm_id) if charter.has_given_up(swarm_id.as_ref()) => {
            Step::Wait { why: format!("{} to found the next swarm", charter.founder) }
        }
        (_, None, _) if seen.local.is_manager => Step::Wait { why: not_sound(&seen.local) },
        // An open charter will show whether this is the cluster's swarm.
        (_, None, _) => {
            Step::Wait { why: "a manager to publish the swarm that this worker is in".into() }
        }
    }
}

/// Returns the step of a manager in a swarm of this cluster that has a leader, while there is no charter. That swarm
/// was published under its own generation, unless rows of another swarm have this generation or a later one.
fn publish_again(seen: &Observed, own: &OwnSwarm, swarm_id: &str) -> Step {
    let Some(others) = &seen.absence else { return Step::Wait { why: WHAT_IS_LEFT.to_owned() } };
    let are_others = !others.managers.is_empty() || others.traces.highest > 0;
    // No node joins a swarm that was not published: only one without other nodes may be unpublished.
    let is_known = others.unreadable.is_empty() || !own.is_alone;
    match own.generation {
        Some(generation) if !are_others && is_known => {
            Step::PublishAgain { membership: membership(&seen.local, generation, swarm_id) }
        }
        generation if others.is_without_trace() || others.is_proof() => {
            let mut traces = others.traces.clone();
            traces.highest = traces.highest.max(generation.unwrap_or(0));
            Step::Claim { seen: None, traces }
        }
        _ => Step::Wait { why: WHAT_IS_LEFT.to_owned() },
    }
}

/// Whether Docker created this swarm and failed before it labelled it, which are two steps: the swarm bears no label,
/// has no other node, knows this node by its own address, and was created while this node's claim was valid.
fn is_half_made(me: &str, charter: &Charter, own: &OwnSwarm, seen: &Observed) -> bool {
    let claimed_at = charter.lease_expires_at - seen.lease;
    let is_of_the_claim = own
        .created_at
        .is_some_and(|created_at| (claimed_at..charter.lease_expires_at).contains(&created_at));
    own.mark == Mark::Missing
        && own.is_alone
        && is_of_the_claim
        && !seen.is_moved
        && charter.is_claimed_by(me)
        && !charter.is_recovery()
        && charter.adopts.is_none()
}

/// Returns the step while the charter is not open, or for a worker. `own` is the generation of the swarm that this node
/// is in.
fn claim_or_wait(
    role: Role,
    charter: Option<&Charter>,
    own: Option<u64>,
    now: OffsetDateTime,
) -> Step {
    match (role, charter) {
        (Role::Manager, Some(charter)) if charter.is_claimable(now) => {
            let traces = Traces { highest: own.unwrap_or(0), ..Traces::default() };
            Step::Claim { seen: Some(charter.clone()), traces }
        }
        (_, Some(charter)) if charter.phase == CharterPhase::Founding => {
            Step::Wait { why: format!("{} to found the swarm", charter.founder) }
        }
        _ => Step::Wait { why: "a manager to found the swarm".into() },
    }
}

/// Generation of a manager without a row: the members of its raft show whether it joined before the quorum was
/// re-created.
pub(super) const NEVER_RECORDED: u64 = 0;

const WHAT_IS_LEFT: &str =
    "the cluster's managers to publish their swarm again, since the charter is missing";
const ROWS_TO_READ: &str = "the repair of ledger rows that cannot be read: one of them may be that of a manager in raft from before the quorum was re-created";
const LEADER_TO_ASK: &str =
    "a leader that lists the members of raft, since the quorum was re-created";
fn membership(local: &LocalNode, generation: u64, swarm_id: &str) -> Membership {
    Membership {
        node_id: local.node_id.clone().unwrap_or_default(),
        swarm_id: swarm_id.to_owned(),
        generation,
        role: local.role(),
    }
}
