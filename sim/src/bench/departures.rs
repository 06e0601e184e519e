//! Measures what departures cost the users of services, with skep's waits and without them: requests that are lost while
//! workers get spot notices behind a load balancer, and the replicas that run while several workers leave at once.

use std::cell::RefCell;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use bollard::models::Task;
use serde::Serialize;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};

use super::create;
use crate::cloud::{ClusterBalancer, Market, TargetState};
use crate::fleet::{
    ClusterSpec, Fleet, FleetOptions, Instance, is_running, on_every_worker, start_first, workload,
};
use crate::stage;
use crate::witness::client::{self, Counts};
use crate::witness::single::{self, Single};

const SERVICE: &str = "front";
const LISTENER: u16 = 80;
const PORT: u16 = 8080;
/// Workers behind the load balancer, and those of them that get a spot notice, one after the other.
const BALANCED: u32 = 3;
const RECLAIMED: usize = 2;
/// EC2's own.
const NOTICE: Duration = Duration::from_secs(120);
/// Workers of the service with replicas, and those of them that leave at once.
const WORKERS: u32 = 6;
const AT_ONCE: usize = 5;
const REPLICAS: u32 = 12;
/// Seconds for which a task goes on after SIGTERM.
const STOPS_IN: f32 = 2.0;
const GRACE: Duration = Duration::from_secs(20);
const LOOK_EVERY: Duration = Duration::from_millis(150);
const LIMIT: Duration = Duration::from_secs(180);
/// Time before the first departure, and after the last one: a balancer that has not noticed a departure loses requests
/// afterwards, too.
const AROUND: Duration = Duration::from_secs(15);

/// The requests of one run.
#[derive(Clone, Debug, Serialize)]
pub struct Lost {
    pub departures: usize,
    pub sent: u64,
    pub lost: u64,
    pub lost_per_departure: f64,
}

/// Both measurements, with and without a wait.
#[derive(Clone, Debug, Serialize)]
pub struct Departures {
    /// With `leave.linger = "20s"`, the default.
    pub traffic_first: Lost,
    /// With `leave.linger = "0s"`: the node is drained at once.
    pub drained_at_once: Lost,
    /// Fewest running replicas of [`Self::replicas`] while workers leave at once, with `[pace]`.
    pub fewest_running_paced: usize,
    /// The same with `pace.enabled = false`.
    pub fewest_running_unpaced: usize,
    pub replicas: u32,
    pub leave_at_once: usize,
    /// Seconds without a running task of a service of one replica while its worker leaves: with the label `skep.drain`.
    pub gap_start_first: f64,
    /// The same without the label.
    pub gap_plain: f64,
}

/// Measures everything, each variant on a fleet of its own.
pub async fn measure(skep: &Path) -> anyhow::Result<Departures> {
    println!("{RECLAIMED} of {BALANCED} workers behind a load balancer get spot notices");
    let traffic_first = on_a_fleet(skep, "[leave]\nlinger = \"20s\"\n", lose_requests).await?;
    let drained_at_once = on_a_fleet(skep, "[leave]\nlinger = \"0s\"\n", lose_requests).await?;
    println!("{AT_ONCE} of {WORKERS} workers leave at once");
    let fewest_running_paced = on_a_fleet(skep, "", leave_at_once).await?;
    let fewest_running_unpaced =
        on_a_fleet(skep, "[pace]\nenabled = false\n", leave_at_once).await?;
    println!("the worker of a service of one replica leaves");
    let gap_start_first = on_a_fleet(skep, "", async |fleet| gap(fleet, true).await).await?;
    let gap_plain = on_a_fleet(skep, "", async |fleet| gap(fleet, false).await).await?;
    Ok(Departures {
        traffic_first,
        drained_at_once,
        fewest_running_paced,
        fewest_running_unpaced,
        replicas: REPLICAS,
        leave_at_once: AT_ONCE,
        gap_start_first,
        gap_plain,
    })
}

async fn on_a_fleet<T>(
    skep: &Path,
    config: &str,
    measure: impl AsyncFnOnce(&Fleet) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let options = FleetOptions {
        skep: Some(skep.to_owned()),
        config: Some(config.to_owned()),
        tls: true,
        ..FleetOptions::default()
    };
    stage::on_stage(options, measure).await
}

