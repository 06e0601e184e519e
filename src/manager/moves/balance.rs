//! Decides whether tasks of a service are to move to nodes that have joined: Docker leaves new nodes empty. Pure.
//!
//! Guarantees: a node gives up tasks of a service at most once for each join; and none while a task of the service does
//! not run, or where no node has joined since an operator's last update.

use std::collections::{BTreeMap, BTreeSet};

use bollard::models::TaskState;
use serde_json::Value;
use time::OffsetDateTime;

use super::spec::{self, Balanced, Wish};
use crate::clients::docker::{Availability, NodeView, ServiceTask};
use crate::common::labels::{AVAILABILITY, OWNED};
use crate::manager::placement;

/// The tasks of two nodes differ by so many before some are moved.
const UNEVEN: usize = 2;

/// Observation of a service without an edit.
#[derive(Clone, Debug)]
pub struct Seen<'a> {
    /// The whole spec.
    pub spec: &'a Value,
    /// Of the last edit, unless an operator has updated the service since.
    pub balanced: Option<Balanced>,
    /// Time of the last update of any kind.
    pub updated_at: OffsetDateTime,
    /// As in [`super::decide::Seen`].
    pub has_other_credentials: bool,
    pub is_being_updated: bool,
    pub tasks: &'a [ServiceTask],
    /// Nodes that get new tasks.
    pub nodes: &'a [&'a NodeView],
}

/// A node that has too many tasks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Docker's id of the node.
    pub node: String,
    /// The number of tasks that it keeps.
    pub keep: usize,
    /// With this node.
    pub balanced: Balanced,
}

/// Returns the fullest node, if the service asks for it, a node has joined, and the tasks are uneven.
///
/// # Errors
/// Why the tasks cannot move.
pub fn plan(seen: &Seen<'_>) -> Result<Option<Plan>, String> {
    if !spec::wants_balance(seen.spec)? {
        return Ok(None);
    }
    let knows_platform = seen.nodes.iter().all(|node| node.platform.is_some());
    if let Some(constraint) = placement::unknown_constraint(seen.spec, knows_platform) {
        return Err(format!("managers cannot tell which nodes meet its constraint {constraint}"));
    }
    let is_possible = |node: &&NodeView| {
        placement::fits(seen.spec, node) && placement::fits_platform(seen.spec, node).is_yes()
    };
    let nodes: Vec<&NodeView> = seen.nodes.iter().copied().filter(is_possible).collect();
    let Some(join) = nodes.iter().filter_map(|node| node.joined_at).max() else { return Ok(None) };
    let join = join.unix_timestamp();
    let Some(mut relieved) = relieved(seen, join) else { return Ok(None) };
    let is_waiting =
        |task: &ServiceTask| task.is_wanted() && task.state != Some(TaskState::RUNNING);
    if seen.is_being_updated || seen.tasks.iter().any(is_waiting) {
        return Ok(None);
    }
    let mut branches: BTreeMap<Vec<&str>, Vec<(usize, &NodeView)>> = BTreeMap::new();
    for node in nodes {
        let tasks = seen.tasks.iter().filter(|task| task.is_wanted_on(&node.id)).count();
        branches.entry(branch(seen.spec, node)?).or_default().push((tasks, node));
    }
    let of_each = branches.into_values().filter_map(|nodes| fullest(nodes, &relieved));
    let Some((_, keep, node)) = of_each.max_by_key(|(tasks, keep, _)| tasks - keep) else {
        return Ok(None);
    };
    if let Some(why) = obstacle(seen.spec, seen.tasks, node, keep, seen.nodes) {
        return Err(why);
    }
    if seen.has_other_credentials {
        return Err(spec::OTHER_CREDENTIALS.into());
    }
    relieved.insert(node.to_owned());
    let balanced = Balanced { join, nodes: relieved, has_failed: false };
    Ok(Some(Plan { node: node.to_owned(), keep, balanced }))
}

/// Returns why all but `keep` of a node's tasks cannot start elsewhere.
pub fn obstacle(
    spec: &Value,
    tasks: &[ServiceTask],
    node: &str,
    keep: usize,
    nodes: &[&NodeView],
) -> Option<String> {
    let wish = match spec::wish(spec) {
        Ok(wish) => wish.unwrap_or(Wish::StartFirst),
        Err(why) => return Some(why),
    };
    let (here, mut others): (Vec<_>, Vec<_>) =
        tasks.iter().cloned().partition(|task| task.is_wanted_on(node));
    others.extend(here.into_iter().skip(keep));
    spec::obstacle(spec, wish, &others, &[node.to_owned()].into(), nodes)
}

/// Whether a node can give up tasks: it has skep's labels, without which managers do not activate it again, and nobody has
/// changed its availability.
fn can_give(node: &NodeView) -> bool {
    node.availability == Availability::Active
        && node.labels.contains_key(OWNED)
        && !node.labels.contains_key(AVAILABILITY)
}

/// Returns the nodes that have given up tasks since the newest node joined; `None` where the service was updated since
/// for another reason, which has used the new node, too.
fn relieved(seen: &Seen<'_>, join: i64) -> Option<BTreeSet<String>> {
    match &seen.balanced {
        Some(last) if last.join == join => (!last.has_failed).then(|| last.nodes.clone()),
        // The newest node has left.
        Some(last) if last.join > join => None,
        Some(_) => Some(BTreeSet::new()),
        None => (seen.updated_at.unix_timestamp() < join).then(BTreeSet::new),
    }
}

/// Returns what the placement preferences of the service see of a node: tasks are even only among nodes that are the same
/// for them.
fn branch<'a>(spec: &Value, node: &'a NodeView) -> Result<Vec<&'a str>, String> {
    let all = spec["TaskTemplate"]["Placement"]["Preferences"].as_array();
    let value = |preference: &Value| {
        let by = preference["Spread"]["SpreadDescriptor"].as_str().unwrap_or_default();
        match by.strip_prefix("node.labels.") {
            Some(label) => Ok(node.labels.get(label).map_or("", String::as_str)),
            None => Err(format!("its placement preference \"{by}\" is not by a label of nodes")),
        }
    };
    all.into_iter().flatten().map(value).collect()
}

/// Returns the fullest node that can give up tasks and has not done so yet, if it has too many: its number of tasks, the
/// number that it keeps, and its id.
fn fullest<'a>(
    nodes: Vec<(usize, &'a NodeView)>,
    relieved: &BTreeSet<String>,
) -> Option<(usize, usize, &'a str)> {
    let tasks: usize = nodes.iter().map(|(tasks, _)| tasks).sum();
    let even = tasks.div_ceil(nodes.len());
    let least = nodes.iter().map(|(tasks, _)| *tasks).min()?;
    let givers = nodes.into_iter().filter(|(_, it)| can_give(it) && !relieved.contains(&it.id));
    let (most, id) = givers.map(|(tasks, node)| (tasks, node.id.as_str())).max()?;
    // With 2, 2, 2 and 0 tasks, one gives up a task although none has more than an even share.
    let keep = even.min(most.saturating_sub(1));
    (most >= least + UNEVEN).then_some((most, keep, id))
}
