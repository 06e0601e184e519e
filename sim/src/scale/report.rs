//! Reports a run in tables and as JSON, and compares it with the targets.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::phases::{Boot, Leave, Phase, Throttled};
use super::tally::{Count, METADATA, Tally};
use super::usage::Memory;
use crate::bench::report::{heading, print_table};
use crate::bench::stats::Spread;
use crate::stage::{Mark, Style};

/// How the numbers were measured, for readers who have only the report.
const METHOD: &str = "Real skep processes, each with an address and metadata of its own, in one network namespace. \
    One process plays all Docker engines at swarmkit's measured pace, and the AWS services under the limits of an \
    account. Calls are plain HTTP: the TLS of all nodes on one machine would measure the machine. All instances are \
    launched by Auto Scaling in the same moment; a time to Ready includes the machine's own lack of processors, which \
    real instances do not share: compare it with the saturation.";

/// A ratio of calls per node above this is a miss.
const INDEPENDENT: f64 = 1.2;
/// Calls per node that a difference must have to be one: at boot, and per hour.
const NEGLIGIBLE: [f64; 2] = [0.25, 2.0];
/// The longest round of the leader that is none too long, in seconds.
const LONGEST_ROUND: f64 = 2.0;

/// The measurements of one run.
#[derive(Debug)]
pub(super) struct Measured {
    pub(super) boot: Boot,
    pub(super) idle: Phase,
    pub(super) memory: Memory,
    /// Only of a whole run.
    pub(super) leave: Option<Leave>,
    pub(super) throttled: Option<Throttled>,
    pub(super) findings: Vec<String>,
}

/// The content of `report.json`.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) nodes: usize,
    pub(super) runs: Vec<StoreReport>,
    pub(super) method: &'static str,
    pub(super) skep: String,
}

/// The run with one token store.
#[derive(Debug, Serialize)]
pub(super) struct StoreReport {
    store: &'static str,
    ready_seconds: Option<Spread>,
    /// From the start of each process.
    ready_after_start_seconds: Option<Spread>,
    boot: Boot,
    idle: Phase,
    leave: Option<Leave>,
    throttled: Option<Throttled>,
    memory: Memory,
    calls_at_boot: Vec<Calls>,
    calls_per_idle_hour: Vec<Calls>,
    /// Number of instances of the smaller run with which calls are compared.
    compared_with: Option<usize>,
    reads_of_managers_per_minute: BTreeMap<String, Reads>,
    targets: Vec<Target>,
    /// What went wrong, in words.
    findings: Vec<String>,
}

/// Calls of one operation per node.
#[derive(Debug, Serialize)]
struct Calls {
    operation: String,
    per_worker: f64,
    per_manager: f64,
    /// Of all calls.
    throttled: f64,
    failed: usize,
    /// Per worker, against the smaller run.
    ratio: Option<f64>,
}

#[derive(Debug, Serialize)]
struct Reads {
    calls: f64,
    rows: f64,
    units: f64,
    rows_of_largest_answer: usize,
}

/// A target for a number.
#[derive(Debug, Serialize)]
struct Target {
    what: String,
    measured: f64,
    limit: f64,
    unit: &'static str,
    hit: bool,
}

impl Target {
    fn new(what: impl Into<String>, measured: f64, limit: f64, unit: &'static str) -> Self {
        Self { what: what.into(), measured, limit, unit, hit: measured <= limit }
    }

    fn line(&self, style: Style) -> String {
        let Target { what, measured, limit, unit, hit } = self;
        let (sign, mark) = if *hit { ("✓", Mark::Good) } else { ("✗", Mark::Bad) };
        let missed = if *hit { String::new() } else { format!(", missed by {}", self.excess()) };
        let sign = style.paint(mark, sign);
        format!("{sign} {what:<46} {measured:>8.2} {unit:<2} at most {limit} {unit}{missed}")
    }

    fn excess(&self) -> String {
        format!("{:.0} %", (self.measured - self.limit) / self.limit * 100.0)
    }
}

