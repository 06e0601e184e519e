//! Checks what must hold in every round, whatever its faults were.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::observe::{Completion, Moments};
use super::perform::Hurt;
use super::plan::Profile;
use crate::cloud::{ActionResult, Request, Service};
use crate::fleet::{Cost, Fleet, Instance, TERMINATION_HOOK};
use crate::witness::record::{NodeRecord, Record, Tasks};

/// Seconds after an event until the lists of all managers have been read again. Machines are busy here.
const LIST_LAG: f64 = 5.0;
/// Docker's managers wait 10 to 20 s for a silent leader. If one manager is disturbed, the next election may fail, too.
const LONGEST_WITHOUT_LEADER: f64 = 90.0;
/// Lines that a skep may log in a round: a fixed number, and a number per minute.
const LOG_LINES: (usize, f64) = (150, 60.0);
/// Beginnings of secrets, which must not be in any log.
const SECRETS: [&str; 3] = ["SWMTKN-1-", "SWMTKN-2-", "SWMKEY-1-"];
/// skep's log text for a departure that ended before a manager could confirm it; see its page in `docs/decisions`.
const UNCONFIRMED: &str = "no manager has confirmed that it is off the node list";
/// Largest resident memory of a skep, after any faults; below, its open descriptors.
const MEMORY_MIB: f64 = 64.0;
const DESCRIPTORS: usize = 300;

/// The state at the begin of a round.
#[derive(Clone, Debug, Default)]
pub struct Before {
    pub at: f64,
    pub tasks: BTreeMap<String, Tasks>,
    /// Length of each log in bytes.
    pub logs: BTreeMap<String, usize>,
}

impl Before {
    pub fn now(fleet: &Fleet, record: &Record) -> Before {
        let tasks = record.nodes.iter().map(|node| (node.instance.clone(), node.tasks)).collect();
        let instances = fleet.all_instances();
        let logs = instances.iter().map(|it| (it.id().to_owned(), it.log().len())).collect();
        Before { at: record.now(), tasks, logs }
    }
}

/// The data of a finished round.
pub struct Round<'a> {
    pub record: &'a Record,
    pub before: &'a Before,
    pub moments: &'a Moments,
    pub hurt: &'a Hurt,
    pub profile: Profile,
    /// The AWS calls since its begin.
    pub requests: Vec<Request>,
    /// The complete log of each instance.
    pub logs: BTreeMap<String, String>,
    /// The resource usage of each instance's skep.
    pub costs: BTreeMap<String, Cost>,
}

