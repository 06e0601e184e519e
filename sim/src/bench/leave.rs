//! Measures a worker's departure in two ways, in turns on the same worker: by `skep leave`, and by Docker's own calls.
//!
//! The worker runs a task that stops at once, and publishes no port. Both ways start with an operator (the command; the
//! first call), and end when a manager's node list no longer shows the node. Docker's own calls are those of somebody
//! who knows everything and waits for nothing but the task: drain the node, wait until its task has stopped, leave,
//! remove the entry.

use std::time::Duration;

use anyhow::{Context, ensure};
use bollard::models::{
    NodeSpecAvailabilityEnum, NodeState, ServiceSpec, Task, TaskSpecPlacement, TaskState,
};
use bollard::query_parameters::UpdateNodeOptionsBuilder;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

use super::boot::{Boots, POLL_EVERY};
use crate::fleet::{is_running, service, workload};

const SERVICE: &str = "leaves";
/// Far longer than the task needs.
const GRACE: Duration = Duration::from_secs(20);
const LIMIT: Duration = Duration::from_secs(90);
/// Managers poll the workers' requests every few seconds. A departure that always came at the same moment after the
/// join could meet the polls at a good moment or a bad one, so a random part of this is waited for.
const RHYTHM: Duration = Duration::from_secs(3);

/// The times of all departures.
#[derive(Debug, Default)]
pub struct Leaves {
    pub skep: Vec<Duration>,
    pub docker: Vec<Duration>,
}

/// Measures `rounds` departures of each kind, and one more that only warms caches. The worker is in no swarm before,
/// and after.
pub async fn measure(boots: &Boots<'_>, rounds: u32) -> anyhow::Result<Leaves> {
    boots.worker.speak_tls(true);
    boots.fleet.create_service_of(on_the_worker(boots)?).await?;
    let mut leaves = Leaves::default();
    for round in 0..=rounds {
        let (skep, docker) = if round % 2 == 0 {
            let skep = with_skep(boots).await.context("skep leave")?;
            (skep, with_docker(boots).await.context("Docker's own calls")?)
        } else {
            let docker = with_docker(boots).await.context("Docker's own calls")?;
            (with_skep(boots).await.context("skep leave")?, docker)
        };
        let label = if round == 0 { "warm-up" } else { "departure" };
        println!(
            "{label:<14} skep {:>5} ms   Docker {:>5} ms",
            skep.as_millis(),
            docker.as_millis()
        );
        if round > 0 {
            leaves.skep.push(skep);
            leaves.docker.push(docker);
        }
    }
    boots.manager.delete_service(SERVICE).await?;
    Ok(leaves)
}

/// A service of one task, which only this worker can run.
fn on_the_worker(boots: &Boots<'_>) -> anyhow::Result<ServiceSpec> {
    let mut spec = service(SERVICE, 1, workload::graceful(), GRACE)?;
    let constraint = format!("node.hostname=={}", boots.worker.hostname());
    spec.task_template.get_or_insert_default().placement =
        Some(TaskSpecPlacement { constraints: Some(vec![constraint]), ..Default::default() });
    Ok(spec)
}

/// The worker joins with skep, for either way: skep's own work on a new node is over before the departure.
async fn join(boots: &Boots<'_>) -> anyhow::Result<()> {
    boots.boot_with_skep().await?;
    let fleet = boots.fleet;
    fleet
        .wait_until("the task, and the node's labels", LIMIT, async || {
            let tasks = fleet.tasks_of_service(SERVICE).await?;
            let labels = boots.listed().await?.and_then(|node| node.spec?.labels);
            let is_identified = labels.is_some_and(|all| all.contains_key("skep.instance"));
            Ok(is_identified && tasks.iter().any(is_running))
        })
        .await?;
    sleep(RHYTHM + RHYTHM.mul_f64(fastrand::f64())).await;
    Ok(())
}

async fn with_skep(boots: &Boots<'_>) -> anyhow::Result<Duration> {
    join(boots).await?;
    let start = Instant::now();
    let (asked, took) = tokio::join!(
        boots.worker.skep(["leave", "--no-wait"]),
        boots.until(start, |node| node.is_none())
    );
    let asked = asked?;
    ensure!(asked.status.success(), "{}", String::from_utf8_lossy(&asked.stderr));
    let took = took?;
    let ended = async || Ok(!boots.worker.skep_running());
    boots.fleet.wait_until("the end of skep", LIMIT, ended).await?;
    boots.forget().await?;
    Ok(took)
}

async fn with_docker(boots: &Boots<'_>) -> anyhow::Result<Duration> {
    join(boots).await?;
    // It must not take part in the departure.
    boots.worker.stop_skep().await?;
    let node = boots.listed().await?.context("it is not listed")?;
    ensure!(
        node.status.and_then(|status| status.state) == Some(NodeState::READY),
        "the worker left when its skep was stopped"
    );
    let (id, version) = (node.id.context("no id")?, node.version.and_then(|it| it.index));
    let version = version.context("no version")?;
    let mut spec = node.spec.context("no spec")?;
    spec.availability = Some(NodeSpecAvailabilityEnum::DRAIN);
    let start = Instant::now();
    let options = UpdateNodeOptionsBuilder::default().version(version.try_into()?).build();
    boots.manager.update_node(&id, spec, options).await?;
    timeout(LIMIT, until_empty(boots)).await.context("its task does not stop")??;
    boots.worker_docker.leave_swarm(None).await?;
    boots.remove(&id).await?;
    let took = boots.until(start, |node| node.is_none()).await?;
    boots.forget().await?;
    Ok(took)
}

async fn until_empty(boots: &Boots<'_>) -> anyhow::Result<()> {
    let mut ticks = interval(POLL_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        // The one that waits for a node has none.
        let tasks = boots.manager_tasks(SERVICE).await?;
        if !tasks.iter().any(|task| task.node_id.is_some() && has_process(task)) {
            return Ok(());
        }
    }
}

/// Whether a task may still have a process.
fn has_process(task: &Task) -> bool {
    use TaskState as State;
    let state = task.status.as_ref().and_then(|status| status.state);
    matches!(
        state,
        Some(
            State::ASSIGNED
                | State::ACCEPTED
                | State::PREPARING
                | State::READY
                | State::STARTING
                | State::RUNNING
        )
    )
}
