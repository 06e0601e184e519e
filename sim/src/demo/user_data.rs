//! Runs the instances of `--without-skep`: an operator founds the swarm, and pastes tokens and addresses into UserData.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::convert::Infallible;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use bollard::Docker;
use bollard::models::SwarmInitRequest;
use futures_util::StreamExt;
use futures_util::future::LocalBoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::time::{MissedTickBehavior, interval};

use crate::fleet::{ClusterSpec, Fleet, Instance, SYSTEM_PATH};
use crate::stage::Mark;
use crate::witness::record::Record;

const SCRIPT: &str = include_str!("userdata.sh");
/// Interval between two looks at the instances.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// The operator's notes, which are in the UserData.
#[derive(Clone, Debug)]
struct Notes {
    manager_token: String,
    worker_token: String,
    managers: Vec<String>,
}

/// Founds the swarm on the first manager, and runs the UserData of every other instance once. Never returns, unless the
/// swarm cannot be founded.
pub async fn run(
    fleet: &Fleet,
    cluster: &ClusterSpec,
    record: &RefCell<Record>,
) -> anyhow::Result<Infallible> {
    let mut ticks = interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut notes, mut started) = (None, BTreeSet::new());
    let mut scripts = FuturesUnordered::<LocalBoxFuture<'_, (String, anyhow::Result<()>)>>::new();
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            Some((instance, result)) = scripts.next() => {
                tell(record, &instance, result);
                continue;
            }
        }
        let managers = fleet.group(&cluster.managers_group());
        if notes.is_none() {
            let Some(first) = managers.first() else { continue };
            let Ok(docker) = first.docker() else { continue };
            if docker.ping().await.is_err() {
                continue;
            }
            notes = Some(found(first, &docker, &managers).await.context("founding the swarm")?);
            started.insert(first.id().to_owned());
        }
        let Some(notes) = &notes else { continue };
        for instance in fleet.instances() {
            let is_up = match instance.docker() {
                Ok(docker) => docker.ping().await.is_ok(),
                Err(_) => false,
            };
            if is_up && started.insert(instance.id().to_owned()) {
                let is_manager = instance.launch().group == cluster.managers_group();
                let (notes, instance) = (notes.clone(), Arc::clone(&instance));
                scripts.push(Box::pin(async move {
                    let result = join(&instance, &notes, is_manager).await;
                    (instance.id().to_owned(), result)
                }));
            }
        }
    }
}

async fn found(
    first: &Instance,
    docker: &Docker,
    managers: &[Arc<Instance>],
) -> anyhow::Result<Notes> {
    let request = SwarmInitRequest {
        listen_addr: Some("0.0.0.0:2377".to_owned()),
        advertise_addr: Some(first.address().to_string()),
        ..Default::default()
    };
    docker.init_swarm(request).await?;
    let tokens = docker.inspect_swarm().await?.join_tokens.context("Docker has no join tokens")?;
    Ok(Notes {
        manager_token: tokens.manager.context("no token for managers")?,
        worker_token: tokens.worker.context("no token for workers")?,
        managers: managers.iter().map(|manager| manager.address().to_string()).collect(),
    })
}

async fn join(instance: &Instance, notes: &Notes, is_manager: bool) -> anyhow::Result<()> {
    let (role, token) = match is_manager {
        true => ("manager", &notes.manager_token),
        false => ("worker", &notes.worker_token),
    };
    let mut script = Command::new("sh");
    script.args(["-c", SCRIPT]).current_dir(instance.dir()).env_clear();
    script
        .env("PATH", SYSTEM_PATH)
        .env("HOME", instance.dir())
        .env("DOCKER_HOST", format!("unix://{}", instance.docker_socket().display()))
        .env("ROLE", role)
        .env("TOKEN", token)
        .env("MANAGERS", notes.managers.join(" "));
    let output = instance.run(script).await?;
    let last = String::from_utf8_lossy(&output.stderr).trim().lines().last().map(str::to_owned);
    anyhow::ensure!(output.status.success(), "{}", last.unwrap_or_default());
    Ok(())
}

fn tell(record: &RefCell<Record>, instance: &str, result: anyhow::Result<()>) {
    let mut record = record.borrow_mut();
    let (now, name) = (record.now(), record.name(instance));
    match result {
        Ok(()) => record.tale.tell(now, Some(&name), "its UserData has joined the swarm", None),
        Err(error) => {
            let what = format!("its UserData has failed: {error:#}");
            record.tale.tell(now, Some(&name), &what, Some(Mark::Bad));
        }
    }
}
