//! Keeps the state of a departure between observations.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::time::Duration;

use time::OffsetDateTime;
use tokio::time::Instant;

use super::decide::{Clock, Outcome};
use super::failed_attempts::Failing;
use crate::clients::docker::TaskContainer;
use crate::clients::ledger::{DepartureRow, DepartureState};
use crate::common::fact::Fact;
use crate::common::instance::Membership;
use crate::telemetry::metrics::Stopwatch;

/// State that cannot be read from Docker or the ledger, such as the start of this process's waits, and whether it has
/// flushed. A restart of skep resets it, which only costs time.
pub struct Memory {
    pub start: Instant,
    /// Time of the last step.
    pub moved_at: Instant,
    /// Time since which managers could drain this node: its traffic has ended, and it waits for no other node.
    pub asked_at: Instant,
    /// Time since which health checks get 503.
    pub refused_since: Option<Instant>,
    /// The log has a line about traffic that was not waited for.
    pub is_cut_told: bool,
    /// Time since which a replacement can join.
    pub replacement_awaited_since: Instant,
    /// Next time to read the charter for a claim of this node to re-create the quorum; `None`: now.
    pub claim_check_at: Option<Instant>,
    /// The time for re-creating the quorum is over.
    pub is_recovery_over: bool,
    /// The notice's deadline, and the same by this host's monotonic clock.
    deadline: Option<(OffsetDateTime, Instant)>,
    /// Time since which Docker has not answered.
    pub silent_since: Option<Instant>,
    /// Failed rounds in a row.
    pub failures: u32,
    pub flush: Flush,
    /// This process has taken the node out of the swarm.
    pub has_left: bool,
    /// Addresses of the managers that Docker has known.
    pub managers: Vec<IpAddr>,
    /// Membership of this host, for the time when Docker cannot report it.
    pub member: Option<Membership>,
    /// Names of the task containers that ended without the grace of their service.
    pub killed: BTreeSet<String>,
    /// Names of the task containers for which Docker could not report how they ended.
    pub grace_unknown: BTreeSet<String>,
    /// Names of the task containers that ran here at the last observation.
    pub tasks: Vec<String>,
    pub stopwatch: Stopwatch,
    /// Ids of the containers that this process has sent SIGTERM.
    pub asked_to_stop: HashSet<String>,
    /// The task containers among them, by id, with their names, until it is known how they ended.
    pub stopping: HashMap<String, String>,
    /// Containers that ran here at the last observation.
    pub containers: Vec<TaskContainer>,
    /// Grace of each container by its id, in seconds, as Docker reported it.
    pub graces: HashMap<String, Option<u64>>,
    /// Set while the node waits only for a manager's confirmation (that it is not a manager any more, or is off the
    /// node list): whether the node is out, whether the ledger records that, and the time since which it waits.
    pub word_missing: Option<((bool, bool), Instant)>,
    /// Whether the swarm that Docker is in is this cluster's. It does not change once it is known.
    pub ours: Fact,
    /// Writes to the ledger.
    pub writes: Failing,
    /// Draining this manager.
    pub drains: Failing,
}

/// Whether logs have been flushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flush {
    NotYet,
    /// Flushed while Docker did not answer: tasks may have written more since.
    Blind,
    Whole,
}

impl Flush {
    /// Whether the flush counts as done. A flush without Docker counts only if no time is left for another one.
    pub fn counts(self, clock: &Clock) -> bool {
        match self {
            Self::NotYet => false,
            Self::Blind => clock.leave_due,
            Self::Whole => true,
        }
    }
}

