//! Reads services, and gives a service new pull credentials.
//!
//! A service's spec is sent back exactly as it was read, in the newest API version that the engine offers and not in
//! the one that skep uses otherwise: an engine deletes from a spec the fields that an older version does not have
//! (`adjustForAPIVersion` in moby's `daemon/server/router/swarm/helpers.go`).

use std::collections::BTreeMap;

use bollard::models::TaskState;
use reqwest::{Method, StatusCode};
use secrecy::SecretString;
use serde::Deserialize;
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::raw::Request;
use super::tasks::Task;
use super::version::ApiVersion;
use super::{Resources, Swarm, SwarmError, SwarmErrorKind};
use crate::common::printable::printable;

/// Characters that are kept of the reason of a task's end: the node of the task reports it.
pub(super) const LONGEST_REASON: usize = 300;

/// The part of a service that matters for its pull credentials.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Service {
    /// Docker's id of the service.
    #[serde(rename = "ID")]
    pub id: String,
    version: Version,
    /// The whole spec, as Docker sent it.
    spec: Value,
    /// The spec to which `docker service rollback` returns.
    previous_spec: Option<Value>,
    /// Time when Docker last updated the service object.
    #[serde(with = "time::serde::rfc3339")]
    pub updated_at: OffsetDateTime,
    update_status: Option<UpdateStatus>,
    service_status: Option<ServiceStatus>,
    /// The API version that the spec was read in; `None` for a service that was not read from Docker.
    #[serde(skip)]
    api: Option<ApiVersion>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Version {
    index: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct UpdateStatus {
    #[serde(default)]
    state: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ServiceStatus {
    #[serde(default)]
    running_tasks: u64,
    #[serde(default)]
    desired_tasks: u64,
}

/// A task of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceTask {
    /// The number of a replica, or the node of a global service's task.
    pub slot: String,
    /// Time when the swarm created the task.
    pub created_at: OffsetDateTime,
    /// The observed state, such as `rejected`; `None` for one that skep does not know.
    pub state: Option<TaskState>,
    /// The desired state: the task goes no further than this.
    pub desired: TaskState,
    /// The reason of its end, as Docker reports it.
    pub error: Option<String>,
    /// Docker's id of its node.
    pub node_id: Option<String>,
    /// The resources that it reserves on a node.
    pub reserved: Resources,
}

impl Service {
    /// Returns its name; its id where the spec has no name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.spec["Name"].as_str().unwrap_or(&self.id)
    }

    /// Returns the whole spec, as Docker sent it.
    #[must_use]
    pub fn spec(&self) -> &Value {
        &self.spec
    }

    /// Returns the spec to which `docker service rollback` returns.
    #[must_use]
    pub fn previous_spec(&self) -> Option<&Value> {
        self.previous_spec.as_ref()
    }

    /// Returns the reference of its image; `None` where its tasks are not containers.
    #[must_use]
    pub fn image(&self) -> Option<&str> {
        self.spec["TaskTemplate"]["ContainerSpec"]["Image"].as_str()
    }

    /// Whether it is a job, whose tasks run once and then end.
    #[must_use]
    pub fn is_job(&self) -> bool {
        ["ReplicatedJob", "GlobalJob"].iter().any(|mode| !self.spec["Mode"][mode].is_null())
    }

    /// Whether it has one task on every node that fits, for good or as a job.
    #[must_use]
    pub fn is_global(&self) -> bool {
        ["Global", "GlobalJob"].iter().any(|mode| !self.spec["Mode"][mode].is_null())
    }

    /// Whether it publishes a port, through the routing mesh or on its hosts.
    #[must_use]
    pub fn publishes_ports(&self) -> bool {
        self.spec["EndpointSpec"]["Ports"].as_array().is_some_and(|ports| !ports.is_empty())
    }

    /// Returns the state of an update or a rollback that is not over, such as `paused`.
    #[must_use]
    pub fn unfinished_update(&self) -> Option<&str> {
        let state = self.update_status.as_ref()?.state.as_str();
        const OVER: [&str; 3] = ["", "completed", "rollback_completed"];
        (!OVER.contains(&state)).then_some(state)
    }

    /// Returns the number of replicas that it must have; `None` for a global service and for a job.
    #[must_use]
    pub fn replicas(&self) -> Option<u64> {
        self.spec["Mode"]["Replicated"]["Replicas"].as_u64()
    }

    /// Whether its last update was a rollback, by an operator or by Docker.
    #[must_use]
    pub fn was_rolled_back(&self) -> bool {
        self.update_status.as_ref().is_some_and(|status| status.state == "rollback_completed")
    }

    /// Whether `docker service rollback` would change the visible spec.
    #[must_use]
    pub fn has_another_to_roll_back_to(&self) -> bool {
        self.previous_spec.as_ref().is_some_and(|previous| *previous != self.spec)
    }

    /// Whether it has fewer running tasks than desired.
    #[must_use]
    pub fn is_short_of_tasks(&self) -> bool {
        self.service_status.is_some_and(|status| status.running_tasks < status.desired_tasks)
    }
}

