//! Workers with the tasks of whole services ask to leave at any times, and one manager after the other decides. Every
//! task that a drain has stopped runs on another node some time later.

use std::collections::{BTreeMap, BTreeSet};

use bollard::models::TaskState;
use proptest::prelude::*;
use time::{Duration, OffsetDateTime};

use super::request;
use crate::clients::docker::{Availability, NodeView, Resources, Service, ServiceTask};
use crate::clients::ledger::{DepartureRow, DepartureState};
use crate::common::instance::{Reason, Role};
use crate::config::Settings;
use crate::manager::pace::memory::{Departure, Memory};
use crate::manager::pace::services::{Look, tests::NOW};
use crate::manager::pace::{Key, Turn};

/// Nodes that ask to leave. One more node stays.
const WORKERS: usize = 5;
const STAYS: &str = "stays";

#[derive(Clone, Debug)]
struct Plan {
    /// The workers of each service's replicas.
    services: Vec<Vec<usize>>,
    /// For each worker: when it asks, why, and how much time it has.
    requests: Vec<(i64, Reason, u64)>,
    /// How long the replacement of a task takes to run, in turn.
    delays: Vec<i64>,
    /// How long after its drain a node is off the list.
    ends_after: i64,
    /// For each poll, in turn: seconds since the last one, whether Docker lists the tasks, and whether another manager
    /// decides from now on.
    polls: Vec<(i64, bool, bool)>,
}

fn plan() -> impl Strategy<Value = Plan> {
    let service = prop::collection::vec(0..WORKERS, 1..6);
    let reason = prop::sample::select(vec![Reason::Lifecycle, Reason::Spot, Reason::Operator]);
    let request = (0i64..400, reason, 200u64..3000);
    let poll = (1i64..40, prop::bool::weighted(0.8), prop::bool::weighted(0.1));
    (
        prop::collection::vec(service, 1..4),
        prop::collection::vec(request, WORKERS),
        prop::collection::vec(0i64..300, 1..8),
        5i64..200,
        prop::collection::vec(poll, 1..30),
    )
        .prop_map(|(services, requests, delays, ends_after, polls)| Plan {
            services,
            requests,
            delays,
            ends_after,
            polls,
        })
}

struct World {
    now: OffsetDateTime,
    nodes: Vec<NodeView>,
    services: Vec<Service>,
    tasks: BTreeMap<String, Vec<ServiceTask>>,
    rows: Vec<DepartureRow>,
    /// When each node was drained.
    drained: BTreeMap<String, OffsetDateTime>,
    /// When the tasks run that have been created and do not run yet: by service and place in the list.
    starts: Vec<(OffsetDateTime, String, usize)>,
    delays: Vec<i64>,
}

fn name(worker: usize) -> String {
    format!("w{worker}")
}

fn task(slot: usize, node: &str, at: OffsetDateTime, state: TaskState) -> ServiceTask {
    ServiceTask {
        slot: slot.to_string(),
        created_at: at,
        state: Some(state),
        desired: TaskState::RUNNING,
        error: None,
        node_id: Some(node.to_owned()),
        reserved: Resources::default(),
    }
}

impl World {
    fn new(plan: &Plan) -> Self {
        let (mut services, mut tasks) = (vec![], BTreeMap::new());
        for (n, places) in plan.services.iter().enumerate() {
            let id = format!("s{n}");
            let service = serde_json::json!({
                "ID": id, "Version": { "Index": 1 }, "UpdatedAt": "2026-11-21T10:00:00Z",
                "Spec": { "Name": id, "Mode": { "Replicated": { "Replicas": places.len() } } },
            });
            services.push(serde_json::from_value(service).unwrap());
            let running = places.iter().enumerate().map(|(slot, worker)| {
                task(slot, &name(*worker), NOW - Duration::HOUR, TaskState::RUNNING)
            });
            tasks.insert(id, running.collect());
        }
        let workers = (0..WORKERS).map(name).chain([STAYS.to_owned()]);
        let nodes = workers.map(|id| NodeView::example(&id, Role::Worker)).collect();
        let delays = plan.delays.clone();
        let (rows, drained, starts) = (vec![], BTreeMap::new(), vec![]);
        Self { now: NOW, nodes, services, tasks, rows, drained, starts, delays }
    }

    /// Lets time pass: workers ask, tasks start, and nodes that were drained are removed.
    fn advance(&mut self, plan: &Plan, seconds: i64) {
        self.now += Duration::seconds(seconds);
        let now = self.now;
        for (worker, (at, reason, has)) in plan.requests.iter().enumerate() {
            let is_due = NOW + Duration::seconds(*at) <= now;
            if is_due && !self.rows.iter().any(|row| row.node_id == name(worker)) {
                let mut row = request(&name(worker), *reason, *has);
                row.requested_at += Duration::seconds(*at);
                row.deadline += Duration::seconds(*at);
                self.rows.push(row);
            }
        }
        for (at, service, n) in &self.starts {
            if *at <= now {
                self.tasks.get_mut(service).unwrap()[*n].state = Some(TaskState::RUNNING);
            }
        }
        self.starts.retain(|(at, ..)| *at > now);
        for row in &mut self.rows {
            let at = self.drained.get(&row.node_id);
            if at.is_some_and(|at| *at + Duration::seconds(plan.ends_after) <= now) {
                row.state = DepartureState::Removed;
                self.nodes.retain(|view| view.id != row.node_id);
            }
        }
    }

