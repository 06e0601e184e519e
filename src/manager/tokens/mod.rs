//! Keeps the secret store equal to Docker: join tokens, the charter's CA digest, the unlock keys.
//!
//! Docker creates a new token and ends the old one in one call, so that the store can only follow. A joining node that
//! has read the old one is refused after ten seconds, and reads again.
//!
//! Guarantees: after any rotation (by skep, `docker swarm join-token --rotate`, `docker swarm ca --rotate`,
//! `docker swarm unlock-key --rotate`) the store follows within seconds, for as long as one manager's skep reaches it.
//! Nothing is written unless the charter is open for the swarm that Docker is in. A manager that Docker has locked is
//! unlocked.
//!
//! Docker is local and polled often; the store costs calls that nodes need for booting, so it is read only when Docker
//! reports something new, and every [`LEADER_CHECK`] by the leader (by the others every [`BACKUP_CHECK`]), in case
//! another writer has changed or deleted something: no node joins without a token.

mod decide;
mod follow;
mod rotate;
#[cfg(test)]
mod tests;

use std::time::Duration;

use tokio::time::Instant;

use super::duty::{Duty, Poll};
use super::error::{ManagerError, TokensError};
use super::observe::{Fleet, lately};
use crate::clients::docker::LocalState;
use crate::common::errors::chain;
use crate::node::{Node, Unlocking, unlock};

use decide::Truth;
use follow::{Followed, fetch_truth, follow};
pub use rotate::rotate_on_request;
use rotate::rotate_when_due;

/// Name of this duty and of its trouble.
pub(super) const NAME: &str = "secrets";
const UNEQUAL: &str =
    "cannot keep the secret store equal to Docker, so that new nodes may be unable to join";
/// Time between two polls: the longest time that the store lacks a new token, and that a restarted manager stays
/// locked.
const INTERVAL: Duration = Duration::from_secs(10);
/// Time after which the other managers write, if the leader's skep has not.
const BACKUP_PATIENCE: Duration = Duration::from_secs(30);
/// Time within which the leader notices that another writer has changed the store, or deleted something from it: a node
/// that waits for a token must get it before its launch hook times out (five minutes, by the template).
const LEADER_CHECK: Duration = Duration::from_secs(120);
/// The same for the other managers, in case the leader's skep is dead.
const BACKUP_CHECK: Duration = Duration::from_secs(600);

/// State that saves calls; no decision rests on it alone.
#[derive(Default)]
struct Memory {
    /// Docker's secrets in the last comparison with the store, and its time.
    known: Option<(Truth, Instant)>,
    /// Time since which Docker has other secrets.
    unlike_since: Option<Instant>,
    rotation: rotate::Memory,
}

impl Memory {
    /// Returns the time since the store was compared with the same secrets.
    fn known_for(&self, truth: &Truth) -> Option<Duration> {
        let (known, at) = self.known.as_ref()?;
        known.is_same(truth).then(|| at.elapsed())
    }
}

/// Keeps the store equal to Docker for as long as this node is a manager.
pub(super) async fn run(fleet: &Fleet<'_>) {
    let trouble = Some(UNEQUAL);
    let duty = Duty { name: NAME, first: Duration::ZERO, after_failure: INTERVAL, trouble };
    duty.run(fleet, async |Poll { fleet, memory, complaints }| {
        match poll(fleet, memory).await {
            Err(error) if error.of_docker().is_some() && is_locked(fleet.node).await => {
                if let Some(waiting) = unlock_self(fleet.node).await {
                    complaints.record(waiting);
                }
            }
            polled => polled?,
        }
        Ok(INTERVAL)
    })
    .await;
}

/// Whether Docker has restarted under this skep, and autolock keeps its swarm state encrypted.
async fn is_locked(node: &Node) -> bool {
    let local = node.swarm.fetch_local_node().await;
    local.is_ok_and(|local| local.state == LocalState::Locked)
}

async fn poll(fleet: &Fleet<'_>, memory: &mut Memory) -> Result<(), ManagerError> {
    let node = fleet.node;
    let is_leader = async |since| -> Result<bool, ManagerError> {
        Ok(fleet.is_leader(&fleet.nodes(since).await?))
    };
    let must_read = match memory.known_for(&fetch_truth(node).await?) {
        Some(age) if age < LEADER_CHECK => false,
        Some(age) if age < BACKUP_CHECK => is_leader(lately(INTERVAL)).await?,
        Some(_) | None => true,
    };
    if must_read {
        let since = *memory.unlike_since.get_or_insert_with(Instant::now);
        let may_write = since.elapsed() >= BACKUP_PATIENCE || is_leader(Instant::now()).await?;
        match follow(node, may_write).await? {
            Followed::Behind => return Ok(()),
            Followed::True { truth, .. } | Followed::NotOurs { truth } => {
                memory.known = Some((truth, Instant::now()));
            }
        }
    } else {
        memory.unlike_since = None;
    }
    if let Some(every) = node.settings.tokens.rotate_every
        && memory.rotation.is_look_due(every)
        && is_leader(Instant::now()).await?
    {
        rotate_when_due(node, every, &mut memory.rotation).await?;
    }
    Ok(())
}

/// Unlocks this manager, whose Docker has restarted under this skep. Shows and returns what that waits for.
pub(super) async fn unlock_self(node: &Node) -> Option<String> {
    let trouble = match try_unlock(node).await {
        Ok(waiting) => waiting,
        Err(error) => Some(format!("{UNEQUAL}: {}", chain(&error))),
    };
    node.state.trouble(NAME, trouble.clone());
    trouble
}

/// Returns the condition that the unlocking waits for.
async fn try_unlock(node: &Node) -> Result<Option<String>, TokensError> {
    let Some(charter) = node.ledger.fetch_charter().await? else { return Ok(None) };
    Ok(match unlock(node, charter.generation).await? {
        Unlocking::Done => None,
        Unlocking::Waiting(why) => Some(why),
    })
}
