//! Shared by the scenarios of leaving: a running swarm, and checks of a node that has left.

use std::collections::BTreeSet;
use std::sync::Arc;

use anyhow::{Context, ensure};
use bollard::models::{LocalNodeState, Node, NodeState, TaskState};
use serde_json::{Map, Value};
use skep_sim::cloud::{ActionResult, Cloud, EventKind};
use skep_sim::fleet::{
    ClusterSpec, ContainerEvent, Fleet, FleetOptions, Instance, TERMINATION_HOOK,
};
use tokio::sync::broadcast::error::RecvError;

use crate::{PATIENCE, secs, swarm};

/// Polls for notices twice a second, so that scenarios are short.
pub const QUICK: &str = "[notices]\ninterval = \"500ms\"\n";

/// Options with [`QUICK`] and more lines of `skep.toml`.
#[must_use]
pub fn options_with(config: &str) -> FleetOptions {
    FleetOptions { config: Some(format!("{QUICK}{config}")), ..crate::options() }
}

/// A cluster whose nodes are all Ready, have reported it, and are listed as ready by a manager.
///
/// # Errors
/// When this does not happen in time.
pub async fn standing(options: FleetOptions, spec: &ClusterSpec) -> anyhow::Result<Fleet> {
    let fleet = crate::fleet(options).await?;
    fleet.create_cluster(spec)?;
    let size = (spec.managers + spec.workers) as usize;
    fleet
        .wait_until(&format!("{size} Ready nodes"), secs(180), async || {
            let ready = fleet.instances().iter().filter(|instance| instance.is_ready()).count();
            let in_service = fleet.cloud().instances();
            let in_service =
                in_service.iter().filter(|one| one.lifecycle.as_str() == "InService").count();
            let nodes = fleet.nodes().await?;
            let are_identified = nodes.iter().all(is_identified);
            Ok(ready == size
                && in_service == size
                && listed_ready(&nodes) == size
                && are_identified)
        })
        .await?;
    Ok(fleet)
}

/// Whether managers have found out which instance the node is: within seconds after it has joined.
#[must_use]
pub fn is_identified(node: &Node) -> bool {
    let labels = node.spec.as_ref().and_then(|spec| spec.labels.as_ref());
    labels.is_some_and(|labels| labels.contains_key("skep.instance"))
}

fn listed_ready(nodes: &[Node]) -> usize {
    let is_ready = |node: &&Node| {
        node.status.as_ref().and_then(|status| status.state) == Some(NodeState::READY)
    };
    nodes.iter().filter(is_ready).count()
}

/// Waits until a service has this many running tasks.
///
/// # Errors
/// When this does not happen in time.
pub async fn running(fleet: &Fleet, service: &str, tasks: usize) -> anyhow::Result<()> {
    fleet
        .wait_until(&format!("{tasks} running tasks of {service}"), PATIENCE, async || {
            let all = fleet.tasks_of_service(service).await?;
            let state = |task: &bollard::models::Task| task.status.as_ref()?.state;
            Ok(all.iter().filter(|task| state(task) == Some(TaskState::RUNNING)).count() == tasks)
        })
        .await
}

/// How many tasks run on a node, in the managers' list.
///
/// # Errors
/// When no manager answers.
pub async fn running_on(fleet: &Fleet, instance: &Instance) -> anyhow::Result<usize> {
    let all = fleet.tasks_of(instance).await?;
    let state = |task: &bollard::models::Task| task.status.as_ref()?.state;
    Ok(all.iter().filter(|task| state(task) == Some(TaskState::RUNNING)).count())
}

/// Docker's id of a node, as its own daemon reports it.
///
/// # Errors
/// When it is in no swarm.
pub async fn node_id(instance: &Instance) -> anyhow::Result<String> {
    let swarm = instance.docker()?.info().await?.swarm;
    let id = swarm.and_then(|swarm| swarm.node_id).filter(|id| !id.is_empty());
    id.with_context(|| format!("{} is in no swarm", instance.id()))
}

/// Whether a node is in the list of a manager that answers.
///
/// # Errors
/// When no manager answers.
pub async fn is_listed(fleet: &Fleet, node_id: &str) -> anyhow::Result<bool> {
    Ok(fleet.nodes().await?.iter().any(|node| node.id.as_deref() == Some(node_id)))
}

/// All rows of the ledger, as plain JSON.
///
/// # Errors
/// When there is no table `skep`.
pub fn ledger(fleet: &Fleet) -> anyhow::Result<Vec<Map<String, Value>>> {
    ledger_of(fleet.cloud())
}

