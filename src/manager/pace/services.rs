//! The condition of the services: how many of their tasks run on nodes that stay, and how many ran before the first of
//! several departures. Pure.
//!
//! Only replicated services count. A job ends by itself, and a global service loses the task of a node that leaves for
//! good, which is no harm.

use std::collections::{BTreeMap, BTreeSet};

use bollard::models::TaskState;
use time::{Duration, OffsetDateTime};

use crate::clients::docker::{Availability, NodeView, Service, ServiceTask};

/// Number of tasks of one replica that must have failed within [`FAILURES_WITHIN`], so that its next task is expected to
/// fail, too.
const FAILURES: usize = 2;
const FAILURES_WITHIN: Duration = Duration::minutes(10);

/// The services' tasks and the nodes that can run them, at one time.
#[derive(Clone, Debug)]
pub(super) struct Look {
    services: BTreeMap<String, Replicated>,
    /// Nodes that are neither drained nor Down.
    usable: BTreeSet<String>,
    at: OffsetDateTime,
}

/// A replicated service.
#[derive(Clone, Debug)]
struct Replicated {
    name: String,
    desired: usize,
    /// The tasks of each replica, the newest first.
    slots: BTreeMap<String, Vec<ServiceTask>>,
}

/// For each service, the number of replicas that ran before the first of several departures began, without those that
/// kept failing. A service that was short of tasks then is not in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Baseline(BTreeMap<String, usize>);

impl Look {
    /// Puts together Docker's answers. The nodes must have been listed after the tasks: a node that has started to drain
    /// between the two must not count.
    pub(super) fn new(
        services: &[Service],
        tasks: &BTreeMap<String, Vec<ServiceTask>>,
        nodes: &[NodeView],
        at: OffsetDateTime,
    ) -> Self {
        let replicated = services.iter().filter_map(|service| {
            let desired = usize::try_from(service.replicas()?).ok()?;
            let mut slots: BTreeMap<String, Vec<ServiceTask>> = BTreeMap::new();
            for task in tasks.get(&service.id).into_iter().flatten() {
                slots.entry(task.slot.clone()).or_default().push(task.clone());
            }
            for tasks in slots.values_mut() {
                tasks.sort_by_key(|task| std::cmp::Reverse(task.created_at));
            }
            let name = service.name().to_owned();
            Some((service.id.clone(), Replicated { name, desired, slots }))
        });
        let is_usable =
            |view: &&NodeView| view.availability != Availability::Drain && !view.is_down();
        Self {
            services: replicated.collect(),
            usable: nodes.iter().filter(is_usable).map(|view| view.id.clone()).collect(),
            at,
        }
    }

    /// Returns the name of a service that has fewer running replicas than in the baseline, and fewer than it must have
    /// now. Tasks on the nodes `leaving` do not count.
    pub(super) fn worse_off(
        &self,
        baseline: &Baseline,
        leaving: &BTreeSet<String>,
    ) -> Option<&str> {
        let is_worse = |(id, service): &(&String, &Replicated)| {
            let before = baseline.0.get(*id).copied().unwrap_or_default();
            self.healthy(service, leaving).count() < before.min(service.desired)
        };
        self.services.iter().find(is_worse).map(|(_, service)| service.name.as_str())
    }

    /// Returns the replicas that have a running task on a node that stays.
    fn healthy<'a>(
        &'a self,
        service: &'a Replicated,
        leaving: &'a BTreeSet<String>,
    ) -> impl Iterator<Item = &'a String> {
        let stays = |id: &String| self.usable.contains(id) && !leaving.contains(id);
        let is_healthy = move |task: &ServiceTask| {
            task.desired == TaskState::RUNNING
                && task.state == Some(TaskState::RUNNING)
                && task.node_id.as_ref().is_some_and(stays)
        };
        let slots = service.slots.iter();
        slots.filter(move |(_, tasks)| tasks.iter().any(is_healthy)).map(|(slot, _)| slot)
    }
}

impl Baseline {
    /// Returns the condition of the services without the departures of the nodes `leaving`, the first of which was
    /// requested at `since`. Without departures, these are the replicas that run. With departures, a replica also counts
    /// if it ran on one of these nodes, or if it has started to wait for a node since then and nothing is known of it
    /// before.
    pub(super) fn of(look: &Look, leaving: &BTreeSet<String>, since: OffsetDateTime) -> Self {
        let before = look.services.iter().filter_map(|(id, service)| {
            let healthy: BTreeSet<&String> = look.healthy(service, leaving).collect();
            let (mut steady, mut failing) = (0, 0);
            for (slot, tasks) in &service.slots {
                if keeps_failing(tasks, look.at) {
                    failing += 1;
                } else if healthy.contains(slot) || was_taken(tasks, leaving, since) {
                    steady += 1;
                }
            }
            (steady + failing >= service.desired).then(|| (id.clone(), steady))
        });
        Self(before.collect())
    }
}

