//! Tells what a new node of a group would be like, by the nodes that the group has or had. Pure.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize as _;

use super::needs::Batch;
use crate::clients::docker::{NodeView, Resources, Service};
use crate::common::instance::Role;
use crate::common::labels::{GROUP, INSTANCE_TYPE, ZONE};
use crate::manager::placement::{fits, fits_new_node, fits_platform, unknown_constraint};

/// Number of examples that are kept of a group.
const MOST_EXAMPLES: usize = 40;

/// The kind of each group's nodes, by the groups' names. A group keeps its entry while it has no nodes: otherwise a task
/// that its nodes cannot run would let it grow from nothing again and again.
#[derive(Debug, Default)]
pub struct Kinds(BTreeMap<String, Kind>);

/// The nodes of a group.
#[derive(Debug, Default)]
pub struct Kind {
    /// The last node of each zone, instance type and architecture.
    examples: BTreeMap<(String, String, String), NodeView>,
}

impl Kinds {
    /// Takes in the nodes of a list.
    pub fn learn(&mut self, nodes: &[NodeView]) {
        for view in nodes {
            let Some(group) = view.labels.get(GROUP) else { continue };
            let label = |name: &str| view.labels.get(name).cloned().unwrap_or_default();
            let architecture = view.platform.as_ref().map(|(_, it)| it.clone()).unwrap_or_default();
            let key = (label(ZONE), label(INSTANCE_TYPE), architecture);
            let examples = &mut self.0.entry(group.clone()).or_default().examples;
            if examples.len() < MOST_EXAMPLES || examples.contains_key(&key) {
                examples.insert(key, view.clone());
            }
        }
    }

    /// Returns the kind of a group; `None` if no node of it was ever seen.
    pub fn get(&self, group: &str) -> Option<&Kind> {
        self.0.get(group)
    }

    /// Returns a group with this name as swarmkit compares it, without regard to case.
    pub fn named(&self, name: &str) -> Option<&str> {
        self.0.keys().find(|group| group.eq_ignore_ascii_case(name)).map(String::as_str)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &Kind)> {
        self.0.iter().map(|(name, kind)| (name.as_str(), kind))
    }
}

impl Kind {
    /// Whether a new node could take tasks of this service, and an empty one at least one of the batch. A constraint that
    /// the node list does not answer counts as not met: otherwise its tasks could buy nodes for ever.
    pub fn takes(&self, service: &Service, batch: &Batch, services: &[Service]) -> bool {
        let spec = service.spec();
        let is_like = |view: &NodeView| {
            view.role == Role::Worker
                && fits_new_node(spec, view)
                && !fits_platform(spec, view).is_no()
        };
        let is_known =
            |view: &&NodeView| unknown_constraint(spec, view.platform.is_some()).is_none();
        self.examples.values().filter(is_known).any(is_like)
            && batch.per_node(&self.empty(services)) > 0
    }

    /// Returns what the largest node offers when it is new: its resources without what global services reserve.
    pub fn empty(&self, services: &[Service]) -> Resources {
        let size = |view: &&NodeView| {
            view.resources.as_ref().map(|it| (it.memory_bytes, it.nano_cpus)).unwrap_or_default()
        };
        let Some(largest) = self.examples.values().max_by_key(size) else {
            return Resources::default();
        };
        let mut empty = largest.resources.clone().unwrap_or_default();
        for service in services.iter().filter(|service| service.is_global() && !service.is_job()) {
            if fits(service.spec(), largest) {
                empty = empty.without(&reservations(service));
            }
        }
        empty
    }

    /// Returns the number of zones in which the group has or had nodes.
    pub fn zones(&self) -> usize {
        self.examples.keys().map(|(zone, ..)| zone).collect::<BTreeSet<_>>().len()
    }
}

/// Returns what each task of a service reserves, by its present spec.
fn reservations(service: &Service) -> Resources {
    let reserved = &service.spec()["TaskTemplate"]["Resources"]["Reservations"];
    Resources::deserialize(reserved).unwrap_or_default()
}
