//! What a departing node does next, from what it sees. Pure: no clock, no I/O, no memory.

use super::which_swarm::Lookup;
use crate::clients::docker::{Availability, LocalNode, LocalState, NodeView, Quorum};
use crate::clients::ledger::{DepartureRow, DepartureState};
use crate::common::fact::Fact;
use crate::common::instance::{Reason, Role};

/// Everything that a decision rests on.
#[derive(Clone, Debug)]
pub struct Observed {
    pub local: LocalNode,
    /// The notice has been taken back.
    pub is_withdrawn: bool,
    /// Is the swarm that Docker is in this cluster's? Another one is left alone.
    pub ours: Fact,
    /// The role in the certificate of a node that is neither in its swarm nor out of it.
    pub certified: Lookup<Role>,
    /// Has such a node begun to join and never been a member?
    pub is_joining: Fact,
    /// This process has been a member of the cluster's swarm, or has taken the node out of it.
    pub was_member: bool,
    /// The request in the ledger, if the ledger could be read.
    pub row: Option<DepartureRow>,
    pub is_ledger_readable: bool,
    /// The last write to the ledger has failed, a short time ago.
    pub is_write_failing: bool,
    /// The same of Docker's answer when this manager was to be drained.
    pub is_drain_failing: bool,
    /// Own entry in the node list, on a manager whose swarm has a leader.
    pub node: Option<NodeView>,
    /// Running task containers of this host.
    pub task_containers: usize,
    /// Running containers that are nobody's task, but for those that stop after the flush.
    pub standalone_containers: usize,
    /// Running containers that are to stop only after the flush, such as a shipper's.
    pub late_containers: usize,
    /// Tasks of this node by the managers' list: on a manager its own look, on a worker what the
    /// row says; `None` when nobody can say.
    pub listed_tasks: Option<usize>,
    pub is_flushed: bool,
    /// By a list with a leader and this manager in raft: no other manager is in it.
    pub is_last_manager: bool,
    /// The members of raft, this one among them; nobody, as long as that is not known.
    pub quorum: Quorum,
    /// Another manager is in the middle of its demotion.
    pub is_other_going: bool,
    pub clock: Clock,
}

/// How far the time has run, by [`super::Budget`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Clock {
    /// Managers have had their time to answer.
    pub patience_over: bool,
    /// Managers have had their share of draining: what still runs is stopped here.
    pub drain_over: bool,
    /// Stopping has had its share, too: what still runs cannot be stopped in time.
    pub stop_over: bool,
    /// Only the share for leaving is left.
    pub leave_due: bool,
    /// The deadline is there.
    pub over: bool,
    /// Another manager has had its time to confirm the demotion, or to take the node off the list.
    pub confirmation_over: bool,
    /// A join in the background has had its time to settle.
    pub settle_over: bool,
    /// Other managers have had their time to come to the last one's relief.
    pub replacement_wait_over: bool,
    /// A node that has left has waited long enough for a ledger that does not answer.
    pub ledger_over: bool,
    /// Docker has had its time to come back.
    pub docker_over: bool,
}

/// One step, to be followed by another look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Ask the managers, in the ledger.
    Request,
    /// Take this node's tasks away, as a manager can for itself.
    DrainSelf,
    /// Say in the ledger that no task is left.
    MarkDrained,
    /// Stop the tasks here.
    StopTasks {
        why: &'static str,
    },
    /// Stop what no drain touches.
    StopStandalone,
    /// Stop what was needed for flushing.
    StopLate,
    Flush,
    /// Become a worker: when it is this manager's turn, or at once because time is up.
    Demote {
        in_turn: bool,
    },
    /// Leave as the worker that this node is.
    Leave,
    /// Leave by force what is no raft member: a join that did not settle.
    LeaveUnsettled,
    /// Leave by force as the last manager: the swarm ends here, and the charter is closed.
    LeaveLast,
    /// Say in the ledger that the node is out.
    MarkLeft,
    /// The notice was taken back in time: take the request back, too.
    Stay,
    /// `why`: what it waits for.
    Wait {
        why: String,
    },
    Done(Outcome),
}

/// How the departure ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Out of the swarm, and off the list as far as anybody could say.
    Left,
    /// Out, but nobody has confirmed that the node is off the list.
    LeftUnconfirmed,
    /// There was nothing to leave.
    NothingToLeave,
    /// The deadline came first, and the machine goes.
    TooLate,
    /// Docker did not come back: nothing more can be done on a machine that goes.
    DockerSilent,
    /// The deadline came first, and it was the operator's alone: the machine stays, and with it the node.
    Failed,
    /// The notice was taken back, and the node stays what it was.
    Stayed,
}

