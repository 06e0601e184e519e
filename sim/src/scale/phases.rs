//! The phases of a run: all instances boot at once, idle, some leave at once, AWS throttles, and everything recovers.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde::Serialize;
use tokio::time::{Instant, sleep, sleep_until};

use super::instance::Instance;
use super::metrics::{Round, longest_round, value};
use super::site::Site;
use super::tally::Tally;
use super::usage::{Memory, Processor};
use crate::cloud::{
    ActionResult, ClusterSpec, EventKind, Fault, LifecycleState, Service, TERMINATION_HOOK,
};

/// Longest time until all instances are Ready; the targets are shorter.
const BOOT_LIMIT: Duration = Duration::from_secs(300);
/// Longest time after that until the launch hooks are completed and the nodes labelled.
const SETTLE_LIMIT: Duration = Duration::from_secs(600);
/// Time until a node is idle: after its launch hook, it still frees memory and looks around.
const BECOMES_IDLE: Duration = Duration::from_secs(5);
/// Longest time for all departures: the default deadline of one.
const LEAVE_LIMIT: Duration = Duration::from_secs(1800);
/// Longest time until the managers report no trouble after the throttling.
const RECOVERY_LIMIT: Duration = Duration::from_secs(300);
const LOOK_EVERY: Duration = Duration::from_millis(250);
const SAY_EVERY: Duration = Duration::from_secs(5);
/// Share of the calls that are throttled in the last phase.
const THROTTLED: f64 = 0.5;
/// Number of instances that a message names.
const SHOWN: usize = 5;

/// The cluster of a run, and what is observed of it.
pub(super) struct Stage<'a> {
    pub(super) site: &'a Site,
    pub(super) spec: ClusterSpec,
    /// What went wrong, in words.
    pub(super) findings: Vec<String>,
    began: Instant,
}

/// How one phase was.
#[derive(Debug, Serialize)]
pub(super) struct Phase {
    pub(super) seconds: f64,
    /// Processor seconds.
    pub(super) processor: Processor,
    /// Share of the machine's processors that was used.
    pub(super) saturation: f64,
    /// Longest poll of any duty of each manager so far, in seconds, and the duty. Empty without a metric.
    pub(super) longest_round: Option<Round>,
    #[serde(skip)]
    pub(super) calls: Tally,
}

/// The boot.
#[derive(Debug, Serialize)]
pub(super) struct Boot {
    /// Until all were Ready.
    pub(super) phase: Phase,
    /// After that, until the launch hooks were completed and the nodes labelled.
    pub(super) settle: Phase,
    pub(super) nodes: usize,
    #[serde(flatten)]
    pub(super) times: Times,
}

/// The times of a boot.
#[derive(Debug, Serialize)]
pub(super) struct Times {
    /// Number of instances that were Ready.
    pub(super) ready: usize,
    /// Seconds from the order to launch all until each was Ready, sorted.
    #[serde(skip)]
    pub(super) ready_after: Vec<f64>,
    /// The same from the start of each process.
    #[serde(skip)]
    pub(super) ready_after_start: Vec<f64>,
    /// Seconds until the last process was started.
    pub(super) last_started: f64,
    /// Seconds until every launch hook was completed; `None` if not all were.
    pub(super) in_service_after: Option<f64>,
    /// Seconds until managers had labelled every node; `None` if not all were.
    pub(super) labelled_after: Option<f64>,
    pub(super) restarts: usize,
}

/// The departures.
#[derive(Debug, Serialize)]
pub(super) struct Leave {
    pub(super) phase: Phase,
    pub(super) leaving: usize,
    /// Number that have left the node list.
    pub(super) left: usize,
    /// Seconds until the last one was off the node list; `None` if not all were.
    pub(super) off_the_list_after: Option<f64>,
    /// Seconds until Auto Scaling had terminated the last one.
    pub(super) gone_after: Option<f64>,
    /// Completed termination hooks by result.
    pub(super) hooks: BTreeMap<String, usize>,
}

