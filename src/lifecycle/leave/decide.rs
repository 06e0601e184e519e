//! Decides the next step of a departing node. Pure: no clock, no I/O, no memory.

use super::traffic::Wait;
use super::which_swarm::Lookup;
use crate::clients::docker::{Availability, LocalNode, LocalState, NodeView, Quorum};
use crate::clients::ledger::{DepartureRow, DepartureState, Traffic};
use crate::common::fact::Fact;
use crate::common::instance::Role;
pub use crate::common::outcome::Outcome;

/// Facts for a decision.
#[derive(Clone, Debug)]
pub struct Observed {
    /// Docker's answer about this host, completed from the node certificate.
    pub local: LocalNode,
    /// The notice has been taken back.
    pub is_withdrawn: bool,
    /// Whether Docker is in this cluster's swarm. Another swarm is left alone.
    pub ours: Fact,
    /// Role in the certificate of a node that is neither in its swarm nor out of it.
    pub certified: Lookup<Role>,
    /// Whether such a node has started to join and has never been a member.
    pub is_joining: Fact,
    /// The node has been a member of the cluster's swarm, or this process has taken it out of the swarm.
    pub was_member: bool,
    /// This node's departure row, if the ledger could be read.
    pub row: Option<DepartureRow>,
    /// Whether the ledger could be read: `row` is then `None` only if this departure has no row.
    pub is_ledger_readable: bool,
    /// The last write to the ledger failed a short time ago.
    pub is_write_failing: bool,
    /// Docker failed to drain this manager a short time ago.
    pub is_drain_failing: bool,
    /// Whether a load balancer may still send requests to this node.
    pub traffic: Wait,
    /// A manager has answered that other nodes are drained first.
    pub awaits_turn: bool,
    /// Own entry in the node list, on a manager whose swarm has a leader.
    pub node: Option<NodeView>,
    /// Running task containers of this host.
    pub task_containers: usize,
    /// Running containers that are not tasks, without those that stop after the flush.
    pub standalone_containers: usize,
    /// Running containers that must stop only after the flush, such as a shipper's.
    pub late_containers: usize,
    /// Live tasks of this node in Docker's task list; `None` on a worker, or if Docker cannot tell.
    pub listed_tasks: Option<usize>,
    /// Logs were flushed after the last task. A flush without Docker counts only with [`Clock::leave_due`].
    pub is_flushed: bool,
    /// The node list has a leader, has this manager in raft, and has no other manager.
    pub is_last_manager: bool,
    /// Count of the raft members, this one included; 0 if it is not known.
    pub quorum: Quorum,
    /// The demotion of another manager is under way.
    pub is_other_going: bool,
    /// Time limits that have passed.
    pub clock: Clock,
}

/// Time limits that have passed, by [`super::Budget`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Clock {
    /// The share for traffic is over: the node is drained, whatever a load balancer does.
    pub traffic_over: bool,
    /// The time for managers to answer is over.
    pub patience_over: bool,
    /// The managers' share of draining is over: the node stops the tasks that still run.
    pub drain_over: bool,
    /// The share for stopping is over, too: containers that still run cannot be stopped in time.
    pub stop_over: bool,
    /// Only the share for leaving is left.
    pub leave_due: bool,
    /// The deadline has passed.
    pub over: bool,
    /// The time for another manager to confirm the demotion, or to remove the node from the node list, is over.
    pub confirmation_over: bool,
    /// The time for a join in the background to settle is over.
    pub settle_over: bool,
    /// The time for another manager to join, so that this one is not the last, is over.
    pub replacement_wait_over: bool,
    /// A node that has left does not wait for the ledger any more.
    pub ledger_over: bool,
    /// The time for Docker to come back is over.
    pub docker_over: bool,
}

