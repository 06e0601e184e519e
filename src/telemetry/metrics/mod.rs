//! Counts and measures for Prometheus: one set of metrics for the process; `GET /metrics` on the health port shows it.
//!
//! Guarantees: a name never changes its meaning; labels have few values, and no value is an id, an address or a secret;
//! counting does no I/O and cannot fail. `docs/monitoring.md` lists every name, and a test compares.
//!
//! Every series has the label `cluster` once this node knows its cluster, so that one Prometheus can scrape several
//! clusters.
//!
//! Assumes that Prometheus adds the name of the node to each series. A node that has left cannot be scraped: its result
//! is in the managers' `skep_removals_total`.

mod aws_calls;
mod capacity;
mod expose;
mod registry;
mod steps;
#[cfg(test)]
mod tests;

use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use tokio::time::Instant;

use crate::common::event::Event;
use crate::common::state::{NodeState, Phase};

pub use expose::page;
pub use steps::Stopwatch;

/// Buckets from a round trip to a departure that lasts as long as its hook allows.
const STEP_SECONDS: [f64; 12] =
    [0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 900.0, 1800.0];

type Labels<const N: usize> = [(&'static str, &'static str); N];
/// Labels with values that are not constants of skep, such as an AWS operation or a flusher's name.
type Texts = Vec<(&'static str, String)>;
type Counters<const N: usize> = Family<Labels<N>, Counter>;
/// A gauge that is only shown while its value is known.
type Known = Family<Labels<0>, Gauge<f64, std::sync::atomic::AtomicU64>>;
/// Times since 1970, in seconds.
type Timestamps = Family<Labels<1>, Gauge<f64, std::sync::atomic::AtomicU64>>;
type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;

static METRICS: LazyLock<Metrics> = LazyLock::new(Metrics::new);

/// Returns the metrics of this process.
#[must_use]
pub fn metrics() -> &'static Metrics {
    &METRICS
}

/// All metrics.
#[derive(Debug)]
pub struct Metrics {
    phase: Family<Labels<1>, Gauge>,
    in_trouble: Gauge,
    step: Histograms<Labels<1>>,
    noticed: Known,
    deadline: Known,
    departures: Counters<2>,
    removals: Counters<2>,
    /// On managers only.
    waiting: Family<Labels<1>, Gauge>,
    calls: Family<Texts, Counter>,
    docker_calls: Counters<2>,
    throttles: Counters<1>,
    heartbeats: Counters<1>,
    tasks_drained: Counter,
    tasks_killed: Counter,
    flushes: Family<Texts, Counter>,
    lines: Family<Texts, Counter>,
    capacity: capacity::Capacity,
    quorum_margin: Known,
    quorum_managers: Known,
    quorum_lost: Known,
    duty_succeeded: Timestamps,
    duty_failed: Timestamps,
    duty_longest: Timestamps,
    ledger_age: Known,
    ledger_answered: Mutex<Option<Instant>>,
    hooks: Counters<2>,
    webhooks: Counters<2>,
}

impl Metrics {
    fn new() -> Self {
        let metrics = Self {
            phase: Family::default(),
            in_trouble: Gauge::default(),
            step: Histograms::new_with_constructor(steps as fn() -> _),
            noticed: Known::default(),
            deadline: Known::default(),
            departures: Family::default(),
            removals: Family::default(),
            waiting: Family::default(),
            calls: Family::default(),
            docker_calls: Family::default(),
            throttles: Family::default(),
            heartbeats: Family::default(),
            tasks_drained: Counter::default(),
            tasks_killed: Counter::default(),
            flushes: Family::default(),
            lines: Family::default(),
            capacity: capacity::Capacity::default(),
            quorum_margin: Known::default(),
            quorum_managers: Known::default(),
            quorum_lost: Known::default(),
            duty_succeeded: Timestamps::default(),
            duty_failed: Timestamps::default(),
            duty_longest: Timestamps::default(),
            ledger_age: Known::default(),
            ledger_answered: Mutex::default(),
            hooks: Family::default(),
            webhooks: Family::default(),
        };
        metrics.begin_at_zero();
        metrics
    }

