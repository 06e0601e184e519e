//! Carries out one step of a departure. Every write is conditional or harmless to repeat.

use std::net::IpAddr;
use std::time::Duration;

use thiserror::Error;
use time::OffsetDateTime;
use tokio::time::Instant;

use super::budget::Budget;
use super::decide::{Observed, Outcome, Step};
use super::failed_attempts::Failing;
use super::memory::Memory;
use super::{hint, progress, traffic_look};
use crate::clients::docker::{LocalState, Stop, SwarmError, TaskContainer};
use crate::clients::ledger::{DepartureRow, DepartureState, LedgerError, MemberState};
use crate::common::errors::chain;
use crate::common::event::Event;
use crate::common::instance::{Departure, Membership, Role};
use crate::common::state::Phase;
use crate::manager::demotion::{self, Demotion};
use crate::node::Node;

/// Docker refuses a stop at once. For a container that has not stopped within this time, the node waits between the
/// observations.
const STOP_ANSWER_WITHIN: Duration = Duration::from_secs(2);

#[derive(Debug, Error)]
pub enum LeaveError {
    #[error(transparent)]
    Swarm(#[from] SwarmError),
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error("{what} of the departure timed out: no answer within {limit:?}")]
    Silent { what: &'static str, limit: Duration },
}

/// Continuation after a step.
pub enum Next {
    Done(Outcome),
    /// The step changed something: the next step may be due.
    LookAtOnce,
    /// The node waits for a manager, Docker or the ledger.
    Pause,
}

/// Carries out the step.
pub async fn act(
    node: &Node,
    departure: &Departure,
    budget: &Budget,
    seen: &Observed,
    step: Step,
    memory: &mut Memory,
) -> Result<Next, LeaveError> {
    let say = |text: &str| node.state.enter(Phase::Leaving, text);
    if !matches!(step, Step::Wait { .. } | Step::Demote { .. }) {
        note_wait(node, seen, None).await;
    }
    match step {
        Step::Done(outcome) => return Ok(Next::Done(outcome)),
        Step::Wait { why } => {
            wait(node, seen, &why).await;
            return Ok(Next::Pause);
        }
        Step::Request => {
            let membership = membership(node, seen, memory);
            if seen.local.state == LocalState::Inactive {
                let managers = memory.managers.clone();
                let write = write_request(node, departure, &membership, None, &managers);
                return say_left(node, budget, memory, write).await;
            }
            let hold = seen.is_held().then(|| progress::at(budget.traffic_until));
            request(node, departure, &membership, hold, memory).await?;
        }
        Step::PauseSelf => {
            say("no new tasks here: waiting for the traffic to end");
            watched(&mut memory.drains, node.swarm.pause(node_id(seen))).await?;
        }
        Step::EndHold => {
            if let Some(row) = &seen.row {
                watched(&mut memory.writes, node.ledger.end_hold(row)).await?;
            }
        }
        Step::EndTraffic => traffic_look::refuse(node, memory),
        Step::DrainSelf => {
            say("draining this node");
            watched(&mut memory.drains, node.swarm.drain(node_id(seen))).await?;
        }
        Step::MarkDrained => {
            if let Some(row) = &seen.row {
                let advance = node.ledger.advance_departure(row, DepartureState::Drained);
                watched(&mut memory.writes, advance).await?;
            }
        }
        Step::StopTasks { why } => {
            say(&format!("stopping the tasks here: {why}"));
            let grace = budget.grace(Instant::now());
            return stop(node, memory, Some(grace), |it| it.task_id.is_some()).await;
        }
        Step::StopStandalone => {
            say("stopping the containers that are not tasks of the swarm");
            return stop(node, memory, None, |it| it.task_id.is_none() && !it.stops_after_flush)
                .await;
        }
        Step::StopLate => {
            say("stopping the containers that flushing needed");
            return stop(node, memory, None, |it| it.stops_after_flush).await;
        }
        // `super::flush` does this outside a round, with its own share of the deadline.
        Step::Flush => {}
        Step::Demote { in_turn } => {
            demote(node, seen, in_turn).await?;
            return Ok(Next::Pause);
        }
        Step::Leave if has_new_tasks(node, seen).await? => {}
        Step::Leave => {
            say("leaving the swarm");
            node.swarm.leave(false).await?;
            memory.leaves_behind(membership(node, seen, memory));
        }
        Step::LeaveUnsettled => {
            say("leaving by force: the join of this node never settled");
            node.swarm.leave(true).await?;
        }
        Step::LeaveLast => {
            leave_last(node, seen).await?;
            memory.leaves_behind(membership(node, seen, memory));
        }
        Step::MarkLeft => {
            let managers = memory.managers.clone();
            return say_left(node, budget, memory, mark_left(node, seen, &managers)).await;
        }
        Step::Stay => {
            let is_taken_back = match &seen.row {
                Some(row) => {
                    watched(&mut memory.writes, node.ledger.take_departure_back(row)).await?
                }
                None => true,
            };
            if is_taken_back {
                return Ok(Next::Done(Outcome::Stayed));
            }
        }
    }
    Ok(Next::LookAtOnce)
}

fn node_id(seen: &Observed) -> &str {
    seen.local.node_id.as_deref().unwrap_or_default()
}

/// Time limit for removing the tasks that have not started.
const UNSTARTED_PATIENCE: Duration = Duration::from_secs(3);

/// Removes task containers that have not started. Docker kills those that it does not list or remove here when the node
/// leaves, as it would without this function.
async fn remove_unstarted(node: &Node) {
    let unstarted = node.swarm.fetch_unstarted_tasks().await;
    let unstarted = unstarted.inspect_err(|error| tracing::debug!("{error}")).unwrap_or_default();
    let removals = unstarted.iter().map(|task| async {
        match node.swarm.remove_container(&task.id, false).await {
            Ok(()) => tracing::info!(container = task.name, "removed a task that had not started"),
            Err(error) => tracing::debug!("{error}"),
        }
    });
    futures_util::future::join_all(removals).await;
}

/// Whether tasks run here that started after the observation; tasks that have not started are removed. An observation
/// may be seconds old if the ledger does not answer, and if no manager drains the node, the swarm starts tasks here
/// again. The next observation finds them, and they get their grace. A task that starts while the node leaves would be
/// killed at once, so a task that has not started, and has done no work yet, is removed. Docker refuses to remove one
/// that has started.
async fn has_new_tasks(node: &Node, seen: &Observed) -> Result<bool, LeaveError> {
    if seen.clock.stop_over {
        return Ok(false);
    }
    if tokio::time::timeout(UNSTARTED_PATIENCE, remove_unstarted(node)).await.is_err() {
        tracing::warn!("could not remove the tasks that have not started: Docker timed out");
    }
    let containers = node.swarm.fetch_containers().await?;
    Ok(containers.iter().any(|container| container.task_id.is_some()))
}

/// Returns the membership of this host, with the node id from Docker if Docker reports one.
fn membership(node: &Node, seen: &Observed, memory: &Memory) -> Membership {
    let known = memory.member.as_ref();
    let node_id = seen.local.node_id.clone().or_else(|| known.map(|known| known.node_id.clone()));
    Membership {
        node_id: node_id.unwrap_or_default(),
        swarm_id: seen.local.swarm_id.clone().unwrap_or_default(),
        generation: known.map_or(0, |known| known.generation),
        role: match seen.local.state {
            LocalState::Inactive => node.role,
            _ if seen.local.is_manager => Role::Manager,
            _ => Role::Worker,
        },
    }
}

/// Records in the ledger that this node has left, with a retry at every observation. Without the record, managers soon
/// act for the node, as for one that died on the way. No write lasts beyond the deadline, or the node would count as
/// one that has not left.
async fn say_left(
    node: &Node,
    budget: &Budget,
    memory: &mut Memory,
    write: impl Future<Output = Result<(), LeaveError>>,
) -> Result<Next, LeaveError> {
    let written = tokio::time::timeout_at(budget.deadline, watched(&mut memory.writes, write));
    match written.await {
        Ok(Ok(())) => Ok(Next::LookAtOnce),
        Ok(Err(LeaveError::Ledger(_))) | Err(_) => {
            const DOING: &str = "waiting for the ledger to record that this node has left";
            node.state.enter(Phase::Leaving, DOING);
            Ok(Next::Pause)
        }
        Ok(Err(error)) => Err(error),
    }
}

/// Does the work, and remembers whether it failed. Until it succeeds it counts as failed, because a step may time out
/// in the middle.
async fn watched<T, E: std::error::Error>(
    failing: &mut Failing,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    failing.set("no answer yet".to_owned());
    let done = work.await;
    match &done {
        Ok(_) => failing.clear(),
        Err(error) => failing.set(chain(error)),
    }
    done
}

/// Writes to the ledger the request that managers drain this node, not before `hold_until`.
///
/// # Errors
/// When DynamoDB fails.
pub async fn request(
    node: &Node,
    departure: &Departure,
    membership: &Membership,
    hold_until: Option<OffsetDateTime>,
    memory: &mut Memory,
) -> Result<(), LeaveError> {
    node.state.enter(Phase::Leaving, "asking the managers to drain this node");
    let written = write_request(node, departure, membership, hold_until, &memory.managers);
    watched(&mut memory.writes, written).await
}

async fn write_request(
    node: &Node,
    departure: &Departure,
    membership: &Membership,
    hold_until: Option<OffsetDateTime>,
    managers: &[IpAddr],
) -> Result<(), LeaveError> {
    let Membership { node_id, .. } = membership;
    let mut row =
        DepartureRow::request(&node.instance.id, node_id, node.role, departure, &node.boot_id);
    (row.group, row.hold_until) = (node.group().cloned(), hold_until);
    node.ledger.request_departure(&row).await?;
    hint::tell(node, managers);
    // Joining nodes and load balancers should not start to use a node that leaves.
    let charter = node.ledger.fetch_charter().await?;
    let generation = charter.map_or(membership.generation, |charter| charter.generation);
    let membership = Membership { generation, ..membership.clone() };
    node.record_member(&membership, MemberState::Leaving).await?;
    Ok(())
}

/// Flushes the logs within flushing's share of the deadline. `is_blind`: tasks may still run, because Docker does not
/// answer.
pub async fn flush(node: &Node, departure: &Departure, until: Instant, is_blind: bool) {
    node.state.enter(Phase::Leaving, "flushing the logs");
    if !is_blind {
        node.events.tell(Event::Drained, None);
    }
    crate::host::flush::run(node, departure, until).await;
}

/// Stops the containers. Each is asked once: many programs abort at a second SIGTERM. If all were asked before, the
/// departure pauses.
async fn stop(
    node: &Node,
    memory: &mut Memory,
    grace: Option<Duration>,
    which: impl Fn(&TaskContainer) -> bool,
) -> Result<Next, LeaveError> {
    let mut containers = node.swarm.fetch_containers().await?;
    containers
        .retain(|container| which(container) && !memory.asked_to_stop.contains(&container.id));
    if containers.is_empty() {
        return Ok(Next::Pause);
    }
    // Stored before the answer: a round that times out meanwhile has asked them all the same.
    for container in &containers {
        memory.asked_to_stop.insert(container.id.clone());
        if container.task_id.is_some() {
            memory.stopping.insert(container.id.clone(), container.name.clone());
        }
    }
    // The stop continues in Docker. If no manager was asked to drain the node, other tasks may start meanwhile: the
    // next round stops each of them at once, so that there is a moment without any.
    let stops = node.swarm.stop_containers(&containers, grace, STOP_ANSWER_WITHIN).await?;
    let stopped = stops.iter().filter(|stop| **stop == Stop::Stopped).count();
    tracing::info!(stopped, not_yet = stops.len() - stopped, "containers stopped");
    let refused = || containers.iter().zip(&stops).filter(|(_, stop)| **stop == Stop::Refused);
    for (container, _) in refused() {
        memory.asked_to_stop.remove(&container.id);
        memory.stopping.remove(&container.id);
    }
    // If Docker refuses all of them, the node asks again after a pause.
    Ok(if refused().count() < containers.len() { Next::LookAtOnce } else { Next::Pause })
}

async fn demote(node: &Node, seen: &Observed, in_turn: bool) -> Result<(), LeaveError> {
    let demotion = if in_turn {
        demotion::demote_under_lease(node, node_id(seen)).await?
    } else {
        demotion::demote(node, node_id(seen)).await?
    };
    match demotion {
        Demotion::Accepted => node.state.enter(Phase::Leaving, "demoting this manager first"),
        Demotion::HeldUp { waiting_for } => wait(node, seen, &waiting_for).await,
    }
    Ok(())
}

/// Shows the reason why this node waits, also in the ledger, so that any manager can show it.
async fn wait(node: &Node, seen: &Observed, why: &str) {
    node.state.enter(Phase::Leaving, format!("waiting for {why}"));
    note_wait(node, seen, Some(why)).await;
}

/// Writes the reason to the ledger if it has changed. A failed write does not delay the departure.
async fn note_wait(node: &Node, seen: &Observed, why: Option<&str>) {
    let Some(row) = seen
        .row
        .as_ref()
        .filter(|row| row.state < DepartureState::Left && row.waiting_for.as_deref() != why)
    else {
        return;
    };
    if let Err(error) = node.ledger.note_wait(row, why).await {
        tracing::debug!("could not record in the ledger why this node waits: {}", chain(&error));
    }
}

async fn leave_last(node: &Node, seen: &Observed) -> Result<(), LeaveError> {
    node.state.enter(Phase::Leaving, "leaving as the last manager: the swarm ends here");
    tracing::error!(
        swarm_id = seen.local.swarm_id,
        "no other manager has joined: services, secrets, configs and networks of this swarm are lost with it"
    );
    if let Some(charter) = node.ledger.fetch_charter().await?
        && charter.swarm_id == seen.local.swarm_id
    {
        node.ledger.close_charter(&charter).await?;
    }
    node.swarm.leave(true).await?;
    Ok(())
}

async fn mark_left(node: &Node, seen: &Observed, managers: &[IpAddr]) -> Result<(), LeaveError> {
    node.ledger.delete_member(node.role, &node.instance.id).await?;
    if let (Role::Manager, Some(row)) = (node.role, &seen.row) {
        node.ledger.return_lease(&row.node_id).await?;
    }
    if let Some(row) = &seen.row {
        node.ledger.advance_departure(row, DepartureState::Left).await?;
        hint::tell(node, managers);
    }
    Ok(())
}
