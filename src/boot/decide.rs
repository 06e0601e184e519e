//! What a booting node does next, from what it sees. Pure: no clock, no I/O, no memory.

use std::time::Duration;

use thiserror::Error;
use time::OffsetDateTime;

use super::lost::Absence;
use super::relief::{self, Relief};
use crate::instance::{Membership, Role};
use crate::ledger::{Charter, CharterPhase, Member, MemberState};
use crate::swarm::{LocalNode, LocalState};

/// A join that goes on in the background gets this long to settle: a black-holed one ends after
/// 20 s, one during an election after 14 s.
pub const SETTLE_TIME: Duration = Duration::from_secs(30);
/// Docker gives a node whose certificate it refuses this long: a clock may just be set right.
pub const STUCK_TIME: Duration = Duration::from_secs(120);

/// Everything that a decision rests on.
#[derive(Clone, Debug)]
pub struct Observed {
    pub charter: Option<Charter>,
    pub local: LocalNode,
    /// This node's own row; looked up only where Docker is not out of every swarm.
    pub member: Option<Member>,
    /// The swarm that this manager is in; looked up only where the charter does not name it, or its
    /// quorum was re-created and this manager has no row.
    pub own_swarm: Option<OwnSwarm>,
    /// Of a manager that is to join and finds nobody: who is gone. `None` where it was not time to
    /// look, or nobody could say.
    pub absence: Option<Absence>,
    /// Docker advertises another address than this node's.
    pub is_moved: bool,
    /// What the other managers can do for one of them that has moved, or whose certificate is refused;
    /// looked up only there.
    pub relief: Option<Relief>,
    /// For how long Docker has been neither in nor out.
    pub unsettled_for: Duration,
    pub now: OffsetDateTime,
}

/// A swarm of which this node is a manager, and that the charter does not name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnSwarm {
    /// It bears the label of this cluster: a skep founded it.
    pub is_ours: bool,
    /// Nobody else is in it.
    pub is_alone: bool,
    /// Raft has other members who came in under an earlier generation than the charter's; looked up
    /// only where its quorum is being re-created, or was.
    pub has_former: bool,
}

/// One step, to be followed by another look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Claim the right to found, over what was seen. Over an open charter: its swarm is lost.
    Claim { seen: Option<Charter> },
    /// Init the swarm: the claim is held.
    Init { claim: Charter },
    /// Make this node the only manager of the swarm that it is in, which has lost its quorum: the
    /// claim is held.
    Recreate { claim: Charter },
    /// Store the tokens of the swarm that is there, and open the charter for it.
    Publish { claim: Charter, membership: Membership },
    /// Fetch token and addresses of that charter and join.
    Join { charter: Charter },
    /// Leave by force a swarm of our own that was never published, or a join that came to nothing:
    /// nobody else can be in it.
    Discard { why: &'static str },
    /// Leave a swarm of this cluster that this node is no part of any more. By force where it is a
    /// manager: a fenced one, of a swarm that nobody may use.
    LeaveStale { by_force: bool, why: &'static str },
    /// Ask the other managers to take this node out of raft: it cannot leave by itself.
    AskOut { node_id: String, why: &'static str },
    /// Open this manager with a key of that generation: a wrong one changes nothing.
    Unlock { generation: u64 },
    /// Look again in a moment.
    Wait { why: String },
    /// In.
    Ready(Membership),
    /// Nothing that skep may do helps.
    Refuse(Refusal),
}

impl Step {
    /// What it is part of, for people who ask where the time goes.
    #[must_use]
    pub fn stage(&self) -> &'static str {
        match self {
            Self::Claim { .. } | Self::Init { .. } | Self::Publish { .. } => "found",
            Self::Recreate { .. } => "recreate",
            Self::Join { .. } => "join",
            Self::AskOut { .. } | Self::Discard { .. } | Self::LeaveStale { .. } => "leave_stale",
            Self::Unlock { .. } => "unlock",
            Self::Wait { .. } => "wait",
            Self::Ready(_) | Self::Refuse(_) => "look",
        }
    }
}

/// Why a node cannot take its place; each names the remedy.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    #[error(
        "Docker is in a swarm that is not this cluster's ({swarm_id}): `docker swarm leave` if nothing needs it, and keep /var/lib/docker/swarm out of the image"
    )]
    ForeignSwarm { swarm_id: String },
    #[error(
        "Docker's swarm state is locked (autolock), and not by a manager of a swarm that the ledger knows: `docker swarm unlock` with the key of that swarm, or `docker swarm leave --force` if nothing needs it"
    )]
    Locked,
    #[error(
        "live-restore is on, which swarm mode excludes: set \"live-restore\": false in /etc/docker/daemon.json and restart Docker"
    )]
    LiveRestore,
    #[error(
        "nftables is Docker's firewall backend, which swarm mode excludes: set \"firewall-backend\": \"iptables\" in /etc/docker/daemon.json, or remove --firewall-backend=nftables from dockerd's options, and restart Docker"
    )]
    NftablesFirewall,
    #[error(
        "the swarm cannot reach this manager's own port 2377: let the security group admit TCP 2377 from the managers ({detail})"
    )]
    OwnPortClosed { detail: String },
    #[error(
        "the clock is {seconds} s {direction} the metadata service's: AWS refuses requests beyond 300 s; start chrony or systemd-timesyncd"
    )]
    ClockOff { seconds: u64, direction: &'static str },
    #[error(
        "address {address} is on no interface of this host: set swarm.advertise_address to one that is, or leave it out"
    )]
    AddressNotHere { address: std::net::IpAddr },
    #[error(
        "cloud-init has failed, so this instance may not be what its UserData describes ({errors}): see /var/log/cloud-init-output.log, or set boot.cloud_init = false"
    )]
    UserDataFailed { errors: String },
}

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
                LocalState::Active => settle(me, seen),
                _ => recover(role, seen),
            }),
    }
}

