//! Decides about the tasks of one service on leaving nodes. Pure.

use std::collections::BTreeSet;

use bollard::models::TaskState;

use super::spec::{self, Record};
use crate::clients::docker::{NodeView, ServiceTask};

/// Why a service is not moved whose tasks were started with other pull credentials than it has now.
pub const OTHER_CREDENTIALS: &str =
    "its pull credentials are renewed, so Docker would replace all of its tasks";

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
    /// Take the edit back.
    Restore,
    /// As [`Step::Restore`]; its tasks have not started elsewhere.
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
            Self::Restore => Self::None,
            Self::None | Self::Wait(..) | Self::Refuse(_) => self,
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
        return Step::Refuse(OTHER_CREDENTIALS.into());
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
        if spec::obstacle(seen.spec, wish, seen.tasks, seen.leaving, seen.nodes).is_none() {
            return once_paused(seen, nodes);
        }
        let here: BTreeSet<String> = nodes.intersection(&record.nodes).cloned().collect();
        if !here.is_empty() {
            return Step::Wait(Wait::Moving, here);
        }
    }
    let is_over = record.until <= seen.now;
    if is_over || seen.is_known && !is_between { Step::Restore } else { Step::None }
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
