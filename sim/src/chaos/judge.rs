//! What must hold in every round, whatever happened in it.

use std::collections::BTreeMap;

use super::observe::{Completion, Moments};
use super::perform::Hurt;
use super::plan::Profile;
use crate::cloud::{ActionResult, Request, Service};
use crate::fleet::{Cost, Fleet, TERMINATION_HOOK};
use crate::witness::record::{NodeRecord, Record, Tasks};

/// How long after an event the lists of all managers have been read anew, in seconds. Machines are busy here.
const LIST_LAG: f64 = 5.0;
/// Docker's managers wait ten to twenty seconds for a leader that is silent; with one manager in trouble the next
/// election may fail, too.
const LONGEST_WITHOUT_LEADER: f64 = 90.0;
/// Lines that a skep may write in a round, and per minute of it.
const LOG_LINES: (usize, f64) = (150, 60.0);
/// What must never be written anywhere.
const SECRETS: [&str; 3] = ["SWMTKN-1-", "SWMTKN-2-", "SWMKEY-1-"];
/// How skep says that a departure ended before it could be confirmed by a manager: its page in `docs/decisions`.
const UNCONFIRMED: &str = "nobody has confirmed that it is off the list";
/// Resident memory and open descriptors of a skep, whatever has happened to it.
const MEMORY_MIB: f64 = 64.0;
const DESCRIPTORS: usize = 300;

/// How things stood when a round began.
#[derive(Clone, Debug, Default)]
pub struct Before {
    pub at: f64,
    pub tasks: BTreeMap<String, Tasks>,
    /// Bytes of each log.
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

/// A round that is over.
pub struct Round<'a> {
    pub fleet: &'a Fleet,
    pub record: &'a Record,
    pub before: &'a Before,
    pub moments: &'a Moments,
    pub hurt: &'a Hurt,
    pub profile: Profile,
}

impl Round<'_> {
    /// Everything that did not hold, a line each.
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
            // A node gives up by itself where Docker has died or hung for long; nobody else does for a skep that lives.
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
        // A manager that acts for a dead skep takes the node off the list once its machine is gone.
        let is_listed = node.was_listed && is_later(node.off_list, completion.at);
        if by_itself && is_listed && !self.log_of(&completion.instance).contains(UNCONFIRMED) {
            found.push(format!("{name} completed its hook while it was in the node list"));
        }
    }

    /// Whose call it was: the last one that was served before the event.
    fn completed_by(&self, completion: &Completion) -> Option<String> {
        let requests = self.fleet.cloud().requests();
        let is_it = |call: &&Request| {
            call.service == Service::AutoScaling
                && call.action == "CompleteLifecycleAction"
                && call.status == 200
                && call.summary.contains(&completion.instance)
                && call.summary.contains(TERMINATION_HOOK)
        };
        requests.iter().rfind(is_it).and_then(|call| call.instance_id.clone())
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
        for instance in self.fleet.all_instances() {
            let name = self.record.name(instance.id());
            let log = instance.log();
            let from = self.before.logs.get(instance.id()).copied().unwrap_or(0);
            let new = log.get(from..).unwrap_or_default();
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
        for instance in self.fleet.instances() {
            let Some(cost) = instance.skep_pid().and_then(Cost::of) else { continue };
            if cost.mib > MEMORY_MIB || cost.descriptors > DESCRIPTORS {
                found.push(format!(
                    "skep of {} has {:.0} MiB and {} descriptors",
                    self.record.name(instance.id()),
                    cost.mib,
                    cost.descriptors
                ));
            }
        }
    }

    fn log_of(&self, instance: &str) -> String {
        self.fleet.instance(instance).map(|it| it.log()).unwrap_or_default()
    }
}

/// What had to have happened by a moment did not, or later.
fn is_later(happened: Option<f64>, moment: f64) -> bool {
    happened.is_none_or(|happened| happened > moment + LIST_LAG)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_not_happened_is_late() {
        assert!(is_later(None, 1.0));
        assert!(!is_later(Some(1.0 + LIST_LAG), 1.0));
        assert!(is_later(Some(1.1 + LIST_LAG), 1.0));
    }
}
