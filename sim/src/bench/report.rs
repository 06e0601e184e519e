//! Reports the measurements of the bench, and compares them with the targets.

use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use super::boot::Variant;
use super::departures::{Departures, Lost};
use super::idle::Idle;
use super::leave::Leaves;
use super::notice::Notices;
use super::stats::Spread;
use super::targets::Target;
use crate::demo::table::lay_out;
use crate::stage::{Mark, Style};

/// How each number was measured, for readers who have only the report.
const METHOD: &str = "One worker boots in turn with skep over HTTP and over TLS, by a bare Docker API \
    join and by the script, from the start of the process (of the API call) until a manager lists it \
    ready, asked every 5 ms. Its dockerd is up throughout; after each boot the node leaves, is removed \
    from the node list and the ledger, skep's state is emptied, and the pause before the next boot is \
    random over the 100 ms in which a manager collects who is ready. Ratios are of medians. The same \
    worker, with a task that stops at once, leaves in turn by `skep leave` and by Docker's own calls, \
    until a manager no longer lists it; the number is the difference of medians. A notice is timed from \
    Auto Scaling's termination. Everything but the boots over HTTP is over TLS with certificate checks. \
    Resident memory is the worse of a worker and the leader.";

/// All measurements; those that were not wanted are missing.
#[derive(Debug, Default)]
pub struct Measured {
    /// By [`Variant::ALL`], one per round; none for the script, the last one, if it was not wanted.
    pub boots: Option<[Vec<Duration>; 4]>,
    pub leaves: Option<Leaves>,
    pub idle: Option<IdleNodes>,
    pub notices: Option<Notices>,
    pub departures: Option<Departures>,
    pub binary_bytes: u64,
}

/// The idle nodes of a swarm of five.
#[derive(Clone, Debug, Serialize)]
pub struct IdleNodes {
    pub idle_seconds: u64,
    pub worker: Idle,
    pub manager: Idle,
    pub leader: Idle,
}

/// The content of `report.json`. What was not measured is `null`.
#[derive(Debug, Serialize)]
pub struct Report {
    pub boots: Option<Boots>,
    pub leaves: Option<LeaveTimes>,
    pub notices: Option<NoticeTimes>,
    pub idle: Option<IdleNodes>,
    pub departures: Option<Departures>,
    pub binary_bytes: u64,
    pub targets: Vec<Target>,
    pub skep: String,
    pub method: &'static str,
}

/// The boots of one worker.
#[derive(Debug, Serialize)]
pub struct Boots {
    pub rounds: usize,
    pub http_over_bare_join: f64,
    pub tls_over_bare_join: f64,
    /// Both over TLS.
    pub script_over_boot: Option<f64>,
    pub seconds: BootTimes,
}

/// Seconds until a manager lists the worker as ready.
#[derive(Debug, Serialize)]
pub struct BootTimes {
    pub skep_http: Spread,
    pub skep_tls: Spread,
    pub bare_join: Spread,
    pub script_tls: Option<Spread>,
}

/// Seconds until a manager no longer lists a worker that leaves.
#[derive(Debug, Serialize)]
pub struct LeaveTimes {
    pub beyond_docker_seconds: f64,
    pub skep_seconds: Spread,
    pub docker_seconds: Spread,
}

/// Seconds from a notice until a manager lists the node so.
#[derive(Debug, Serialize)]
pub struct NoticeTimes {
    /// As held back from new tasks.
    pub held_seconds: Spread,
    pub drain_seconds: Spread,
}

impl Boots {
    /// Returns `None` if another series than the script's is empty.
    fn new(times: &[Vec<Duration>; 4]) -> Option<Boots> {
        let [skep_http, skep_tls, bare_join, script_tls] =
            times.each_ref().map(|times| Spread::of_times(times));
        let (skep_http, skep_tls, bare_join) = (skep_http?, skep_tls?, bare_join?);
        Some(Boots {
            rounds: skep_tls.count,
            http_over_bare_join: skep_http.median / bare_join.median,
            tls_over_bare_join: skep_tls.median / bare_join.median,
            script_over_boot: script_tls.map(|script| script.median / skep_tls.median),
            seconds: BootTimes { skep_http, skep_tls, bare_join, script_tls },
        })
    }