impl StoreReport {
    pub(super) fn new(
        store: &'static str,
        limit_seconds: f64,
        measured: Measured,
        small: Option<&Measured>,
    ) -> Self {
        let Measured { boot, idle, memory, leave, throttled, findings } = measured;
        let calls = |of: fn(&Measured) -> (Tally, f64), tally: &Tally, scale: f64, nodes: usize| {
            let small = small.map(|small| (of(small), workers(small.boot.nodes)));
            per_node(tally, scale, nodes, small.as_ref())
        };
        let at_boot = at_boot(&boot);
        let calls_at_boot =
            calls(|small| (self::at_boot(&small.boot), 1.0), &at_boot, 1.0, boot.nodes);
        let hour = 3600.0 / idle.seconds;
        let calls_per_idle_hour = calls(
            |small| (small.idle.calls.clone(), 3600.0 / small.idle.seconds),
            &idle.calls,
            hour,
            boot.nodes,
        );
        let mut targets = vec![Target::new(
            "all Ready",
            if boot.times.ready < boot.nodes {
                f64::INFINITY
            } else {
                boot.times.ready_after.last().copied().unwrap_or(f64::INFINITY)
            },
            limit_seconds,
            "s",
        )];
        let phases = [
            Some(("at boot", &boot.phase)),
            Some(("after the boot", &boot.settle)),
            Some(("while idle", &idle)),
            leave.as_ref().map(|leave| ("during departures", &leave.phase)),
        ];
        for (when, phase) in phases.into_iter().flatten() {
            if let Some(round) = &phase.longest_round {
                let what = format!("leader's longest round {when} ({})", round.duty);
                targets.push(Target::new(what, round.seconds, LONGEST_ROUND, "s"));
            }
        }
        for (when, calls) in [("at boot", &calls_at_boot), ("while idle", &calls_per_idle_hour)] {
            let mut ratios: Vec<(&str, f64)> =
                calls.iter().filter_map(|calls| Some((&*calls.operation, calls.ratio?))).collect();
            ratios.sort_by(|(_, a), (_, b)| b.total_cmp(a));
            // The worst one, and every other miss.
            let rest = |(n, (_, ratio)): &(usize, &(&str, f64))| *n == 0 || *ratio > INDEPENDENT;
            for (_, (operation, ratio)) in ratios.iter().enumerate().filter(rest) {
                let what = format!("calls per worker {when} ({operation})");
                targets.push(Target::new(what, *ratio, INDEPENDENT, "×"));
            }
        }
        let minutes = idle.seconds / 60.0;
        let reads = idle.calls.reads.iter().map(|(id, reads)| {
            let per_minute = Reads {
                calls: reads.calls as f64 / minutes,
                rows: reads.rows as f64 / minutes,
                units: reads.units / minutes,
                rows_of_largest_answer: reads.most_rows,
            };
            (id.clone(), per_minute)
        });
        let reads_of_managers_per_minute = reads.collect();
        Self {
            store,
            ready_seconds: Spread::of(boot.times.ready_after.iter().copied()),
            ready_after_start_seconds: Spread::of(boot.times.ready_after_start.iter().copied()),
            boot,
            idle,
            leave,
            throttled,
            memory,
            calls_at_boot,
            calls_per_idle_hour,
            compared_with: small.map(|small| small.boot.nodes),
            reads_of_managers_per_minute,
            targets,
            findings,
        }
    }

    /// Returns every missed target and every finding, in words.
    pub(super) fn misses(&self) -> Vec<String> {
        let missed = self.targets.iter().filter(|target| !target.hit);
        let missed = missed.map(|target| {
            let Target { what, measured, limit, unit, .. } = target;
            format!("{what}: {measured:.2} {unit}, the target is {limit} {unit}")
        });
        let of_store = |text: String| format!("{}: {text}", self.store);
        missed.chain(self.findings.iter().cloned()).map(of_store).collect()
    }

    pub(super) fn print(&self, style: Style) {
        self.print_times(style);
        self.print_calls(style);
        self.print_costs(style);
        heading(style, "targets");
        for target in &self.targets {
            println!("{}", target.line(style));
        }
        for finding in &self.findings {
            println!("{} {finding}", style.paint(Mark::Bad, "✗"));
        }
    }