/// One step. Another observation follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Write the request to the managers into the ledger.
    Request,
    /// Keep new tasks away from this node; a manager can do that itself.
    PauseSelf,
    /// Record in the ledger that the traffic has ended, so that managers drain this node.
    EndHold,
    /// Answer health checks with 503 from now on.
    EndTraffic,
    /// Drain this node; a manager can do that itself.
    DrainSelf,
    /// Record in the ledger that no task is left.
    MarkDrained,
    /// Stop the tasks on this host.
    StopTasks {
        /// Reason, for the log and the status.
        why: &'static str,
    },
    /// Stop the containers that are not tasks.
    StopStandalone,
    /// Stop the containers that flushing needed.
    StopLate,
    /// Wait until the log lines of this host have arrived where they are stored.
    Flush,
    /// Demote this manager: in its turn, or at once because the time is over.
    Demote {
        /// Whether to take the demotion lease first. Not with [`Clock::leave_due`], or if the ledger cannot be read.
        in_turn: bool,
    },
    /// Leave as a worker.
    Leave,
    /// Leave by force a join that did not settle: this node is no raft member.
    LeaveUnsettled,
    /// Leave by force as the last manager: the swarm ends here, and the charter is closed.
    LeaveLast,
    /// Record in the ledger that the node has left.
    MarkLeft,
    /// The notice was taken back in time: take the request back, too.
    Stay,
    /// Observe again after a pause.
    Wait {
        /// Completes "waiting for".
        why: String,
    },
    /// The departure has ended.
    Done(Outcome),
}

/// Returns the stage that a step belongs to, for the metrics of durations.
#[must_use]
pub fn stage(seen: &Observed, step: &Step) -> &'static str {
    match step {
        Step::Flush => "flush",
        Step::Leave | Step::LeaveUnsettled | Step::LeaveLast => "leave",
        _ if seen.local.state == LocalState::Inactive => "remove",
        _ if seen.is_flushed => "demote",
        _ if seen.is_held() => "traffic",
        _ => "drain",
    }
}

/// Returns the next step.
#[must_use]
pub fn decide(role: Role, seen: &Observed) -> Step {
    if seen.is_withdrawn && may_stay(role, seen) {
        return Step::Stay;
    }
    if seen.local.state == LocalState::Inactive || seen.ours.is_no() {
        return outside(seen);
    }
    if seen.clock.over {
        return Step::Done(Outcome::TooLate);
    }
    let is_settling = seen.local.state == LocalState::Pending && !seen.clock.settle_over;
    if is_settling && !seen.clock.leave_due {
        return wait("the join to settle");
    }
    if seen.ours == Fact::CannotTell {
        return in_doubt(seen);
    }
    match seen.local.state {
        // Only managers are locked: this one is in raft, and would stay there if it left by force.
        LocalState::Locked => Step::Wait { why: "Docker to be unlocked".to_owned() },
        LocalState::Pending | LocalState::Error if !seen.local.is_manager => {
            quiesce(seen).unwrap_or_else(|| unsettled(role, seen))
        }
        _ => inside(role, seen),
    }
}

/// Whether the node can stay without another boot: it is in the swarm, and a manager (a worker may be one by promotion)
/// is still one and is not being demoted. Tasks that were stopped run on other nodes by now, and new ones will come.
fn may_stay(role: Role, seen: &Observed) -> bool {
    let is_what_it_was = match &seen.node {
        _ if !seen.local.is_manager => role == Role::Worker,
        Some(node) => node.role == Role::Manager && node.raft.is_some(),
        None => false,
    };
    seen.local.state == LocalState::Active
        && seen.ours.is_yes()
        && seen.is_ledger_readable
        && seen.row.as_ref().is_none_or(|row| {
            row.state < DepartureState::Left && !row.demoted && !seen.goes_on_without_writing()
        })
        && is_what_it_was
}

impl Clock {
    /// Whether the managers' time for draining the node is over.
    fn is_late(&self) -> bool {
        self.patience_over || self.drain_over
    }
}

impl Observed {
    /// Whether the departure leaves out the steps that need a write: the ledger can be read but not written, and its
    /// time is over, too.
    fn goes_on_without_writing(&self) -> bool {
        self.is_write_failing && self.clock.is_late()
    }

