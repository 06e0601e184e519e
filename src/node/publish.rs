//! Publishes the swarm of this manager: its secrets, this node's row, and a missing charter.

use time::OffsetDateTime;

use super::{Node, NodeError};
use crate::clients::docker::{CLUSTER_LABEL, RECOVERED_LABEL, Tokens};
use crate::clients::ledger::{Charter, Living, MemberState};
use crate::clients::secrets::JoinToken;
use crate::common::instance::{Membership, Role};

/// Stores the join tokens and the unlock key under the membership's generation, and writes this node's row. Returns the
/// digest of the swarm's root CA.
///
/// # Errors
/// When Docker, the ledger or the secret store fails, or Docker returns a malformed token.
pub async fn store(
    node: &Node,
    membership: &Membership,
    tokens: &Tokens,
) -> Result<String, NodeError> {
    let ca_digest = JoinToken::parse(tokens.worker.clone())?.ca_digest().to_owned();
    let generation = membership.generation;
    let unlock_key = async {
        match node.swarm.fetch_unlock_key().await? {
            Some(key) => {
                // Earlier keys unlock managers that were down during a rotation.
                let known = node.tokens.fetch_unlock_keys(generation).await?;
                let keys = known.unwrap_or_default().with(key);
                Ok(node.tokens.put_unlock_keys(generation, &keys).await?)
            }
            None => Ok::<_, NodeError>(()),
        }
    };
    let (unlock_key, worker, manager, row) = tokio::join!(
        unlock_key,
        node.tokens.put(Role::Worker, generation, &tokens.worker),
        node.tokens.put(Role::Manager, generation, &tokens.manager),
        node.record_member(membership, MemberState::Ready),
    );
    unlock_key?;
    worker?;
    manager?;
    row?;
    Ok(ca_digest)
}

/// Writes the missing charter of this manager's running swarm, under the generation of `membership`, or that of the
/// swarm's label if it is higher; `known` is the charter that was last read. Returns `false` when there is a charter
/// again, or this is another swarm by now.
///
/// # Errors
/// When Docker has no leader, or the ledger or the secret store fails.
pub async fn publish_again(
    node: &Node,
    membership: &Membership,
    known: Option<&Charter>,
) -> Result<bool, NodeError> {
    let cluster = node.swarm.fetch_cluster().await?;
    let swarm_id = &membership.swarm_id;
    if cluster.id != *swarm_id || cluster.labels.get(CLUSTER_LABEL) != Some(&node.cluster) {
        return Ok(false);
    }
    // The rows with a higher generation may be unreadable.
    let generation =
        cluster.generation().map_or(membership.generation, |it| it.max(membership.generation));
    let membership = &Membership { generation, ..membership.clone() };
    let recovered = cluster.labels.get(RECOVERED_LABEL);
    let living = Living {
        swarm_id: swarm_id.clone(),
        generation,
        is_recovered: recovered.is_some_and(|label| *label == generation.to_string()),
        ca_digest: store(node, membership, &cluster.tokens).await?,
        created_at: cluster.created_at,
        restored_by: node.instance.id.clone(),
        now: OffsetDateTime::now_utc(),
    };
    let is_written = node.ledger.restore_charter(&Charter::restored(known, &living)).await?;
    if is_written {
        tracing::warn!(
            swarm_id,
            generation,
            "the charter was missing although this swarm is running and has a leader; published it again"
        );
    }
    Ok(is_written)
}
