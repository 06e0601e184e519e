//! What a manager remembers of the departures, so that it looks at the services once for each of them, and decides on
//! whole departures and not on single rows.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use time::OffsetDateTime;
use tokio::time::Instant;

use super::decide::{Key, Turn, Waiting, decide, latest, next};
use super::services::{Baseline, Look};
use crate::clients::docker::{Availability, NodeView};
use crate::clients::ledger::{DepartureRow, DepartureState, TurnFor};
use crate::common::instance::Role;
use crate::config::Settings;

/// How long the end of a departure is remembered: longer than its row is kept after it.
const ENDS_KEPT: Duration = Duration::from_secs(2 * 3600);

/// A departure and its node, if the node is listed.
pub type Departure<'a> = (&'a DepartureRow, Option<&'a NodeView>);

/// State of one manager.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// Departures whose drain has begun and that are not over, with the time of the request.
    under_way: BTreeMap<Key, OffsetDateTime>,
    ended: BTreeMap<Key, Ended>,
    /// When this manager first saw that a worker waits.
    waits_since: BTreeMap<Key, OffsetDateTime>,
    /// Departures that this manager has let begin.
    begun: BTreeSet<Key>,
    /// What this manager has written into the rows of those that wait.
    noted: BTreeMap<Key, String>,
    baseline: Option<Baseline>,
    /// What was stated to new nodes last; `None` if nothing was.
    pub stated: Option<Option<String>>,
}

/// The end of a departure.
#[derive(Clone, Copy, Debug)]
struct Ended {
    /// When this manager first saw it.
    seen_at: Instant,
    requested_at: OffsetDateTime,
    /// Other nodes run its tasks, as far as the services' condition shows.
    is_made_up: bool,
}

/// The part of a departure that matters for the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// It matters for nobody: it cannot be drained yet, or its machine is gone or dead without a drain.
    None,
    /// A worker that can be drained.
    Waiting,
    UnderWay,
    /// Nothing more happens to the node, but other nodes may not run its tasks yet.
    Ended,
}

fn stage(row: &DepartureRow, view: Option<&NodeView>, now: OffsetDateTime) -> Stage {
    let is_over = row.state.is_over() || row.deadline <= now;
    let Some(view) = view.filter(|_| !is_over) else {
        return if row.state == DepartureState::Requested { Stage::None } else { Stage::Ended };
    };
    match row.state {
        // The tasks of a node that is Down are lost already, and nothing that it does makes that worse.
        DepartureState::Requested if view.is_down() || row.is_held(now) => Stage::None,
        DepartureState::Requested
            if row.role == Role::Worker && view.availability != Availability::Drain =>
        {
            Stage::Waiting
        }
        _ => Stage::UnderWay,
    }
}

