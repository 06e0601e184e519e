//! Reads what runs in the swarm for the page: every task that has not ended, and the services.
//!
//! Guarantee: of a service's spec only the name, the mode and the image are parsed. Its environment, its arguments and
//! its labels stay out of every value here.

use std::collections::BTreeMap;

use reqwest::Method;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::raw::Request;
use super::services::LONGEST_REASON;
use super::tasks::Task;
use super::{Swarm, SwarmError};
use crate::common::printable::printable;

/// State of a task whose state Docker does not report: it may be running.
const NO_STATE: &str = "unknown";
/// Characters that are kept of a state: the node of the task reports it, and Docker passes on what it does not know.
const LONGEST_STATE: usize = 20;
/// Characters that are kept of an image's reference: a registry, a path, a tag and a digest.
const LONGEST_IMAGE: usize = 500;

/// What runs in the swarm, and what is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiveWork {
    /// The services, by name.
    pub services: Vec<LiveService>,
    /// Every task that has not ended, by service and slot.
    pub tasks: Vec<LiveTask>,
}

/// A service, as the managers list it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LiveService {
    /// The service's name.
    pub name: String,
    /// The reference of its image with tag and digest; `None` where its tasks are not containers.
    pub image: Option<String>,
    /// `replicated`, `global` or `job`.
    pub mode: &'static str,
    /// The number of tasks that Docker wants to run; `None` if it does not report the number.
    pub wanted: Option<u64>,
    /// The state of an update or a rollback that is not over, such as `paused`.
    pub update: Option<String>,
    /// The reason why its newest failed task ended, as Docker reports it; `None` if the list has no such task.
    pub last_failure: Option<String>,
}

/// A task that has not ended, by the managers' list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LiveTask {
    /// The service's name; its id where the service is removed already.
    pub service: String,
    /// The number of the replica; `None` for a task of a global service.
    pub slot: Option<i64>,
    /// `None` while it waits for a node.
    pub node_id: Option<String>,
    /// Docker's state, such as `running`; [`NO_STATE`] where its list has none.
    pub state: String,
    /// Whether its desired state is shutdown or removal.
    pub stopping: bool,
    /// Why no node fits, by Docker's scheduler; `None` for a task that has a node.
    pub why: Option<String>,
}

