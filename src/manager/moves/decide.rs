//! Decides about the tasks of one service on leaving nodes. Pure.

use std::collections::BTreeSet;

use bollard::models::TaskState;

use super::balance::{self, Plan};
use super::spec::{self, Record, Wish};
use crate::clients::docker::{Availability, NodeView, ServiceTask};
use crate::common::fact::Fact;

/// Time in seconds after that of an edit for balance for which a task that starts is waited for: the edit itself lasts an
/// hour.
const AFTERWARDS: i64 = 1200;

/// Observation of a service whose spec has a label of skep's.
#[derive(Clone, Debug)]
pub struct Seen<'a> {
    /// The whole spec.
    pub spec: &'a serde_json::Value,
    /// Whether tasks may run that were started with other pull credentials than the service has now.
    pub has_other_credentials: bool,
    /// Docker's state of an update that is under way or paused.
    pub unfinished_update: Option<&'a str>,
    /// Whether the spec that was in force before has other tasks, apart from skep's edits: the update is an operator's.
    pub is_operators_update: bool,
    pub tasks: &'a [ServiceTask],
    /// Nodes that its tasks must leave, and that still have time for it.
    pub leaving: &'a BTreeSet<String>,
    /// Of these, the nodes that get no new tasks.
    pub paused: &'a BTreeSet<String>,
    /// Nodes from which moving it has failed.
    pub failed: &'a BTreeSet<String>,
    /// Nodes that get new tasks.
    pub nodes: &'a [&'a NodeView],
    /// Whether it is known of each node of the edit if it leaves. While it is not, the edit stays until its time is over.
    pub is_known: bool,
    /// Whether no node leaves.
    pub is_quiet: Fact,
    /// Of the node that gives up tasks for balance, if it is ready: its availability, and whether skep has changed it.
    pub giving: Option<(Availability, bool)>,
    /// In seconds since 1970.
    pub now: i64,
}

/// What a node waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    OwnUpdate,
    Pulling,
    Moving,
}

impl Wait {
    /// Completes "waiting for its turn to be drained, after".
    pub fn in_words(self, service: &str) -> String {
        match self {
            Self::OwnUpdate => format!("the update of service {service} has ended"),
            Self::Pulling => format!("the tasks of service {service} are pulled"),
            Self::Moving => format!("the tasks of service {service} run elsewhere"),
        }
    }
}

/// The next step for a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// There is nothing to do now.
    None,
    /// These nodes wait.
    Wait(Wait, BTreeSet<String>),
    /// Edit its spec, so that its tasks leave these nodes.
    Move(BTreeSet<String>),
    /// For balance: record what will be done.
    Announce(Plan),
    /// For balance: pause this node, as announced.
    Pause(String),
    /// For balance: edit the spec as announced, so that the surplus leaves the node.
    Give,
    /// For balance: take the edit back, all but its record.
    Given,
    /// It cannot be balanced: the reason.
    Uneven(String),
    /// Take the edit back.
    Restore,
    /// As [`Step::Restore`], or for balance as [`Step::Given`]; its tasks have not started elsewhere.
    GiveUp,
    /// It cannot be moved: the reason. Its nodes are drained as usual.
    Refuse(String),
}

impl Step {
    /// Returns the step of a manager that leaves it to another one.
    pub fn of_another(self, leaving: &BTreeSet<String>) -> Self {
        match self {
            Self::Move(nodes) => Self::Wait(Wait::Moving, nodes),
            Self::GiveUp => Self::Wait(Wait::Moving, leaving.clone()),
            Self::Restore | Self::Announce(_) | Self::Pause(_) | Self::Give | Self::Given => {
                Self::None
            }
            Self::None | Self::Wait(..) | Self::Refuse(_) | Self::Uneven(_) => self,
        }
    }
}

/// Returns the next step.
pub fn decide(seen: &Seen<'_>) -> Step {
    let nodes = occupied(seen);
    match spec::record(seen.spec) {
        Some(record) => while_edited(seen, &record, nodes),
        None => of_operators_spec(seen, nodes),
    }
}

