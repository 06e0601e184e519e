//! What a manager's skep does for the others: drain who asks for it, see that its tasks have
//! stopped, confirm demotions, take off the list who has left, and who has died.
//!
//! Guarantees: every act is idempotent or conditional, so that several managers may do the same at
//! once. The swarm leader looks once a second, the others every [`BACKUP_INTERVAL`], in case the
//! leader's skep is dead. Assumes nothing of what was done before: each look starts afresh.

mod act;
mod decide;
mod fleet;
mod reap;

use std::convert::Infallible;
use std::time::Duration;

use crate::instance::{Membership, Role};
use crate::ledger::MemberState;
use crate::node::Node;
use crate::swarm::SwarmErrorKind;

pub use decide::{Action, decide};
pub use fleet::view_fleet;
pub use reap::reap_the_dead;

/// How soon the leader sees a request.
const LEADER_INTERVAL: Duration = Duration::from_secs(1);
/// While a departure is under way, its steps follow each other faster.
const BUSY_INTERVAL: Duration = Duration::from_millis(500);
/// How soon another manager does, when the leader's skep has not acted.
const BACKUP_INTERVAL: Duration = Duration::from_secs(5);
/// The same while a departure is under way: it may be the leader's own, and this one the next.
const BUSY_BACKUP_INTERVAL: Duration = Duration::from_secs(2);
/// How fresh a manager's address is in the ledger.
const MANAGER_REFRESH: Duration = Duration::from_secs(60);
/// A worker's row only has to outlive its TTL.
const WORKER_REFRESH: Duration = Duration::from_secs(6 * 3600);

/// Until the row of a new node is written, nobody can join through it.
const RECORD_RETRY: Duration = Duration::from_secs(2);

/// Looks after departures for as long as this node is a manager; never returns.
pub async fn look_after_departures(node: &Node, node_id: &str) -> Infallible {
    loop {
        let interval = match look(node, node_id).await {
            Ok(interval) => interval,
            Err(error) => {
                tracing::warn!("looking after departures: {}", crate::errors::chain(&error));
                BACKUP_INTERVAL
            }
        };
        tokio::time::sleep(interval).await;
    }
}

async fn look(node: &Node, node_id: &str) -> Result<Duration, act::CareError> {
    let me = match node.swarm.fetch_node(node_id).await {
        Ok(Some(me)) => me,
        // A worker by now, or one that has been removed: nothing to look after.
        Ok(None) => return Ok(BACKUP_INTERVAL),
        Err(error) if error.kind == SwarmErrorKind::NotManager => return Ok(BACKUP_INTERVAL),
        Err(error) => return Err(error.into()),
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
