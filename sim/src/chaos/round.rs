//! Runs one fleet of a campaign: boots it, plays rounds one after the other, and judges each.

use std::cell::RefCell;
use std::time::Duration;

use anyhow::Context;
use bollard::models::{ServiceSpec, ServiceSpecMode};
use serde::Serialize;
use tokio::time::{Instant, sleep};

use super::judge::{Before, Round};
use super::observe::{Moments, observe};
use super::perform::{Hurt, Performer, SERVICES};
use super::plan::{MANAGERS, Plan, Profile, WORKERS};
use super::settle::REPLICAS;
use crate::cloud::Market;
use crate::fleet::{
    ClusterSpec, DOCKER_PAUSE, Fleet, FleetOptions, PowerOff, Restart, SHUTDOWN, service, workload,
};
use crate::witness::record::Record;
use crate::witness::tale::{Line, Tale};
use crate::witness::{Witness, listen};

/// Name of the cluster.
pub const CLUSTER: &str = "chaos";
/// Time for an undisturbed fleet to become whole, on a busy machine.
const BOOT_LIMIT: Duration = Duration::from_secs(420);
/// Time in which the settled fleet must not log more than [`QUIET_LINES`].
const QUIET: Duration = Duration::from_secs(10);
/// Lines that a skep may log in [`QUIET`], for example about a rotation or an election.
const QUIET_LINES: usize = 5;

/// The result of a round.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    pub plan: Plan,
    /// Violations of the rules; empty if everything held.
    pub violations: Vec<String>,
    /// Seconds until the fleet was whole again; `None` if it was not.
    pub settled_after: Option<f64>,
    pub seconds: f64,
    /// The run's directory, with the log of every instance.
    pub logs: std::path::PathBuf,
    pub timeline: Vec<Line>,
}

/// The options of a fleet with this seed. Seeds differ in the way in which machines are switched off, in autolock and
/// in the token store.
#[must_use]
pub fn options(base: FleetOptions, seed: u64) -> FleetOptions {
    let mut config = String::new();
    if seed % 4 >= 2 {
        config.push_str("[swarm]\nautolock = true\n");
    }
    if seed % 8 >= 4 {
        config.push_str("[tokens]\nstore = \"dynamodb\"\n");
    }
    FleetOptions {
        seed,
        docker_restart: Restart::OnFailure(DOCKER_PAUSE),
        power_off: if seed % 2 == 1 { PowerOff::Clean(SHUTDOWN) } else { PowerOff::Cut },
        config: Some(config).filter(|it| !it.is_empty()),
        ..base
    }
}

/// Boots a cluster and plays the plans on it until the first violation: later rounds would start on a fleet that is not
/// whole. Calls `done` with each outcome.
///
/// # Errors
/// When the fleet does not become whole after its boot.
pub async fn play(
    fleet: &Fleet,
    plans: &mut dyn Iterator<Item = Plan>,
    tale: Tale,
    done: &mut dyn FnMut(Outcome),
) -> anyhow::Result<()> {
    on_cluster(fleet, tale, async |stage: &Stage<'_>| {
        for plan in plans {
            let outcome = stage.round(plan).await;
            let is_well = outcome.violations.is_empty();
            done(outcome);
            if !is_well {
                break;
            }
        }
        Ok(())
    })
    .await
}

/// Boots a cluster, and runs `body` on it while it is watched from outside.
///
/// # Errors
/// When the fleet does not become whole after its boot; errors of `body`.
pub(super) async fn on_cluster(
    fleet: &Fleet,
    tale: Tale,
    body: impl AsyncFnOnce(&Stage<'_>) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    // Any node may get a spot notice.
    let cluster = ClusterSpec {
        managers_market: Market::Spot,
        workers_market: Market::Spot,
        ..ClusterSpec::new(CLUSTER, MANAGERS, WORKERS)
    };
    let (record, moments) = (RefCell::new(Record::new(tale)), RefCell::new(Moments::default()));
    let performer = Performer {
        fleet,
        cluster: &cluster,
        record: &record,
        hurt: RefCell::new(Hurt::default()),
    };
    let stage = Stage { performer, moments: &moments };
    // Subscribed before the first instance, so that no event is missed.
    let (for_record, for_moments) = (fleet.cloud().subscribe(), fleet.cloud().subscribe());
    let instances = fleet.subscribe();
    let witness = Witness { fleet, cluster: &cluster, record: &record };
    let played = async {
        stage.boot().await?;
        body(&stage).await
    };
    tokio::select! {
        played = played => played,
        never = witness.watch() => match never {},
        broken = listen::listen(&record, for_record, instances) => match broken? {},
        broken = observe(fleet, &record, &moments, for_moments) => match broken? {},
    }
}

/// A cluster that is watched from outside.
pub(super) struct Stage<'a> {
    pub performer: Performer<'a>,
    moments: &'a RefCell<Moments>,
}

