//! Taking managers out of raft, one after the other: what a departing manager does to itself, and
//! the others to those that have died.
//!
//! Guarantees: no demotion begins while another one's turn lasts (see [`crate::clients::ledger::Lease`]).
//! Assumes that Docker refuses what would lose the quorum; so a ledger that does not answer holds
//! nobody up.

use time::OffsetDateTime;

use crate::clients::docker::{SwarmError, SwarmErrorKind};
use crate::clients::ledger::{LeaseOf, LedgerError};
use crate::node::Node;

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Demotion {
    /// Docker has accepted it; raft follows within seconds.
    Accepted,
    /// Not now.
    HeldUp {
        /// What to wait for.
        waiting_for: String,
    },
}

/// Demotes a manager once it is its turn. The turn stays with it until it is given back
/// ([`crate::clients::ledger::Ledger::return_lease`]) or its lease ends.
///
/// # Errors
/// As for [`crate::clients::docker::Swarm::demote`].
pub async fn demote_under_lease(node: &Node, node_id: &str) -> Result<Demotion, SwarmError> {
    match other_lease(node, node_id).await {
        Ok(None) => {}
        Ok(Some(waiting_for)) => return Ok(Demotion::HeldUp { waiting_for }),
        Err(error) => {
            tracing::warn!("demoting out of turn: {}", crate::common::errors::chain(&error))
        }
    }
    let demotion = demote(node, node_id).await;
    // After an error nobody knows whether it was done: the lease says when the next may try.
    if matches!(demotion, Ok(Demotion::HeldUp { .. }))
        && let Err(error) = node.ledger.return_lease(node_id).await
    {
        tracing::debug!("giving the turn back: {}", crate::common::errors::chain(&error));
    }
    demotion
}

/// Takes the turn; where it is another one's, says what to wait for.
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

/// The same without asking whose turn it is, for one that has no time left.
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
        // The others were demoted meanwhile: the next look says that this is the last one.
        Err(error) if error.kind == SwarmErrorKind::LastManager => {
            Ok(Demotion::HeldUp { waiting_for: "another manager: this is the last one".to_owned() })
        }
        Err(error) => Err(error),
    }
}
