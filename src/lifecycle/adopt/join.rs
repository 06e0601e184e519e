//! Joins an existing swarm from outside, as a manager, with a token that the operator gives (`skep adopt --join`): for
//! swarms on whose nodes nothing can be installed.

use std::net::IpAddr;
use std::time::Duration;

use thiserror::Error;
use tokio::time::{Instant, sleep};

use super::error::AdoptError;
use crate::clients::docker::{Certified, JoinAnswer, LocalState, SWARM_PORT, first_listening};
use crate::clients::ledger::{Charter, CharterPhase};
use crate::clients::secrets::JoinToken;
use crate::common::instance::Role;
use crate::config::is_private;
use crate::node::Node;

/// Time within which a manager that has joined has a leader: a join settles within 30 s.
const SETTLED_WITHIN: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// The way into the swarm.
#[derive(Clone, Debug)]
pub struct Entrance {
    /// A manager of the swarm.
    pub manager: IpAddr,
    /// The token of managers.
    pub token: JoinToken,
}

/// Why this node does not join, or has not joined; each names the remedy.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum JoinRefusal {
    /// This node would be a worker.
    #[error(
        "this instance's role is worker, by its setting `role` or its tags: only a manager can adopt a swarm"
    )]
    Worker,
    /// `live-restore` is on.
    #[error(
        "live-restore is on, and swarm mode does not support it: set \"live-restore\": false in /etc/docker/daemon.json and restart Docker"
    )]
    LiveRestore,
    /// Docker is in a swarm.
    #[error(
        "Docker is in a swarm already: run `skep adopt` without --join on a manager of it, or `docker swarm leave` if nothing needs that swarm"
    )]
    InSwarm,
    /// The charter names a swarm, or is claimed.
    #[error(
        "the charter of {cluster} is taken ({why}): start skep on this node, and it joins that swarm; or give this swarm a cluster name of its own"
    )]
    CharterTaken {
        /// Name of the cluster.
        cluster: String,
        /// Swarm or founder.
        why: String,
    },
    /// The manager's address is not private.
    #[error("{0} is not a private address: give the private address of a manager")]
    NotPrivate(IpAddr),
    /// Nobody listens there.
    #[error(
        "nothing answers at {manager}:{SWARM_PORT}: check the address, that it is a manager, and that its security group lets TCP {SWARM_PORT} in from {own}"
    )]
    NoAnswer {
        /// The manager's address.
        manager: IpAddr,
        /// This node's address.
        own: IpAddr,
    },
    /// The token was refused.
    #[error(
        "the swarm refuses the token: it was rotated, or is of another swarm; `docker swarm join-token -q manager` on a manager prints the present one"
    )]
    TokenRefused,
    /// The token is that of workers.
    #[error(
        "the token is that of workers, and this node has left the swarm again: `docker swarm join-token -q manager` on a manager prints the one of managers"
    )]
    WorkersToken,
    /// The swarm has no leader.
    #[error("the swarm has no leader: repair its quorum first")]
    NoLeader,
    /// The swarm cannot reach this node.
    #[error(
        "the swarm cannot reach {own}:{SWARM_PORT} on this node: allow TCP {SWARM_PORT} from the managers in its security group"
    )]
    OwnPortClosed {
        /// This node's address.
        own: IpAddr,
    },
    /// Another refusal by Docker.
    #[error("Docker did not join: {0}")]
    Docker(String),
    /// The join goes on in the background.
    #[error(
        "the join has not ended within {SETTLED_WITHIN:?}: see `docker info`; run `skep adopt` without --join once this host is a manager"
    )]
    Unsettled,
}

/// Checks what can be checked without a change, and joins as a manager. Nothing is written to the ledger.
///
/// # Errors
/// When the ledger or Docker does not answer. The inner error is the reason why this node is not a manager of the swarm.
pub async fn join(node: &Node, entrance: &Entrance) -> Result<Result<(), JoinRefusal>, AdoptError> {
    let local = node.swarm.fetch_local_node().await.map_err(AdoptError::DockerNotSeen)?;
    let charter = node.ledger.fetch_charter().await.map_err(AdoptError::LedgerNotSeen)?;
    let manager = entrance.manager;
    let refusal = if node.role != Role::Manager {
        Some(JoinRefusal::Worker)
    } else if local.live_restore {
        Some(JoinRefusal::LiveRestore)
    } else if local.state != LocalState::Inactive {
        Some(JoinRefusal::InSwarm)
    } else if let Some(why) = charter.as_ref().and_then(taken) {
        Some(JoinRefusal::CharterTaken { cluster: node.cluster.clone(), why })
    } else if !is_private(manager) {
        Some(JoinRefusal::NotPrivate(manager))
    } else if first_listening(&[manager]).await.is_none() {
        Some(JoinRefusal::NoAnswer { manager, own: node.address })
    } else {
        None
    };
    if let Some(refusal) = refusal {
        return Ok(Err(refusal));
    }
    let token = entrance.token.secret();
    let answer = node.swarm.join(node.address, manager, token, node.join_availability()).await;
    let own = node.address;
    match answer {
        JoinAnswer::Joined | JoinAnswer::Unknown => settle(node).await,
        // Somebody else has had it join meanwhile.
        JoinAnswer::AlreadyInSwarm => Ok(Err(JoinRefusal::InSwarm)),
        JoinAnswer::TokenRefused | JoinAnswer::CaChanged => Ok(Err(JoinRefusal::TokenRefused)),
        JoinAnswer::NoLeader => Ok(Err(JoinRefusal::NoLeader)),
        JoinAnswer::Refused | JoinAnswer::BlackHoled => {
            Ok(Err(JoinRefusal::NoAnswer { manager, own }))
        }
        JoinAnswer::OwnPortClosed => Ok(Err(JoinRefusal::OwnPortClosed { own })),
        JoinAnswer::LiveRestore => Ok(Err(JoinRefusal::LiveRestore)),
        JoinAnswer::NftablesFirewall => Ok(Err(JoinRefusal::Docker(
            "Docker's firewall backend is nftables, and swarm mode does not support it".into(),
        ))),
        JoinAnswer::Other(message) => Ok(Err(JoinRefusal::Docker(message))),
    }
}

/// Returns who has taken the charter; `None` for one that was closed, whose swarm no longer exists.
fn taken(charter: &Charter) -> Option<String> {
    match charter.phase {
        CharterPhase::Open => Some(format!("swarm {}", charter.swarm_id.as_deref().unwrap_or("?"))),
        CharterPhase::Founding => Some(format!("{} has claimed it", charter.founder)),
        CharterPhase::Closed => None,
    }
}

/// Waits until this host is a manager with a leader. A worker leaves again.
async fn settle(node: &Node) -> Result<Result<(), JoinRefusal>, AdoptError> {
    let end = Instant::now() + SETTLED_WITHIN;
    while Instant::now() < end {
        let Ok(mut local) = node.swarm.fetch_local_node().await else {
            sleep(LOOK_EVERY).await;
            continue;
        };
        if local.is_sound() && local.is_manager && node.swarm.fetch_nodes().await.is_ok() {
            return Ok(Ok(()));
        }
        // Docker may call a manager that has just joined a worker for a moment; its certificate does not.
        let certified = node.swarm.complete_by_certificate(&mut local).await;
        if local.is_sound() && certified.is_ok_and(|it| it == Certified::As(Role::Worker)) {
            node.swarm.leave(false).await.map_err(AdoptError::StillWorker)?;
            return Ok(Err(JoinRefusal::WorkersToken));
        }
        sleep(LOOK_EVERY).await;
    }
    Ok(Err(JoinRefusal::Unsettled))
}