/// The quorum of this swarm is or was re-created, by this manager or without it.
fn recreate(me: &str, role: Role, seen: &Observed) -> Option<Step> {
    let charter = seen.charter.as_ref()?;
    let swarm_id = charter.swarm().filter(|id| {
        seen.local.swarm_id.as_ref().map_or_else(|| is_row_ours(seen), |own| own == *id)
    })?;
    let is_manager = seen.local.is_manager || role == Role::Manager;
    let generation = seen.member.as_ref().filter(|_| is_row_ours(seen)).map(|row| row.generation);
    if is_manager && generation.is_some_and(|generation| charter.fences(me, generation)) {
        return Some(Step::LeaveStale { by_force: true, why: RECREATED });
    }
    if seen.local.is_manager && generation.is_none() && charter.fences(me, NEVER_RECORDED) {
        return match seen.own_swarm {
            Some(own) if own.has_former => {
                Some(Step::LeaveStale { by_force: true, why: RECREATED })
            }
            Some(_) => None,
            None => Some(Step::Wait { why: LEADER_TO_ASK.to_owned() }),
        };
    }
    if !(charter.is_recovery() && charter.is_claimed_by(me) && seen.local.is_manager) {
        return None;
    }
    // Read from a leader, with none of those in raft who were: that is done, before a crash perhaps.
    Some(match seen.own_swarm {
        Some(own) if !own.has_former => Step::Publish {
            claim: charter.clone(),
            membership: membership(&seen.local, charter, swarm_id),
        },
        _ => Step::Recreate { claim: charter.clone() },
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
            let is_lost = seen.absence.as_ref().is_some_and(Absence::is_proof);
            if is_lost && role == Role::Manager {
                Step::Claim { seen: Some(charter.clone()) }
            } else {
                Step::Join { charter: charter.clone() }
            }
        }
        // Nothing is left of the swarm that was to be re-created: nobody found another one before
        // that is certain.
        Some(charter) if charter.is_recovery() => {
            let is_lost = seen.absence.as_ref().is_some_and(Absence::is_proof);
            if is_lost && role == Role::Manager {
                Step::Claim { seen: Some(charter.clone()) }
            } else {
                Step::Wait { why: format!("{} to re-create the quorum", charter.founder) }
            }
        }
        // A founder that comes back after a crash finds its own claim and goes on.
        Some(charter) if charter.is_claimed_by(me) => Step::Init { claim: charter.clone() },
        charter => claim_or_wait(role, charter.as_ref(), seen.now),
    }
}

