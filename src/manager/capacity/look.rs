//! Finds out the capacity of each group, and which tasks wait for a node, from Docker's answers. Pure.

use std::collections::{BTreeMap, BTreeSet};

use bollard::models::TaskState;
use time::{Duration, OffsetDateTime};

use super::kind::{Kind, Kinds};
use super::needs::{Batch, nodes_for};
use super::reason::Reason;
use crate::clients::docker::{Availability, NodeView, Resources, Service, ServiceTask};
use crate::common::capacity::GroupCapacity;
use crate::common::instance::Role;
use crate::common::labels::GROUP;
use crate::manager::placement::{fits, fits_platform, label_of, most_on_a_node, occupies};

/// Age from which a task that waits counts: swarmkit tries again at once when a node changes.
const WAITS_FOR: Duration = Duration::seconds(10);
/// Thousand-millionth parts of a CPU.
const CPU: f64 = 1e9;

/// Docker's answers.
#[derive(Clone, Copy)]
pub struct Observed<'a> {
    pub nodes: &'a [NodeView],
    pub services: &'a [Service],
    /// The tasks of each service, by its id.
    pub tasks: &'a BTreeMap<String, Vec<ServiceTask>>,
}

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

/// The tasks of one node.
#[derive(Default)]
struct Load {
    reserved: Resources,
    is_busy: bool,
}

/// Tasks of a service that wait, all alike.
struct Waiting<'a> {
    service: &'a Service,
    batch: Batch,
}

/// Measures. `kinds` are those of all nodes that were seen so far, the present ones included; `full` the groups at their
/// maximum.
pub fn look(
    observed: Observed<'_>,
    kinds: &Kinds,
    full: &BTreeSet<String>,
    now: OffsetDateTime,
) -> Seen {
    let loads = observed.loads();
    let mut seen = Seen { groups: observed.measure(&loads), ..Seen::default() };
    let mut needs: BTreeMap<String, Vec<Waiting<'_>>> = BTreeMap::new();
    for service in observed.services {
        let mut batches: Vec<(Resources, usize)> = Vec::new();
        for task in observed.tasks.get(&service.id).into_iter().flatten() {
            let Some(reason) = waits_for(task, now) else { continue };
            *seen.pending.entry((service.name().to_owned(), reason)).or_default() += 1;
            // The tasks of a global service are for the nodes that exist.
            if service.is_global() || !reason.may_end_with_a_node() {
                continue;
            }
            match batches.iter_mut().find(|(reserved, _)| *reserved == task.reserved) {
                Some((_, tasks)) => *tasks += 1,
                None => batches.push((task.reserved.clone(), 1)),
            }
        }
        for (reserved, tasks) in batches {
            let most = most_on_a_node(service.spec()).map_or(usize::MAX, |(_, most)| most);
            let waiting = Waiting { service, batch: Batch { tasks, reserved, most } };
            let has_nodes = |group: &str| seen.groups.contains_key(group);
            if let Some(group) = observed.group_for(&waiting, kinds, full, has_nodes) {
                needs.entry(group.to_owned()).or_default().push(waiting);
            }
        }
    }
    for (name, waiting) in needs {
        let group = seen.groups.entry(name.clone()).or_default();
        let batches = || waiting.iter().map(|it| it.batch.clone());
        group.capacity.pending = batches().map(|batch| batch.tasks).sum();
        // A group of which no node was ever seen: one node shows their size.
        let kind = kinds.get(&name);
        let new =
            kind.map_or(1, |kind| nodes_for(batches().collect(), &kind.empty(observed.services)));
        let cancelled = observed.cancelled(&name, &waiting, &loads, kind.map_or(0, Kind::zones));
        let capacity = &mut group.capacity;
        capacity.needed = capacity.needed.max((capacity.nodes + new).saturating_sub(cancelled));
    }
    seen
}

/// Returns why a task waits for a node; `None` if it does not, or has not for long.
fn waits_for(task: &ServiceTask, now: OffsetDateTime) -> Option<Reason> {
    let is_pending = task.is_wanted() && task.state == Some(TaskState::PENDING);
    let explanation = task.error.as_deref().filter(|_| is_pending)?;
    (now - task.created_at >= WAITS_FOR).then(|| Reason::of(explanation))
}

fn takes_tasks(view: &NodeView) -> bool {
    view.is_ready() && view.availability == Availability::Active
}

