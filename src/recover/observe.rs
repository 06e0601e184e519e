//! What `skep recover` looks at.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use futures_util::future::join_all;
use time::OffsetDateTime;
use tokio::time::{Instant, sleep, timeout};

use super::act::RecoverError;
use super::decide::Observed;
use crate::ledger::Member;
use crate::node::Node;
use crate::secrets::Item;
use crate::swarm::{LocalNode, NodeView, first_listening};

/// For so long no leader must answer: an election blocks Docker for 10 to 14 s.
const QUORUM_PATIENCE: Duration = Duration::from_secs(20);
/// A leader answers within milliseconds; without one Docker may be silent for half a minute.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Without a leader `/info` takes up to 20 s.
const INFO_WITHIN: Duration = Duration::from_secs(30);

/// Looks for a leader first, then at the rest. What Docker and Auto Scaling do not say is missing from it.
pub async fn observe(node: &Node) -> Result<Observed, RecoverError> {
    // Whoever came in while a leader was seen here has written its row by the end of that look.
    let has_leader = is_led(node).await;
    let (charter, rows, local) =
        tokio::join!(node.ledger.fetch_charter(), node.ledger.fetch_managers(), fetch_local(node));
    let (charter, rows) =
        (charter.map_err(RecoverError::NotSeen)?, rows.map_err(RecoverError::NotSeen)?);
    let me = node.instance.id.as_str();
    let (own, mut others): (Vec<Member>, _) =
        rows.into_iter().partition(|row| row.instance_id == me);
    let generation = charter.as_ref().map(|charter| charter.generation);
    let mut unlock_keys = None;
    // A worker may not read them, and recovers nothing.
    if let Some(generation) = generation
        && local.as_ref().is_some_and(|local| local.is_manager)
        && node.tokens.fetch_unlock_keys(generation).await?.is_some()
    {
        unlock_keys = Some(node.tokens.place(Item::UnlockKeys, generation));
    }
    // Of a recovery that came to nothing the managers are still those of before.
    let is_recovery = charter.as_ref().is_some_and(|charter| charter.is_recovery());
    others.retain(|row| Some(row.generation) == generation || is_recovery);
    let ids: Vec<&str> = others.iter().map(|row| row.instance_id.as_str()).chain([me]).collect();
    let addresses: Vec<IpAddr> = others.iter().map(|row| row.address).collect();
    let (listed, listening) =
        tokio::join!(node.autoscaling.fetch_listed(&ids), fetch_listening(&addresses));
    let listed = listed.inspect_err(|error| tracing::warn!("{}", crate::errors::chain(error)));
    Ok(Observed {
        me: me.to_owned(),
        charter,
        local,
        row: own.into_iter().next(),
        others,
        // An answer that does not list who asks is about something else.
        listed: listed.ok().filter(|listed| listed.contains_key(me)),
        listening,
        unlock_keys,
        has_leader,
        leaves_by: node.state.now().departure.map(|departure| departure.deadline),
        now: OffsetDateTime::now_utc(),
    })
}

async fn fetch_local(node: &Node) -> Option<LocalNode> {
    timeout(INFO_WITHIN, node.swarm.fetch_local_node()).await.ok()?.ok()
}

/// Does the swarm decide anything? Asked until somebody says so, or for [`QUORUM_PATIENCE`].
async fn is_led(node: &Node) -> bool {
    let end = Instant::now() + QUORUM_PATIENCE;
    while Instant::now() < end {
        if let Ok(Ok(nodes)) = timeout(ANSWER_WITHIN, node.swarm.fetch_nodes()).await
            && nodes.iter().any(NodeView::is_leader)
        {
            return true;
        }
        sleep(LOOK_EVERY).await;
    }
    false
}

async fn fetch_listening(addresses: &[IpAddr]) -> BTreeSet<IpAddr> {
    let probes = addresses.iter().map(|address| async move { first_listening(&[*address]).await });
    join_all(probes).await.into_iter().flatten().collect()
}
