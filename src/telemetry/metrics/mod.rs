//! What Prometheus is told: one set of metrics for the process, like the log; `GET /metrics` on the health
//! port shows it.
//!
//! Guarantees: a name never changes its meaning; labels take few values, and none is an id, an address
//! or anything secret; counting costs no I/O and cannot fail. `docs/monitoring.md` lists every name, and
//! a test compares.
//!
//! Every series has the label `cluster` once this node knows it, so that several clusters can be in one
//! Prometheus.
//!
//! Assumption: whoever asks knows from the scrape which node it was. A node that has gone cannot be
//! asked any more: what came of it is in the managers' `skep_removals_total`.

mod aws_calls;
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

/// From a round trip to a departure that lasts as long as its hook lets it.
const STEP_SECONDS: [f64; 12] =
    [0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 900.0, 1800.0];

type Labels<const N: usize> = [(&'static str, &'static str); N];
/// Where a value is no constant of skep's: what it calls, or a flusher's name.
type Texts = Vec<(&'static str, String)>;
type Counters<const N: usize> = Family<Labels<N>, Counter>;
/// Not shown before it is known, nor when it holds no more.
type Known = Family<Labels<0>, Gauge<f64, std::sync::atomic::AtomicU64>>;
type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;

static METRICS: LazyLock<Metrics> = LazyLock::new(Metrics::new);

/// This process's own.
#[must_use]
pub fn metrics() -> &'static Metrics {
    &METRICS
}

/// Everything that is counted and measured.
#[derive(Debug)]
pub struct Metrics {
    phase: Family<Labels<1>, Gauge>,
    in_trouble: Gauge,
    step: Histograms<Labels<1>>,
    noticed: Known,
    deadline: Known,
    departures: Counters<2>,
    removals: Counters<2>,
    calls: Family<Texts, Counter>,
    throttles: Counters<1>,
    heartbeats: Counters<1>,
    tasks_drained: Counter,
    tasks_killed: Counter,
    flushes: Family<Texts, Counter>,
    lines: Family<Texts, Counter>,
    quorum_margin: Known,
    quorum_managers: Known,
    quorum_lost: Known,
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
            calls: Family::default(),
            throttles: Family::default(),
            heartbeats: Family::default(),
            tasks_drained: Counter::default(),
            tasks_killed: Counter::default(),
            flushes: Family::default(),
            lines: Family::default(),
            quorum_margin: Known::default(),
            quorum_managers: Known::default(),
            quorum_lost: Known::default(),
            ledger_age: Known::default(),
            ledger_answered: Mutex::default(),
            hooks: Family::default(),
            webhooks: Family::default(),
        };
        metrics.begin_at_zero();
        metrics
    }

    /// A series that appears with its first event hides that event from `rate()` and `increase()`.
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

    /// A request to AWS, or an attempt of one, has ended.
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

    /// A heartbeat has been answered: one of [`HEARTBEAT_RESULTS`].
    pub fn heartbeat(&self, result: &'static str) {
        self.heartbeats.get_or_create(&[("result", result)]).inc();
    }

    /// So many of this node's tasks have ended while it was leaving.
    pub fn tasks_drained(&self, tasks: usize) {
        self.tasks_drained.inc_by(tasks as u64);
    }

    /// So many of this node's tasks were killed without their grace in a departure.
    pub fn tasks_killed(&self, tasks: usize) {
        self.tasks_killed.inc_by(tasks as u64);
    }

    /// A flusher has ended; lines where it can tell.
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

    /// This node's own departure has ended.
    pub fn departure(&self, cause: &'static str, outcome: &'static str) {
        self.departures.get_or_create(&[("cause", cause), ("outcome", outcome)]).inc();
    }

    /// This manager has taken a node off the list: one of [`CAUSES`] and of [`REMOVALS`].
    pub fn removal(&self, cause: &'static str, outcome: &'static str) {
        self.removals.get_or_create(&[("cause", cause), ("outcome", outcome)]).inc();
    }

    /// How many managers may be lost, -1 where there is no leader, and how many there are; `None` where that
    /// is not known, as on a node that is none.
    pub fn quorum(&self, may_be_lost: Option<f64>, managers: Option<usize>) {
        show(&self.quorum_margin, may_be_lost);
        show(&self.quorum_managers, managers.map(|managers| managers as f64));
    }

    /// An executable in `hooks.d` has ended.
    pub fn hook_run(&self, event: &'static str, result: &'static str) {
        self.hooks.get_or_create(&[("event", event), ("result", result)]).inc();
    }

    /// An event has been told to the webhook, or has not.
    pub fn webhook_delivery(&self, event: &'static str, result: &'static str) {
        self.webhooks.get_or_create(&[("event", event), ("result", result)]).inc();
    }

    fn step(&self, step: &'static str, took: Duration) {
        self.step.get_or_create(&[("step", step)]).observe(took.as_secs_f64());
    }

    /// What is read off rather than counted.
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
        let answered = *self.ledger_answered.lock().unwrap_or_else(PoisonError::into_inner);
        show(&self.ledger_age, answered.map(|at| at.elapsed().as_secs_f64()));
    }
}

/// What comes of a heartbeat.
pub const HEARTBEAT_RESULTS: [&str; 3] = ["recorded", "no_active_action", "failed"];
/// How a hook script ends.
pub const HOOK_RESULTS: [&str; 3] = ["ok", "failed", "timed_out"];
/// How the delivery of an event to the webhook ends.
pub const DELIVERY_RESULTS: [&str; 2] = ["delivered", "given_up"];
/// Why a node goes that a manager takes off the list; `none` where it never said.
pub const CAUSES: [&str; 8] =
    ["lifecycle", "spot", "rebalance", "maintenance", "shutdown", "operator", "pool", "none"];
/// How it went: it has left by itself, the managers stood in for its dead skep, its deadline came
/// first, or it was found dead.
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
