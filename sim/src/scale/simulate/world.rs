//! What all nodes of a run share, and what is observed of them.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use skep::clients::docker::{LocalNode, LocalState};
use skep::clients::ledger::{Charter, DepartureRow};
use skep::common::instance::Role;
use time::OffsetDateTime;

use super::super::store::Store;
use super::account::{Account, Call, SHARED, Throttled, partition_of};
use super::swarm::{SWARM_ID, Swarm, node_id};
use super::timeline::Timeline;
use crate::cloud::{Quotas, Service};

/// Number of managers, as in a run with real processes: the first nodes.
pub(super) const MANAGERS: usize = 3;

/// A run: how many nodes, and what decides chance.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    pub(super) nodes: usize,
    pub(super) store: Store,
    pub(super) seed: u64,
    /// Time within which all instances start.
    pub(super) within: Duration,
}

/// The rows of the ledger that decide something.
#[derive(Default)]
pub(super) struct Ledger {
    pub(super) charter: Option<Charter>,
    pub(super) departures: BTreeMap<usize, DepartureRow>,
    /// Departures of which the managers were told.
    pub(super) hints: BTreeSet<usize>,
}

/// What has become of the nodes.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Fates {
    /// When each was Ready, after the launch.
    pub(super) ready: BTreeMap<usize, Duration>,
    /// Nodes whose boot was not over by `boot.deadline`.
    pub(super) failed: BTreeSet<usize>,
    /// When each launch hook was completed.
    pub(super) in_service: BTreeMap<usize, Duration>,
    /// Nodes whose launch hook timed out first: Auto Scaling replaces their instances.
    pub(super) timed_out: BTreeSet<usize>,
    /// Joins that Docker gave up.
    pub(super) joins_given_up: usize,
    /// When each worker was labelled by the leader.
    pub(super) labelled: BTreeMap<usize, Duration>,
    /// Nodes that have left, and when their termination hook was completed.
    pub(super) gone: BTreeMap<usize, Duration>,
    /// Number of those whose termination hook timed out first.
    pub(super) ended_by_hook: usize,
    /// When each that leaves was off the node list.
    pub(super) off_the_list: BTreeMap<usize, Duration>,
}

/// The leader's polls for departures.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Polls {
    /// Most rows that one of them has read by their keys.
    pub(super) most_rows: usize,
    pub(super) longest: Duration,
}

/// One run.
pub(super) struct World {
    pub(super) plan: Plan,
    pub(super) time: Timeline,
    pub(super) account: Account,
    pub(super) swarm: Swarm,
    pub(super) ledger: RefCell<Ledger>,
    pub(super) fates: RefCell<Fates>,
    pub(super) polls: Cell<Polls>,
}

impl World {
    pub(super) fn new(plan: Plan) -> Rc<Self> {
        let time = Timeline::default();
        Rc::new(Self {
            plan,
            account: Account::new(&time, Quotas::AWS),
            swarm: Swarm::new(&time),
            time,
            ledger: RefCell::default(),
            fates: RefCell::default(),
            polls: Cell::default(),
        })
    }

    /// Returns the time as skep reads it.
    pub(super) fn clock(&self) -> OffsetDateTime {
        OffsetDateTime::UNIX_EPOCH + self.time.now()
    }

    /// Reads a row that all nodes read.
    pub(super) async fn read_shared(&self, node: usize) -> Result<(), Throttled> {
        self.account.call(role_of(node), Call::Get(SHARED)).await
    }

    /// Reads a row of a node's own.
    pub(super) async fn read_own(&self, node: usize) -> Result<(), Throttled> {
        self.account.call(role_of(node), Call::Get(&own_partition(node))).await
    }

    /// Writes a row of a node's own.
    pub(super) async fn write_own(
        &self,
        node: usize,
        action: &'static str,
    ) -> Result<(), Throttled> {
        self.account.call(role_of(node), Call::Write(action, &own_partition(node))).await
    }

    /// Makes a call to another service than DynamoDB.
    pub(super) async fn ask(
        &self,
        node: usize,
        service: Service,
        action: &'static str,
    ) -> Result<(), Throttled> {
        self.account.call(role_of(node), Call::Other(service, action)).await
    }

    /// Returns what Docker answers about itself.
    pub(super) fn local(&self, node: usize) -> LocalNode {
        let is_in = self.swarm.entry(node).is_some_and(|entry| !entry.has_left);
        LocalNode {
            state: if is_in { LocalState::Active } else { LocalState::Inactive },
            node_id: is_in.then(|| node_id(node)),
            swarm_id: is_in.then(|| SWARM_ID.to_owned()),
            is_manager: is_in && role_of(node) == Role::Manager,
            has_managers: is_in,
            managers: vec![],
            error: String::new(),
            address: None,
            live_restore: false,
        }
    }
}

/// Returns the role of a node.
pub(super) fn role_of(node: usize) -> Role {
    if node < MANAGERS { Role::Manager } else { Role::Worker }
}

/// Returns the instance id of a node.
pub(super) fn instance_of(node: usize) -> String {
    format!("i-{node}")
}

fn own_partition(node: usize) -> String {
    match role_of(node) {
        Role::Manager => SHARED.to_owned(),
        Role::Worker => partition_of(node),
    }
}
