//! What runs on a node: the manager's task list, and this host's own containers.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bollard::Docker;
use bollard::models::{ContainerSummary, Task, TaskState};
use bollard::query_parameters::{
    ListContainersOptionsBuilder, ListServicesOptions, ListTasksOptions, ListTasksOptionsBuilder,
    LogsOptionsBuilder, StopContainerOptionsBuilder,
};
use futures_util::TryStreamExt as _;
use futures_util::future::join_all;
use serde::Serialize;

use super::{CALL_TIMEOUT, Swarm, SwarmError, SwarmErrorKind};

/// The label that marks a container as a swarm task's.
const TASK_LABEL: &str = "com.docker.swarm.task.id";

/// The label by which an operator keeps a standalone container running until the logs are flushed, and its
/// value. Another value is none.
const FLUSH_LABEL: &str = "skep.flush";
const AFTER_FLUSH: &str = "after";

/// Of a task whose state Docker does not report: it may run.
const NO_STATE: &str = "unknown";

/// A container of this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskContainer {
    pub id: String,
    pub name: String,
    /// `None` for a standalone container, which no drain touches.
    pub task_id: Option<String>,
    /// A standalone container with the label `skep.flush=after`, such as one in which a shipper runs: it is
    /// stopped only after the flush. Never true for a task, which a drain ends.
    pub stops_after_flush: bool,
}

/// A task that has not ended, by the managers' list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LiveTask {
    /// The service's name; its id where it is gone already.
    pub service: String,
    /// Which of the service's it is; `None` for one that runs on every node.
    pub slot: Option<i64>,
    /// `None` while it waits for a node.
    pub node_id: Option<String>,
    /// Docker's word, such as `running`; [`NO_STATE`] where its list names none.
    pub state: String,
    /// It is to end.
    pub stopping: bool,
}

impl LiveTask {
    fn of(task: Task, services: &HashMap<String, String>) -> Option<Self> {
        let state = task.status.and_then(|status| status.state);
        if !is_live(state) {
            return None;
        }
        let service = task.service_id.unwrap_or_default();
        Some(Self {
            service: services.get(&service).cloned().unwrap_or(service),
            slot: task.slot.filter(|slot| *slot > 0),
            node_id: task.node_id.filter(|id| !id.is_empty()),
            state: state.map_or_else(|| NO_STATE.to_owned(), |state| state.to_string()),
            stopping: matches!(task.desired_state, Some(TaskState::SHUTDOWN | TaskState::REMOVE)),
        })
    }
}