impl<'a> Observed<'a> {
    /// Returns the tasks of each node, by Docker's ids.
    fn loads(&self) -> BTreeMap<&'a str, Load> {
        let mut loads: BTreeMap<&str, Load> = BTreeMap::new();
        for (id, tasks) in self.tasks {
            // One that is removed ends soon, but it runs.
            let service = self.services.iter().find(|service| service.id == *id);
            let is_busy = service.is_none_or(occupies);
            for task in tasks.iter().filter(|task| !task.has_ended()) {
                if let Some(node) = &task.node_id {
                    let load = loads.entry(node).or_default();
                    load.reserved.add(&task.reserved);
                    load.is_busy |= is_busy;
                }
            }
        }
        loads
    }

    /// Returns the groups that have nodes, without pending tasks.
    fn measure(&self, loads: &BTreeMap<&str, Load>) -> BTreeMap<String, Group> {
        let mut groups: BTreeMap<String, (Group, Resources, Resources)> = BTreeMap::new();
        for view in self.nodes {
            let Some(name) = view.labels.get(GROUP) else { continue };
            let first = || {
                let group = Group { is_of_managers: true, ..Group::default() };
                (group, Resources::default(), Resources::default())
            };
            let (group, reserved, available) = groups.entry(name.clone()).or_insert_with(first);
            group.is_of_managers &= view.role == Role::Manager;
            if !takes_tasks(view) {
                continue;
            }
            let none = Load::default();
            let load = loads.get(view.id.as_str()).unwrap_or(&none);
            group.capacity.nodes += 1;
            group.capacity.idle += usize::from(!load.is_busy);
            if let Some(all) = &view.resources {
                available.add(&all.without(&load.reserved));
            }
            reserved.add(&load.reserved);
        }
        let finished = groups.into_iter().map(|(name, (mut group, reserved, available))| {
            let capacity = &mut group.capacity;
            capacity.needed = capacity.nodes - capacity.idle;
            capacity.cpus_reserved = reserved.nano_cpus as f64 / CPU;
            capacity.cpus_available = available.nano_cpus as f64 / CPU;
            capacity.memory_reserved = reserved.memory_bytes;
            capacity.memory_available = available.memory_bytes;
            (name, group)
        });
        finished.collect()
    }

    /// Returns the group of which a new node could run these tasks: the one that the service's constraints name, and
    /// otherwise the one with the smallest nodes of those that can grow and have nodes, as far as there are any.
    fn group_for<'k>(
        &self,
        waiting: &Waiting<'a>,
        kinds: &'k Kinds,
        full: &BTreeSet<String>,
        has_nodes: impl Fn(&str) -> bool,
    ) -> Option<&'k str>
    where
        'a: 'k,
    {
        let Waiting { service, batch } = waiting;
        let named = label_of(service.spec(), GROUP);
        let named = named.map(|name| kinds.named(name).ok_or(name));
        if let Some(Err(unseen)) = named {
            return Some(unseen);
        }
        let candidates = kinds.iter().filter(|(name, kind)| {
            named.is_none_or(|named| named == Ok(*name))
                && kind.takes(service, batch, self.services)
        });
        let best = candidates.min_by_key(|(name, kind)| {
            let empty = kind.empty(self.services);
            (full.contains(*name), !has_nodes(name), empty.memory_bytes, empty.nano_cpus)
        });
        best.map(|(name, _)| name)
    }

    /// Returns how many of a group's idle nodes show that another one would not help: those that could run some of the
    /// tasks, although Docker does not place them there; and those in the wrong zone or of a smaller type, except one for
    /// each zone, because Auto Scaling adds the next node in another one.
    fn cancelled(
        &self,
        group: &str,
        waiting: &[Waiting<'_>],
        loads: &BTreeMap<&str, Load>,
        zones: usize,
    ) -> usize {
        let none = Load::default();
        let load = |view: &NodeView| loads.get(view.id.as_str()).unwrap_or(&none);
        let is_idle = |view: &&NodeView| {
            view.labels.get(GROUP).is_some_and(|it| it == group)
                && takes_tasks(view)
                && !load(view).is_busy
        };
        let fits_one = |view: &&NodeView| {
            let free = view.resources.clone().unwrap_or_default().without(&load(view).reserved);
            waiting.iter().any(|Waiting { service, batch }| {
                fits(service.spec(), view)
                    && !fits_platform(service.spec(), view).is_no()
                    && batch.per_node(&free) > 0
            })
        };
        let (fit, unfit): (Vec<&NodeView>, Vec<&NodeView>) =
            self.nodes.iter().filter(is_idle).partition(fits_one);
        fit.len() + unfit.len().saturating_sub(zones)
    }
}
