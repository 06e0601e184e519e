//! Runs the managers' duties for the fleet: drains nodes that ask to leave, checks that their tasks have stopped,
//! confirms demotions, and removes nodes that have left or died from the node list; stands in for a node whose own skep
//! does not answer; finds out which instance each node is, and labels the nodes; renews the credentials with which
//! services pull.
//!
//! All duties share one look at the fleet ([`observe`]). Each decides by itself, and [`duty`] runs them all: it logs,
//! and reports the last success and the last failure of each.
//!
//! Guarantees: every act is idempotent or conditional, so that several managers can do the same at once. Assumes
//! nothing about earlier acts: each poll starts afresh.

mod availability;
pub mod backup;
mod capacity;
mod charter;
mod claims;
mod complaints;
mod dead_nodes;
pub mod demotion;
mod demotion_requests;
pub mod departures;
mod duty;
mod error;
#[cfg(test)]
mod fuzz;
mod instances;
mod labels;
pub mod moves;
pub mod node_edit;
mod observe;
mod orphan_hooks;
mod outsiders;
mod pace;
pub mod peers;
mod placed;
mod placement;
mod promoted;
mod protection;
mod pull_credentials;
mod quorum;
#[cfg(test)]
mod reads;
mod removed_members;
pub mod replacements;
pub mod restore;
mod stand_in;
mod status_view;
mod tokens;
mod traffic;

use std::convert::Infallible;
use std::pin::Pin;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

use crate::clients::docker::LocalState;
use crate::common::fact::Fact;
use crate::common::instance::Membership;
use crate::node::Node;
use crate::telemetry::metrics::metrics;

pub use departures::{Action, Age, decide};
use observe::Fleet;
pub use status_view::{view_fleet, view_fleet_and_tasks};
pub use tokens::rotate_on_request;

/// Time within which a worker notices that it has been promoted. The check of its own membership asks Docker a little
/// more often than that, and shares the answer.
pub const WORKER_INTERVAL: Duration = Duration::from_secs(20);
/// Pause after Docker has answered that this node is not a manager: in the middle of a demotion, Docker's answers about
/// this host and about the swarm may disagree for a while.
const PAUSE: Duration = Duration::from_secs(5);

/// The duties that a manager runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Every duty, on a manager that serves.
    All,
    /// During its own departure, because all managers may be leaving: those that other departures and boots wait for, and
    /// those that the leader alone runs.
    WhileLeaving,
}

/// Runs the duties for as long as this node is a manager, and waits while it is none; never returns.
pub async fn run_duties(node: &Node, membership: &Membership, scope: Scope) -> Infallible {
    loop {
        until_manager(node).await;
        // Those of an earlier scope may not run any more.
        node.state.forget_duties();
        let fleet = Fleet::new(node, membership);
        // The first duty that learns that this node is not a manager ends them all.
        duties(&fleet, scope).next().await;
        tokio::time::sleep(PAUSE).await;
    }
}

type Running<'a> = FuturesUnordered<Pin<Box<dyn Future<Output = ()> + 'a>>>;

fn duties<'a>(fleet: &'a Fleet<'a>, scope: Scope) -> Running<'a> {
    let running = Running::new();
    running.push(Box::pin(instances::run(fleet)));
    running.push(Box::pin(departures::run(fleet)));
    running.push(Box::pin(tokens::run(fleet)));
    running.push(Box::pin(quorum::run(fleet)));
    // A leader that leaves stays the leader until it is demoted.
    running.push(Box::pin(protection::run(fleet)));
    running.push(Box::pin(capacity::run(fleet)));
    if scope == Scope::All {
        running.push(Box::pin(dead_nodes::run(fleet)));
        running.push(Box::pin(labels::run(fleet)));
        running.push(Box::pin(availability::run(fleet)));
        running.push(Box::pin(removed_members::run(fleet)));
        running.push(Box::pin(demotion_requests::run(fleet)));
        running.push(Box::pin(orphan_hooks::run(fleet)));
        running.push(Box::pin(stand_in::run(fleet)));
        running.push(Box::pin(promoted::run(fleet)));
        running.push(Box::pin(replacements::run(fleet)));
        if fleet.node.settings.registry.ecr {
            running.push(Box::pin(pull_credentials::run(fleet)));
        }
        if fleet.node.settings.backup.to.is_some() {
            running.push(Box::pin(backup::run(fleet)));
            if fleet.node.settings.backup.restore {
                running.push(Box::pin(restore::run(fleet)));
            }
        }
    }
    running
}

/// Returns once this node is a manager. Asks Docker about this host alone: a worker that asks about the swarm gets a
/// refusal, which Docker logs each time. Unlocks a manager whose Docker has restarted under this skep.
async fn until_manager(node: &Node) {
    let mut is_shown = true;
    loop {
        let local = node.swarm.fetch_local_node_lately(WORKER_INTERVAL).await;
        match local.as_ref().map(|local| (local.serves_as_manager(), local.state)) {
            Ok((Fact::Yes, _)) => return,
            Ok((Fact::No, _)) if is_shown => {
                stop_showing_duties(node);
                is_shown = false;
            }
            Ok((Fact::CannotTell, LocalState::Locked)) => drop(tokens::unlock_self(node).await),
            Ok(_) | Err(_) => {}
        }
        tokio::time::sleep(WORKER_INTERVAL / 4).await;
    }
}

/// Stops showing what the duties have found, on a node that cannot observe the fleet: the remaining managers run the
/// duties, and report these troubles.
pub fn stop_showing_duties(node: &Node) {
    for trouble in TROUBLES {
        node.state.trouble(trouble, None);
    }
    node.state.set_verdicts(Default::default());
    metrics().departures_waiting(None);
    metrics().capacity(None);
    node.state.forget_duties();
    quorum::stop_showing(node);
}

/// The names under which duties report troubles.
const TROUBLES: [&str; 9] = [
    restore::NAME,
    backup::NAME,
    departures::NAME,
    demotion_requests::NAME,
    orphan_hooks::NAME,
    removed_members::ROWS,
    charter::CHARTER,
    pull_credentials::NAME,
    tokens::NAME,
];
