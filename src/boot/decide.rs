//! What a booting node does next, from what it sees. Pure: no clock, no I/O, no memory.

use std::net::IpAddr;
use std::time::Duration;

use thiserror::Error;
use time::OffsetDateTime;

use super::lost::Absence;
use super::relief::{self, Relief};
use super::unsettled;
use crate::fact::Fact;
use crate::instance::{Membership, Role};
use crate::ledger::{Charter, CharterPhase, Member, MemberState, Traces};
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
    /// Why the node certificate cannot be read: nobody can tell then which node this is, or whether it is one.
    /// Looked at only where Docker names no node or no swarm. `None` where it was read, or there is none.
    pub certificate_error: Option<String>,
    /// The role in the node certificate, where that was read: raft counts nobody who is no manager by it.
    pub certified: Option<Role>,
    /// This node's own row; looked up only where Docker is not out of every swarm.
    pub member: Option<Member>,
    /// The swarm that this manager is in; looked up only where the charter does not name it, or its
    /// quorum was re-created and this manager has no row.
    pub own_swarm: Option<OwnSwarm>,
    /// Does a leader answer this manager? Asked where `own_swarm` is; Docker may say that there is none.
    pub has_leader: Fact,
    /// A manager with a leader, of the swarm whose charter is closed: that was closed too late, and its
    /// managers open it again.
    pub lives_on: Option<IpAddr>,
    /// Of a manager that is to join and finds nobody, or finds no charter: who is gone. Of one that is in
    /// a swarm although there is no charter, about the rows of other swarms. `None` where it was not
    /// time to look, or nobody could say.
    pub absence: Option<Absence>,
    /// Has this node begun to join and never been Ready? Looked up only where Docker is neither in nor
    /// out, and no row says whose node this is.
    pub is_joining: Fact,
    /// Docker advertises another address than this node's.
    pub is_moved: bool,
    /// What the other managers can do for one of them that has moved, or whose certificate is refused;
    /// looked up only there.
    pub relief: Option<Relief>,
    /// For how long Docker has been neither in nor out.
    pub unsettled_for: Duration,
    /// For how long a claim of this node's holds: `boot.lease`.
    pub lease: Duration,
    pub now: OffsetDateTime,
}

/// Whose label a swarm bears.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// This cluster's: a skep founded it.
    Ours,
    /// Another cluster's.
    Others,
    /// Nobody's: founded by hand, or by an init that ended before it set the labels.
    Missing,
}

/// A swarm of which this node is a manager, and that the charter does not name, by the word of its
/// leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnSwarm {
    pub mark: Mark,
    /// Nobody else is in it.
    pub is_alone: bool,
    /// Under which its members came in: by its label, or by their rows where there is no charter.
    pub generation: Option<u64>,
    /// By the clock of the host that founded it.
    pub created_at: Option<OffsetDateTime>,
    /// Raft has other members who came in under an earlier generation than the charter's; looked up
    /// only where its quorum is being re-created, or was. A member without a row that can be read cannot be
    /// told while there are rows that cannot.
    pub has_former: Fact,
}

impl OwnSwarm {
    /// A skep of this cluster founded it.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        self.mark == Mark::Ours
    }

    /// Rows of another swarm that are of a generation below this one speak of a swarm that was given up
    /// for this one. One without other nodes may never have been published: no row is below it.
    #[must_use]
    pub fn outranks(&self) -> u64 {
        if self.is_alone { 0 } else { self.generation.unwrap_or(0) }
    }
}