/// Docker is in a swarm. Which?
fn settle(me: &str, seen: &Observed) -> Step {
    let Some(charter) = &seen.charter else { return unpublished(me, seen) };
    if charter.phase != CharterPhase::Open {
        return unpublished(me, seen);
    }
    if let Some(swarm_id) = charter.swarm_id.as_ref().filter(|id| is_in(seen, charter, id)) {
        return if is_removed(seen) {
            Step::LeaveStale { by_force: false, why: OFF_THE_LIST }
        } else if let Some(step) = relief::of_moved(seen) {
            step
        } else if seen.local.is_sound() {
            Step::Ready(membership(&seen.local, charter, swarm_id))
        } else {
            Step::Wait { why: not_sound(&seen.local) }
        };
    }
    match seen.own_swarm {
        // The charter went to somebody else while we founded: this is what the fence is for.
        Some(OwnSwarm { is_ours: true, is_alone: true, .. })
            if !charter.has_given_up(seen.local.swarm_id.as_ref()) =>
        {
            Step::Discard { why: "another manager's swarm was published" }
        }
        own if own.is_none_or(|own| own.is_ours) && is_of_the_past(seen, charter) => {
            Step::LeaveStale { by_force: seen.local.is_manager, why: OLDER_GENERATION }
        }
        None if !seen.local.is_manager && is_row_ours(seen) => {
            Step::LeaveStale { by_force: false, why: ANOTHER_SWARM }
        }
        None if seen.local.is_manager => {
            Step::Wait { why: "the swarm that Docker is in has no leader".into() }
        }
        _ => foreign(&seen.local),
    }
}

/// Docker is in a swarm, and the charter names none.
fn unpublished(me: &str, seen: &Observed) -> Step {
    match (&seen.charter, seen.own_swarm, &seen.local.swarm_id) {
        (Some(charter), _, Some(own)) if charter.recovers.as_ref() == Some(own) => {
            Step::Wait { why: format!("{} to re-create the quorum", charter.founder) }
        }
        (Some(charter), Some(own), Some(swarm_id)) if own.is_ours && charter.is_claimed_by(me) => {
            let membership = membership(&seen.local, charter, swarm_id);
            Step::Publish { claim: charter.clone(), membership }
        }
        // Ours, but under no claim of ours any more, or the table was made anew under a living
        // swarm: whoever wins the claim publishes it.
        (charter, Some(own), _) if own.is_ours => {
            claim_or_wait(Role::Manager, charter.as_ref(), seen.now)
        }
        (_, Some(_), _) => foreign(&seen.local),
        (Some(charter), None, swarm_id) if charter.has_given_up(swarm_id.as_ref()) => {
            Step::Wait { why: format!("{} to found the next swarm", charter.founder) }
        }
        (_, None, _) if !seen.local.is_manager && is_row_ours(seen) => {
            Step::Wait { why: "a manager to publish the swarm that this worker is in".into() }
        }
        (_, None, _) if seen.local.is_manager => Step::Wait { why: not_sound(&seen.local) },
        (_, None, _) => foreign(&seen.local),
    }
}

/// Docker is neither in nor out: a join that goes on in the background or came to nothing, or a
/// member that sees no manager just now.
fn recover(role: Role, seen: &Observed) -> Step {
    let is_member = seen.charter.as_ref().is_some_and(|charter| {
        charter.swarm_id.as_ref().is_some_and(|id| is_in(seen, charter, id)) && is_row_ours(seen)
    });
    if role == Role::Manager
        && let Some(step) = relief::of_unsettled(seen, is_member)
    {
        return step;
    }
    if is_member {
        // It never recovers by itself.
        let is_stuck = seen.local.is_certificate_refused() && seen.unsettled_for >= STUCK_TIME;
        return if is_stuck && !seen.local.is_manager {
            Step::Discard { why: "its certificate is not valid any more" }
        } else {
            Step::Wait { why: not_sound(&seen.local) }
        };
    }
    if seen
        .charter
        .as_ref()
        .is_some_and(|charter| charter.phase == CharterPhase::Open && is_of_the_past(seen, charter))
    {
        return Step::LeaveStale { by_force: true, why: OLDER_GENERATION };
    }
    if seen.unsettled_for < SETTLE_TIME && seen.local.state == LocalState::Pending {
        return Step::Wait { why: "the join to go on in the background".into() };
    }
    if seen.local.is_manager {
        return foreign(&seen.local);
    }
    Step::Discard { why: "the join came to nothing" }
}

