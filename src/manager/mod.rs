//! Runs the managers' duties for the fleet: drains nodes that ask to leave, checks that their tasks have stopped,
//! confirms demotions, and removes nodes that have left or died from the node list; stands in for a node whose own skep
//! does not answer; labels nodes; renews the credentials with which services pull.
//!
//! Guarantees: every act is idempotent or conditional, so that several managers can do the same at once. The swarm
//! leader polls once a second, the others every [`BACKUP_INTERVAL`], in case the leader's skep is dead. Assumes nothing
//! about earlier acts: each poll starts afresh.

mod act;
mod charter;
mod dead_nodes;
mod decide;
pub mod demotion;
mod demotion_requests;
mod error;
mod fleet;
mod label;
mod orphan_hooks;
pub mod peers;
mod pull_credentials;
mod quorum;
mod record;
mod removed_members;
mod rounds;
mod stand_in;
mod tokens;
mod troubles;

use std::convert::Infallible;
use std::time::Duration;

use crate::clients::ledger::DepartureRow;
use crate::node::Node;

pub use dead_nodes::remove_dead_nodes;
pub use decide::{Action, Age, decide};
pub use demotion_requests::serve_demotion_requests;
use error::ManagerError;
pub use fleet::view_fleet;
pub use label::keep_labelled;
pub use orphan_hooks::release_orphan_hooks;
pub use pull_credentials::keep_pull_credentials;
pub use quorum::{stop_showing_quorum, watch_quorum};
pub use record::{keep_recorded, record_ready};
pub use removed_members::mark_removed_members;
use rounds::AT_ONCE;
pub use tokens::{keep_tokens, rotate_on_request};
use troubles::{Complaints, show_unreadable};

/// Name under which this duty reports departure rows that it cannot read.
const ROWS: &str = "departures";
/// Time within which the leader sees a request.
const LEADER_INTERVAL: Duration = Duration::from_secs(1);
/// The same while a departure is under way, so that its steps follow each other faster.
const BUSY_INTERVAL: Duration = Duration::from_millis(500);
/// Time within which another manager sees a request, if the leader's skep has not acted.
const BACKUP_INTERVAL: Duration = Duration::from_secs(5);
/// The same while a departure is under way: the departure may be the leader's own, and this manager the next leader.
const BUSY_BACKUP_INTERVAL: Duration = Duration::from_secs(2);

/// Serves departures for as long as this node is a manager; never returns.
pub async fn look_after_departures(node: &Node, node_id: &str) -> Infallible {
    let what = "serving departures";
    let look = async |memory: &mut Memory| {
        look(node, node_id, memory).await.inspect_err(|error| {
            // The remaining managers serve departures, and report this trouble.
            if error.is_not_manager() {
                node.state.show_trouble(ROWS, None);
            }
        })
    };
    rounds::go(node, what, (AT_ONCE, BACKUP_INTERVAL), look).await
}

/// Polls once. Returns the time until the next poll.
async fn look(node: &Node, node_id: &str, memory: &mut Memory) -> Result<Duration, ManagerError> {
    let Some(me) = node.swarm.fetch_node(node_id).await? else {
        // This node has been removed: it has no departures to serve.
        return Ok(BACKUP_INTERVAL);
    };
    let departures = node.ledger.survey_departures().await?;
    show_unreadable(node, ROWS, &departures.unreadable);
    memory.forget_all_but(&departures.rows);
    let mut is_busy = false;
    for row in departures.rows {
        let served = act::serve(node, &row, &mut memory.stand_ins).await;
        is_busy |= matches!(served, Ok(true));
        let served = served.map(drop);
        memory.complaints.take("serving its departure", &row.instance_id, served)?;
    }
    Ok(match (me.is_leader(), is_busy) {
        (false, true) => BUSY_BACKUP_INTERVAL,
        (false, false) => BACKUP_INTERVAL,
        (true, true) => BUSY_INTERVAL,
        (true, false) => LEADER_INTERVAL,
    })
}

/// State that only saves calls and log lines, and the time for which each node has been silent; by instance id.
#[derive(Default)]
struct Memory {
    stand_ins: stand_in::Memory,
    complaints: Complaints,
}

impl Memory {
    fn forget_all_but(&mut self, departures: &[DepartureRow]) {
        let is_known = |id: &str| departures.iter().any(|row| row.instance_id == id);
        self.stand_ins.retain(is_known);
        self.complaints.retain(is_known);
    }
}