    fn targets(&self) -> Vec<Target> {
        let (http, tls) = (self.http_over_bare_join, self.tls_over_bare_join);
        let boots = [
            Target::at_most("worker boot over a bare join, HTTP", http, 1.25, "×"),
            Target::at_most("worker boot over a bare join, TLS", tls, 1.6, "×"),
        ];
        let script = self
            .script_over_boot
            .map(|script| Target::at_least("script over a worker boot, TLS", script, 12.0, "×"));
        boots.into_iter().chain(script).collect()
    }
}

impl LeaveTimes {
    fn new(leaves: &Leaves) -> Option<LeaveTimes> {
        let (skep_seconds, docker_seconds) =
            (Spread::of_times(&leaves.skep)?, Spread::of_times(&leaves.docker)?);
        let beyond_docker_seconds = skep_seconds.median - docker_seconds.median;
        Some(LeaveTimes { beyond_docker_seconds, skep_seconds, docker_seconds })
    }

    fn target(&self) -> Target {
        let beyond = self.beyond_docker_seconds;
        Target::at_most("leave beyond Docker's own drain and leave", beyond, 0.5, "s")
    }
}

impl NoticeTimes {
    fn new(notices: &Notices) -> Option<NoticeTimes> {
        Some(NoticeTimes {
            held_seconds: Spread::of_times(&notices.held)?,
            drain_seconds: Spread::of_times(&notices.drained)?,
        })
    }

    fn target(&self) -> Target {
        let held = self.held_seconds.median;
        Target::at_most("notice until held back from new tasks", held, 2.0, "s")
    }
}

impl IdleNodes {
    fn targets(&self) -> [Target; 5] {
        let IdleNodes { worker, leader, .. } = self;
        let resident = worker.rss_mib.median.max(leader.rss_mib.median);
        let (worker_calls, leader_calls) = (worker.aws_calls_per_hour, leader.aws_calls_per_hour);
        [
            Target::at_most("resident while idle", resident, 10.0, "MiB"),
            Target::at_most("CPU of an idle worker", worker.cpu_percent, 0.03, "%"),
            Target::at_most("CPU of the idle leader of 5 nodes", leader.cpu_percent, 0.1, "%"),
            Target::at_most("AWS calls of a worker", worker_calls, 60.0, "/h"),
            Target::at_most("AWS calls of the leader of 5 nodes", leader_calls, 2000.0, "/h"),
        ]
    }
}

impl Report {
    /// Makes the report; `None` if a measurement has no values.
    pub fn new(measured: Measured, skep: &Path) -> Option<Report> {
        let Measured { boots, leaves, idle, notices, departures, binary_bytes } = measured;
        let boots = if let Some(times) = &boots { Some(Boots::new(times)?) } else { None };
        let leaves = if let Some(times) = &leaves { Some(LeaveTimes::new(times)?) } else { None };
        let notices =
            if let Some(times) = &notices { Some(NoticeTimes::new(times)?) } else { None };
        let megabytes = binary_bytes as f64 / 1e6;
        let mut targets = Vec::new();
        targets.extend(boots.iter().flat_map(Boots::targets));
        targets.extend(notices.as_ref().map(NoticeTimes::target));
        targets.extend(leaves.as_ref().map(LeaveTimes::target));
        targets.extend(idle.iter().flat_map(IdleNodes::targets));
        targets.push(Target::at_most("binary", megabytes, 10.0, "MB"));
        Some(Report {
            boots,
            leaves,
            notices,
            idle,
            departures,
            binary_bytes,
            targets,
            skep: skep.display().to_string(),
            method: METHOD,
        })
    }

