//! The open flows of all load balancers, and their counts.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::groups::{FlowsOf, Placed};
use super::target::Cut;
use super::target_group::TargetKey;
use crate::cloud::lock;

/// Numbers of flows. A flow is one connection of a client that a listener has accepted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowCounts {
    /// Flows that have reached a target, in total.
    pub opened: u64,
    /// Flows that are open now.
    pub open: u64,
    /// Flows that client and target have closed.
    pub closed: u64,
    /// Flows that client or target have reset.
    pub reset: u64,
    /// Flows that the load balancer has cut because their target was unhealthy.
    pub cut_unhealthy: u64,
    /// Flows that it has cut at the end of the deregistration delay.
    pub cut_deregistered: u64,
    /// Flows that it has cut because their target was terminated.
    pub cut_gone: u64,
    /// Flows that it has cut because their listener was deleted.
    pub cut_unlistened: u64,
    /// Connections that their target has refused, or has not accepted in time.
    pub failed_connects: u64,
    /// Connections that had no registered target.
    pub unplaced: u64,
}

impl FlowCounts {
    /// Returns the number of flows that the load balancer has cut.
    pub fn cut(&self) -> u64 {
        self.cut_unhealthy + self.cut_deregistered + self.cut_gone + self.cut_unlistened
    }

    fn add(&mut self, other: &Self) {
        self.opened += other.opened;
        self.open += other.open;
        self.closed += other.closed;
        self.reset += other.reset;
        self.cut_unhealthy += other.cut_unhealthy;
        self.cut_deregistered += other.cut_deregistered;
        self.cut_gone += other.cut_gone;
        self.cut_unlistened += other.cut_unlistened;
        self.failed_connects += other.failed_connects;
        self.unplaced += other.unplaced;
    }
}

/// The end of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Closed,
    Reset,
    Cut(Cut),
    /// The target was not reached.
    Failed,
}

#[derive(Clone, Debug, Default)]
pub(in crate::cloud) struct Flows(Arc<Mutex<Register>>);

#[derive(Debug, Default)]
struct Register {
    next: u64,
    open: BTreeMap<u64, Open>,
    /// By the target's id; the empty id has the connections without a target.
    counts: BTreeMap<String, FlowCounts>,
}

#[derive(Debug)]
struct Open {
    listener: String,
    group: String,
    key: TargetKey,
    cut: oneshot::Sender<Cut>,
}

/// One flow, from the choice of its target on.
#[derive(Debug)]
pub(super) struct Flow {
    pub placed: Placed,
    /// Receives the order to end the flow.
    pub cut: oneshot::Receiver<Cut>,
    number: u64,
    flows: Flows,
    is_open: bool,
}

impl Flows {
    /// Registers a flow to a target; runs under the state's lock, so that no cut misses it.
    pub(super) fn begin(&self, listener: &str, placed: Placed) -> Flow {
        let (order, cut) = oneshot::channel();
        let mut register = lock(&self.0);
        register.next += 1;
        let number = register.next;
        let (group, key) = (placed.group.clone(), placed.key.clone());
        let open = Open { listener: listener.to_owned(), group, key, cut: order };
        register.open.insert(number, open);
        Flow { placed, cut, number, flows: self.clone(), is_open: false }
    }

    /// Counts a connection that had no target.
    pub(super) fn unplaced(&self) {
        lock(&self.0).counts.entry(String::new()).or_default().unplaced += 1;
    }

    /// Orders flows to end.
    pub(in crate::cloud) fn cut(&self, flows: &FlowsOf, reason: Cut) {
        let mut register = lock(&self.0);
        let is_meant = |open: &Open| match flows {
            FlowsOf::Target { group, key } => open.group == *group && open.key == *key,
            FlowsOf::Listener(listener) => open.listener == *listener,
        };
        let meant: Vec<u64> =
            register.open.iter().filter(|(_, open)| is_meant(open)).map(|(n, _)| *n).collect();
        for number in meant {
            if let Some(open) = register.open.remove(&number) {
                // The flow may have ended at the same time.
                let _ = open.cut.send(reason);
            }
        }
    }

    /// Returns the counts of one target, or of all.
    pub(super) fn counts(&self, target: Option<&str>) -> FlowCounts {
        let register = lock(&self.0);
        let mut sum = FlowCounts::default();
        for (id, counts) in &register.counts {
            if target.is_none_or(|target| target == id) {
                sum.add(counts);
            }
        }
        sum
    }
}

impl Flow {
    /// Counts the flow as open: it has reached its target.
    pub(super) fn open(&mut self) {
        self.is_open = true;
        self.count(|counts| {
            counts.opened += 1;
            counts.open += 1;
        });
    }

    /// Counts the end of the flow.
    pub(super) fn end(self, how: End) {
        self.count(|counts| match how {
            End::Closed => counts.closed += 1,
            End::Reset => counts.reset += 1,
            End::Cut(Cut::Unhealthy) => counts.cut_unhealthy += 1,
            End::Cut(Cut::Deregistered) => counts.cut_deregistered += 1,
            End::Cut(Cut::Gone) => counts.cut_gone += 1,
            End::Cut(Cut::Unlistened) => counts.cut_unlistened += 1,
            End::Failed => counts.failed_connects += 1,
        });
    }

    fn count(&self, change: impl FnOnce(&mut FlowCounts)) {
        let mut register = lock(&self.flows.0);
        change(register.counts.entry(self.placed.key.id.clone()).or_default());
    }
}

impl Drop for Flow {
    /// Also when its task is dropped.
    fn drop(&mut self) {
        if self.is_open {
            self.count(|counts| counts.open -= 1);
        }
        lock(&self.flows.0).open.remove(&self.number);
    }
}
