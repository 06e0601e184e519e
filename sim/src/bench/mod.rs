//! `skep-sim bench`: measures the cost of skep, beside the alternatives without it.
//!
//! Guarantee: all variants of a boot run on the same instance, in turns, within one run, and are
//! timed in the same way, by a manager's node list. Assumption: nothing else uses the machine; other load
//! increases the spread.

mod boot;
mod departures;
mod idle;
mod leave;
mod notice;
pub(crate) mod report;
pub(crate) mod stats;
mod targets;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use tokio::time::sleep;

use crate::fleet::{ClusterSpec, DockerStart, Fleet, FleetOptions, Restart, SYSTEM_PATH};
use crate::stage;
use boot::{Boots, Variant};
use idle::Subject;
use report::{IdleNodes, Measured, Report};

/// As many as in a typical swarm; fewer managers would answer faster.
const MANAGERS: u32 = 3;
/// With the managers, the five nodes of the leader whose cost has a target. One of them boots and leaves repeatedly.
const WORKERS: u32 = 2;
/// Number of workers whose notice is measured, and of departures of each kind.
const DEPARTURES: u32 = 8;
/// Timeout of the first boots, on two cores that may be busy.
const LIMIT: Duration = Duration::from_secs(90);
/// Time until a node is idle: after Ready, it still sends signals and frees memory.
const BECOMES_IDLE: Duration = Duration::from_secs(5);

#[derive(Debug, Args)]
pub struct Arguments {
    /// The skep binary; use a release build for valid numbers [default: the one beside this
    /// program]
    #[arg(long, value_name = "FILE")]
    skep: Option<PathBuf>,
    /// Measure only these parts, such as boot,idle
    #[arg(long, value_name = "PARTS", value_delimiter = ',', default_values_t = Part::ALL, hide_default_value = true)]
    only: Vec<Part>,
    /// Number of boots of each kind
    #[arg(long, default_value_t = 25, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    // The slowest duties that call AWS all day run once in one or two minutes, so two minutes would do if the calls
    // were strictly periodic. They are not: a call more or less in five minutes is 12 calls an hour, of the 60 of a
    // worker. And the kernel counts CPU time in 10 ms, a third of a worker's in two minutes. What runs every ten
    // minutes or more rarely adds at most 6 calls an hour for each such duty.
    /// Seconds of the idle measurement; numbers per hour are less exact after fewer
    #[arg(long, value_name = "SECONDS", default_value_t = 300, value_parser = clap::value_parser!(u64).range(2..))]
    idle: u64,
    /// The aws command line that the script uses [default: .venv/bin/aws]
    #[arg(long, env = "AWS_CLI", value_name = "FILE")]
    aws: Option<PathBuf>,
    /// Directory for report.json
    #[arg(long, value_name = "DIRECTORY", default_value_os_t = stage::output_dir("bench"))]
    out: PathBuf,
}

/// A part of the bench that can be measured alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// Boots of a worker with skep, and by a bare join
    Boot,
    /// The same, and by a script, which takes half of the time
    Script,
    /// Departures of a worker with skep, and by Docker's own calls
    Leave,
    /// The cost of idle nodes
    Idle,
    /// The time from a notice until the node gets no new tasks
    Notice,
    /// Requests and replicas that departures cost, with skep's waits and without
    Departures,
}

impl Part {
    const ALL: [Part; 6] =
        [Part::Boot, Part::Script, Part::Leave, Part::Idle, Part::Notice, Part::Departures];
}

impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.to_possible_value().as_ref().map_or("", |value| value.get_name()))
    }
}

impl Arguments {
    fn wants(&self, part: Part) -> bool {
        self.only.contains(&part)
    }
}

/// Measures, prints and writes the report, and compares it with the targets.
///
/// # Errors
/// When something could not be measured, and when a target is missed.
pub async fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let skep = stage::skep_binary(arguments.skep.as_deref())?;
    let aws = match arguments.wants(Part::Script) {
        true => script_prerequisites(arguments.aws.as_deref())?,
        false => PathBuf::new(),
    };
    let options = FleetOptions {
        skep: Some(skep.clone()),
        restart: Restart::Never,
        docker_start: DockerStart::BeforeSkep,
        tls: true,
        ..FleetOptions::default()
    };
    let mut measured = Measured::default();
    if arguments.only.iter().any(|part| *part != Part::Departures) {
        measured =
            stage::on_stage(options, async |fleet| measure(fleet, arguments, aws).await).await?;
    }
    measured.binary_bytes = std::fs::metadata(&skep)?.len();
    if arguments.wants(Part::Departures) {
        measured.departures = Some(departures::measure(&skep).await?);
    }
    let report = Report::new(measured, &skep).context("nothing was measured")?;
    report.print(stage::Style::of_stdout());
    let file = arguments.out.join("report.json");
    stage::write_json(&file, &report)?;
    println!("\nThe same as JSON: {}", file.display());
    targets::judge(&report.targets)
}