    fn drain(&mut self, node: &str) {
        let now = self.now;
        self.drained.insert(node.to_owned(), now);
        let view = self.nodes.iter_mut().find(|view| view.id == node).unwrap();
        view.availability = Availability::Drain;
        self.rows.iter_mut().find(|row| row.node_id == node).unwrap().state =
            DepartureState::Draining;
        for (service, tasks) in &mut self.tasks {
            for n in 0..tasks.len() {
                let is_there = tasks[n].node_id.as_deref() == Some(node);
                if !is_there || tasks[n].desired != TaskState::RUNNING {
                    continue;
                }
                (tasks[n].desired, tasks[n].state) =
                    (TaskState::SHUTDOWN, Some(TaskState::SHUTDOWN));
                let slot = tasks[n].slot.parse().unwrap();
                self.starts.retain(|(_, other, at)| (other, *at) != (service, n));
                self.delays.rotate_left(1);
                let starts = now + Duration::seconds(self.delays[0]);
                self.starts.push((starts, service.clone(), tasks.len()));
                tasks.push(task(slot, STAYS, now, TaskState::STARTING));
            }
        }
    }

    /// Whether every replica runs on a node that was not drained.
    fn is_whole(&self) -> bool {
        let runs = |slot: &str, tasks: &[ServiceTask]| {
            tasks.iter().any(|task| {
                let is_drained =
                    task.node_id.as_ref().is_some_and(|id| self.drained.contains_key(id));
                task.slot == slot && task.state == Some(TaskState::RUNNING) && !is_drained
            })
        };
        self.tasks.values().all(|tasks| {
            let slots: BTreeSet<&String> = tasks.iter().map(|task| &task.slot).collect();
            slots.into_iter().all(|slot| runs(slot, tasks))
        })
    }

    fn look(&self) -> Look {
        Look::new(&self.services, &self.tasks, &self.nodes, self.now)
    }
}

/// Lets the managers decide until everybody has been drained or its machine has ended.
fn run(plan: &Plan) -> Result<(), TestCaseError> {
    let (mut world, settings, mut memory) =
        (World::new(plan), Settings::default(), Memory::default());
    let end = NOW + Duration::seconds(4000);
    for (seconds, is_listed, is_another) in plan.polls.iter().cycle() {
        if world.now > end {
            break;
        }
        world.advance(plan, *seconds);
        if *is_another {
            memory = Memory::default();
        }
        let now = world.now;
        let departures: Vec<Departure<'_>> = world
            .rows
            .iter()
            .map(|row| (row, world.nodes.iter().find(|view| view.id == row.node_id)))
            .collect();
        let waiting = memory.observe(&departures, |_| false, true, &settings, now);
        let order: Vec<_> =
            waiting.iter().map(|it| (it.latest, it.requested_at, it.key.clone())).collect();
        let look = is_listed.then(|| world.look());
        let turns = memory.decide(waiting, look.as_ref(), &settings, now);
        prop_assert_eq!(turns.len(), order.len(), "each has an answer");
        let mut order = order;
        order.sort();
        let mut is_anybody_waiting = false;
        for (latest, requested_at, key) in order {
            let turn = &turns[&key];
            let row = world.rows.iter_mut().find(|row| Key::of(row) == key).unwrap();
            let most = (row.deadline - row.requested_at) * 0.7;
            match turn {
                Turn::Wait { until, after, .. } => {
                    is_anybody_waiting = true;
                    prop_assert!(now < *until && *until == latest);
                    prop_assert!(*until <= requested_at + most, "too late to be drained");
                    row.turn_by = Some(*until);
                    row.turn_after = Some(after.clone());
                }
                Turn::Now => {
                    let is_forced = latest <= now;
                    prop_assert!(!is_anybody_waiting || is_forced, "out of turn: {:?}", key);
                    let is_first = world.drained.is_empty();
                    let is_known = look.is_some() && world.is_whole();
                    // What has ended and was made up for counts no more, also where the list fails now.
                    let is_over = world.rows.iter().all(|row| {
                        matches!(row.state, DepartureState::Requested | DepartureState::Removed)
                    }) && world.is_whole();
                    prop_assert!(
                        is_forced || is_first || is_known || is_over,
                        "too early: {:?}",
                        key
                    );
                    world.drain(&key.node_id.clone());
                }
            }
        }
    }
    let is_left = |row: &&DepartureRow| row.state == DepartureState::Requested;
    prop_assert_eq!(world.rows.iter().find(is_left), None, "it was never drained");
    Ok(())
}

proptest! {
    /// Two drains are not under way while a service is worse off and time remains; everybody is drained in time, the
    /// most urgent first; nobody waits for ever.
    #[test]
    fn nobody_is_drained_too_early_or_too_late(plan in plan()) {
        run(&plan)?;
    }
}