    /// Whether the node is not drained yet because it may still receive requests.
    pub(super) fn is_held(&self) -> bool {
        let is_drained = self.row.as_ref().is_some_and(|row| row.state > DepartureState::Requested);
        matches!(self.traffic, Wait::Now { .. })
            && self.may_be_member()
            && !self.clock.traffic_over
            && !is_drained
    }

    /// Whether the node may be in the cluster's swarm, and so receive requests.
    pub(super) fn may_be_member(&self) -> bool {
        self.local.state != LocalState::Inactive && !self.ours.is_no()
    }
}

/// Returns the step of a node that is neither in the swarm nor out of it, and has nothing left to do on this host. A
/// raft member that leaves by force stays in raft as a dead member: of two managers that costs the quorum.
fn unsettled(role: Role, seen: &Observed) -> Step {
    if is_no_raft_member(role, seen) {
        return Step::LeaveUnsettled;
    }
    let why = "Docker to recover, or to report that the join failed: raft may count this node";
    match seen.local.error.as_str() {
        "" => wait(why),
        error => Step::Wait { why: format!("{why}; {error}") },
    }
}

/// Whether raft does not count this node. For a manager this needs Docker's report that its join failed; boot decides
/// alike.
fn is_no_raft_member(role: Role, seen: &Observed) -> bool {
    match (&seen.certified, role) {
        (Lookup::Found(Role::Worker), _) | (Lookup::Nothing, Role::Worker) => true,
        _ => {
            seen.local.state == LocalState::Error
                && seen.is_joining.is_yes()
                && (seen.clock.settle_over || seen.clock.leave_due)
        }
    }
}

/// Returns the step of a node in the swarm: drain, then flush, then leave.
fn inside(role: Role, seen: &Observed) -> Step {
    if seen.row.is_none() && seen.is_ledger_readable && !seen.goes_on_without_writing() {
        return Step::Request;
    }
    hold(seen)
        .or_else(|| drain(seen))
        .or_else(|| quiesce(seen))
        .or_else(|| end_traffic(seen))
        .or_else(|| seen.local.is_manager.then(|| demote(seen)))
        .unwrap_or_else(|| part(role, seen))
}

fn wait(why: &str) -> Step {
    Step::Wait { why: why.to_owned() }
}

/// Returns a step of the time in which the node may still receive requests; `None` once it can be drained. It stays in
/// the swarm with its tasks, and gets no new ones: with the routing mesh it also passes on requests for others.
fn hold(seen: &Observed) -> Option<Step> {
    if let Wait::Now { why, .. } = seen.traffic
        && seen.is_held()
    {
        let is_active =
            seen.node.as_ref().is_some_and(|node| node.availability == Availability::Active);
        return Some(if is_active && !seen.is_drain_failing { Step::PauseSelf } else { wait(why) });
    }
    let is_noted = seen.row.as_ref().is_some_and(|row| {
        let is_drained_anyway = row.traffic == Some(Traffic::None);
        row.state == DepartureState::Requested && row.hold_until.is_some() && !is_drained_anyway
    });
    (is_noted && !seen.is_write_failing).then_some(Step::EndHold)
}

/// Returns a step of a node that has told no load balancer yet that it leaves; `None` once it can leave the swarm.
fn end_traffic(seen: &Observed) -> Option<Step> {
    match seen.traffic {
        _ if seen.clock.leave_due => None,
        Wait::BeforeLeaving { answers: true } => Some(Step::EndTraffic),
        Wait::BeforeLeaving { answers: false } => {
            Some(wait("the load balancer to see that this node answers with 503"))
        }
        Wait::Now { .. } | Wait::Over => None,
    }
}

