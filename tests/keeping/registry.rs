//! Services pull from a registry that requires ECR's credentials, and these expire: a node that joins later can still
//! pull, and nothing else happens to the services.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use bollard::models::{
    HealthConfig, Service, ServiceSpec, ServiceSpecMode, ServiceSpecModeReplicatedJob,
    ServiceSpecUpdateConfig, ServiceSpecUpdateConfigFailureActionEnum as FailureAction,
    ServiceUpdateStatusStateEnum, TaskSpecPlacement, TaskSpecRestartPolicy,
    TaskSpecRestartPolicyConditionEnum as Condition, TaskState,
};
use bollard::query_parameters::{InspectServiceOptionsBuilder, UpdateServiceOptionsBuilder};
use harness::PATIENCE;
use harness::departures::{options_with, running};
use harness::swarm::{self, CLUSTER};
use harness::{secs, skep_binary};
use serde_json::{Value, json};
use skep_sim::fleet::{Fleet, FleetOptions, Instance, Registry, service, workload};

/// Lifetime of ECR's tokens here; skep renews them after half of it.
const LIFE: time::Duration = time::Duration::seconds(30);
/// Registry hosts of two accounts in two regions.
const HOME: &str = "123456789012.dkr.ecr.eu-central-1.amazonaws.com";
const ABROAD: &str = "210987654321.dkr.ecr.us-east-1.amazonaws.com";
const GRACE: Duration = secs(1);

/// A fleet without instances, and a registry behind both hosts.
async fn with_registry() -> anyhow::Result<(Fleet, Registry)> {
    let daemon = json!({ "insecure-registries": [HOME, ABROAD] });
    let options = FleetOptions {
        hosts: [HOME, ABROAD].map(str::to_owned).to_vec(),
        pulls: true,
        daemon: daemon.as_object().cloned().unwrap_or_default(),
        ..options_with("[registry]\necr = true\n")
    };
    let fleet = harness::fleet(options).await?;
    let registry = fleet.start_registry().await?;
    Ok((fleet, registry))
}

/// Attaches to the roles, beside the template's own policies, AWS's managed policy AmazonEC2ContainerRegistryPullOnly,
/// as of November 2026.
fn attach_pull_only(fleet: &Fleet) -> anyhow::Result<()> {
    let policy = json!({
        "Version": "2012-10-17",
        "Statement": [{
            "Effect": "Allow",
            "Action": [
                "ecr:GetAuthorizationToken",
                "ecr:BatchImportUpstreamImage",
                "ecr:BatchGetImage",
                "ecr:GetDownloadUrlForLayer",
            ],
            "Resource": "*",
        }],
    });
    for role in ["skep-manager", "skep-worker"] {
        fleet.cloud().attach_role_policy(role, &policy)?;
    }
    Ok(())
}

/// A service on workers, with one task.
fn spec(name: &str, image: &str, command: Vec<String>) -> anyhow::Result<ServiceSpec> {
    let mut spec = service(name, 1, command, GRACE)?;
    let template = spec.task_template.get_or_insert_default();
    template.container_spec.get_or_insert_default().image = Some(image.to_owned());
    template.placement = Some(TaskSpecPlacement {
        constraints: Some(vec!["node.role==worker".to_owned()]),
        ..Default::default()
    });
    Ok(spec)
}

async fn inspect(fleet: &Fleet, name: &str) -> anyhow::Result<Service> {
    let options = InspectServiceOptionsBuilder::new().build();
    Ok(fleet.manager_docker().await?.inspect_service(name, Some(options)).await?)
}

async fn version(fleet: &Fleet, name: &str) -> anyhow::Result<u64> {
    let version = inspect(fleet, name).await?.version.and_then(|version| version.index);
    version.context("a service without a version")
}

/// Ids of a service's running tasks.
async fn run_by(fleet: &Fleet, name: &str) -> anyhow::Result<BTreeSet<String>> {
    let tasks = fleet.tasks_of_service(name).await?.into_iter();
    let running = tasks
        .filter(|task| task.status.as_ref().and_then(|it| it.state) == Some(TaskState::RUNNING));
    Ok(running.filter_map(|task| task.id).collect())
}