impl Outcome {
    /// In one word, for a label.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Left => "left",
            Self::LeftUnconfirmed => "left_unconfirmed",
            Self::NothingToLeave => "nothing_to_leave",
            Self::TooLate => "too_late",
            Self::DockerSilent => "docker_silent",
            Self::Failed => "failed",
            Self::Stayed => "stayed",
        }
    }

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Left => "left, and off the list",
            Self::LeftUnconfirmed => "left; nobody has confirmed that it is off the list",
            Self::NothingToLeave => "there was nothing to leave",
            Self::TooLate => "the deadline came before the node had left",
            Self::DockerSilent => "Docker did not answer, so the node could not leave",
            Self::Failed => "the node could not leave in time: it stays, and serves again",
            Self::Stayed => "taken back: the node stays in the swarm",
        }
    }

    /// The same of a departure for `reason`. An operator's deadline ends the attempt and not the machine: skep
    /// must go on looking after a node that is not out.
    #[must_use]
    pub fn on_machine(self, reason: Reason, is_out: bool) -> Self {
        match self {
            failed if failed.is_failure() && reason.keeps_the_machine() && !is_out => Self::Failed,
            outcome => outcome,
        }
    }

    /// The node has not left.
    #[must_use]
    pub fn is_failure(self) -> bool {
        matches!(self, Self::TooLate | Self::DockerSilent | Self::Failed)
    }

    /// The node goes on as the member that it was.
    #[must_use]
    pub fn stays(self) -> bool {
        matches!(self, Self::Stayed | Self::Failed)
    }
}

/// What a step is part of, for people who ask where the time goes.
#[must_use]
pub fn stage(seen: &Observed, step: &Step) -> &'static str {
    match step {
        Step::Flush => "flush",
        Step::Leave | Step::LeaveUnsettled | Step::LeaveLast => "leave",
        _ if seen.local.state == LocalState::Inactive => "take_off_the_list",
        _ if seen.is_flushed => "demote",
        _ => "drain",
    }
}

/// The next step.
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
        // Only managers lock themselves: this one is in raft, and left by force it would stay there.
        LocalState::Locked => Step::Wait { why: "Docker to be unlocked".to_owned() },
        LocalState::Pending | LocalState::Error if !seen.local.is_manager => {
            quiesce(seen).unwrap_or_else(|| unsettled(role, seen))
        }
        _ => inside(role, seen),
    }
}

/// Nothing has been done yet that another boot would have to mend: the node is in the swarm, a manager, which a
/// worker may be by promotion, still one and meant to be. Tasks that were stopped have gone elsewhere; new ones come.
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
    /// What managers do to drain the node has had its time.
    fn is_late(&self) -> bool {
        self.patience_over || self.drain_over
    }
}

impl Observed {
    /// A ledger that can be read and not written has had its time, too: what a write is needed for is left out.
    fn goes_on_without_writing(&self) -> bool {
        self.is_write_failing && self.clock.is_late()
    }
}

/// Neither in the swarm nor out of it, with nothing left to do here. A member of raft that leaves by force stays in
/// raft as a dead one: of two managers that is the quorum.
fn unsettled(role: Role, seen: &Observed) -> Step {
    if is_no_raft_member(role, seen) {
        return Step::LeaveUnsettled;
    }
    let why = "Docker to recover, or to say that the join has failed: raft may count this node";
    match seen.local.error.as_str() {
        "" => wait(why),
        error => Step::Wait { why: format!("{why}; {error}") },
    }
}

/// A manager is none only where Docker says that its join has failed; boot decides alike.
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

/// In the swarm: drain, then flush, then leave.
fn inside(role: Role, seen: &Observed) -> Step {
    if seen.row.is_none() && seen.is_ledger_readable && !seen.goes_on_without_writing() {
        return Step::Request;
    }
    drain(seen)
        .or_else(|| quiesce(seen))
        .or_else(|| seen.local.is_manager.then(|| demote(seen)))
        .unwrap_or_else(|| part(role, seen))
}

fn wait(why: &str) -> Step {
    Step::Wait { why: why.to_owned() }
}

/// Until no task of this node runs, by its own containers and by the managers' list.
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
    Some(wait(match (nobody_acts, is_idle) {
        (true, _) if seen.local.is_manager => "a leader to say which tasks this node has",
        (true, true) => "a manager to see that no task runs here",
        (true, false) => "a manager to drain this node",
        (false, false) => "the tasks to stop",
        (false, true) => "the managers to see that the tasks have stopped",
    }))
}

