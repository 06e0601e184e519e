//! `skep-sim bench`: measures the cost of skep, beside the alternatives without it.
//!
//! Guarantee: all variants of a boot run on the same instance, in turns, within one run, and are
//! timed in the same way, by a manager's node list. Assumption: nothing else uses the machine; other load
//! increases the spread.

mod boot;
mod departures;
mod idle;
mod notice;
mod report;
mod stats;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use tokio::time::sleep;

use crate::fleet::{ClusterSpec, DockerStart, Fleet, FleetOptions, Restart, SYSTEM_PATH};
use crate::stage;
use boot::{Boots, Variant};
use idle::Subject;
use report::{Measured, Report};

/// As many as in a typical swarm; fewer managers would answer faster.
const MANAGERS: u32 = 3;
/// Number of workers whose notice is measured.
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
    /// Number of boots of each kind
    #[arg(long, default_value_t = 25, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Seconds of the idle measurement
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(2..))]
    idle: u64,
    /// The aws command line that the script uses [default: .venv/bin/aws]
    #[arg(long, env = "AWS_CLI", value_name = "FILE")]
    aws: Option<PathBuf>,
    /// Directory for report.json
    #[arg(long, value_name = "DIRECTORY", default_value_os_t = stage::output_dir("bench"))]
    out: PathBuf,
}

/// Measures and reports; a missed target is no error.
///
/// # Errors
/// When something could not be measured.
pub async fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let skep = stage::skep_binary(arguments.skep.as_deref())?;
    let aws = script_prerequisites(arguments.aws.as_deref())?;
    let binary_bytes = std::fs::metadata(&skep)?.len();
    let options = FleetOptions {
        skep: Some(skep.clone()),
        restart: Restart::Never,
        docker_start: DockerStart::BeforeSkep,
        ..FleetOptions::default()
    };
    let measured =
        stage::on_stage(options, async |fleet| measure(fleet, arguments, aws, binary_bytes).await)
            .await?;
    let departures = departures::measure(&skep).await?;
    let report = Report::new(&measured, departures, &skep).context("nothing was measured")?;
    report.print(stage::Style::of_stdout());
    let file = arguments.out.join("report.json");
    stage::write_json(&file, &report)?;
    println!("\nThe same as JSON: {}", file.display());
    Ok(())
}

async fn measure(
    fleet: &Fleet,
    arguments: &Arguments,
    aws: PathBuf,
    binary_bytes: u64,
) -> anyhow::Result<Measured> {
    let cluster = &ClusterSpec::new("bench", MANAGERS, 1);
    println!("{MANAGERS} managers and a worker boot");
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
    let times = take_turns(&boots, arguments.rounds).await?;

    println!("idle for {} s", arguments.idle);
    let booted_at = fleet.cloud().now();
    boots.boot_with_skep().await?;
    sleep(BECOMES_IDLE).await;
    let worker_calls = idle::aws_calls(fleet.cloud(), boots.worker.id(), booted_at);
    let subjects = [
        Subject { instance: boots.worker.clone(), aws_calls_at_boot: worker_calls },
        Subject { instance: follower, aws_calls_at_boot: follower_calls },
        Subject { instance: leader, aws_calls_at_boot: leader_calls },
    ];
    let length = Duration::from_secs(arguments.idle);
    let costs = idle::watch(fleet.cloud(), &subjects, length).await?;
    let [worker, manager, leader] = costs.try_into().ok().context("a cost is missing")?;

    println!("{DEPARTURES} workers more get a notice, one after the other");
    let notices = notice::measure(fleet, cluster, &boots.manager, DEPARTURES).await?;
    Ok(Measured {
        boots: times,
        notices,
        worker,
        manager,
        leader,
        idle_seconds: arguments.idle,
        binary_bytes,
    })
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
async fn take_turns(boots: &Boots<'_>, rounds: u32) -> anyhow::Result<[Vec<Duration>; 3]> {
    let mut times: [Vec<Duration>; 3] = Default::default();
    for round in 0..=rounds {
        let mut took = [Duration::ZERO; 3];
        for turn in 0..Variant::ALL.len() {
            let index = (turn + round as usize) % Variant::ALL.len();
            took[index] = boots.measure(Variant::ALL[index]).await?;
        }
        let label =
            if round == 0 { "warm-up".to_owned() } else { format!("round {round} of {rounds}") };
        let columns = Variant::ALL.iter().zip(&took);
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