async fn trouble(instance: &Instance) -> anyhow::Result<Option<String>> {
    let output = instance.skep(["status", "--json"]).await?;
    let status: Value = serde_json::from_slice(&output.stdout).context("no status")?;
    Ok(status["node"]["trouble"].as_str().map(str::to_owned))
}

async fn troubled(fleet: &Fleet, leader: &Instance, words: &[&str]) -> anyhow::Result<()> {
    fleet
        .wait_until(&format!("a trouble with {words:?}"), PATIENCE, async || {
            let trouble = trouble(leader).await?.context("there is none")?;
            ensure!(words.iter().all(|word| trouble.contains(word)), "{trouble}");
            Ok(true)
        })
        .await
}

async fn untroubled(fleet: &Fleet, leader: &Instance) -> anyhow::Result<()> {
    let is_over = async || Ok(trouble(leader).await?.is_none());
    fleet.wait_until("the trouble to be over", PATIENCE, is_over).await
}

/// Pauses a service's update with an image that does not exist.
async fn pause(fleet: &Fleet, name: &str) -> anyhow::Result<()> {
    let docker = fleet.manager_docker().await?;
    fleet
        .wait_until("Docker to take the update", PATIENCE, async || {
            let seen = inspect(fleet, name).await?;
            let mut spec = seen.spec.context("a service without a spec")?;
            let template = spec.task_template.get_or_insert_default();
            let image = Some(format!("{HOME}/nothing:1"));
            template.container_spec.get_or_insert_default().image = image;
            spec.update_config = Some(ServiceSpecUpdateConfig {
                failure_action: Some(FailureAction::PAUSE),
                ..Default::default()
            });
            let index = seen.version.and_then(|version| version.index).context("no version")?;
            let options = UpdateServiceOptionsBuilder::new().version(i32::try_from(index)?).build();
            // Docker refuses it as out of sequence when a manager's skep has written in between.
            Ok(docker.update_service(name, spec, options, None).await.is_ok())
        })
        .await?;
    fleet
        .wait_until("a paused update", PATIENCE, async || {
            let state = inspect(fleet, name).await?.update_status.and_then(|status| status.state);
            Ok(state == Some(ServiceUpdateStatusStateEnum::PAUSED))
        })
        .await
}

/// Creates the services that skep must not touch in their final state: two that have run to their end, and one with a
/// paused update. They start with an operator's credentials.
async fn create_those_to_leave_alone(fleet: &Fleet) -> anyhow::Result<()> {
    let image = format!("{HOME}/app:1");
    let done = || vec!["true".to_owned()];
    let mut job = spec("job", &image, done())?;
    job.mode = Some(ServiceSpecMode {
        replicated_job: Some(ServiceSpecModeReplicatedJob {
            max_concurrent: Some(1),
            total_completions: Some(1),
        }),
        ..Default::default()
    });
    let mut once = spec("once", &image, done())?;
    once.task_template.get_or_insert_default().restart_policy =
        Some(TaskSpecRestartPolicy { condition: Some(Condition::NONE), ..Default::default() });
    let held = spec("held", &image, workload::graceful())?;
    for spec in [job, once, held] {
        let credentials = Some(fleet.operators_credentials());
        fleet.manager_docker().await?.create_service(spec, credentials).await?;
    }
    for name in ["job", "once"] {
        fleet
            .wait_until(&format!("{name} to end"), PATIENCE, async || {
                let tasks = fleet.tasks_of_service(name).await?;
                let state = |task: &bollard::models::Task| task.status.as_ref()?.state;
                Ok(tasks.iter().any(|task| state(task) == Some(TaskState::COMPLETE)))
            })
            .await?;
    }
    running(fleet, "held", 1).await?;
    pause(fleet, "held").await
}

