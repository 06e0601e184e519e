//! The duties of a manager, as far as their cost grows with the number of nodes: departures, instances, labels, and what
//! they read while nothing happens.
//!
//! Simplified: the other managers read like the leader's backups, and act on nothing; a departure that a poll has not
//! reached within its time waits for the next poll.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use futures_util::future::join_all;
use skep::clients::ledger::{DepartureState, Traffic};
use skep::common::instance::Role;
use skep::common::timing::MANAGER_ROW_EVERY;
use skep::config::Settings;
use skep::manager::departures::{
    AT_ONCE, BACKUP_INTERVAL, LEADER_INTERVAL, LIST_AGE, PATIENCE, ROLE_AGE, busy_pause,
    workers_interval,
};
use skep::manager::node_edit::{BACKUP, LEADER};
use skep::manager::{Action, Age, decide};

use super::account::{Call, KEYS_PER_CALL, partition_of};
use super::world::{MANAGERS, World, instance_of};
use crate::cloud::Service;

/// Number of addresses in one `DescribeInstances` of skep's.
const ADDRESSES_PER_CALL: usize = 50;
/// Interval at which the leader asks about the groups (`docs/deploy.md`, "What it costs"); the others take four times
/// as long.
const GROUPS_EVERY: Duration = Duration::from_secs(15);
/// Interval of the reads of the managers' rows between the polls for departures: 180 an hour by the leader, which with
/// those 720 are the 900 of that table.
const IN_BETWEEN: Duration = Duration::from_secs(20);
/// How often a leader that waits sees what a node has told it.
const HINTS_EVERY: Duration = Duration::from_millis(100);

/// One manager, and the node list that its duties share.
struct Manager {
    world: Rc<World>,
    node: usize,
    asked_at: Cell<Option<Duration>>,
    answered_at: Cell<Duration>,
}

/// Starts the duties of a manager.
pub(super) fn start(world: &Rc<World>, node: usize) {
    let new = Manager {
        world: Rc::clone(world),
        node,
        asked_at: Cell::default(),
        answered_at: Cell::default(),
    };
    let (manager, time) = (Rc::new(new), &world.time);
    time.spawn(serve_departures(Rc::clone(&manager)));
    time.spawn(read_rows(Rc::clone(&manager)));
    if manager.is_leader() {
        time.spawn(identify(Rc::clone(&manager)));
        time.spawn(label(Rc::clone(&manager)));
    }
    let factor = if manager.is_leader() { 1 } else { 4 };
    time.spawn(repeat(Rc::clone(&manager), IN_BETWEEN * factor, Call::Query));
    let groups = Call::Other(Service::AutoScaling, "DescribeAutoScalingGroups");
    time.spawn(repeat(Rc::clone(&manager), GROUPS_EVERY * factor, groups));
    let own_row = Call::Write("PutItem", super::account::SHARED);
    time.spawn(repeat(manager, MANAGER_ROW_EVERY, own_row));
}

async fn repeat(manager: Rc<Manager>, every: Duration, call: Call<'static>) {
    loop {
        manager.world.time.sleep(every).await;
        let _ = manager.world.account.call(Role::Manager, call).await;
    }
}

impl Manager {
    fn is_leader(&self) -> bool {
        let ledger = self.world.ledger.borrow();
        ledger.charter.as_ref().is_some_and(|it| it.founder == instance_of(self.node))
    }

    fn now(&self) -> Duration {
        self.world.time.now()
    }

    /// Waits for a node list that was requested at most `age` ago. The leader makes the lists of all managers.
    async fn list(&self, age: Duration) {
        let since = self.now().saturating_sub(age);
        // Another duty's request.
        self.world.time.sleep_until(self.answered_at.get()).await;
        if self.asked_at.get().is_none_or(|at| at < since) {
            self.asked_at.set(Some(self.now()));
            self.answered_at.set(self.now() + self.world.swarm.list_takes());
            self.world.time.sleep_until(self.answered_at.get()).await;
        }
    }

    /// Reads a row of each of these workers. Returns whether all were read.
    async fn read(&self, workers: &[usize]) -> bool {
        for batch in workers.chunks(KEYS_PER_CALL) {
            if self.world.account.call(Role::Manager, Call::Batch(batch)).await.is_err() {
                return false;
            }
        }
        true
    }

    async fn write(&self, action: &'static str, worker: usize) -> bool {
        let partition = partition_of(worker);
        self.world.account.call(Role::Manager, Call::Write(action, &partition)).await.is_ok()
    }

