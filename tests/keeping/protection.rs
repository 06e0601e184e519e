//! A node that runs a job, or a task with `skep.protect=true`, is protected from scale-in, and for no longer; a protection
//! that skep has not set stays.

use std::sync::Arc;

use anyhow::{Context, ensure};
use bollard::models::{ServiceSpecMode, ServiceSpecModeReplicatedJob, TaskSpecPlacement};
use harness::departures::{Leaver, node_id, options_with, running, standing};
use harness::nodes::labels;
use harness::seen::status;
use harness::{PATIENCE, secs};
use skep_sim::cloud::{Deny, Service, Who};
use skep_sim::fleet::{ClusterSpec, Fleet, Instance, service, workload};

const CONFIG: &str = "[protection]\nenabled = true\nlinger = \"2s\"\n";

fn is_protected(fleet: &Fleet, instance: &Instance) -> anyhow::Result<bool> {
    Ok(fleet.cloud().instance(instance.id()).context("it is gone")?.protected)
}

async fn becomes(fleet: &Fleet, instance: &Instance, protected: bool) -> anyhow::Result<()> {
    let what = format!("the protection of {} to be {protected}", instance.id());
    fleet
        .wait_until(&what, PATIENCE, async || Ok(is_protected(fleet, instance)? == protected))
        .await
}

async fn is_marked(fleet: &Fleet, instance: &Instance) -> anyhow::Result<bool> {
    Ok(labels(fleet, instance).await?.contains_key("skep.protected"))
}

/// Starts a task with this label on a node.
async fn keep(fleet: &Fleet, name: &str, instance: &Instance) -> anyhow::Result<()> {
    let mut spec = service(name, 1, workload::slow_to_stop(0.1), secs(10))?;
    spec.labels = Some([("skep.protect".to_owned(), "true".to_owned())].into());
    let constraint = format!("node.id=={}", node_id(instance).await?);
    let placement = TaskSpecPlacement { constraints: Some(vec![constraint]), ..Default::default() };
    spec.task_template.get_or_insert_default().placement = Some(placement);
    fleet.create_service_of(spec).await?;
    running(fleet, name, 1).await
}

#[tokio::test]
async fn scale_in_takes_another_node_and_the_next_leader_ends_the_protection() -> anyhow::Result<()>
{
    let spec = ClusterSpec::new("demo", 3, 3);
    let fleet = standing(options_with(CONFIG), &spec).await?;
    let workers = fleet.group(&spec.workers_group());
    let [oldest, operators, other]: [Arc<Instance>; 3] =
        workers.try_into().ok().context("three workers")?;
    fleet.cloud().set_protection(operators.id(), true)?;
    keep(&fleet, "first", &oldest).await?;
    keep(&fleet, "second", &operators).await?;
    becomes(&fleet, &oldest, true).await?;
    ensure!(is_marked(&fleet, &oldest).await?);
    let leaver = Leaver::of(&other).await?;
    fleet.cloud().set_desired(&spec.workers_group(), 2)?;
    leaver.has_left_by_its_hook(&fleet).await?;

    let leader = fleet.leader().await?;
    let leaver = Leaver::of(&leader).await?;
    fleet.cloud().terminate(leader.id(), false)?;
    leaver.has_left_by_its_hook(&fleet).await?;
    ensure!(is_protected(&fleet, &oldest)?);
    for name in ["first", "second"] {
        fleet.manager_docker().await?.delete_service(name).await?;
    }
    becomes(&fleet, &oldest, false).await?;
    fleet
        .wait_until("no record", PATIENCE, async || Ok(!is_marked(&fleet, &oldest).await?))
        .await?;
    ensure!(is_protected(&fleet, &operators)?, "the operator's protection has ended");
    ensure!(!is_marked(&fleet, &operators).await?);
    fleet.stop().await
}

#[tokio::test]
async fn a_job_keeps_its_node_and_a_refusal_is_said_once() -> anyhow::Result<()> {
    let spec = ClusterSpec::new("demo", 1, 1);
    let fleet = standing(options_with(CONFIG), &spec).await?;
    let manager = fleet.leader().await?;
    let worker = fleet.group(&spec.workers_group()).pop().context("a worker")?;
    let who = Who::Role("skep-manager".to_owned());
    fleet.cloud().deny(Deny::new(who, Service::AutoScaling, "SetInstanceProtection"));
    keep(&fleet, "first", &worker).await?;
    const REFUSED: &str = "protecting it from scale-in: autoscaling:SetInstanceProtection";
    let refused = || {
        let calls = fleet.cloud().requests();
        calls.iter().filter(|call| call.action == "SetInstanceProtection").count()
    };
    fleet.wait_until("two refusals", PATIENCE, async || Ok(refused() >= 2)).await?;
    ensure!(manager.log().matches(REFUSED).count() == 1, "{}", manager.log());
    let duty = &status(&manager).await?["node"]["duties"]["protection"];
    ensure!(duty["last_failure"].to_string().contains("AccessDenied"), "{duty}");
    ensure!(!is_protected(&fleet, &worker)?);
    fleet.manager_docker().await?.delete_service("first").await?;
    fleet
        .wait_until("no record", PATIENCE, async || Ok(!is_marked(&fleet, &worker).await?))
        .await?;
    fleet.cloud().allow_all();

    let mut job = service("job", 1, ["sleep", "30"].map(str::to_owned).to_vec(), secs(1))?;
    job.mode = Some(ServiceSpecMode {
        replicated_job: Some(ServiceSpecModeReplicatedJob::default()),
        ..Default::default()
    });
    let constraints = Some(vec!["node.role==worker".to_owned()]);
    let placement = TaskSpecPlacement { constraints, ..Default::default() };
    job.task_template.get_or_insert_default().placement = Some(placement);
    fleet.create_service_of(job).await?;
    becomes(&fleet, &worker, true).await?;
    becomes(&fleet, &worker, false).await?;
    fleet.stop().await
}