/// Returns the number of tasks that are to run on these nodes.
pub fn count_on(nodes: &BTreeSet<String>, tasks: &[ServiceTask]) -> usize {
    let is_on = |task: &&ServiceTask| nodes.iter().any(|id| task.is_wanted_on(id));
    tasks.iter().filter(is_on).count()
}

/// Returns the nodes that it leaves and on which tasks of it are to run.
fn occupied(seen: &Seen<'_>) -> BTreeSet<String> {
    let is_occupied = |id: &&String| seen.tasks.iter().any(|task| task.is_wanted_on(id));
    let nodes = seen.leaving.difference(seen.failed);
    nodes.filter(is_occupied).cloned().collect()
}

fn of_operators_spec(seen: &Seen<'_>, nodes: BTreeSet<String>) -> Step {
    if nodes.is_empty() {
        return Step::None;
    }
    let wish = match spec::wish(seen.spec) {
        Ok(Some(wish)) => wish,
        Ok(None) => return Step::None,
        Err(why) => return Step::Refuse(why),
    };
    if let Some(why) = spec::obstacle(seen.spec, wish, seen.tasks, seen.leaving, seen.nodes) {
        return Step::Refuse(why);
    }
    if seen.has_other_credentials {
        return Step::Refuse(spec::OTHER_CREDENTIALS.into());
    }
    match seen.unfinished_update {
        Some(state) if state.ends_with("paused") => Step::Refuse(would_continue(state)),
        Some(_) => Step::Wait(Wait::OwnUpdate, nodes),
        // They would start to pull again.
        None if seen.tasks.iter().any(is_pulling) => Step::Wait(Wait::Pulling, nodes),
        None => once_paused(seen, nodes),
    }
}

fn while_edited(seen: &Seen<'_>, record: &Record, nodes: BTreeSet<String>) -> Step {
    if let Some(keep) = record.keep {
        return while_balancing(seen, record, keep, nodes);
    }
    if let Some(state) = seen.unfinished_update {
        match (state.ends_with("paused"), seen.is_operators_update) {
            (true, true) => return Step::Refuse(would_continue(state)),
            (false, true) if nodes.is_empty() => return Step::None,
            (false, true) => return Step::Wait(Wait::OwnUpdate, nodes),
            (true, false) => return Step::GiveUp,
            // "updating" also while a task waits for a node: its time is limited.
            (false, false) => {}
        }
    }
    let is_between = is_between(seen, record);
    let wish = spec::wish(seen.spec).ok().flatten();
    if let Some(wish) = wish
        && !nodes.is_empty()
    {
        if nodes.is_subset(&record.nodes) || is_between {
            return Step::Wait(Wait::Moving, nodes);
        }
        let here: BTreeSet<String> = nodes.intersection(&record.nodes).cloned().collect();
        if let Some(step) = move_from(seen, wish, nodes) {
            return step;
        }
        if !here.is_empty() {
            return Step::Wait(Wait::Moving, here);
        }
    }
    let is_over = record.until <= seen.now;
    if is_over || seen.is_known && !is_between { Step::Restore } else { Step::None }
}

