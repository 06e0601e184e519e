//! Decides about the tasks of one service on leaving nodes. Pure.

use std::collections::BTreeSet;

use bollard::models::TaskState;

use super::spec;
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
    pub tasks: &'a [ServiceTask],
    /// Nodes that its tasks must leave, and that still have time for it.
    pub leaving: &'a BTreeSet<String>,
    /// Of these, the nodes from which moving it has failed.
    pub failed: &'a BTreeSet<String>,
    /// Nodes that get new tasks.
    pub nodes: &'a [&'a NodeView],
    /// Whether all departures are known. While they are not, an edit stays until its time is over.
    pub is_whole: bool,
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
    /// It has nothing on leaving nodes, and its spec is the operator's.
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
    let record = spec::record(seen.spec);
    let nodes = occupied(seen);
    let back = |otherwise: Step| match &record {
        Some(record) if seen.is_whole || record.until <= seen.now => Step::Restore,
        Some(_) => Step::None,
        None => otherwise,
    };
    if nodes.is_empty() {
        return back(Step::None);
    }
    let wish = match spec::wish(seen.spec) {
        Ok(Some(wish)) => wish,
        Ok(None) => return back(Step::None),
        Err(why) => return back(Step::Refuse(why)),
    };
    if record.as_ref().is_some_and(|record| nodes.is_subset(&record.nodes)) {
        // "updating" also while a task waits for a node: its time is limited.
        let is_over = seen.unfinished_update.is_some_and(|state| state != "updating");
        return if is_over { Step::GiveUp } else { Step::Wait(Wait::Moving, nodes) };
    }
    if let Some(why) = spec::obstacle(seen.spec, wish, seen.tasks, seen.leaving, seen.nodes) {
        return back(Step::Refuse(why));
    }
    if record.is_some() {
        return Step::Move(nodes);
    }
    if seen.has_other_credentials {
        return Step::Refuse(OTHER_CREDENTIALS.into());
    }
    match seen.unfinished_update {
        Some(state) if state.ends_with("paused") => {
            Step::Refuse(format!("its update is {state}, and would start again"))
        }
        Some(_) => Step::Wait(Wait::OwnUpdate, nodes),
        // They would start to pull again.
        None if seen.tasks.iter().any(is_pulling) => Step::Wait(Wait::Pulling, nodes),
        None => Step::Move(nodes),
    }
}

/// Returns the nodes that it leaves and on which tasks of it are to run.
fn occupied(seen: &Seen<'_>) -> BTreeSet<String> {
    let is_occupied = |id: &&String| seen.tasks.iter().any(|task| task.is_wanted_on(id));
    let nodes = seen.leaving.difference(seen.failed);
    nodes.filter(is_occupied).cloned().collect()
}

fn is_pulling(task: &ServiceTask) -> bool {
    task.desired == TaskState::RUNNING && task.state == Some(TaskState::PREPARING)
}