/// The time of throttling.
#[derive(Debug, Serialize)]
pub(super) struct Throttled {
    pub(super) phase: Phase,
    pub(super) throttled_calls: usize,
    /// Nodes that were missing from the list, or not ready, at any look.
    pub(super) most_missing: usize,
    /// Lifecycle changes that nobody ordered.
    pub(super) lifecycle_changes: usize,
    /// Seconds after its end until no manager reported trouble; `None` if one still did.
    pub(super) recovered_after: Option<f64>,
}

impl<'a> Stage<'a> {
    pub(super) fn new(site: &'a Site, spec: ClusterSpec) -> Self {
        Self { site, spec, findings: Vec::new(), began: Instant::now() }
    }

    fn say(&self, what: &str) {
        println!("{:>7.1} s  {what}", self.began.elapsed().as_secs_f64());
    }

    /// Launches all instances in the same second, and waits until all are Ready and have settled.
    pub(super) async fn boot(&mut self) -> anyhow::Result<Boot> {
        let nodes = (self.spec.managers + self.spec.workers) as usize;
        let mark = self.mark();
        self.began = mark.at;
        self.say(&format!("{nodes} instances launch"));
        self.spec.create(&self.site.cloud)?;
        let is_ready = async |stage: &Self| {
            let all = stage.site.instances();
            let ready = all.iter().filter(|instance| instance.is_ready()).count();
            let started = all.iter().filter(|it| it.life().started.is_some()).count();
            let listed = stage.site.engines.nodes().len();
            let text = format!("{started} started, {listed} in the swarm, {ready} Ready");
            // Auto Scaling replaces an instance whose launch hook is abandoned: then nothing works.
            let is_hopeless = stage.site.all_instances().len() > 2 * nodes;
            (ready >= nodes || is_hopeless, text)
        };
        self.wait(BOOT_LIMIT, is_ready).await;
        // Before anything else: an instance whose launch hook times out is replaced.
        let boot = self.booted(mark.at);
        let phase = self.end_phase(&mark).await;
        let settling = self.begin_phase();
        let late: Vec<_> = self.site.instances().into_iter().filter(|it| !it.is_ready()).collect();
        let is_whole = late.is_empty() && self.site.all_instances().len() == nodes;
        self.find("not Ready", late);
        // A fleet that is not whole may never settle.
        let limit = if is_whole { SETTLE_LIMIT } else { LOOK_EVERY };
        let in_service = async |stage: &Self| {
            let all = stage.site.cloud.instances();
            let so = |it: &&_| is_in_service(it);
            let count = all.iter().filter(so).count();
            (count >= nodes, format!("{count} of {nodes} launch hooks completed"))
        };
        let in_service_after = self.wait_since(mark.at, limit, in_service).await;
        let labelled = async |stage: &Self| {
            let listed = stage.site.engines.nodes();
            let count = listed.iter().filter(|node| node.is_labelled).count();
            (count >= nodes, format!("{count} of {nodes} nodes labelled"))
        };
        let labelled_after = self.wait_since(mark.at, limit, labelled).await;
        for (what, after) in [("launch hooks", in_service_after), ("labels", labelled_after)] {
            if after.is_none() {
                self.findings.push(format!("not all {what} were done within {limit:?}"));
            }
        }
        let replaced = self.site.all_instances().len() - nodes;
        if replaced > 0 {
            self.findings.push(format!("{replaced} instances were replaced during the boot"));
        }
        self.check_list(nodes);
        let settle = self.end_phase(&settling).await;
        let times = Times { in_service_after, labelled_after, ..boot };
        Ok(Boot { phase, settle, nodes, times })
    }

