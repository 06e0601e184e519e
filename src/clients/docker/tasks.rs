//! Reads the tasks of nodes from the managers' list, and reads and stops this host's own containers.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bollard::Docker;
use bollard::models::ContainerSummary;
use bollard::query_parameters::{
    ListContainersOptionsBuilder, LogsOptionsBuilder, StopContainerOptionsBuilder,
};
use futures_util::TryStreamExt as _;
use futures_util::future::join_all;
use reqwest::Method;
use serde::Deserialize;
use serde_json::json;

use super::raw::Request;
use super::{CALL_TIMEOUT, Resources, Swarm, SwarmError, SwarmErrorKind};

/// The label that marks a container as a swarm task's.
const TASK_LABEL: &str = "com.docker.swarm.task.id";

/// The label by which an operator keeps a standalone container running until the logs are flushed, and its value. Any
/// other value has no effect.
const FLUSH_LABEL: &str = "skep.flush";
const AFTER_FLUSH: &str = "after";

/// The part of a task that matters here. Its states stay text: one that is unknown must not make a whole list unreadable.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Task {
    #[serde(rename = "ServiceID")]
    pub service_id: Option<String>,
    #[serde(rename = "NodeID")]
    pub node_id: Option<String>,
    pub slot: Option<i64>,
    pub created_at: Option<String>,
    pub desired_state: Option<String>,
    pub status: Option<TaskStatus>,
    pub spec: Option<TaskSpec>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct TaskSpec {
    resources: Option<TaskResources>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct TaskResources {
    reservations: Option<Resources>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct TaskStatus {
    pub state: Option<String>,
    pub err: Option<String>,
}

impl Task {
    /// Returns what the task reserves on its node.
    pub(super) fn reserved(&self) -> Resources {
        let resources = self.spec.as_ref().and_then(|spec| spec.resources.as_ref());
        resources.and_then(|it| it.reservations.clone()).unwrap_or_default()
    }

    /// Whether it may be running: every task except one that has certainly ended, so also one without a state, or with
    /// one that skep does not know.
    pub(super) fn is_live(&self) -> bool {
        let state = self.status.as_ref().and_then(|status| status.state.as_deref());
        !matches!(
            state,
            Some("complete" | "shutdown" | "failed" | "rejected" | "remove" | "orphaned")
        )
    }
}

/// A container of this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskContainer {
    /// Docker's id of the container.
    pub id: String,
    /// Name without the slash at its start; empty where Docker reports no name.
    pub name: String,
    /// `None` for a standalone container, which a drain does not stop.
    pub task_id: Option<String>,
    /// Whether it is a standalone container with the label `skep.flush=after`, such as one in which a shipper runs: it
    /// is stopped only after the flush. Never true for a task, which a drain stops.
    pub stops_after_flush: bool,
}

/// The outcome of stopping a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Docker has stopped it, or it no longer exists.
    Stopped,
    /// Docker is still stopping it.
    NotYet,
    /// The call failed: Docker refused it or did not answer.
    Refused,
}

impl TaskContainer {
    fn of(container: ContainerSummary) -> Option<Self> {
        let name = container.names.unwrap_or_default().into_iter().next().unwrap_or_default();
        let mut labels = container.labels.unwrap_or_default();
        let task_id = labels.remove(TASK_LABEL);
        let is_after = labels.get(FLUSH_LABEL).is_some_and(|value| value == AFTER_FLUSH);
        Some(Self {
            id: container.id?,
            name: name.trim_start_matches('/').to_owned(),
            stops_after_flush: is_after && task_id.is_none(),
            task_id,
        })
    }
}

impl Swarm {
    /// Fetches the running containers of this host.
    ///
    /// # Errors
    /// When Docker does not answer.
    pub async fn fetch_containers(&self) -> Result<Vec<TaskContainer>, SwarmError> {
        let options = &ListContainersOptionsBuilder::default().build();
        let list =
            |docker: Docker| async move { docker.list_containers(Some(options.clone())).await };
        let containers = self.call("list the containers", list).await?;
        Ok(containers.into_iter().filter_map(TaskContainer::of).collect())
    }

    /// Fetches the container's own grace in seconds; `None` where it has none, or Docker does not answer.
    pub async fn fetch_grace(&self, container: &str) -> Option<u64> {
        let inspect =
            |docker: Docker| async move { docker.inspect_container(container, None).await };
        let inspected = self.call("inspect the container", inspect).await.ok()?;
        inspected.config?.stop_timeout?.try_into().ok()
    }