/// All rows of a cloud's ledger, as plain JSON.
///
/// # Errors
/// When there is no table `skep`.
pub fn ledger_of(cloud: &Cloud) -> anyhow::Result<Vec<Map<String, Value>>> {
    Ok(cloud
        .rows("skep")?
        .into_iter()
        .filter_map(|row| match row {
            Value::Object(row) => Some(row.into_iter().map(|(k, v)| (k, plain(v))).collect()),
            _ => None,
        })
        .collect())
}

fn plain(attribute: Value) -> Value {
    let Value::Object(attribute) = attribute else { return attribute };
    match attribute.into_iter().next() {
        Some((kind, Value::String(number))) if kind == "N" => {
            number.parse::<i64>().map_or(Value::String(number), Value::from)
        }
        Some((_, value)) => value,
        None => Value::Null,
    }
}

/// One row of the ledger.
///
/// # Errors
/// As for [`ledger`].
pub fn row(fleet: &Fleet, item: &str) -> anyhow::Result<Option<Map<String, Value>>> {
    Ok(ledger(fleet)?.into_iter().find(|row| row["item"] == item))
}

/// State of an instance's departure in the ledger: of the one that it has requested, or of the managers' stand-in.
#[must_use]
pub fn departure_state(fleet: &Fleet, instance: &Instance) -> Option<String> {
    let of = |kind: &str| row(fleet, &format!("departure#{kind}{}", instance.id())).ok().flatten();
    of("").or_else(|| of("stand-in#"))?["state"].as_str().map(str::to_owned)
}

/// Auto Scaling's events of an instance.
#[must_use]
pub fn events_of(fleet: &Fleet, instance: &Instance) -> Vec<EventKind> {
    events_in(fleet.cloud(), instance.id())
}

/// Auto Scaling's events of an instance in a cloud.
#[must_use]
pub fn events_in(cloud: &Cloud, instance_id: &str) -> Vec<EventKind> {
    let events = cloud.events_since(0).into_iter().map(|event| event.kind);
    events.filter(|kind| kind.instance_id() == Some(instance_id)).collect()
}

/// The results with which an instance's termination hook was completed.
#[must_use]
pub fn hook_results(fleet: &Fleet, instance: &Instance) -> Vec<ActionResult> {
    let result = |kind| match kind {
        EventKind::HookCompleted { hook, result, .. } if hook == TERMINATION_HOOK => Some(result),
        _ => None,
    };
    events_of(fleet, instance).into_iter().filter_map(result).collect()
}

/// When the instance's termination hook was first completed, in nanoseconds since 1970.
fn hook_completed_at(fleet: &Fleet, instance: &Instance) -> Option<i128> {
    let is_it = |kind: &EventKind| match kind {
        EventKind::HookCompleted { instance_id, hook, .. } => {
            instance_id == instance.id() && hook == TERMINATION_HOOK
        }
        _ => false,
    };
    let completed = fleet.cloud().events_since(0).into_iter().find(|event| is_it(&event.kind));
    completed.map(|event| event.at.unix_timestamp_nanos())
}

/// Whether a hook of the instance has ever timed out.
#[must_use]
pub fn hook_timed_out(fleet: &Fleet, instance: &Instance) -> bool {
    let is_timeout = |kind: &EventKind| matches!(kind, EventKind::HookTimedOut { .. });
    events_of(fleet, instance).iter().any(is_timeout)
}

/// A node that must leave, and the facts about it that are needed after it has gone.
pub struct Leaver {
    pub instance: Arc<Instance>,
    pub node_id: String,
}

impl Leaver {
    /// # Errors
    /// When the instance is in no swarm.
    pub async fn of(instance: &Arc<Instance>) -> anyhow::Result<Leaver> {
        Ok(Leaver { instance: Arc::clone(instance), node_id: node_id(instance).await? })
    }

    pub fn id(&self) -> &str {
        self.instance.id()
    }

    /// Waits until it has left the swarm and is removed from the list and the ledger.
    ///
    /// # Errors
    /// When this does not happen in time, or happens in a wrong way.
    pub async fn has_left(&self, fleet: &Fleet) -> anyhow::Result<()> {
        let what = format!("{} to have left, and to be off the list", self.id());
        fleet
            .wait_until(&what, PATIENCE, async || {
                let state = departure_state(fleet, &self.instance);
                Ok(state.as_deref() == Some("removed") && !is_listed(fleet, &self.node_id).await?)
            })
            .await?;
        let members = ledger(fleet)?;
        let is_own = |row: &&Map<String, Value>| {
            row["item"].as_str().is_some_and(|item| {
                item.starts_with("member#") && item.ends_with(&format!("#{}", self.id()))
            })
        };
        ensure!(members.iter().find(is_own).is_none(), "the member row of {} is left", self.id());
        self.lost_no_grace(fleet)
    }