/// What came of stopping a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    Stopped,
    /// Docker goes on with it.
    NotYet,
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
    /// Running containers of this host.
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

    /// Seconds between a container's SIGTERM and its SIGKILL, where it has a time of its own.
    pub async fn fetch_grace(&self, container: &str) -> Option<u64> {
        let inspect =
            |docker: Docker| async move { docker.inspect_container(container, None).await };
        let inspected = self.call("inspect the container", inspect).await.ok()?;
        inspected.config?.stop_timeout?.try_into().ok()
    }

    /// Whether a container that has ended was killed (SIGKILL), as by Docker when its grace is over.
    ///
    /// # Errors
    /// When Docker does not answer, or has removed it: how it ended cannot be told.
    pub async fn was_killed(&self, container: &str) -> Result<bool, SwarmError> {
        /// 128 and the signal's number.
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

    /// Every task's container that has ended and is still there.
    ///
    /// # Errors
    /// When Docker does not list its containers.
    pub async fn fetch_ended_tasks(&self) -> Result<Vec<TaskContainer>, SwarmError> {
        self.fetch_tasks_that_are(&["exited", "dead"]).await
    }

    /// Every task's container that Docker has made and never started.
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

    /// Hands out the last lines of a container's log as they come, in pieces that may end anywhere, each
    /// line behind Docker's time of it.
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
        // A call may be made twice, but only where the first was refused, before any piece.
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

    /// How many tasks of a node have not ended, by the managers' list. A task without a state counts: it may run.
    ///
    /// The desired state says nothing here: it is `shutdown` the moment a drain begins, long
    /// before the task has stopped.
    ///
    /// # Errors
    /// As for [`Swarm::fetch_nodes`], and where one task has a state that skep does not know.
    pub async fn count_live_tasks(&self, node_id: &str) -> Result<usize, SwarmError> {
        let filters = HashMap::from([("node".to_owned(), vec![node_id.to_owned()])]);
        let options = &ListTasksOptionsBuilder::default().filters(&filters).build();
        let list = |docker: Docker| async move { docker.list_tasks(Some(options.clone())).await };
        let tasks = self.call("list the tasks", list).await?;
        Ok(tasks
            .into_iter()
            .filter(|task| is_live(task.status.as_ref().and_then(|status| status.state)))
            .count())
    }

    /// Every task that has not ended, of all nodes, by service and slot.
    ///
    /// # Errors
    /// As for [`Swarm::fetch_nodes`].
    pub async fn fetch_live_tasks(&self) -> Result<Vec<LiveTask>, SwarmError> {
        let tasks =
            |docker: Docker| async move { docker.list_tasks(None::<ListTasksOptions>).await };
        let services =
            |docker: Docker| async move { docker.list_services(None::<ListServicesOptions>).await };
        let (tasks, services) = tokio::try_join!(
            self.call("list the tasks", tasks),
            self.call("list the services", services),
        )?;
        let names =
            services.into_iter().filter_map(|service| Some((service.id?, service.spec?.name?)));
        let names = names.collect();
        let live = tasks.into_iter().filter_map(|task| LiveTask::of(task, &names));
        let mut live: Vec<LiveTask> = live.collect();
        live.sort_by(|a, b| (&a.service, a.slot).cmp(&(&b.service, b.slot)));
        Ok(live)
    }

    /// Stops containers side by side, and waits for `patience`; the stop goes on afterwards, with its connection:
    /// a Docker Engine that sees the caller go may kill at once. Without `grace` each
    /// has its own (`StopTimeout`), which a task's container never has: a service's grace is known to the
    /// managers alone, and Docker would kill after 10 s.
    ///
    /// # Errors
    /// When Docker is not there.
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
                    tracing::info!(container = container.name, "not stopped within {patience:?}");
                    Stop::NotYet
                }
            }
        });
        Ok(join_all(stops).await)
    }
}

/// Everything but a task that is known to have ended: one without a state may run. (A state that only a later Docker
/// knows does not get here: the whole list cannot be parsed then, which is an error.)
fn is_live(state: Option<TaskState>) -> bool {
    use TaskState::*;
    !matches!(state, Some(COMPLETE | SHUTDOWN | FAILED | REJECTED | REMOVE | ORPHANED))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::clients::docker::tests::fake_engine::{FakeEngine, RELEASES};

    fn task(status: Value) -> Value {
        json!({ "ID": "t", "ServiceID": "s1", "Slot": 1, "NodeID": "n1", "Status": status })
    }

    /// Only a task that Docker calls ended has ended; the page and the departure count alike.
    #[tokio::test]
    async fn a_task_without_a_state_may_run() {
        let engine = FakeEngine::start(RELEASES[0]);
        let swarm = engine.swarm();
        let live = async |tasks: Vec<Value>| {
            engine.lock().tasks = tasks.into();
            let shown = swarm.fetch_live_tasks().await.unwrap();
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

    /// Nothing is counted as gone because its state has a new name.
    #[tokio::test]
    async fn a_state_that_only_a_later_docker_knows_is_an_error() {
        let engine = FakeEngine::start(RELEASES[0]);
        engine.lock().tasks = vec![task(json!({ "State": "hibernating" }))].into();
        assert!(engine.swarm().count_live_tasks("n1").await.is_err());
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
