//! What a boot looks at, and what it may do about it.

use std::net::IpAddr;
use std::time::Duration;

use thiserror::Error;
use time::OffsetDateTime;

use super::absence::Absence;
use crate::clients::docker::LocalNode;
use crate::clients::ledger::{Charter, DemotionRequest, Member, Traces};
use crate::common::fact::Fact;
use crate::common::instance::{Membership, Role};

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
    /// Looked at only where Docker names no node or no swarm, or is neither in nor out. `None` where it was read, or
    /// there is none.
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
    /// out, or in as a manager that is not sound, and no row says whose node this is.
    pub is_joining: Fact,
    /// Docker advertises another address than this node's.
    pub is_moved: bool,
    /// What the other managers can do for one of them that cannot be of use as it is: see [`super::demotion_request`]. Looked
    /// up only there.
    pub relief: Option<PeerDemotion>,
    /// For how long Docker has been neither in nor out, or in and not sound; a change from one to the other
    /// begins anew.
    pub unsettled_for: Duration,
    /// For how long a claim of this node's holds: `boot.lease`.
    pub lease: Duration,
    pub now: OffsetDateTime,
}

/// How a manager that cannot leave by itself gets out of raft.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerDemotion {
    /// What it has asked.
    pub request: Option<DemotionRequest>,
    /// Another manager listens that has a leader.
    pub is_led: bool,
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