    /// Waits until its own Docker is in no swarm.
    ///
    /// # Errors
    /// When this does not happen in time.
    pub async fn is_out(&self, fleet: &Fleet) -> anyhow::Result<()> {
        let what = format!("{} to be out of the swarm", self.id());
        fleet
            .wait_until(&what, PATIENCE, async || {
                let local = swarm::place(&self.instance).await?.local_node_state;
                Ok(local == Some(LocalNodeState::INACTIVE))
            })
            .await
    }

    /// Waits until no manager lists it.
    ///
    /// # Errors
    /// When this does not happen in time.
    pub async fn is_off_the_list(&self, fleet: &Fleet) -> anyhow::Result<()> {
        fleet
            .wait_until(&format!("{} to be off the list", self.id()), PATIENCE, async || {
                Ok(!is_listed(fleet, &self.node_id).await?)
            })
            .await
    }

    /// Waits until it has left with its hook, which was completed once, in time, and not before the node was off the
    /// list.
    ///
    /// # Errors
    /// As for [`Leaver::has_left`].
    pub async fn has_left_by_its_hook(&self, fleet: &Fleet) -> anyhow::Result<()> {
        self.hook_is_completed(fleet).await?;
        self.is_off_the_list_by_now(fleet).await?;
        self.has_left(fleet).await
    }

    /// If this node completed the hook itself, it is off the list, or it has logged that no manager confirmed this
    /// although it waited for one.
    async fn is_off_the_list_by_now(&self, fleet: &Fleet) -> anyhow::Result<()> {
        if !self.has_completed_its_own_hook() {
            return Ok(());
        }
        let log = self.instance.log();
        if log.contains("no manager has confirmed that it is off the node list") {
            let has_waited =
                log.contains("waiting for a manager to remove this node from the node list");
            ensure!(has_waited, "{} did not wait\n{}", self.id(), fleet.report());
            return Ok(());
        }
        // Any manager answers with the leader's list. During an election no manager answers, and so there is no proof.
        let what = format!("an answer of the managers about {}", self.id());
        let listed = fleet
            .wait_for(&what, PATIENCE, async || Ok(Some(is_listed(fleet, &self.node_id).await?)))
            .await?;
        ensure!(
            !listed,
            "the hook of {} was completed while the node was listed\n{}",
            self.id(),
            fleet.report()
        );
        Ok(())
    }

    /// Whether its own skep has started to complete the termination hook. For a dead skep a manager does that.
    fn has_completed_its_own_hook(&self) -> bool {
        self.instance.log().contains("completing the termination hook")
    }

    /// # Errors
    /// When the hook is not completed with CONTINUE, or not by this node in time, or while a task still ran.
    pub async fn hook_is_completed(&self, fleet: &Fleet) -> anyhow::Result<()> {
        let what = format!("the hook of {} to be completed", self.id());
        let has_ended = || {
            !hook_results(fleet, &self.instance).is_empty() || hook_timed_out(fleet, &self.instance)
        };
        // Returns at the very moment: the state that the test checks next must not have had time to change.
        let mut events = fleet.cloud().subscribe();
        fleet
            .wait_until(&what, PATIENCE, async || {
                while !has_ended() {
                    let event = events.recv().await;
                    ensure!(!matches!(event, Err(RecvError::Closed)), "the cloud has ended");
                }
                Ok(true)
            })
            .await?;
        ensure!(!hook_timed_out(fleet, &self.instance), "timed out\n{}", fleet.report());
        let results = hook_results(fleet, &self.instance);
        ensure!(results == [ActionResult::Continue], "{results:?}\n{}", fleet.report());
        self.no_task_outlived_its_hook(fleet)
    }

    /// Checks that no task ended after this node had completed its hook. A task that a power cut ends has no recorded
    /// end: see [`Leaver::lost_no_grace`].
    fn no_task_outlived_its_hook(&self, fleet: &Fleet) -> anyhow::Result<()> {
        let Some(completed) =
            hook_completed_at(fleet, &self.instance).filter(|_| self.has_completed_its_own_hook())
        else {
            return Ok(());
        };
        let mut ended = self.tasks("die");
        ended.retain(|death| i128::from(death.nanos) > completed);
        ensure!(
            ended.is_empty(),
            "the hook was completed at {completed}, and these tasks ended later: {ended:?}\n{}",
            fleet.report()
        );
        Ok(())
    }

