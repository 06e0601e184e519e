//! Watches a fleet from outside: every Docker daemon, the charter and the cloud, for the whole time of a demo or a
//! campaign, so that forbidden states are also found when they do not last until the end.
//!
//! [`Witness`] polls and [`listen`] receives events; both write to one [`record`].

pub mod client;
pub mod listen;
pub mod record;
pub mod single;
pub mod swarm;
pub mod tale;

use std::cell::RefCell;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bollard::Docker;
use bollard::models::Node;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use serde_json::json;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use crate::fleet::{ClusterSpec, Fleet, Instance};
use crate::stage::Mark;
use record::{Record, SPOT, Tasks};

/// Interval between two polls of one daemon.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Interval between two polls of readiness, which cost almost nothing: the sim itself has the answer.
const READY_EVERY: Duration = Duration::from_millis(20);
/// Timeout of a call: without a leader, Docker's API hangs, and the poll counts as one without a leader.
const PATIENCE: Duration = Duration::from_secs(1);

pub struct Witness<'a> {
    pub fleet: &'a Fleet,
    pub cluster: &'a ClusterSpec,
    pub record: &'a RefCell<Record>,
}

impl Witness<'_> {
    /// Watches the fleet for ever, each daemon independently: one that hangs must not hide the others.
    pub async fn watch(&self) -> Infallible {
        let mut daemons = FuturesUnordered::new();
        let mut known = 0;
        let mut ticks = interval(READY_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {
                    for instance in self.fleet.all_instances().into_iter().skip(known) {
                        known += 1;
                        daemons.push(self.watch_instance(instance));
                    }
                    self.look_for_ready();
                    self.look_at_charter();
                }
                Some(()) = daemons.next() => {}
            }
        }
    }

    fn look_for_ready(&self) {
        let mut record = self.record.borrow_mut();
        let now = record.now();
        let waiting: Vec<usize> =
            (0..record.nodes.len()).filter(|&index| record.nodes[index].ready.is_none()).collect();
        for index in waiting {
            let node = &mut record.nodes[index];
            let instance = self.fleet.instance(&node.instance);
            if instance.is_some_and(|instance| instance.is_ready()) {
                node.ready = Some(now);
                let (name, took) = (node.name.clone(), now - node.launched);
                let what = format!("Ready {took:.1} s after its launch");
                record.tale.tell(now, Some(&name), &what, Some(Mark::Good));
            }
        }
    }

    fn look_at_charter(&self) {
        let key = json!({ "cluster": { "S": self.cluster.name }, "item": { "S": "charter" } });
        let request = json!({ "TableName": self.cluster.table, "Key": key });
        let Ok(request) = serde_json::from_value(request) else { return };
        let Ok(answer) = self.fleet.cloud().database().get_item(request) else { return };
        let Ok(answer) = serde_json::to_value(answer) else { return };
        let charter = &answer["Item"];
        let mut record = self.record.borrow_mut();
        if let Some(id) = charter["swarm_id"]["S"].as_str() {
            record.swarm.named(id, "the charter");
        }
        let generation =
            charter["generation"]["N"].as_str().and_then(|text| text.parse::<u64>().ok());
        record.swarm.generations.extend(generation);
    }

    async fn watch_instance(&self, instance: Arc<Instance>) {
        while !instance.is_gone() {
            match instance.docker() {
                Ok(docker) => self.look(&instance, &docker).await,
                Err(_) => sleep(LOOK_EVERY).await,
            }
            self.count_tasks(&instance);
            sleep(LOOK_EVERY).await;
        }
        self.count_tasks(&instance);
    }

    /// Polls one daemon. A manager's daemon returns the swarm id and the node list; all others refuse both calls at
    /// once. The swarm id of a worker is in its certificate.
    async fn look(&self, instance: &Instance, docker: &Docker) {
        let (nodes, swarm) = tokio::join!(
            timeout(PATIENCE, docker.list_nodes(None)),
            timeout(PATIENCE, docker.inspect_swarm())
        );
        let mut record = self.record.borrow_mut();
        record.swarm.looks += 1;
        if let Some(id) = instance.swarm_by_certificate() {
            let name = record.name(instance.id());
            record.swarm.named(&id, &name);
        }
        if let Ok(Ok(Some(id))) = swarm.map(|answer| answer.map(|swarm| swarm.id)) {
            let name = record.name(instance.id());
            record.swarm.named(&id, &name);
        }
        if let Ok(Ok(nodes)) = nodes {
            saw_nodes(&mut record, &nodes);
        }
    }

    fn count_tasks(&self, instance: &Instance) {
        let tasks = Tasks::count(&instance.container_events(), instance.is_gone());
        let mut record = self.record.borrow_mut();
        let Some(drained) = record.tasks_changed(instance.id(), tasks) else { return };
        let Some(node) = record.node(instance.id()) else { return };
        let noticed = node.noticed.map_or_else(String::new, |noticed| {
            format!("drained {:.1} s after the notice: ", drained - noticed)
        });
        let (name, now) = (node.name.clone(), record.now());
        let lost = tasks.without_grace + tasks.failed;
        let what =
            format!("{noticed}{} tasks ended with their grace, {lost} without", tasks.with_grace);
        let mark = if lost == 0 { Mark::Good } else { Mark::Bad };
        record.tale.tell(now, Some(&name), &what, Some(mark));
    }
}

/// Records one manager's node list. An address that is used again belongs to its last owner.
fn saw_nodes(record: &mut Record, nodes: &[Node]) {
    let now = record.now();
    let had_leader = record.swarm.leader.is_some();
    if let Some(leader) = record.swarm.listed(nodes, now)
        && had_leader
    {
        let name = record.name_at(leader);
        record.tale.tell(now, Some(&name), "leads the swarm now", None);
    }
    for index in 0..record.nodes.len() {
        let address = record.nodes[index].address;
        if record.nodes[index + 1..].iter().any(|later| later.address == address) {
            continue;
        }
        let listed = record.swarm.at(address);
        let is_draining = listed.map(|listed| listed.is_draining);
        let is_manager = listed.is_some_and(|listed| listed.is_manager);
        let node = &mut record.nodes[index];
        node.listed_in_raft(is_manager, now);
        let news = match is_draining {
            Some(is_draining) => {
                node.was_listed = true;
                let is_new = is_draining && node.drain_accepted.is_none();
                is_new.then(|| {
                    node.drain_accepted = Some(now);
                    "drain accepted: no new tasks, the present ones stop"
                })
            }
            None if node.was_listed && node.off_list.is_none() => {
                node.off_list = Some(now);
                if node.reason == Some(SPOT) {
                    node.completed = Some(now);
                }
                Some("off the node list")
            }
            None => None,
        };
        if let Some(news) = news {
            let name = node.name.clone();
            record.tale.tell(now, Some(&name), news, None);
        }
    }
}