    /// Creates series with the value 0: a series that appears with its first event hides that event from `rate()` and
    /// `increase()`.
    fn begin_at_zero(&self) {
        for service in aws_calls::SERVICES {
            drop(self.throttles.get_or_create(&[("service", service)]));
        }
        for result in HEARTBEAT_RESULTS {
            drop(self.heartbeats.get_or_create(&[("result", result)]));
        }
        for event in Event::ALL {
            for result in HOOK_RESULTS {
                drop(self.hooks.get_or_create(&[("event", event.as_str()), ("result", result)]));
            }
            for result in DELIVERY_RESULTS {
                drop(self.webhooks.get_or_create(&[("event", event.as_str()), ("result", result)]));
            }
        }
        for cause in CAUSES {
            for outcome in REMOVALS {
                drop(self.removals.get_or_create(&[("cause", cause), ("outcome", outcome)]));
            }
        }
    }

    /// Keeps the time of a poll of a duty if none has taken longer.
    pub fn duty_polled(&self, duty: &'static str, took: Duration) {
        let longest = self.duty_longest.get_or_create_owned(&[("duty", duty)]);
        longest.set(longest.get().max(took.as_secs_f64()));
    }

    /// Counts a request to AWS, or an attempt of one.
    pub fn aws_call(&self, service: &'static str, operation: &str, result: &'static str) {
        let labels = [("service", service), ("operation", operation), ("result", result)];
        let labels = labels.map(|(name, value)| (name, value.to_owned())).into();
        self.calls.get_or_create(&labels).inc();
        if result == aws_calls::THROTTLED {
            self.throttles.get_or_create(&[("service", service)]).inc();
        }
        if service == aws_calls::LEDGER && aws_calls::is_answer(result) {
            let mut answered = self.ledger_answered.lock().unwrap_or_else(PoisonError::into_inner);
            *answered = Some(Instant::now());
        }
    }

    /// Counts a request to Docker.
    pub fn docker_call(&self, operation: &'static str, is_answered: bool) {
        let result = if is_answered { "ok" } else { "failed" };
        self.docker_calls.get_or_create(&[("operation", operation), ("result", result)]).inc();
    }

    /// Counts a heartbeat with one of [`HEARTBEAT_RESULTS`].
    pub fn heartbeat(&self, result: &'static str) {
        self.heartbeats.get_or_create(&[("result", result)]).inc();
    }

    /// Counts tasks of this node that have ended while it was leaving.
    pub fn tasks_drained(&self, tasks: usize) {
        self.tasks_drained.inc_by(tasks as u64);
    }

    /// Counts tasks of this node that were killed without their grace in a departure.
    pub fn tasks_killed(&self, tasks: usize) {
        self.tasks_killed.inc_by(tasks as u64);
    }

    /// Counts a run of a flusher, and its lines if it reports them.
    pub fn flushed(&self, flusher: &str, result: &str, sent: Option<u64>, unsent: Option<u64>) {
        let labels =
            |result: &str| vec![("flusher", flusher.to_owned()), ("result", result.to_owned())];
        self.flushes.get_or_create(&labels(result)).inc();
        for (result, lines) in [("sent", sent), ("unsent", unsent)] {
            if let Some(lines) = lines {
                self.lines.get_or_create(&labels(result)).inc_by(lines);
            }
        }
    }

    /// Counts a departure of this node that has ended.
    pub fn departure(&self, cause: &'static str, outcome: &'static str) {
        self.departures.get_or_create(&[("cause", cause), ("outcome", outcome)]).inc();
    }

    /// Counts a node that this manager has removed from the node list, with one of [`CAUSES`] and of [`REMOVALS`].
    pub fn removal(&self, cause: &'static str, outcome: &'static str) {
        self.removals.get_or_create(&[("cause", cause), ("outcome", outcome)]).inc();
    }

