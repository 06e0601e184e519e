//! Edits the spec of a service so that its tasks leave some nodes, new ones first, and takes the edit back. Pure.
//!
//! Guarantees: a record of the edit stands in a label of the same spec. So whoever reads the spec can take the edit back:
//! another manager, and also after `docker service rollback` to an edited spec. Taking it back removes only constraints
//! that the edit has added, and restores an update setting only where it still has the edit's value. A spec that an
//! operator deploys has neither the label nor the edit.
//!
//! swarmkit replaces a task for a change of the service only where the task differs, and compares placement apart from
//! the rest: a task whose node still fits the constraints stays (`IsTaskDirty` in swarmkit's
//! `manager/orchestrator/task.go`). Labels and update settings are no part of a task. Two traps of that comparison:
//!
//! - pull credentials count as the rest. A task that was started with others than the service has now does not stay;
//! - it ends the whole manager where the service has no placement at all and a task has one. So an edit never removes
//!   `Placement`, and a service without one is not edited: whoever has created it may update it without one.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::clients::docker::{NodeView, ServiceTask};
use crate::manager::placement::{fits, most_on_a_node, parse};

/// Label with which a service asks to be moved so.
pub const WISH: &str = "skep.drain";
/// Label with the record of an edit that was not taken back yet.
pub const RECORD: &str = "skep.move";
/// Label with the image to which `docker service rollback` would have led before the edit.
pub const FORMER_IMAGE: &str = "skep.rollback-image";

/// Label with which a service asks to be moved to nodes that join.
pub const BALANCE: &str = "skep.balance";

/// Why a service is not moved whose tasks were started with other pull credentials than it has now.
pub const OTHER_CREDENTIALS: &str =
    "its pull credentials are renewed, so Docker would replace all of its tasks";

/// The values of [`WISH`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    StartFirst,
    /// Also where two tasks then use the same volume.
    SharedVolumes,
}

/// An edit of a spec.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Docker's ids of the nodes that the tasks leave.
    pub nodes: BTreeSet<String>,
    /// Constraints that the edit has added.
    constraints: Vec<String>,
    /// The update settings before; null where there were none.
    before: Value,
    /// Those of the edit.
    during: Value,
    /// Time after which every manager takes it back, in seconds since 1970.
    pub until: i64,
    /// Of an edit for balance: the number of tasks that its only node keeps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep: Option<usize>,
    /// The node has given up its surplus, or failed to; the record alone is left.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub has_given: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub balanced: Option<Balanced>,
}

/// What the last edits for balance were made for. Every later edit repeats it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Balanced {
    /// Time when the newest node had joined, in seconds since 1970.
    pub join: i64,
    /// Docker's ids of the nodes that have given up tasks since then.
    pub nodes: BTreeSet<String>,
    /// The tasks did not start on other nodes: that join is not tried again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub has_failed: bool,
}

/// An edit to be made.
#[derive(Clone, Debug)]
pub struct Edit<'a> {
    pub kind: Kind,
    /// Docker's ids of the nodes that tasks leave.
    pub nodes: &'a BTreeSet<String>,
    /// As in [`Record`].
    pub until: i64,
    pub balanced: Option<Balanced>,
}

/// What an edit does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// All tasks leave the nodes, so many at once.
    Leave { at_once: usize },
    /// Only the record, and nothing that concerns a task: the node stays paused from then on.
    Announce { keep: usize },
    /// So many tasks leave the node, which keeps the others.
    Balance { surplus: usize, keep: usize },
    /// Only the record again. `docker service rollback` leads to the spec before the last update, and with a constraint
    /// against a node that stays it would replace the tasks that this node has kept.
    Given { keep: usize },
}

impl Kind {
    fn keep(self) -> Option<usize> {
        match self {
            Self::Leave { .. } => None,
            Self::Announce { keep } | Self::Balance { keep, .. } | Self::Given { keep } => {
                Some(keep)
            }
        }
    }
}

impl Record {
    /// Whether it changes nothing that concerns a task, before or after its node gives up some.
    pub fn is_bare(&self) -> bool {
        self.during.is_null()
    }
}

