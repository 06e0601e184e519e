//! Applies a plan's steps to a fleet, and ends each fault after its time.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, ensure};
use bollard::models::{Node, NodeSpecAvailabilityEnum, ServiceSpec};
use bollard::query_parameters::DeleteNodeOptionsBuilder;
use futures_util::future::join_all;
use nix::sys::signal::Signal;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::plan::{Act, MANAGERS, Outage, Pick, Plan, Role, WORKERS};
use super::rows::Rows;
use crate::cloud::{Fault, LifecycleState, Maintenance, Service};
use crate::fleet::{ClusterSpec, Fleet, Instance};
use crate::machines::{Program, SlowLink};
use crate::witness::record::Record;

/// The services that run in a campaign; operators change the first one.
pub const SERVICES: [&str; 3] = ["web", "batch", "agent"];
/// Timeout of an operator's command.
const OPERATOR_PATIENCE: Duration = Duration::from_secs(30);
/// Timeout of `skep leave`, which waits until the node has left.
const LEAVE_PATIENCE: Duration = Duration::from_secs(240);

/// Instances by the faults that they suffered. The faults explain results that would otherwise count as violations.
#[derive(Debug, Default)]
pub struct Hurt {
    /// The power was cut.
    pub power: BTreeSet<String>,
    /// dockerd was killed, stopped or restarted, or its node removed: tasks may have lost their grace.
    pub docker: BTreeSet<String>,
    /// skep was stopped.
    pub skep: BTreeSet<String>,
    /// The node was not reachable for other nodes, or its link was slow.
    pub network: BTreeSet<String>,
    /// The node had to leave but its machine stays on: a withdrawn notice, or an operator's `skep leave`.
    pub left: BTreeSet<String>,
    /// More than one step disturbed managers: there may have been no quorum.
    pub quorum: bool,
    /// All of AWS, or the ledger, was not reachable.
    pub aws: bool,
    /// Docker's events about some of its containers were lost, in this round or an earlier one: a dockerd that dies
    /// does not report the ends of containers.
    pub unheard: BTreeSet<String>,
}

impl Hurt {
    /// The part that stays valid in the next round.
    fn next(&self) -> Hurt {
        let unheard = self.unheard.union(&self.docker).chain(&self.power).cloned().collect();
        Hurt { unheard, ..Hurt::default() }
    }

    /// Whether a fault outside skep explains that a node did not leave correctly.
    pub fn is_excused(&self, instance: &str) -> bool {
        self.docker.contains(instance) || self.is_silenced(instance)
    }

    /// Whether no other node could receive anything from its skep.
    pub fn is_silenced(&self, instance: &str) -> bool {
        [&self.power, &self.skep, &self.network].iter().any(|set| set.contains(instance))
    }
}

/// Plays plans on a fleet.
pub struct Performer<'a> {
    pub fleet: &'a Fleet,
    pub cluster: &'a ClusterSpec,
    pub record: &'a RefCell<Record>,
    pub hurt: RefCell<Hurt>,
}

