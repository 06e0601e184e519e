//! The commands that trigger events in the running cloud.

use std::time::Duration;

use anyhow::bail;
use clap::{Args, Subcommand};
use serde_json::json;
use skep_sim::cloud::{Fault, FaultRule, GroupView, Maintenance, Service};

use super::current::Endpoint;
use super::instance::OfInstance;

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Announce a spot interruption
    Spot {
        #[command(flatten)]
        instance: OfInstance,
        /// terminate, stop or hibernate
        #[arg(long, default_value = "terminate")]
        action: String,
        /// Time until it happens
        #[arg(long = "in", default_value = "2m", value_parser = humantime::parse_duration)]
        due_in: Duration,
    },
    /// Recommend a rebalance
    Rebalance(OfInstance),
    /// Schedule maintenance
    Maintenance {
        #[command(flatten)]
        instance: OfInstance,
        /// instance-stop, instance-retirement, instance-reboot, system-reboot or system-maintenance
        #[arg(long, default_value = "instance-retirement")]
        code: String,
        /// Time until it may begin
        #[arg(long = "in", default_value = "1h", value_parser = humantime::parse_duration)]
        due_in: Duration,
    },
    /// Terminate an instance through its lifecycle hooks; the group replaces it
    Terminate {
        #[command(flatten)]
        instance: OfInstance,
        /// Make the group smaller instead
        #[arg(long)]
        decrement: bool,
    },
    /// End an instance without a hook or a warning; the group replaces it
    Crash(OfInstance),
    /// Set a group's desired capacity
    Desired {
        /// Name of the group, or the end of its name: `workers`
        group: String,
        capacity: u32,
        #[command(flatten)]
        endpoint: Endpoint,
    },
    /// Replace all instances of a group, a few at a time
    Refresh(Refresh),
    /// Set faults of the AWS services and the metadata, list or clear them
    #[command(subcommand)]
    Fault(FaultCommand),
}

#[derive(Debug, Args)]
pub struct Refresh {
    /// Name of the group, or the end of its name: `workers`
    group: String,
    /// Percentage of the group that stays in service; 100 launches before it terminates
    #[arg(long, default_value_t = 90)]
    min_healthy: u32,
    /// Percentage that the group may have meanwhile
    #[arg(long, default_value_t = 100)]
    max_healthy: u32,
    /// Replace the root volumes only: the instances keep their ids and addresses
    #[arg(long)]
    root_volumes: bool,
    /// Cancel the refresh that is in progress instead
    #[arg(long)]
    cancel: bool,
    #[command(flatten)]
    endpoint: Endpoint,
}

impl Refresh {
    async fn run(&self) -> anyhow::Result<()> {
        let group = find_group(&self.endpoint, &self.group).await?;
        if self.cancel {
            return self.endpoint.delete("refresh", &json!({ "group": group })).await;
        }
        let body = json!({
            "group": group, "min_healthy": self.min_healthy, "max_healthy": self.max_healthy,
            "root_volumes": self.root_volumes,
        });
        self.endpoint.post("refresh", &body).await
    }
}

#[derive(Debug, Subcommand)]
pub enum FaultCommand {
    /// Set a rule; it replaces an older one for the same calls
    Set(Box<FaultArguments>),
    /// Show the rules in force
    List {
        /// Print JSON, for scripts
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        endpoint: Endpoint,
    },
    /// End all faults
    Clear(Endpoint),
}

#[derive(Debug, Args)]
pub struct FaultArguments {
    /// dynamodb, ssm, autoscaling, cloudformation or imds [default: all]
    #[arg(long, value_parser = service)]
    service: Option<Service>,
    /// One operation, such as GetParameter [default: all]
    #[arg(long)]
    action: Option<String>,
    /// Probability that a call is throttled
    #[arg(long, default_value_t = 0.0)]
    throttle: f64,
    /// Probability that a call fails with a 500
    #[arg(long, default_value_t = 0.0)]
    error: f64,
    /// Probability that the connection closes and the call is not executed
    #[arg(long, default_value_t = 0.0)]
    drop: f64,
    /// Probability that a call is executed but its answer is lost
    #[arg(long, default_value_t = 0.0)]
    lose_answer: f64,
    /// Probability that a BatchGetItem leaves some of its keys unprocessed
    #[arg(long, default_value_t = 0.0)]
    unprocessed: f64,
    /// Calls per second that are not throttled
    #[arg(long)]
    per_second: Option<f64>,
    /// Minimum latency of every answer
    #[arg(long, value_parser = humantime::parse_duration)]
    latency: Option<Duration>,
    /// Maximum latency of every answer [default: the minimum]
    #[arg(long, value_parser = humantime::parse_duration, requires = "latency")]
    latency_to: Option<Duration>,
    /// End the rule after this number of calls
    #[arg(long)]
    times: Option<u32>,
    #[command(flatten)]
    endpoint: Endpoint,
}

