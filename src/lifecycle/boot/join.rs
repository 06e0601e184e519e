//! Joins the swarm through one of the managers that the ledger names.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use time::OffsetDateTime;

use super::BootError;
use super::decide::Refusal;
use super::lost_swarm::AbsenceTracker;
use crate::clients::docker::{JoinAnswer, SWARM_PORT, first_listening};
use crate::clients::ledger::{Attempt, Charter, Member, MemberState};
use crate::clients::secrets::JoinToken;
use crate::common::errors::chain;
use crate::common::state::Phase;
use crate::node::Node;

/// Limit of attempts with a closed own port: each one leaves a dead entry in the node list.
const OWN_PORT_ATTEMPTS: u32 = 3;
/// Pause between such attempts, in which a change of the security group can take effect.
const OWN_PORT_PAUSE: Duration = Duration::from_secs(10);

/// Results of the earlier attempts of this boot.
#[derive(Default)]
pub struct Joining {
    /// Managers through which joining has failed; tried again once all of them have failed.
    avoid: BTreeSet<IpAddr>,
    attempts: u32,
    own_port_closed: u32,
    /// Whether the ledger has the attempt of this node.
    is_announced: bool,
    /// Starts when no manager answers.
    pub absence_tracker: AbsenceTracker,
}

/// Makes one attempt. Returns `true` if the next observation should follow at once, `false` if a pause should come
/// first.
pub async fn join(node: &Node, charter: &Charter, past: &mut Joining) -> Result<bool, BootError> {
    let Joining { avoid, is_announced, absence_tracker, .. } = past;
    let (token, manager, ()) = tokio::join!(
        fetch_token(node, charter),
        find_manager(node, charter, avoid, absence_tracker),
        announce(node, is_announced),
    );
    let (Some(token), Some(manager)) = (token?, manager?) else { return Ok(false) };
    past.attempts += 1;
    // Numbered, so that the log has a line for each attempt: each may leave an entry in the node list.
    let nth =
        if past.attempts > 1 { format!(", attempt {}", past.attempts) } else { String::new() };
    let generation = charter.generation;
    node.state.enter(
        Phase::Booting,
        format!("joining generation {generation} as {} through {manager}{nth}", node.role),
    );
    let availability = node.join_availability();
    let answer = node.swarm.join(node.address, manager, token.secret(), availability).await;
    follow(node, answer, manager, past).await
}

/// Writes the attempt of this node to the ledger, so that after an interruption it can tell that it was joining. A failed
/// write is no reason not to join.
async fn announce(node: &Node, is_announced: &mut bool) {
    if *is_announced {
        return;
    }
    let now = OffsetDateTime::now_utc();
    let attempt = Attempt::new(&node.instance.id, node.role, node.address, now);
    match node.ledger.put_attempt(&attempt).await {
        Ok(()) => *is_announced = true,
        Err(error) => tracing::warn!("{}", chain(&error)),
    }
}

