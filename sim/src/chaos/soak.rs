//! Runs a fleet for a long time with a departure every minute, and checks that nothing grows on the nodes that stay.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use serde::Serialize;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::Arguments;
use super::perform::Performer;
use super::plan::Role;
use super::round::on_cluster;
use crate::demo::table::lay_out;
use crate::fleet::{Cost, Instance};
use crate::stage;

const DEPARTURE_EVERY: Duration = Duration::from_secs(60);
/// Number of departures between two samples of the nodes that stay.
const SAMPLE_EVERY: usize = 2;
/// Every third departure is a manager's.
const A_MANAGER_EVERY: usize = 3;
/// Time for the fleet to become whole after the last departure.
const SETTLE_LIMIT: Duration = Duration::from_secs(300);
/// Largest ratio of the last quarter's median to the second's. The first quarter does not count: it is the warm-up.
const GROWTH: f64 = 1.5;

/// Resource usage of a node that stays, at one moment.
#[derive(Clone, Debug, Serialize)]
struct Sample {
    minutes: f64,
    /// Name, such as `manager-1`.
    node: String,
    mib: f64,
    descriptors: f64,
    threads: f64,
    /// Lines of its log since the previous sample.
    log_lines: f64,
    /// Size of its state and runtime directories.
    kib_on_disk: f64,
    /// Number of rows of the whole ledger.
    rows: f64,
}

/// Lets nodes leave for this time, reports the figures, and checks that they do not grow.
///
/// # Errors
/// Names the figures that have grown, or the reason why the soak could not be played.
pub async fn run(arguments: &Arguments, length: Duration) -> anyhow::Result<()> {
    let seed = arguments.seed.unwrap_or(1);
    println!("a departure every minute for {}", humantime::format_duration(length));
    let mut samples = Vec::new();
    let played = stage::on_stage(arguments.options(seed)?, async |fleet| {
        on_cluster(fleet, arguments.tale(), async |stage| {
            soak(&stage.performer, length, &mut samples).await
        })
        .await
    })
    .await;
    stage::write_json(&arguments.out.join("soak.json"), &samples)?;
    report(&samples);
    played?;
    let grown = grown(&samples);
    if grown.is_empty() {
        println!("nothing has grown");
        return Ok(());
    }
    bail!("{}", grown.join("; "))
}

async fn soak(
    performer: &Performer<'_>,
    length: Duration,
    samples: &mut Vec<Sample>,
) -> anyhow::Result<()> {
    let begin = Instant::now();
    let oldest = |role| performer.instances(role).into_iter().next();
    let staying = [Role::Manager, Role::Worker].map(oldest);
    let staying: Vec<Arc<Instance>> = staying.into_iter().flatten().collect();
    let mut lines: Vec<usize> = staying.iter().map(|it| it.log().lines().count()).collect();
    let mut minutes = interval(DEPARTURE_EVERY);
    minutes.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for number in 1.. {
        minutes.tick().await;
        if begin.elapsed() >= length {
            break;
        }
        let role = if number % A_MANAGER_EVERY == 0 { Role::Manager } else { Role::Worker };
        // Never the oldest one, which stays.
        if let Some(leaving) = performer.instances(role).into_iter().skip(1).last() {
            performer.say(Some(leaving.id()), "terminated by way of its hooks");
            // Refused if the last departure of the role is unfinished.
            performer.fleet.cloud().terminate(leaving.id(), false).ok();
        }
        if number % SAMPLE_EVERY != 0 {
            continue;
        }
        let rows = performer.rows().all()?.len() as f64;
        for (instance, lines) in staying.iter().zip(&mut lines) {
            let sample = sample(performer, instance, begin.elapsed(), rows, lines)?;
            samples.push(sample);
        }
        if let Some(last) = samples.last() {
            println!("{:>5.0} min: {number} departures, {rows} rows", last.minutes);
        }
    }
    performer.heal().await?;
    performer.settle(SETTLE_LIMIT).await.map(drop)
}

fn sample(
    performer: &Performer<'_>,
    instance: &Instance,
    since: Duration,
    rows: f64,
    lines: &mut usize,
) -> anyhow::Result<Sample> {
    let node = performer.record.borrow().name(instance.id());
    let pid = instance.skep_pid().with_context(|| format!("skep of {node} does not run"))?;
    let cost = Cost::of(pid).with_context(|| format!("skep of {node} has ended"))?;
    let now = instance.log().lines().count();
    let more = now - std::mem::replace(lines, now);
    let kib = |name: &str| size(&instance.dir().join(name)) / 1024;
    Ok(Sample {
        minutes: since.as_secs_f64() / 60.0,
        node,
        mib: cost.mib,
        descriptors: cost.descriptors as f64,
        threads: cost.threads as f64,
        log_lines: more as f64,
        kib_on_disk: (kib("state") + kib("run")) as f64,
        rows,
    })
}

