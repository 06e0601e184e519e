//! The swarm: the leader's work at swarmkit's measured pace ([`pace`]), and the node list.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::time::Duration;

use skep::clients::docker::{Availability, JoinAnswer, NodeView};
use skep::common::instance::Role;

use super::super::engine::pace;
use super::timeline::Timeline;

pub(super) const SWARM_ID: &str = "swarm";

/// One entry of the node list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// Whether a manager has labelled it with its instance, and with the labels of its row.
    pub(super) is_identified: bool,
    pub(super) is_labelled: bool,
    pub(super) is_drained: bool,
    /// Whether its Docker has left the swarm; the list still has it.
    pub(super) has_left: bool,
}

/// The swarm of a run.
pub(super) struct Swarm {
    timeline: Timeline,
    /// Until when the leader is busy with the work that has arrived, and how much work there was.
    busy_until: Cell<Duration>,
    work: Cell<Duration>,
    managers_until: Cell<Duration>,
    list: RefCell<BTreeMap<usize, Entry>>,
    /// Every node that was ever on the list.
    ever: RefCell<Vec<usize>>,
    /// Number of entries that are not labelled yet.
    bare: Cell<usize>,
    /// Time that the leader has spent on node lists.
    listing: Cell<Duration>,
}

impl Swarm {
    pub(super) fn new(timeline: &Timeline) -> Self {
        Self {
            timeline: timeline.clone(),
            busy_until: Cell::default(),
            work: Cell::default(),
            managers_until: Cell::default(),
            list: RefCell::default(),
            ever: RefCell::default(),
            bare: Cell::default(),
            listing: Cell::default(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.list.borrow().len()
    }

    pub(super) fn entry(&self, node: usize) -> Option<Entry> {
        self.list.borrow().get(&node).copied()
    }

    /// Returns every node that was ever on the list.
    pub(super) fn ever(&self) -> Vec<usize> {
        self.ever.borrow().clone()
    }

    /// Returns the entries without all labels for which `is_due`.
    pub(super) fn bare(&self, is_due: impl Fn(usize, &Entry) -> bool) -> Vec<usize> {
        if self.bare.get() == 0 {
            return vec![];
        }
        let list = self.list.borrow();
        let bare = list.iter().filter(|(node, it)| !it.is_labelled && is_due(**node, it));
        bare.map(|(node, _)| *node).collect()
    }

    /// Returns the time that the leader has worked, and that it has spent on node lists, since they were taken.
    pub(super) fn take_work(&self) -> (Duration, Duration) {
        (self.work.take(), self.listing.take())
    }

    /// Puts work into the leader's queue, and returns when it will be done.
    fn queue(&self, cost: Duration) -> Duration {
        let done = self.busy_until.get().max(self.timeline.now()) + cost;
        self.busy_until.set(done);
        self.work.set(self.work.get() + cost);
        done
    }

    pub(super) async fn init(&self, node: usize) {
        self.timeline.sleep(pace::INIT).await;
        self.admit(node);
    }

    fn admit(&self, node: usize) {
        let new =
            Entry { is_identified: false, is_labelled: false, is_drained: false, has_left: false };
        self.list.borrow_mut().insert(node, new);
        self.ever.borrow_mut().push(node);
        self.bare.set(self.bare.get() + 1);
    }

    /// Joins. A join that Docker gives up keeps its place in the leader's queue: the leader has the request.
    pub(super) async fn join(&self, node: usize, role: Role) -> JoinAnswer {
        let patience = self.timeline.now() + pace::JOIN_PATIENCE;
        let done = match role {
            Role::Worker => {
                self.timeline.sleep(pace::within(pace::JOINING)).await;
                self.queue(pace::WORKER_JOIN)
            }
            // One after the other.
            Role::Manager => {
                let now = self.timeline.now();
                let done = self.managers_until.get().max(now) + pace::MANAGER_JOIN;
                self.managers_until.set(done);
                done
            }
        };
        self.timeline.sleep_until(done.min(patience)).await;
        if done > patience {
            return JoinAnswer::BlackHoled;
        }
        self.admit(node);
        // Ready with the next batch of states.
        let batch = u64::try_from(pace::STATUS_BATCH.as_millis()).unwrap_or_default();
        self.timeline.sleep(pace::within(0..=batch)).await;
        JoinAnswer::Joined
    }

    /// Writes an entry of the list: one raft proposal.
    pub(super) async fn write(&self, node: usize, change: impl FnOnce(&mut Entry)) {
        self.timeline.sleep_until(self.queue(pace::WRITE)).await;
        if let Some(entry) = self.list.borrow_mut().get_mut(&node) {
            let was_bare = !entry.is_labelled;
            change(entry);
            if was_bare && entry.is_labelled {
                self.bare.set(self.bare.get() - 1);
            }
        }
    }

    /// Leaves the swarm.
    pub(super) async fn leave(&self, node: usize) {
        self.timeline.sleep(pace::within(pace::LEAVING)).await;
        if let Some(entry) = self.list.borrow_mut().get_mut(&node) {
            entry.has_left = true;
        }
    }

    pub(super) async fn remove(&self, node: usize) {
        self.timeline.sleep_until(self.queue(pace::WRITE)).await;
        let removed = self.list.borrow_mut().remove(&node);
        if removed.is_some_and(|entry| !entry.is_labelled) {
            self.bare.set(self.bare.get() - 1);
        }
    }

    /// Returns how long the leader needs for the whole list, and counts that.
    pub(super) fn list_takes(&self) -> Duration {
        let takes = pace::LIST_PER_NODE * u32::try_from(self.len()).unwrap_or(u32::MAX);
        self.listing.set(self.listing.get() + takes);
        takes
    }

    /// Returns a worker as the managers list it.
    pub(super) fn view(&self, node: usize) -> Option<NodeView> {
        let entry = self.entry(node)?;
        Some(NodeView {
            id: node_id(node),
            hostname: String::new(),
            engine: None,
            platform: None,
            resources: None,
            joined_at: None,
            state: "ready".into(),
            availability: if entry.is_drained { Availability::Drain } else { Availability::Active },
            labels: Default::default(),
            role: Role::Worker,
            address: None,
            raft: None,
        })
    }
}

/// Docker's id of a node.
pub(super) fn node_id(node: usize) -> String {
    format!("node{node}")
}
