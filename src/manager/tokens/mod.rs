//! The secret store says what Docker says: join tokens, the charter's CA digest, the unlock keys.
//!
//! Docker makes a new token and ends the old one in one call, so that the store can only follow. A
//! joiner that has read the old one is refused after ten seconds, and reads again.
//!
//! Guarantees: whoever has rotated (skep, `docker swarm join-token --rotate`, `docker swarm ca
//! --rotate`, `docker swarm unlock-key --rotate`), the store follows within seconds, for as long as
//! one manager's skep reaches it. Nothing is written unless the charter is open for the swarm that
//! Docker is in. A manager that Docker has locked is opened again.
//!
//! Docker is near and looked at often; the store costs calls that nodes need for booting, so it is
//! read only when Docker says something new, and every [`LEADER_CHECK`] by the leader (by the others every
//! [`BACKUP_CHECK`]) in case that somebody else has written or deleted something: nobody joins without a token.

mod decide;
mod follow;
mod rotate;
#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::time::Duration;

use tokio::time::Instant;

use super::rounds::WORKER_INTERVAL;
use crate::clients::docker::LocalState;
use crate::node::{Node, Unlocking, unlock};

use decide::Truth;
use follow::{Followed, TokensError, fetch_truth, follow};
pub use rotate::rotate_on_request;
use rotate::rotate_when_due;

/// Who has the trouble.
const WHO: &str = "secrets";
/// How old a token in the store may be, and how long a restarted manager stays locked.
const INTERVAL: Duration = Duration::from_secs(10);
/// The other managers write when the leader's skep has not.
const BACKUP_PATIENCE: Duration = Duration::from_secs(30);
/// What somebody else has written into the store, or deleted from it, is found out by then: a node that waits for a
/// token must get it before its launch hook times out (five minutes, by the template).
const LEADER_CHECK: Duration = Duration::from_secs(60);
/// The same by the other managers, in case the leader's skep is dead.
const BACKUP_CHECK: Duration = Duration::from_secs(600);

/// What saves calls; nothing is decided on it alone.
#[derive(Default)]
struct Memory {
    /// What the store was last seen to say, and when.
    known: Option<(Truth, Instant)>,
    /// Since when Docker says something else.
    unlike_since: Option<Instant>,
    rotation: rotate::Memory,
}

impl Memory {
    /// How long ago the store was seen to say what Docker says.
    fn known_for(&self, truth: &Truth) -> Option<Duration> {
        let (known, at) = self.known.as_ref()?;
        known.is_same(truth).then(|| at.elapsed())
    }
}

/// Keeps the store true, and this manager unlocked; never returns.
pub async fn keep_tokens(node: &Node, node_id: &str) -> Infallible {
    let mut memory = Memory::default();
    loop {
        match look(node, node_id, &mut memory).await {
            Ok(trouble) => node.state.trouble(WHO, trouble),
            // Without a leader nobody can rotate either; others say what is wrong with Docker.
            Err(TokensError::Swarm(error)) => tracing::debug!("{error}"),
            Err(error) => {
                let why = crate::common::errors::chain(&error);
                let what = format!(
                    "the secret store cannot be kept as Docker has it, so that new nodes may not \
                     get in: {why}"
                );
                node.state.trouble(WHO, Some(what));
            }
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

/// What is wrong, if anything.
async fn look(
    node: &Node,
    node_id: &str,
    memory: &mut Memory,
) -> Result<Option<String>, TokensError> {
    // A worker shares the answer of others who look; one of a Docker that is locked is never shared.
    let local = node.swarm.fetch_local_node_lately(WORKER_INTERVAL).await?;
    if local.is_settled() && !local.is_manager {
        return Ok(None);
    }
    let local = node.swarm.fetch_local_node().await?;
    if local.state == LocalState::Locked {
        return reopen(node).await;
    }
    if !local.is_manager {
        return Ok(None);
    }
    let must_read = match memory.known_for(&fetch_truth(node).await?) {
        Some(age) if age < LEADER_CHECK => false,
        Some(age) if age < BACKUP_CHECK => is_leader(node, node_id).await?,
        Some(_) | None => true,
    };
    if must_read {
        let since = *memory.unlike_since.get_or_insert_with(Instant::now);
        let may_write = since.elapsed() >= BACKUP_PATIENCE || is_leader(node, node_id).await?;
        match follow(node, may_write).await? {
            Followed::Behind => return Ok(None),
            Followed::True { truth, .. } | Followed::NotOurs { truth } => {
                memory.known = Some((truth, Instant::now()));
            }
        }
    } else {
        memory.unlike_since = None;
    }
    if let Some(every) = node.settings.tokens.rotate_every
        && memory.rotation.is_look_due(every)
        && is_leader(node, node_id).await?
    {
        rotate_when_due(node, every, &mut memory.rotation).await?;
    }
    Ok(None)
}

async fn is_leader(node: &Node, node_id: &str) -> Result<bool, TokensError> {
    Ok(node.swarm.fetch_node(node_id).await?.is_some_and(|me| me.is_leader()))
}

/// Docker has restarted under this skep.
async fn reopen(node: &Node) -> Result<Option<String>, TokensError> {
    let Some(charter) = node.ledger.fetch_charter().await? else { return Ok(None) };
    Ok(match unlock(node, charter.generation).await? {
        Unlocking::Done => None,
        Unlocking::Waiting(why) => Some(why),
    })
}