/// Total size in bytes of the files below a directory, without the event log: that grows for days up to 512 KiB, a
/// bound with a test of its own.
fn size(dir: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    let is_event_log = |entry: &std::fs::DirEntry| {
        let name = entry.file_name();
        name.to_string_lossy().starts_with("events.") && name.to_string_lossy().ends_with(".jsonl")
    };
    let entry_size = |entry: std::fs::DirEntry| match entry.metadata() {
        _ if is_event_log(&entry) => 0,
        Ok(metadata) if metadata.is_dir() => size(&entry.path()),
        Ok(metadata) => metadata.len(),
        Err(_) => 0,
    };
    entries.flatten().map(entry_size).sum()
}

/// The name of a figure, and the function that reads it from a sample.
type Figure = (&'static str, fn(&Sample) -> f64);

const FIGURES: [Figure; 6] = [
    ("MiB", |sample| sample.mib),
    ("descriptors", |sample| sample.descriptors),
    ("threads", |sample| sample.threads),
    ("log lines", |sample| sample.log_lines),
    ("KiB on disk", |sample| sample.kib_on_disk),
    ("rows", |sample| sample.rows),
];

/// By node and figure: the medians of the second and of the last quarter.
fn medians(samples: &[Sample]) -> Vec<(String, &'static str, f64, f64)> {
    let mut nodes: Vec<&str> = samples.iter().map(|sample| sample.node.as_str()).collect();
    nodes.sort_unstable();
    nodes.dedup();
    let mut found = Vec::new();
    for node in nodes {
        let of_node: Vec<&Sample> = samples.iter().filter(|it| it.node == node).collect();
        let quarter = of_node.len() / 4;
        if quarter == 0 {
            continue;
        }
        for (name, figure) in FIGURES {
            let median = |samples: &[&Sample]| {
                let mut all: Vec<f64> = samples.iter().map(|sample| figure(sample)).collect();
                all.sort_by(f64::total_cmp);
                all[all.len() / 2]
            };
            let (second, last) =
                (&of_node[quarter..2 * quarter], &of_node[of_node.len() - quarter..]);
            found.push((node.to_owned(), name, median(second), median(last)));
        }
    }
    found
}

/// The figures that are larger in the last quarter than in the second, by more than chance.
fn grown(samples: &[Sample]) -> Vec<String> {
    let medians = medians(samples).into_iter();
    medians
        .filter(|(_, _, before, after)| *after > before * GROWTH + 4.0)
        .map(|(node, name, before, after)| {
            format!("{node}: {name} has grown from {before:.0} to {after:.0}")
        })
        .collect()
}

fn report(samples: &[Sample]) {
    let rows: Vec<Vec<String>> = medians(samples)
        .into_iter()
        .map(|(node, name, before, after)| {
            vec![node, name.to_owned(), format!("{before:.1}"), format!("{after:.1}")]
        })
        .collect();
    let (head, body) = lay_out(&["NODE", "FIGURE", "SECOND\nQUARTER", "LAST\nQUARTER"], &rows);
    for line in head.iter().chain(&body) {
        println!("{line}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(mib: impl Fn(usize) -> f64) -> Vec<Sample> {
        let sample = |number: usize| Sample {
            minutes: number as f64,
            node: "manager-1".to_owned(),
            mib: mib(number),
            descriptors: 30.0,
            threads: 4.0,
            log_lines: 10.0,
            kib_on_disk: 12.0,
            rows: 20.0,
        };
        (0..20).map(sample).collect()
    }

    #[test]
    fn the_event_log_is_not_counted() -> anyhow::Result<()> {
        let dir = tempfile::tempdir()?;
        std::fs::create_dir(dir.path().join("ship"))?;
        for (name, bytes) in
            [("events.jsonl", 9000), ("events.1.jsonl", 900), ("was-ready.json", 90), ("ship/b", 9)]
        {
            std::fs::write(dir.path().join(name), vec![0; bytes])?;
        }
        assert_eq!(size(dir.path()), 99);
        Ok(())
    }

    #[test]
    fn what_grows_is_named() {
        assert!(grown(&samples(|_| 20.0)).is_empty());
        assert!(grown(&samples(|number| if number == 12 { 90.0 } else { 20.0 })).is_empty());
        let leak = grown(&samples(|number| 20.0 + 3.0 * number as f64));
        assert_eq!(leak, ["manager-1: MiB has grown from 41 to 71"]);
    }
}
