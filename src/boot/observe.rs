//! What a booting node looks at.

use std::time::Duration;

use time::OffsetDateTime;

use super::BootError;
use super::decide::{Observed, OwnSwarm};
use crate::ledger::CharterPhase;
use crate::node::Node;
use crate::swarm::{CLUSTER_LABEL, LocalState, SwarmError, SwarmErrorKind};

/// Looks at the charter and at Docker, and further only where these two leave a question.
pub async fn observe(node: &Node, unsettled_for: Duration) -> Result<Observed, BootError> {
    let (charter, local) = tokio::join!(node.ledger.fetch_charter(), node.swarm.fetch_local_node());
    let (charter, local) = (charter?, local?);
    let named = charter.as_ref().and_then(|charter| charter.swarm_id.as_deref());
    let is_named = charter.as_ref().is_some_and(|charter| charter.phase == CharterPhase::Open)
        && named.is_some()
        && named == local.swarm_id.as_deref();
    let is_in_doubt = local.state != LocalState::Inactive && !is_named;
    let member = if is_in_doubt || matches!(local.state, LocalState::Pending | LocalState::Error) {
        node.ledger.fetch_member(node.role, &node.instance.id).await?
    } else {
        None
    };
    let own_swarm = if is_in_doubt && local.is_manager {
        match fetch_own_swarm(node).await {
            Ok(own) => Some(own),
            // Without a leader nobody can say whose swarm it is; and nobody touches it.
            Err(error) if error.kind == SwarmErrorKind::NoLeader => None,
            Err(error) => return Err(error.into()),
        }
    } else {
        None
    };
    Ok(Observed {
        charter,
        local,
        member,
        own_swarm,
        unsettled_for,
        now: OffsetDateTime::now_utc(),
    })
}

async fn fetch_own_swarm(node: &Node) -> Result<OwnSwarm, SwarmError> {
    let ((labels, _), nodes) =
        tokio::try_join!(node.swarm.fetch_swarm(), node.swarm.fetch_nodes())?;
    Ok(OwnSwarm {
        is_ours: labels.get(CLUSTER_LABEL) == Some(&node.cluster),
        is_alone: nodes.len() <= 1,
    })
}