/// Handles the answer to a join; each one has its own remedy.
async fn follow(
    node: &Node,
    answer: JoinAnswer,
    manager: IpAddr,
    past: &mut Joining,
) -> Result<bool, BootError> {
    let again = |why: &str| {
        node.state.enter(Phase::Booting, format!("{why}; retrying"));
        Ok(false)
    };
    if answer.is_ended_by_force(node.role) {
        node.swarm.leave(true).await?;
    }
    match answer {
        JoinAnswer::Joined | JoinAnswer::AlreadyInSwarm | JoinAnswer::Unknown => Ok(true),
        // Or the address now belongs to a manager of another swarm: try another one next.
        JoinAnswer::TokenRefused => {
            past.avoid.insert(manager);
            again("the join token was refused: it may have been rotated")
        }
        JoinAnswer::CaChanged => {
            past.avoid.insert(manager);
            again("the swarm's CA is not the token's: it may be rotating")
        }
        JoinAnswer::Refused => {
            past.avoid.insert(manager);
            again(&format!("{manager} refused the connection"))
        }
        JoinAnswer::BlackHoled => {
            past.avoid.insert(manager);
            again(&format!("{manager} did not answer"))
        }
        JoinAnswer::NoLeader => {
            past.avoid.insert(manager);
            again("the swarm has no leader at present")
        }
        JoinAnswer::OwnPortClosed => {
            past.own_port_closed += 1;
            if past.own_port_closed >= OWN_PORT_ATTEMPTS {
                let detail = format!("{}:{SWARM_PORT}, {OWN_PORT_ATTEMPTS} attempts", node.address);
                return Err(Refusal::OwnPortClosed { detail }.into());
            }
            tracing::error!(
                "the swarm cannot reach {}:{SWARM_PORT}: check the security group",
                node.address
            );
            tokio::time::sleep(OWN_PORT_PAUSE).await;
            Ok(false)
        }
        JoinAnswer::LiveRestore => Err(Refusal::LiveRestore.into()),
        JoinAnswer::NftablesFirewall => Err(Refusal::NftablesFirewall.into()),
        JoinAnswer::Other(message) => {
            past.avoid.insert(manager);
            again(&format!("joining through {manager} failed: {message}"))
        }
    }
}

/// Returns the token of the charter's generation, if it fits the charter; `None` if the node must observe again.
async fn fetch_token(node: &Node, charter: &Charter) -> Result<Option<JoinToken>, BootError> {
    let Some(token) = node.tokens.fetch(node.role, charter.generation).await? else {
        let why = format!("the {} token of generation {}", node.role, charter.generation);
        node.state.enter(Phase::Booting, format!("waiting for {why} in the secret store"));
        return Ok(None);
    };
    let digest = charter.ca_digest.as_deref().unwrap_or_default();
    if token.ca_digest() != digest {
        node.state.enter(
            Phase::Booting,
            format!("waiting for a {} token of the charter's CA in the secret store", node.role),
        );
        return Ok(None);
    }
    Ok(Some(token))
}

/// Returns a manager that listens: staying ones before leaving ones, this node's zone before others, freshest row
/// first. Returns `None` if the node must observe again.
async fn find_manager(
    node: &Node,
    charter: &Charter,
    avoid: &mut BTreeSet<IpAddr>,
    absence_tracker: &mut AbsenceTracker,
) -> Result<Option<IpAddr>, BootError> {
    let rows = node.ledger.fetch_managers().await?;
    let mut managers: Vec<&Member> = rows
        .iter()
        .filter(|row| row.generation == charter.generation && row.may_be_in(charter))
        .filter(|row| row.instance_id != node.instance.id && row.state != MemberState::Removed)
        .collect();
    // A manager that leaves still serves: it may be the last one, waiting for its replacement.
    managers.sort_by_key(|row| {
        let is_leaving = row.state == MemberState::Leaving;
        let is_elsewhere = row.zone != node.instance.zone;
        (is_leaving, is_elsewhere, std::cmp::Reverse(row.updated_at))
    });
    let all: Vec<IpAddr> = managers.iter().map(|row| row.address).collect();
    if all.iter().all(|address| avoid.contains(address)) {
        avoid.clear();
    }
    let candidates: Vec<IpAddr> =
        all.iter().copied().filter(|address| !avoid.contains(address)).collect();
    let found = first_listening(&candidates).await;
    if found.is_some() {
        absence_tracker.end();
    } else {
        let finding = absence_tracker.begin();
        // None of the others listens: those that have failed are worth another attempt.
        avoid.clear();
        let tried = if candidates.is_empty() {
            "the ledger names none".to_owned()
        } else {
            candidates.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
        };
        node.state.enter(
            Phase::Booting,
            format!("waiting for a manager that answers on port {SWARM_PORT} ({tried}){finding}"),
        );
    }
    Ok(found)
}
