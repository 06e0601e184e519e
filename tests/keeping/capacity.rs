//! Tasks that wait for a node let their group grow by a scaling policy, up to its maximum; idle nodes are scaled in, and no
//! other; the values come from one leader, and from the next one after it.

use std::sync::Arc;

use anyhow::{Context, ensure};
use bollard::models::{ServiceSpecMode, ServiceSpecModeReplicated};
use harness::departures::{Leaver, options_with, running, standing};
use harness::seen::{from_health_port, status};
use harness::swarm::logged;
use harness::trouble::aws;
use harness::{PATIENCE, secs};
use skep_sim::cloud::{Deny, Metric, PolicyPace, PolicySpec, Service, Who};
use skep_sim::fleet::{ClusterSpec, Fleet, Instance};

const CONFIG: &str = "[capacity]\ncloudwatch = true\n\
                      [protection]\nenabled = true\nall_tasks = true\nlinger = \"1s\"\n";
/// One value above or below the target is enough.
const PACE: PolicyPace = PolicyPace { period: secs(3), high: 1, low: 1 };

async fn scale(fleet: &Fleet, name: &str, replicas: i64) -> anyhow::Result<()> {
    let mode = ServiceSpecModeReplicated { replicas: Some(replicas) };
    fleet
        .update_service(name, |spec| {
            spec.mode =
                Some(ServiceSpecMode { replicated: Some(mode.clone()), ..Default::default() });
        })
        .await
}

/// The value of a series of the group; `None` where the page has none.
async fn series(instance: &Instance, name: &str, group: &str) -> anyhow::Result<Option<f64>> {
    let page = from_health_port(instance, "/metrics").await?;
    let start = format!("skep_group_{name}{{cluster=\"demo\",group=\"{group}\"}} ");
    let line = page.lines().find_map(|line| line.strip_prefix(&start));
    line.map(|value| value.trim().parse().context("a number")).transpose()
}

/// Waits until exactly one manager, the leader, has the series, with this value.
async fn shows(fleet: &Fleet, spec: &ClusterSpec, name: &str, value: f64) -> anyhow::Result<()> {
    let group = spec.workers_group();
    fleet
        .wait_until(&format!("{name} to be {value}"), PATIENCE, async || {
            let leader = fleet.leader().await?;
            for manager in fleet.group(&spec.managers_group()) {
                let shown = series(&manager, name, &group).await?;
                let expected = (manager.id() == leader.id()).then_some(value);
                ensure!(shown == expected, "{}: {shown:?}, not {expected:?}", manager.id());
            }
            Ok(true)
        })
        .await
}

async fn set_maximum(fleet: &Fleet, group: &str, maximum: &str) -> anyhow::Result<()> {
    let update = ["autoscaling", "update-auto-scaling-group", "--auto-scaling-group-name", group];
    aws(fleet, &[&update[..], &["--max-size", maximum]].concat()).await.map(drop)
}

fn count(fleet: &Fleet, words: &str) -> usize {
    let logs = fleet.all_instances().into_iter().map(|one| one.log());
    logs.map(|log| log.matches(words).count()).sum()
}

#[tokio::test]
async fn a_group_follows_its_tasks_up_to_its_maximum_and_back() -> anyhow::Result<()> {
    let spec = ClusterSpec::new("demo", 3, 1);
    let fleet = standing(options_with(CONFIG), &spec).await?;
    let (cloud, group) = (fleet.cloud(), spec.workers_group());
    set_maximum(&fleet, &group, "2").await?;
    let who = Who::Role("skep-manager".to_owned());
    cloud.deny(Deny::new(who, Service::CloudWatch, "PutMetricData"));
    let needed = Metric::new("skep", "NodesNeeded", &[("AutoScalingGroupName", &group)]);
    cloud.set_policy_pace(PACE);
    let policy = PolicySpec::new(&group, "tasks", needed.clone(), 100.0);
    cloud.put_policy(PolicySpec { warmup: Some(secs(0)), ..policy })?;

    // Refused values scale nothing, and the refusal is logged once.
    fleet.create_service_of(fleet.hungry_service("web", 3, secs(5)).await?).await?;
    let leader = fleet.leader().await?;
    shows(&fleet, &spec, "nodes_needed", 3.0).await?;
    shows(&fleet, &spec, "tasks_pending", 2.0).await?;
    let refused = || {
        let calls = cloud.requests();
        calls.iter().filter(|call| call.action == "PutMetricData" && call.status == 403).count()
    };
    fleet.wait_until("two refusals", PATIENCE, async || Ok(refused() >= 2)).await?;
    ensure!(count(&fleet, "grant cloudwatch:PutMetricData") == 1, "{}", leader.log());
    let duty = &status(&leader).await?["node"]["duties"]["capacity"];
    ensure!(duty["last_failure"].to_string().contains("AccessDenied"), "{duty}");
    ensure!(cloud.metric(&needed).is_none() && fleet.group(&group).len() == 1);

    // It grows to its maximum, and a task still waits.
    cloud.allow_all();
    running(&fleet, "web", 2).await?;
    logged(&fleet, &leader, "the group has its maximum of 2 instances").await?;
    ensure!(count(&fleet, "tasks wait for a node: web (resources)") == 1, "{}", leader.log());

    // The next leader goes on.
    let former = Leaver::of(&leader).await?;
    cloud.terminate(leader.id(), false)?;
    former.has_left_by_its_hook(&fleet).await?;
    shows(&fleet, &spec, "nodes_needed", 3.0).await?;
    set_maximum(&fleet, &group, "4").await?;
    running(&fleet, "web", 3).await?;
    shows(&fleet, &spec, "tasks_pending", 0.0).await?;
    ensure!(fleet.group(&group).len() == 3, "one node for each task: {}", fleet.report());

    // Only nodes without tasks are scaled in.
    let protected = || cloud.instances().iter().filter(|it| it.protected).count();
    fleet.wait_until("every node to be protected", PATIENCE, async || Ok(protected() == 3)).await?;
    scale(&fleet, "web", 1).await?;
    let workers: Vec<Arc<Instance>> = fleet.group(&group);
    fleet.wait_until("one worker", PATIENCE, async || Ok(fleet.group(&group).len() == 1)).await?;
    running(&fleet, "web", 1).await?;
    let [kept] = &fleet.group(&group)[..] else { anyhow::bail!("one worker") };
    ensure!(kept.deaths().is_empty(), "{:?}", kept.deaths());
    for gone in workers.iter().filter(|it| it.id() != kept.id()) {
        let deaths = gone.deaths();
        ensure!(deaths.iter().all(|death| death.exit_code == Some(0)), "{deaths:?}");
    }
    fleet.stop().await
}
