//! `skep-sim up`: runs a cloud with a swarm until it is interrupted.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args, ValueEnum};
use skep_sim::cloud::{CloudEvent, Market};
use skep_sim::fleet::{
    ClusterSpec, DOCKER_PAUSE, Entry, Fleet, FleetOptions, PowerOff, Restart, SHUTDOWN,
    default_dir, narrate,
};
use skep_sim::stage::{interrupted, skep_binary};
use tokio::sync::broadcast::error::RecvError;
use tokio::time::Instant;

use super::current::{Current, variables};
use super::list::how_to_reach;

#[derive(Debug, Args)]
pub struct Arguments {
    /// Number of managers at the start
    #[arg(long, default_value_t = 3)]
    managers: u32,
    /// Number of workers at the start
    #[arg(long, default_value_t = 2)]
    workers: u32,
    /// Name of the swarm, its groups and its stack
    #[arg(long, default_value = "demo")]
    cluster: String,
    /// The skep binary [default: the one beside this program]
    #[arg(long, value_name = "FILE")]
    skep: Option<PathBuf>,
    /// Start the instances without skep
    #[arg(long, conflicts_with = "skep")]
    bare: bool,
    /// Store of the join tokens [default: skep's default]
    #[arg(long)]
    token_store: Option<TokenStore>,
    /// A skep.toml for every instance
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Buy the workers on the spot market
    #[arg(long)]
    spot: bool,
    /// Let instances speak TLS with AWS, and check its certificate
    #[arg(long)]
    tls: bool,
    /// Shut the OS down when an instance is terminated, instead of cutting its power
    #[arg(long)]
    clean_shutdown: bool,
    /// Seed of ids and faults
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Parent of the run's directory
    #[arg(long, value_name = "DIRECTORY", default_value_os_t = default_dir())]
    dir: PathBuf,
    /// Directory of another Docker engine
    #[arg(long, value_name = "DIRECTORY")]
    engine: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum TokenStore {
    Ssm,
    Dynamodb,
}

pub async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let options = arguments.options()?;
    let region = options.region.clone();
    // Before anything exists: an interruption at any time must lead to the clean-up.
    let mut interruption = Box::pin(interrupted()?);
    let fleet = tokio::select! {
        fleet = Fleet::start(options) => fleet?,
        _ = &mut interruption => return Ok(()),
    };
    let current = Current::of(&fleet, &region);
    current.write()?;
    print_welcome(&current);
    let cluster = arguments.cluster();
    let watched = tokio::select! {
        watched = watch(&fleet, &cluster) => watched,
        name = &mut interruption => {
            println!("{name}: stopping");
            Ok(())
        }
    };
    current.remove();
    fleet.stop().await?;
    println!("stopped; the logs are in {}", current.dir.display());
    watched
}

impl Arguments {
    fn options(&self) -> anyhow::Result<FleetOptions> {
        let mut options = FleetOptions {
            dir: self.dir.clone(),
            seed: self.seed,
            tls: self.tls,
            docker_restart: Restart::OnFailure(DOCKER_PAUSE),
            engine: self.engine.as_deref().map(std::path::absolute).transpose()?,
            ..FleetOptions::default()
        };
        if !self.bare {
            options.skep = Some(skep_binary(self.skep.as_deref())?);
        }
        if let Some(file) = &self.config {
            let text = std::fs::read_to_string(file);
            options.config = Some(text.with_context(|| format!("cannot read {}", file.display()))?);
        }
        if let Some(store) = self.token_store {
            let value = match store {
                TokenStore::Ssm => "ssm",
                TokenStore::Dynamodb => "dynamodb",
            };
            options.skep_env.insert("SKEP_TOKENS_STORE".to_owned(), value.to_owned());
        }
        if self.clean_shutdown {
            options.power_off = PowerOff::Clean(SHUTDOWN);
        }
        Ok(options)
    }

    fn cluster(&self) -> ClusterSpec {
        let workers_market = if self.spot { Market::Spot } else { Market::OnDemand };
        ClusterSpec {
            workers_market,
            ..ClusterSpec::new(&self.cluster, self.managers, self.workers)
        }
    }
}

/// Creates the swarm and prints the events, for ever.
async fn watch(fleet: &Fleet, cluster: &ClusterSpec) -> anyhow::Result<()> {
    let mut instances = fleet.subscribe();
    let mut cloud = fleet.cloud().subscribe();
    let start = Instant::now();
    fleet.create_cluster(cluster)?;
    loop {
        // A receiver that is late misses lines, and continues.
        tokio::select! {
            entry = instances.recv() => match entry {
                Ok(Entry { instance, what, .. }) => tell(fleet, start, Some(&instance), &what),
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return Ok(()),
            },
            event = cloud.recv() => match event {
                Ok(CloudEvent { kind, .. }) => {
                    if let Some(line) = narrate(&kind) {
                        tell(fleet, start, kind.instance_id(), &line);
                    }
                }
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return Ok(()),
            },
        }
    }
}

fn tell(fleet: &Fleet, start: Instant, instance: Option<&str>, what: &str) {
    let address = instance
        .and_then(|id| fleet.instance(id))
        .map(|instance| instance.address().to_string())
        .unwrap_or_default();
    let seconds = start.elapsed().as_secs_f64();
    println!("{seconds:>8.2}  {:<19}  {address:<12}  {what}", instance.unwrap_or(""));
}

fn print_welcome(current: &Current) {
    println!("the local cloud is up: run {}", current.run);
    for (name, value) in variables(&current.endpoint, &current.region) {
        println!("  export {name}={value}");
    }
    for line in how_to_reach(current).lines() {
        println!("  {line}");
    }
    let program = std::env::current_exe().unwrap_or_default();
    let program = program.file_name().unwrap_or_default();
    println!("  more     {} list | spot | desired | …", Path::new(program).display());
    println!("Ctrl-C stops it.\n");
}
