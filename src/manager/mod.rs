//! What a manager's skep does for the others: drain who asks for it, see that its tasks have
//! stopped, confirm demotions, take off the list who has left, and who has died; stand in for a node
//! whose own skep says nothing; label the nodes; keep what services pull with fresh.
//!
//! Guarantees: every act is idempotent or conditional, so that several managers may do the same at
//! once. The swarm leader looks once a second, the others every [`BACKUP_INTERVAL`], in case the
//! leader's skep is dead. Assumes nothing of what was done before: each look starts afresh.

mod act;
mod decide;
mod fleet;
mod label;
mod missing;
mod never_joined;
mod quorum;
mod reap;
mod record;
mod registry;
mod rejoin;
mod reopen;
mod rounds;
mod stand_in;
mod tokens;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::time::Duration;

use crate::ledger::DepartureRow;
use crate::node::Node;

use act::CareError;
pub use decide::{Action, Age, decide};
pub use fleet::view_fleet;
pub use label::keep_labelled;
pub use missing::mark_the_missing;
pub use never_joined::release_who_never_joined;
pub use quorum::{stop_showing_quorum, watch_quorum};
pub use reap::reap_the_dead;
pub use record::{keep_recorded, record_ready};
pub use registry::keep_pull_credentials;
pub use rejoin::take_out_who_asks;
use rounds::AT_ONCE;
pub use tokens::{keep_tokens, rotate_on_request};

/// How soon the leader sees a request.
const LEADER_INTERVAL: Duration = Duration::from_secs(1);
/// While a departure is under way, its steps follow each other faster.
const BUSY_INTERVAL: Duration = Duration::from_millis(500);
/// How soon another manager does, when the leader's skep has not acted.
const BACKUP_INTERVAL: Duration = Duration::from_secs(5);
/// The same while a departure is under way: it may be the leader's own, and this one the next.
const BUSY_BACKUP_INTERVAL: Duration = Duration::from_secs(2);

/// Looks after departures for as long as this node is a manager; never returns.
pub async fn look_after_departures(node: &Node, node_id: &str) -> Infallible {
    let what = "looking after departures";
    let look = async |memory: &mut Memory| look(node, node_id, memory).await;
    rounds::go(node, what, (AT_ONCE, BACKUP_INTERVAL), look).await
}

/// How soon to look again.
async fn look(node: &Node, node_id: &str, memory: &mut Memory) -> Result<Duration, CareError> {
    let Some(me) = node.swarm.fetch_node(node_id).await? else {
        // It has been removed: nothing to look after.
        return Ok(BACKUP_INTERVAL);
    };
    let departures = node.ledger.fetch_departures().await?;
    memory.forget_all_but(&departures);
    let mut is_busy = false;
    for row in departures {
        match act::serve(node, &row, &mut memory.next_beat).await {
            Ok(goes_on) => {
                is_busy |= goes_on;
                memory.complaints.remove(&row.instance_id);
            }
            Err(error) if error.is_not_manager() || error.has_no_leader() => return Err(error),
            // One that cannot go on must not hold the others up, nor fill the log.
            Err(error) => memory.complain(&row.instance_id, crate::errors::chain(&error)),
        }
    }
    Ok(match (me.is_leader(), is_busy) {
        (false, true) => BUSY_BACKUP_INTERVAL,
        (false, false) => BACKUP_INTERVAL,
        (true, true) => BUSY_INTERVAL,
        (true, false) => LEADER_INTERVAL,
    })
}

/// What only saves calls and lines of the log; by instance id.
#[derive(Default)]
struct Memory {
    next_beat: stand_in::NextBeat,
    complaints: BTreeMap<String, String>,
}

impl Memory {
    fn forget_all_but(&mut self, departures: &[DepartureRow]) {
        let is_known = |id: &String| departures.iter().any(|row| row.instance_id == *id);
        self.next_beat.retain(|id, _| is_known(id));
        self.complaints.retain(|id, _| is_known(id));
    }

    /// Says it once, until it changes.
    fn complain(&mut self, instance: &str, complaint: String) {
        if self.complaints.get(instance) != Some(&complaint) {
            tracing::warn!(instance, "looking after its departure: {complaint}");
            self.complaints.insert(instance.to_owned(), complaint);
        }
    }
}