    /// Checks that every task that started here ended with its grace, and before the node completed its hook.
    ///
    /// # Errors
    /// When a task did not.
    pub fn lost_no_grace(&self, fleet: &Fleet) -> anyhow::Result<()> {
        let (events, started, ended) =
            (self.instance.container_events(), self.tasks("start"), self.tasks("die"));
        let containers = |events: &[ContainerEvent]| -> BTreeSet<String> {
            events.iter().map(|event| event.container.clone()).collect()
        };
        let all_graceful =
            ended.iter().all(|death| death.exit_code == Some(0) || death.had_its_grace(&events));
        ensure!(
            all_graceful && containers(&started) == containers(&ended),
            "started {started:?}\nended {ended:?}\nof {events:?}\n{}",
            fleet.report()
        );
        self.no_task_outlived_its_hook(fleet)
    }

    /// Events of its tasks' containers.
    #[must_use]
    pub fn tasks(&self, action: &str) -> Vec<ContainerEvent> {
        let mut events = self.instance.container_events();
        events.retain(|event| event.action == action && event.task.is_some());
        events
    }

    /// Waits until `skep run` has ended for good, with exit code 0.
    ///
    /// # Errors
    /// When it does not end in time.
    pub async fn skep_has_ended_well(&self, fleet: &Fleet) -> anyhow::Result<()> {
        let what = format!("skep of {} to end with 0", self.id());
        fleet
            .wait_until(&what, PATIENCE, async || {
                let codes = self.instance.exit_codes();
                Ok(!self.instance.skep_running() && codes.last() == Some(&0))
            })
            .await
    }
}

/// How often the managers' skeps have started to drain an instance.
#[must_use]
pub fn drains(fleet: &Fleet, instance: &Instance) -> usize {
    let is_drain = |line: &&str| {
        line.contains(" draining") && line.contains("live_tasks") && line.contains(instance.id())
    };
    let logs = fleet.all_instances().into_iter().map(|one| one.log());
    logs.map(|log| log.lines().filter(is_drain).count()).sum()
}

/// Runs a shell script inside an instance and returns its output.
///
/// # Errors
/// When it fails.
pub async fn shell(instance: &Instance, script: &str) -> anyhow::Result<String> {
    let mut command = std::process::Command::new("bash");
    command.args(["-c", script]);
    let output = instance.run(command).await?;
    let (out, err) = (output.stdout, output.stderr);
    ensure!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&err));
    Ok(String::from_utf8_lossy(&out).into_owned())
}

/// Installs a `systemctl` whose only queued job is this one, as in the middle of a shutdown.
///
/// # Errors
/// When it cannot be written.
pub fn systemctl_with_job(instance: &Instance, unit: Option<&str>) -> anyhow::Result<()> {
    let job = unit.map(|unit| format!("echo '1 {unit} start waiting'")).unwrap_or_default();
    let script = format!("#!/bin/sh\n[ \"$1\" = list-jobs ] || exit 1\n{job}\n");
    instance.write_program("systemctl", &script)
}

/// Sends skep a signal by its name.
///
/// # Errors
/// When there is no such signal, or no skep.
pub fn signal(instance: &Instance, name: &str) -> anyhow::Result<()> {
    let signal = name.parse().map_err(|error| anyhow::anyhow!("{name}: {error:?}"))?;
    ensure!(instance.kill_skep(signal), "skep does not run on {}", instance.id());
    Ok(())
}

/// Kills skep, and waits until the next one is Ready. A test that polls for the moment between the two may miss it: a
/// skep that finds its node in the swarm is Ready within 25 ms.
///
/// # Errors
/// When no skep runs, or no next one starts.
pub async fn restart_skep(fleet: &Fleet, instance: &Instance) -> anyhow::Result<()> {
    let pid = instance.skep_pid();
    signal(instance, "SIGKILL")?;
    let what = format!("the next skep of {} to be Ready", instance.id());
    let is_next = || instance.skep_pid().is_some_and(|next| Some(next) != pid);
    fleet.wait_until(&what, PATIENCE, async || Ok(is_next() && instance.is_ready())).await
}

/// Writes an executable into the instance's `flush.d`; skep reads that folder when it flushes.
///
/// # Errors
/// When it cannot be written.
pub fn flusher(instance: &Instance, name: &str, script: &str) -> anyhow::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let file = instance.dir().join("etc/flush.d").join(name);
    std::fs::write(&file, script)?;
    Ok(std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755))?)
}