    pub fn print(&self, style: Style) {
        if let Some(boots) = &self.boots {
            boots.print(style);
        }
        if let Some(leaves) = &self.leaves {
            leaves.print(style);
        }
        if let Some(idle) = &self.idle {
            idle.print(style);
        }
        if let Some(notices) = &self.notices {
            notices.print(style);
        }
        if let Some(departures) = &self.departures {
            departures.print(style);
        }
        heading(style, "targets");
        for target in &self.targets {
            println!("{}", target.line(style));
        }
    }
}

impl Boots {
    fn print(&self, style: Style) {
        let BootTimes { skep_http, skep_tls, bare_join, script_tls } = &self.seconds;
        let spreads = [skep_http, skep_tls, bare_join].into_iter().chain(script_tls);
        let rows = Variant::ALL.iter().zip(spreads).map(|(variant, spread)| {
            let over = format!("{:.2}", spread.median / bare_join.median);
            [times(variant.name(), spread), vec![over]].concat()
        });
        let rows: Vec<_> = rows.collect();
        heading(
            style,
            &format!("worker boot until a manager lists it ready, {} rounds", self.rounds),
        );
        print_table(style, &[&SPREAD[..], &["OVER BARE"]].concat(), &rows);
    }
}

impl LeaveTimes {
    fn print(&self, style: Style) {
        let rows = [
            times("skep leave", &self.skep_seconds),
            times("drain, leave, rm", &self.docker_seconds),
        ];
        heading(style, "a worker with a task leaves, until a manager no longer lists it");
        print_table(style, &SPREAD, &rows);
    }
}

impl NoticeTimes {
    fn print(&self, style: Style) {
        let rows =
            [times("no new tasks", &self.held_seconds), times("drained", &self.drain_seconds)];
        heading(style, "lifecycle notice until a manager lists the worker so");
        print_table(style, &SPREAD, &rows);
    }
}

impl IdleNodes {
    fn print(&self, style: Style) {
        heading(style, &format!("idle for {} s", self.idle_seconds));
        let rows = [
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
            &rows,
        );
    }
}

impl Departures {
    fn print(&self, style: Style) {
        let Departures { traffic_first, drained_at_once, replicas, leave_at_once, .. } = self;
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
            fewest("paced", self.fewest_running_paced),
            fewest("all at once", self.fewest_running_unpaced),
        ];
        print_table(style, &["", "REPLICAS"], &rows);
        heading(style, "seconds without a task of one replica while its worker leaves");
        let gap = |name: &str, gap: f64| vec![name.to_owned(), format!("{gap:.1}")];
        let rows =
            [gap("skep.drain=start-first", self.gap_start_first), gap("plain", self.gap_plain)];
        print_table(style, &["", "SECONDS"], &rows);
    }
}

/// The heads of [`times`].
const SPREAD: [&str; 6] = ["", "MEDIAN", "LOWER QU.", "UPPER QU.", "MIN", "MAX"];