    fn booted(&self, launched: Instant) -> Times {
        let since = |at: Instant, from: Instant| at.duration_since(from).as_secs_f64();
        let (mut ready_after, mut ready_after_start) = (Vec::new(), Vec::new());
        let (mut last_started, mut restarts) = (0.0_f64, 0);
        for instance in self.site.instances() {
            let life = instance.life();
            restarts += life.exits.len();
            if let Some(started) = life.started {
                last_started = last_started.max(since(started, launched));
                ready_after_start.extend(life.ready.map(|ready| since(ready, started)));
            }
            ready_after.extend(life.ready.map(|ready| since(ready, launched)));
        }
        ready_after.sort_by(f64::total_cmp);
        ready_after_start.sort_by(f64::total_cmp);
        let ready = ready_after.len();
        Times {
            ready,
            ready_after,
            ready_after_start,
            last_started,
            in_service_after: None,
            labelled_after: None,
            restarts,
        }
    }

    /// Counts calls and memory of a fleet in which nothing happens.
    pub(super) async fn idle(&mut self, length: Duration) -> (Phase, Memory) {
        sleep(BECOMES_IDLE).await;
        self.say(&format!("idle for {} s", length.as_secs()));
        let mark = self.mark();
        sleep_until(mark.at + length).await;
        let phase = self.end_phase(&mark).await;
        (phase, Memory::now(&self.pids()))
    }

    /// Lets Auto Scaling terminate workers, all at once.
    pub(super) async fn leave(&mut self, count: u32) -> anyhow::Result<Leave> {
        self.say(&format!("{count} workers leave"));
        let mark = self.mark();
        let before = self.site.cloud.events_since(0).len();
        let group = self.spec.workers_group();
        let left = self.spec.workers.checked_sub(count).context("more leave than there are")?;
        self.site.cloud.set_desired(&group, left)?;
        self.spec.workers = left;
        let leaving = count as usize;
        let nodes = (self.spec.managers + left) as usize;
        let is_off = async |stage: &Self| {
            let listed = stage.site.engines.nodes().len();
            (listed <= nodes, format!("{listed} on the node list, {nodes} stay"))
        };
        let off_the_list_after = self.wait_since(mark.at, LEAVE_LIMIT, is_off).await;
        let is_gone = async |stage: &Self| {
            let there = stage.site.cloud.instances().len();
            (there <= nodes, format!("{there} instances, {nodes} stay"))
        };
        let gone_after = self.wait_since(mark.at, LEAVE_LIMIT, is_gone).await;
        let phase = self.end_phase(&mark).await;
        let listed = self.site.engines.nodes().len();
        let mut hooks: BTreeMap<String, usize> = BTreeMap::new();
        for event in self.site.cloud.events_since(before) {
            match event.kind {
                EventKind::HookCompleted { hook, result, .. } if hook == TERMINATION_HOOK => {
                    let word =
                        if result == ActionResult::Continue { "CONTINUE" } else { "ABANDON" };
                    *hooks.entry(word.to_owned()).or_default() += 1;
                }
                EventKind::HookTimedOut { hook, .. } if hook == TERMINATION_HOOK => {
                    *hooks.entry("timed out".to_owned()).or_default() += 1;
                }
                _ => {}
            }
        }
        if hooks.get("CONTINUE") != Some(&leaving) || hooks.len() != 1 {
            self.findings
                .push(format!("{leaving} have left, and their hooks ended with {hooks:?}"));
        }
        let gone = self.site.all_instances().into_iter().filter(|it| it.is_terminated());
        let failed = |it: &Arc<Instance>| it.life().exits.iter().any(|exit| exit.code() != 0);
        self.find("left with a failure", gone.filter(failed).collect());
        self.check_list(nodes);
        let left = (nodes + leaving).saturating_sub(listed);
        Ok(Leave { phase, leaving, left, off_the_list_after, gone_after, hooks })
    }

