//! Takes managers out of raft, one after the other: a departing manager demotes itself, and the others demote managers
//! that have died.
//!
//! Guarantees: no demotion starts while another one holds the lease (see [`crate::clients::ledger::Lease`]). Assumes
//! that Docker refuses a demotion that would lose the quorum, so that a ledger that does not answer delays no demotion.

use time::OffsetDateTime;

use crate::clients::docker::{SwarmError, SwarmErrorKind};
use crate::clients::ledger::{LeaseOf, LedgerError};
use crate::common::errors::chain;
use crate::node::Node;

/// Result of a demotion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Demotion {
    /// Docker has accepted it; raft follows within seconds.
    Accepted,
    /// It must wait.
    HeldUp {
        /// Condition that it waits for.
        waiting_for: String,
    },
}

/// Demotes a manager once it holds the demotion lease. It keeps the lease until the lease is returned
/// ([`crate::clients::ledger::Ledger::return_lease`]) or expires.
///
/// # Errors
/// As for [`crate::clients::docker::Swarm::demote`].
pub async fn demote_under_lease(node: &Node, node_id: &str) -> Result<Demotion, SwarmError> {
    match other_lease(node, node_id).await {
        Ok(None) => {}
        Ok(Some(waiting_for)) => return Ok(Demotion::HeldUp { waiting_for }),
        Err(error) => {
            tracing::warn!(
                "cannot take the demotion lease; demoting without it: {}",
                chain(&error)
            );
        }
    }
    let demotion = demote(node, node_id).await;
    // After an error it is unknown whether the demotion was done: the next manager may try when the lease expires.
    if matches!(demotion, Ok(Demotion::HeldUp { .. }))
        && let Err(error) = node.ledger.return_lease(node_id).await
    {
        tracing::debug!("cannot return the demotion lease: {}", chain(&error));
    }
    demotion
}

/// Takes the lease. If another demotion holds it, returns the condition to wait for.
async fn other_lease(node: &Node, node_id: &str) -> Result<Option<String>, LedgerError> {
    let now = OffsetDateTime::now_utc();
    if node.ledger.take_lease(LeaseOf::Demotion, node_id, &node.instance.id, now).await? {
        return Ok(None);
    }
    let whose = match node.ledger.fetch_lease(LeaseOf::Demotion).await? {
        Some(turn) => format!("of node {}", turn.node_id),
        None => "of another manager".to_owned(),
    };
    Ok(Some(format!("its turn: the demotion {whose} is under way")))
}

/// Demotes a manager without the lease, because the manager has no time left.
///
/// # Errors
/// As for [`crate::clients::docker::Swarm::demote`].
pub async fn demote(node: &Node, node_id: &str) -> Result<Demotion, SwarmError> {
    match node.swarm.demote(node_id).await {
        Ok(_) => Ok(Demotion::Accepted),
        Err(error) if error.kind == SwarmErrorKind::WouldLoseQuorum => {
            let waiting_for =
                "a replacement: without this manager the swarm would lose its quorum".to_owned();
            Ok(Demotion::HeldUp { waiting_for })
        }
        // The others were demoted meanwhile; the next poll finds that this is the last manager.
        Err(error) if error.kind == SwarmErrorKind::LastManager => {
            Ok(Demotion::HeldUp { waiting_for: "another manager: this is the last one".to_owned() })
        }
        Err(error) => Err(error),
    }
}
