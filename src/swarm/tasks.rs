//! What runs on a node: the manager's task list, and this host's own containers.

use std::collections::HashMap;
use std::time::Duration;

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
    /// Docker's word, such as `running`.
    pub state: String,
    /// It is to end.
    pub stopping: bool,
}

impl LiveTask {
    fn of(task: Task, services: &HashMap<String, String>) -> Option<Self> {
        let state = task.status?.state.filter(|state| is_live(*state))?;
        let service = task.service_id.unwrap_or_default();
        Some(Self {
            service: services.get(&service).cloned().unwrap_or(service),
            slot: task.slot.filter(|slot| *slot > 0),
            node_id: task.node_id.filter(|id| !id.is_empty()),
            state: state.to_string(),
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
        let containers = self
            .connect()
            .await?
            .list_containers(Some(ListContainersOptionsBuilder::default().build()))
            .await
            .map_err(|error| SwarmError::new("list the containers", &error))?;
        Ok(containers.into_iter().filter_map(TaskContainer::of).collect())
    }

    /// Seconds between a container's SIGTERM and its SIGKILL, where it has a time of its own.
    pub async fn fetch_grace(&self, container: &str) -> Option<u64> {
        let docker = self.connect().await.ok()?;
        let config = docker.inspect_container(container, None).await.ok()?.config?;
        config.stop_timeout?.try_into().ok()
    }

    /// Every task's container that has ended and is still there.
    ///
    /// # Errors
    /// When Docker does not list its containers.
    pub async fn fetch_ended_tasks(&self) -> Result<Vec<TaskContainer>, SwarmError> {
        let filters = HashMap::from([
            ("label".to_owned(), vec![TASK_LABEL.to_owned()]),
            ("status".to_owned(), vec!["exited".to_owned(), "dead".to_owned()]),
        ]);
        let options = ListContainersOptionsBuilder::default().all(true).filters(&filters).build();
        let docker = self.connect().await?;
        let containers = docker
            .list_containers(Some(options))
            .await
            .map_err(|error| SwarmError::new("list the containers", &error))?;
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
        mut piece: impl FnMut(&[u8]),
    ) -> Result<(), String> {
        let chain = |error: &dyn std::error::Error| crate::errors::chain(error);
        let docker = self.connect().await.map_err(|error| chain(&error))?;
        let options = LogsOptionsBuilder::default()
            .stdout(true)
            .stderr(true)
            .timestamps(true)
            .tail(&lines.to_string());
        let mut log = docker.logs(container, Some(options.build()));
        while let Some(output) = log.try_next().await.map_err(|error| chain(&error))? {
            piece(&output.into_bytes());
        }
        Ok(())
    }

    /// How many tasks of a node have not ended, by the managers' list.
    ///
    /// The desired state says nothing here: it is `shutdown` the moment a drain begins, long
    /// before the task has stopped.
    ///
    /// # Errors
    /// As for [`Swarm::fetch_nodes`].
    pub async fn count_live_tasks(&self, node_id: &str) -> Result<usize, SwarmError> {
        let filters = HashMap::from([("node".to_owned(), vec![node_id.to_owned()])]);
        let tasks = self
            .connect()
            .await?
            .list_tasks(Some(ListTasksOptionsBuilder::default().filters(&filters).build()))
            .await
            .map_err(|error| SwarmError::new("list the tasks", &error))?;
        Ok(tasks
            .into_iter()
            .filter_map(|task| task.status.and_then(|status| status.state))
            .filter(|state| is_live(*state))
            .count())
    }

    /// Every task that has not ended, of all nodes, by service and slot.
    ///
    /// # Errors
    /// As for [`Swarm::fetch_nodes`].
    pub async fn fetch_live_tasks(&self) -> Result<Vec<LiveTask>, SwarmError> {
        let docker = self.connect().await?;
        let (tasks, services) = tokio::try_join!(
            docker.list_tasks(None::<ListTasksOptions>),
            docker.list_services(None::<ListServicesOptions>),
        )
        .map_err(|error| SwarmError::new("list the tasks and services", &error))?;
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
        let docker = self.connect().await?;
        let mut options = StopContainerOptionsBuilder::default();
        if let Some(grace) = grace {
            options = options.t(i32::try_from(grace.as_secs()).unwrap_or(i32::MAX));
        }
        let options = options.build();
        let longest = grace.unwrap_or_default().max(patience) + CALL_TIMEOUT;
        let stops = containers.iter().map(|container| async {
            let docker = docker.clone().with_timeout(longest);
            let (id, options) = (container.id.clone(), options.clone());
            let stop = tokio::spawn(async move { docker.stop_container(&id, Some(options)).await });
            match tokio::time::timeout(patience, stop).await {
                Ok(Ok(Ok(()))) => Stop::Stopped,
                Ok(Ok(Err(error))) => {
                    let error = SwarmError::new("stop the container", &error);
                    if error.kind == SwarmErrorKind::NotFound {
                        return Stop::Stopped;
                    }
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

/// Not ended: everything up to and including `running`.
fn is_live(state: TaskState) -> bool {
    use TaskState::*;
    matches!(
        state,
        NEW | ALLOCATED | PENDING | ASSIGNED | ACCEPTED | PREPARING | READY | STARTING | RUNNING
    )
}

#[cfg(test)]
mod tests {
    use super::*;

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