    /// Throttles calls to every service; nothing may change by that.
    pub(super) async fn throttle(&mut self, length: Duration) -> anyhow::Result<Throttled> {
        self.say(&format!("half of all AWS calls are throttled for {} s", length.as_secs()));
        let nodes = (self.spec.managers + self.spec.workers) as usize;
        let mark = self.mark();
        let before = self.site.cloud.events_since(0).len();
        let faults = self.site.cloud.faults();
        let services =
            [Service::DynamoDb, Service::Ssm, Service::AutoScaling, Service::CloudFormation];
        for service in services {
            faults.set(service, None, Fault { throttle: THROTTLED, ..Fault::default() });
        }
        let mut most_missing = 0;
        while mark.at.elapsed() < length {
            sleep(LOOK_EVERY).await;
            let ready = self.site.engines.nodes().iter().filter(|node| node.is_ready).count();
            most_missing = most_missing.max(nodes.saturating_sub(ready));
        }
        faults.clear();
        let end = Instant::now();
        let is_well = async |stage: &Self| {
            let troubled = stage.troubled_managers().await;
            (troubled == 0, format!("{troubled} managers in trouble"))
        };
        let recovered_after = self.wait_since(end, RECOVERY_LIMIT, is_well).await;
        let phase = self.end_phase(&mark).await;
        let changes = self.site.cloud.events_since(before);
        let is_change = |kind: &EventKind| matches!(kind, EventKind::LifecycleChanged { .. });
        let lifecycle_changes = changes.iter().filter(|event| is_change(&event.kind)).count();
        let throttled_calls = phase.calls.all().values().map(|count| count.throttled).sum();
        if most_missing > 0 {
            self.findings.push(format!("{most_missing} nodes were missing during the throttling"));
        }
        if lifecycle_changes > 0 {
            self.findings.push(format!("{lifecycle_changes} lifecycle changes by throttling"));
        }
        if recovered_after.is_none() {
            self.findings.push(format!("managers in trouble {RECOVERY_LIMIT:?} after throttling"));
        }
        self.check_list(nodes);
        Ok(Throttled { phase, throttled_calls, most_missing, lifecycle_changes, recovered_after })
    }

    /// Checks the swarm from outside: one swarm, each instance once, all ready, every skep alive.
    fn check_list(&mut self, expected: usize) {
        let nodes = self.site.engines.nodes();
        let swarms: BTreeSet<&str> = nodes.iter().map(|node| node.swarm.as_str()).collect();
        let addresses: BTreeSet<Ipv4Addr> = nodes.iter().map(|node| node.address).collect();
        let own = self.site.instances();
        let own_addresses: BTreeSet<Ipv4Addr> = own.iter().map(|it| it.address).collect();
        let ready = nodes.iter().filter(|node| node.is_ready).count();
        let mut wrong = |is_wrong: bool, what: String| {
            if is_wrong {
                self.findings.push(what);
            }
        };
        wrong(swarms.len() != 1, format!("{} swarms instead of one", swarms.len()));
        wrong(nodes.len() != expected, format!("{} nodes instead of {expected}", nodes.len()));
        let twice = nodes.len() - addresses.len();
        wrong(twice > 0, format!("{twice} addresses are on the node list twice"));
        wrong(ready != nodes.len(), format!("{} nodes are not ready", nodes.len() - ready));
        let strangers = addresses.symmetric_difference(&own_addresses).count();
        wrong(strangers > 0, format!("{strangers} instances or nodes without the other"));
        let managers = nodes.iter().filter(|node| node.is_manager).count();
        let wanted = self.spec.managers as usize;
        wrong(managers != wanted, format!("{managers} managers instead of {wanted}"));
        let dead = own.into_iter().filter(|it| it.pid().is_none()).collect();
        self.find("without a skep", dead);
    }

    fn find(&mut self, what: &str, which: Vec<Arc<Instance>>) {
        if which.is_empty() {
            return;
        }
        let show = |it: &Arc<Instance>| format!("{} ({})", it.id, it.life().status);
        let shown: Vec<String> = which.iter().take(SHOWN).map(show).collect();
        self.findings.push(format!("{} {what}: {}", which.len(), shown.join(", ")));
    }

