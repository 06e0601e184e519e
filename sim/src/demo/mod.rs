//! `skep-sim demo`: a swarm boots, loses a worker, its leader and a spot instance, and must lose nothing else. Events
//! are printed as they happen, and judged at the end.
//!
//! [`story`] plays the parts, [`crate::witness`] records the state of the daemons, the charter and the cloud
//! meanwhile, and [`verdict`] judges the record.

mod story;
pub(crate) mod table;
mod verdict;

use std::cell::RefCell;
use std::path::PathBuf;

use anyhow::bail;
use clap::Args;
use serde_json::json;

use crate::cloud::Market;
use crate::fleet::{ClusterSpec, Fleet, FleetOptions};
use crate::stage::{self, Mark, Style};
use crate::witness::record::{NodeRecord, Record};
use crate::witness::tale::Tale;
use crate::witness::{Witness, listen};
use story::Story;
use verdict::Check;

const MANAGERS: u32 = 3;
const WORKERS: u32 = 2;

#[derive(Debug, Args)]
pub struct Arguments {
    /// The skep binary [default: the one beside this program]
    #[arg(long, value_name = "FILE")]
    skep: Option<PathBuf>,
    /// Directory for timeline.json
    #[arg(long, value_name = "DIRECTORY", default_value_os_t = stage::output_dir("demo"))]
    out: PathBuf,
    /// Seed of ids
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Plays the demo.
///
/// # Errors
/// Names the checks that did not hold, or the part that did not finish in time.
pub async fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let options = FleetOptions {
        skep: Some(stage::skep_binary(arguments.skep.as_deref())?),
        seed: arguments.seed,
        ..FleetOptions::default()
    };
    let style = Style::of_stdout();
    let record = RefCell::new(Record::new(Tale::aloud(style)));
    stage::on_stage(options, async |fleet| {
        println!("A local cloud on this machine; the logs are in {}", fleet.dir().display());
        let played = play(fleet, &record).await;
        let record = record.borrow();
        let checks = verdict::judge(&record);
        report(&record, &checks, style);
        let file = arguments.out.join("timeline.json");
        stage::write_json(&file, &document(&record, &checks, fleet, played.as_ref().err()))?;
        println!("\nThe same as JSON: {}", file.display());
        conclude(played, &checks)
    })
    .await
}

/// Plays the story while the witness watches.
async fn play(fleet: &Fleet, record: &RefCell<Record>) -> anyhow::Result<()> {
    let cluster = &ClusterSpec {
        workers_market: Market::Spot,
        ..ClusterSpec::new("demo", MANAGERS, WORKERS)
    };
    // Subscribed before the first instance, so that no event is missed.
    let (cloud, instances) = (fleet.cloud().subscribe(), fleet.subscribe());
    let witness = Witness { fleet, cluster, record };
    let story = Story { fleet, cluster, record };
    tokio::select! {
        played = story.play() => played,
        never = witness.watch() => match never {},
        broken = listen::listen(record, cloud, instances) => match broken? {},
    }
}

fn report(record: &Record, checks: &[Check], style: Style) {
    let heads = [
        "NODE",
        "INSTANCE",
        "LEAVES",
        "BOOT →\nREADY",
        "NOTICE →\nDRAINED",
        "NOTICE →\nCOMPLETED",
        "TASKS WITH\nGRACE",
        "WITHOUT\nGRACE",
        "HOOKS\nCOMPLETED",
        "TIMED\nOUT",
    ];
    let rows: Vec<Vec<String>> = record.nodes.iter().map(row).collect();
    println!();
    let (head, body) = table::lay_out(&heads, &rows);
    for line in head {
        println!("{}", style.paint(Mark::Faint, &line));
    }
    for line in body {
        println!("{line}");
    }
    println!(
        "\nA spot interruption waits for no hook: there, completed means off the node list.\n"
    );
    for check in checks {
        let (sign, mark) = if check.holds { ("✓", Mark::Good) } else { ("✗", Mark::Bad) };
        println!("{} {}", style.paint(mark, sign), check.says);
    }
}

fn row(node: &NodeRecord) -> Vec<String> {
    let since = |from: Option<f64>, to: Option<f64>| match (from, to) {
        (Some(from), Some(to)) => format!("{:.1} s", to - from),
        _ => "–".to_owned(),
    };
    vec![
        node.name.clone(),
        node.instance.clone(),
        node.reason.unwrap_or("–").to_owned(),
        since(Some(node.launched), node.ready),
        since(node.noticed, node.drained),
        since(node.noticed, node.completed),
        node.tasks.with_grace.to_string(),
        (node.tasks.without_grace + node.tasks.failed).to_string(),
        node.hooks_completed.to_string(),
        node.hooks_timed_out.to_string(),
    ]
}

fn document(
    record: &Record,
    checks: &[Check],
    fleet: &Fleet,
    failure: Option<&anyhow::Error>,
) -> serde_json::Value {
    json!({
        "started_at": record.started.unix_timestamp(),
        "seconds": record.now(),
        "ok": failure.is_none() && checks.iter().all(|check| check.holds),
        "failure": failure.map(|error| format!("{error:#}")),
        "checks": checks,
        "nodes": record.nodes,
        "timeline": record.tale.lines,
        "logs": fleet.dir(),
    })
}

/// Returns an error that names all problems, if there are any.
fn conclude(played: anyhow::Result<()>, checks: &[Check]) -> anyhow::Result<()> {
    let broken = checks.iter().filter(|check| !check.holds).map(|check| check.says.clone());
    let stuck = played.err().map(|error| format!("{error:#}"));
    let problems: Vec<String> = broken.chain(stuck).collect();
    if problems.is_empty() {
        return Ok(());
    }
    bail!("{}", problems.join("\n       "))
}