impl Memory {
    pub fn new(start: Instant) -> Self {
        Self {
            start,
            moved_at: start,
            asked_at: start,
            refused_since: None,
            is_cut_told: false,
            replacement_awaited_since: start,
            claim_check_at: None,
            is_recovery_over: false,
            deadline: None,
            silent_since: None,
            failures: 0,
            flush: Flush::NotYet,
            has_left: false,
            managers: Vec::new(),
            member: None,
            killed: BTreeSet::new(),
            grace_unknown: BTreeSet::new(),
            tasks: Vec::new(),
            stopwatch: Stopwatch::default(),
            asked_to_stop: HashSet::new(),
            stopping: HashMap::new(),
            containers: Vec::new(),
            graces: HashMap::new(),
            word_missing: None,
            ours: Fact::CannotTell,
            writes: Failing::default(),
            drains: Failing::default(),
        }
    }

    /// Converts `deadline` to the monotonic clock, once per deadline: a step of the wall clock during a departure takes
    /// no time from it. Another deadline can only be nearer.
    pub fn instant_of(&mut self, deadline: OffsetDateTime, wall: OffsetDateTime) -> Instant {
        let at = match self.deadline {
            Some((known, at)) if known == deadline => at,
            known => {
                let left = Duration::try_from(deadline - wall).unwrap_or(Duration::ZERO);
                let at = Instant::now() + left;
                known.map_or(at, |(_, known)| known.min(at))
            }
        };
        self.deadline = Some((deadline, at));
        at
    }

    /// Resets the waits after the quorum was re-created: tasks have started here again, and a replacement can join only
    /// from now on.
    pub fn begin_again(&mut self, member: Membership) {
        self.replacement_awaited_since = Instant::now();
        self.flush = Flush::NotYet;
        self.silent_since = None;
        self.word_missing = None;
        self.member = Some(member);
    }

    /// Records whether only a manager's confirmation is missing. Managers cannot act on a row that they do not have:
    /// their time starts once the row records that the node is out, however long the ledger did not answer before.
    pub fn misses_word(&mut self, is_missing: bool, is_out: bool, row: Option<&DepartureRow>) {
        let known = self.word_missing;
        let was_told = matches!(known, Some(((true, true), _)));
        let is_told = was_told || row.is_some_and(|row| row.state >= DepartureState::Left);
        let stage = (is_out, is_out && is_told);
        self.word_missing = is_missing.then(|| match known {
            Some((was, since)) if was == stage => (stage, since),
            _ => (stage, Instant::now()),
        });
    }

    /// Records that the node is out. Docker kills the tasks that still ran, and does not report the node id any more:
    /// the request that may still have to be written needs the membership.
    pub fn leaves_behind(&mut self, was: Membership) {
        self.has_left = true;
        self.member.get_or_insert(was);
        self.killed.extend(std::mem::take(&mut self.tasks));
    }

    /// Returns the tasks that were killed in this departure, with those that still run although the machine ends.
    pub fn all_killed(mut self, outcome: Outcome) -> BTreeSet<String> {
        if outcome.is_failure() && !outcome.stays() {
            self.killed.extend(self.tasks);
        }
        self.killed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_step_of_the_clock_takes_no_time_from_a_departure() {
        const NOTICED: OffsetDateTime = time::macros::datetime!(2026-11-28 12:00 UTC);
        let (minute, hour) = (Duration::from_secs(60), Duration::from_secs(3600));
        let start = Instant::now();
        let mut memory = Memory::new(start);
        let deadline = NOTICED + 10 * minute;
        assert_eq!(memory.instant_of(deadline, NOTICED), start + 10 * minute);
        tokio::time::advance(minute).await;
        for wall in [NOTICED + minute, NOTICED + hour, NOTICED - hour] {
            assert_eq!(memory.instant_of(deadline, wall), start + 10 * minute, "{wall}");
        }
        // A nearer deadline is converted by the clock at that time, and no deadline gives time back.
        let nearer = memory.instant_of(NOTICED + 3 * minute, NOTICED + minute);
        assert_eq!(nearer, start + 3 * minute);
        assert_eq!(memory.instant_of(NOTICED + 2 * minute, NOTICED - hour), nearer);
    }
}
