//! What a booting node looks at.

use std::collections::BTreeSet;
use std::time::Duration;

use time::OffsetDateTime;

use super::BootError;
use super::decide::{NEVER_RECORDED, Observed, OwnSwarm};
use super::lost::Vigil;
use super::recreate;
use super::relief::Relief;
use crate::instance::Role;
use crate::ledger::CharterPhase;
use crate::node::Node;
use crate::peers::{find_manager, is_led};
use crate::swarm::{CLUSTER_LABEL, LocalState, SwarmError};

/// A leader answers within milliseconds; without one Docker is silent for half a minute.
const LEADER_PATIENCE: Duration = Duration::from_secs(5);

/// Looks at the charter and at Docker, and further only where these two leave a question.
pub async fn observe(
    node: &Node,
    unsettled_for: Duration,
    vigil: &mut Vigil,
) -> Result<Observed, BootError> {
    let (charter, local) = tokio::join!(node.ledger.fetch_charter(), node.swarm.fetch_local_node());
    let (charter, mut local) = (charter?, local?);
    let named = charter.as_ref().and_then(|charter| charter.swarm_id.as_deref());
    let open = charter.as_ref().filter(|charter| charter.phase == CharterPhase::Open);
    let is_named = open.is_some() && named.is_some() && named == local.swarm_id.as_deref();
    let is_in_doubt = local.state != LocalState::Inactive && !is_named;
    let member = match local.state {
        LocalState::Inactive => None,
        _ => node.ledger.fetch_member(node.role, &node.instance.id).await?,
    };
    let is_unsettled = matches!(local.state, LocalState::Pending | LocalState::Error);
    if node.role == Role::Manager && is_unsettled && local.node_id.is_none() {
        // Docker names no node then; its certificate does, and counts where this node's row agrees.
        let certified = node.swarm.fetch_certified_node().await?;
        let is_its = |id: &String| member.as_ref().is_some_and(|row| row.node_id == *id);
        local.node_id = certified.filter(is_its);
    }
    let is_moved = local.advertises_other_than(node.address);
    let relief = match open {
        Some(open)
            if node.role == Role::Manager && (is_moved || local.is_certificate_refused()) =>
        {
            let (request, led) = tokio::try_join!(
                node.ledger.fetch_rejoin(&node.instance.id),
                find_manager(node, open, is_led)
            )?;
            Some(Relief { request, is_led: led.is_some() })
        }
        _ => None,
    };
    let recovery = charter.as_ref().filter(|charter| charter.is_recovery());
    if recovery.is_some() {
        // There is nobody to ask before: nobody can be joined.
        vigil.begin();
    }
    let absence = match open.or(recovery) {
        Some(seen) if node.role == Role::Manager && local.state == LocalState::Inactive => {
            vigil.look(node, seen).await
        }
        _ => None,
    };
    let is_row_ours =
        member.as_ref().is_some_and(|row| Some(&row.node_id) == local.node_id.as_ref());
    let recreated = charter.as_ref().filter(|charter| {
        is_named && !is_row_ours && charter.fences(&node.instance.id, NEVER_RECORDED)
    });
    let own_swarm = if (is_in_doubt || recreated.is_some()) && local.is_manager {
        // Without a leader nobody can say whose swarm it is; and only a row of this node's lets it
        // be touched.
        let former = match recovery.or(recreated) {
            Some(charter) => recreate::fetch_former(node, charter).await?,
            None => BTreeSet::new(),
        };
        let own = tokio::time::timeout(LEADER_PATIENCE, fetch_own_swarm(node, &former)).await;
        own.ok().and_then(|own| own.inspect_err(|error| tracing::debug!("{error}")).ok())
    } else {
        None
    };
    Ok(Observed {
        is_moved,
        relief,
        charter,
        local,
        member,
        own_swarm,
        absence,
        unsettled_for,
        now: OffsetDateTime::now_utc(),
    })
}

async fn fetch_own_swarm(node: &Node, former: &BTreeSet<String>) -> Result<OwnSwarm, SwarmError> {
    let ((labels, _), nodes) =
        tokio::try_join!(node.swarm.fetch_swarm(), node.swarm.fetch_nodes())?;
    let mut raft = nodes.iter().filter(|view| view.raft.is_some());
    Ok(OwnSwarm {
        is_ours: labels.get(CLUSTER_LABEL) == Some(&node.cluster),
        is_alone: nodes.len() <= 1,
        has_former: raft.any(|view| former.contains(&view.id)),
    })
}