/// The next step of an edit for balance. `nodes` leave meanwhile, and come first.
fn while_balancing(seen: &Seen<'_>, record: &Record, keep: usize, nodes: BTreeSet<String>) -> Step {
    let is_updated = seen.unfinished_update.is_some() && seen.is_operators_update;
    let is_paused = seen.unfinished_update.is_some_and(|state| state.ends_with("paused"));
    if let Some(state) = seen.unfinished_update.filter(|_| is_updated && is_paused) {
        return Step::Uneven(would_continue(state));
    }
    let wish = spec::wish(seen.spec).ok().flatten().filter(|_| !nodes.is_empty());
    // A bare record concerns no task: it can stay for as long as an update takes.
    let is_hurried = !record.is_bare() && record.until + AFTERWARDS <= seen.now;
    if (is_between_anywhere(seen.tasks) || is_updated && record.is_bare()) && !is_hurried {
        let wait = if is_updated { Wait::OwnUpdate } else { Wait::Moving };
        return if wish.is_some() { Step::Wait(wait, nodes) } else { Step::None };
    }
    if let Some(step) = wish.and_then(|wish| move_from(seen, wish, nodes)) {
        return step;
    }
    let end = if record.is_bare() { Step::Restore } else { Step::Given };
    let is_over = record.until <= seen.now;
    let is_asked = spec::wants_balance(seen.spec) == Ok(true);
    let is_done = count_on(&record.nodes, seen.tasks) <= keep;
    let Some(node) = record.nodes.first().filter(|_| is_asked && !is_done && !is_updated) else {
        return end;
    };
    if record.has_given || record.is_bare() && is_over {
        return Step::Restore;
    }
    if is_paused || is_over {
        return Step::GiveUp;
    }
    match (record.is_bare(), seen.giving) {
        // swarmkit rejects the tasks of an active node at once.
        (false, Some((Availability::Pause, _))) if seen.is_quiet.is_no() => Step::Given,
        (false, Some((Availability::Pause, _))) => Step::None,
        (false, _) => Step::Given,
        _ if seen.is_quiet.is_no() || !is_still_possible(seen, node, keep) => Step::Restore,
        _ if seen.is_quiet == Fact::CannotTell => Step::None,
        (true, Some((Availability::Active, false))) => Step::Pause(node.clone()),
        (true, Some((Availability::Pause, true))) => Step::Give,
        // It is down, or an operator has changed its availability.
        (true, _) => Step::Restore,
    }
}

/// Whether what was announced can still be done: an operator may have changed the service since.
fn is_still_possible(seen: &Seen<'_>, node: &str, keep: usize) -> bool {
    !seen.has_other_credentials
        && !seen.is_operators_update
        && !seen.tasks.iter().any(is_pulling)
        && balance::obstacle(seen.spec, seen.tasks, node, keep, seen.nodes).is_none()
}

/// Whether a replica has a task that runs, and another that does not run yet: any update would end one of the two. One
/// that has no node, or is only to get ready, loses.
fn is_between_anywhere(tasks: &[ServiceTask]) -> bool {
    let is_starting = |task: &&ServiceTask| {
        let is_to_run = task.is_wanted() && task.desired == TaskState::RUNNING;
        is_to_run && task.node_id.is_some() && task.state != Some(TaskState::RUNNING)
    };
    let runs = |task: &ServiceTask| task.is_wanted() && task.state == Some(TaskState::RUNNING);
    let is_beside = |new: &ServiceTask| tasks.iter().any(|old| old.slot == new.slot && runs(old));
    tasks.iter().filter(is_starting).any(is_beside)
}

/// Whether a task has its replacement, which does not run yet: any update would end one of the two, and it might be the
/// one that runs.
fn is_between(seen: &Seen<'_>, record: &Record) -> bool {
    let is_old = |task: &&ServiceTask| record.nodes.iter().any(|id| task.is_wanted_on(id));
    seen.tasks.iter().filter(is_old).any(|old| {
        seen.tasks.iter().any(|new| {
            new != old
                && new.slot == old.slot
                && new.is_wanted()
                && new.state != Some(TaskState::RUNNING)
        })
    })
}

/// Returns the move from nodes that leave; `None` where the tasks cannot start elsewhere.
fn move_from(seen: &Seen<'_>, wish: Wish, nodes: BTreeSet<String>) -> Option<Step> {
    let why = spec::obstacle(seen.spec, wish, seen.tasks, seen.leaving, seen.nodes);
    why.is_none().then(|| once_paused(seen, nodes))
}

/// Returns the move, as soon as the nodes get no new tasks. swarmkit rejects a task that does not fit the constraints of
/// its service at once if its node is active, and leaves it alone on a paused one.
fn once_paused(seen: &Seen<'_>, nodes: BTreeSet<String>) -> Step {
    if nodes.is_subset(seen.paused) { Step::Move(nodes) } else { Step::Wait(Wait::Moving, nodes) }
}

fn would_continue(state: &str) -> String {
    format!("its update is {state}, and would start again")
}

fn is_pulling(task: &ServiceTask) -> bool {
    task.desired == TaskState::RUNNING && task.state == Some(TaskState::PREPARING)
}
