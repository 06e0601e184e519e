//! Reports the measurements of the bench, and compares them with the targets.

use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use super::boot::Variant;
use super::departures::{Departures, Lost};
use super::idle::Idle;
use super::stats::Spread;
use crate::demo::table::lay_out;
use crate::stage::{Mark, Style};

/// How each number was measured, for readers who have only the report.
const METHOD: &str = "One worker boots in turn with skep, by a bare Docker API join and by the \
    script, from the start of the process (of the API call) until a manager lists it ready, asked \
    every 5 ms. Its dockerd is up throughout; after each boot the node leaves, is removed from the \
    node list and the ledger, skep's state is emptied, and the pause before the next boot is random \
    over the 100 ms in which a manager collects who is ready. Ratios are of medians. Idle numbers are \
    the worse of a worker and the leading manager.";

/// All measurements.
#[derive(Debug)]
pub struct Measured {
    /// By [`Variant::ALL`], one per round.
    pub boots: [Vec<Duration>; 3],
    pub notices: Vec<Duration>,
    pub worker: Idle,
    pub manager: Idle,
    pub leader: Idle,
    pub idle_seconds: u64,
    pub binary_bytes: u64,
}

/// The content of `report.json`.
#[derive(Debug, Serialize)]
pub struct Report {
    pub boot_over_bare_join: f64,
    pub script_over_boot: f64,
    pub idle_rss_mib: f64,
    pub idle_cpu_percent: f64,
    pub aws_calls_per_worker_hour: f64,
    pub aws_calls_per_leader_hour: f64,
    pub binary_bytes: u64,
    pub notice_to_drain_seconds: Spread,
    pub rounds: usize,
    pub boot_seconds: Boots,
    pub idle_seconds: u64,
    pub worker: Idle,
    pub manager: Idle,
    pub leader: Idle,
    pub departures: Departures,
    pub targets: Vec<Target>,
    pub skep: String,
    pub method: &'static str,
}

#[derive(Debug, Serialize)]
pub struct Boots {
    pub skep: Spread,
    pub bare_join: Spread,
    pub script: Spread,
}

/// A target for a number.
#[derive(Debug, Serialize)]
pub struct Target {
    pub what: &'static str,
    pub measured: f64,
    pub limit: f64,
    /// Whether the limit is a minimum.
    pub at_least: bool,
    pub hit: bool,
    pub unit: &'static str,
}

impl Target {
    fn at_most(what: &'static str, measured: f64, limit: f64, unit: &'static str) -> Target {
        Target { what, measured, limit, at_least: false, hit: measured <= limit, unit }
    }

    fn at_least(what: &'static str, measured: f64, limit: f64, unit: &'static str) -> Target {
        Target { what, measured, limit, at_least: true, hit: measured >= limit, unit }
    }

    fn line(&self, style: Style) -> String {
        let Target { what, measured, limit, unit, .. } = self;
        let relation = if self.at_least { "at least" } else { "at most" };
        let (sign, mark) = if self.hit { ("✓", Mark::Good) } else { ("✗", Mark::Bad) };
        let missed = format!(", missed by {:.0} %", ((measured - limit) / limit * 100.0).abs());
        format!(
            "{} {what:<32} {measured:>7.2} {unit:<4} {relation} {limit} {unit}{}",
            style.paint(mark, sign),
            if self.hit { "" } else { &missed }
        )
    }
}

impl Report {
    /// Makes the report; `None` if a measurement is missing.
    pub fn new(measured: &Measured, departures: Departures, skep: &Path) -> Option<Report> {
        let Measured { boots, notices, worker, manager, leader, .. } = measured;
        let [skep_boot, bare_join, script] = boots.each_ref().map(|times| Spread::of_times(times));
        let (skep_boot, bare_join, script) = (skep_boot?, bare_join?, script?);
        let boot_over_bare_join = skep_boot.median / bare_join.median;
        let script_over_boot = script.median / skep_boot.median;
        let idle_rss_mib = worker.rss_mib.median.max(leader.rss_mib.median);
        let idle_cpu_percent = worker.cpu_percent.max(leader.cpu_percent);
        let megabytes = measured.binary_bytes as f64 / 1e6;
        let targets = vec![
            Target::at_most("worker boot over a bare join", boot_over_bare_join, 1.5, "×"),
            Target::at_least("the script over a worker boot", script_over_boot, 8.0, "×"),
            Target::at_most("resident while idle", idle_rss_mib, 16.0, "MiB"),
            Target::at_most("CPU while idle", idle_cpu_percent, 0.2, "%"),
            Target::at_most("binary", megabytes, 13.0, "MB"),
        ];
        Some(Report {
            boot_over_bare_join,
            script_over_boot,
            idle_rss_mib,
            idle_cpu_percent,
            aws_calls_per_worker_hour: worker.aws_calls_per_hour,
            aws_calls_per_leader_hour: leader.aws_calls_per_hour,
            binary_bytes: measured.binary_bytes,
            notice_to_drain_seconds: Spread::of_times(notices)?,
            rounds: skep_boot.count,
            boot_seconds: Boots { skep: skep_boot, bare_join, script },
            idle_seconds: measured.idle_seconds,
            worker: worker.clone(),
            manager: manager.clone(),
            leader: leader.clone(),
            departures,
            targets,
            skep: skep.display().to_string(),
            method: METHOD,
        })
    }

