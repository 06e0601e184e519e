//! Prints simulated fleets beside each other.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::super::store::Store;
use super::super::tally::Count;
use super::account::Calls;
use super::outcome::Outcome;
use super::world::MANAGERS;
use crate::bench::report::{heading, print_table};
use crate::cloud::Service;
use crate::stage::Style;

/// US dollars of a read unit on demand, in us-east-1 in 2025, and the hours of a month (`docs/deploy.md`, "What it costs").
const DOLLARS: f64 = 0.125e-6;
const HOURS: f64 = 730.0;

/// A fleet, and where its tokens were.
pub(super) struct Column {
    pub(super) store: Store,
    pub(super) outcome: Outcome,
}

/// A row: its name, and how a fleet's value is shown.
type Row = (&'static str, fn(&Outcome) -> String);

const FATES: [Row; 13] = [
    ("Ready: median", |it| seconds(median(&it.fates.ready))),
    ("Ready: last", |it| seconds(last(&it.fates.ready))),
    ("not Ready by boot.deadline", |it| it.fates.failed.len().to_string()),
    ("joins that Docker gave up", |it| it.fates.joins_given_up.to_string()),
    ("launch hooks: last completed", |it| seconds(last(&it.fates.in_service))),
    ("launch hooks timed out", |it| it.fates.timed_out.len().to_string()),
    ("labelled: last", |it| seconds(last(&it.fates.labelled))),
    ("calls throttled at boot", |it| percent(it.at_boot.throttled_share())),
    ("shared partition: most units/s", |it| format!("{:.0}", it.at_boot.most_shared())),
    ("nodes that leave at once", |it| it.leaving.to_string()),
    ("last off the node list", |it| since(it, last(&it.fates.off_the_list))),
    ("last termination hook ended", |it| since(it, last(&it.fates.gone))),
    ("termination hooks timed out", |it| it.fates.ended_by_hook.to_string()),
];

const IDLE: [Row; 8] = [
    ("read units per hour", |it| format!("{:.0}", units_an_hour(it))),
    ("US dollars a month for them", |it| format!("{:.0}", units_an_hour(it) * HOURS * DOLLARS)),
    ("shared partition: most units/s", |it| format!("{:.0}", it.idle.most_shared())),
    ("calls throttled", |it| percent(it.idle.throttled_share())),
    ("leader's poll: rows by key", |it| it.idle_polls.most_rows.to_string()),
    ("leader's poll: longest", |it| seconds(Some(it.idle_polls.longest))),
    ("the same while nodes leave", |it| seconds(Some(it.leave_polls.longest))),
    ("leader's time for node lists", |it| percent(it.leader_lists)),
];

/// Prints the fleets.
pub(super) fn print(style: Style, columns: &[Column], seed: u64, within: Duration) {
    let heads: Vec<String> = columns
        .iter()
        .map(|it| format!("{} nodes\n{}", it.outcome.nodes, it.store.as_str()))
        .collect();
    let heads: Vec<&str> = [""].into_iter().chain(heads.iter().map(String::as_str)).collect();
    let rows = |rows: &[Row]| -> Vec<Vec<String>> {
        let row = |(name, show): &Row| {
            let values = columns.iter().map(|it| show(&it.outcome));
            [(*name).to_owned()].into_iter().chain(values).collect()
        };
        rows.iter().map(row).collect()
    };
    let title = format!("simulated: all start within {} s, seed {seed}", within.as_secs());
    heading(style, &title);
    print_table(style, &heads, &rows(&FATES));
    heading(style, "calls per worker at boot");
    let operations: BTreeSet<(Service, &'static str)> =
        columns.iter().flat_map(|it| it.outcome.at_boot.workers.keys().copied()).collect();
    let calls: Vec<Vec<String>> = operations
        .into_iter()
        .map(|(service, action)| {
            let values = columns.iter().map(|it| {
                let each = per_worker(&it.outcome, &it.outcome.at_boot, (service, action));
                format!("{each:.2}")
            });
            [format!("{service} {action}")].into_iter().chain(values).collect()
        })
        .collect();
    print_table(style, &heads, &calls);
    heading(style, "idle");
    print_table(style, &heads, &rows(&IDLE));
}

/// Returns the calls of one operation that each worker makes.
pub(super) fn per_worker(
    outcome: &Outcome,
    calls: &Calls,
    operation: (Service, &'static str),
) -> f64 {
    let count = calls.workers.get(&operation).copied().unwrap_or_default();
    let Count { calls, .. } = count;
    calls as f64 / (outcome.nodes - MANAGERS) as f64
}

/// Returns the read units of an idle hour.
pub(super) fn units_an_hour(outcome: &Outcome) -> f64 {
    outcome.idle.read_units * 3600.0 / super::outcome::IDLE.as_secs_f64()
}

/// Returns the median of the times; `None` if there are none.
pub(super) fn median(times: &BTreeMap<usize, Duration>) -> Option<Duration> {
    let mut times: Vec<Duration> = times.values().copied().collect();
    times.sort();
    times.get(times.len() / 2).copied()
}

/// Returns the last of the times.
pub(super) fn last(times: &BTreeMap<usize, Duration>) -> Option<Duration> {
    times.values().copied().max()
}

fn since(outcome: &Outcome, time: Option<Duration>) -> String {
    seconds(time.map(|time| time.saturating_sub(outcome.left_at)))
}

fn seconds(time: Option<Duration>) -> String {
    time.map_or("–".to_owned(), |time| format!("{:.1} s", time.as_secs_f64()))
}

fn percent(share: f64) -> String {
    format!("{:.0} %", share * 100.0)
}
