//! One fleet of a campaign: it boots, plays rounds one after the other, and is judged after each.

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
use crate::fleet::{
    ClusterSpec, DOCKER_PAUSE, Fleet, FleetOptions, PowerOff, Restart, SHUTDOWN, service, workload,
};
use crate::witness::record::Record;
use crate::witness::tale::{Line, Tale};
use crate::witness::{Witness, listen};

/// Name of the cluster.
pub const CLUSTER: &str = "chaos";
/// A fleet that nobody disturbs is whole within this, on a machine with other things to do.
const BOOT_LIMIT: Duration = Duration::from_secs(420);
/// Nothing happens any more, and nobody has a reason to write a line.
const QUIET: Duration = Duration::from_secs(10);
/// Lines that a skep may write in that time: a rotation that follows, an election.
const QUIET_LINES: usize = 5;

/// What came of a round.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    pub plan: Plan,
    /// What did not hold; empty where all is well.
    pub violations: Vec<String>,
    /// Seconds that the fleet needed to be whole again, where it was.
    pub settled_after: Option<f64>,
    pub seconds: f64,
    /// The run's directory, with the log of every instance.
    pub logs: std::path::PathBuf,
    pub timeline: Vec<Line>,
}

/// How a fleet of this seed is to be: seeds differ in how machines go down, in whether managers lock themselves and in
/// where the tokens are.
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

/// Boots a cluster and plays the plans on it, until the first one after which something does not hold: what comes
/// after it would be judged on a fleet that is not whole. `done` hears of each outcome.
///
/// # Errors
/// When the fleet does not come up.
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

/// Boots a cluster, watches it from outside, and does something with it meanwhile.
///
/// # Errors
/// When the fleet does not come up; what `body` says.
pub(super) async fn on_cluster(
    fleet: &Fleet,
    tale: Tale,
    body: impl AsyncFnOnce(&Stage<'_>) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let cluster = ClusterSpec::new(CLUSTER, MANAGERS, WORKERS);
    let (record, moments) = (RefCell::new(Record::new(tale)), RefCell::new(Moments::default()));
    let performer = Performer {
        fleet,
        cluster: &cluster,
        record: &record,
        hurt: RefCell::new(Hurt::default()),
    };
    let stage = Stage { performer, moments: &moments };
    // Before the first instance: nothing may be missed.
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

/// A cluster that is watched.
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

    /// Who writes although nothing happens.
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

/// How long a fleet may take to be whole after its last trouble. Down nodes are removed within a minute or two, and a
/// boot that has failed is tried again.
fn limit(profile: Profile) -> Duration {
    Duration::from_secs(match profile {
        Profile::Soft => 300,
        Profile::Hard => 480,
    })
}

/// Tasks that stop at once, tasks that need a while, and one on every node.
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