/// Whether the tasks of a replica have failed repeatedly of late.
fn keeps_failing(tasks: &[ServiceTask], now: OffsetDateTime) -> bool {
    let has_failed = |task: &&ServiceTask| {
        matches!(task.state, Some(TaskState::FAILED | TaskState::REJECTED))
            && now - task.created_at < FAILURES_WITHIN
    };
    tasks.iter().filter(has_failed).count() >= FAILURES
}

/// Whether the departures have taken a replica's task: it ran on one of the nodes `leaving`; or its only known task was
/// created since the first departure, so that its earlier one may have been forgotten.
fn was_taken(tasks: &[ServiceTask], leaving: &BTreeSet<String>, since: OffsetDateTime) -> bool {
    let has_failed = |task: &ServiceTask| {
        matches!(task.state, Some(TaskState::FAILED | TaskState::REJECTED | TaskState::COMPLETE))
    };
    let has_run_there = |task: &ServiceTask| {
        task.node_id.as_ref().is_some_and(|id| leaving.contains(id)) && !has_failed(task)
    };
    match tasks {
        [only] if !leaving.is_empty() && only.created_at >= since => true,
        tasks => tasks.iter().any(has_run_there),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::clients::docker::Resources;
    use crate::common::instance::Role;

    pub(in crate::manager::pace) const NOW: OffsetDateTime =
        time::macros::datetime!(2026-11-28 12:00 UTC);

    /// A task of replica `slot`, `age` seconds old, on this node.
    pub(in crate::manager::pace) fn task(
        slot: usize,
        age: i64,
        node: &str,
        state: TaskState,
    ) -> ServiceTask {
        let is_wanted = matches!(state, TaskState::RUNNING | TaskState::PENDING);
        ServiceTask {
            slot: slot.to_string(),
            created_at: NOW - Duration::seconds(age),
            state: Some(state),
            desired: if is_wanted { TaskState::RUNNING } else { TaskState::SHUTDOWN },
            error: None,
            node_id: (!node.is_empty()).then(|| node.to_owned()),
            reserved: Resources::default(),
        }
    }

    /// One service `web` with so many replicas, on nodes that can all run it.
    pub(in crate::manager::pace) fn look(
        desired: u64,
        tasks: Vec<ServiceTask>,
        nodes: &[&str],
    ) -> Look {
        let service = service("web", serde_json::json!({ "Replicated": { "Replicas": desired } }));
        let nodes: Vec<_> = nodes.iter().map(|id| NodeView::example(id, Role::Worker)).collect();
        Look::new(&[service], &[("web".to_owned(), tasks)].into(), &nodes, NOW)
    }

    fn service(name: &str, mode: serde_json::Value) -> Service {
        let service = serde_json::json!({
            "ID": name, "Version": { "Index": 1 }, "UpdatedAt": "2026-11-21T10:00:00Z",
            "Spec": { "Name": name, "Mode": mode },
        });
        serde_json::from_value(service).unwrap()
    }

    pub(in crate::manager::pace) fn set(ids: &[&str]) -> BTreeSet<String> {
        ids.iter().map(|id| (*id).to_owned()).collect()
    }

    use TaskState::{COMPLETE, FAILED, PENDING, RUNNING, SHUTDOWN};

    #[test]
    fn a_service_is_worse_off_while_a_replica_has_no_running_task_on_a_node_that_stays() {
        let before =
            look(2, vec![task(1, 900, "a", RUNNING), task(2, 900, "b", RUNNING)], &["a", "b"]);
        let baseline = Baseline::of(&before, &set(&[]), NOW);
        assert_eq!(before.worse_off(&baseline, &set(&[])), None);
        assert_eq!(before.worse_off(&baseline, &set(&["a"])), Some("web"));
        let starting = vec![
            task(1, 900, "a", SHUTDOWN),
            task(1, 5, "b", TaskState::STARTING),
            task(2, 900, "b", RUNNING),
        ];
        let starting = look(2, starting, &["a", "b"]);
        assert_eq!(starting.worse_off(&baseline, &set(&["a"])), Some("web"));
        let moved =
            vec![task(1, 900, "a", SHUTDOWN), task(1, 5, "b", RUNNING), task(2, 900, "b", RUNNING)];
        let moved = look(2, moved, &["a", "b"]);
        assert_eq!(moved.worse_off(&baseline, &set(&["a"])), None);
    }

    #[test]
    fn a_service_that_was_scaled_down_or_removed_is_measured_against_the_present() {
        let two = vec![task(1, 900, "a", RUNNING), task(2, 900, "b", RUNNING)];
        let baseline = Baseline::of(&look(2, two, &["a", "b"]), &set(&[]), NOW);
        let one = look(1, vec![task(2, 900, "b", RUNNING)], &["a", "b"]);
        assert_eq!(one.worse_off(&baseline, &set(&["a"])), None);
        let none = Look::new(&[], &BTreeMap::new(), &[], NOW);
        assert_eq!(none.worse_off(&baseline, &set(&["a"])), None);
    }

    #[test]
    fn what_was_broken_before_holds_nobody_up() {
        let short = vec![task(1, 900, "a", RUNNING), task(2, 900, "", PENDING)];
        let short = look(2, short, &["a"]);
        assert_eq!(Baseline::of(&short, &set(&[]), NOW), Baseline::default(), "no node takes it");
        let crashing = vec![
            task(1, 900, "a", RUNNING),
            task(2, 60, "a", FAILED),
            task(2, 30, "a", FAILED),
            task(2, 1, "a", RUNNING),
        ];
        let crashing = look(2, crashing, &["a", "b"]);
        let baseline = Baseline::of(&crashing, &set(&[]), NOW);
        assert_eq!(baseline.0["web"], 1, "the other replica counts");
        let long_ago = vec![
            task(1, 9000, "a", FAILED),
            task(1, 8000, "a", FAILED),
            task(1, 700, "a", RUNNING),
        ];
        assert_eq!(Baseline::of(&look(1, long_ago, &["a"]), &set(&[]), NOW).0["web"], 1);
    }

    #[test]
    fn jobs_and_global_services_do_not_count() {
        let modes = ["ReplicatedJob", "GlobalJob", "Global"];
        let services = modes.map(|mode| service(mode, serde_json::json!({ mode: {} })));
        let tasks = modes.map(|mode| (mode.to_owned(), vec![task(1, 900, "a", RUNNING)]));
        let nodes = [NodeView::example("a", Role::Worker)];
        let look = Look::new(&services, &tasks.into(), &nodes, NOW);
        assert_eq!(Baseline::of(&look, &set(&[]), NOW), Baseline::default());
    }

    #[test]
    fn drained_and_dead_nodes_run_nothing_that_counts() {
        let tasks = || [("web".to_owned(), vec![task(1, 900, "a", RUNNING)])].into();
        let web = [service("web", serde_json::json!({ "Replicated": { "Replicas": 1 } }))];
        let node = NodeView::example("a", Role::Worker);
        let drained = NodeView { availability: Availability::Drain, ..node.clone() };
        let down = NodeView { state: "down".into(), ..node.clone() };
        let paused = NodeView { availability: Availability::Pause, ..node };
        for (view, healthy) in [(drained, 0), (down, 0), (paused, 1)] {
            let look = Look::new(&web, &tasks(), &[view], NOW);
            assert_eq!(look.healthy(&look.services["web"], &set(&[])).count(), healthy);
        }
    }

    /// Such as by a leader that has just been elected.
    #[test]
    fn in_the_middle_of_departures_the_condition_before_them_is_found_again() {
        let leaving = set(&["a"]);
        let since = NOW - Duration::seconds(60);
        let before = |tasks: Vec<ServiceTask>| {
            let desired = tasks.iter().map(|task| task.slot.clone()).collect::<BTreeSet<_>>().len();
            Baseline::of(&look(desired as u64, tasks, &["b"]), &leaving, since).0
        };
        let stays = || task(2, 900, "b", RUNNING);
        let taken =
            vec![task(1, 900, "a", SHUTDOWN), task(1, 30, "b", TaskState::STARTING), stays()];
        assert_eq!(before(taken)["web"], 2);
        assert_eq!(before(vec![task(1, 900, "a", RUNNING), stays()])["web"], 2, "still there");
        assert_eq!(before(vec![task(1, 30, "", PENDING), stays()])["web"], 2, "forgotten");
        let short = vec![task(1, 300, "", PENDING), stays()];
        assert!(before(short).is_empty(), "it has waited for a node before");
        let elsewhere = vec![task(1, 900, "c", SHUTDOWN), task(1, 30, "", PENDING), stays()];
        assert!(before(elsewhere).is_empty(), "another cause");
        let ended = vec![task(1, 900, "a", COMPLETE), task(1, 30, "", PENDING), stays()];
        assert!(before(ended).is_empty(), "it had ended by itself");
    }
}
