//! Plays the parts of a demo. Each part ends when its result is observed, not after a fixed time.

use std::cell::RefCell;
use std::time::Duration;

use anyhow::{Context, bail};
use bollard::models::NodeState;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::cloud::TargetState;
use crate::fleet::{ClusterSpec, Fleet, is_running, on_every_worker, start_first, workload};
use crate::stage::Mark;
use crate::witness::client::Counts;
use crate::witness::record::{NodeRecord, Record, SCALED_IN, SPOT};

const SERVICE: &str = "web";
const REPLICAS: usize = 8;
/// Seconds for a request of the service: its containers finish the request after SIGTERM.
const REQUEST: f32 = 2.0;
/// A service of one replica.
pub const SINGLE: &str = "single";
/// Docker's default.
pub(super) const STOP_GRACE: Duration = Duration::from_secs(10);
/// A service with a port, behind the load balancer, and the port on each worker.
const FRONT: &str = "front";
pub const FRONT_PORT: u16 = 8080;
/// Time for a task of the front service to finish its requests.
const FRONT_GRACE: Duration = Duration::from_secs(30);
/// Number of answers that the client needs before the next part begins.
const FIRST_ANSWERS: u64 = 200;
/// Less than EC2's 2 min: the node needs only seconds, and the demo should be short.
const SPOT_NOTICE: Duration = Duration::from_secs(40);
/// Timeout of a part. On two idle cores, every part takes less than a third of it.
pub(super) const PART_LIMIT: Duration = Duration::from_secs(75);
/// The same of a part that a UserData script may never finish: a stack's update would go on, too.
const SCRIPT_LIMIT: Duration = Duration::from_secs(20);
/// Interval between two polls of the record.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Timeout of one call: without a leader, Docker's API hangs for longer.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

pub struct Story<'a> {
    pub fleet: &'a Fleet,
    pub cluster: &'a ClusterSpec,
    pub record: &'a RefCell<Record>,
    /// What becomes of the requests of the client.
    pub requests: Counts,
    /// The client starts once this is cancelled.
    pub serves: CancellationToken,
    /// A UserData script runs instead of skep. Then what skep would do is not waited for without end.
    pub is_scripted: bool,
}