impl Stage<'_> {
    async fn boot(&self) -> anyhow::Result<()> {
        let Performer { fleet, cluster, .. } = &self.performer;
        fleet.create_cluster(cluster)?;
        fleet
            .wait_until("the services", BOOT_LIMIT, async || {
                let docker = fleet.manager_docker().await?;
                for spec in services()? {
                    let name = spec.name.clone().unwrap_or_default();
                    if docker.inspect_service(&name, None).await.is_err() {
                        docker.create_service(spec, None).await?;
                    }
                }
                Ok(true)
            })
            .await?;
        self.performer.settle(BOOT_LIMIT).await.context("the fleet does not come up").map(drop)
    }

    async fn round(&self, plan: Plan) -> Outcome {
        let Performer { fleet, record, .. } = &self.performer;
        let begin = Instant::now();
        *self.moments.borrow_mut() = Moments::default();
        fleet.cloud().clear_requests();
        let before = {
            let mut record = record.borrow_mut();
            record.tale.lines.clear();
            let now = record.now();
            record.swarm.forget_gaps(now);
            Before::now(fleet, &record)
        };
        self.performer.play(&plan).await;
        let mut violations = Vec::new();
        if let Err(error) = self.performer.heal().await {
            violations.push(format!("cannot heal: {error:#}"));
        }
        let settled = self.performer.settle(limit(plan.profile)).await;
        if let Err(problem) = &settled {
            violations.push(format!("{problem:#}"));
        } else {
            violations.extend(self.noise().await);
        }
        let (record, hurt) = (record.borrow(), self.performer.hurt.borrow());
        let moments = &self.moments.borrow();
        let round = Round::of(fleet, &record, &before, moments, &hurt, plan.profile);
        violations.extend(round.violations());
        Outcome {
            plan,
            violations,
            settled_after: settled.ok().map(|time| time.as_secs_f64()),
            seconds: begin.elapsed().as_secs_f64(),
            logs: fleet.dir().to_owned(),
            timeline: record.tale.lines.clone(),
        }
    }

    /// Returns the instances whose skep logs more than [`QUIET_LINES`] although nothing happens.
    async fn noise(&self) -> Vec<String> {
        let instances = self.performer.fleet.instances();
        let lines = || instances.iter().map(|it| it.log().lines().count()).collect::<Vec<_>>();
        let before = lines();
        sleep(QUIET).await;
        let more = instances.iter().zip(before.iter().zip(lines()));
        let record = self.performer.record.borrow();
        more.filter(|(_, (before, after))| after.saturating_sub(**before) > QUIET_LINES)
            .map(|(instance, (before, after))| {
                let (name, count) = (record.name(instance.id()), after - before);
                let seconds = QUIET.as_secs();
                format!("{name} writes {count} lines in {seconds} s although all is well")
            })
            .collect()
    }
}

/// Time for a fleet to become whole after its last fault. Nodes in the state Down are removed within 1 to 2 min, and a
/// failed boot is retried.
fn limit(profile: Profile) -> Duration {
    Duration::from_secs(match profile {
        Profile::Soft => 300,
        Profile::Hard => 480,
    })
}

/// Services with tasks that stop in 1 s and in 6 s, and one with a task on every node.
fn services() -> anyhow::Result<[ServiceSpec; 3]> {
    let [web, batch, agent] = SERVICES;
    let (grace, long) = (Duration::from_secs(10), Duration::from_secs(20));
    let everywhere = ServiceSpecMode { global: Some(Default::default()), ..Default::default() };
    let replicas = |index: usize| u32::try_from(REPLICAS[index]);
    Ok([
        service(web, replicas(0)?, workload::slow_to_stop(1.0), grace)?,
        service(batch, replicas(1)?, workload::slow_to_stop(6.0), long)?,
        ServiceSpec { mode: Some(everywhere), ..service(agent, 1, workload::graceful(), grace)? },
    ])
}
