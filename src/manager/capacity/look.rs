//! Finds out the capacity of each group, and which tasks wait for a node, from Docker's answers. Pure.

use std::collections::BTreeMap;

use bollard::models::TaskState;
use serde::Deserialize as _;
use time::{Duration, OffsetDateTime};

use super::needs::{Batch, nodes_for};
use super::reason::Reason;
use crate::clients::docker::{Availability, NodeView, Resources, Service, ServiceTask};
use crate::common::capacity::GroupCapacity;
use crate::common::instance::Role;
use crate::common::labels::GROUP;
use crate::manager::placement::{fits, fits_new_node, fits_platform, label_of, most_on_a_node};

/// Age from which a task that waits counts: swarmkit tries again at once when a node changes.
const WAITS_FOR: Duration = Duration::seconds(10);
/// Thousand-millionth parts of a CPU.
const CPU: f64 = 1e9;

/// What the leader has found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Seen {
    /// By the groups' names.
    pub groups: BTreeMap<String, Group>,
    /// The number of tasks that wait for a node, by the services' names and the reasons.
    pub pending: BTreeMap<(String, Reason), usize>,
}

/// A group of the swarm.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Group {
    pub capacity: GroupCapacity,
    /// Whether its nodes are managers: their number is not for tasks to choose.
    pub is_of_managers: bool,
}

/// What the largest node of each group offers when it is new, by the groups' names. A group keeps its entry while it has
/// no nodes: otherwise a task that is too large for them would let it grow from nothing again and again.
pub type Sizes = BTreeMap<String, Resources>;

/// The nodes of a group.
struct Members<'a> {
    all: Vec<&'a NodeView>,
    /// What its largest node offers when it is new.
    empty: Resources,
}

/// Puts together Docker's answers. `tasks` are those of each service, by its id; `sizes` those that were seen so far.
pub fn look(
    nodes: &[NodeView],
    services: &[Service],
    tasks: &BTreeMap<String, Vec<ServiceTask>>,
    sizes: &mut Sizes,
    now: OffsetDateTime,
) -> Seen {
    let mut members: BTreeMap<&str, Vec<&NodeView>> = BTreeMap::new();
    for view in nodes {
        if let Some(group) = view.labels.get(GROUP) {
            members.entry(group).or_default().push(view);
        }
    }
    let members: BTreeMap<&str, Members<'_>> =
        members.into_iter().map(|(name, all)| (name, Members::new(all, services))).collect();
    let mut seen = Seen::default();
    let loads = loads(services, tasks);
    for (name, of_group) in &members {
        sizes.insert((*name).to_owned(), of_group.empty.clone());
        seen.groups.insert((*name).to_owned(), of_group.measure(&loads));
    }
    let mut needs: BTreeMap<String, Vec<Batch>> = BTreeMap::new();
    for service in services {
        let mut waiting: Vec<(Resources, usize)> = Vec::new();
        for task in tasks.get(&service.id).into_iter().flatten() {
            let Some(reason) = waits_for(task, now) else { continue };
            *seen.pending.entry((service.name().to_owned(), reason)).or_default() += 1;
            // The tasks of a global service are for the nodes that exist.
            if service.is_global() || !reason.may_end_with_a_node() {
                continue;
            }
            match waiting.iter_mut().find(|(reserved, _)| *reserved == task.reserved) {
                Some((_, tasks)) => *tasks += 1,
                None => waiting.push((task.reserved.clone(), 1)),
            }
        }
        for (reserved, tasks) in waiting {
            let most = most_on_a_node(service.spec()).map_or(usize::MAX, |(_, most)| most);
            let batch = Batch { tasks, reserved, most };
            if let Some(group) = group_for(service, &batch, &members, sizes) {
                needs.entry(group.to_owned()).or_default().push(batch);
            }
        }
    }
    for (name, batches) in needs {
        let capacity = &mut seen.groups.entry(name.clone()).or_default().capacity;
        capacity.pending = batches.iter().map(|batch| batch.tasks).sum();
        // A group whose nodes were never seen: one node shows their size.
        capacity.needed += sizes.get(&name).map_or(1, |size| nodes_for(batches, size));
    }
    seen
}

/// Returns why a task waits for a node; `None` if it does not, or has not for long.
fn waits_for(task: &ServiceTask, now: OffsetDateTime) -> Option<Reason> {
    let is_pending = task.is_wanted() && task.state == Some(TaskState::PENDING);
    let explanation = task.error.as_deref().filter(|_| is_pending)?;
    (now - task.created_at >= WAITS_FOR).then(|| Reason::of(explanation))
}