impl Story<'_> {
    /// Plays the whole story.
    ///
    /// # Errors
    /// Names the part that did not finish in time.
    pub async fn play(&self) -> anyhow::Result<()> {
        self.boot().await?;
        self.start_service().await?;
        self.start_front().await?;
        self.scale_in().await?;
        self.lose_leader().await?;
        self.lose_spot_instance().await?;
        self.replace_workers().await?;
        self.follow_tasks().await?;
        self.settle().await
    }

    async fn boot(&self) -> anyhow::Result<()> {
        let ClusterSpec { managers, workers, .. } = self.cluster;
        self.heading(&format!("{managers} managers and {workers} workers boot at once"));
        self.fleet.create_cluster(self.cluster)?;
        let all = (managers + workers) as usize;
        if self.is_scripted {
            let what = "every node in the node list";
            return self
                .until(what, |record| {
                    let list = &record.swarm.list;
                    list.len() == all && list.iter().all(|node| node.state == NodeState::READY)
                })
                .await;
        }
        self.until("every node Ready and the stack complete", |record| {
            let stack = self.fleet.cloud().stack(&self.cluster.name);
            in_service(record).count() == all
                && stack.is_some_and(|stack| stack.status == "CREATE_COMPLETE")
        })
        .await
    }

    async fn start_service(&self) -> anyhow::Result<()> {
        self.heading(&format!("a service starts: {REPLICAS} replicas that finish what they do"));
        let command = workload::slow_to_stop(REQUEST);
        self.fleet.create_service(SERVICE, REPLICAS as u32, command.clone(), STOP_GRACE).await?;
        self.fleet.create_service_of(start_first(SINGLE, 1, command, STOP_GRACE)?).await?;
        self.say(
            None,
            &format!(
                "service {SERVICE}: told to stop, a task needs {REQUEST} s to exit with 0; its grace is {} s",
                STOP_GRACE.as_secs()
            ),
        );
        self.say(
            None,
            &format!(
                "service {SINGLE}: one replica, which starts elsewhere before its node is drained"
            ),
        );
        self.until_running().await?;
        self.until("the single replica", |record| !record.single.nodes.is_empty()).await
    }

    async fn start_front(&self) -> anyhow::Result<()> {
        self.heading("a client sends requests through the load balancer");
        let command = workload::web(FRONT_PORT);
        let service = on_every_worker(FRONT, FRONT_PORT, command, FRONT_GRACE)?;
        self.fleet.create_service_of(service).await?;
        self.until_balanced(self.cluster.workers as usize).await?;
        self.serves.cancel();
        self.until("the first answers", |_| self.requests.now().answered >= FIRST_ANSWERS).await?;
        self.say(
            Some(Mark::Good),
            &format!(
                "service {FRONT}: a task on every worker, at port {FRONT_PORT}; one request in twenty takes {} s",
                workload::LONG_REQUEST.as_secs()
            ),
        );
        Ok(())
    }

    async fn scale_in(&self) -> anyhow::Result<()> {
        self.heading("a worker is scaled in");
        let group = self.cluster.workers_group();
        self.fleet.cloud().set_desired(&group, self.cluster.workers - 1)?;
        let victim = self
            .find("a worker that Auto Scaling has chosen", |record| {
                let chosen = |node: &&NodeRecord| node.noticed.is_some();
                record.nodes.iter().find(chosen).map(|node| node.instance.clone())
            })
            .await?;
        if let Some(node) = self.record.borrow_mut().node_mut(&victim) {
            node.reason = Some(SCALED_IN);
        }
        self.until_gone(&victim).await?;
        self.until_running().await
    }

    async fn lose_leader(&self) -> anyhow::Result<()> {
        self.heading("the swarm leader's instance is terminated and replaced");
        let leader = self.fleet.leader().await?;
        let all = in_service(&self.record.borrow()).count();
        self.fleet.cloud().terminate(leader.id(), false)?;
        self.until_gone(leader.id()).await?;
        self.until_replaced(all).await
    }

    async fn lose_spot_instance(&self) -> anyhow::Result<()> {
        self.heading("a spot notice takes a worker");
        let worker = self.fleet.group(&self.cluster.workers_group()).pop().context("no worker")?;
        let all = in_service(&self.record.borrow()).count();
        self.fleet.cloud().spot_notice(worker.id(), "terminate", SPOT_NOTICE)?;
        if !self.is_scripted {
            self.until("the worker off the node list", |record| {
                let node = record.node(worker.id());
                node.is_some_and(|node| node.reason == Some(SPOT) && node.off_list.is_some())
            })
            .await?;
        }
        self.say(
            None,
            &format!("EC2 takes the instance {} s after the notice", SPOT_NOTICE.as_secs()),
        );
        self.heading("a worker is added while EC2 takes that one");
        self.fleet.cloud().set_desired(&self.cluster.workers_group(), self.cluster.workers)?;
        self.until_gone(worker.id()).await?;
        self.until_replaced(all + 1).await?;
        self.until_balanced(self.cluster.workers as usize).await
    }

    /// Replaces all workers, one after the other, as an update of the stack does: the new one serves before the next one
    /// is terminated.
    async fn replace_workers(&self) -> anyhow::Result<()> {
        self.heading("all workers are replaced, one after the other");
        let all = in_service(&self.record.borrow()).count();
        for worker in self.fleet.group(&self.cluster.workers_group()) {
            self.fleet.cloud().terminate(worker.id(), false)?;
            self.until_gone(worker.id()).await?;
            self.until_replaced(all).await?;
            self.until_balanced(self.cluster.workers as usize).await?;
        }
        Ok(())
    }

    /// Waits until the load balancer calls this number of targets healthy.
    async fn until_balanced(&self, targets: usize) -> anyhow::Result<()> {
        let what = format!("{targets} healthy targets");
        let balanced = self.until(&what, |_| {
            let all = self.fleet.cloud().targets();
            all.iter().filter(|it| it.health.state == TargetState::Healthy).count() == targets
        });
        if !self.is_scripted {
            return balanced.await;
        }
        timeout(SCRIPT_LIMIT, balanced).await.unwrap_or_else(|_| {
            self.say(Some(Mark::Bad), &format!("the load balancer has not got {what}"));
            Ok(())
        })
    }

    /// Waits until the node list has exactly the live instances, all of them Ready.
    async fn settle(&self) -> anyhow::Result<()> {
        self.heading("what is left");
        if self.is_scripted {
            let list = self.record.borrow().swarm.list.clone();
            let down = list.iter().filter(|node| node.state != NodeState::READY).count();
            let text = format!("the node list has {} nodes, {down} of them Down", list.len());
            self.say(Some(Mark::Bad).filter(|_| down > 0), &text);
            return Ok(());
        }
        self.until("a node list with nothing but Ready nodes of live instances", |record| {
            let alive = in_service(record).count();
            record.swarm.list.len() == alive
                && in_service(record).all(|node| {
                    let listed = record.swarm.at(node.address);
                    listed.is_some_and(|listed| listed.state == NodeState::READY)
                })
        })
        .await?;
        let nodes = self.record.borrow().swarm.list.len();
        self.say(None, &format!("the node list has {nodes} nodes, all Ready"));
        Ok(())
    }

    /// Waits until an instance is off the node list and its power is off, which is after its hook if it has one.
    pub(super) async fn until_gone(&self, instance: &str) -> anyhow::Result<()> {
        let what = format!("{} out of the swarm and gone", self.record.borrow().name(instance));
        self.until(&what, |record| {
            let node = record.node(instance);
            node.is_some_and(|node| {
                let is_off_list = node.off_list.is_some() || self.is_scripted;
                node.powered_off.is_some() && is_off_list
            })
        })
        .await
    }

    /// Waits until `all` nodes are in service and the service is whole again.
    async fn until_replaced(&self, all: usize) -> anyhow::Result<()> {
        if self.is_scripted {
            let whole = self.until_listed(all);
            let short = "the replacement is not in the swarm, or the service is short of tasks";
            return timeout(SCRIPT_LIMIT, whole).await.unwrap_or_else(|_| {
                self.say(Some(Mark::Bad), short);
                Ok(())
            });
        }
        self.until("a replacement in service", |record| in_service(record).count() == all).await?;
        self.until_running().await
    }

    async fn until_listed(&self, all: usize) -> anyhow::Result<()> {
        self.until("a replacement in the node list", |record| {
            let is_up = |node: &&NodeRecord| {
                let listed = record.swarm.at(node.address);
                listed.is_some_and(|listed| listed.state == NodeState::READY)
            };
            in_service(record).filter(is_up).count() == all
        })
        .await?;
        self.until_running().await
    }

    async fn until_running(&self) -> anyhow::Result<()> {
        let begin = Instant::now();
        let mut last = String::new();
        while begin.elapsed() < PART_LIMIT {
            match timeout(ANSWER_LIMIT, self.fleet.tasks_of_service(SERVICE)).await {
                Ok(Ok(tasks)) => {
                    let running = tasks.iter().filter(|task| is_running(task)).count();
                    if running == REPLICAS {
                        self.say(
                            Some(Mark::Good),
                            &format!("service {SERVICE}: {running} of {REPLICAS} run"),
                        );
                        return Ok(());
                    }
                    last = format!("{running} run");
                }
                Ok(Err(error)) => last = format!("{error:#}"),
                Err(_) => last = "Docker does not answer".to_owned(),
            }
            sleep(LOOK_EVERY).await;
        }
        bail!(
            "waited {} s in vain for {REPLICAS} running tasks of {SERVICE}: {last}",
            PART_LIMIT.as_secs()
        )
    }

    pub(super) async fn until(
        &self,
        what: &str,
        holds: impl Fn(&Record) -> bool,
    ) -> anyhow::Result<()> {
        self.find(what, |record| holds(record).then_some(())).await
    }

    pub(super) async fn find<T>(
        &self,
        what: &str,
        look: impl Fn(&Record) -> Option<T>,
    ) -> anyhow::Result<T> {
        let begin = Instant::now();
        while begin.elapsed() < PART_LIMIT {
            if let Some(found) = look(&self.record.borrow()) {
                return Ok(found);
            }
            sleep(LOOK_EVERY).await;
        }
        bail!("waited {} s in vain for {what}", PART_LIMIT.as_secs())
    }

    pub(super) fn heading(&self, what: &str) {
        let mut record = self.record.borrow_mut();
        let now = record.now();
        record.tale.heading(now, what);
    }

    pub(super) fn say(&self, mark: impl Into<Option<Mark>>, what: &str) {
        let mut record = self.record.borrow_mut();
        let now = record.now();
        record.tale.tell(now, None, what, mark.into());
    }
}

pub(super) fn in_service(record: &Record) -> impl Iterator<Item = &NodeRecord> {
    record.nodes.iter().filter(|node| node.in_service && node.powered_off.is_none())
}
