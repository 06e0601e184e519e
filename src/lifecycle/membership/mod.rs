//! Watches whether this node, while it serves, is still in the charter's swarm, and keeps its own row ([`own_row`]).
//!
//! Guarantees: the watch changes nothing. [`until_out`] returns only with evidence that lasted over several
//! observations; a boot follows, which observes again, and before it a stranded worker leaves. If managers do not
//! answer, the ledger fails or Docker restarts, the fault is elsewhere: the node reports it and waits. A host that is
//! broken for good is the case of [`self_replacement`](super::self_replacement).

mod cause;
mod decide;
mod own_row;
mod reach;
#[cfg(test)]
mod tests;

use std::time::Duration;

use thiserror::Error;

use crate::clients::docker::{
    LeftOverVxlans, LocalState, SwarmError, find_left_over_vxlans, first_listening,
};
use crate::clients::ledger::{Charter, CharterPhase, LedgerError};
use crate::common::errors::chain;
use crate::common::fact::Fact;
use crate::common::instance::{Membership, Role};
use crate::common::state::Phase;
use crate::manager::peers::{fetch_leader, find_manager, is_led};
use crate::node::Node;

pub use cause::Cause;
use cause::Suspicion;
pub use decide::{Observed, Records, Verdict, decide};
pub use own_row::{keep_recorded, record_ready};
pub use reach::Reach;

/// Interval of observing Docker, which is on this host.
pub const INTERVAL: Duration = Duration::from_secs(15);
/// A manager reads the ledger at every sixth observation.
pub const MANAGER_LEDGER_EVERY: u32 = 6;
/// A worker that reaches a manager reads it at every twelfth: a fleet of 1,000 reads 11 times a second. All that the
/// ledger could show it concerns nodes whose managers are gone, but for an entry that was removed by hand.
pub const WORKER_LEDGER_EVERY: u32 = 12;
/// Name under which the trouble of a manager that was demoted by hand is reported.
const DEMOTED: &str = "role";