impl Swarm {
    /// Fetches all services. Managers only.
    ///
    /// # Errors
    /// [`SwarmErrorKind::Stale`] where Docker was upgraded or downgraded in between, and as for [`Swarm::fetch_nodes`].
    pub async fn fetch_services(&self) -> Result<Vec<Service>, SwarmError> {
        const OPERATION: &str = "list the services";
        let api = self.fetch_offer().await?.newest();
        let request = Request::new(Method::GET, "services?status=true");
        let body = self.exchange_unabridged(OPERATION, api, &request).await?;
        let services: Vec<Service> = serde_json::from_slice(&body)
            .map_err(|error| SwarmError::unexpected(OPERATION, error.to_string()))?;
        Ok(services.into_iter().map(|service| Service { api: Some(api), ..service }).collect())
    }

    /// Gives a service new pull credentials, and changes nothing else: its spec is sent back as it was read, and Docker
    /// refuses it as stale when anything has changed since.
    ///
    /// # Errors
    /// [`SwarmErrorKind::Stale`], and as for [`Swarm::fetch_nodes`].
    pub async fn update_registry_auth(
        &self,
        service: &Service,
        auth: SecretString,
    ) -> Result<(), SwarmError> {
        const OPERATION: &str = "update a service's pull credentials";
        self.send_spec(OPERATION, service, &service.spec, Some(auth)).await
    }

    /// Replaces the spec of a service, which keeps its pull credentials. Docker refuses it as stale when anything has
    /// changed since the service was read.
    ///
    /// # Errors
    /// [`SwarmErrorKind::Stale`], and as for [`Swarm::fetch_nodes`].
    pub async fn update_service(&self, service: &Service, spec: &Value) -> Result<(), SwarmError> {
        self.send_spec("update a service", service, spec, None).await
    }

    async fn send_spec(
        &self,
        operation: &'static str,
        service: &Service,
        spec: &Value,
        auth: Option<SecretString>,
    ) -> Result<(), SwarmError> {
        let Service { id, version, api, .. } = service;
        let Some(api) = *api else {
            return Err(SwarmError::unexpected(operation, "the service was not read from Docker"));
        };
        let path = format!("services/{id}/update?version={}", version.index);
        let body = spec.to_string().into_bytes();
        let request = Request { auth, body, ..Request::new(Method::POST, path) };
        self.exchange_unabridged(operation, api, &request).await.map(drop)
    }

    /// Exchanges whole specs, in this version and in no other: a spec has another meaning in another version.
    pub(super) async fn exchange_unabridged(
        &self,
        operation: &'static str,
        api: ApiVersion,
        request: &Request,
    ) -> Result<Vec<u8>, SwarmError> {
        match self.exchange_in(operation, api, request).await {
            // 201 for an object that was created.
            Ok((StatusCode::OK | StatusCode::CREATED, body)) => Ok(body),
            Ok((status, body)) => Err(SwarmError::answered(operation, status.as_u16(), &body)),
            Err(error) if error.is_of_version() => Err(SwarmError {
                kind: SwarmErrorKind::Stale,
                message: format!(
                    "Docker was upgraded or downgraded and no longer accepts API {api}"
                ),
                ..error
            }),
            Err(error) => Err(error),
        }
    }

    /// Fetches a service's tasks, including ended ones as far as Docker keeps them.
    ///
    /// # Errors
    /// As for [`Swarm::fetch_nodes`].
    pub async fn fetch_tasks_of_service(&self, id: &str) -> Result<Vec<ServiceTask>, SwarmError> {
        let tasks = self.fetch_tasks("list a service's tasks", Some(("service", id))).await?;
        Ok(tasks.into_iter().filter_map(ServiceTask::of).collect())
    }