/// The update settings of an edit: so many tasks at once, and a task that does not start ends it. For balance, the others
/// would follow after an hour, and the edit is taken back long before.
fn settings(kind: Kind) -> Value {
    let (at_once, delay) = match kind {
        Kind::Announce { .. } | Kind::Given { .. } => return Value::Null,
        Kind::Leave { at_once } => (at_once, 0),
        Kind::Balance { surplus, .. } => (surplus, 3_600_000_000_000_i64),
    };
    json!({
        "Parallelism": at_once.max(1), "Delay": delay, "Monitor": 5_000_000_000_i64, "MaxFailureRatio": 0,
        "FailureAction": "pause", "Order": "start-first",
    })
}

/// Returns what the service asks for.
///
/// # Errors
/// An unknown value of the label.
pub fn wish(spec: &Value) -> Result<Option<Wish>, String> {
    let Some(value) = spec["Labels"][WISH].as_str() else { return Ok(None) };
    match value.split(',').map(str::trim).collect::<Vec<_>>()[..] {
        ["start-first"] => Ok(Some(Wish::StartFirst)),
        ["start-first", "shared-volumes"] => Ok(Some(Wish::SharedVolumes)),
        _ => Err(format!(
            "its label {WISH} has an unknown value: `start-first` and `start-first,shared-volumes` exist"
        )),
    }
}

/// Returns whether the service asks to be balanced.
///
/// # Errors
/// An unknown value of the label.
pub fn wants_balance(spec: &Value) -> Result<bool, String> {
    match spec["Labels"][BALANCE].as_str().map(str::trim) {
        Some("true") => Ok(true),
        Some("false") | None => Ok(false),
        Some(_) => {
            Err(format!("its label {BALANCE} has an unknown value: `true` and `false` exist"))
        }
    }
}

/// Returns the record of an edit, if the spec is edited. A label that cannot be read is of somebody else, or of another
/// version of skep.
pub fn record(spec: &Value) -> Option<Record> {
    serde_json::from_str(spec["Labels"][RECORD].as_str()?).ok()
}

/// Returns the edited spec, with a label for the image to which `docker service rollback` would have led. An earlier edit
/// is taken back.
#[must_use]
pub fn edited(spec: &Value, former_image: Option<&str>, edit: &Edit<'_>) -> Value {
    let mut new = restored(spec);
    let before = new["UpdateConfig"].clone();
    let during = settings(edit.kind);
    let mut constraints = vec![];
    if !during.is_null() {
        constraints = constrain(&mut new, edit.nodes);
        new["UpdateConfig"] = during.clone();
    }
    let record = Record {
        nodes: edit.nodes.clone(),
        constraints,
        before,
        during,
        until: edit.until,
        keep: edit.kind.keep(),
        has_given: matches!(edit.kind, Kind::Given { .. }),
        balanced: edit.balanced.clone(),
    };
    let labels = object(&mut new["Labels"]);
    labels.insert(RECORD.into(), json!(json!(record).to_string()));
    if let Some(image) = former_image {
        labels.insert(FORMER_IMAGE.into(), json!(image));
    }
    new
}

/// Adds the constraints that are missing, and returns them.
fn constrain(new: &mut Value, nodes: &BTreeSet<String>) -> Vec<String> {
    let placement = object(&mut new["TaskTemplate"]["Placement"]);
    let all = placement.entry("Constraints").or_insert(Value::Null);
    if !all.is_array() {
        *all = json!([]);
    }
    let mut constraints = vec![];
    if let Value::Array(all) = all {
        for id in nodes {
            let is_it = |it: &Value| {
                it.as_str().and_then(parse).is_some_and(|it| it == ("node.id", id.as_str(), false))
            };
            if !all.iter().any(is_it) {
                let constraint = format!("node.id!={id}");
                all.push(json!(constraint));
                constraints.push(constraint);
            }
        }
    }
    constraints
}