/// The parts of those services that must not change: their versions, and the ended services' tasks.
async fn left_alone(fleet: &Fleet) -> anyhow::Result<(BTreeMap<&str, u64>, BTreeSet<String>)> {
    let (mut versions, mut tasks) = (BTreeMap::new(), BTreeSet::new());
    for name in ["job", "once", "held"] {
        versions.insert(name, version(fleet, name).await?);
        // Docker keeps trying to start the one without an image.
        if name != "held" {
            let of_it = fleet.tasks_of_service(name).await?;
            tasks.extend(of_it.into_iter().filter_map(|task| task.id));
        }
    }
    Ok((versions, tasks))
}

/// Waits until each of these services has received credentials this many times.
async fn given_times(fleet: &Fleet, services: &[&str], times: usize) -> anyhow::Result<()> {
    let mut seen = HashMap::<String, BTreeSet<u64>>::new();
    fleet
        .wait_until(&format!("{times} times of new credentials"), PATIENCE, async || {
            for row in swarm::rows(fleet, CLUSTER, "registry-auth#").await? {
                let id = row["service_id"].as_str().context("no service")?.to_owned();
                let since = row["since"].as_u64().context("no time")?;
                seen.entry(id).or_default().insert(since);
            }
            for name in services {
                let id = inspect(fleet, name).await?.id.context("a service without an id")?;
                let count = seen.get(&id).map_or(0, BTreeSet::len);
                ensure!(count >= times, "{name}: {count}");
            }
            Ok(true)
        })
        .await
}

#[tokio::test]
async fn a_node_that_joins_later_pulls_and_nothing_is_restarted() -> anyhow::Result<()> {
    let (fleet, _registry) = with_registry().await?;
    attach_pull_only(&fleet)?;
    fleet.cloud().set_registry_token_life(LIFE);
    fleet.create_cluster(&swarm::cluster(1, 1))?;
    swarm::all_ready(&fleet, 2).await?;
    let leader = fleet.leader().await?;
    for name in ["app:1", "tool:1"] {
        fleet.push_image(&leader, &format!("{HOME}/{name}")).await?;
    }
    // Only skep gives these two services credentials.
    let mut web = spec("web", &format!("{HOME}/app:1"), workload::graceful())?;
    web.mode = Some(ServiceSpecMode { global: Some(HashMap::new()), ..Default::default() });
    // An attribute that engines remove from a spec when an older API version is used.
    let container =
        web.task_template.get_or_insert_default().container_spec.get_or_insert_default();
    let every = Some(secs(2).as_nanos().try_into()?);
    container.health_check = Some(HealthConfig {
        test: Some(vec!["CMD".to_owned(), "true".to_owned()]),
        interval: every,
        start_period: every,
        start_interval: every,
        ..Default::default()
    });
    let abroad = spec("abroad", &format!("{ABROAD}/app:1"), workload::graceful())?;
    for spec in [web, abroad] {
        fleet.manager_docker().await?.create_service(spec, None).await?;
    }
    running(&fleet, "web", 1).await?;
    running(&fleet, "abroad", 1).await?;
    create_those_to_leave_alone(&fleet).await?;

    let ours = ["web", "abroad"];
    given_times(&fleet, &ours, 1).await?;
    let untouched = left_alone(&fleet).await?;
    let mut before = vec![];
    for name in ours {
        before.push((inspect(&fleet, name).await?.spec, run_by(&fleet, name).await?));
    }
    given_times(&fleet, &ours, 3).await?;
    for (name, (spec, tasks)) in ours.into_iter().zip(before) {
        let now = inspect(&fleet, name).await?;
        assert_eq!(now.spec, spec, "{name}");
        assert_eq!(run_by(&fleet, name).await?, tasks, "{name}: tasks were restarted");
    }
    assert_eq!(left_alone(&fleet).await?, untouched);
    troubled(&fleet, &leader, &["held gets no pull credentials", "paused"]).await?;

    swarm::resize(&fleet, "worker", 2)?;
    let late = swarm::newest(&fleet, "worker", 2).await?;
    running(&fleet, "web", 2).await?;
    let visits = fleet.cloud().requests();
    let visits = visits.iter().filter(|it| it.instance_id.as_deref() == Some(late.id()));
    let pulls: Vec<u16> = visits
        .filter(|it| it.action.starts_with("GET /v2/app/manifests"))
        .map(|it| it.status)
        .collect();
    ensure!(!pulls.is_empty() && pulls.iter().all(|status| *status == 200), "pulls: {pulls:?}");
    pulls_with_the_credential_helper(&fleet, &late).await?;
    nothing_secret_is_said(&fleet).await?;
    fleet.stop().await
}