    /// Sets the number of nodes that wait for the end of their traffic, and for their turn to be drained; `None` if
    /// unknown, as on a worker.
    pub fn departures_waiting(&self, counts: Option<(usize, usize)>) {
        let Some((traffic, turn)) = counts else {
            self.waiting.clear();
            return;
        };
        for (what, count) in [("traffic", traffic), ("turn", turn)] {
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            self.waiting.get_or_create_owned(&[("for", what)]).set(count);
        }
    }

    /// Sets the number of managers that the swarm can lose, -1 without a leader, and the number of all managers; `None`
    /// if unknown, as on a worker.
    pub fn quorum(&self, may_be_lost: Option<f64>, managers: Option<usize>) {
        show(&self.quorum_margin, may_be_lost);
        show(&self.quorum_managers, managers.map(|managers| managers as f64));
    }

    /// Counts a run of a hook script.
    pub fn hook_script_run(&self, event: &'static str, result: &'static str) {
        self.hooks.get_or_create(&[("event", event), ("result", result)]).inc();
    }

    /// Counts the delivery of an event to the webhook.
    pub fn webhook_delivery(&self, event: &'static str, result: &'static str) {
        self.webhooks.get_or_create(&[("event", event), ("result", result)]).inc();
    }

    fn step(&self, step: &'static str, took: Duration) {
        self.step.get_or_create(&[("step", step)]).observe(took.as_secs_f64());
    }

    /// Updates the gauges from the state.
    fn read_off(&self, state: &NodeState) {
        for phase in Phase::ALL {
            let gauge = self.phase.get_or_create_owned(&[("phase", phase.as_str())]);
            gauge.set(i64::from(phase == state.phase));
        }
        self.in_trouble.set(i64::from(state.trouble.is_some()));
        let departure = state.departure.as_ref();
        let unix = |at: time::OffsetDateTime| at.unix_timestamp() as f64;
        show(&self.noticed, departure.map(|departure| unix(departure.noticed_at)));
        show(&self.deadline, departure.map(|departure| unix(departure.deadline)));
        show(&self.quorum_lost, state.quorum_lost_since.map(unix));
        self.duty_succeeded.clear();
        self.duty_failed.clear();
        for (duty, report) in &state.duties {
            let failed = report.last_failure.as_ref().map(|failure| failure.at);
            for (gauge, at) in
                [(&self.duty_succeeded, report.last_success), (&self.duty_failed, failed)]
            {
                if let Some(at) = at {
                    gauge.get_or_create(&[("duty", *duty)]).set(unix(at));
                }
            }
        }
        let answered = *self.ledger_answered.lock().unwrap_or_else(PoisonError::into_inner);
        show(&self.ledger_age, answered.map(|at| at.elapsed().as_secs_f64()));
    }
}

/// Results of a heartbeat.
pub const HEARTBEAT_RESULTS: [&str; 3] = ["recorded", "no_active_action", "failed"];
/// Results of a hook script.
pub const HOOK_RESULTS: [&str; 3] = ["ok", "failed", "timed_out"];
/// Results of the delivery of an event to the webhook.
pub const DELIVERY_RESULTS: [&str; 2] = ["delivered", "given_up"];
/// Reasons of nodes that a manager removes from the node list; `none` if the node recorded no departure.
pub const CAUSES: [&str; 8] =
    ["lifecycle", "spot", "rebalance", "maintenance", "shutdown", "operator", "pool", "none"];
/// Outcomes of such a node: it has left by itself, managers carried out its departure for its dead skep, its deadline
/// passed first, or it was found dead.
pub const REMOVALS: [&str; 4] = ["left", "stood_in", "too_late", "dead"];

fn steps() -> Histogram {
    Histogram::new(STEP_SECONDS)
}

fn show(known: &Known, value: Option<f64>) {
    match value {
        Some(value) => drop(known.get_or_create_owned(&[]).set(value)),
        None => known.clear(),
    }
}
