//! Rotates tokens, at an operator's request or at an interval.

use std::time::Duration;

use thiserror::Error;
use time::OffsetDateTime;
use tokio::time::Instant;

use super::decide::is_rotated;
use super::follow::{Followed, fetch_truth, follow};
use crate::clients::docker::{Rotation, SwarmError, SwarmErrorKind};
use crate::clients::secrets::Item;
use crate::common::errors::chain;
use crate::common::fact::Fact;
use crate::common::instance::Role;
use crate::common::report::Rotated;
use crate::common::retry::Backoff;
use crate::manager::error::TokensError;
use crate::node::Node;

/// Time that an operator waits at a prompt for the store; the duty tries again afterwards.
const STORE_PATIENCE: Duration = Duration::from_secs(60);
const STORE_BACKOFF: Backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(5));
/// Maximum time between two checks, and so the longest delay of a rotation at an interval.
const LONGEST_LOOK: Duration = Duration::from_secs(600);
/// The same as a share of the interval.
const LOOKS_PER_INTERVAL: u32 = 4;

/// Both tokens, which are rotated at an interval.
const BOTH: Rotation = Rotation { worker_token: true, manager_token: true, unlock_key: false };

/// Time of the last check, and of a rotation that the ledger may not have recorded.
#[derive(Default)]
pub struct Memory {
    looked_at: Option<Instant>,
    rotated_at: Option<OffsetDateTime>,
}

impl Memory {
    pub fn is_look_due(&self, every: Duration) -> bool {
        let interval = (every / LOOKS_PER_INTERVAL).min(LONGEST_LOOK);
        self.looked_at.is_none_or(|at| at.elapsed() >= interval)
    }
}

/// Reason why a requested rotation did not end as it should.
#[derive(Debug, Error)]
enum Refusal {
    #[error("this node is not a manager; run this command on one of {managers}")]
    NotManager { managers: String },
    #[error("this node is in no swarm that the ledger names, so there is nothing to rotate")]
    NotOurs,
    #[error(
        "autolock is off, so there is no unlock key: `docker swarm update --autolock` makes one"
    )]
    NoUnlockKey,
    #[error("the swarm has no leader, so nothing was rotated; see `skep status`")]
    NoLeader,
    #[error(
        "whether anything was rotated is not known: Docker may still do it once it has a leader, and skep \
         stores the new secrets then; see `skep status`, and run this command again when there is a leader"
    )]
    Unknown(#[source] SwarmError),
    #[error("nothing was rotated")]
    Docker(#[source] SwarmError),
    #[error("nothing was rotated")]
    NotSeen(#[source] TokensError),
    #[error(
        "Docker has rotated the secrets, but the secret store does not have the new ones yet, and until then new nodes cannot join; skep keeps trying"
    )]
    NotStored(#[source] TokensError),
    #[error("Docker has rotated the secrets; another manager stores them, see its log")]
    Elsewhere,
}

/// Rotates in Docker, and returns when the store has the new secrets.
///
/// # Errors
/// The reason and the remedy, as text.
pub async fn rotate_on_request(node: &Node, what: Rotation) -> Result<Rotated, String> {
    rotate(node, what).await.map_err(|refusal| chain(&refusal))
}

async fn rotate(node: &Node, what: Rotation) -> Result<Rotated, Refusal> {
    let local = node.swarm.fetch_local_node().await.map_err(Refusal::Docker)?;
    if !local.is_manager {
        return Err(Refusal::NotManager { managers: managers(node).await });
    }
    // The charter must be open for this swarm before the rotation, or no manager could store the new secrets.
    match follow(node, false).await {
        Ok(Followed::NotOurs { .. }) => return Err(Refusal::NotOurs),
        Ok(_) => {}
        Err(error) => return Err(not_begun(error)),
    }
    let before = fetch_truth(node).await.map_err(not_begun)?;
    if what.unlock_key && before.unlock_key.is_none() {
        return Err(Refusal::NoUnlockKey);
    }
    if let Err(error) = node.swarm.rotate(what).await {
        let after = fetch_truth(node).await.ok();
        match is_rotated(what, &error, &before, after.as_ref()) {
            Fact::Yes => tracing::warn!("Docker has rotated although it answered: {error}"),
            Fact::No => return Err(Refusal::Docker(error)),
            Fact::CannotTell => return Err(Refusal::Unknown(error)),
        }
    }
    tracing::info!(?what, "rotated the swarm's secrets at the operator's request");
    let deadline = Instant::now() + STORE_PATIENCE;
    let stored = STORE_BACKOFF.run("storing", deadline, |_| true, || follow(node, true)).await;
    let Followed::True { charter, .. } = stored.map_err(Refusal::NotStored)? else {
        return Err(Refusal::Elsewhere);
    };
    if what.worker_token && what.manager_token {
        record(node, charter.generation, OffsetDateTime::now_utc()).await;
    }
    let items = [
        (what.worker_token, Item::Token(Role::Worker)),
        (what.manager_token, Item::Token(Role::Manager)),
        (what.unlock_key, Item::UnlockKeys),
    ];
    let stored_in = items.into_iter().filter(|(is_new, _)| *is_new);
    Ok(Rotated {
        generation: charter.generation,
        stored_in: stored_in.map(|(_, item)| node.tokens.place(item, charter.generation)).collect(),
    })
}

/// Returns the refusal after a failed read: nothing was rotated.
fn not_begun(error: TokensError) -> Refusal {
    match error {
        TokensError::Swarm(error) if error.kind == SwarmErrorKind::NoLeader => Refusal::NoLeader,
        error => Refusal::NotSeen(error),
    }
}

/// Returns the managers on which the operator can run the command instead.
async fn managers(node: &Node) -> String {
    let rows = node.ledger.fetch_managers().await.unwrap_or_default();
    let names: Vec<String> =
        rows.iter().map(|row| format!("{} ({})", row.instance_id, row.address)).collect();
    if names.is_empty() { "the managers".into() } else { names.join(", ") }
}

/// Rotates both tokens if the last rotation is `every` ago. Called by the leader alone.
pub async fn rotate_when_due(
    node: &Node,
    every: Duration,
    memory: &mut Memory,
) -> Result<(), TokensError> {
    // Only while the store can be written to: a routine rotation must shut no node out.
    let Followed::True { charter, truth } = follow(node, true).await? else { return Ok(()) };
    let recorded = node.ledger.fetch_token_rotation(charter.generation).await?;
    // A check that failed before this line is repeated by the next poll, so that its trouble is not reported as
    // resolved meanwhile.
    memory.looked_at = Some(Instant::now());
    let last = recorded.max(charter.founded_at).max(memory.rotated_at);
    let now = OffsetDateTime::now_utc();
    if last.is_some_and(|last| now - last < every) {
        return Ok(());
    }
    if let Err(error) = node.swarm.rotate(BOTH).await {
        let after = fetch_truth(node).await.ok();
        match is_rotated(BOTH, &error, &truth, after.as_ref()) {
            Fact::Yes => {}
            // The next poll tries again.
            Fact::No | Fact::CannotTell => return Err(error.into()),
        }
    }
    memory.rotated_at = Some(now);
    tracing::info!("rotated the join tokens: the last rotation was {every:?} ago or longer");
    follow(node, true).await?;
    record(node, charter.generation, now).await;
    Ok(())
}

/// Records the rotation. Without the record the next rotation at an interval only comes too early.
async fn record(node: &Node, generation: u64, at: OffsetDateTime) {
    if let Err(error) = node.ledger.record_token_rotation(generation, at).await {
        tracing::warn!("cannot record the rotation in the ledger: {}", chain(&error));
    }
}