    /// Whether an ended container was killed (SIGKILL), for example by Docker when its grace was over.
    ///
    /// # Errors
    /// When Docker does not answer, or has removed the container: it is unknown then whether it was killed.
    pub async fn was_killed(&self, container: &str) -> Result<bool, SwarmError> {
        /// 128 plus the signal's number.
        const KILLED: i64 = 137;
        let inspected = self
            .call("inspect the container", |docker| async move {
                docker.inspect_container(container, None).await
            })
            .await?;
        let exit_code = inspected.state.and_then(|state| state.exit_code);
        exit_code
            .map(|code| code == KILLED)
            .ok_or_else(|| SwarmError::unexpected("inspect the container", "it has no exit code"))
    }

    /// Fetches every task container that has ended and still exists.
    ///
    /// # Errors
    /// When Docker does not list its containers.
    pub async fn fetch_ended_tasks(&self) -> Result<Vec<TaskContainer>, SwarmError> {
        self.fetch_tasks_that_are(&["exited", "dead"]).await
    }

    /// Fetches every task container that Docker has created and never started.
    ///
    /// # Errors
    /// When Docker does not list its containers.
    pub async fn fetch_unstarted_tasks(&self) -> Result<Vec<TaskContainer>, SwarmError> {
        self.fetch_tasks_that_are(&["created"]).await
    }

    async fn fetch_tasks_that_are(
        &self,
        states: &[&str],
    ) -> Result<Vec<TaskContainer>, SwarmError> {
        let filters = HashMap::from([
            ("label".to_owned(), vec![TASK_LABEL.to_owned()]),
            ("status".to_owned(), states.iter().map(|state| (*state).to_owned()).collect()),
        ]);
        let options = &ListContainersOptionsBuilder::default().all(true).filters(&filters).build();
        let list =
            |docker: Docker| async move { docker.list_containers(Some(options.clone())).await };
        let containers = self.call("list the containers", list).await?;
        Ok(containers.into_iter().filter_map(TaskContainer::of).collect())
    }

    /// Passes the last lines of a container's log to `piece` as they arrive, in pieces that may end anywhere. Each line
    /// starts with Docker's timestamp.
    ///
    /// # Errors
    /// When Docker does not answer, or cannot read what the log driver has written.
    pub async fn read_log(
        &self,
        container: &str,
        lines: u32,
        piece: impl FnMut(&[u8]),
    ) -> Result<(), SwarmError> {
        let options = &LogsOptionsBuilder::default()
            .stdout(true)
            .stderr(true)
            .timestamps(true)
            .tail(&lines.to_string())
            .build();
        // A call may be repeated, but only where Docker refused the first one, before any piece.
        let piece = &Mutex::new(piece);
        let read = |docker: Docker| async move {
            let mut log = docker.logs(container, Some(options.clone()));
            while let Some(output) = log.try_next().await? {
                let mut piece = piece.lock().unwrap_or_else(PoisonError::into_inner);
                (*piece)(&output.into_bytes());
            }
            Ok(())
        };
        self.call("read a container's log", read).await
    }

    /// Counts the tasks of a node that have not ended, by the managers' list. A task without a state that skep knows
    /// counts: it may be running.
    ///
    /// The desired state proves nothing here: it is `shutdown` from the moment a drain begins, long before the task has
    /// stopped.
    ///
    /// # Errors
    /// As for [`Swarm::fetch_nodes`].
    pub async fn count_live_tasks(&self, node_id: &str) -> Result<usize, SwarmError> {
        let tasks = self.fetch_tasks("list the tasks", Some(("node", node_id))).await?;
        Ok(tasks.iter().filter(|task| task.is_live()).count())
    }

    /// Counts the running tasks of each node, by the managers' list; a node without any is not in the result.
    ///
    /// # Errors
    /// As for [`Swarm::fetch_nodes`].
    pub async fn count_running_tasks(&self) -> Result<BTreeMap<String, usize>, SwarmError> {
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for task in self.fetch_tasks("list the tasks", None).await? {
            let state = task.status.and_then(|status| status.state);
            let node = task.node_id.filter(|id| !id.is_empty());
            if let Some(node) = node.filter(|_| state.as_deref() == Some("running")) {
                *counts.entry(node).or_default() += 1;
            }
        }
        Ok(counts)
    }

    /// Fetches the tasks of all nodes, or those that a filter of Docker's admits.
    pub(super) async fn fetch_tasks(
        &self,
        operation: &'static str,
        filter: Option<(&str, &str)>,
    ) -> Result<Vec<Task>, SwarmError> {
        let query = filter.map(|(by, value)| format!("?filters={}", json!({ by: [value] })));
        let path = format!("tasks{}", query.unwrap_or_default());
        self.read(operation, Request::new(Method::GET, path)).await
    }