    pub fn print(&self, style: Style) {
        let bare = self.boot_seconds.bare_join.median;
        let row = |name: &str, spread: &Spread| {
            let milliseconds = |seconds: f64| format!("{:.0} ms", seconds * 1000.0);
            let times = [
                spread.median,
                spread.lower_quartile,
                spread.upper_quartile,
                spread.min,
                spread.max,
            ];
            std::iter::once(name.to_owned())
                .chain(times.map(milliseconds))
                .chain([format!("{:.2}", spread.median / bare)])
                .collect()
        };
        let Boots { skep, bare_join, script } = &self.boot_seconds;
        let boots = [
            row(Variant::Skep.name(), skep),
            row(Variant::BareJoin.name(), bare_join),
            row(Variant::Script.name(), script),
        ];
        heading(
            style,
            &format!("worker boot until a manager lists it ready, {} rounds", self.rounds),
        );
        print_table(
            style,
            &["", "MEDIAN", "LOWER QU.", "UPPER QU.", "MIN", "MAX", "OVER BARE"],
            &boots,
        );
        heading(style, "notice until a manager lists it as draining");
        let notice = row("lifecycle notice", &self.notice_to_drain_seconds);
        let heads = ["", "MEDIAN", "LOWER QU.", "UPPER QU.", "MIN", "MAX"];
        print_table(style, &heads, &[notice[..heads.len()].to_vec()]);
        heading(style, &format!("idle for {} s", self.idle_seconds));
        let idle = [
            idle_row("worker", &self.worker),
            idle_row("manager", &self.manager),
            idle_row("leader", &self.leader),
        ];
        print_table(
            style,
            &[
                "",
                "RESIDENT",
                "CPU",
                "AWS CALLS\nAT BOOT",
                "WHILE\nIDLE",
                "AWS CALLS\nPER HOUR",
                "LEDGER READS\nPER HOUR",
                "READ UNITS\nPER HOUR",
                "DOCKER CALLS\nPER HOUR",
                "METADATA\nPER HOUR",
            ],
            &idle,
        );
        self.print_departures(style);
        heading(style, "targets");
        for target in &self.targets {
            println!("{}", target.line(style));
        }
    }
}

impl Report {
    fn print_departures(&self, style: Style) {
        let Departures { traffic_first, drained_at_once, replicas, leave_at_once, .. } =
            &self.departures;
        heading(style, "requests lost by spot notices behind a load balancer");
        let row = |name: &str, lost: &Lost| {
            let each = format!("{:.1}", lost.lost_per_departure);
            let counts =
                [lost.departures.to_string(), lost.sent.to_string(), lost.lost.to_string()];
            [&[name.to_owned()], counts.as_slice(), &[each]].concat()
        };
        let rows = [row("traffic first", traffic_first), row("drained at once", drained_at_once)];
        print_table(style, &["", "DEPARTURES", "REQUESTS", "LOST", "PER DEPARTURE"], &rows);
        heading(
            style,
            &format!(
                "fewest of {replicas} running replicas while {leave_at_once} workers leave at once"
            ),
        );
        let fewest = |name: &str, count: usize| vec![name.to_owned(), count.to_string()];
        let rows = [
            fewest("paced", self.departures.fewest_running_paced),
            fewest("all at once", self.departures.fewest_running_unpaced),
        ];
        print_table(style, &["", "REPLICAS"], &rows);
        heading(style, "seconds without a task of one replica while its worker leaves");
        let gap = |name: &str, gap: f64| vec![name.to_owned(), format!("{gap:.1}")];
        let rows = [
            gap("skep.drain=start-first", self.departures.gap_start_first),
            gap("plain", self.departures.gap_plain),
        ];
        print_table(style, &["", "SECONDS"], &rows);
    }
}

fn idle_row(name: &str, idle: &Idle) -> Vec<String> {
    vec![
        name.to_owned(),
        format!("{:.1} MiB", idle.rss_mib.median),
        format!("{:.2} %", idle.cpu_percent),
        idle.aws_calls_at_boot.to_string(),
        idle.aws_calls_while_idle.to_string(),
        format!("{:.0}", idle.aws_calls_per_hour),
        format!("{:.0}", idle.ledger_reads_per_hour),
        format!("{:.0}", idle.ledger_read_units_per_hour),
        format!("{:.0}", idle.docker_calls_per_hour),
        format!("{:.0}", idle.metadata_requests_per_hour),
    ]
}

fn heading(style: Style, what: &str) {
    println!("\n{}", style.paint(Mark::Heading, &format!("── {what} ──")));
}

fn print_table(style: Style, heads: &[&str], rows: &[Vec<String>]) {
    let (head, body) = lay_out(heads, rows);
    for line in head {
        println!("{}", style.paint(Mark::Faint, &line));
    }
    for line in body {
        println!("{line}");
    }
}
