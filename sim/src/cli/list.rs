//! `skep-sim list`: shows the instances.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;
use skep_sim::cloud::InstanceView;

use super::current::{Current, Endpoint};

#[derive(Debug, Args)]
pub struct Arguments {
    /// Print JSON, for scripts
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    endpoint: Endpoint,
}

/// An instance, and its paths on this machine.
#[derive(Serialize)]
struct Row {
    #[serde(flatten)]
    instance: InstanceView,
    docker: Option<String>,
    log: Option<PathBuf>,
    netns: Option<String>,
}

pub async fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let instances: Vec<InstanceView> = arguments.endpoint.get("instances").await?;
    // With --endpoint, the run may be on another machine: then there is only the cloud's view.
    let current = Current::find().ok();
    let rows: Vec<Row> = instances.into_iter().map(|view| row(view, current.as_ref())).collect();
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&rows)?);
        return Ok(());
    }
    println!(
        "{:<20} {:<12} {:<20} {:<14} {:<19} HOOKS",
        "INSTANCE", "ADDRESS", "GROUP", "ZONE", "STATE"
    );
    for Row { instance, .. } in &rows {
        println!(
            "{:<20} {:<12} {:<20} {:<14} {:<19} {}",
            instance.id,
            instance.address,
            instance.group,
            instance.zone,
            instance.lifecycle.as_str(),
            instance.waiting_hooks.join(" ")
        );
    }
    if let Some(current) = current {
        println!("\n{}", how_to_reach(&current));
    }
    Ok(())
}

fn row(instance: InstanceView, current: Option<&Current>) -> Row {
    let dir = current.map(|current| current.dir.join(&instance.id)).filter(|dir| dir.is_dir());
    let netns = dir.as_ref().and(current).map(|current| {
        format!("{}-ip-{}", current.netns, instance.address.to_string().replace('.', "-"))
    });
    let docker = dir.as_ref().map(|dir| format!("unix://{}/docker.sock", dir.display()));
    let log = dir.map(|dir| dir.join("skep.log"));
    Row { instance, docker, log, netns }
}

/// Help text: how to reach the parts of every instance.
pub fn how_to_reach(current: &Current) -> String {
    let (dir, netns) = (current.dir.display(), &current.netns);
    format!(
        "shell    skep-sim shell INSTANCE, or skep-sim shell INSTANCE -- skep status\n\
         docker   docker -H unix://{dir}/INSTANCE/docker.sock node ls\n\
         log      {dir}/INSTANCE/skep.log\n\
         network  nsenter --net=/run/netns/{netns}-ip-10-78-0-4"
    )
}
