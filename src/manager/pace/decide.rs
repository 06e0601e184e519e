//! Decides whose turn it is to be drained. Pure.
//!
//! Guarantees: a worker that may wait is not drained while a service is worse off than before the earlier departures
//! began, or while that is unknown; it is drained at its latest time in any case. Where nothing else leaves, it is
//! drained at once.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use time::OffsetDateTime;

use super::services::{Baseline, Look};
use crate::clients::ledger::{DepartureRow, TurnFor};
use crate::common::instance::Reason;
use crate::common::timing::LEAVE_SHARE;
use crate::config::Settings;
use crate::manager::complaints::some_of;

/// Share of the time left for draining that a node may wait for its turn: its tasks need the rest.
const MOST_OF_DRAINING: f64 = 0.5;

/// A departure: the ids of its instance and of its node. An instance can leave again as another node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    pub instance_id: String,
    pub node_id: String,
}

impl Key {
    /// Returns the key of a row.
    pub fn of(row: &DepartureRow) -> Self {
        Self { instance_id: row.instance_id.clone(), node_id: row.node_id.clone() }
    }
}

/// Whether a node may be drained.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Turn {
    /// It waits for nothing.
    #[default]
    Now,
    /// Other departures come first.
    Wait {
        /// The time from which on it does not wait any more.
        until: OffsetDateTime,
        /// Whom it waits for, and for which service, as text.
        after: String,
        turn_for: TurnFor,
    },
}

/// A worker that can be drained.
#[derive(Clone, Debug)]
pub(super) struct Waiting {
    pub key: Key,
    pub requested_at: OffsetDateTime,
    /// Until then it can wait.
    pub latest: OffsetDateTime,
    /// The leader's answer in its row, for another manager: until when it waits, and for whom.
    pub held: Option<(OffsetDateTime, String)>,
}

/// Returns the time until which a departure can wait for its turn, in whole seconds, if it could have begun at `since`:
/// the share of its time that its reason allows, `pace.longest` at most, and never more than a part of the time that is
/// left for draining. A time that its row has already counts, unless it is later.
pub(super) fn latest(
    row: &DepartureRow,
    since: OffsetDateTime,
    settings: &Settings,
) -> OffsetDateTime {
    let pace = &settings.pace;
    let share = match row.reason {
        Reason::Spot | Reason::Shutdown => pace.urgent_share,
        Reason::Lifecycle
        | Reason::Rebalance
        | Reason::Maintenance
        | Reason::Pool
        | Reason::Operator => pace.share,
    };
    let since = since.max(row.requested_at);
    let span = |from, until: OffsetDateTime| Duration::try_from(until - from).unwrap_or_default();
    let whole = span(row.requested_at, row.deadline);
    let drained_by =
        row.requested_at + whole.mul_f64(1.0 - LEAVE_SHARE - settings.leave.flush_share);
    let left = span(since, drained_by).mul_f64(MOST_OF_DRAINING);
    let wait = whole.mul_f64(share).min(pace.longest).min(left);
    let latest = (since + wait).replace_nanosecond(0).unwrap_or(since);
    row.turn_by.map_or(latest, |by| by.min(latest))
}

/// Returns the turn of each waiting worker. `earlier` are the departures whose tasks other nodes may not run yet; `look`
/// is the services' condition now and before these, `None` if it is unknown.
pub(super) fn decide(
    mut waiting: Vec<Waiting>,
    earlier: &BTreeSet<Key>,
    look: Option<(&Look, &Baseline)>,
    now: OffsetDateTime,
) -> BTreeMap<Key, Turn> {
    waiting.sort_by(|a, b| {
        (a.latest, a.requested_at, &a.key).cmp(&(b.latest, b.requested_at, &b.key))
    });
    let wait = |until, after| Turn::Wait { until, after, turn_for: TurnFor::Others };
    let mut before = earlier.clone();
    let mut turns = BTreeMap::new();
    for it in waiting {
        let turn = match it.held {
            _ if it.latest <= now => Turn::Now,
            Some((until, after)) if now < until => wait(until, after),
            _ => match next(&before, look) {
                None => Turn::Now,
                Some(after) => wait(it.latest, after),
            },
        };
        if turn == Turn::Now {
            before.insert(it.key.clone());
        }
        turns.insert(it.key, turn);
    }
    turns
}

/// Returns what the next worker waits for, by the departures before it; `None` if it can be drained.
pub(super) fn next(before: &BTreeSet<Key>, look: Option<(&Look, &Baseline)>) -> Option<String> {
    if before.is_empty() {
        return None;
    }
    let nodes = before.iter().map(|key| key.node_id.clone()).collect();
    let why = match look {
        None => "the services' tasks are not known".to_owned(),
        Some((look, baseline)) => format!("service {}", look.worse_off(baseline, &nodes)?),
    };
    let names: Vec<&String> = before.iter().map(|key| &key.instance_id).collect();
    Some(format!("{} ({why})", some_of(&names)))
}