fn claim_or_wait(role: Role, charter: Option<&Charter>, now: OffsetDateTime) -> Step {
    match (role, charter) {
        (Role::Manager, None) => Step::Claim { seen: None },
        (Role::Manager, Some(charter)) if charter.is_claimable(now) => {
            Step::Claim { seen: Some(charter.clone()) }
        }
        (_, Some(charter)) if charter.phase == CharterPhase::Founding => {
            Step::Wait { why: format!("{} to found the swarm", charter.founder) }
        }
        _ => Step::Wait { why: "a manager to found the swarm".into() },
    }
}

/// Docker's own word where it has one, else this node's row.
fn is_in(seen: &Observed, charter: &Charter, swarm_id: &str) -> bool {
    match &seen.local.swarm_id {
        Some(own) => own == swarm_id,
        None => {
            is_row_ours(seen)
                && seen.member.as_ref().is_some_and(|row| row.generation == charter.generation)
        }
    }
}

/// Was the node that Docker says this is put into the ledger by this instance?
fn is_row_ours(seen: &Observed) -> bool {
    match (&seen.member, &seen.local.node_id) {
        (Some(row), Some(node_id)) => row.node_id == *node_id,
        _ => false,
    }
}

/// The managers have taken this very node off the list, which Docker here does not hear of.
fn is_removed(seen: &Observed) -> bool {
    let is_marked = seen.member.as_ref().is_some_and(|row| row.state == MemberState::Removed);
    is_marked && is_row_ours(seen) && !seen.local.is_manager
}

/// This node is in a swarm that the cluster has given up, by the charter's word, or by its own row:
/// it joined under an earlier charter, and another swarm.
fn is_of_the_past(seen: &Observed, charter: &Charter) -> bool {
    if charter.has_given_up(seen.local.swarm_id.as_ref()) {
        return true;
    }
    let is_earlier = seen.member.as_ref().is_some_and(|row| row.generation < charter.generation);
    let is_another = seen.local.swarm_id.is_none() || seen.local.swarm_id != charter.swarm_id;
    is_row_ours(seen) && is_earlier && is_another
}

/// Of a manager without a row: its raft tells whether it came in before the quorum was re-created.
pub(super) const NEVER_RECORDED: u64 = 0;

const OFF_THE_LIST: &str = "the managers have taken this node off their list";
const ANOTHER_SWARM: &str = "the charter names another one";
const RECREATED: &str = "its quorum was re-created without this manager";
const LEADER_TO_ASK: &str = "a leader that says who is in raft, since the quorum was re-created";
const OLDER_GENERATION: &str = "the charter names the swarm of a later generation";

fn membership(local: &LocalNode, charter: &Charter, swarm_id: &str) -> Membership {
    Membership {
        node_id: local.node_id.clone().unwrap_or_default(),
        swarm_id: swarm_id.to_owned(),
        generation: charter.generation,
        role: if local.is_manager { Role::Manager } else { Role::Worker },
    }
}

pub(super) fn not_sound(local: &LocalNode) -> String {
    if local.error.is_empty() {
        "a manager to be connected".into()
    } else {
        format!("Docker to recover: {}", local.error)
    }
}

fn foreign(local: &LocalNode) -> Step {
    let swarm_id = local.swarm_id.clone().unwrap_or_else(|| "its id cannot be read".into());
    Step::Refuse(Refusal::ForeignSwarm { swarm_id })
}