/// Returns the spec without the edit; unchanged where there is none.
#[must_use]
pub fn restored(spec: &Value) -> Value {
    let mut new = spec.clone();
    let Some(record) = record(spec) else { return new };
    const CONSTRAINTS: &str = "/TaskTemplate/Placement/Constraints";
    if let Some(all) = new.pointer_mut(CONSTRAINTS).and_then(Value::as_array_mut) {
        for added in &record.constraints {
            if let Some(n) = all.iter().position(|it| it == added.as_str()) {
                all.remove(n);
            }
        }
        let is_empty = all.is_empty();
        remove_if(&mut new["TaskTemplate"]["Placement"], "Constraints", is_empty);
    }
    restore_settings(&mut new, &record);
    object(&mut new["Labels"]).remove(RECORD);
    new
}

/// Restores each update setting that has the edit's value.
fn restore_settings(new: &mut Value, Record { before, during, .. }: &Record) {
    let settings = object(&mut new["UpdateConfig"]);
    for (name, edited) in during.as_object().into_iter().flatten() {
        // Docker leaves zeros out.
        let now = settings.get(name).cloned().unwrap_or_else(|| json!(0));
        if now != *edited && !(is_zero(&now) && is_zero(edited)) {
            continue;
        }
        match before.get(name) {
            Some(value) => drop(settings.insert(name.clone(), value.clone())),
            None => drop(settings.remove(name)),
        }
    }
    let is_empty = settings.is_empty();
    remove_if(new, "UpdateConfig", is_empty && before.is_null());
}

fn is_zero(value: &Value) -> bool {
    value.as_f64() == Some(0.0)
}

fn remove_if(of: &mut Value, key: &str, is_so: bool) {
    if let Some(of) = of.as_object_mut()
        && is_so
    {
        of.remove(key);
    }
}

/// Returns the object that the value is, or that it becomes.
fn object(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = json!({});
    }
    match value {
        Value::Object(map) => map,
        _ => unreachable!("it was made an object"),
    }
}

/// Returns why tasks of this service cannot start elsewhere before they end on `leaving`; `None` if they may. `nodes` are
/// those of the swarm that get new tasks.
pub fn obstacle(
    spec: &Value,
    wish: Wish,
    tasks: &[ServiceTask],
    leaving: &BTreeSet<String>,
    nodes: &[&NodeView],
) -> Option<String> {
    let template = &spec["TaskTemplate"];
    if spec["Mode"]["Replicated"].is_null() {
        return Some("it is a global service or a job".into());
    }
    if !template["Placement"].is_object() {
        return Some("it was created without a placement, not by the docker command".into());
    }
    let is_shared = |mount: &Value| mount["Type"].as_str().is_none_or(|it| it != "tmpfs");
    let mut mounts = template["ContainerSpec"]["Mounts"].as_array().into_iter().flatten();
    if wish != Wish::SharedVolumes && mounts.any(is_shared) {
        return Some(format!(
            "it has volumes or bind mounts, which two tasks would use at a time: the value `start-first,shared-volumes` of {WISH} allows that"
        ));
    }
    let others: Vec<&&NodeView> =
        nodes.iter().filter(|node| !leaving.contains(&node.id) && fits(spec, node)).collect();
    if others.is_empty() {
        return Some("its constraints leave no other node".into());
    }
    let on = |id: &str| tasks.iter().filter(|task| task.is_wanted_on(id)).count();
    let stays = |task: &ServiceTask| task.node_id.as_ref().is_none_or(|id| !leaving.contains(id));
    // A task that has its replacement elsewhere needs no other node.
    let is_replaced = |old: &ServiceTask| {
        tasks.iter().any(|new| new.slot == old.slot && new.is_wanted() && stays(new))
    };
    let is_moving = |task: &&ServiceTask| task.is_wanted() && !stays(task) && !is_replaced(task);
    let moving = tasks.iter().filter(is_moving).count();
    let (what, most) = most_on_a_node(spec)?;
    let free: usize = others.iter().map(|node| most.saturating_sub(on(&node.id))).sum();
    (free < moving).then(|| format!("{what} leave no other node for {moving} of its tasks"))
}