/// Returns a step of draining; `None` once no task of this node runs, by its own containers and by the managers' list.
fn drain(seen: &Observed) -> Option<Step> {
    let state = seen.row.as_ref().map(|row| row.state);
    let is_idle = seen.task_containers == 0;
    if seen.local.is_manager {
        let is_futile = seen.is_drain_failing && seen.clock.is_late();
        let is_drained =
            seen.node.as_ref().is_none_or(|node| node.availability == Availability::Drain);
        if !is_drained && !is_futile {
            return Some(Step::DrainSelf);
        }
        if is_idle && seen.listed_tasks == Some(0) {
            let is_news = state.is_some_and(|state| state < DepartureState::Drained);
            return (is_news && !seen.goes_on_without_writing()).then_some(Step::MarkDrained);
        }
    }
    if is_idle && state.is_some_and(|state| state >= DepartureState::Drained) {
        return None;
    }
    if seen.clock.drain_over {
        return stop_tasks(seen, "draining has used up its time");
    }
    let nobody_acts = !seen.local.is_manager
        && state.is_none_or(|state| state < DepartureState::Draining)
        || seen.local.is_manager && seen.node.is_none();
    if nobody_acts && seen.clock.patience_over {
        return stop_tasks(seen, "no manager has answered");
    }
    if let Some(turn) = seen.row.as_ref().and_then(|row| row.turn_after.as_ref())
        && nobody_acts
        && seen.awaits_turn
    {
        return Some(Step::Wait { why: format!("its turn to be drained, after {turn}") });
    }
    Some(wait(match (nobody_acts, is_idle) {
        (true, _) if seen.local.is_manager => "a leader to list the tasks of this node",
        (true, true) => "a manager to confirm that no task runs here",
        (true, false) => "a manager to drain this node",
        (false, false) => "the tasks to stop",
        (false, true) => "the managers to confirm that the tasks have stopped",
    }))
}

/// Stops the tasks that still run. Tasks that cannot be stopped must not use the shares of flushing and leaving.
fn stop_tasks(seen: &Observed, why: &'static str) -> Option<Step> {
    (seen.task_containers > 0 && !seen.clock.stop_over).then_some(Step::StopTasks { why })
}

/// Returns the steps on this host once no task runs: stop the other containers, then flush.
fn quiesce(seen: &Observed) -> Option<Step> {
    if seen.clock.over {
        return None;
    }
    if seen.local.state != LocalState::Active
        && let Some(step) = stop_tasks(seen, "the node has lost its swarm")
    {
        return Some(step);
    }
    if seen.standalone_containers > 0 && !seen.clock.stop_over {
        return Some(Step::StopStandalone);
    }
    if !seen.is_flushed {
        return Some(Step::Flush);
    }
    (seen.late_containers > 0 && !seen.clock.leave_due).then_some(Step::StopLate)
}

/// Returns the step of a node that cannot tell whose swarm it is in. The node does what is safe on its host: its tasks
/// get their grace, its logs are flushed. It does not touch the swarm.
fn in_doubt(seen: &Observed) -> Step {
    const WHY: &str = "evidence of which swarm this is";
    if seen.task_containers > 0 && !seen.clock.stop_over {
        let is_due = seen.clock.patience_over || seen.clock.drain_over;
        let stop = stop_tasks(seen, "it is not known whether this swarm is the cluster's");
        return stop.filter(|_| is_due).unwrap_or_else(|| wait(WHY));
    }
    quiesce(seen).unwrap_or_else(|| wait(WHY))
}

/// Facts that are known while Docker does not answer.
#[derive(Clone, Debug)]
pub struct Blind {
    /// This node's departure row, if the ledger could be read.
    pub row: Option<DepartureRow>,
    /// Whether the ledger could be read: `row` is then `None` only if this departure has no row.
    pub is_ledger_readable: bool,
    /// The last write to the ledger failed a short time ago.
    pub is_write_failing: bool,
    /// This host's node id in the swarm is known without Docker.
    pub is_member_known: bool,
    /// Logs were flushed, with Docker or without.
    pub is_flushed: bool,
    /// Time limits that have passed.
    pub clock: Clock,
}

