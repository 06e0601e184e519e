//! What a departing node remembers from look to look.

use std::collections::{BTreeSet, HashMap, HashSet};
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

/// What cannot be read anywhere: since when this process waits, and whether it has flushed. After
/// a restart it is taken from the start again, which only costs time.
pub struct Memory {
    pub start: Instant,
    /// Since when a replacement has had time to join.
    pub relief_since: Instant,
    /// When the charter is asked next for a claim of this node to re-create the quorum; `None`: now.
    pub claim_check_at: Option<Instant>,
    /// The time for re-creating the quorum is over.
    pub is_recovery_over: bool,
    /// The notice's deadline, and when that is by this host's own time.
    deadline: Option<(OffsetDateTime, Instant)>,
    /// Since when Docker has not answered.
    pub silent_since: Option<Instant>,
    /// Rounds that have failed, one after the other.
    pub failures: u32,
    pub flush: Flush,
    /// This process has taken the node out of the swarm.
    pub has_left: bool,
    /// As which node this host is a member, while Docker cannot say.
    pub member: Option<Membership>,
    /// Tasks that have ended without the grace of their service, by their containers' names.
    pub killed: BTreeSet<String>,
    /// Those of which Docker could not say how they have ended.
    pub grace_unknown: BTreeSet<String>,
    /// The tasks that ran here at the last look, by their containers' names.
    pub tasks: Vec<String>,
    pub stopwatch: Stopwatch,
    /// Containers that have had their SIGTERM from here; the tasks' among them with their names, until it is
    /// known how they have ended.
    pub asked_to_stop: HashSet<String>,
    pub stopping: HashMap<String, String>,
    /// What runs here, as of the last look.
    pub containers: Vec<TaskContainer>,
    /// The graces that containers have told.
    pub graces: HashMap<String, Option<u64>>,
    /// Whether this node is out, and whether the ledger says so, and since when only somebody's word is missing:
    /// that it is a manager no more, or off the list.
    pub word_missing: Option<((bool, bool), Instant)>,
    /// Known for good once it is known: whose swarm Docker is in.
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
    /// While Docker did not answer: tasks may have written more since.
    Blind,
    Whole,
}

impl Flush {
    /// One without Docker counts only where no time is left for another one.
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
            relief_since: start,
            claim_check_at: None,
            is_recovery_over: false,
            deadline: None,
            silent_since: None,
            failures: 0,
            flush: Flush::NotYet,
            has_left: false,
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

    /// When `deadline` is. It is wall-clock time, and asked of the clock once: a step of the clock in the middle of
    /// a departure takes no time from it. Another deadline may only be nearer.
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

    /// The quorum was re-created: tasks have started here again, and a replacement can join from now on only.
    pub fn begin_again(&mut self, member: Membership) {
        self.relief_since = Instant::now();
        self.flush = Flush::NotYet;
        self.silent_since = None;
        self.word_missing = None;
        self.member = Some(member);
    }

    /// Only somebody's word is missing, or not. Managers cannot act on a row that they have not got: their time
    /// begins once it says that the node is out, however long the ledger has not answered before.
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

    /// The node is out. What still ran is killed by Docker, which does not know any more which node it was: the
    /// request that may still have to be written names it.
    pub fn leaves_behind(&mut self, was: Membership) {
        self.has_left = true;
        self.member.get_or_insert(was);
        self.killed.extend(std::mem::take(&mut self.tasks));
    }

    /// Those of this departure, with what still runs although the machine goes.
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
        // A nearer one counts from the clock as it is then, and none gives time back.
        let nearer = memory.instant_of(NOTICED + 3 * minute, NOTICED + minute);
        assert_eq!(nearer, start + 3 * minute);
        assert_eq!(memory.instant_of(NOTICED + 2 * minute, NOTICED - hour), nearer);
    }
}
