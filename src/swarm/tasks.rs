//! What runs on a node: the manager's task list, and this host's own containers.

use std::collections::HashMap;
use std::time::Duration;

use bollard::models::{ContainerSummary, TaskState};
use bollard::query_parameters::{
    ListContainersOptionsBuilder, ListTasksOptionsBuilder, LogsOptionsBuilder,
    StopContainerOptionsBuilder,
};
use futures_util::TryStreamExt as _;
use futures_util::future::join_all;

use super::{CALL_TIMEOUT, Swarm, SwarmError, SwarmErrorKind};

/// The label that marks a container as a swarm task's.
const TASK_LABEL: &str = "com.docker.swarm.task.id";

/// A running container of this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskContainer {
    pub id: String,
    pub name: String,
    /// `None` for a standalone container, which no drain touches.
    pub task_id: Option<String>,
}

/// What came of stopping containers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StopSummary {
    pub stopped: usize,
    pub failed: usize,
}

impl TaskContainer {
    fn of(container: ContainerSummary) -> Option<Self> {
        let name = container.names.unwrap_or_default().into_iter().next().unwrap_or_default();
        Some(Self {
            id: container.id?,
            name: name.trim_start_matches('/').to_owned(),
            task_id: container.labels.unwrap_or_default().remove(TASK_LABEL),
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

    /// The last lines of every task's container that has ended and is still there, each behind Docker's
    /// time of it; by the container's name. Those with a driver that Docker cannot read say so.
    ///
    /// # Errors
    /// When Docker does not list its containers.
    pub async fn fetch_task_logs(
        &self,
        lines: u32,
    ) -> Result<Vec<(String, Result<String, String>)>, SwarmError> {
        let docker = self.connect().await?;
        let filters = HashMap::from([
            ("label".to_owned(), vec![TASK_LABEL.to_owned()]),
            ("status".to_owned(), vec!["exited".to_owned(), "dead".to_owned()]),
        ]);
        let options = ListContainersOptionsBuilder::default().all(true).filters(&filters).build();
        let containers = docker
            .list_containers(Some(options))
            .await
            .map_err(|error| SwarmError::new("list the containers", &error))?;
        let logs = containers.into_iter().filter_map(TaskContainer::of).map(async |container| {
            let options = LogsOptionsBuilder::default()
                .stdout(true)
                .stderr(true)
                .timestamps(true)
                .tail(&lines.to_string());
            let chunks: Result<Vec<_>, _> =
                docker.logs(&container.id, Some(options.build())).try_collect().await;
            let text = chunks.map(|chunks| chunks.iter().map(ToString::to_string).collect());
            (container.name, text.map_err(|error| crate::errors::chain(&error)))
        });
        Ok(join_all(logs).await)
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

    /// Stops containers side by side, each with its **own** grace (`StopTimeout`), but none longer
    /// than `budget`.
    ///
    /// # Errors
    /// When Docker is not there; what a single container answers is in the summary.
    pub async fn stop_containers(
        &self,
        containers: &[TaskContainer],
        budget: Duration,
    ) -> Result<StopSummary, SwarmError> {
        let docker = self.connect().await?;
        let stops = containers.iter().map(|container| async {
            // Without `t` Docker takes the container's own StopTimeout, which may well be longer
            // than the time-out that other calls have.
            let options = StopContainerOptionsBuilder::default().build();
            let stop = docker.clone().with_timeout(budget.max(CALL_TIMEOUT));
            let stopped =
                tokio::time::timeout(budget, stop.stop_container(&container.id, Some(options)));
            match stopped.await {
                Ok(Ok(())) => true,
                Ok(Err(error)) => {
                    let error = SwarmError::new("stop the container", &error);
                    let gone = error.kind == SwarmErrorKind::NotFound;
                    if !gone {
                        tracing::warn!(container = container.name, "{error}");
                    }
                    gone
                }
                Err(_) => {
                    tracing::warn!(container = container.name, "did not stop within {budget:?}");
                    false
                }
            }
        });
        let outcomes = join_all(stops).await;
        let stopped = outcomes.iter().filter(|stopped| **stopped).count();
        Ok(StopSummary { stopped, failed: outcomes.len() - stopped })
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