async fn lose_requests(fleet: &Fleet) -> anyhow::Result<Lost> {
    let cluster = &ClusterSpec {
        workers_market: Market::Spot,
        load_balancer: Some(ClusterBalancer::new(&[(LISTENER, PORT)])),
        ..ClusterSpec::new("bench", 1, BALANCED)
    };
    create(fleet, cluster).await?;
    let command = workload::web_until_sigterm(PORT);
    fleet.create_service_of(on_every_worker(SERVICE, PORT, command, GRACE)?).await?;
    fleet
        .wait_until("healthy targets and tasks", LIMIT, async || {
            let targets = fleet.cloud().targets();
            let healthy = targets.iter().filter(|it| it.health.state == TargetState::Healthy);
            Ok(healthy.count() == BALANCED as usize
                && running(fleet, SERVICE).await? == BALANCED as usize)
        })
        .await?;
    let counts = Counts::default();
    let (stop, stopped) = oneshot::channel::<()>();
    let requests = client::run(fleet.listener(LISTENER), counts.clone(), async {
        // Also where a departure was not seen.
        let _ = stopped.await;
    });
    let departures = async {
        sleep(AROUND).await;
        let before = counts.now();
        ensure!(before.failed == 0 && before.answered > 0, "lost before a departure: {before:?}");
        for worker in fleet.group(&cluster.workers_group()).into_iter().take(RECLAIMED) {
            fleet.cloud().spot_notice(worker.id(), "terminate", NOTICE)?;
            until_off_the_list(fleet, &worker).await?;
        }
        sleep(AROUND).await;
        drop(stop);
        Ok(())
    };
    tokio::try_join!(departures, fleet.run_inside(requests))?;
    let counts = counts.now();
    Ok(Lost {
        departures: RECLAIMED,
        sent: counts.sent,
        lost: counts.failed,
        lost_per_departure: counts.failed as f64 / RECLAIMED as f64,
    })
}

async fn until_off_the_list(fleet: &Fleet, worker: &Arc<Instance>) -> anyhow::Result<()> {
    let address = worker.address().to_string();
    fleet
        .wait_until("a worker that has left", LIMIT, async || {
            let nodes = fleet.nodes().await?;
            let at = |node: &bollard::models::Node| node.status.as_ref()?.addr.clone();
            Ok(nodes.iter().all(|node| at(node).as_deref() != Some(&address)))
        })
        .await
}

async fn leave_at_once(fleet: &Fleet) -> anyhow::Result<usize> {
    const WEB: &str = "web";
    let cluster = &ClusterSpec::new("bench", 1, WORKERS);
    create(fleet, cluster).await?;
    let command = workload::slow_to_stop(STOPS_IN);
    fleet.create_service(WEB, REPLICAS, command, GRACE).await?;
    let is_whole = async || Ok(running(fleet, WEB).await? == REPLICAS as usize);
    fleet.wait_until("all replicas", LIMIT, is_whole).await?;
    let workers = fleet.group(&cluster.workers_group());
    for worker in workers.iter().take(AT_ONCE) {
        fleet.cloud().terminate(worker.id(), true)?;
    }
    let mut fewest = REPLICAS as usize;
    let watch = async {
        while !workers.iter().take(AT_ONCE).all(|worker| worker.is_gone()) {
            // Without a leader nothing can be listed, and nothing changes.
            if let Ok(running) = running(fleet, WEB).await {
                fewest = fewest.min(running);
            }
            sleep(LOOK_EVERY).await;
        }
    };
    timeout(LIMIT, watch).await.context("the workers have not left")?;
    fleet.wait_until("all replicas again", LIMIT, is_whole).await?;
    Ok(fewest)
}

/// Returns the longest time without a running task.
async fn gap(fleet: &Fleet, starts_first: bool) -> anyhow::Result<f64> {
    const ONE: &str = "one";
    let cluster = &ClusterSpec::new("bench", 1, 3);
    create(fleet, cluster).await?;
    let mut service = start_first(ONE, 1, workload::slow_to_stop(STOPS_IN), GRACE)?;
    if !starts_first {
        service.labels = None;
    }
    fleet.create_service_of(service).await?;
    let seen = RefCell::new(Single::default());
    let story = async {
        let runs = async || Ok(running(fleet, ONE).await? == 1);
        fleet.wait_until("its task", LIMIT, runs).await?;
        let worker = fleet
            .wait_for("its worker", LIMIT, async || {
                let node = seen.borrow().nodes.first().cloned();
                let mut nodes = fleet.nodes().await?.into_iter().filter(|it| it.id == node);
                let address = nodes.find_map(|it| it.status?.addr);
                let mut workers = fleet.group(&cluster.workers_group()).into_iter();
                Ok(workers.find(|it| Some(it.address().to_string()) == address))
            })
            .await?;
        fleet.cloud().terminate(worker.id(), true)?;
        fleet.wait_until("a worker that is gone", LIMIT, async || Ok(worker.is_gone())).await?;
        fleet.wait_until("its task elsewhere", LIMIT, runs).await
    };
    let saw = |tasks: &[Task]| seen.borrow_mut().saw(tasks, Instant::now());
    tokio::select! {
        told = story => told?,
        never = single::watch(fleet, ONE, saw) => match never {},
    }
    Ok(seen.into_inner().longest_gap)
}

async fn running(fleet: &Fleet, service: &str) -> anyhow::Result<usize> {
    Ok(fleet.tasks_of_service(service).await?.iter().filter(|task| is_running(task)).count())
}