/// The part of a service that matters here.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    #[serde(rename = "ID")]
    id: String,
    spec: Spec,
    update_status: Option<UpdateStatus>,
    service_status: Option<ServiceStatus>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Spec {
    name: String,
    #[serde(default)]
    mode: BTreeMap<String, Value>,
    task_template: Option<Template>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Template {
    container_spec: Option<ContainerSpec>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ContainerSpec {
    image: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct UpdateStatus {
    state: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ServiceStatus {
    desired_tasks: Option<u64>,
}

impl Swarm {
    /// Fetches the services, and every task of all nodes that has not ended.
    ///
    /// # Errors
    /// As for [`Swarm::fetch_nodes`].
    pub async fn fetch_live_work(&self) -> Result<LiveWork, SwarmError> {
        let services = Request::new(Method::GET, "services?status=true");
        let (tasks, services) = tokio::try_join!(
            self.fetch_tasks("list the tasks", None),
            self.read("list the services", services),
        )?;
        Ok(LiveWork::of(tasks, services))
    }
}

impl LiveWork {
    fn of(tasks: Vec<Task>, services: Vec<Entry>) -> Self {
        let mut failures = newest_failures(&tasks);
        let names: BTreeMap<String, String> =
            services.iter().map(|entry| (entry.id.clone(), entry.spec.name.clone())).collect();
        let live = tasks.into_iter().filter_map(|task| LiveTask::of(task, &names));
        let mut tasks: Vec<LiveTask> = live.collect();
        tasks.sort_by(|a, b| (&a.service, a.slot).cmp(&(&b.service, b.slot)));
        let shown = services.into_iter().map(|entry| {
            let last_failure = failures.remove(&entry.id);
            LiveService::of(entry, last_failure)
        });
        let mut services: Vec<LiveService> = shown.collect();
        services.sort_by(|a, b| a.name.cmp(&b.name));
        Self { services, tasks }
    }
}

/// Returns why the newest failed task of each service ended, by the services' ids.
fn newest_failures(tasks: &[Task]) -> BTreeMap<String, String> {
    let mut newest: BTreeMap<&String, (&String, &String)> = BTreeMap::new();
    for task in tasks {
        let Some(status) = &task.status else { continue };
        if !matches!(status.state.as_deref(), Some("failed" | "rejected")) {
            continue;
        }
        // All times of an engine have the same format and zone, so that their order is that of the texts to the second.
        if let (Some(service), Some(at), Some(why)) =
            (&task.service_id, &task.created_at, &status.err)
            && !why.is_empty()
            && newest.get(service).is_none_or(|(known, _)| *known < at)
        {
            newest.insert(service, (at, why));
        }
    }
    let text = |why: &String| printable(why, LONGEST_REASON);
    newest.into_iter().map(|(service, (_, why))| (service.clone(), text(why))).collect()
}

impl LiveService {
    fn of(entry: Entry, last_failure: Option<String>) -> Self {
        let Entry { spec, update_status, service_status, .. } = entry;
        let has = |mode: &str| spec.mode.get(mode).is_some_and(|it| !it.is_null());
        let mode = if has("ReplicatedJob") || has("GlobalJob") {
            "job"
        } else if has("Global") {
            "global"
        } else {
            "replicated"
        };
        let replicas = spec.mode.get("Replicated").and_then(|it| it["Replicas"].as_u64());
        let image = spec.task_template.and_then(|it| it.container_spec).and_then(|it| it.image);
        let update = update_status.and_then(|status| status.state);
        const OVER: [&str; 3] = ["", "completed", "rollback_completed"];
        Self {
            name: spec.name,
            image: image.map(|image| printable(&image, LONGEST_IMAGE)),
            mode,
            wanted: replicas.or_else(|| service_status.and_then(|status| status.desired_tasks)),
            update: update
                .filter(|state| !OVER.contains(&state.as_str()))
                .map(|state| printable(&state, LONGEST_STATE)),
            last_failure,
        }
    }
}

impl LiveTask {
    fn of(task: Task, services: &BTreeMap<String, String>) -> Option<Self> {
        if !task.is_live() {
            return None;
        }
        let (state, error) = task.status.map(|it| (it.state, it.err)).unwrap_or_default();
        let service = task.service_id.unwrap_or_default();
        let node_id = task.node_id.filter(|id| !id.is_empty());
        let is_refused = |error: &String| node_id.is_none() && !error.is_empty();
        Some(Self {
            service: services.get(&service).cloned().unwrap_or(service),
            slot: task.slot.filter(|slot| *slot > 0),
            state: state
                .map_or_else(|| NO_STATE.to_owned(), |state| printable(&state, LONGEST_STATE)),
            stopping: matches!(task.desired_state.as_deref(), Some("shutdown" | "remove")),
            why: error.filter(is_refused).map(|error| printable(&error, LONGEST_REASON)),
            node_id,
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn work(tasks: Value, services: Value) -> LiveWork {
        LiveWork::of(
            serde_json::from_value(tasks).unwrap(),
            serde_json::from_value(services).unwrap(),
        )
    }

    fn service(id: &str, mode: Value, status: Value) -> Value {
        json!({ "ID": id, "ServiceStatus": status, "Spec": {
            "Name": format!("name-of-{id}"), "Mode": mode,
            "Labels": { "team": "hush" },
            "TaskTemplate": { "ContainerSpec": {
                "Image": "registry.example/web:1.2@sha256:00", "Env": ["TOKEN=hush"], "Args": ["hush"],
            } },
        } })
    }

    fn task(service: &str, node: &str, status: Value) -> Value {
        json!({ "ServiceID": service, "NodeID": node, "Slot": 1, "DesiredState": "running",
            "CreatedAt": "2026-11-21T10:00:00.5Z", "Status": status })
    }

    #[test]
    fn a_service_is_shown_by_mode_image_and_wanted_tasks_and_without_its_environment() {
        let status = json!({ "RunningTasks": 1, "DesiredTasks": 7 });
        let seen = work(
            json!([]),
            json!([
                service("c", json!({ "Global": {} }), status.clone()),
                service("a", json!({ "Replicated": { "Replicas": 3 } }), status.clone()),
                service("d", json!({ "ReplicatedJob": { "TotalCompletions": 9 } }), status),
                service("b", json!({ "Global": {} }), Value::Null),
            ]),
        );
        let shown: Vec<_> =
            seen.services.iter().map(|it| (it.name.as_str(), it.mode, it.wanted)).collect();
        let expected = [
            ("name-of-a", "replicated", Some(3)),
            ("name-of-b", "global", None),
            ("name-of-c", "global", Some(7)),
            ("name-of-d", "job", Some(7)),
        ];
        assert_eq!(shown, expected);
        let image = seen.services[0].image.as_deref();
        assert_eq!(image, Some("registry.example/web:1.2@sha256:00"));
        let json = serde_json::to_string(&seen.services).unwrap();
        assert!(!json.contains("hush") && !json.contains("TOKEN"), "{json}");
    }

    #[test]
    fn a_task_without_a_node_says_why_and_others_do_not() {
        let pending = json!({ "State": "pending", "Err": "no suitable node (insufficient resources on 3 nodes)" });
        let stops = json!({ "State": "running", "Err": "of its node" });
        let tasks = json!([
            task("a", "", pending),
            task("a", "n1", stops),
            task("a", "", json!({ "State": "new", "Err": "" }))
        ]);
        let seen = work(tasks, json!([]));
        let why: Vec<_> = seen.tasks.iter().map(|task| task.why.as_deref()).collect();
        assert_eq!(why, [Some("no suitable node (insufficient resources on 3 nodes)"), None, None]);
    }

    #[test]
    fn a_service_names_the_reason_of_its_newest_failure_alone() {
        let ended = |at: &str, state: &str, why: &str| {
            let status = json!({ "State": state, "Err": why });
            let mut task = task("a", "n1", status);
            task["CreatedAt"] = at.into();
            task
        };
        let tasks = json!([
            ended("2026-11-21T10:00:02Z", "rejected", "No such image\nweb:1.3"),
            ended("2026-11-21T10:00:01Z", "failed", "task: non-zero exit (1)"),
            ended("2026-11-21T10:00:03Z", "shutdown", "replaced"),
        ]);
        let mode = json!({ "Replicated": { "Replicas": 1 } });
        let services =
            json!([service("a", mode.clone(), Value::Null), service("b", mode, Value::Null)]);
        let seen = work(tasks, services);
        let failure = seen.services[0].last_failure.as_deref().unwrap();
        assert!(failure.starts_with("No such image") && !failure.contains('\n'), "{failure}");
        assert_eq!(seen.services[1].last_failure, None);
        assert!(seen.tasks.is_empty(), "they have all ended");
    }

    #[test]
    fn an_update_is_shown_until_it_is_over() {
        let update = |state: &str| {
            let mut entry = service("a", json!({ "Global": {} }), Value::Null);
            entry["UpdateStatus"] = json!({ "State": state });
            work(json!([]), json!([entry])).services.remove(0).update
        };
        assert_eq!(update("paused").as_deref(), Some("paused"));
        assert_eq!(update("updating").as_deref(), Some("updating"));
        assert_eq!(
            (update("completed"), update("rollback_completed"), update("")),
            (None, None, None)
        );
    }
}
