//! Properties of a member of a booted swarm, and of a member that has left.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::Arc;

use anyhow::{Context, ensure};
use bollard::models::{NodeState, Task, TaskState};
use harness::PATIENCE;
use harness::departures::ledger_of;
use harness::{policies, secs};
use serde_json::{Map, Value};
use skep_sim::booted::{BootedFleet, BootedInstance};
use skep_sim::fleet::{preload, service, workload};
use tokio::task::JoinHandle;

use crate::cluster::{CLUSTER, fleet, possible, spec};

/// Name of the service that [`working`] starts.
pub const SERVICE: &str = "web";

/// A formed swarm with [`SERVICE`] on it, whose tasks use two seconds of their grace to stop. `None` where instances
/// cannot boot.
pub async fn working(
    managers: u32,
    workers: u32,
    replicas: u32,
) -> anyhow::Result<Option<BootedFleet>> {
    if !possible()? {
        return Ok(None);
    }
    let fleet = fleet().await?;
    policies::enforce(fleet.cloud(), &[CLUSTER], &["ssm"])?;
    spec(managers, workers, "cloud-config.yaml")?.create(fleet.cloud())?;
    fleet.wait_formed(managers as usize, workers as usize, PATIENCE).await?;
    for instance in fleet.instances() {
        preload(&instance.docker().await?).await?;
    }
    let spec = service(SERVICE, replicas, workload::slow_to_stop(2.0), secs(30))?;
    fleet.manager().await?.docker().await?.create_service(spec, None).await?;
    running(&fleet, replicas).await?;
    Ok(Some(fleet))
}

/// Waits until this many tasks of [`SERVICE`] run; returns their ids and nodes.
pub async fn running(
    fleet: &BootedFleet,
    replicas: u32,
) -> anyhow::Result<BTreeMap<String, String>> {
    let what = format!("{replicas} running tasks");
    fleet
        .wait_for(&what, PATIENCE, async || {
            let tasks = fleet.manager().await?.docker().await?.list_tasks(None).await?;
            let place = |task: Task| {
                let runs = task.status?.state? == TaskState::RUNNING;
                runs.then_some((task.id?, task.node_id?))
            };
            let places: BTreeMap<String, String> = tasks.into_iter().filter_map(place).collect();
            ensure!(places.len() == replicas as usize, "{} run", places.len());
            Ok(Some(places))
        })
        .await
}

/// A row of the ledger.
pub fn row(fleet: &BootedFleet, item: &str) -> anyhow::Result<Option<Map<String, Value>>> {
    Ok(ledger_of(fleet.cloud())?.into_iter().find(|row| row["item"] == item))
}

/// A node and its identity in the swarm.
pub struct Member {
    pub instance: Arc<BootedInstance>,
    pub node_id: String,
}

impl Member {
    /// As its own Docker reports it.
    pub async fn of(instance: &Arc<BootedInstance>) -> anyhow::Result<Member> {
        let swarm = instance.docker().await?.info().await?.swarm;
        let node_id = swarm.and_then(|swarm| swarm.node_id).filter(|id| !id.is_empty());
        let node_id = node_id.with_context(|| format!("{} is in no swarm", instance.id()))?;
        Ok(Member { instance: Arc::clone(instance), node_id })
    }

    /// The members among the instances of a group.
    pub async fn of_group(fleet: &BootedFleet, group: &str) -> anyhow::Result<Vec<Member>> {
        let mut members = vec![];
        for instance in fleet.group(group) {
            members.push(Member::of(&instance).await?);
        }
        Ok(members)
    }

    pub fn id(&self) -> &str {
        self.instance.id()
    }

    /// The main process of a unit; 0 if there is none.
    pub async fn pid(&self, unit: &str) -> anyhow::Result<u32> {
        let show = format!("systemctl show {unit} --property=MainPID --value");
        Ok(self.instance.say(&show).await?.parse()?)
    }

    /// Waits until it is Ready under the same node id: for systemd, for skep and in the managers' list, where managers
    /// know its instance. The departure of a node that is gone before that is nobody's, and its entry stays.
    pub async fn is_ready(&self, fleet: &BootedFleet) -> anyhow::Result<()> {
        let what = format!("{} to be Ready as {}", self.id(), self.node_id);
        let status = "systemctl is-active skep.service && \
                      skep status --json | jq -r '.node | .phase, .membership.node_id'";
        fleet
            .wait_until(&what, PATIENCE, async || {
                let status = self.instance.say(status).await?;
                ensure!(status == format!("active\nready\n{}", self.node_id), "{status}");
                ensure!(self.listed(fleet).await? == Some(NodeState::READY), "not listed as ready");
                self.is_identified(fleet).await
            })
            .await
    }

