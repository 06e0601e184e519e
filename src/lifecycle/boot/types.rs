//! The observation on which a boot decides, and the steps that it can take.

use std::net::IpAddr;
use std::time::Duration;

use thiserror::Error;
use time::OffsetDateTime;

use super::absence::Absence;
use crate::clients::docker::LocalNode;
use crate::clients::ledger::{Charter, DemotionRequest, Member, Traces};
use crate::common::fact::Fact;
use crate::common::instance::{Membership, Role};

/// How long a join in the background may settle: a black-holed one ends after 20 s, one during an election after 14 s.
pub const SETTLE_TIME: Duration = Duration::from_secs(30);
/// How long skep waits before it acts on a refused certificate or a manager that gets no leader: the clock may still be
/// corrected.
pub const STUCK_TIME: Duration = Duration::from_secs(120);

/// All facts that a decision is based on.
#[derive(Clone, Debug)]
pub struct Observed {
    /// The charter; `None` if the ledger has none. A charter that cannot be read fails the observation.
    pub charter: Option<Charter>,
    /// Docker's answer about this host, completed from the node certificate.
    pub local: LocalNode,
    /// Why the node certificate cannot be read: it is then unknown which node this is, or whether it is one. Read only
    /// when Docker names no node or no swarm, or is neither in a swarm nor out of it. `None` when it was read, or does
    /// not exist.
    pub certificate_error: Option<String>,
    /// The role in the node certificate, when it was read: raft counts only nodes whose certificate has the role of a
    /// manager.
    pub certified: Option<Role>,
    /// This node's own row; not read when Docker is in no swarm.
    pub member: Option<Member>,
    /// The swarm that this manager is in; read only when the charter does not name it, or when its quorum was
    /// re-created and this manager has no row.
    pub own_swarm: Option<OwnSwarm>,
    /// Whether a leader answers this manager. Asked together with `own_swarm`; Docker may report that there is none.
    pub has_leader: Fact,
    /// A manager with a leader, in the swarm of the closed charter: the last manager closed it after another one had
    /// joined, and the managers open it again.
    pub lives_on: Option<IpAddr>,
    /// The managers that are gone: observed by a manager that must join and finds none, or finds no charter. Without a
    /// charter, a manager that is in a swarm observes the rows of other swarms. `None` when no observation was due, or
    /// when it failed.
    pub absence: Option<Absence>,
    /// Whether this node has started to join and was never Ready. Read only when Docker is neither in a swarm nor out
    /// of it, or is a manager that is not sound, and no row of this instance names this node.
    pub is_joining: Fact,
    /// Whether Docker advertises an address other than this node's.
    pub is_moved: bool,
    /// The facts about a demotion by the other managers, for a manager whose present node is of no use: see
    /// [`super::demotion_request`]. Read only in that case.
    pub peer_demotion: Option<PeerDemotion>,
    /// How long Docker has been neither in a swarm nor out of it, or in one but not sound; a change between the two
    /// restarts the time.
    pub unsettled_for: Duration,
    /// How long a claim of this node is valid: `boot.lease`.
    pub lease: Duration,
    /// Time of the observation by this host's clock.
    pub now: OffsetDateTime,
}

/// The facts about a demotion by the other managers, for a manager that cannot leave raft by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerDemotion {
    /// The demotion request of this instance.
    pub request: Option<DemotionRequest>,
    /// Whether another manager that has a leader listens.
    pub is_led: bool,
}

/// The label of a swarm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// This cluster's: a skep founded it.
    Ours,
    /// Another cluster's.
    Others,
    /// None: founded by hand, or by an init that ended before it set the labels.
    Missing,
}