/// Returns the group of which a new node could run a task of this batch: the one that the service's constraints name, or
/// that with the smallest nodes. It may be one without nodes.
fn group_for<'a>(
    service: &'a Service,
    batch: &Batch,
    members: &BTreeMap<&'a str, Members<'_>>,
    sizes: &Sizes,
) -> Option<&'a str> {
    let spec = service.spec();
    let named = label_of(spec, GROUP);
    if let Some(named) = named
        && !members.contains_key(named)
    {
        let may_fit = sizes.get(named).is_none_or(|size| batch.per_node(size) > 0);
        return may_fit.then_some(named);
    }
    let is_like = |view: &&NodeView| {
        view.role == Role::Worker && fits_new_node(spec, view) && !fits_platform(spec, view).is_no()
    };
    let candidates = members.iter().filter(|(_, of_group)| {
        batch.per_node(&of_group.empty) > 0 && of_group.all.iter().any(&is_like)
    });
    let size = |of_group: &Members<'_>| (of_group.empty.memory_bytes, of_group.empty.nano_cpus);
    candidates.min_by_key(|(_, of_group)| size(of_group)).map(|(name, _)| *name)
}

/// Returns what each task of a service reserves, by its present spec.
fn reservations(service: &Service) -> Resources {
    let reserved = &service.spec()["TaskTemplate"]["Resources"]["Reservations"];
    Resources::deserialize(reserved).unwrap_or_default()
}

impl<'a> Members<'a> {
    fn new(all: Vec<&'a NodeView>, services: &[Service]) -> Self {
        let size = |view: &&&NodeView| {
            view.resources.as_ref().map(|it| (it.memory_bytes, it.nano_cpus)).unwrap_or_default()
        };
        let largest = all.iter().max_by_key(size).copied();
        let mut empty = largest.and_then(|view| view.resources.clone()).unwrap_or_default();
        for service in services.iter().filter(|service| !service.spec()["Mode"]["Global"].is_null())
        {
            if largest.is_some_and(|view| fits(service.spec(), view)) {
                empty = empty.without(&reservations(service));
            }
        }
        Self { all, empty }
    }

    /// Returns the capacity without pending tasks.
    fn measure(&self, loads: &BTreeMap<&str, Load>) -> Group {
        let takes_tasks =
            |view: &&&NodeView| view.is_ready() && view.availability == Availability::Active;
        let (mut reserved, mut available) = (Resources::default(), Resources::default());
        let mut capacity = GroupCapacity::default();
        for view in self.all.iter().filter(takes_tasks) {
            let none = Load::default();
            let load = loads.get(view.id.as_str()).unwrap_or(&none);
            capacity.nodes += 1;
            capacity.idle += usize::from(!load.is_busy);
            if let Some(all) = &view.resources {
                available.add(&all.without(&load.reserved));
            }
            reserved.add(&load.reserved);
        }
        capacity.needed = capacity.nodes - capacity.idle;
        capacity.cpus_reserved = reserved.nano_cpus as f64 / CPU;
        capacity.cpus_available = available.nano_cpus as f64 / CPU;
        capacity.memory_reserved = reserved.memory_bytes;
        capacity.memory_available = available.memory_bytes;
        let is_of_managers = self.all.iter().all(|view| view.role == Role::Manager);
        Group { capacity, is_of_managers }
    }
}

/// The tasks of one node.
#[derive(Default)]
struct Load {
    reserved: Resources,
    /// Whether it has a task of a service that is not global.
    is_busy: bool,
}

/// Returns the tasks of each node, by Docker's ids.
fn loads<'a>(
    services: &[Service],
    tasks: &'a BTreeMap<String, Vec<ServiceTask>>,
) -> BTreeMap<&'a str, Load> {
    let mut loads: BTreeMap<&str, Load> = BTreeMap::new();
    for (id, tasks) in tasks {
        let is_global = services.iter().any(|service| service.id == *id && service.is_global());
        for task in tasks.iter().filter(|task| !task.has_ended()) {
            if let Some(node) = &task.node_id {
                let load = loads.entry(node).or_default();
                load.reserved.add(&task.reserved);
                load.is_busy |= !is_global;
            }
        }
    }
    loads
}
