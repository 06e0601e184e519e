//! Tasks of a service with the label `skep.balance` move to a node that joins, new ones first, and no more than that node
//! lacks; a departure comes first.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, ensure};
use bollard::models::{HealthConfig, ServiceSpec};
use harness::departures::{Leaver, options_with, restart_skep, running, standing};
use harness::nodes::all_active;
use harness::services::{fewest_during, is_restored, record, running_by_node, spec_of, task_ids};
use harness::{PATIENCE, secs};
use skep_sim::fleet::{ClusterSpec, Fleet, start_first, workload};

const SERVICE: &str = "web";
const CONFIG: &str = "[balance]\nsettle = \"3s\"\n";
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A service on workers with this label. A new task runs only after some seconds.
fn labelled(replicas: u32, labels: &[(&str, &str)]) -> anyhow::Result<ServiceSpec> {
    let mut spec = start_first(SERVICE, replicas, workload::slow_to_stop(1.0), secs(30))?;
    let own = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
    spec.labels = Some(labels.iter().map(own).collect());
    let container = &mut spec.task_template.as_mut().context("a template")?.container_spec;
    container.as_mut().context("a container")?.health_check = Some(HealthConfig {
        test: Some(vec!["CMD".to_owned(), "true".to_owned()]),
        interval: Some(i64::try_from(secs(2).as_nanos())?),
        ..Default::default()
    });
    Ok(spec)
}

/// Numbers of running tasks, the smallest first.
async fn placed(fleet: &Fleet) -> anyhow::Result<Vec<usize>> {
    let running: BTreeMap<String, usize> = running_by_node(fleet, SERVICE).await?;
    let mut counts: Vec<usize> = running.into_values().collect();
    counts.sort_unstable();
    Ok(counts)
}

/// Two workers have the tasks of `web`, and a third one joins.
async fn with_a_new_worker(labels: &[(&str, &str)]) -> anyhow::Result<(Fleet, ClusterSpec)> {
    let spec = ClusterSpec::new("demo", 1, 2);
    let fleet = standing(options_with(CONFIG), &spec).await?;
    fleet.create_service_of(labelled(6, labels)?).await?;
    running(&fleet, SERVICE, 6).await?;
    ensure!(placed(&fleet).await? == [3, 3]);
    fleet.cloud().set_desired(&spec.workers_group(), 3)?;
    Ok((fleet, spec))
}

/// The manager's skep is killed at each step.
#[tokio::test]
async fn the_tasks_are_even_and_no_other_was_touched() -> anyhow::Result<()> {
    let (fleet, _) = with_a_new_worker(&[("skep.balance", "true")]).await?;
    let before = spec_of(&fleet, SERVICE).await?;
    let tasks = task_ids(&fleet, SERVICE, &[]).await?;
    let manager = fleet.leader().await?;
    let crashes = async {
        let mut killed_at = None;
        loop {
            let record = record(&fleet, SERVICE).await.ok().flatten();
            if record.is_some() && record != killed_at {
                killed_at = record;
                restart_skep(&fleet, &manager).await?;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    let fewest = fewest_during(&fleet, SERVICE, async {
        let even = fleet.wait_until("two tasks on each worker", PATIENCE, async || {
            Ok(placed(&fleet).await? == [2, 2, 2])
        });
        tokio::select! {
            even = even => even,
            crash = crashes => crash,
        }?;
        is_restored(&fleet, SERVICE, &before).await
    })
    .await?;
    ensure!(fewest == 6, "{fewest}\n{}", fleet.report());
    let now = task_ids(&fleet, SERVICE, &[]).await?;
    let stayed = tasks.iter().filter(|id| now.contains(id)).count();
    ensure!(stayed == 4, "{stayed} of {tasks:?} in {now:?}");
    let active = async || all_active(&fleet, 4).await;
    fleet.wait_until("active nodes", PATIENCE, active).await?;
    fleet.stop().await
}

/// The node that leaves is the one that gives up tasks.
#[tokio::test]
async fn a_departure_comes_first() -> anyhow::Result<()> {
    let labels = [("skep.balance", "true"), ("skep.drain", "start-first")];
    let (fleet, spec) = with_a_new_worker(&labels).await?;
    let before = spec_of(&fleet, SERVICE).await?;
    let fewest = fewest_during(&fleet, SERVICE, async {
        let mut edit = None;
        fleet
            .wait_until("an edit", PATIENCE, async || {
                edit = record(&fleet, SERVICE).await?;
                Ok(edit.is_some())
            })
            .await?;
        let edit = edit.context("an edit")?;
        let mut leaver = None;
        for worker in fleet.group(&spec.workers_group()) {
            let worker = Leaver::of(&worker).await?;
            if edit.contains(&worker.node_id) {
                leaver = Some(worker);
            }
        }
        let leaver = leaver.with_context(|| format!("no worker in {edit}"))?;
        fleet.cloud().terminate(leaver.id(), true)?;
        leaver.has_left_by_its_hook(&fleet).await?;
        is_restored(&fleet, SERVICE, &before).await
    })
    .await?;
    ensure!(fewest == 6, "{fewest}\n{}", fleet.report());
    ensure!(placed(&fleet).await? == [3, 3], "{}", fleet.report());
    fleet.wait_until("active nodes", PATIENCE, async || all_active(&fleet, 3).await).await?;
    fleet.stop().await
}