/// The swarm in which this node is a manager, by the answer of its leader; the charter does not name it, or its quorum
/// was re-created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnSwarm {
    /// The cluster that its label names.
    pub mark: Mark,
    /// Whether no other node is in it, and skep founded it: such a swarm may be empty, and may never have been published.
    /// An adopted one has its operator's services before it is published.
    pub is_alone: bool,
    /// The generation under which its members joined: from its label, and without a charter also from their rows.
    pub generation: Option<u64>,
    /// By the clock of the host that founded it.
    pub created_at: Option<OffsetDateTime>,
    /// Whether raft has other members that joined under an earlier generation than the charter's; read only when the
    /// quorum is being re-created, or was. "Cannot tell" for a member without a readable row while there are unreadable
    /// rows.
    pub has_former: Fact,
}

impl OwnSwarm {
    /// Whether a skep of this cluster founded it.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        self.mark == Mark::Ours
    }

    /// Returns the generation below which rows of another swarm belong to a swarm that was abandoned for this one. It
    /// is 0 for a swarm without other nodes, which may never have been published: no row is below it.
    #[must_use]
    pub fn outranks(&self) -> u64 {
        if self.is_alone { 0 } else { self.generation.unwrap_or(0) }
    }
}

/// One step; another observation follows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Claim the charter, against the one that was seen. A claim on an open charter means that its swarm is lost; a
    /// claim without a charter while rows name a swarm means that this swarm is lost.
    Claim {
        /// The charter to replace; `None` if there was none. The claim fails if the ledger has another one by then.
        seen: Option<Charter>,
        /// The claim's generation is higher than theirs; without a charter, their swarms become former ones.
        traces: Traces,
    },
    /// Init the swarm, under the claim that this node holds.
    Init {
        /// The charter that holds this node's claim.
        claim: Charter,
    },
    /// Label the swarm that this node has just founded: Docker's init ended before it set the labels.
    Mark {
        /// The charter that holds this node's claim.
        claim: Charter,
    },
    /// Make this node the only manager of its swarm, which has lost its quorum, under the claim that this node holds.
    Recreate {
        /// The charter that holds this node's claim.
        claim: Charter,
    },
    /// Store the tokens of this node's swarm, and open the charter for it.
    Publish {
        /// The charter that holds this node's claim.
        claim: Charter,
        /// Membership of this node under the claim's generation.
        membership: Membership,
    },
    /// Write the missing charter of this node's swarm again: it was published under this generation.
    PublishAgain {
        /// Membership of this node under the generation of its swarm.
        membership: Membership,
    },
    /// Fetch the token and the addresses for that charter, and join.
    Join {
        /// The open charter of the swarm.
        charter: Charter,
    },
    /// Leave by force a swarm of this node that was never published, or a join that failed: no other node can be in it.
    Discard {
        /// Reason, for the log and the status.
        why: &'static str,
    },
    /// Leave a swarm of this cluster to which this node no longer belongs. A manager that is fenced out leaves by
    /// force: no node may use its swarm.
    LeaveStale {
        /// Whether to leave as `docker swarm leave --force` does.
        by_force: bool,
        /// Reason, for the log and the status.
        why: Stale,
    },
    /// Ask the other managers to demote this one: it cannot leave raft by itself.
    AskOut {
        /// Docker's id of this node.
        node_id: String,
        /// Reason, for the log and the demotion request.
        why: &'static str,
    },
    /// Unlock this manager with the key of that generation; a wrong key changes nothing.
    Unlock {
        /// The charter's generation, under which the token store keeps the unlock keys.
        generation: u64,
    },
    /// Observe again after a pause.
    Wait {
        /// Completes "waiting for".
        why: String,
    },
    /// This node is in the charter's swarm.
    Ready(Membership),
    /// Stop: only the operator can solve the problem.
    Refuse(Refusal),
}

/// Why this host must leave the swarm that Docker is in before it can join again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stale {
    /// The swarm has another address for this node.
    Moved,
    /// Another manager has removed this one from raft, as it asked.
    Demoted,
    /// The managers have removed this node from the node list, by its member row.
    OffTheList,
    /// The charter names a later swarm.
    OlderGeneration,
    /// The quorum was re-created without this manager.
    QuorumRecreated,
}