/// `docker pull`, with skep under its other name, as the packages install it.
async fn pulls_with_the_credential_helper(fleet: &Fleet, node: &Instance) -> anyhow::Result<()> {
    let bin = node.dir().join("bin");
    std::os::unix::fs::symlink(skep_binary(), bin.join("docker-credential-skep"))?;
    let config = json!({ "credHelpers": { HOME: "skep" } });
    std::fs::write(node.dir().join("config.json"), config.to_string())?;
    let mut pull = Command::new("docker");
    pull.args(["pull", &format!("{HOME}/tool:1")])
        .env_clear()
        .env("PATH", format!("{}:/usr/local/bin:/usr/bin:/bin", bin.display()))
        .env("HOME", node.dir())
        .env("DOCKER_CONFIG", node.dir())
        .env("DOCKER_HOST", format!("unix://{}", node.docker_socket().display()))
        .env("AWS_ENDPOINT_URL", fleet.gateway());
    let pulled = node.run(pull).await?;
    let said = [pulled.stdout, pulled.stderr].concat();
    ensure!(pulled.status.success(), "{}", String::from_utf8_lossy(&said));
    Ok(())
}

async fn nothing_secret_is_said(fleet: &Fleet) -> anyhow::Result<()> {
    let passwords = fleet.cloud().registry_passwords();
    ensure!(passwords.len() > 3, "{} passwords", passwords.len());
    let mut said: Vec<String> = fleet.instances().iter().map(|instance| instance.log()).collect();
    for row in swarm::rows(fleet, CLUSTER, "").await? {
        said.push(Value::Object(row).to_string());
    }
    let is_said = |password: &String| said.iter().any(|said| said.contains(password.as_str()));
    ensure!(!passwords.iter().any(is_said), "a password is in a log or in the ledger");
    Ok(())
}

#[tokio::test]
async fn who_refuses_and_why_is_in_the_status() -> anyhow::Result<()> {
    let (fleet, _registry) = with_registry().await?;
    fleet.create_cluster(&swarm::cluster(1, 1))?;
    swarm::all_ready(&fleet, 2).await?;
    let leader = fleet.leader().await?;
    for name in ["app:1", "app:2"] {
        fleet.push_image(&leader, &format!("{HOME}/{name}")).await?;
    }
    let create = async |name: &str, image: &str| {
        let spec = spec(name, &format!("{HOME}/{image}"), workload::graceful())?;
        let docker = fleet.manager_docker().await?;
        docker.create_service(spec, None).await.context("no service")
    };
    // The template's roles have no permission to request tokens.
    create("web", "app:1").await?;
    troubled(&fleet, &leader, &["web", "access denied", "grant ecr:GetAuthorizationToken"]).await?;
    ensure!(run_by(&fleet, "web").await?.is_empty(), "it runs without credentials");

    attach_pull_only(&fleet)?;
    running(&fleet, "web", 1).await?;
    untroubled(&fleet, &leader).await?;

    fleet.cloud().set_registry_refuses(true);
    create("other", "app:2").await?;
    troubled(&fleet, &leader, &["other are rejected", "No such image", "ecr:BatchGetImage"])
        .await?;
    fleet.cloud().set_registry_refuses(false);
    running(&fleet, "other", 1).await?;
    untroubled(&fleet, &leader).await?;
    fleet.stop().await
}
