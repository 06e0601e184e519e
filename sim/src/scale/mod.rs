//! `skep-sim scale`: a thousand instances boot in the same second; a hundred leave at once; AWS throttles. Then it says
//! how long that took, what it cost, and whether anything was lost.
//!
//! The skep processes are real, and so is everything that they say: metadata, AWS calls, Docker calls. The engines are
//! one process that plays swarmkit ([`engine`]). Whether it fits on this machine is checked before anything starts.

mod engine;
mod instance;
mod machine;
mod metrics;
mod phases;
mod priority;
mod report;
mod simulate;
mod site;
mod store;
mod tally;
mod usage;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{anyhow, bail};
use clap::Args;

use crate::fleet::default_dir;
use crate::stage;
use phases::Stage;
use report::{Measured, Report, StoreReport};
use site::{Options, Site};
use store::Store;

/// Part of the workers that leave at once, and how many do at most.
const LEAVING_PART: u32 = 5;
const LEAVING: u32 = 100;
/// Part of the instances of the smaller run, with which calls per node are compared; there is none for fewer than
/// [`COMPARED_FROM`] instances.
const SMALLER_PART: u32 = 10;
const COMPARED_FROM: u32 = 100;

#[derive(Debug, Args)]
pub struct Arguments {
    /// Number of instances: three managers, the others workers
    #[arg(long, default_value_t = 1000)]
    nodes: u32,
    /// Store of the join tokens [default: both, one after the other]
    #[arg(long)]
    store: Option<Store>,
    /// Seconds of the idle measurement; the slowest poll comes every 180 s
    #[arg(long, value_name = "SECONDS", default_value_t = 180, value_parser = clap::value_parser!(u64).range(1..))]
    idle: u64,
    /// Seconds of throttling
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..))]
    throttle: u64,
    /// Do not measure a smaller run first
    #[arg(long)]
    only: bool,
    /// Keep the log of every instance
    #[arg(long)]
    keep_logs: bool,
    /// The skep binary; use a release build for valid numbers [default: the one beside this
    /// program]
    #[arg(long, value_name = "FILE")]
    skep: Option<PathBuf>,
    /// Run nothing: simulate so many instances in virtual time, from four on; without numbers 1000,
    /// 5000 and 20000
    #[arg(long, value_name = "NODES", num_args = 0.., value_delimiter = ',',
        value_parser = clap::value_parser!(u32).range(4..=50_000))]
    simulate: Option<Vec<u32>>,
    /// Seed of the simulation
    #[arg(long, default_value_t = 1, requires = "simulate")]
    seed: u64,
    /// Seconds within which the instances of the simulation start
    #[arg(long, value_name = "SECONDS", default_value_t = 1, requires = "simulate")]
    within: u64,
    /// Parent of the run's directory
    #[arg(long, value_name = "DIRECTORY", default_value_os_t = default_dir())]
    dir: PathBuf,
    /// Directory for report.json
    #[arg(long, value_name = "DIRECTORY", default_value_os_t = stage::output_dir("scale"))]
    out: PathBuf,
}

/// Runs, measures and reports.
///
/// # Errors
/// When the run cannot start, when a target is missed, or when anything was lost; it names all of them.
pub async fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let stores = arguments.store.map_or(vec![Store::Dynamodb, Store::Ssm], |store| vec![store]);
    if let Some(nodes) = &arguments.simulate {
        let within = Duration::from_secs(arguments.within);
        simulate::run(nodes, &stores, arguments.seed, within);
        return Ok(());
    }
    phases::cluster(arguments.nodes)?;
    machine::prepare(arguments.nodes)?;
    priority::raise_own();
    let skep = stage::skep_binary(arguments.skep.as_deref())?;
    // Before anything exists: an interruption at any time must lead to the clean-up.
    let mut interruption = std::pin::pin!(stage::interrupted()?);
    let mut runs = Vec::new();
    for store in stores {
        let measured = tokio::select! {
            measured = measure(arguments, store, &skep) => measured?,
            signal = &mut interruption => bail!("{signal}"),
        };
        measured.print(stage::Style::of_stdout());
        runs.push(measured);
    }
    let report = Report::new(arguments.nodes as usize, runs, &skep);
    let file = arguments.out.join("report.json");
    stage::write_json(&file, &report)?;
    println!("\nThe same as JSON: {}", file.display());
    let misses: Vec<String> = report.runs.iter().flat_map(StoreReport::misses).collect();
    if misses.is_empty() {
        return Ok(());
    }
    Err(anyhow!("missed:\n  {}", misses.join("\n  ")))
}

/// Measures a smaller run and the whole one.
async fn measure(arguments: &Arguments, store: Store, skep: &Path) -> anyhow::Result<StoreReport> {
    let nodes = arguments.nodes;
    let mut small = None;
    if nodes >= COMPARED_FROM && !arguments.only {
        let nodes = nodes / SMALLER_PART;
        println!("\n{nodes} instances first, tokens.store = \"{}\"", store.as_str());
        small = Some(measure_one(arguments, store, skep, nodes, false).await?);
    }
    println!("\n{nodes} instances, tokens.store = \"{}\"", store.as_str());
    let measured = measure_one(arguments, store, skep, nodes, true).await?;
    Ok(StoreReport::new(store.as_str(), store.ready_within(), measured, small.as_ref()))
}

/// Runs one fleet, and stops it in every case.
async fn measure_one(
    arguments: &Arguments,
    store: Store,
    skep: &Path,
    nodes: u32,
    is_whole: bool,
) -> anyhow::Result<Measured> {
    let site = Site::start(Options {
        skep: skep.to_owned(),
        nodes,
        store: store.as_str(),
        dir: arguments.dir.clone(),
        keep_logs: arguments.keep_logs,
    })
    .await?;
    if arguments.keep_logs {
        println!("logs: {}", site.logs().display());
    }
    let measured = play(&site, arguments, nodes, is_whole).await;
    let stopped = site.stop().await;
    // The error of the run is the cause; an error of the stop may be its consequence.
    let measured = measured?;
    stopped?;
    Ok(measured)
}

async fn play(
    site: &Site,
    arguments: &Arguments,
    nodes: u32,
    is_whole: bool,
) -> anyhow::Result<Measured> {
    let mut stage = Stage::new(site, phases::cluster(nodes)?);
    let boot = stage.boot().await?;
    let (idle, memory) = stage.idle(Duration::from_secs(arguments.idle)).await;
    let (mut leave, mut throttled) = (None, None);
    // A fleet that is not whole would only repeat what is already found.
    if is_whole && stage.findings.is_empty() {
        let leaving = (stage.spec.workers / LEAVING_PART).min(LEAVING);
        if leaving > 0 {
            leave = Some(stage.leave(leaving).await?);
        }
        throttled = Some(stage.throttle(Duration::from_secs(arguments.throttle)).await?);
    }
    Ok(Measured { boot, idle, memory, leave, throttled, findings: stage.findings })
}