    /// Fetches the tasks of all services by the services' ids, including ended ones as far as Docker keeps them. The
    /// answer can have many megabytes.
    ///
    /// # Errors
    /// As for [`Swarm::fetch_nodes`].
    pub async fn fetch_tasks_by_service(
        &self,
    ) -> Result<BTreeMap<String, Vec<ServiceTask>>, SwarmError> {
        let mut all: BTreeMap<String, Vec<ServiceTask>> = BTreeMap::new();
        for mut task in self.fetch_tasks("list the tasks", None).await? {
            let service = task.service_id.take().filter(|id| !id.is_empty());
            if let Some((service, task)) = service.zip(ServiceTask::of(task)) {
                all.entry(service).or_default().push(task);
            }
        }
        Ok(all)
    }
}

impl ServiceTask {
    const ENDED: [TaskState; 6] = {
        use TaskState::{COMPLETE, FAILED, ORPHANED, REJECTED, REMOVE, SHUTDOWN};
        [COMPLETE, FAILED, ORPHANED, REJECTED, REMOVE, SHUTDOWN]
    };

    /// Whether it is to run, and has not ended.
    #[must_use]
    pub fn is_wanted(&self) -> bool {
        !Self::ENDED.contains(&self.desired) && !self.has_ended()
    }

    /// Whether it has ended; a task in a state that skep does not know has not.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.state.is_some_and(|state| Self::ENDED.contains(&state))
    }

    /// Whether it is to run on this node, and has not ended there.
    #[must_use]
    pub fn is_wanted_on(&self, node_id: &str) -> bool {
        self.node_id.as_deref() == Some(node_id) && self.is_wanted()
    }

    fn of(task: Task) -> Option<Self> {
        let time = |text: Option<String>| OffsetDateTime::parse(&text?, &Rfc3339).ok();
        let reserved = task.reserved();
        let status = task.status?;
        let slot = match task.slot {
            Some(slot) if slot > 0 => slot.to_string(),
            _ => task.node_id.clone().unwrap_or_default(),
        };
        Some(Self {
            slot,
            created_at: time(task.created_at)?,
            state: status.state?.parse().ok(),
            desired: task.desired_state?.parse().ok()?,
            error: status
                .err
                .filter(|error| !error.is_empty())
                .map(|error| printable(&error, LONGEST_REASON)),
            node_id: task.node_id,
            reserved,
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn service(more: Value) -> Service {
        let mut service = json!({
            "ID": "s1",
            "Version": { "Index": 12 },
            "CreatedAt": "2026-11-21T10:00:00.1Z",
            "UpdatedAt": "2026-11-21T10:00:00.123456789Z",
            "Spec": {
                "Name": "web", "Mode": { "Replicated": { "Replicas": 2 } },
                "TaskTemplate": { "ContainerSpec": { "Image": "host/app:1" }, "New": [0.15] },
            },
            "Endpoint": {},
        });
        for (key, value) in more.as_object().unwrap() {
            service[key] = value.clone();
        }
        serde_json::from_value(service).unwrap()
    }

    #[test]
    fn what_docker_says_of_a_service_is_understood_and_its_spec_is_kept_whole() {
        let plain = service(json!({}));
        assert_eq!((plain.name(), plain.image()), ("web", Some("host/app:1")));
        assert!(!plain.is_job() && !plain.is_short_of_tasks());
        assert_eq!(plain.replicas(), Some(2));
        assert!(!plain.has_another_to_roll_back_to() && plain.unfinished_update().is_none());
        assert_eq!(plain.spec["TaskTemplate"]["New"], json!([0.15]), "a field of a later version");

        let same = service(json!({ "PreviousSpec": plain.spec }));
        assert!(!same.has_another_to_roll_back_to());
        let other = service(json!({ "PreviousSpec": { "Name": "web" } }));
        assert!(other.has_another_to_roll_back_to());
        for mode in ["ReplicatedJob", "GlobalJob"] {
            assert!(service(json!({ "Spec": { "Mode": { mode: {} } } })).is_job());
        }
        for (state, is_unfinished) in [
            ("updating", true),
            ("paused", true),
            ("rollback_started", true),
            ("rollback_paused", true),
            ("completed", false),
            ("rollback_completed", false),
        ] {
            let updated = service(json!({ "UpdateStatus": { "State": state } }));
            assert_eq!(updated.unfinished_update(), is_unfinished.then_some(state));
        }
        let status = json!({ "ServiceStatus": { "RunningTasks": 1, "DesiredTasks": 2 } });
        assert!(service(status).is_short_of_tasks());
    }
}