/// One step, to be followed by another look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Claim the right to found, over what was seen. Over an open charter: its swarm is lost. Over none
    /// where rows speak of a swarm: that one is lost.
    Claim { seen: Option<Charter>, traces: Traces },
    /// Init the swarm: the claim is held.
    Init { claim: Charter },
    /// Label the swarm that this node has just founded: Docker's init ended in between.
    Mark { claim: Charter },
    /// Make this node the only manager of the swarm that it is in, which has lost its quorum: the
    /// claim is held.
    Recreate { claim: Charter },
    /// Store the tokens of the swarm that is there, and open the charter for it.
    Publish { claim: Charter, membership: Membership },
    /// There is no charter, and the swarm that is there was published under this generation: write its
    /// charter again.
    PublishAgain { membership: Membership },
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
            Self::Claim { .. }
            | Self::Init { .. }
            | Self::Mark { .. }
            | Self::Publish { .. }
            | Self::PublishAgain { .. } => "found",
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
        "Docker is manager {node_id} of this cluster's swarm, at an address that is not this host's, and the ledger does not know this instance as that node: if it was started from an image of a running manager, stop Docker, delete /var/lib/docker/swarm here, and keep it out of the image"
    )]
    Copied { node_id: String },
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
        } else if let Some(step) = relief::of_moved(seen) {
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

/// A manager leaves by force only where its swarm has no leader: one that has may have a quorum, and
/// counts on this manager.
pub(super) fn leave_the_past(seen: &Observed, charter: &Charter, is_unsettled: bool) -> Step {
    let may_be_manager = seen.local.is_manager || is_unsettled;
    match seen.has_leader {
        _ if !may_be_manager => Step::LeaveStale { by_force: false, why: OLDER_GENERATION },
        Fact::No => Step::LeaveStale { by_force: true, why: OLDER_GENERATION },
        Fact::Yes => two_swarms(charter),
        Fact::CannotTell => Step::Wait { why: LEADER_TO_KNOW.to_owned() },
    }
}

/// Nobody but the operator can say which of the two swarms is to go.
fn two_swarms(charter: &Charter) -> Step {
    let swarm_id = charter.swarm_id.as_deref().unwrap_or_default();
    let generation = charter.generation;
    Step::Wait {
        why: format!(
            "the operator: the swarm that this node is in is this cluster's and lives, but the charter names {swarm_id} as generation {generation}; leave the swarm that is not needed"
        ),
    }
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

/// Which swarm Docker is in: by its own word or its certificate, else by this node's row.
pub(super) fn swarm_of(seen: &Observed) -> Option<&String> {
    let by_row = || seen.member.as_ref().filter(|_| is_row_ours(seen))?.swarm_id.as_ref();
    seen.local.swarm_id.as_ref().or_else(by_row)
}

/// The row of a skep that did not write the swarm's id says the generation at least.
pub(super) fn is_in(seen: &Observed, charter: &Charter, swarm_id: &str) -> bool {
    match swarm_of(seen) {
        Some(own) => own == swarm_id,
        None => {
            is_row_ours(seen)
                && seen.member.as_ref().is_some_and(|row| row.generation == charter.generation)
        }
    }
}

/// Was the node that Docker says this is put into the ledger by this instance?
pub(super) fn is_row_ours(seen: &Observed) -> bool {
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
pub(super) fn is_of_the_past(seen: &Observed, charter: &Charter) -> bool {
    let own = swarm_of(seen);
    let is_earlier = seen.member.as_ref().is_some_and(|row| row.generation < charter.generation);
    let is_another = own.is_some() && own != charter.swarm_id.as_ref();
    charter.has_given_up(own) || is_row_ours(seen) && is_earlier && is_another
}

/// Of a manager without a row: its raft tells whether it came in before the quorum was re-created.
pub(super) const NEVER_RECORDED: u64 = 0;

const OFF_THE_LIST: &str = "the managers have taken this node off their list";
const LEADER_TO_KNOW: &str = "Docker to say whether the swarm that this manager is in has a leader, since the charter names a later one";
const WHAT_IS_LEFT: &str =
    "the cluster's managers to publish their swarm again, since the charter is missing";
const RECREATED: &str = "its quorum was re-created without this manager";
const ROWS_TO_READ: &str = "ledger rows that cannot be read to be repaired, since one of them may be that of a manager in raft that was one before the quorum was re-created";
const LEADER_TO_ASK: &str = "a leader that says who is in raft, since the quorum was re-created";
pub(super) const OLDER_GENERATION: &str = "the charter names the swarm of a later generation";

fn membership(local: &LocalNode, generation: u64, swarm_id: &str) -> Membership {
    Membership {
        node_id: local.node_id.clone().unwrap_or_default(),
        swarm_id: swarm_id.to_owned(),
        generation,
        role: local.role(),
    }
}

pub(super) fn not_sound(local: &LocalNode) -> String {
    if local.error.is_empty() {
        "a manager to be connected".into()
    } else {
        format!("Docker to recover: {}", local.error)
    }
}

/// Nobody can tell which node this is.
pub(super) fn unreadable(error: &str) -> Step {
    Step::Wait {
        why: format!("the node certificate, which alone says which node this is: {error}"),
    }
}

pub(super) fn foreign(local: &LocalNode) -> Step {
    let swarm_id = local.swarm_id.clone().unwrap_or_else(|| "its id cannot be read".into());
    Step::Refuse(Refusal::ForeignSwarm { swarm_id })
}
