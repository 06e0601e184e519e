//! The recorded facts about a fleet with the moment of each, from which the table and the verdict follow. No fact is
//! withdrawn.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use serde::Serialize;
use time::OffsetDateTime;

use super::single::Single;
use super::swarm::SwarmFacts;
use super::tale::Tale;
use crate::cloud::ActionResult;
use crate::fleet::{ContainerEvent, TERMINATION_HOOK};

/// A node's reason to leave: Auto Scaling terminates its instance.
pub const TERMINATED: &str = "terminated";
/// The same, without a replacement.
pub const SCALED_IN: &str = "scaled in";
/// A node's reason to leave: a spot interruption, which waits for no hook.
pub const SPOT: &str = "spot";

/// Exit code of a container that was killed.
const KILLED: i32 = 137;

/// All recorded facts.
#[derive(Debug)]
pub struct Record {
    /// The moment to which all times are relative.
    pub started: OffsetDateTime,
    /// In the order of their launches.
    pub nodes: Vec<NodeRecord>,
    pub swarm: SwarmFacts,
    /// The service of one replica, where there is one.
    pub single: Single,
    pub tale: Tale,
}

/// The facts about one instance. Moments are seconds since the start of the record.
#[derive(Clone, Debug, Serialize)]
pub struct NodeRecord {
    /// `worker-2`: the role, and the number of the launch within it.
    pub name: String,
    pub instance: String,
    pub address: Ipv4Addr,
    pub zone: String,
    pub launched: f64,
    /// Its skep has sent `READY=1`.
    pub ready: Option<f64>,
    pub in_service: bool,
    /// Its reason to leave.
    pub reason: Option<&'static str>,
    pub noticed: Option<f64>,
    /// A manager's node list first showed the availability `drain`.
    pub drain_accepted: Option<f64>,
    /// The drain was accepted, and the last task container has ended.
    pub drained: Option<f64>,
    /// Whether it is or was in the node list.
    pub was_listed: bool,
    pub off_list: Option<f64>,
    /// Whether a node list has shown it as a manager.
    pub was_in_raft: bool,
    /// Since this moment, no node list has shown it as a manager.
    pub out_of_raft: Option<f64>,
    /// The termination hook was completed; for a spot interruption, which waits for no hook, the node was off the list.
    pub completed: Option<f64>,
    pub powered_off: Option<f64>,
    pub hooks_completed: u32,
    /// Hooks completed with ABANDON.
    pub hooks_abandoned: u32,
    pub hooks_timed_out: u32,
    pub tasks: Tasks,
}

/// The ends of a node's task containers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tasks {
    pub running: usize,
    /// Exit code 0, or killed only after the full grace.
    pub with_grace: usize,
    /// Exit code 137, or the power was cut while they ran.
    pub without_grace: usize,
    /// Another exit code: ended by itself, or in an unexpected way.
    pub failed: usize,
    /// Moment of the last end, in nanoseconds since 1970.
    #[serde(skip)]
    pub last_end: i64,
}

impl Tasks {
    /// Counts the ends. `is_gone`: the instance's power is off, which also ended all containers that still ran.
    pub fn count(events: &[ContainerEvent], is_gone: bool) -> Tasks {
        // By container: its exit code, if it has ended.
        let mut ends: BTreeMap<&str, Option<i32>> = BTreeMap::new();
        let mut tasks = Tasks::default();
        for event in events.iter().filter(|event| event.task.is_some()) {
            match event.action.as_str() {
                "start" => drop(ends.entry(&event.container).or_default()),
                "die" => {
                    let had_grace = event.exit_code == Some(KILLED) && event.had_its_grace(events);
                    let end = if had_grace { Some(0) } else { event.exit_code };
                    ends.insert(&event.container, end);
                    tasks.last_end = tasks.last_end.max(event.nanos);
                }
                _ => {}
            }
        }
        for end in ends.into_values() {
            match end {
                Some(0) => tasks.with_grace += 1,
                Some(KILLED) => tasks.without_grace += 1,
                Some(_) => tasks.failed += 1,
                None if is_gone => tasks.without_grace += 1,
                None => tasks.running += 1,
            }
        }
        tasks
    }
}

impl Record {
    pub fn new(tale: Tale) -> Record {
        let started = OffsetDateTime::now_utc();
        let (swarm, single) = (SwarmFacts::default(), Single::default());
        Record { started, nodes: Vec::new(), swarm, single, tale }
    }

    /// A moment as seconds since the start.
    pub fn moment(&self, at: OffsetDateTime) -> f64 {
        (at - self.started).as_seconds_f64()
    }

    pub fn now(&self) -> f64 {
        self.moment(OffsetDateTime::now_utc())
    }