impl<'a> Round<'a> {
    pub fn of(
        fleet: &Fleet,
        record: &'a Record,
        before: &'a Before,
        moments: &'a Moments,
        hurt: &'a Hurt,
        profile: Profile,
    ) -> Round<'a> {
        let all = fleet.all_instances();
        let cost = |it: &Arc<Instance>| Some((it.id().to_owned(), Cost::of(it.skep_pid()?)?));
        Round {
            record,
            before,
            moments,
            hurt,
            profile,
            requests: fleet.cloud().requests(),
            logs: all.iter().map(|it| (it.id().to_owned(), it.log())).collect(),
            costs: all.iter().filter_map(cost).collect(),
        }
    }

    /// All violations, one line each.
    pub fn violations(&self) -> Vec<String> {
        let mut found = Vec::new();
        self.one_swarm(&mut found);
        self.quorum(&mut found);
        for completion in &self.moments.completions {
            self.completion(completion, &mut found);
        }
        for (instance, hook) in &self.moments.timed_out {
            if !self.hurt.power.contains(instance) {
                found.push(format!("the hook {hook} of {} timed out", self.record.name(instance)));
            }
        }
        for node in &self.record.nodes {
            self.raft(node, &mut found);
            self.grace(node, &mut found);
        }
        self.logs(&mut found);
        self.processes(&mut found);
        found
    }

    fn one_swarm(&self, found: &mut Vec<String>) {
        let ids = &self.record.swarm.ids;
        if ids.len() > 1 {
            let seen = ids.iter().map(|(id, by)| format!("{id} by {by}"));
            found.push(format!("more than one swarm: {}", seen.collect::<Vec<_>>().join(", ")));
        }
    }

    fn quorum(&self, found: &mut Vec<String>) {
        let gap = self.record.swarm.without_leader(self.record.now());
        if gap > LONGEST_WITHOUT_LEADER && !self.hurt.quorum && self.profile == Profile::Soft {
            found.push(format!("no leader for {gap:.0} s, although no majority was disturbed"));
        }
    }

    fn completion(&self, completion: &Completion, found: &mut Vec<String>) {
        let Some(node) = self.record.node(&completion.instance) else { return };
        let (name, by) = (&node.name, self.completed_by(completion));
        let by_itself = by.as_deref() == Some(completion.instance.as_str());
        let who = by.map_or_else(|| "somebody".to_owned(), |by| self.record.name(&by));
        if completion.result == ActionResult::Abandon {
            // A node may abandon its own hook if Docker has died or hung for long. No other node may do so for a skep
            // that is alive.
            let is_explained = match by_itself {
                true => self.hurt.is_excused(&completion.instance),
                false => self.hurt.is_silenced(&completion.instance),
            };
            if completion.has_skep && !is_explained {
                found.push(format!("{name} got ABANDON from {who} while its skep lived"));
            }
            return;
        }
        if self.hurt.power.contains(&completion.instance) {
            return;
        }
        if completion.containers > 0 {
            let count = completion.containers;
            found.push(format!("{name} got CONTINUE from {who} while {count} containers ran"));
        }
        if node.was_in_raft && is_later(node.out_of_raft, completion.at) {
            found.push(format!("{name} got CONTINUE from {who} while it was in raft"));
        }
        // A manager that carries out a stand-in removes the node from the list only when its machine is gone.
        let is_listed = node.was_listed && is_later(node.off_list, completion.at);
        let log = self.logs.get(&completion.instance);
        let has_said_so = log.is_some_and(|log| log.contains(UNCONFIRMED));
        if by_itself && is_listed && !has_said_so {
            found.push(format!("{name} completed its hook while it was in the node list"));
        }
    }

    /// The instance that completed the hook: the caller of the last matching call.
    fn completed_by(&self, completion: &Completion) -> Option<String> {
        let is_it = |call: &&Request| {
            call.service == Service::AutoScaling
                && call.action == "CompleteLifecycleAction"
                && call.status == 200
                && call.summary.contains(&completion.instance)
                && call.summary.contains(TERMINATION_HOOK)
        };
        self.requests.iter().rfind(is_it).and_then(|call| call.instance_id.clone())
    }

    fn raft(&self, node: &NodeRecord, found: &mut Vec<String>) {
        let Some(powered_off) = node.powered_off.filter(|at| *at >= self.before.at) else { return };
        let is_explained = self.hurt.is_excused(&node.instance) || self.hurt.quorum;
        if node.was_in_raft && !is_explained && is_later(node.out_of_raft, powered_off) {
            found.push(format!("{} was switched off while it was in raft", node.name));
        }
    }

    fn grace(&self, node: &NodeRecord, found: &mut Vec<String>) {
        let before = self.before.tasks.get(&node.instance).copied().unwrap_or_default();
        let killed = node.tasks.without_grace.saturating_sub(before.without_grace);
        let failed = node.tasks.failed.saturating_sub(before.failed);
        let is_heard = !self.hurt.unheard.contains(&node.instance);
        if killed + failed > 0 && is_heard && !self.hurt.is_excused(&node.instance) {
            found.push(format!("{}: {killed} tasks lost their grace, {failed} failed", node.name));
        }
    }

    fn logs(&self, found: &mut Vec<String>) {
        let minutes = (self.record.now() - self.before.at) / 60.0;
        let most = LOG_LINES.0 + (LOG_LINES.1 * minutes) as usize;
        for (instance, log) in &self.logs {
            let name = self.record.name(instance);
            let from = self.before.logs.get(instance).copied().unwrap_or(0);
            // If `from` is not at a character boundary, the whole log counts, so that no line is skipped.
            let new = log.get(from..).unwrap_or(log);
            if let Some(secret) = SECRETS.iter().find(|secret| new.contains(**secret)) {
                found.push(format!("the log of {name} holds a secret: {secret}…"));
            }
            if let Some(line) = new.lines().find(|line| line.contains("panicked at")) {
                found.push(format!("skep of {name} panicked: {line}"));
            }
            let lines = new.lines().count();
            if lines > most {
                found.push(format!("the log of {name} has {lines} new lines, more than {most}"));
            }
        }
    }

    fn processes(&self, found: &mut Vec<String>) {
        for (instance, cost) in &self.costs {
            if cost.mib > MEMORY_MIB || cost.descriptors > DESCRIPTORS {
                found.push(format!(
                    "skep of {} has {:.0} MiB and {} descriptors",
                    self.record.name(instance),
                    cost.mib,
                    cost.descriptors
                ));
            }
        }
    }
}

