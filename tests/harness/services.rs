//! A service as the swarm has it: its spec with skep's edits, and its running tasks.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, ensure};
use bollard::models::{Service, ServiceSpec};
use skep_sim::fleet::{Fleet, is_running};

use crate::secs;

/// Label with the record of an edit that is not taken back.
const RECORD: &str = "skep.move";

const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A service, by its name.
///
/// # Errors
/// When no manager answers, or there is no such service.
pub async fn inspect(fleet: &Fleet, service: &str) -> anyhow::Result<Service> {
    Ok(fleet.manager_docker().await?.inspect_service(service, None).await?)
}

/// The spec of a service.
///
/// # Errors
/// As for [`inspect`].
pub async fn spec_of(fleet: &Fleet, service: &str) -> anyhow::Result<ServiceSpec> {
    inspect(fleet, service).await?.spec.context("a spec")
}

/// The record of an edit that is not taken back.
///
/// # Errors
/// As for [`inspect`].
pub async fn record(fleet: &Fleet, service: &str) -> anyhow::Result<Option<String>> {
    let labels = spec_of(fleet, service).await?.labels;
    Ok(labels.and_then(|labels| labels.get(RECORD).cloned()))
}

/// Waits until the spec is this one again.
///
/// # Errors
/// When this does not happen in time.
pub async fn is_restored(fleet: &Fleet, service: &str, before: &ServiceSpec) -> anyhow::Result<()> {
    fleet
        .wait_until("the operator's spec", secs(90), async || {
            let now = spec_of(fleet, service).await?;
            ensure!(now == *before, "{now:#?}\n{before:#?}");
            Ok(true)
        })
        .await
}

/// Ids of the running tasks that are on none of these nodes.
///
/// # Errors
/// When no manager answers.
pub async fn task_ids(
    fleet: &Fleet,
    service: &str,
    without: &[&str],
) -> anyhow::Result<Vec<String>> {
    let tasks = fleet.tasks_of_service(service).await?.into_iter().filter(is_running);
    let is_there = |id: Option<&str>| id.is_some_and(|id| without.contains(&id));
    Ok(tasks.filter(|it| !is_there(it.node_id.as_deref())).filter_map(|it| it.id).collect())
}

/// The number of a service's running tasks on each node that has some, by the node's id.
///
/// # Errors
/// When no manager answers.
pub async fn running_by_node(
    fleet: &Fleet,
    service: &str,
) -> anyhow::Result<BTreeMap<String, usize>> {
    let mut by_node = BTreeMap::new();
    for task in fleet.tasks_of_service(service).await?.into_iter().filter(is_running) {
        *by_node.entry(task.node_id.context("a node")?).or_default() += 1;
    }
    Ok(by_node)
}

/// Runs `story`, and returns the smallest number of running tasks meanwhile.
///
/// # Errors
/// Those of `story`.
pub async fn fewest_during(
    fleet: &Fleet,
    service: &str,
    story: impl Future<Output = anyhow::Result<()>>,
) -> anyhow::Result<usize> {
    let fewest = Mutex::new(usize::MAX);
    let watch = async {
        loop {
            if let Ok(running) = running_by_node(fleet, service).await {
                let mut fewest = fewest.lock().unwrap();
                *fewest = (*fewest).min(running.values().sum());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    tokio::select! {
        ended = story => ended?,
        () = watch => unreachable!(),
    }
    Ok(fewest.into_inner().unwrap())
}
