//! Compares Docker's secrets with the store and the charter, and writes the differences.

use super::decide::{Step, Stored, Truth, decide};
use crate::clients::ledger::Charter;
use crate::clients::secrets::{Item, JoinToken, SecretsError};
use crate::common::errors::chain;
use crate::common::instance::Role;
use crate::manager::error::TokensError;
use crate::node::Node;

/// Maximum number of comparisons: three secrets and the charter are four writes, and another rotation may come in
/// between.
const MOST_STEPS: usize = 12;

/// Result of a comparison.
#[derive(Clone, Debug)]
pub enum Followed {
    /// The store matches Docker.
    True { truth: Truth, charter: Charter },
    /// The store differs, and the caller did not allow writes.
    Behind,
    /// The charter is not open for the swarm that this node is in.
    NotOurs { truth: Truth },
}

/// Reads Docker's present secrets. Managers only.
pub async fn fetch_truth(node: &Node) -> Result<Truth, TokensError> {
    let cluster = node.swarm.fetch_cluster().await?;
    let unlock_key =
        if cluster.is_autolocked { node.swarm.fetch_unlock_key().await? } else { None };
    Ok(Truth {
        swarm_id: cluster.id,
        worker: JoinToken::parse(cluster.tokens.worker)?,
        manager: JoinToken::parse(cluster.tokens.manager)?,
        unlock_key,
    })
}

/// Compares, and where `may_write` writes until everything matches. Docker is read again after each write, so that of
/// two managers that write at once the slower one does not leave an older secret behind.
pub async fn follow(node: &Node, may_write: bool) -> Result<Followed, TokensError> {
    for _ in 0..MOST_STEPS {
        let (truth, charter) =
            tokio::try_join!(fetch_truth(node), async { Ok(node.ledger.fetch_charter().await?) })?;
        let Some(charter) = charter else { return Ok(Followed::NotOurs { truth }) };
        let generation = charter.generation;
        let stored = fetch_stored(node, &truth, generation).await?;
        let step = decide(&truth, Some(&charter), &stored);
        match step {
            Step::NotOurs => return Ok(Followed::NotOurs { truth }),
            Step::AllTrue => return Ok(Followed::True { truth, charter }),
            _ if !may_write => return Ok(Followed::Behind),
            Step::StoreUnlockKey => {
                if let Some(key) = truth.unlock_key {
                    let keys = stored.unlock_keys.unwrap_or_default().with(key);
                    node.tokens.put_unlock_keys(generation, &keys).await?;
                    let place = node.tokens.place(Item::UnlockKeys, generation);
                    tracing::info!("stored the swarm's new unlock key in {place}");
                }
            }
            Step::StoreToken(role) => {
                node.tokens.put(role, generation, truth.token(role).secret()).await?;
                let place = node.tokens.place(Item::Token(role), generation);
                tracing::info!("stored the swarm's new {role} token in {place}");
            }
            Step::FollowCa => {
                let ca_digest = truth.worker.ca_digest();
                if node.ledger.follow_ca(&charter, ca_digest).await? {
                    tracing::info!(ca_digest, "the charter names the swarm's new root CA");
                }
            }
        }
    }
    Err(TokensError::Restless)
}

async fn fetch_stored(node: &Node, truth: &Truth, generation: u64) -> Result<Stored, SecretsError> {
    let unlock_keys = async {
        match truth.unlock_key {
            Some(_) => node.tokens.fetch_unlock_keys(generation).await,
            None => Ok(None),
        }
    };
    let (worker, manager, unlock_keys) = tokio::join!(
        node.tokens.fetch(Role::Worker, generation),
        node.tokens.fetch(Role::Manager, generation),
        unlock_keys,
    );
    Ok(Stored {
        worker: unless_malformed(worker)?,
        manager: unless_malformed(manager)?,
        unlock_keys: unless_malformed(unlock_keys)?,
    })
}

/// Returns `None` for a malformed secret, so that it is overwritten like an old one.
fn unless_malformed<T>(read: Result<Option<T>, SecretsError>) -> Result<Option<T>, SecretsError> {
    match read {
        Err(error @ (SecretsError::Malformed { .. } | SecretsError::MalformedKey { .. })) => {
            tracing::warn!("{}", chain(&error));
            Ok(None)
        }
        read => read,
    }
}