/// Returns the next step while Docker does not answer. The node records its departure, so that managers drain it and do
/// not take its skep for dead; it flushes the logs when it is time. A Docker that does not come back keeps the machine
/// no longer than [`Clock::docker_over`].
#[must_use]
pub fn decide_blind(seen: &Blind) -> Step {
    let is_late = seen.clock.is_late() || seen.clock.stop_over || seen.clock.docker_over;
    let is_futile = seen.is_write_failing && is_late;
    let is_unasked = seen.row.is_none() && seen.is_ledger_readable && seen.is_member_known;
    if seen.clock.over {
        Step::Done(Outcome::TooLate)
    } else if is_unasked && !is_futile {
        Step::Request
    } else if (seen.clock.stop_over || seen.clock.docker_over) && !seen.is_flushed {
        Step::Flush
    } else if seen.clock.docker_over {
        Step::Done(Outcome::DockerSilent)
    } else {
        wait("Docker to answer")
    }
}

/// Returns the step that takes a manager out of raft. A manager never leaves as a raft member: it is demoted first, or
/// it is the last one. Docker refuses a demotion that would lose the quorum, but it checks one demotion at a time, and
/// only at the request.
fn demote(seen: &Observed) -> Step {
    if seen.is_last_manager {
        return if seen.clock.replacement_wait_over || seen.clock.leave_due {
            Step::LeaveLast
        } else {
            wait("another manager: this is the last one")
        };
    }
    match &seen.node {
        Some(node) if node.role == Role::Manager => {
            // With no time left it is worth a try: Docker still refuses a demotion that would lose the quorum.
            if seen.clock.leave_due {
                return Step::Demote { in_turn: false };
            }
            match held_up(node, seen) {
                Some(why) => Step::Wait { why },
                None => Step::Demote { in_turn: seen.is_ledger_readable },
            }
        }
        Some(_) => wait("the demotion to take effect"),
        // After its own demotion, a leader's control API fails for some seconds before Docker reports the new role.
        None => wait("the demotion to take effect, or the swarm to have a leader"),
    }
}

/// Returns the reason why this manager must not be demoted now.
fn held_up(node: &NodeView, seen: &Observed) -> Option<String> {
    if seen.is_other_going {
        return Some("the demotion of another manager to take effect".to_owned());
    }
    let Quorum { managers, reachable } = seen.quorum;
    let others = node.raft.map_or(seen.quorum, |own| seen.quorum.without(own));
    (!others.is_kept()).then(|| {
        format!(
            "a replacement: {managers} managers, {reachable} reachable, and without this one the swarm would lose its quorum"
        )
    })
}

/// Returns the step of a node that is a worker by now and has nothing left to do.
fn part(role: Role, seen: &Observed) -> Step {
    let is_confirmed = seen.row.as_ref().is_some_and(|row| row.demoted);
    if role == Role::Manager && !is_confirmed && !seen.clock.confirmation_over {
        return wait("another manager to confirm the demotion");
    }
    Step::Leave
}

/// Returns the step of a node that is out of the swarm, or never was in it.
fn outside(seen: &Observed) -> Step {
    if let Some(step) = quiesce(seen) {
        return step;
    }
    // For a ledger that can be read but not written, the node waits as for one that does not answer.
    let is_unwritable = seen.clock.over || seen.is_write_failing && seen.clock.ledger_over;
    match seen.row.as_ref().map(|row| row.state) {
        // The progress of the managers is not known; the machine is held until the ledger can be read.
        None if !seen.is_ledger_readable && !seen.clock.ledger_over && !seen.clock.over => {
            wait("the ledger, to record that this node has left")
        }
        None if !seen.is_ledger_readable => Step::Done(Outcome::LeftUnconfirmed),
        // The node left without a departure row, and managers remove it from the node list only by that row.
        None if seen.was_member && !is_unwritable => Step::Request,
        None if seen.was_member => Step::Done(Outcome::LeftUnconfirmed),
        None => Step::Done(Outcome::NothingToLeave),
        Some(DepartureState::Removed) => Step::Done(Outcome::Left),
        Some(DepartureState::Left) if seen.clock.confirmation_over || seen.clock.over => {
            Step::Done(Outcome::LeftUnconfirmed)
        }
        Some(DepartureState::Left) => wait("a manager to remove this node from the node list"),
        Some(_) if is_unwritable => Step::Done(Outcome::LeftUnconfirmed),
        Some(_) => Step::MarkLeft,
    }
}
