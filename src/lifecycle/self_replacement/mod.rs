//! Has this node replaced, as the last resort of a node that cannot heal itself.
//!
//! Guarantees: only for a fault of this host, while another manager of the swarm has a leader and answers; never for a
//! fault of the swarm or of AWS; at most one node of a group in ten minutes, by a conditional write in the ledger,
//! without which no replacement is asked for. A manager asks Auto Scaling itself. A worker asks the managers
//! ([`crate::manager::replacements`]), because its role may not ask Auto Scaling; it repeats that while the fault lasts.
//! The departure that follows is the usual one. Assumes that managers write into their rows whether they have a leader.

mod act;
mod decide;

use std::convert::Infallible;
use std::time::Duration;

use tokio::time::Instant;

use crate::clients::aws::AwsErrorKind;
use crate::clients::docker::{LocalNode, LocalState, SwarmError, SwarmErrorKind};
use crate::clients::systemd;
use crate::common::errors::chain;
use crate::lifecycle::boot::{self, BootError, Refusal};
use crate::lifecycle::notices::Notices;
use crate::node::Node;

use act::{ReplacementError, ask_if_due, is_swarm_well};
use decide::Verdict;

/// Interval between two observations; below the interval in which a worker must repeat its request.
const INTERVAL: Duration = Duration::from_secs(15);
/// Longer than one observation and the pause after it, even if no service answers.
const START_EXTENSION: Duration = Duration::from_secs(180);

/// Asks for this node's replacement once its Docker has not answered, or has reported an unusable swarm state, for
/// `autoscaling.replace_after`. Never returns.
pub async fn watch_docker(node: &Node) -> Infallible {
    if !node.settings.autoscaling.replace_self {
        return std::future::pending().await;
    }
    let mut case = Case::default();
    loop {
        pause().await;
        match what_docker_says(&node.swarm.fetch_local_node_lately(INTERVAL).await) {
            Some(why) => case.hold(node, &why).await,
            None => {
                case = Case::default();
                node.state.set_given_up(false);
            }
        }
    }
}

/// Returns the fault of Docker on this host. A Docker that stays in `error` has lost its certificate or its raft log; a
/// node without a connection to a manager is `active` or `pending`.
fn what_docker_says(local: &Result<LocalNode, SwarmError>) -> Option<String> {
    match local {
        Err(error) => is_silence(error).then(|| error.to_string()),
        Ok(local) => (local.state == LocalState::Error).then(|| match local.error.as_str() {
            "" => "Docker reports the state error".to_owned(),
            error => format!("Docker reports: {error}"),
        }),
    }
}

/// Handles a node that could not join again. Returns at once if this is not a fault of this host, or if the node has
/// never served; else once the fault is cured, a notice arrives, or nothing more can be done.
pub async fn after_failure(node: &Node, notices: &Notices, error: &BootError) {
    let row = node.ledger.fetch_member(node.role, &node.instance.id).await;
    if !node.settings.autoscaling.replace_self || !matches!(row, Ok(Some(_))) {
        return;
    }
    let mut case = Case::default();
    while notices.now().is_none() && !case.is_denied {
        // systemd kills a boot that has not ended at the unit's start timeout, and all of it would start again.
        systemd::extend_timeout(START_EXTENSION);
        let Some(why) = what_is_broken(node, error).await else { return };
        case.hold(node, &why).await;
        tokio::select! {
            _ = notices.given() => {}
            () = pause() => {}
        }
    }
}

async fn pause() {
    tokio::time::sleep(INTERVAL.mul_f64(0.75 + 0.5 * fastrand::f64())).await;
}

/// Whether Docker is missing or hangs. A Docker that gives any answer does neither.
fn is_silence(error: &SwarmError) -> bool {
    matches!(error.kind, SwarmErrorKind::Unreachable | SwarmErrorKind::TimedOut)
}

/// Returns the fault that this host still has after such a failure. A fault that cannot be checked does not count.
async fn what_is_broken(node: &Node, error: &BootError) -> Option<String> {
    match error {
        // Another check would be another attempt to join, and leave another dead entry.
        BootError::Refused(refusal @ Refusal::OwnPortClosed { .. }) => Some(refusal.to_string()),
        BootError::Refused(_) | BootError::Swarm(_) => {
            let refusal = boot::look(node).await.ok()??;
            is_of_this_host(&refusal).then(|| refusal.to_string())
        }
        BootError::TooLate { .. } => match node.swarm.fetch_local_node().await {
            Ok(local) => {
                let is_stuck = matches!(local.state, LocalState::Pending | LocalState::Error);
                (is_stuck && !local.error.is_empty())
                    .then(|| format!("Docker reports: {}", local.error))
            }
            Err(error) => is_silence(&error).then(|| error.to_string()),
        },
        BootError::Ledger(_) | BootError::Secrets(_) | BootError::Token(_) => None,
    }
}