    /// Stops containers in parallel, and waits for `patience`. The stop continues afterwards, with its connection: a
    /// Docker Engine whose caller disconnects may kill at once. Without `grace` each container has its own
    /// (`StopTimeout`), which a task's container never has: only the managers have a service's grace, and Docker would
    /// kill after 10 s.
    ///
    /// # Errors
    /// When skep and Docker cannot agree on an API version, for example because Docker does not run.
    pub async fn stop_containers(
        &self,
        containers: &[TaskContainer],
        grace: Option<Duration>,
        patience: Duration,
    ) -> Result<Vec<Stop>, SwarmError> {
        self.connect().await?;
        let mut options = StopContainerOptionsBuilder::default();
        if let Some(grace) = grace {
            options = options.t(i32::try_from(grace.as_secs()).unwrap_or(i32::MAX));
        }
        let options = options.build();
        let longest = grace.unwrap_or_default().max(patience) + CALL_TIMEOUT;
        let stops = containers.iter().map(|container| async {
            let (swarm, id, options) = (self.clone(), container.id.clone(), options.clone());
            let stop = tokio::spawn(async move {
                let (id, options) = (&id, &options);
                let stop = |docker: Docker| async move {
                    docker.with_timeout(longest).stop_container(id, Some(options.clone())).await
                };
                swarm.call("stop the container", stop).await
            });
            match tokio::time::timeout(patience, stop).await {
                Ok(Ok(Ok(()))) => Stop::Stopped,
                Ok(Ok(Err(error))) if error.kind == SwarmErrorKind::NotFound => Stop::Stopped,
                Ok(Ok(Err(error))) => {
                    tracing::warn!(container = container.name, "{error}");
                    Stop::Refused
                }
                Ok(Err(_)) => Stop::Refused,
                Err(_) => {
                    tracing::info!(
                        container = container.name,
                        "not stopped within {patience:?}; Docker is still stopping it"
                    );
                    Stop::NotYet
                }
            }
        });
        Ok(join_all(stops).await)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::clients::docker::tests::fake_engine::{FakeEngine, RELEASES};

    fn task(status: Value) -> Value {
        json!({
            "ID": "t", "CreatedAt": "2026-11-21T10:00:00Z", "ServiceID": "s1", "Slot": 1,
            "NodeID": "n1", "DesiredState": "running", "Status": status,
        })
    }

    /// Only a task that Docker reports as ended has ended; the page and the departure count alike.
    #[tokio::test]
    async fn a_task_without_a_state_may_run() {
        let engine = FakeEngine::start(RELEASES[0]);
        let swarm = engine.swarm();
        let live = async |tasks: Vec<Value>| {
            engine.lock().tasks = tasks.into();
            let shown = swarm.fetch_live_work().await.unwrap().tasks;
            assert_eq!(shown.len(), swarm.count_live_tasks("n1").await.unwrap(), "{shown:?}");
            shown.into_iter().map(|task| task.state).collect::<Vec<_>>()
        };
        let ended = ["complete", "shutdown", "failed", "rejected", "remove", "orphaned"];
        assert_eq!(live(ended.map(|state| task(json!({ "State": state }))).into()).await, [""; 0]);
        assert_eq!(live(vec![task(json!({ "State": "running" }))]).await, ["running"]);
        assert_eq!(live(vec![task(json!({}))]).await, ["unknown"], "no state");
        assert_eq!(live(vec![task(Value::Null)]).await, ["unknown"], "no status");
        assert_eq!(live(vec![task(json!({ "State": "pending" })), task(json!({}))]).await.len(), 2);
    }

    /// No task counts as ended because its state has a new name, and the other tasks stay readable.
    #[tokio::test]
    async fn a_state_that_skep_does_not_know_is_that_of_a_live_task() {
        let engine = FakeEngine::start(RELEASES[0]);
        let tasks = vec![task(json!({ "State": "99" })), task(json!({ "State": "complete" }))];
        engine.lock().tasks = tasks.into();
        let swarm = engine.swarm();
        assert_eq!(swarm.count_live_tasks("n1").await.unwrap(), 1);
        assert_eq!(swarm.fetch_live_work().await.unwrap().tasks[0].state, "99");
        let tasks = swarm.fetch_tasks_of_service("s1").await.unwrap();
        assert_eq!(tasks[0].state, None);
    }

    #[test]
    fn a_label_keeps_a_standalone_container_until_after_the_flush() {
        let stops_after = |labels: &[(&str, &str)]| {
            let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
            let container = ContainerSummary {
                id: Some("c1".to_owned()),
                labels: Some(labels.collect()),
                ..ContainerSummary::default()
            };
            TaskContainer::of(container).unwrap().stops_after_flush
        };
        assert!(stops_after(&[("skep.flush", "after"), ("other", "x")]));
        for labels in [&[][..], &[("skep.flush", "before")], &[("skep.flush", "")]] {
            assert!(!stops_after(labels), "{labels:?}");
        }
        assert!(!stops_after(&[("skep.flush", "after"), (TASK_LABEL, "t1")]), "a drain ends it");
    }
}