fn times(name: &str, spread: &Spread) -> Vec<String> {
    let Spread { min, lower_quartile, median, upper_quartile, max, .. } = *spread;
    let times = [median, lower_quartile, upper_quartile, min, max];
    let milliseconds = |seconds: f64| format!("{:.0} ms", seconds * 1000.0);
    std::iter::once(name.to_owned()).chain(times.map(milliseconds)).collect()
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

pub(crate) fn heading(style: Style, what: &str) {
    println!("\n{}", style.paint(Mark::Heading, &format!("── {what} ──")));
}

pub(crate) fn print_table(style: Style, heads: &[&str], rows: &[Vec<String>]) {
    let (head, body) = lay_out(heads, rows);
    for line in head {
        println!("{}", style.paint(Mark::Faint, &line));
    }
    for line in body {
        println!("{line}");
    }
}

#[cfg(test)]
mod tests {
    use super::super::targets::judge;
    use super::*;

    fn series(milliseconds: u64) -> Vec<Duration> {
        [milliseconds - 10, milliseconds, milliseconds + 10].map(Duration::from_millis).to_vec()
    }

    fn idle(mib: f64, cpu_percent: f64, calls: f64) -> Idle {
        Idle {
            rss_mib: Spread::of([mib]).unwrap(),
            cpu_percent,
            aws_calls_at_boot: 9,
            aws_calls_while_idle: 3,
            ledger_reads_per_hour: 1.0,
            ledger_read_units_per_hour: 0.5,
            docker_calls_per_hour: 100.0,
            aws_calls_per_hour: calls,
            metadata_requests_per_hour: 1800.0,
        }
    }

    /// Numbers that hit each target.
    fn fast() -> Measured {
        Measured {
            boots: Some([series(120), series(150), series(100), series(1800)]),
            leaves: Some(Leaves { skep: series(900), docker: series(500) }),
            idle: Some(IdleNodes {
                idle_seconds: 300,
                worker: idle(9.0, 0.02, 50.0),
                manager: idle(90.0, 9.0, 9000.0),
                leader: idle(9.5, 0.09, 1900.0),
            }),
            notices: Some(Notices { held: series(1900), drained: series(9000) }),
            departures: None,
            binary_bytes: 9_900_000,
        }
    }

    fn judged(measured: Measured) -> anyhow::Result<usize> {
        let report = Report::new(measured, Path::new("skep")).unwrap();
        judge(&report.targets).map(|()| report.targets.len())
    }

    #[test]
    fn every_number_has_a_target_that_it_can_miss() {
        assert_eq!(judged(fast()).unwrap(), 11);
        type Worsen = fn(&mut Measured);
        let worse: [(&str, Worsen); 11] = [
            ("bare join, HTTP", |it| it.boots.as_mut().unwrap()[0] = series(126)),
            ("bare join, TLS", |it| {
                let boots = it.boots.as_mut().unwrap();
                (boots[1], boots[3]) = (series(161), series(9000));
            }),
            ("script over", |it| it.boots.as_mut().unwrap()[3] = series(1790)),
            ("held back", |it| it.notices.as_mut().unwrap().held = series(2001)),
            ("leave beyond", |it| it.leaves.as_mut().unwrap().skep = series(1001)),
            ("resident", |it| it.idle.as_mut().unwrap().worker.rss_mib.median = 10.1),
            ("idle worker", |it| it.idle.as_mut().unwrap().worker.cpu_percent = 0.031),
            ("idle leader", |it| it.idle.as_mut().unwrap().leader.cpu_percent = 0.11),
            ("calls of a worker", |it| it.idle.as_mut().unwrap().worker.aws_calls_per_hour = 61.0),
            ("calls of the leader", |it| {
                it.idle.as_mut().unwrap().leader.aws_calls_per_hour = 2001.0;
            }),
            ("binary", |it| it.binary_bytes = 10_000_001),
        ];
        for (what, worsen) in worse {
            let mut measured = fast();
            worsen(&mut measured);
            let text = judged(measured).unwrap_err().to_string();
            let lines: Vec<&str> = text.lines().collect();
            assert_eq!(lines.len(), 2, "{what}: {text}");
            assert_eq!(lines[0], "1 of 11 targets are missed", "{what}");
            assert!(lines[1].contains(what), "{what}: {text}");
        }
    }

    #[test]
    fn a_part_that_was_not_wanted_has_no_target_and_is_null() {
        let mut measured = Measured { boots: fast().boots, binary_bytes: 1, ..Measured::default() };
        measured.boots.as_mut().unwrap()[3].clear();
        let report = Report::new(measured, Path::new("skep")).unwrap();
        assert_eq!(report.targets.len(), 3);
        let json = serde_json::to_value(&report).unwrap();
        assert!(json["idle"].is_null() && json["leaves"].is_null(), "{json}");
        assert!(json["boots"]["script_over_boot"].is_null(), "{json}");
        assert_eq!(json["boots"]["rounds"], 3);
        assert_eq!(json["targets"][0]["hit"], true);
        report.print(Style::of_stdout());
    }

    #[test]
    fn a_part_without_values_is_no_report() {
        let measured = Measured { leaves: Some(Leaves::default()), ..Measured::default() };
        assert!(Report::new(measured, Path::new("skep")).is_none());
    }
}