    fn print_times(&self, style: Style) {
        let (boot, store) = (&self.boot, self.store);
        heading(style, &format!("{} instances, tokens.store = \"{store}\"", boot.nodes));
        let spread = |name: &str, spread: Option<&Spread>| {
            let seconds = |value: f64| format!("{value:.1} s");
            let of = |it: &Spread| [it.median, it.lower_quartile, it.upper_quartile, it.max];
            let values = spread.map(|it| of(it).map(seconds).to_vec());
            [vec![name.to_owned()], values.unwrap_or_default()].concat()
        };
        let heads = ["", "MEDIAN", "LOWER QU.", "UPPER QU.", "LAST"];
        let rows = [
            spread("launch until Ready", self.ready_seconds.as_ref()),
            spread("process start until Ready", self.ready_after_start_seconds.as_ref()),
        ];
        print_table(style, &heads, &rows);
        let after = |what: &str, seconds: Option<f64>| {
            let seconds = seconds.map_or("not all".to_owned(), |seconds| format!("{seconds:.1} s"));
            vec![what.to_owned(), seconds]
        };
        let mut rows = vec![
            after("last process started", Some(boot.times.last_started)),
            after("all launch hooks completed", boot.times.in_service_after),
            after("all nodes labelled", boot.times.labelled_after),
        ];
        if let Some(leave) = &self.leave {
            let leaving = leave.leaving;
            let what = format!("{leaving} departures: last off the node list");
            rows.push(after(&what, leave.off_the_list_after));
            let what = format!("{leaving} departures: last one terminated");
            rows.push(after(&what, leave.gone_after));
        }
        if let Some(throttled) = &self.throttled {
            rows.push(after("recovered from throttling after", throttled.recovered_after));
        }
        print_table(style, &["", ""], &rows);
    }

    fn print_calls(&self, style: Style) {
        for (title, calls) in [
            ("calls per node at boot", &self.calls_at_boot),
            ("calls per node and idle hour", &self.calls_per_idle_hour),
        ] {
            heading(style, title);
            let rows: Vec<Vec<String>> = calls
                .iter()
                .map(|calls| {
                    vec![
                        calls.operation.clone(),
                        format!("{:.2}", calls.per_worker),
                        format!("{:.2}", calls.per_manager),
                        format!("{:.0} %", calls.throttled * 100.0),
                        calls.failed.to_string(),
                        calls.ratio.map_or("–".to_owned(), |ratio| format!("{ratio:.2}")),
                    ]
                })
                .collect();
            let ratio = self.compared_with.map(|nodes| format!("OVER\n{nodes} NODES"));
            let ratio = ratio.unwrap_or_else(|| "OVER\nFEWER".to_owned());
            let heads = ["", "PER\nWORKER", "PER\nMANAGER", "THROTTLED", "FAILED", &ratio];
            print_table(style, &heads, &rows);
        }
        heading(style, "rows that managers read from the ledger, per idle minute");
        let rows: Vec<Vec<String>> = self
            .reads_of_managers_per_minute
            .iter()
            .map(|(id, reads)| {
                let numbers = [reads.calls, reads.rows, reads.units];
                let mut row = vec![id.clone()];
                row.extend(numbers.map(|number| format!("{number:.0}")));
                row.push(reads.rows_of_largest_answer.to_string());
                row
            })
            .collect();
        print_table(style, &["", "CALLS", "ROWS", "UNITS", "MOST ROWS\nOF A CALL"], &rows);
    }

    fn print_costs(&self, style: Style) {
        heading(style, "processor and memory");
        let nodes = self.boot.nodes as f64;
        let row = |name: &str, phase: &Phase| {
            let used = phase.processor;
            vec![
                name.to_owned(),
                format!("{:.1} s", phase.seconds),
                format!("{:.0} ms", used.skep / nodes * 1000.0),
                format!("{:.1} s", used.skep),
                format!("{:.1} s", used.cloud),
                format!("{:.1} s", used.engines),
                format!("{:.1} s", used.others()),
                format!("{:.0} %", phase.saturation * 100.0),
            ]
        };
        let mut rows = vec![
            row("boot until Ready", &self.boot.phase),
            row("hooks and labels", &self.boot.settle),
            row("idle", &self.idle),
        ];
        rows.extend(self.leave.as_ref().map(|leave| row("departures", &leave.phase)));
        rows.extend(self.throttled.as_ref().map(|it| row("throttling", &it.phase)));
        let heads = [
            "",
            "LASTED",
            "SKEP\nPER NODE",
            "ALL SKEPS",
            "CLOUD",
            "ENGINES",
            "OTHER\nWORK",
            "MACHINE\nBUSY",
        ];
        print_table(style, &heads, &rows);
        let Memory { processes, median_rss_mib, sum_pss_mib, sim_rss_mib } = self.memory;
        println!(
            "{processes} skep processes: median resident {median_rss_mib:.1} MiB, all together \
             {sum_pss_mib:.0} MiB (shared pages once); cloud and engines {sim_rss_mib:.0} MiB"
        );
    }
}