    /// Number of managers whose metrics show a trouble, or that do not answer.
    async fn troubled_managers(&self) -> usize {
        let mut troubled = 0;
        for manager in self.site.instances().iter().filter(|it| it.is_manager) {
            let page = self.site.metrics(manager.address).await;
            let is_well = page.is_ok_and(|page| value(&page, "skep_in_trouble") == Some(0.0));
            troubled += usize::from(!is_well);
        }
        troubled
    }

    async fn longest_round(&self) -> Option<Round> {
        let leader = self.site.engines.nodes().into_iter().find(|node| node.is_leader)?;
        let page = self.site.metrics(leader.address).await.ok()?;
        longest_round(&page)
    }

    fn pids(&self) -> Vec<i32> {
        self.site.instances().iter().filter_map(|instance| instance.pid()).collect()
    }

    /// Begins a phase; calls before it count no more.
    fn mark(&self) -> Mark {
        drop(self.site.cloud.take_requests());
        self.begin_phase()
    }

    /// Begins a phase that follows another one.
    fn begin_phase(&self) -> Mark {
        Mark { at: Instant::now(), processor: Processor::now(&self.pids()) }
    }

    async fn end_phase(&self, mark: &Mark) -> Phase {
        let processor = Processor::now(&self.pids()).since(mark.processor);
        let seconds = mark.at.elapsed().as_secs_f64();
        let all = self.site.all_instances();
        let managers = all.iter().filter(|it| it.is_manager).map(|it| it.id.clone()).collect();
        let mut calls = Tally::default();
        calls.add(&self.site.cloud.take_requests(), &managers);
        let saturation = processor.saturation();
        let longest_round = self.longest_round().await;
        Phase { seconds, processor, saturation, longest_round, calls }
    }

    /// Waits until `look` says so; returns `None` after `limit`. Says how it goes.
    async fn wait(
        &self,
        limit: Duration,
        look: impl AsyncFn(&Self) -> (bool, String),
    ) -> Option<Instant> {
        let start = Instant::now();
        let mut said = start;
        loop {
            let (is_done, text) = look(self).await;
            let now = Instant::now();
            if is_done || now - start > limit {
                self.say(&text);
                return is_done.then_some(now);
            }
            if now - said > SAY_EVERY {
                said = now;
                self.say(&text);
            }
            sleep(LOOK_EVERY).await;
        }
    }

    async fn wait_since(
        &self,
        from: Instant,
        limit: Duration,
        look: impl AsyncFn(&Self) -> (bool, String),
    ) -> Option<f64> {
        let at = self.wait(limit, look).await?;
        Some(at.duration_since(from).as_secs_f64())
    }
}

/// The beginning of a phase.
struct Mark {
    at: Instant,
    processor: Processor,
}

fn is_in_service(instance: &crate::cloud::InstanceView) -> bool {
    instance.lifecycle == LifecycleState::InService
}

/// Timeout of both hooks, as the template has it for the launch hook.
const HOOK_TIMEOUT: Duration = Duration::from_secs(900);

/// Number of managers, where there are as many instances.
const MANAGERS: u32 = 3;

/// Returns the cluster of so many instances.
///
/// # Errors
/// For none.
pub(super) fn cluster(nodes: u32) -> anyhow::Result<ClusterSpec> {
    ensure!(nodes > 0, "0 instances are no run: --nodes must be 1 or more (make scale N=1000)");
    let managers = nodes.min(MANAGERS);
    let spec = ClusterSpec::new("scale", managers, nodes - managers);
    Ok(ClusterSpec { hook_timeout: HOOK_TIMEOUT, ..spec })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_three_instances_are_managers() {
        let sizes = |nodes| {
            let spec = cluster(nodes).unwrap();
            (spec.managers, spec.workers)
        };
        assert_eq!([sizes(1), sizes(3), sizes(1000)], [(1, 0), (3, 0), (3, 997)]);
        assert!(cluster(0).unwrap_err().to_string().contains("must be 1 or more"));
    }
}
