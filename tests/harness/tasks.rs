//! The running tasks of a service, as the swarm lists them.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use anyhow::Context;
use skep_sim::fleet::{Fleet, is_running};

const LOOK_EVERY: Duration = Duration::from_millis(100);

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