impl Performer<'_> {
    /// Plays every step at its time; ends with the last.
    pub async fn play(&self, plan: &Plan) {
        let next = self.hurt.borrow().next();
        *self.hurt.borrow_mut() = next;
        let disturbing = plan.steps.iter().filter(|step| step.act.disturbs_a_manager()).count();
        self.hurt.borrow_mut().quorum = disturbing > 1;
        let begin = Instant::now();
        let steps = plan.steps.iter().map(async |step| {
            sleep_until(begin + Duration::from_millis(step.at_ms)).await;
            if let Err(error) = self.perform(step.act).await {
                let step = serde_json::to_string(&step.act).unwrap_or_default();
                self.say(None, &format!("did not come about: {step}: {error:#}"));
            }
        });
        join_all(steps).await;
    }

    async fn perform(&self, act: Act) -> anyhow::Result<()> {
        let cloud = self.fleet.cloud();
        match act {
            Act::Resize { role, by } => self.resize(role, by),
            Act::Terminate { node, replaced } => {
                let instance = self.begin(node, "terminated by way of its hooks")?;
                Ok(cloud.terminate(instance.id(), !replaced)?)
            }
            Act::Crash { node } => {
                let instance = self.begin(node, "crashes")?;
                self.hurt.borrow_mut().power.insert(instance.id().to_owned());
                Ok(cloud.crash(instance.id())?)
            }
            Act::Reboot { node } => {
                let instance = self.begin(node, "loses its power and boots again")?;
                self.hurt.borrow_mut().power.insert(instance.id().to_owned());
                instance.reboot().await
            }
            Act::Spot { node, ahead, withdrawn } => self.spot(node, ahead, withdrawn).await,
            Act::Rebalance { node, seconds } => {
                let instance = self.begin(node, "a rebalance is recommended")?;
                cloud.rebalance(instance.id())?;
                pause(seconds).await;
                Ok(cloud.clear_rebalance(instance.id())?)
            }
            Act::Maintenance { node, ahead, withdrawn } => {
                self.maintain(node, ahead, withdrawn).await
            }
            Act::Standby { node, seconds } => self.stand_by(node, seconds).await,
            Act::Kill { node, program } => self.kill(node, program),
            Act::Stop { node, program, seconds } => self.stop(node, program, seconds).await,
            Act::RestartDocker { node } => {
                let instance = self.begin(node, "dockerd restarts")?;
                self.hurt.borrow_mut().docker.insert(instance.id().to_owned());
                instance.restart_dockerd().await
            }
            Act::Cut { node, seconds } => {
                let instance = self.cut_off(node, &format!("cut off for {seconds} s"))?;
                instance.link(false)?;
                pause(seconds).await;
                instance.mend()
            }
            Act::Isolate { node, seconds } => {
                let what = format!("cut off from the other instances for {seconds} s");
                let instance = self.cut_off(node, &what)?;
                instance.isolate(true)?;
                pause(seconds).await;
                instance.mend()
            }
            Act::Slow { node, kbit, seconds } => {
                let what = format!("its link has {kbit} kbit/s for {seconds} s");
                let instance = self.cut_off(node, &what)?;
                instance.slow(Some(SlowLink { kbit_per_s: kbit, queue: QUEUE }))?;
                pause(seconds).await;
                instance.mend()
            }
            Act::Aws { service, outage, seconds } => self.break_aws(service, outage, seconds).await,
            Act::Clock { by, seconds } => {
                self.say(None, &format!("AWS's clock steps by {by} s for {seconds} s"));
                cloud.set_clock_offset(time::Duration::seconds(by));
                pause(seconds).await;
                cloud.set_clock_offset(time::Duration::ZERO);
                Ok(())
            }
            Act::DeleteRow { row } => {
                let item = self.rows().delete(row)?;
                self.say(None, &format!("the row {item} is deleted"));
                Ok(())
            }
            Act::SpoilRow { row } => {
                let item = self.rows().spoil(row)?;
                self.say(None, &format!("the row {item} is nonsense"));
                Ok(())
            }
            Act::DeleteToken { role } => self.delete_token(role),
            Act::RotateTokens => self.rotate_tokens().await,
            Act::PauseByHand { node, seconds } => {
                self.by_hand(node, NodeSpecAvailabilityEnum::PAUSE, seconds).await
            }
            Act::DrainByHand { node, seconds } => {
                self.by_hand(node, NodeSpecAvailabilityEnum::DRAIN, seconds).await
            }
            Act::RemoveByHand { node } => self.remove_by_hand(node).await,
            Act::LeaveByHand { node } => self.leave_by_hand(node).await,
            Act::ScaleService { replicas } => {
                self.say(None, &format!("{} is scaled to {replicas}", SERVICES[0]));
                self.update_service(|spec| scale(spec, replicas)).await
            }
            Act::UpdateService => {
                self.say(None, &format!("{} is updated by force", SERVICES[0]));
                self.update_service(|spec| {
                    if let Some(template) = &mut spec.task_template {
                        template.force_update = Some(template.force_update.unwrap_or(0) + 1);
                    }
                })
                .await
            }
            Act::Load { seconds } => {
                self.say(None, &format!("other programs use every processor for {seconds} s"));
                load(seconds).await;
                Ok(())
            }
        }
    }

    pub fn rows(&self) -> Rows<'_> {
        Rows { cloud: self.fleet.cloud(), cluster: self.cluster }
    }

    /// The instances of a role that are on, oldest first.
    pub fn instances(&self, role: Role) -> Vec<Arc<Instance>> {
        let mut instances = self.fleet.group(&self.group(role));
        instances.retain(|instance| instance.is_on());
        instances
    }

    pub fn group(&self, role: Role) -> String {
        match role {
            Role::Manager => self.cluster.managers_group(),
            Role::Worker => self.cluster.workers_group(),
        }
    }

    pub fn say(&self, instance: Option<&str>, what: &str) {
        let mut record = self.record.borrow_mut();
        let now = record.now();
        let name = instance.map(|id| record.name(id));
        record.tale.tell(now, name.as_deref(), what, None);
    }

    /// Records what happens to the picked instance, and returns it.
    fn begin(&self, pick: Pick, what: &str) -> anyhow::Result<Arc<Instance>> {
        let instances = self.instances(pick.role);
        ensure!(!instances.is_empty(), "there is no {}", pick.role);
        let instance = Arc::clone(&instances[pick.nth % instances.len()]);
        self.say(Some(instance.id()), what);
        Ok(instance)
    }

    fn cut_off(&self, node: Pick, what: &str) -> anyhow::Result<Arc<Instance>> {
        let instance = self.begin(node, what)?;
        self.hurt.borrow_mut().network.insert(instance.id().to_owned());
        Ok(instance)
    }

    fn resize(&self, role: Role, by: i32) -> anyhow::Result<()> {
        let base = match role {
            Role::Manager => MANAGERS,
            Role::Worker => WORKERS,
        };
        let desired = base.checked_add_signed(by).context("a capacity below zero")?;
        self.say(None, &format!("desired capacity of the {role}s: {desired}"));
        Ok(self.fleet.cloud().set_desired(&self.group(role), desired)?)
    }

    async fn spot(&self, node: Pick, ahead: u64, withdrawn: Option<u64>) -> anyhow::Result<()> {
        let cloud = self.fleet.cloud();
        let instance = self.begin(node, &format!("a spot notice, {ahead} s ahead"))?;
        cloud.spot_notice(instance.id(), "terminate", Duration::from_secs(ahead))?;
        let Some(after) = withdrawn else { return Ok(()) };
        pause(after).await;
        self.take_back(&instance);
        Ok(cloud.clear_spot_notice(instance.id())?)
    }

    async fn maintain(&self, node: Pick, ahead: u64, withdrawn: Option<u64>) -> anyhow::Result<()> {
        let cloud = self.fleet.cloud();
        let instance = self.begin(node, &format!("maintenance, {ahead} s ahead"))?;
        let maintenance = Maintenance { in_seconds: ahead, ..Maintenance::default() };
        cloud.schedule_maintenance(instance.id(), maintenance)?;
        self.hurt.borrow_mut().left.insert(instance.id().to_owned());
        let Some(after) = withdrawn else { return Ok(()) };
        pause(after).await;
        self.take_back(&instance);
        Ok(cloud.clear_maintenance(instance.id())?)
    }

    fn take_back(&self, instance: &Instance) {
        self.say(Some(instance.id()), "the notice is taken back");
        self.hurt.borrow_mut().left.insert(instance.id().to_owned());
    }

    async fn stand_by(&self, node: Pick, seconds: u64) -> anyhow::Result<()> {
        let cloud = self.fleet.cloud();
        let instance = self.begin(node, &format!("on standby for {seconds} s"))?;
        cloud.standby(instance.id(), true)?;
        pause(seconds).await;
        let view = cloud.instance(instance.id());
        if view.is_some_and(|view| view.lifecycle == LifecycleState::Standby) {
            cloud.exit_standby(instance.id())?;
        }
        Ok(())
    }

    fn kill(&self, node: Pick, program: Program) -> anyhow::Result<()> {
        let killed = match program {
            Program::Skep => {
                // Not in `hurt`: the supervisor restarts skep, so this explains no violation.
                self.begin(node, "skep is killed")?.kill_skep(Signal::SIGKILL)
            }
            Program::Dockerd => {
                let instance = self.begin(node, "dockerd is killed")?;
                self.hurt.borrow_mut().docker.insert(instance.id().to_owned());
                instance.signal_dockerd(Signal::SIGKILL)
            }
        };
        ensure!(killed, "it does not run");
        Ok(())
    }

    async fn stop(&self, node: Pick, program: Program, seconds: u64) -> anyhow::Result<()> {
        match program {
            Program::Skep => {
                let instance = self.begin(node, &format!("skep is stopped for {seconds} s"))?;
                self.hurt.borrow_mut().skep.insert(instance.id().to_owned());
                instance.kill_skep(Signal::SIGSTOP);
                pause(seconds).await;
                instance.kill_skep(Signal::SIGCONT);
            }
            Program::Dockerd => {
                let instance = self.begin(node, &format!("dockerd is stopped for {seconds} s"))?;
                self.hurt.borrow_mut().docker.insert(instance.id().to_owned());
                instance.signal_dockerd(Signal::SIGSTOP);
                pause(seconds).await;
                instance.signal_dockerd(Signal::SIGCONT);
            }
        }
        Ok(())
    }

    async fn break_aws(
        &self,
        service: Option<Service>,
        outage: Outage,
        seconds: u64,
    ) -> anyhow::Result<()> {
        let of = service.map_or("all of AWS".to_owned(), |service| service.to_string());
        self.say(None, &format!("{of}: {outage:?} for {seconds} s"));
        self.hurt.borrow_mut().aws |= service.is_none_or(|it| it == Service::DynamoDb);
        let fault = match outage {
            Outage::Errors => Fault { error: 1.0, ..Fault::default() },
            Outage::Drops => Fault { drop: 1.0, ..Fault::default() },
            Outage::LostAnswers => Fault { lose_answer: 0.5, ..Fault::default() },
            Outage::Throttled => Fault { throttle: 0.5, ..Fault::default() },
            Outage::Slow => Fault { latency_ms: Some((1000, 4000)), ..Fault::default() },
        };
        let faults = self.fleet.cloud().faults();
        faults.set(service, None, fault);
        pause(seconds).await;
        faults.remove(service, None);
        Ok(())
    }

    fn delete_token(&self, role: Role) -> anyhow::Result<()> {
        let name = self.rows().delete_token(role)?;
        self.say(None, &format!("{name} is deleted"));
        Ok(())
    }

    async fn rotate_tokens(&self) -> anyhow::Result<()> {
        let manager = self.begin(Pick { role: Role::Manager, nth: 0 }, "rotates the tokens")?;
        let rotated = timeout(OPERATOR_PATIENCE, manager.skep(["rotate-tokens"])).await??;
        ensure!(rotated.status.success(), "{}", String::from_utf8_lossy(&rotated.stderr).trim());
        Ok(())
    }

    async fn by_hand(
        &self,
        node: Pick,
        availability: NodeSpecAvailabilityEnum,
        seconds: u64,
    ) -> anyhow::Result<()> {
        let instance = self.begin(node, &format!("{availability} by hand for {seconds} s"))?;
        self.set(&instance, availability).await?;
        pause(seconds).await;
        self.set(&instance, NodeSpecAvailabilityEnum::ACTIVE).await
    }

    async fn set(&self, node: &Instance, wanted: NodeSpecAvailabilityEnum) -> anyhow::Result<()> {
        let set = self.fleet.operate(node, |spec| spec.availability = Some(wanted));
        timeout(OPERATOR_PATIENCE, set).await.context("no manager has taken it")?
    }

    async fn remove_by_hand(&self, node: Pick) -> anyhow::Result<()> {
        let instance = self.begin(node, "removed from the node list by hand")?;
        self.hurt.borrow_mut().docker.insert(instance.id().to_owned());
        let remove = async {
            let Node { id, .. } = self.fleet.listed(&instance).await?;
            let by_force = DeleteNodeOptionsBuilder::default().force(true).build();
            let docker = self.fleet.manager_docker().await?;
            docker.delete_node(&id.context("no id")?, Some(by_force)).await?;
            Ok(())
        };
        timeout(OPERATOR_PATIENCE, remove).await.context("no manager has taken it")?
    }

    async fn leave_by_hand(&self, node: Pick) -> anyhow::Result<()> {
        let instance = self.begin(node, "skep leave")?;
        self.hurt.borrow_mut().left.insert(instance.id().to_owned());
        let leave = instance.skep(["leave", "--yes", "--deadline", "180s"]);
        let left = timeout(LEAVE_PATIENCE, leave).await.context("`skep leave` does not end")??;
        ensure!(left.status.success(), "{}", String::from_utf8_lossy(&left.stderr).trim());
        Ok(())
    }

    /// Changes the first service as an operator does.
    pub async fn update_service(&self, edit: impl Fn(&mut ServiceSpec)) -> anyhow::Result<()> {
        let update = self.fleet.update_service(SERVICES[0], edit);
        timeout(OPERATOR_PATIENCE, update).await.context("no manager has taken it")?
    }
}

/// Longest time that a packet can wait on a slow link.
const QUEUE: Duration = Duration::from_millis(800);

pub fn scale(spec: &mut ServiceSpec, replicas: u64) {
    if let Some(mode) = spec.mode.as_mut().and_then(|mode| mode.replicated.as_mut()) {
        mode.replicas = i64::try_from(replicas).ok();
    }
}

async fn pause(seconds: u64) {
    sleep(Duration::from_secs(seconds)).await;
}

/// Keeps every processor busy; stops when this future ends or is dropped.
async fn load(seconds: u64) {
    struct Stop(Arc<AtomicBool>);
    impl Drop for Stop {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let stop = Stop(Arc::default());
    for _ in 0..std::thread::available_parallelism().map_or(2, usize::from) {
        let stopped = Arc::clone(&stop.0);
        std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                std::hint::spin_loop();
            }
        });
    }
    pause(seconds).await;
}
