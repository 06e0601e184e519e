//! The commands that inject faults into one instance of the running cloud, and end them.

use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::json;
use skep_sim::cloud::InstanceView;
use skep_sim::machines::{Disturbance, Program, SlowLink};

use super::current::Endpoint;
use super::instance::OfInstance;

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Cut an instance off from the others; the metadata and AWS stay reachable
    Isolate(OfInstance),
    /// Cut an instance off from the others, the metadata and AWS
    Cut(OfInstance),
    /// Make an instance's link slow in both directions
    Slow {
        #[command(flatten)]
        instance: OfInstance,
        /// Bits per second, in kbit or mbit
        #[arg(long, default_value = "256kbit", value_parser = kbit_per_s)]
        rate: u32,
        /// Maximum time that a packet waits in the queue; one that would wait longer is dropped
        #[arg(long, default_value = "400ms", value_parser = humantime::parse_duration)]
        queue: Duration,
    },
    /// End isolate, cut, slow and stop
    Mend {
        #[command(flatten)]
        instances: OneOrAll,
        #[command(flatten)]
        endpoint: Endpoint,
    },
    /// Kill a program of an instance (SIGKILL); its supervisor restarts it
    Kill(OfProgram),
    /// Stop a program of an instance (SIGSTOP): it hangs until cont or mend
    Stop(OfProgram),
    /// Continue a program of an instance that was stopped (SIGCONT)
    Cont(OfProgram),
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct OneOrAll {
    /// Id of the instance, the beginning of its id, or its address
    instance: Option<String>,
    /// Mend every instance
    #[arg(long)]
    all: bool,
}

#[derive(Debug, Args)]
pub struct OfProgram {
    #[command(flatten)]
    instance: OfInstance,
    program: Program,
}

pub async fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Isolate(instance) => disturb(&instance, Disturbance::Isolate).await,
        Command::Cut(instance) => disturb(&instance, Disturbance::Cut).await,
        Command::Slow { instance, rate, queue } => {
            disturb(&instance, Disturbance::Slow(SlowLink { kbit_per_s: rate, queue })).await
        }
        Command::Mend { instances, endpoint } => match instances.instance {
            Some(name) => disturb(&OfInstance { name, endpoint }, Disturbance::Mend).await,
            None => mend_all(&endpoint).await,
        },
        Command::Kill(OfProgram { instance, program }) => {
            disturb(&instance, Disturbance::Kill(program)).await
        }
        Command::Stop(OfProgram { instance, program }) => {
            disturb(&instance, Disturbance::Stop(program)).await
        }
        Command::Cont(OfProgram { instance, program }) => {
            disturb(&instance, Disturbance::Cont(program)).await
        }
    }
}

async fn disturb(instance: &OfInstance, what: Disturbance) -> anyhow::Result<()> {
    let id = instance.id().await?;
    tell_cloud(&instance.endpoint, &id, what).await
}

async fn mend_all(endpoint: &Endpoint) -> anyhow::Result<()> {
    let instances: Vec<InstanceView> = endpoint.get("instances").await?;
    for InstanceView { id, .. } in instances {
        tell_cloud(endpoint, &id, Disturbance::Mend).await?;
    }
    Ok(())
}

async fn tell_cloud(endpoint: &Endpoint, id: &str, what: Disturbance) -> anyhow::Result<()> {
    endpoint.post("disturb", &json!({ "instance_id": id, "disturbance": what })).await?;
    println!("{}", report(id, what));
    Ok(())
}

/// Describes the fault, and names the command that ends it.
fn report(id: &str, what: Disturbance) -> String {
    let mend = format!("`skep-sim mend {id}` ends it");
    match what {
        Disturbance::Isolate => format!("{id} is cut off from the other instances; {mend}"),
        Disturbance::Cut => {
            format!("{id} is cut off from the other instances, the metadata and AWS; {mend}")
        }
        Disturbance::Slow(SlowLink { kbit_per_s, .. }) => {
            format!("{id} sends and receives {kbit_per_s} kbit/s at most; {mend}")
        }
        Disturbance::Mend => format!("{id} is mended"),
        Disturbance::Kill(program) => {
            format!("{program} of {id} is killed; its supervisor starts it again")
        }
        Disturbance::Stop(program) => {
            format!("{program} of {id} is stopped; `skep-sim cont {id} {program}` continues it")
        }
        Disturbance::Cont(program) => format!("{program} of {id} is continued"),
    }
}

fn kbit_per_s(text: &str) -> Result<u32, String> {
    let (number, factor) = match text.strip_suffix("mbit") {
        Some(number) => (number, 1000),
        None => (text.strip_suffix("kbit").unwrap_or_default(), 1),
    };
    let rate = number.parse().ok().and_then(|number: u32| number.checked_mul(factor));
    let rate = rate.filter(|rate| *rate > 0);
    rate.ok_or_else(|| "a number with its unit is needed, such as 256kbit or 10mbit".to_owned())
}