/// Stops the tasks that still run. Those that cannot be stopped must not use what flushing and leaving have.
fn stop_tasks(seen: &Observed, why: &'static str) -> Option<Step> {
    (seen.task_containers > 0 && !seen.clock.stop_over).then_some(Step::StopTasks { why })
}

/// What is left on this host once no task runs: stop it, then flush.
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

/// Nobody can say whose swarm this is. The host does what is safe on it: its tasks get their grace, its logs
/// are flushed. The swarm is not touched.
fn in_doubt(seen: &Observed) -> Step {
    const WHY: &str = "an answer to whose swarm this is";
    if seen.task_containers > 0 && !seen.clock.stop_over {
        let is_due = seen.clock.patience_over || seen.clock.drain_over;
        let stop = stop_tasks(seen, "nobody can tell whether this swarm is the cluster's");
        return stop.filter(|_| is_due).unwrap_or_else(|| wait(WHY));
    }
    quiesce(seen).unwrap_or_else(|| wait(WHY))
}

/// What is known while Docker does not answer.
#[derive(Clone, Debug)]
pub struct Blind {
    /// The request in the ledger, if the ledger could be read.
    pub row: Option<DepartureRow>,
    pub is_ledger_readable: bool,
    /// The last write to the ledger has failed, a short time ago.
    pub is_write_failing: bool,
    /// It is known, without Docker, as which node this host is in the swarm.
    pub is_member_known: bool,
    /// Logs were flushed, with Docker or without.
    pub is_flushed: bool,
    pub clock: Clock,
}

/// The next step while Docker does not answer: the departure is written down, so that managers drain the node and
/// nobody takes its skep for dead; what tasks have written is flushed when it is due. A Docker that does not come
/// back holds the machine no longer than [`Clock::docker_over`].
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

/// A manager is never taken out of raft by leaving: demoted first, or the last one. Docker refuses
/// what would lose the quorum, but it looks at one demotion at a time, and only when it is asked.
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
            // With no time left it is worth a try: Docker still refuses what it must.
            if seen.clock.leave_due {
                return Step::Demote { in_turn: false };
            }
            match held_up(node, seen) {
                Some(why) => Step::Wait { why },
                None => Step::Demote { in_turn: seen.is_ledger_readable },
            }
        }
        Some(_) => wait("the demotion to take effect"),
        // After the leader's own demotion its control API is gone for seconds before it says so.
        None => wait("the demotion to take effect, or the swarm to have a leader"),
    }
}

/// Why this manager may not be taken out of raft now.
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

/// A worker by now, with nothing left to lose.
fn part(role: Role, seen: &Observed) -> Step {
    let is_confirmed = seen.row.as_ref().is_some_and(|row| row.demoted);
    if role == Role::Manager && !is_confirmed && !seen.clock.confirmation_over {
        return wait("another manager to confirm the demotion");
    }
    Step::Leave
}

/// Out of the swarm, or never in.
fn outside(seen: &Observed) -> Step {
    if let Some(step) = quiesce(seen) {
        return step;
    }
    // A ledger that can be read and not written is waited for as one that does not answer.
    let is_unwritable = seen.clock.over || seen.is_write_failing && seen.clock.ledger_over;
    match seen.row.as_ref().map(|row| row.state) {
        // How far the others are cannot be told; until they can be asked, the machine is held.
        None if !seen.is_ledger_readable && !seen.clock.ledger_over && !seen.clock.over => {
            wait("the ledger, to say that this node has left")
        }
        None if !seen.is_ledger_readable => Step::Done(Outcome::LeftUnconfirmed),
        // It has left without a word in the ledger: only with one do managers take it off the list.
        None if seen.was_member && !is_unwritable => Step::Request,
        None if seen.was_member => Step::Done(Outcome::LeftUnconfirmed),
        None => Step::Done(Outcome::NothingToLeave),
        Some(DepartureState::Removed) => Step::Done(Outcome::Left),
        Some(DepartureState::Left) if seen.clock.confirmation_over || seen.clock.over => {
            Step::Done(Outcome::LeftUnconfirmed)
        }
        Some(DepartureState::Left) => wait("a manager to take this node off the list"),
        Some(_) if is_unwritable => Step::Done(Outcome::LeftUnconfirmed),
        Some(_) => Step::MarkLeft,
    }
}