impl Report {
    pub(super) fn new(nodes: usize, runs: Vec<StoreReport>, skep: &std::path::Path) -> Self {
        Self { nodes, runs, method: METHOD, skep: skep.display().to_string() }
    }
}

/// Number of workers among so many instances.
fn workers(nodes: usize) -> usize {
    nodes.saturating_sub(3)
}

/// Returns the calls of a boot: all until the last node is Ready, and of the signals also later ones. What a node that
/// serves reads regularly is no part of it.
fn at_boot(boot: &Boot) -> Tally {
    let is_signal = |operation: &str| {
        ["autoscaling ", "cloudformation "].iter().any(|of| operation.starts_with(of))
    };
    let mut all = boot.phase.calls.clone();
    let Tally { workers, managers, .. } = &boot.settle.calls;
    for (all, later) in [(&mut all.workers, workers), (&mut all.managers, managers)] {
        for (operation, more) in later.iter().filter(|(operation, _)| is_signal(operation)) {
            all.entry(operation.clone()).or_default().add(*more);
        }
    }
    all
}

/// Returns the calls per node, most first. `scale` turns calls of the phase into those of the unit of time; 1 for a boot.
fn per_node(
    tally: &Tally,
    scale: f64,
    nodes: usize,
    small: Option<&((Tally, f64), usize)>,
) -> Vec<Calls> {
    let each = |count: Option<&Count>, nodes: usize, scale: f64| {
        count.map_or(0.0, |count| count.calls as f64) / nodes.max(1) as f64 * scale
    };
    let is_boot = scale == 1.0;
    let negligible = if is_boot { NEGLIGIBLE[0] } else { NEGLIGIBLE[1] };
    let operations: BTreeSet<&String> = tally.workers.keys().chain(tally.managers.keys()).collect();
    let mut all: Vec<Calls> = operations
        .into_iter()
        .map(|operation| {
            let (worker, manager) = (tally.workers.get(operation), tally.managers.get(operation));
            let per_worker = each(worker, workers(nodes), scale);
            // The metadata are polled for as long as a boot lasts.
            let is_comparable = !(is_boot && operation == METADATA);
            let ratio = small.filter(|_| is_comparable).map(|((small, scale), count)| {
                let before = each(small.workers.get(operation), *count, *scale);
                if per_worker - before <= negligible { 1.0 } else { per_worker / before }
            });
            let both = worker.into_iter().chain(manager);
            let (calls, throttled, failed) = both.fold((0, 0, 0), |sum, count| {
                (sum.0 + count.calls, sum.1 + count.throttled, sum.2 + count.failed)
            });
            Calls {
                operation: operation.clone(),
                per_worker,
                per_manager: each(manager, nodes - workers(nodes), scale),
                throttled: throttled as f64 / calls.max(1) as f64,
                failed,
                ratio,
            }
        })
        .collect();
    all.sort_by(|a, b| b.per_worker.total_cmp(&a.per_worker));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(calls: usize) -> Tally {
        let count = Count { calls, throttled: calls / 2, failed: 1 };
        let workers = BTreeMap::from([("ssm GetParameter".to_owned(), count)]);
        Tally { workers, ..Tally::default() }
    }

    #[test]
    fn calls_per_worker_are_compared_with_the_smaller_run() {
        let ratio = |calls: usize, small: usize| {
            let small = ((tally(small), 1.0), 100);
            per_node(&tally(calls), 1.0, 1003, Some(&small))[0].ratio.unwrap()
        };
        assert!((ratio(1000, 100) - 1.0).abs() < 1e-9, "one call each");
        assert!((ratio(3000, 100) - 3.0).abs() < 1e-9);
        assert!((ratio(1200, 100) - 1.0).abs() < 1e-9, "negligible");
        assert!(ratio(1000, 0).is_infinite(), "a kind of call that the smaller run had not");
        let calls = &per_node(&tally(1000), 1.0, 1003, None)[0];
        assert!(calls.ratio.is_none() && (calls.throttled - 0.5).abs() < 1e-9);
    }

    #[test]
    fn a_missed_target_is_named_with_its_excess() {
        let target = Target::new("all Ready", 45.0, 30.0, "s");
        assert!(!target.hit);
        let line = target.line(Style::of_stdout());
        assert!(line.contains("missed by 50 %"), "{line}");
        assert!(Target::new("all Ready", 30.0, 30.0, "s").hit);
    }
}
