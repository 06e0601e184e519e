//! Observes the swarm, the ledger and the instances for `skep adopt`. Changes nothing.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use time::OffsetDateTime;
use tokio::time::timeout;

use super::error::AdoptError;
use super::types::{Observed, SwarmSeen};
use crate::clients::docker::{Cluster, Engine, NodeView, Swarm, SwarmError};
use crate::clients::ledger::{Member, Traces};
use crate::common::errors::chain;
use crate::common::timing::MANAGER_ROW_IS_FRESH;
use crate::config::TokenStore;
use crate::node::Node;

/// A leader answers within milliseconds; without one, Docker may need half a minute for its refusal.
const LEADER_WITHIN: Duration = Duration::from_secs(30);

/// Reads everything that a decision needs.
///
/// # Errors
/// When the ledger does not answer, or Docker does not answer about this host.
pub(super) async fn observe(node: &Node) -> Result<Observed, AdoptError> {
    let local = node.swarm.fetch_local_node().await.map_err(AdoptError::DockerNotSeen)?;
    let (charter, rows, history, swarm) = tokio::join!(
        node.ledger.fetch_charter(),
        node.ledger.survey_managers(),
        node.ledger.fetch_history(),
        async { if local.is_manager { fetch_swarm(node).await } else { None } }
    );
    let charter = charter.map_err(AdoptError::LedgerNotSeen)?;
    let rows = rows.map_err(AdoptError::LedgerNotSeen)?;
    let history = history.map_err(AdoptError::LedgerNotSeen)?;
    let now = OffsetDateTime::now_utc();
    let of_rows = Traces {
        highest: rows.rows.iter().map(|row| row.generation).max().unwrap_or(0),
        swarms: rows.rows.iter().filter_map(|row| row.swarm_id.clone()).collect(),
    };
    let mut traces = history.map_or(of_rows.clone(), |history| history.added_to(of_rows));
    if let Some(swarm) = &swarm {
        // No trace of another swarm.
        traces.swarms.remove(&swarm.cluster.id);
    }
    let own = swarm.as_ref().map(|swarm| swarm.cluster.id.as_str());
    let is_rival = |row: &&Member| {
        row.is_manager()
            && row.instance_id != node.instance.id
            && row.swarm_id.as_deref() != own
            && now - row.updated_at < MANAGER_ROW_IS_FRESH
    };
    Ok(Observed {
        me: node.instance.id.clone(),
        cluster: node.cluster.clone(),
        role: node.role,
        address: node.address,
        wants_autolock: node.settings.swarm.autolock,
        charter,
        traces,
        rivals: rows.rows.iter().filter(is_rival).map(|row| row.instance_id.clone()).collect(),
        has_row: rows.rows.iter().any(|row| row.instance_id == node.instance.id),
        unreadable: rows.unreadable,
        local,
        swarm,
        token_place: token_place(node),
        now,
    })
}

fn token_place(node: &Node) -> String {
    let settings = &node.settings;
    match settings.tokens.store {
        TokenStore::Ssm => {
            format!("SSM, below {}/{}", settings.tokens.path.trim_end_matches('/'), node.cluster)
        }
        TokenStore::Dynamodb => format!("the table {}", settings.table),
    }
}

/// Returns the swarm; `None` if no leader answers in time.
async fn fetch_swarm(node: &Node) -> Option<SwarmSeen> {
    let seen = timeout(LEADER_WITHIN, ask_leader(&node.swarm)).await.ok()?;
    let (cluster, nodes, engine) =
        seen.inspect_err(|error| tracing::debug!("{}", chain(error))).ok()?;
    let addresses: BTreeSet<IpAddr> = nodes.iter().filter_map(NodeView::ip).collect();
    let own = (node.instance.id.as_str(), node.instance.private_address);
    let instances = node.ec2.fetch_by_address(own, &addresses).await;
    let instances = instances.map_err(|error| chain(&error));
    Some(SwarmSeen { cluster, nodes, engine, instances })
}

async fn ask_leader(swarm: &Swarm) -> Result<(Cluster, Vec<NodeView>, Engine), SwarmError> {
    tokio::try_join!(swarm.fetch_cluster(), swarm.fetch_nodes(), swarm.fetch_engine())
}
