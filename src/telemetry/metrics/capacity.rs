//! The capacity of the groups: series that only the leader of the managers has.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;

use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use super::{Metrics, Texts};
use crate::common::capacity::GroupCapacity;

/// Reads a value of a group.
type Value = fn(&GroupCapacity) -> f64;
type OfGroups = Family<Texts, Gauge<f64, AtomicU64>>;

#[derive(Debug, Default)]
pub(super) struct Capacity {
    nodes: OfGroups,
    idle: OfGroups,
    needed: OfGroups,
    pending: OfGroups,
    cpus_reserved: OfGroups,
    cpus_available: OfGroups,
    memory_reserved: OfGroups,
    memory_available: OfGroups,
    /// By the reasons.
    tasks_pending: OfGroups,
}

/// The capacity of each group, and the number of pending tasks by their reasons.
pub type Capacities<'a> = (BTreeMap<&'a str, GroupCapacity>, BTreeMap<&'static str, usize>);

impl Metrics {
    /// Sets the capacity of all groups; `None` if unknown, as on every manager but the leader.
    pub fn capacity(&self, capacities: Option<Capacities<'_>>) {
        let of = &self.capacity;
        let (groups, pending) = capacities.unwrap_or_default();
        of.tasks_pending.clear();
        for (reason, tasks) in pending {
            set(&of.tasks_pending, "reason", reason, tasks as f64);
        }
        let values: [(&OfGroups, Value); 8] = [
            (&of.nodes, |it| it.nodes as f64),
            (&of.idle, |it| it.idle as f64),
            (&of.needed, |it| it.needed as f64),
            (&of.pending, |it| it.pending as f64),
            (&of.cpus_reserved, |it| it.cpus_reserved),
            (&of.cpus_available, |it| it.cpus_available),
            (&of.memory_reserved, |it| it.memory_reserved as f64),
            (&of.memory_available, |it| it.memory_available as f64),
        ];
        for (family, value) in values {
            family.clear();
            for (group, capacity) in &groups {
                set(family, "group", group, value(capacity));
            }
        }
    }

    pub(super) fn register_capacity(&self, all: &mut Registry) {
        let of = &self.capacity;
        all.register(
            "group_nodes",
            "Nodes of each Auto Scaling group that get new tasks; on the leader only",
            of.nodes.clone(),
        );
        all.register(
            "group_nodes_idle",
            "Those of them without tasks, except tasks of global services; on the leader only",
            of.idle.clone(),
        );
        all.register(
            "group_nodes_needed",
            "Those that are not idle, and those that the pending tasks need; on the leader only",
            of.needed.clone(),
        );
        all.register(
            "group_tasks_pending",
            "Tasks that wait for a node and could run on a new one of the group; on the leader only",
            of.pending.clone(),
        );
        all.register(
            "group_cpus_reserved",
            "CPUs that tasks reserve on the nodes of the group; on the leader only",
            of.cpus_reserved.clone(),
        );
        all.register(
            "group_cpus_available",
            "CPUs that further tasks can reserve on them; on the leader only",
            of.cpus_available.clone(),
        );
        all.register_with_unit(
            "group_memory_reserved",
            "Memory that tasks reserve on the nodes of the group; on the leader only",
            Unit::Bytes,
            of.memory_reserved.clone(),
        );
        all.register_with_unit(
            "group_memory_available",
            "Memory that further tasks can reserve on them; on the leader only",
            Unit::Bytes,
            of.memory_available.clone(),
        );
        all.register(
            "tasks_pending",
            "Tasks that wait for a node, by reason; on the leader only",
            of.tasks_pending.clone(),
        );
    }
}

fn set(family: &OfGroups, label: &'static str, of: &str, value: f64) {
    family.get_or_create_owned(&vec![(label, of.to_owned())]).set(value);
}
