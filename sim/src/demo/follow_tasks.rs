//! Plays the last parts of a demo: a group that follows its tasks.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{bail, ensure};
use tokio::time::{Instant, sleep};

use super::story::{LOOK_EVERY, PART_LIMIT, STOP_GRACE, Story, in_service};
use crate::cloud::{Metric, PolicyPace, PolicySpec};
use crate::fleet::is_running;
use crate::stage::Mark;
use crate::witness::record::{NodeRecord, SCALED_IN};

/// A service whose tasks must not be moved, and one that is removed again.
const RENDER: &str = "render";
const EXTRA: &str = "extra";
/// Instead of AWS's three minutes before a scale-out, and fifteen before a scale-in.
const PACE: PolicyPace = PolicyPace { period: Duration::from_secs(3), high: 1, low: 1 };
/// Time for which a script's swarm is watched: nothing will happen.
const WATCH_SCRIPT: Duration = Duration::from_secs(5);

impl Story<'_> {
    /// Tasks wait for a node, and the group grows; then a node is idle, and the group shrinks.
    pub(super) async fn follow_tasks(&self) -> anyhow::Result<()> {
        self.heading("tasks that fit on no node let the group grow");
        let group = self.cluster.workers_group();
        let workers = self.cluster.workers as usize;
        let cloud = self.fleet.cloud();
        let needed = Metric::new("skep", "NodesNeeded", &[("AutoScalingGroupName", &group)]);
        cloud.set_policy_pace(PACE);
        let policy = PolicySpec::new(&group, "tasks", needed, 100.0);
        cloud.put_policy(PolicySpec { warmup: Some(Duration::ZERO), ..policy })?;
        let all = in_service(&self.record.borrow()).count();
        let mut render = self.fleet.hungry_service(RENDER, workers as u32 + 1, STOP_GRACE).await?;
        render.labels = Some([("skep.protect".to_owned(), "true".to_owned())].into());
        self.fleet.create_service_of(render).await?;
        // The extra task must not take the place of another one.
        self.poll("a task on every worker", async || Ok(self.running(&[RENDER]).await? == workers))
            .await?;
        self.fleet
            .create_service_of(self.fleet.hungry_service(EXTRA, 1, STOP_GRACE).await?)
            .await?;
        self.say(
            None,
            &format!(
                "services {RENDER} ({} replicas) and {EXTRA} (1): a task reserves more than half of a worker's CPUs",
                workers + 1
            ),
        );
        if self.is_scripted {
            sleep(WATCH_SCRIPT).await;
            let waiting = workers + 2 - self.running(&[RENDER, EXTRA]).await?;
            self.say(Some(Mark::Bad), &format!("{waiting} tasks wait, and nothing adds a node"));
            return Ok(());
        }
        self.until("two more workers in service", |record| in_service(record).count() == all + 2)
            .await?;
        self.poll("every task on a node", async || {
            Ok(self.running(&[RENDER, EXTRA]).await? == workers + 2)
        })
        .await?;
        self.say(Some(Mark::Good), &format!("all {} tasks run", workers + 2));

        self.heading(&format!("{EXTRA} is removed: its node is idle, and is scaled in"));
        self.poll("the nodes of render to be protected", async || {
            Ok(self.protected().len() == workers + 1)
        })
        .await?;
        let protected = self.protected();
        self.say(
            None,
            &format!("{} workers run {RENDER}: protected from scale-in", protected.len()),
        );
        let before = self.noticed();
        self.fleet.manager_docker().await?.delete_service(EXTRA).await?;
        let victim = self
            .find("a worker that Auto Scaling has chosen", |record| {
                let left =
                    |node: &&NodeRecord| node.noticed.is_some() && !before.contains(&node.instance);
                record.nodes.iter().find(left).map(|node| node.instance.clone())
            })
            .await?;
        if let Some(node) = self.record.borrow_mut().node_mut(&victim) {
            node.reason = Some(SCALED_IN);
        }
        self.until_gone(&victim).await?;
        ensure!(!protected.contains(&victim), "{victim} was protected from scale-in");
        ensure!(self.protected() == protected, "another one than the idle node has left");
        let running = self.running(&[RENDER]).await?;
        ensure!(running == workers + 1, "{running} tasks of {RENDER} run");
        self.say(Some(Mark::Good), &format!("service {RENDER}: no task was moved"));
        Ok(())
    }

    /// Returns the instances that had a notice.
    fn noticed(&self) -> BTreeSet<String> {
        let record = self.record.borrow();
        let noticed = record.nodes.iter().filter(|node| node.noticed.is_some());
        noticed.map(|node| node.instance.clone()).collect()
    }

    fn protected(&self) -> BTreeSet<String> {
        let instances = self.fleet.cloud().instances().into_iter();
        instances.filter(|it| it.protected).map(|it| it.id).collect()
    }

    /// Returns the number of running tasks of services.
    async fn running(&self, services: &[&str]) -> anyhow::Result<usize> {
        let mut running = 0;
        for name in services {
            let tasks = self.fleet.tasks_of_service(name).await?;
            running += tasks.iter().filter(|task| is_running(task)).count();
        }
        Ok(running)
    }

    /// Polls until `holds`, whatever fails meanwhile.
    async fn poll(
        &self,
        what: &str,
        holds: impl AsyncFn() -> anyhow::Result<bool>,
    ) -> anyhow::Result<()> {
        let begin = Instant::now();
        while begin.elapsed() < PART_LIMIT {
            if matches!(holds().await, Ok(true)) {
                return Ok(());
            }
            sleep(LOOK_EVERY).await;
        }
        bail!("waited {} s in vain for {what}", PART_LIMIT.as_secs())
    }
}