    async fn is_identified(&self, fleet: &BootedFleet) -> anyhow::Result<bool> {
        let nodes = fleet.nodes().await?;
        let own = nodes.into_iter().find(|node| node.id.as_ref() == Some(&self.node_id));
        let labels = own.and_then(|node| node.spec?.labels).unwrap_or_default();
        Ok(labels.contains_key("skep.instance"))
    }

    /// The state in the managers' list.
    pub async fn listed(&self, fleet: &BootedFleet) -> anyhow::Result<Option<NodeState>> {
        let nodes = fleet.nodes().await?;
        let own = nodes.into_iter().find(|node| node.id.as_ref() == Some(&self.node_id));
        Ok(own.and_then(|node| node.status?.state))
    }

    /// Checks that no departure was requested: none is in the ledger, and none in skep's log.
    pub async fn has_not_left(&self, fleet: &BootedFleet) -> anyhow::Result<()> {
        let departure = row(fleet, &format!("departure#{}", self.id()))?;
        ensure!(departure.is_none(), "{} leaves: {departure:?}", self.id());
        let log = self.instance.journal("skep.service").await?;
        ensure!(!log.contains("this node must leave"), "{} leaves:\n{log}", self.id());
        Ok(())
    }

    /// Waits until it has left for `reason`, and nothing of it remains.
    pub async fn has_left(&self, fleet: &BootedFleet, reason: &str) -> anyhow::Result<()> {
        let what = format!("{} to have left", self.id());
        let departure = format!("departure#{}", self.id());
        fleet
            .wait_until(&what, PATIENCE, async || {
                let departure = row(fleet, &departure)?.context("no departure")?;
                ensure!(departure["state"] == "removed", "{departure:?}");
                ensure!(departure["reason"] == reason, "{departure:?}");
                self.is_forgotten(fleet).await
            })
            .await
    }

    /// Whether it is neither in the node list nor in the ledger.
    pub async fn is_forgotten(&self, fleet: &BootedFleet) -> anyhow::Result<bool> {
        let listed = self.listed(fleet).await?;
        ensure!(listed.is_none(), "{} is listed: {listed:?}", self.id());
        let own = |role| row(fleet, &format!("member#{role}#{}", self.id()));
        Ok(own("worker")?.is_none() && own("manager")?.is_none())
    }

    /// Copies a file of this machine into the instance's `/root`.
    pub fn put(&self, file: &Path) -> anyhow::Result<()> {
        let name = file.file_name().context("a file has a name")?;
        std::fs::copy(file, self.home()?.join(name))?;
        Ok(())
    }

    /// The instance's `/root`, as a path on this machine.
    pub fn home(&self) -> anyhow::Result<PathBuf> {
        let leader = self.instance.leader().with_context(|| format!("{} is off", self.id()))?;
        Ok(format!("/proc/{leader}/root/root").into())
    }

    /// Makes `/root/new.deb` of the only package in `/root`: the same with a higher version. Returns the version, and
    /// the path on this machine.
    pub async fn make_newer(&self) -> anyhow::Result<(String, PathBuf)> {
        let version = self
            .instance
            .say(
                "cd /root && dpkg-deb -R ./*.deb tree && rm ./*.deb && \
                 sed -i '/^Version:/s/$/+newer/' tree/DEBIAN/control && \
                 dpkg-deb -Znone -b tree new.deb >/dev/null && rm -r tree && \
                 dpkg-deb -f new.deb Version",
            )
            .await?;
        Ok((version, self.home()?.join("new.deb")))
    }
}

/// Records the containers that start and end on an instance, until its Docker stops.
pub struct Containers(JoinHandle<anyhow::Result<Output>>);

impl Containers {
    pub fn watch(instance: &Arc<BootedInstance>) -> Containers {
        let instance = Arc::clone(instance);
        Containers(tokio::spawn(async move {
            let events = "docker events --since 1h --filter event=start --filter event=die \
                          --format '{{.Action}}{{index .Actor.Attributes \"exitCode\"}} {{.ID}}'";
            instance.run(events).await
        }))
    }

    /// After the instance has stopped: checks that every container that started here has ended with 0.
    pub async fn all_ended_well(self) -> anyhow::Result<()> {
        let output = tokio::time::timeout(PATIENCE, self.0).await???;
        let events = String::from_utf8(output.stdout)?;
        let with = |action: &str| {
            let mut ids: Vec<&str> =
                events.lines().filter_map(|line| line.strip_prefix(action)).collect();
            ids.sort_unstable();
            ids
        };
        let (started, ended) = (with("start "), with("die0 "));
        ensure!(!started.is_empty() && started == ended, "containers:\n{events}");
        Ok(())
    }
}