async fn measure(fleet: &Fleet, arguments: &Arguments, aws: PathBuf) -> anyhow::Result<Measured> {
    let cluster = &ClusterSpec::new("bench", MANAGERS, WORKERS);
    println!("{MANAGERS} managers and {WORKERS} workers boot");
    create(fleet, cluster).await?;
    let leader = fleet.leader().await?;
    let since_launch = fleet.cloud().started_at();
    let managers = fleet.group(&cluster.managers_group());
    let follower = managers.into_iter().find(|one| one.id() != leader.id());
    let follower = follower.context("no second manager")?;
    let [follower_calls, leader_calls] = [&follower, &leader]
        .map(|manager| idle::aws_calls(fleet.cloud(), manager.id(), since_launch));
    let worker = fleet.group(&cluster.workers_group()).pop().context("no worker")?;
    let manager = leader.wait_docker().await?;
    let tokens = manager.inspect_swarm().await?.join_tokens.context("no join tokens")?;
    let boots = Boots {
        fleet,
        cluster,
        worker_docker: worker.wait_docker().await?,
        worker,
        manager_address: format!("{}:2377", leader.address()),
        worker_token: tokens.worker.context("no worker token")?,
        manager,
        aws,
    };
    boots.undo().await?;
    let mut measured = Measured::default();
    if arguments.wants(Part::Boot) || arguments.wants(Part::Script) {
        let mut variants = Variant::ALL.to_vec();
        variants.retain(|variant| *variant != Variant::Script || arguments.wants(Part::Script));
        measured.boots = Some(take_turns(&boots, &variants, arguments.rounds).await?);
    }
    if arguments.wants(Part::Leave) {
        println!("{DEPARTURES} times, the worker leaves with skep, and with Docker's own calls");
        measured.leaves = Some(leave::measure(&boots, DEPARTURES).await?);
    }
    if arguments.wants(Part::Idle) || arguments.wants(Part::Notice) {
        let booted_at = fleet.cloud().now();
        boots.worker.speak_tls(true);
        boots.boot_with_skep().await?;
        sleep(BECOMES_IDLE).await;
        let worker_calls = idle::aws_calls(fleet.cloud(), boots.worker.id(), booted_at);
        let subjects = [
            Subject { instance: boots.worker.clone(), aws_calls_at_boot: worker_calls },
            Subject { instance: follower, aws_calls_at_boot: follower_calls },
            Subject { instance: leader, aws_calls_at_boot: leader_calls },
        ];
        if arguments.wants(Part::Idle) {
            println!("idle for {} s", arguments.idle);
            measured.idle = Some(watch_idle(fleet, &subjects, arguments.idle).await?);
        }
    }
    if arguments.wants(Part::Notice) {
        println!("{DEPARTURES} workers more get a notice, one after the other");
        let notices = notice::measure(fleet, cluster, &boots.manager, DEPARTURES).await?;
        measured.notices = Some(notices);
    }
    Ok(measured)
}

async fn watch_idle(
    fleet: &Fleet,
    subjects: &[Subject; 3],
    idle_seconds: u64,
) -> anyhow::Result<IdleNodes> {
    let length = Duration::from_secs(idle_seconds);
    let costs = idle::watch(fleet.cloud(), subjects, length).await?;
    let [worker, manager, leader] = costs.try_into().ok().context("a cost is missing")?;
    Ok(IdleNodes { idle_seconds, worker, manager, leader })
}

/// Creates a cluster, and waits until its nodes have booted.
async fn create(fleet: &Fleet, cluster: &ClusterSpec) -> anyhow::Result<()> {
    fleet.create_cluster(cluster)?;
    fleet
        .wait_until("the stack", LIMIT, async || {
            let stack = fleet.cloud().stack(&cluster.name).context("no stack")?;
            Ok(stack.status == "CREATE_COMPLETE")
        })
        .await
}

/// Runs all variants in each round, and starts each round with another one. So neither changes on the machine nor
/// after-effects of one variant favour any variant. The first round only warms caches.
async fn take_turns(
    boots: &Boots<'_>,
    variants: &[Variant],
    rounds: u32,
) -> anyhow::Result<[Vec<Duration>; 4]> {
    let mut times: [Vec<Duration>; 4] = Default::default();
    for round in 0..=rounds {
        let mut took = vec![Duration::ZERO; variants.len()];
        for turn in 0..variants.len() {
            let index = (turn + round as usize) % variants.len();
            took[index] = boots.measure(variants[index]).await?;
        }
        let label =
            if round == 0 { "warm-up".to_owned() } else { format!("round {round} of {rounds}") };
        let columns = variants.iter().zip(&took);
        let columns =
            columns.map(|(variant, took)| format!("{} {:>5} ms", variant.name(), took.as_millis()));
        println!("{label:<14} {}", columns.collect::<Vec<_>>().join("   "));
        if round > 0 {
            times.iter_mut().zip(took).for_each(|(times, took)| times.push(took));
        }
    }
    Ok(times)
}

/// Checks that the script finds all programs that it needs; returns the aws command line.
fn script_prerequisites(aws: Option<&Path>) -> anyhow::Result<PathBuf> {
    for program in ["bash", "curl", "docker"] {
        if !std::env::split_paths(SYSTEM_PATH).any(|dir| dir.join(program).is_file()) {
            bail!("the script needs `{program}`, which is not in {SYSTEM_PATH}");
        }
    }
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."));
    let aws = aws.map_or_else(|| here.join(".venv/bin/aws"), Path::to_owned);
    // Not canonical: a virtual environment is found by the path of its link.
    std::path::absolute(&aws).ok().filter(|aws| aws.is_file()).with_context(|| {
        format!(
            "{} does not exist: `make setup` installs the aws command line, AWS_CLI names another",
            aws.display()
        )
    })
}