/// Whether another machine would not have this fault. A clock, an address, UserData and the firewall backend are the
/// template's: a node that has served had the right backend, and its group's template has another one now.
fn is_of_this_host(refusal: &Refusal) -> bool {
    match refusal {
        Refusal::ForeignSwarm { .. }
        | Refusal::Locked
        | Refusal::LiveRestore
        | Refusal::OwnPortClosed { .. } => true,
        Refusal::NftablesFirewall
        | Refusal::ClockOff { .. }
        | Refusal::AddressNotHere { .. }
        | Refusal::Copied { .. }
        | Refusal::UserDataFailed { .. } => false,
    }
}

/// State of one fault in this process. A restart of skep resets it, which only costs time.
#[derive(Default)]
struct Case {
    since: Option<Instant>,
    /// Time since which the swarm has been well without this node.
    well_since: Option<Instant>,
    said: String,
    /// This node is not allowed to ask Auto Scaling.
    is_denied: bool,
}

impl Case {
    /// Records an observation of the fault, and asks for the replacement when it is time.
    async fn hold(&mut self, node: &Node, why: &str) {
        if self.is_denied {
            return;
        }
        let now = Instant::now();
        let broken_for = now - *self.since.get_or_insert(now);
        // Every time, because a swarm that was well only now and then proves nothing.
        let is_well = is_swarm_well(node).await;
        let is_still = matches!(is_well, Ok(true));
        self.well_since = is_still.then(|| self.well_since.unwrap_or(now));
        let well_for = self.well_since.map(|since| now - since);
        match ask_if_due(node, why, broken_for, is_well.map(|_| well_for)).await {
            Ok(Verdict::Wait) => {}
            Ok(Verdict::Ask { .. }) => {
                // A replacement is the cure, so a load balancer must not use the node any more, either.
                node.state.set_given_up(true);
                self.say(why, "Auto Scaling is asked to replace it");
            }
            Ok(Verdict::AskManagers) => {
                node.state.set_given_up(true);
                self.say(why, "the managers are asked to have it replaced");
            }
            Ok(Verdict::Stay { why: objection }) => {
                self.say(why, &format!("not replaced: {objection}"));
            }
            Err(ReplacementError::AutoScaling(error))
                if error.kind == AwsErrorKind::AccessDenied =>
            {
                self.is_denied = true;
                self.say(
                    why,
                    &format!("not replaced: {error}, or set autoscaling.replace_self to false"),
                );
            }
            Err(error) => self.say(why, &format!("not replaced: {}", chain(&error))),
        }
    }

    /// Logs it once, until it changes.
    fn say(&mut self, why: &str, what_follows: &str) {
        if self.said != what_follows {
            tracing::error!(because = why, "this node is broken; {what_follows}");
            self.said = what_follows.to_owned();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn docker_that_says_error_or_nothing_is_broken_and_one_without_managers_is_not() {
        let local = |state, error: &str| {
            Ok(LocalNode {
                state,
                // In `error` Docker reports no node id.
                node_id: None,
                swarm_id: None,
                is_manager: false,
                has_managers: false,
                managers: vec![],
                error: error.into(),
                address: None,
                live_restore: false,
            })
        };
        let log = "can't initialize raft node: irreparable WAL error: wal: crc mismatch";
        let said = what_docker_says(&local(LocalState::Error, log)).unwrap();
        assert!(said.ends_with(log), "{said}");
        assert!(what_docker_says(&local(LocalState::Error, "")).is_some());
        for state in
            [LocalState::Active, LocalState::Pending, LocalState::Inactive, LocalState::Locked]
        {
            assert_eq!(what_docker_says(&local(state, "no manager")), None, "{state:?}");
        }
        let silent = Err(SwarmError::silent("read /info"));
        assert!(what_docker_says(&silent).is_some());
    }

    #[test]
    fn only_what_another_machine_would_not_have_is_of_this_host() {
        let swarm_id = String::new();
        assert!(is_of_this_host(&Refusal::ForeignSwarm { swarm_id }));
        assert!(is_of_this_host(&Refusal::Locked) && is_of_this_host(&Refusal::LiveRestore));
        let errors = String::new();
        assert!(!is_of_this_host(&Refusal::UserDataFailed { errors }));
        assert!(!is_of_this_host(&Refusal::NftablesFirewall), "its replacement would have it, too");
        assert!(!is_of_this_host(&Refusal::ClockOff { seconds: 300, direction: "ahead of" }));
    }
}