#[derive(Debug, Error)]
pub(super) enum MembershipError {
    #[error(transparent)]
    Swarm(#[from] SwarmError),
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

/// Observes again and again, and returns once this node is not in the charter's swarm any more.
pub async fn until_out(node: &Node, membership: &Membership) -> Cause {
    let mut suspicion = Suspicion::default();
    let mut was_demoted = false;
    let mut vxlans = Vec::new();
    let mut is_waiting = false;
    for turn in 1u32.. {
        let pause = tokio::time::sleep(INTERVAL.mul_f64(0.75 + 0.5 * fastrand::f64()));
        let is_told = tokio::select! {
            () = pause => false,
            () = node.recovery_begun.notified() => true,
        };
        vxlans = say_left_over(node, vxlans);
        // A problem that the ledger has shown is not over because the ledger is not read.
        let every = match membership.role {
            Role::Manager => MANAGER_LEDGER_EVERY,
            Role::Worker => WORKER_LEDGER_EVERY,
        };
        let is_ledger_due =
            is_told || is_waiting || suspicion.is_open() || turn.is_multiple_of(every);
        let verdict = match observe(node, membership, is_ledger_due).await {
            Ok(seen) => {
                was_demoted = say_demoted(node, &seen, was_demoted).await;
                let verdict = decide(&node.instance.id, membership, &seen);
                let has_no_row = seen.records.as_ref().is_some_and(|it| it.row.is_none());
                if has_no_row && !matches!(verdict, Verdict::Out(_)) {
                    node.row_lost.notify_one();
                }
                verdict
            }
            Err(error) => Verdict::Wait { why: chain(&error) },
        };
        is_waiting = matches!(verdict, Verdict::Wait { .. });
        match verdict {
            Verdict::Fine => {
                node.state.enter(Phase::Ready, membership.to_string());
                suspicion.end();
            }
            Verdict::Wait { why } => {
                node.state.enter(Phase::Ready, format!("{membership}; waiting, since {why}"));
                suspicion.end();
            }
            // The cause is this node's own claim: it needs no second observation, and an operator waits.
            Verdict::Out(cause @ Cause::Recovery { .. }) => return cause,
            Verdict::Out(cause) => {
                if suspicion.confirm(&cause) {
                    return cause;
                }
            }
        }
    }
    unreachable!("the observations never end")
}

/// Reports the VXLAN interfaces that are left over, if the previous observation found them, too. Returns those found
/// now.
fn say_left_over(node: &Node, before: Vec<String>) -> Vec<String> {
    // Without an answer nothing changes.
    let Ok(now) = find_left_over_vxlans() else { return before };
    let lasting: Vec<String> = now.iter().filter(|it| before.contains(it)).cloned().collect();
    let trouble = (!lasting.is_empty()).then(|| LeftOverVxlans(lasting).to_string());
    node.state.trouble("left-over interfaces", trouble);
    now
}

/// Reports that this manager was demoted by hand; nothing else would show it, because as a worker the node is well. The
/// previous observation must have found it, too, and the ledger must have no departure, for which managers demote a
/// node. Returns whether the node is demoted now.
async fn say_demoted(node: &Node, seen: &Observed, was_demoted: bool) -> bool {
    let is_demoted = node.role == Role::Manager
        && seen.local.state == LocalState::Active
        && !seen.local.is_manager;
    let trouble = match &seen.local.node_id {
        Some(id) if is_demoted && was_demoted => {
            // If the ledger cannot tell, the shown trouble stays as it is.
            let Ok(is_leaving) = node.ledger.is_leaving(node.role, &node.instance.id, id).await
            else {
                return is_demoted;
            };
            (!is_leaving).then(|| format!(
                "this manager was demoted: the swarm has one manager fewer. To promote it again, run 'docker node \
                 promote {id}' on another manager; to replace it, terminate its instance"
            ))
        }
        _ => None,
    };
    node.state.trouble(DEMOTED, trouble);
    is_demoted
}

/// Clears the trouble of a node that stops serving, because it boots again or leaves.
pub fn stop_showing_trouble(node: &Node) {
    node.state.trouble(DEMOTED, None);
}

async fn observe(
    node: &Node,
    membership: &Membership,
    is_ledger_due: bool,
) -> Result<Observed, MembershipError> {
    let local = node.swarm.fetch_local_node().await?;
    let is_moved = local.advertises_other_than(node.address);
    // A worker whose Docker knows no manager that still listens may have been left behind.
    let is_cut_off = async || {
        membership.role == Role::Worker
            && !local.is_manager
            && !local.managers.is_empty()
            && first_listening(&local.managers).await.is_none()
    };
    if !is_ledger_due && !is_cut_off().await {
        return Ok(Observed { local, is_moved, records: None });
    }
    let (charter, row) = tokio::try_join!(
        node.ledger.fetch_charter(),
        node.ledger.fetch_member(node.role, &node.instance.id),
    )?;
    let is_elsewhere =
        charter.as_ref().is_some_and(|charter| decide::is_later(charter, membership));
    let is_in_question = is_elsewhere || is_moved || local.is_certificate_refused();
    // A manager needs another manager that can take it out of raft; other nodes need one that they can join.
    let needs_leader = membership.role == Role::Manager && !is_elsewhere;
    let listening = match &charter {
        Some(charter) if is_in_question => {
            find_manager(node, charter, |row| !needs_leader || is_led(row)).await?
        }
        _ => None,
    };
    let has_leader = if is_elsewhere && local.is_manager {
        fetch_leader(node, &local).await
    } else {
        Fact::CannotTell
    };
    let is_manager_there = listening.is_some();
    let reach = match &charter {
        Some(charter) if !is_in_question && may_be_stranded(charter, membership) => {
            let me = &node.instance.id;
            reach::look(&node.ledger, me, charter, &local, first_listening).await?
        }
        _ => Reach::NotKnown,
    };
    let records = Records { charter, row, is_manager_there, reach, has_leader };
    Ok(Observed { local, is_moved, records: Some(records) })
}

/// Whether this node is a worker of the swarm that the charter names, and the charter is open.
fn may_be_stranded(charter: &Charter, membership: &Membership) -> bool {
    membership.role == Role::Worker
        && charter.phase == CharterPhase::Open
        && charter.swarm_id.as_ref() == Some(&membership.swarm_id)
}
