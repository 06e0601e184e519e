//! Serves departures: drains nodes that ask to leave, records when their tasks have stopped, confirms demotions, and
//! removes nodes that have left. The swarm leader polls once a second, the others every [`BACKUP_INTERVAL`], in case
//! the leader's skep is dead.

mod act;
mod decide;

use std::time::Duration;

use tokio::time::Instant;

use super::complaints::show_unreadable;
use super::duty::{Duty, Poll};
use super::error::ManagerError;
use super::observe::{Fleet, lately};
use super::stand_in;
use crate::clients::ledger::DepartureState;

pub use decide::{Action, Age, decide};

/// Name of this duty, and of its trouble that it cannot read departure rows.
pub(super) const NAME: &str = "departures";
/// Time within which the leader sees a request.
const LEADER_INTERVAL: Duration = Duration::from_secs(1);
/// The same while a departure is under way, so that its steps follow each other faster.
const BUSY_INTERVAL: Duration = Duration::from_millis(500);
/// Time within which another manager sees a request, if the leader's skep has not acted.
const BACKUP_INTERVAL: Duration = Duration::from_secs(5);
/// The same while a departure is under way: the departure may be the leader's own, and this manager the next leader.
const BUSY_BACKUP_INTERVAL: Duration = Duration::from_secs(2);
/// Maximum age of the node list by which a manager decides how often it polls.
const ROLE_AGE: Duration = Duration::from_secs(2);
/// Maximum age of the node list by which one departure is decided: the departures before it may have taken longer.
const LIST_AGE: Duration = Duration::from_secs(1);

/// State that only saves calls and log lines, and the time for which each node has been silent; by instance id.
type Memory = stand_in::Memory;

/// Serves departures for as long as this node is a manager.
pub(super) async fn run(fleet: &Fleet<'_>) {
    let (first, after_failure) = (Duration::ZERO, BACKUP_INTERVAL);
    Duty { name: NAME, first, after_failure, trouble: None }.run(fleet, poll).await;
}

async fn poll(
    Poll { fleet, memory, complaints }: Poll<'_, Memory>,
) -> Result<Duration, ManagerError> {
    let node = fleet.node;
    let departures = fleet.departures(Instant::now()).await?;
    let read_at = Instant::now();
    show_unreadable(node, NAME, &departures.unreadable);
    let is_known = |id: &str| departures.rows.iter().any(|row| row.instance_id == id);
    memory.retain(is_known);
    complaints.retain(is_known);
    let mut is_busy = false;
    for row in &departures.rows {
        let view = match row.state {
            // The row is kept to be shown; nothing is done for it.
            DepartureState::Removed => None,
            _ => {
                let nodes = fleet.nodes(read_at.max(lately(LIST_AGE))).await?;
                nodes.iter().find(|view| view.id == row.node_id).cloned()
            }
        };
        let served = act::serve(node, row, view.as_ref(), memory).await;
        is_busy |= matches!(served, Ok(true));
        complaints.take("serving its departure", &row.instance_id, served.map(drop))?;
    }
    let nodes = fleet.nodes(lately(ROLE_AGE)).await?;
    Ok(match (fleet.is_leader(&nodes), is_busy) {
        (false, true) => BUSY_BACKUP_INTERVAL,
        (false, false) => BACKUP_INTERVAL,
        (true, true) => BUSY_INTERVAL,
        (true, false) => LEADER_INTERVAL,
    })
}