    pub fn launched(
        &mut self,
        instance: &str,
        group: &str,
        zone: &str,
        address: Ipv4Addr,
        at: f64,
    ) {
        // `demo-managers` has the nodes `manager-1`, `manager-2` and so on.
        let role = group.rsplit_once('-').map_or(group, |(_, role)| role).trim_end_matches('s');
        let number = self.nodes.iter().filter(|node| node.name.starts_with(role)).count() + 1;
        self.nodes.push(NodeRecord {
            name: format!("{role}-{number}"),
            instance: instance.to_owned(),
            address,
            zone: zone.to_owned(),
            launched: at,
            ready: None,
            in_service: false,
            reason: None,
            noticed: None,
            drain_accepted: None,
            drained: None,
            was_listed: false,
            off_list: None,
            was_in_raft: false,
            out_of_raft: None,
            completed: None,
            powered_off: None,
            hooks_completed: 0,
            hooks_abandoned: 0,
            hooks_timed_out: 0,
            tasks: Tasks::default(),
        });
    }

    pub fn node(&self, instance: &str) -> Option<&NodeRecord> {
        self.nodes.iter().find(|node| node.instance == instance)
    }

    pub fn node_mut(&mut self, instance: &str) -> Option<&mut NodeRecord> {
        self.nodes.iter_mut().find(|node| node.instance == instance)
    }

    /// An instance's readable name.
    pub fn name(&self, instance: &str) -> String {
        self.node(instance).map_or_else(|| instance.to_owned(), |node| node.name.clone())
    }

    pub fn name_at(&self, address: Ipv4Addr) -> String {
        let found = self.nodes.iter().find(|node| node.address == address);
        found.map_or_else(|| address.to_string(), |node| node.name.clone())
    }

    /// Records a notice. Only the first one counts, as for skep.
    pub fn noticed(&mut self, instance: &str, reason: &'static str, at: f64) {
        if let Some(node) = self.node_mut(instance).filter(|node| node.noticed.is_none()) {
            node.noticed = Some(at);
            node.reason = Some(reason);
        }
    }

    pub fn hook_completed(&mut self, instance: &str, hook: &str, result: ActionResult, at: f64) {
        if let Some(node) = self.node_mut(instance) {
            node.hooks_completed += 1;
            node.hooks_abandoned += u32::from(result == ActionResult::Abandon);
            if hook == TERMINATION_HOOK {
                node.completed = Some(at);
            }
        }
    }

    /// Sets the counts of a node's tasks. If that makes the node drained, returns the moment of the drain.
    pub fn tasks_changed(&mut self, instance: &str, tasks: Tasks) -> Option<f64> {
        let last_end = Duration::from_nanos(tasks.last_end.unsigned_abs());
        let last_end = self.moment(OffsetDateTime::UNIX_EPOCH + last_end);
        let node = self.node_mut(instance)?;
        node.tasks = tasks;
        let accepted = node.drain_accepted?;
        if tasks.running > 0 || node.drained.is_some() {
            return None;
        }
        node.drained = Some(accepted.max(last_end));
        node.drained
    }
}

impl NodeRecord {
    /// Records whether a node list shows it as a manager.
    pub fn listed_in_raft(&mut self, is_manager: bool, at: f64) {
        if is_manager {
            self.was_in_raft = true;
            self.out_of_raft = None;
        } else if self.was_in_raft {
            self.out_of_raft.get_or_insert(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(container: &str, action: &str, exit_code: Option<i32>) -> ContainerEvent {
        ContainerEvent {
            nanos: 1,
            action: action.to_owned(),
            container: container.to_owned(),
            task: Some(format!("task of {container}")),
            service: None,
            exit_code,
            signal: None,
        }
    }

    #[test]
    fn a_task_is_counted_by_how_its_container_ended() {
        let mut events = vec![
            event("a", "start", None),
            event("a", "kill", None),
            event("a", "die", Some(0)),
            event("b", "start", None),
            event("b", "die", Some(137)),
            event("c", "start", None),
            event("c", "die", Some(1)),
            event("d", "start", None),
        ];
        events.push(ContainerEvent { task: None, ..event("no task", "die", Some(137)) });
        let on = Tasks::count(&events, false);
        assert_eq!((on.running, on.with_grace, on.without_grace, on.failed), (1, 1, 1, 1));
        let gone = Tasks::count(&events, true);
        assert_eq!((gone.running, gone.without_grace), (0, 2), "the power took the last one");
    }

    #[test]
    fn nodes_are_named_by_role_and_launch() {
        let mut record = Record::new(Tale::silent());
        for (instance, group) in
            [("i-1", "demo-managers"), ("i-2", "demo-workers"), ("i-3", "demo-managers")]
        {
            record.launched(instance, group, "a", Ipv4Addr::LOCALHOST, 0.0);
        }
        assert_eq!(record.name("i-3"), "manager-2");
        assert_eq!(record.name("i-9"), "i-9");
    }
}