    /// Takes the next step of a departure. Returns whether it took one.
    async fn serve(&self, worker: usize) -> bool {
        self.list(LIST_AGE).await;
        let world = &self.world;
        let Some(mut row) = world.ledger.borrow().departures.get(&worker).cloned() else {
            return false;
        };
        let before = row.state;
        if row.traffic.is_none() && self.write("UpdateItem", worker).await {
            row.traffic = Some(Traffic::None);
        }
        let shutdown = Settings::default().leave.shutdown_deadline;
        let age = Age::of(&row, false, shutdown, world.clock());
        let advance = async |to| if self.write("UpdateItem", worker).await { to } else { before };
        match decide(&row, world.swarm.view(worker).as_ref(), 0, false, age) {
            Action::Drain => {
                world.swarm.write(worker, |entry| entry.is_drained = true).await;
                row.state = advance(DepartureState::Draining).await;
            }
            Action::MarkDraining => row.state = advance(DepartureState::Draining).await,
            Action::MarkDrained => row.state = advance(DepartureState::Drained).await,
            Action::Remove => {
                world.swarm.remove(worker).await;
                world.fates.borrow_mut().off_the_list.insert(worker, self.now());
                if self.write("DeleteItem", worker).await {
                    row.state = advance(DepartureState::Removed).await;
                }
            }
            _ => {}
        }
        let has_moved = row.state != before;
        let mut ledger = world.ledger.borrow_mut();
        let Some(is) = ledger.departures.get_mut(&worker) else { return false };
        // DynamoDB's condition: the node has not gone on meanwhile.
        if is.state == before {
            *is = row;
        }
        has_moved
    }

    /// Serves these departures, some at a time, for as long as one poll waits. Returns whether one took a step.
    async fn serve_all(&self, open: &BTreeSet<usize>) -> bool {
        let (open, until) = (open.iter().copied().collect::<Vec<_>>(), self.now() + PATIENCE);
        let mut has_moved = false;
        for some in open.chunks(AT_ONCE) {
            if self.now() >= until {
                break;
            }
            let served = join_all(some.iter().map(|worker| self.serve(*worker))).await;
            has_moved |= served.contains(&true);
        }
        has_moved
    }

    fn hints(&self) -> BTreeSet<usize> {
        std::mem::take(&mut self.world.ledger.borrow_mut().hints)
    }
}

async fn serve_departures(manager: Rc<Manager>) {
    let (world, is_leader) = (&manager.world, manager.is_leader());
    let mut open = BTreeSet::new();
    let (mut read_at, mut moved_at) = (None::<Duration>, Duration::ZERO);
    loop {
        let began = manager.now();
        manager.list(ROLE_AGE).await;
        let _ = world.account.call(Role::Manager, Call::Query).await;
        let now = manager.now();
        let is_due = read_at.is_none_or(|at| now - at >= workers_interval(is_leader));
        if is_leader {
            open.extend(manager.hints());
        }
        let ids = match is_due {
            true => world.swarm.ever().into_iter().filter(|node| *node >= MANAGERS).collect(),
            false => open.iter().copied().collect::<Vec<_>>(),
        };
        let is_read = manager.read(&ids).await;
        if is_due && is_read {
            read_at = Some(now);
        }
        if !is_leader {
            world.time.sleep(BACKUP_INTERVAL).await;
            continue;
        }
        let mut polls = world.polls.get();
        polls.most_rows = polls.most_rows.max(ids.len());
        if is_read {
            let departures = &world.ledger.borrow().departures;
            let is_open = |id: &usize| {
                departures.get(id).is_some_and(|row| row.state < DepartureState::Removed)
            };
            open.retain(is_open);
            open.extend(ids.into_iter().filter(is_open));
        }
        if manager.serve_all(&open).await {
            moved_at = manager.now();
        }
        polls.longest = polls.longest.max(manager.now() - began);
        world.polls.set(polls);
        if open.is_empty() {
            let due = manager.now() + LEADER_INTERVAL;
            while manager.now() < due && world.ledger.borrow().hints.is_empty() {
                world.time.sleep(HINTS_EVERY).await;
            }
        } else {
            world.time.sleep(busy_pause(manager.now() - moved_at, open.len())).await;
        }
    }
}

/// Reads the rows of all workers, for labels and availability.
async fn read_rows(manager: Rc<Manager>) {
    let rhythm = if manager.is_leader() { &LEADER } else { &BACKUP };
    loop {
        let nodes = manager.world.swarm.len();
        manager.world.time.sleep(rhythm.read_interval(nodes)).await;
        manager.read(&manager.world.swarm.ever()).await;
    }
}

/// Labels new nodes with their instances.
async fn identify(manager: Rc<Manager>) {
    let world = &manager.world;
    loop {
        manager.list(LEADER.look).await;
        let due = world.swarm.bare(|_, entry| !entry.is_identified);
        for some in due.chunks(ADDRESSES_PER_CALL) {
            let _ = world.ask(manager.node, Service::Ec2, "DescribeInstances").await;
            for node in some {
                world.swarm.write(*node, |entry| entry.is_identified = true).await;
            }
        }
        world.time.sleep(LEADER.look).await;
    }
}

/// Sets the labels that new nodes request in their rows.
async fn label(manager: Rc<Manager>) {
    let world = &manager.world;
    loop {
        manager.list(LEADER.look).await;
        let due = {
            let ready = &world.fates.borrow().ready;
            world.swarm.bare(|node, entry| entry.is_identified && ready.contains_key(&node))
        };
        if manager.read(&due).await {
            for node in due {
                world.swarm.write(node, |entry| entry.is_labelled = true).await;
                world.fates.borrow_mut().labelled.insert(node, manager.now());
            }
        }
        world.time.sleep(LEADER.look).await;
    }
}