/// Whether an event that had to happen until `moment` happened too late or not at all.
fn is_later(happened: Option<f64>, moment: f64) -> bool {
    happened.is_none_or(|happened| happened > moment + LIST_LAG)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::net::Ipv4Addr;

    use super::*;
    use crate::witness::tale::Tale;

    const ID: &str = "i-1";

    /// A manager that was in raft and in the node list, left both at 10 s, and was switched off at 20 s.
    fn record() -> Record {
        let mut record = Record::new(Tale::silent());
        record.launched(ID, "chaos-managers", "a", Ipv4Addr::LOCALHOST, 0.0);
        record.swarm.named("one", "manager-1");
        let node = &mut record.nodes[0];
        node.was_listed = true;
        node.off_list = Some(10.0);
        node.was_in_raft = true;
        node.out_of_raft = Some(10.0);
        node.powered_off = Some(20.0);
        record
    }

    fn completion(result: ActionResult) -> Completion {
        Completion { instance: ID.to_owned(), at: 11.0, result, containers: 0, has_skep: true }
    }

    fn call(by: &str) -> Request {
        serde_json::from_value(serde_json::json!({
            "at": "2026-11-29T00:00:00Z", "service": "autoscaling",
            "action": "CompleteLifecycleAction", "principal": null, "instance_id": by,
            "status": 200, "code": null, "summary": format!("{ID} {TERMINATION_HOOK}"),
            "took_micros": 1,
        }))
        .unwrap()
    }

    /// The violations of a round with the faults `hurt`, in which `by` completed the hook, after `edit` of the data.
    fn violations(
        hurt: &Hurt,
        by: &str,
        edit: impl FnOnce(&mut Record, &mut Moments, &mut BTreeMap<String, String>),
    ) -> String {
        let (mut record, mut moments, mut logs) = (record(), Moments::default(), BTreeMap::new());
        moments.completions.push(completion(ActionResult::Continue));
        edit(&mut record, &mut moments, &mut logs);
        let before = Before::default();
        let cost = Cost { mib: 20.0, descriptors: 30, threads: 3 };
        Round { requests: vec![call(by)], logs, ..round(&record, &before, &moments, hurt, cost) }
            .violations()
            .join("; ")
    }

    /// A round without calls and log lines.
    fn round<'a>(
        record: &'a Record,
        before: &'a Before,
        moments: &'a Moments,
        hurt: &'a Hurt,
        cost: Cost,
    ) -> Round<'a> {
        Round {
            record,
            before,
            moments,
            hurt,
            profile: Profile::Soft,
            requests: Vec::new(),
            logs: BTreeMap::new(),
            costs: BTreeMap::from([(ID.to_owned(), cost)]),
        }
    }

    #[test]
    fn a_skep_that_takes_too_much_is_named() {
        let (record, before, moments) = (record(), Before::default(), Moments::default());
        let hurt = Hurt::default();
        let seen = |mib, descriptors| {
            let cost = Cost { mib, descriptors, threads: 3 };
            round(&record, &before, &moments, &hurt, cost).violations().join("; ")
        };
        assert_eq!(seen(MEMORY_MIB, DESCRIPTORS), "");
        assert_eq!(seen(65.0, 30), "skep of manager-1 has 65 MiB and 30 descriptors");
        assert_eq!(seen(20.0, 301), "skep of manager-1 has 20 MiB and 301 descriptors");
    }

    #[test]
    fn a_swarm_without_a_leader_for_long_is_one_where_no_majority_was_disturbed() {
        let leads: bollard::models::Node = serde_json::from_value(serde_json::json!({
            "ID": "manager-1",
            "Spec": { "Role": "manager", "Availability": "active" },
            "Status": { "State": "ready", "Addr": "10.78.0.4" },
            "ManagerStatus":
                { "Leader": true, "Reachability": "reachable", "Addr": "10.78.0.4:2377" },
        }))
        .unwrap();
        let (before, moments) = (Before::default(), Moments::default());
        let cost = Cost { mib: 20.0, descriptors: 30, threads: 3 };
        let seen = |seconds_ago, profile, hurt: &Hurt| {
            let mut record = record();
            let now = record.now();
            record.swarm.listed(std::slice::from_ref(&leads), now - seconds_ago);
            let seen = round(&record, &before, &moments, hurt, cost);
            Round { profile, ..seen }.violations().join("; ")
        };
        let (unhurt, hurt) = (Hurt::default(), Hurt { quorum: true, ..Hurt::default() });
        assert_eq!(seen(80.0, Profile::Soft, &unhurt), "");
        assert!(seen(100.0, Profile::Soft, &unhurt).starts_with("no leader for 100 s"));
        assert_eq!(seen(100.0, Profile::Soft, &hurt), "");
        assert_eq!(seen(100.0, Profile::Hard, &unhurt), "", "two of its acts may meet");
    }

    #[test]
    fn each_check_can_fail() {
        let unhurt = Hurt::default();
        let seen = |edit: fn(&mut Record, &mut Moments, &mut BTreeMap<String, String>)| {
            violations(&unhurt, ID, edit)
        };
        assert_eq!(seen(|_, _, _| {}), "");
        let second = seen(|record, _, _| record.swarm.named("two", "manager-1"));
        assert!(second.starts_with("more than one swarm"), "{second}");
        let running = seen(|_, moments, _| moments.completions[0].containers = 2);
        assert_eq!(running, "manager-1 got CONTINUE from manager-1 while 2 containers ran");
        let listed = seen(|record, _, _| record.nodes[0].off_list = None);
        assert_eq!(listed, "manager-1 completed its hook while it was in the node list");
        let said = seen(|record, _, logs| {
            record.nodes[0].off_list = None;
            logs.insert(ID.to_owned(), UNCONFIRMED.to_owned());
        });
        assert_eq!(said, "");
        let in_raft = seen(|record, _, _| record.nodes[0].out_of_raft = None);
        assert_eq!(
            in_raft,
            "manager-1 got CONTINUE from manager-1 while it was in raft; manager-1 was switched off while it was in raft"
        );
        let late = seen(|_, moments, _| moments.timed_out.push((ID.to_owned(), "hook".to_owned())));
        assert_eq!(late, "the hook hook of manager-1 timed out");
        let killed = seen(|record, _, _| record.nodes[0].tasks.without_grace = 3);
        assert_eq!(killed, "manager-1: 3 tasks lost their grace, 0 failed");
        for line in ["SWMTKN-1-abc", "SWMKEY-1-abc", "thread 'x' panicked at a.rs"] {
            let told = violations(&unhurt, ID, |_, _, logs| {
                logs.insert(ID.to_owned(), line.to_owned());
            });
            assert!(told.contains("manager-1"), "{line}: {told}");
        }
        let loud = seen(|_, _, logs| {
            logs.insert(ID.to_owned(), "a line\n".repeat(200));
        });
        assert!(loud.contains("200 new lines"), "{loud}");
    }

    #[test]
    fn abandon_is_the_nodes_own_where_docker_is_hurt_and_nobody_elses_while_its_skep_lives() {
        let hurt = |set: fn(&mut Hurt) -> &mut BTreeSet<String>| {
            let mut hurt = Hurt::default();
            set(&mut hurt).insert(ID.to_owned());
            hurt
        };
        let abandoned = |hurt: &Hurt, by: &str, has_skep: bool| {
            violations(hurt, by, |_, moments, _| {
                moments.completions[0].result = ActionResult::Abandon;
                moments.completions[0].has_skep = has_skep;
            })
        };
        let docker = hurt(|hurt| &mut hurt.docker);
        assert!(abandoned(&Hurt::default(), ID, true).contains("got ABANDON"));
        assert!(abandoned(&docker, "i-2", true).contains("got ABANDON from i-2"));
        assert_eq!(abandoned(&docker, ID, true), "");
        assert_eq!(abandoned(&Hurt::default(), "i-2", false), "");
        for silenced in [hurt(|hurt| &mut hurt.power), hurt(|hurt| &mut hurt.network)] {
            assert_eq!(abandoned(&silenced, "i-2", true), "");
        }
    }

    #[test]
    fn what_has_not_happened_is_late() {
        assert!(is_later(None, 1.0));
        assert!(!is_later(Some(1.0 + LIST_LAG), 1.0));
        assert!(is_later(Some(1.1 + LIST_LAG), 1.0));
    }
}