impl Stale {
    /// Returns the reason in words, for the log and the status.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Moved => "the swarm has another address for this node",
            Self::Demoted => "another manager has removed it from raft",
            Self::OffTheList => "the managers have removed this node from the node list",
            Self::OlderGeneration => "the charter names the swarm of a later generation",
            Self::QuorumRecreated => "its quorum was re-created without this manager",
        }
    }
}

impl Step {
    /// Returns the stage of the boot that this step belongs to, for the measurement of the time that each stage takes.
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

/// The remedy for [`Refusal::AddressNotHere`].
pub const ADVERTISE_ANOTHER: &str =
    "set swarm.advertise_address to an address of this host, or remove the setting";

/// Why a node cannot boot; each message names the remedy.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    /// Docker is in a swarm that is not this cluster's, which skep never touches.
    #[error(
        "Docker is in a swarm that is not this cluster's ({swarm_id}): run `docker swarm leave` if nothing needs that swarm, and keep /var/lib/docker/swarm out of the image"
    )]
    ForeignSwarm {
        /// Docker's id of that swarm, or a remark that it cannot be read.
        swarm_id: String,
    },
    /// Docker is a manager with an address that is not this host's, and this instance's row does not name that manager.
    #[error(
        "Docker is manager {node_id} of this cluster's swarm, at an address that is not this host's, and the ledger does not list this instance as that node: if it was started from an image of a running manager, stop Docker, delete /var/lib/docker/swarm here, and keep it out of the image"
    )]
    Copied {
        /// Docker's id of that manager; empty if Docker does not report it.
        node_id: String,
    },
    /// Docker's swarm state is locked, and this node is a worker, or the charter is missing or closed.
    #[error(
        "Docker's swarm state is locked (autolock), and the ledger names no swarm whose key this node could use: run `docker swarm unlock` with the key of its swarm, or `docker swarm leave --force` if nothing needs that swarm"
    )]
    Locked,
    /// Docker refused to found or to join a swarm because its option `live-restore` is on.
    #[error(
        "live-restore is on, and swarm mode does not support it: set \"live-restore\": false in /etc/docker/daemon.json and restart Docker"
    )]
    LiveRestore,
    /// Docker refused to found or to join a swarm because its option `firewall-backend` is `nftables`.
    #[error(
        "Docker's firewall backend is nftables, and swarm mode does not support it: set \"firewall-backend\": \"iptables\" in /etc/docker/daemon.json, or remove --firewall-backend=nftables from dockerd's options, and restart Docker"
    )]
    NftablesFirewall,
    /// Several joins failed, because the leader could not connect to this manager's address.
    #[error(
        "the swarm cannot reach this manager's own port 2377: allow TCP 2377 from the managers in the security group ({detail})"
    )]
    OwnPortClosed {
        /// Address and port, and the number of attempts.
        detail: String,
    },
    /// The clock is so far off that AWS refuses requests with its dates. A boot first waits for it to be set.
    #[error(
        "the clock is {seconds} s {direction} the metadata service's: AWS refuses requests that are more than 300 s off; start chrony or systemd-timesyncd"
    )]
    ClockOff {
        /// Offset from the clock of the metadata service, without its sign.
        seconds: u64,
        /// `ahead of` or `behind`.
        direction: &'static str,
    },
    /// `swarm.advertise_address`, or the instance's address in the metadata, is not on this host.
    #[error("no interface of this host has the address {address}: {ADVERTISE_ANOTHER}")]
    AddressNotHere {
        /// The address that this node would advertise.
        address: std::net::IpAddr,
    },
    /// cloud-init has recorded errors on an instance that is in no swarm yet, and `boot.cloud_init` is on.
    #[error(
        "cloud-init has failed, so this instance may not be set up as its UserData describes ({errors}): see /var/log/cloud-init-output.log, or set boot.cloud_init = false to boot anyway"
    )]
    UserDataFailed {
        /// The errors that cloud-init has recorded, or the reason why skep's copy of them cannot be read.
        errors: String,
    },
}
