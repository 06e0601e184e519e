//! `skep-sim demo`: a swarm boots behind a load balancer, loses a worker, its leader and a spot instance, has all its
//! workers replaced, and must lose nothing else, nor a request; then its tasks change the size of a group. Events are printed as they happen, and judged at the end.
//!
//! [`story`] plays the parts. Meanwhile [`client`] sends requests, and [`crate::witness`] records the state of the
//! daemons, the charter and the cloud; [`verdict`] judges the record.

mod follow_tasks;
mod story;
pub(crate) mod table;
mod user_data;
mod verdict;

use std::cell::RefCell;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::bail;
use bollard::models::Task;
use clap::Args;
use serde_json::json;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::cloud::{ClusterBalancer, HealthCheck, Market};
use crate::fleet::workload::HEALTH_PATH;
use crate::fleet::{ClusterSpec, Fleet, FleetOptions, PowerOff, SHUTDOWN};
use crate::stage::{self, Mark, Style};
use crate::witness::client::{self, Counts, Requests};
use crate::witness::record::{NodeRecord, Record};
use crate::witness::tale::Tale;
use crate::witness::{Witness, listen, single};
use story::Story;
use verdict::Check;

const MANAGERS: u32 = 3;
const WORKERS: u32 = 3;
/// Port of the load balancer.
const LISTENER: u16 = 80;
/// The template's deregistration delay is 30 s; the demo's longest request takes 2 s.
const DEREGISTRATION: Duration = Duration::from_secs(5);
/// The load balancer does not look at skep's port: the service's own answers it.
const CONFIG: &str =
    "[leave]\nlinger = \"0s\"\n[capacity]\ncloudwatch = true\n[protection]\nenabled = true\n";
const CHECK_EVERY: Duration = Duration::from_secs(2);

#[derive(Debug, Args)]
pub struct Arguments {
    /// The skep binary [default: the one beside this program]
    #[arg(long, value_name = "FILE")]
    skep: Option<PathBuf>,
    /// Directory for timeline.json
    #[arg(long, value_name = "DIRECTORY", default_value_os_t = stage::output_dir("demo"))]
    out: PathBuf,
    /// Play the same story with a UserData script in place of skep: nothing is checked, and the table shows what was lost
    #[arg(long)]
    without_skep: bool,
    /// Seed of ids
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Plays the demo.
///
/// # Errors
/// Names the checks that did not hold, or the part that did not finish in time.
pub async fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let is_scripted = arguments.without_skep;
    let skep =
        if is_scripted { None } else { Some(stage::skep_binary(arguments.skep.as_deref())?) };
    let options = FleetOptions {
        skep,
        seed: arguments.seed,
        config: Some(CONFIG.to_owned()),
        // EC2 shuts a machine down before it cuts the power. With skep, a cut must do no harm.
        power_off: if is_scripted { PowerOff::Clean(SHUTDOWN) } else { PowerOff::Cut },
        ..FleetOptions::default()
    };
    let style = Style::of_stdout();
    let record = RefCell::new(Record::new(Tale::aloud(style)));
    stage::on_stage(options, async |fleet| {
        println!("A local cloud on this machine; the logs are in {}", fleet.dir().display());
        let requests = Counts::default();
        let played = play(fleet, &record, &requests, is_scripted).await;
        let (record, requests) = (record.borrow(), requests.now());
        let checks = verdict::judge(&record, &requests, is_scripted);
        report(&record, &requests, &checks, style);
        let file = arguments.out.join("timeline.json");
        let failure = played.as_ref().err();
        stage::write_json(&file, &document(&record, &requests, &checks, fleet, failure))?;
        println!("\nThe same as JSON: {}", file.display());
        let judged: &[Check] = if is_scripted { &[] } else { &checks };
        conclude(played, judged)
    })
    .await
}

/// Plays the story while the witness watches and the client sends requests.
async fn play(
    fleet: &Fleet,
    record: &RefCell<Record>,
    requests: &Counts,
    is_scripted: bool,
) -> anyhow::Result<()> {
    let cluster = &ClusterSpec {
        workers_market: Market::Spot,
        hooks: !is_scripted,
        load_balancer: Some(balancer()),
        ..ClusterSpec::new("demo", MANAGERS, WORKERS)
    };
    // Subscribed before the first instance, so that no event is missed.
    let (cloud, instances) = (fleet.cloud().subscribe(), fleet.subscribe());
    let witness = Witness { fleet, cluster, record };
    let (start, stop) = (CancellationToken::new(), CancellationToken::new());
    let serves = start.clone();
    let story = Story { fleet, cluster, record, requests: requests.clone(), serves, is_scripted };
    let (counts, end) = (requests.clone(), stop.clone());
    let saw = |tasks: &[Task]| record.borrow_mut().single.saw(tasks, Instant::now());
    let listener = fleet.listener(LISTENER);
    let client = async move {
        start.cancelled().await;
        client::run(listener, counts, end.cancelled_owned()).await;
    };
    let played = async {
        let played = story.play().await;
        stop.cancel();
        played
    };
    let played = async { tokio::try_join!(played, fleet.run_inside(client)).map(drop) };
    let scripts = async {
        match is_scripted {
            true => user_data::run(fleet, cluster, record).await,
            false => std::future::pending().await,
        }
    };
    tokio::select! {
        played = played => played,
        broken = scripts => match broken? {},
        never = witness.watch() => match never {},
        never = single::watch(fleet, story::SINGLE, saw) => match never {},
        broken = listen::listen(record, cloud, instances) => match broken? {},
    }
}

/// Returns the load balancer, which checks the port that it sends requests to.
fn balancer() -> ClusterBalancer {
    let check = HealthCheck::http(HEALTH_PATH).every(CHECK_EVERY).thresholds(2, 2);
    let mut balancer = ClusterBalancer::new(&[(LISTENER, story::FRONT_PORT)]);
    balancer.health_check = check;
    balancer.attributes.deregistration_delay = DEREGISTRATION;
    balancer
}

fn report(record: &Record, requests: &Requests, checks: &[Check], style: Style) {
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
    let heads = ["REQUESTS\nSENT", "ANSWERED", "FAILED", "LONGEST GAP\nWITHOUT AN ANSWER"];
    let gap = format!("{:.2} s", requests.longest_gap);
    let counts = [requests.sent, requests.answered, requests.failed].map(|it| it.to_string());
    let (head, body) = table::lay_out(&heads, &[[counts.as_slice(), &[gap]].concat()]);
    for line in head {
        println!("{}", style.paint(Mark::Faint, &line));
    }
    println!("{}\n", body.join("\n"));
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
    requests: &Requests,
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
        "requests": requests,
        "single": record.single,
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
