//! What a booting node does next, from what it sees. Pure: no clock, no I/O, no memory.

use time::OffsetDateTime;

use super::belonging::{
    OFF_THE_LIST, foreign, is_in, is_of_the_past, is_removed, is_row_ours, leave_the_past,
    not_sound, swarm_of, two_swarms, unreadable,
};
pub use super::types::{Mark, Observed, OwnSwarm, Refusal, Step};
use super::{demotion_request, unsettled};
use crate::clients::docker::{LocalNode, LocalState};
use crate::clients::ledger::{Charter, CharterPhase, Traces};
use crate::common::fact::Fact;
use crate::common::instance::{Membership, Role};

/// The next step.
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

/// The quorum of this swarm is or was re-created, by this manager or without it.
fn recreate(me: &str, role: Role, seen: &Observed) -> Option<Step> {
    let charter = seen.charter.as_ref()?;
    let swarm_id = charter
        .swarm()
        .filter(|id| swarm_of(seen).map_or_else(|| is_row_ours(seen), |own| own == *id))?;
    let is_manager = seen.local.is_manager || role == Role::Manager;
    let generation = seen.member.as_ref().filter(|_| is_row_ours(seen)).map(|row| row.generation);
    if is_manager && generation.is_some_and(|generation| charter.fences(me, generation)) {
        return Some(Step::LeaveStale { by_force: true, why: RECREATED });
    }
    if seen.local.is_manager && generation.is_none() && charter.fences(me, NEVER_RECORDED) {
        return match seen.own_swarm.map(|own| own.has_former) {
            Some(Fact::Yes) => Some(Step::LeaveStale { by_force: true, why: RECREATED }),
            Some(Fact::No) => None,
            Some(Fact::CannotTell) => Some(Step::Wait { why: ROWS_TO_READ.to_owned() }),
            None => Some(Step::Wait { why: LEADER_TO_ASK.to_owned() }),
        };
    }
    if !(charter.is_recovery() && charter.is_claimed_by(me) && seen.local.is_manager) {
        return None;
    }
    // Read from a leader, with none of those in raft who were: that is done, before a crash perhaps.
    Some(match seen.own_swarm.map(|own| own.has_former) {
        Some(Fact::No) => Step::Publish {
            claim: charter.clone(),
            membership: membership(&seen.local, charter.generation, swarm_id),
        },
        Some(Fact::CannotTell) => Step::Wait { why: ROWS_TO_READ.to_owned() },
        Some(Fact::Yes) | None => Step::Recreate { claim: charter.clone() },
    })
}

/// Docker has restarted in a swarm whose managers lock themselves. Nobody can say which; its key can.
fn unlock(role: Role, seen: &Observed) -> Step {
    match &seen.charter {
        Some(charter) if role == Role::Manager && charter.phase != CharterPhase::Closed => {
            Step::Unlock { generation: charter.generation }
        }
        _ => Step::Refuse(Refusal::Locked),
    }
}

/// Docker is in no swarm.
fn enter(me: &str, role: Role, seen: &Observed) -> Step {
    match &seen.charter {
        Some(charter) if charter.phase == CharterPhase::Open => {
            claim_over_lost(role, charter, seen)
                .unwrap_or_else(|| Step::Join { charter: charter.clone() })
        }
        // Nothing is left of the swarm that was to be re-created: nobody found another one before
        // that is certain.
        Some(charter) if charter.is_recovery() => claim_over_lost(role, charter, seen)
            .unwrap_or_else(|| Step::Wait {
                why: format!("{} to re-create the quorum", charter.founder),
            }),
        // A founder that comes back after a crash finds its own claim and goes on.
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

/// Docker is in a swarm. Which?
fn settle(me: &str, role: Role, seen: &Observed) -> Step {
    let Some(charter) = &seen.charter else { return unpublished(me, role, seen) };
    if charter.phase != CharterPhase::Open {
        return unpublished(me, role, seen);
    }
    if let Some(swarm_id) = charter.swarm_id.as_ref().filter(|id| is_in(seen, charter, id)) {
        return if is_removed(seen) {
            Step::LeaveStale { by_force: false, why: OFF_THE_LIST }
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
        // The charter went to somebody else while we founded: this is what the fence is for.
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
            Step::Wait { why: "the swarm that Docker is in has no leader".into() }
        }
        None if is_row_ours(seen) => two_swarms(charter),
        own => match &seen.certificate_error {
            Some(error) if own.is_none() && swarm_of(seen).is_none() => unreadable(error),
            _ => foreign(&seen.local),
        },
    }
}

/// Nobody else is in it, and its claim came before the charter's.
fn is_never_published(charter: &Charter, own: &OwnSwarm) -> bool {
    let is_earlier = own.generation.is_some_and(|generation| generation < charter.generation);
    own.is_ours() && own.is_alone && is_earlier
}

/// Docker is in a swarm, and the charter names none.
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
        // Ours, but under no claim of ours any more: whoever wins the claim publishes it. The role of a worker that
        // was promoted by hand may not write the charter.
        (Some(charter), Some(own), _) if own.is_ours() => {
            claim_or_wait(role, Some(charter), own.generation, seen.now)
        }
        (_, Some(_), _) => foreign(&seen.local),
        (Some(charter), None, swarm_id) if charter.has_given_up(swarm_id.as_ref()) => {
            Step::Wait { why: format!("{} to found the next swarm", charter.founder) }
        }
        (_, None, _) if seen.local.is_manager => Step::Wait { why: not_sound(&seen.local) },
        // Whether it is the cluster's can be told once the charter names one.
        (_, None, _) => {
            Step::Wait { why: "a manager to publish the swarm that this worker is in".into() }
        }
    }
}

/// There is no charter, and this manager is in a swarm of this cluster that has a leader. It was
/// published under its own generation, unless rows of another swarm say that this generation or a
/// later one is theirs.
fn publish_again(seen: &Observed, own: &OwnSwarm, swarm_id: &str) -> Step {
    let Some(others) = &seen.absence else { return Step::Wait { why: WHAT_IS_LEFT.to_owned() } };
    let are_others = !others.managers.is_empty() || others.traces.highest > 0;
    // Nobody joins a swarm that was not published: only one without others may be unpublished.
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

/// Docker makes a swarm and labels it in two steps, and may fail in between: this one bears no label,
/// has no other node, is known by this node's address, and was made here while this node's claim held.
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
}

/// There is a charter that is not open, or this is a worker. `own` is the generation of the swarm that
/// this node is in.
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

/// Of a manager without a row: its raft tells whether it came in before the quorum was re-created.
pub(super) const NEVER_RECORDED: u64 = 0;

const WHAT_IS_LEFT: &str =
    "the cluster's managers to publish their swarm again, since the charter is missing";
const RECREATED: &str = "its quorum was re-created without this manager";
const ROWS_TO_READ: &str = "ledger rows that cannot be read to be repaired, since one of them may be that of a manager in raft that was one before the quorum was re-created";
const LEADER_TO_ASK: &str = "a leader that says who is in raft, since the quorum was re-created";
fn membership(local: &LocalNode, generation: u64, swarm_id: &str) -> Membership {
    Membership {
        node_id: local.node_id.clone().unwrap_or_default(),
        swarm_id: swarm_id.to_owned(),
        generation,
        role: local.role(),
    }
}