pub async fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Spot { instance, action, due_in } => {
            let id = instance.id().await?;
            let body = json!({ "instance_id": id, "action": action, "seconds": due_in.as_secs() });
            instance.endpoint.post("spot", &body).await
        }
        Command::Rebalance(instance) => {
            let body = json!({ "instance_id": instance.id().await? });
            instance.endpoint.post("rebalance", &body).await
        }
        Command::Maintenance { instance, code, due_in } => {
            let maintenance =
                Maintenance { code, in_seconds: due_in.as_secs(), ..Maintenance::default() };
            let id = instance.id().await?;
            let body = json!({ "instance_id": id, "maintenance": maintenance });
            instance.endpoint.post("maintenance", &body).await
        }
        Command::Terminate { instance, decrement } => {
            let body = json!({ "instance_id": instance.id().await?, "decrement": decrement });
            instance.endpoint.post("terminate", &body).await
        }
        Command::Crash(instance) => {
            let body = json!({ "instance_id": instance.id().await? });
            instance.endpoint.post("crash", &body).await
        }
        Command::Desired { group, capacity, endpoint } => {
            let group = find_group(&endpoint, &group).await?;
            endpoint.post("desired", &json!({ "group": group, "desired": capacity })).await
        }
        Command::Refresh(refresh) => refresh.run().await,
        Command::Fault(FaultCommand::Set(arguments)) => {
            let rule = serde_json::to_value(arguments.rule())?;
            arguments.endpoint.post("faults", &rule).await
        }
        Command::Fault(FaultCommand::List { json, endpoint }) => list_faults(&endpoint, json).await,
        Command::Fault(FaultCommand::Clear(endpoint)) => {
            endpoint.delete("faults", &json!({})).await
        }
    }
}

async fn find_group(endpoint: &Endpoint, name: &str) -> anyhow::Result<String> {
    let groups: Vec<GroupView> = endpoint.get("groups").await?;
    let names: Vec<String> = groups.into_iter().map(|group| group.name).collect();
    if names.iter().any(|group| group == name) {
        return Ok(name.to_owned());
    }
    let mut found = names.iter().filter(|group| group.ends_with(name));
    match (found.next(), found.next()) {
        (Some(group), None) => Ok(group.clone()),
        _ => bail!("there is no group {name}; there are: {}", names.join(", ")),
    }
}

async fn list_faults(endpoint: &Endpoint, json: bool) -> anyhow::Result<()> {
    let rules: Vec<FaultRule> = endpoint.get("faults").await?;
    if json {
        println!("{}", serde_json::to_string_pretty(&rules)?);
        return Ok(());
    }
    for FaultRule { service, action, fault } in rules {
        let service = service.map_or("every service".to_owned(), |service| service.to_string());
        let action = action.unwrap_or_else(|| "every operation".to_owned());
        println!("{service}, {action}: {}", serde_json::to_string(&fault)?);
    }
    Ok(())
}

impl FaultArguments {
    fn rule(&self) -> FaultRule {
        // No realistic latency overflows u64.
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let latency_ms =
            self.latency.map(|from| (millis(from), self.latency_to.map_or(millis(from), millis)));
        let fault = Fault {
            latency_ms,
            per_second: self.per_second,
            throttle: self.throttle,
            drop: self.drop,
            error: self.error,
            lose_answer: self.lose_answer,
            unprocessed: self.unprocessed,
            times: self.times,
        };
        FaultRule { service: self.service, action: self.action.clone(), fault }
    }
}

fn service(name: &str) -> Result<Service, String> {
    serde_json::from_value(json!(name.to_lowercase()))
        .map_err(|_| "dynamodb, ssm, autoscaling, cloudformation or imds".to_owned())
}
