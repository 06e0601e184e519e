//! What a manager's skep does for the others: drain who asks for it, see that its tasks have
//! stopped, confirm demotions, take off the list who has left, and who has died.
//!
//! Guarantees: every act is idempotent or conditional, so that several managers may do the same at
//! once. The swarm leader looks once a second, the others every [`BACKUP_INTERVAL`], in case the
//! leader's skep is dead. Assumes nothing of what was done before: each look starts afresh.

mod act;
mod decide;
mod fleet;
mod missing;
mod reap;

use std::convert::Infallible;
use std::time::Duration;

use crate::instance::{Membership, Role};
use crate::ledger::MemberState;
use crate::node::Node;
use crate::swarm::SwarmErrorKind;

use act::CareError;
pub use decide::{Action, decide};
pub use fleet::view_fleet;
pub use missing::mark_the_missing;
pub use reap::reap_the_dead;

/// How soon the leader sees a request.
const LEADER_INTERVAL: Duration = Duration::from_secs(1);
/// While a departure is under way, its steps follow each other faster.
const BUSY_INTERVAL: Duration = Duration::from_millis(500);
/// How soon another manager does, when the leader's skep has not acted.
const BACKUP_INTERVAL: Duration = Duration::from_secs(5);
/// The same while a departure is under way: it may be the leader's own, and this one the next.
const BUSY_BACKUP_INTERVAL: Duration = Duration::from_secs(2);
/// How soon a worker notices that it has been promoted.
const WORKER_INTERVAL: Duration = Duration::from_secs(15);
/// How fresh a manager's address is in the ledger.
const MANAGER_REFRESH: Duration = Duration::from_secs(60);
/// A worker's row only has to outlive its TTL.
const WORKER_REFRESH: Duration = Duration::from_secs(6 * 3600);

/// Until the row of a new node is written, nobody can join through it.
const RECORD_RETRY: Duration = Duration::from_secs(2);

/// Looks after departures for as long as this node is a manager; never returns.
pub async fn look_after_departures(node: &Node, node_id: &str) -> Infallible {
    loop {
        until_manager(node).await;
        while let Some(interval) = look(node, node_id).await {
            tokio::time::sleep(interval).await;
        }
        // In the middle of a demotion the two may disagree for a while.
        tokio::time::sleep(BACKUP_INTERVAL).await;
    }
}

/// Returns once this node is a manager. It asks Docker about this host alone: a worker that asks for the
/// swarm gets a refusal, which Docker writes into its log each time.
async fn until_manager(node: &Node) {
    while !node.swarm.fetch_local_node().await.is_ok_and(|local| local.is_manager) {
        tokio::time::sleep(WORKER_INTERVAL).await;
    }
}

/// How soon to look again; `None` where this node is a manager no more.
async fn look(node: &Node, node_id: &str) -> Option<Duration> {
    match look_once(node, node_id).await {
        Ok(interval) => Some(interval),
        Err(CareError::Swarm(error)) if error.kind == SwarmErrorKind::NotManager => None,
        Err(error) => {
            tracing::warn!("looking after departures: {}", crate::errors::chain(&error));
            Some(BACKUP_INTERVAL)
        }
    }
}

async fn look_once(node: &Node, node_id: &str) -> Result<Duration, CareError> {
    let Some(me) = node.swarm.fetch_node(node_id).await? else {
        // It has been removed: nothing to look after.
        return Ok(BACKUP_INTERVAL);
    };
    let mut is_busy = false;
    for row in node.ledger.fetch_departures().await? {
        is_busy |= act::serve(node, &row).await?;
    }
    Ok(match (me.is_leader(), is_busy) {
        (false, true) => BUSY_BACKUP_INTERVAL,
        (false, false) => BACKUP_INTERVAL,
        (true, true) => BUSY_INTERVAL,
        (true, false) => LEADER_INTERVAL,
    })
}

/// Writes this node's row, and keeps it fresh; never returns.
pub async fn keep_recorded(node: &Node, membership: &Membership) -> Infallible {
    let interval = match membership.role {
        Role::Manager => MANAGER_REFRESH,
        Role::Worker => WORKER_REFRESH,
    };
    let mut pause = Duration::ZERO;
    loop {
        tokio::time::sleep(pause).await;
        pause = match node.record_member(membership, MemberState::Ready).await {
            Ok(()) => interval,
            Err(error) => {
                tracing::warn!("writing this node's row: {}", crate::errors::chain(&error));
                RECORD_RETRY
            }
        };
    }
}