impl Memory {
    /// Takes in the departures of a poll. Returns the workers that wait. `is_unanswered`: it is unknown whether the
    /// instance has a departure, so that the last answer counts. `is_leader`: this manager does not follow the rows of
    /// those that wait.
    pub(super) fn observe(
        &mut self,
        departures: &[Departure<'_>],
        is_unanswered: impl Fn(&str) -> bool,
        is_leader: bool,
        settings: &Settings,
        now: OffsetDateTime,
    ) -> Vec<Waiting> {
        let present: BTreeSet<Key> = departures.iter().map(|(row, _)| Key::of(row)).collect();
        let is_known = |key: &Key| present.contains(key) || is_unanswered(&key.instance_id);
        self.under_way.retain(|key, _| !present.contains(key) && is_known(key));
        self.waits_since.retain(|key, _| is_known(key));
        self.begun.retain(is_known);
        self.noted.retain(|key, _| is_known(key));
        self.ended.retain(|_, end| end.seen_at.elapsed() < ENDS_KEPT);
        let mut waiting = vec![];
        for (row, view) in departures {
            let (key, requested_at) = (Key::of(row), row.requested_at);
            match stage(row, *view, now) {
                Stage::None => {}
                Stage::Waiting if !self.begun.contains(&key) => {
                    let is_followed = !is_leader
                        && row.turn_for == TurnFor::Others
                        && row.awaits_turn(now)
                        && self.noted.get(&key) != row.turn_after.as_ref();
                    let held = row.turn_by.filter(|_| is_followed).zip(row.turn_after.clone());
                    let since = *self.waits_since.entry(key.clone()).or_insert(now);
                    let latest = latest(row, since, settings);
                    waiting.push(Waiting { key, requested_at, latest, held });
                }
                Stage::Waiting | Stage::UnderWay => {
                    self.under_way.insert(key, requested_at);
                }
                Stage::Ended => {
                    let seen_at = Instant::now();
                    let ended = Ended { seen_at, requested_at, is_made_up: false };
                    self.ended.entry(key).or_insert(ended);
                }
            }
        }
        waiting
    }

    /// Returns the departures whose tasks other nodes may not run yet, with the time of the request. One that ended
    /// longer ago than a worker can wait holds nobody up.
    fn earlier(&self, settings: &Settings) -> BTreeMap<Key, OffsetDateTime> {
        let counts = |end: &Ended| !end.is_made_up && end.seen_at.elapsed() < settings.pace.longest;
        let ended = self.ended.iter().filter(|(_, end)| counts(end));
        let ended = ended.map(|(key, end)| (key.clone(), end.requested_at));
        ended.chain(self.under_way.clone()).collect()
    }

    /// Whether the condition of the services must be known for a decision.
    pub(super) fn needs_look(
        &self,
        waiting: &[Waiting],
        settings: &Settings,
        now: OffsetDateTime,
    ) -> bool {
        let can_wait = |it: &Waiting| now < it.latest && it.held.is_none();
        let earlier = self.earlier(settings).len();
        waiting.iter().any(can_wait) && waiting.len() + earlier > 1
            || settings.pace.delay_success && earlier > 0
    }

    /// Returns what a new node waits for, by the same look: departures that are not made up for. `None`: nothing.
    pub(super) fn worse_off(&self, look: Option<&Look>, settings: &Settings) -> Option<String> {
        let earlier = self.earlier(settings).into_keys().collect();
        next(&earlier, look.zip(self.baseline.as_ref()))
    }

    /// Decides by the condition of the services, `None` if it is unknown.
    pub(super) fn decide(
        &mut self,
        waiting: Vec<Waiting>,
        look: Option<&Look>,
        settings: &Settings,
        now: OffsetDateTime,
    ) -> BTreeMap<Key, Turn> {
        if let Some(look) = look {
            self.compare(look, settings, now);
        }
        let earlier = self.earlier(settings);
        if earlier.is_empty() {
            self.baseline = look.map(|look| Baseline::of(look, &BTreeSet::new(), now));
        }
        let earlier = earlier.into_keys().collect();
        let turns = decide(waiting, &earlier, look.zip(self.baseline.as_ref()), now);
        for (key, turn) in &turns {
            match turn {
                Turn::Now => drop(self.begun.insert(key.clone())),
                Turn::Wait { after, .. } => drop(self.noted.insert(key.clone(), after.clone())),
            }
        }
        turns
    }

    /// Finds out whether the earlier departures are made up for.
    fn compare(&mut self, look: &Look, settings: &Settings, now: OffsetDateTime) {
        let earlier = self.earlier(settings);
        let Some(since) = earlier.values().min().copied() else { return };
        let nodes = earlier.into_keys().map(|key| key.node_id).collect();
        // This manager has not seen the time before: it has just started, or only one worker left then.
        let baseline =
            self.baseline.get_or_insert_with(|| Baseline::of(look, &nodes, since.min(now)));
        if look.worse_off(baseline, &nodes).is_none() {
            self.ended.values_mut().for_each(|end| end.is_made_up = true);
        }
    }
}
