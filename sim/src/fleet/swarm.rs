//! Reads the state of the swarm as a whole for tests, and waits for conditions.

use std::collections::HashMap;
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use bollard::Docker;
use bollard::models::{
    EndpointPortConfig, EndpointPortConfigPublishModeEnum, EndpointSpec, NetworkAttachmentConfig,
    Node, ResourceObject, ServiceSpec, ServiceSpecMode, ServiceSpecModeReplicated, Task, TaskSpec,
    TaskSpecContainerSpec, TaskSpecPlacement, TaskSpecResources, TaskState,
};
use bollard::query_parameters::{ListTasksOptionsBuilder, UpdateServiceOptionsBuilder};
use tokio::time::Instant;

use super::{Fleet, IMAGE, Instance, workload};

/// Interval between two polls of a condition: short, since polls are local. Not shorter: Docker starts two processes
/// for each `docker info`, and dozens of fleets share two cores.
const LOOK_EVERY: Duration = Duration::from_millis(200);
const LOOK_AT_LEAST_EVERY: Duration = Duration::from_secs(1);
/// Time for one manager to answer before the next one is asked: without a quorum, Docker's API hangs for up to 30 s.
const ANSWER_PATIENCE: Duration = Duration::from_secs(5);
/// Another writer can be faster a few times.
const UPDATE_ATTEMPTS: usize = 10;
/// Lines of each log that go into an error.
const TAIL: usize = 12;

impl Fleet {
    /// Polls `look` until it returns a value. Errors of `look` only count at the timeout.
    ///
    /// # Errors
    ///
    /// At the timeout: `what`, the last error, and the end of every log.
    pub async fn wait_for<T, F>(&self, what: &str, timeout: Duration, look: F) -> anyhow::Result<T>
    where
        F: AsyncFnMut() -> anyhow::Result<Option<T>>,
    {
        wait_for(what, timeout, look, || self.report()).await
    }

    /// Waits for a condition with [`Fleet::wait_for`].
    pub async fn wait_until<F>(
        &self,
        what: &str,
        timeout: Duration,
        mut look: F,
    ) -> anyhow::Result<()>
    where
        F: AsyncFnMut() -> anyhow::Result<bool>,
    {
        self.wait_for(what, timeout, async || Ok(look().await?.then_some(()))).await
    }

    /// The state of every instance and the end of its log, for a developer who looks for the cause.
    pub fn report(&self) -> String {
        let mut report = format!("run {} in {}\n", self.run_id(), self.dir().display());
        for instance in self.all_instances() {
            let state = match (instance.is_gone(), instance.is_on()) {
                (true, _) => "gone",
                (_, true) => "on",
                (_, false) => "off",
            };
            let status = instance.statuses().pop().unwrap_or_default();
            let (id, address, group) =
                (instance.id(), instance.address(), &instance.launch().group);
            let exits = instance.exit_codes();
            let ended = if instance.skep_running() { "running" } else { "not running" };
            // Writing to a String cannot fail.
            writeln!(report, "── {id} {address} {group}: {state}, skep {ended}, exits {exits:?}")
                .ok();
            writeln!(report, "   status: {status}").ok();
            let log = instance.log();
            for line in tail(if log.is_empty() { instance.dockerd_log() } else { log }) {
                writeln!(report, "   {line}").ok();
            }
        }
        report
    }

    /// A client for a manager that answers, and its instance.
    pub async fn manager(&self) -> anyhow::Result<(Arc<Instance>, Docker)> {
        for instance in self.instances() {
            let Ok(docker) = instance.docker() else { continue };
            let nodes = tokio::time::timeout(ANSWER_PATIENCE, docker.list_nodes(None)).await;
            if matches!(nodes, Ok(Ok(_))) {
                return Ok((instance, docker));
            }
        }
        bail!("no manager answers")
    }

    /// A client for a manager that answers.
    pub async fn manager_docker(&self) -> anyhow::Result<Docker> {
        self.manager().await.map(|(_, docker)| docker)
    }

    /// The swarm's nodes, as a live manager lists them.
    pub async fn nodes(&self) -> anyhow::Result<Vec<Node>> {
        Ok(self.manager_docker().await?.list_nodes(None).await?)
    }

    /// The instance that leads the swarm.
    pub async fn leader(&self) -> anyhow::Result<Arc<Instance>> {
        let nodes = self.nodes().await?;
        let leader = nodes.into_iter().find(|node| {
            node.manager_status.as_ref().and_then(|status| status.leader) == Some(true)
        });
        let address = leader.and_then(|node| node.manager_status?.addr).context("no leader")?;
        let host = address.rsplit_once(':').map_or(address.as_str(), |(host, _)| host);
        self.instances()
            .into_iter()
            .find(|instance| instance.address().to_string() == host)
            .with_context(|| format!("the leader {address} is no instance of this run"))
    }

    /// Creates a replicated service of the preloaded image and returns its id; [`super::workload`] has commands.
    pub async fn create_service(
        &self,
        name: &str,
        replicas: u32,
        command: Vec<String>,
        stop_grace: Duration,
    ) -> anyhow::Result<String> {
        self.create_service_of(service(name, replicas, command, stop_grace)?).await
    }

    /// Returns a service of which a worker can run one task: by what the tasks reserve, not by what they use.
    pub async fn hungry_service(
        &self,
        name: &str,
        replicas: u32,
        stop_grace: Duration,
    ) -> anyhow::Result<ServiceSpec> {
        let info = self.manager_docker().await?.info().await?;
        let cpus = info.ncpu.context("Docker does not say how many CPUs it has")?;
        let mut spec = service(name, replicas, workload::graceful(), stop_grace)?;
        let template = spec.task_template.get_or_insert_default();
        let more_than_half = Some(cpus * 600_000_000);
        let reservations = ResourceObject { nano_cpus: more_than_half, ..Default::default() };
        template.resources =
            Some(TaskSpecResources { reservations: Some(reservations), ..Default::default() });
        template.placement = Some(on_workers());
        Ok(spec)
    }

    /// Creates a service and returns its id.
    pub async fn create_service_of(&self, spec: ServiceSpec) -> anyhow::Result<String> {
        let created = self.manager_docker().await?.create_service(spec, None).await?;
        created.id.context("Docker gave the service no id")
    }

    /// Changes a service as an operator does; tries again if another writer was faster.
    pub async fn update_service(
        &self,
        name: &str,
        edit: impl Fn(&mut ServiceSpec),
    ) -> anyhow::Result<()> {
        for _ in 0..UPDATE_ATTEMPTS {
            let docker = self.manager_docker().await?;
            let service = docker.inspect_service(name, None).await?;
            let version = service.version.and_then(|it| it.index).context("no version")?;
            let mut spec = service.spec.context("no spec")?;
            edit(&mut spec);
            let options =
                UpdateServiceOptionsBuilder::default().version(version.try_into()?).build();
            if docker.update_service(name, spec, options, None).await.is_ok() {
                return Ok(());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        bail!("{name} cannot be updated")
    }

    /// All tasks of the swarm, by the service's name.
    pub async fn tasks_of_service(&self, service: &str) -> anyhow::Result<Vec<Task>> {
        self.tasks("service", service).await
    }

    /// All tasks of a node, ended ones included, as a live manager lists them.
    pub async fn tasks_of(&self, instance: &Instance) -> anyhow::Result<Vec<Task>> {
        let info = instance.docker()?.info().await?;
        let node = info.swarm.and_then(|swarm| swarm.node_id).filter(|id| !id.is_empty());
        let node = node.with_context(|| format!("{} is in no swarm", instance.id()))?;
        self.tasks("node", &node).await
    }

    async fn tasks(&self, filter: &str, value: &str) -> anyhow::Result<Vec<Task>> {
        let filters = HashMap::from([(filter.to_owned(), vec![value.to_owned()])]);
        let options = ListTasksOptionsBuilder::new().filters(&filters).build();
        Ok(self.manager_docker().await?.list_tasks(Some(options)).await?)
    }
}

/// Polls `look` until it returns a value; errors of `look` only count at the timeout. `report` is for a developer who
/// looks for the cause.
pub(crate) async fn wait_for<T, F>(
    what: &str,
    timeout: Duration,
    mut look: F,
    report: impl Fn() -> String,
) -> anyhow::Result<T>
where
    F: AsyncFnMut() -> anyhow::Result<Option<T>>,
{
    let begin = Instant::now();
    let end = begin + timeout;
    let mut last = None;
    loop {
        match tokio::time::timeout_at(end, look()).await {
            Ok(Ok(Some(found))) => {
                // scripts/times.py makes the tests' report of waiting times from these lines.
                if std::env::var_os("NEXTEST").is_some() {
                    println!("waited {:.1} s for {what}", begin.elapsed().as_secs_f64());
                }
                return Ok(found);
            }
            Ok(Ok(None)) => last = None,
            Ok(Err(error)) => last = Some(error),
            Err(_) => {}
        }
        // After a long wait, a slightly longer interval adds no relevant delay.
        let pause = (begin.elapsed() / 20).clamp(LOOK_EVERY, LOOK_AT_LEAST_EVERY);
        if Instant::now() + pause >= end {
            break;
        }
        tokio::time::sleep(pause).await;
    }
    let error = last.map(|error| format!(": {error:#}")).unwrap_or_default();
    bail!("waited {timeout:?} in vain for {what}{error}\n{}", report())
}

/// Whether a task runs and should run: Docker reports a task of a lost node as running for ever, but its desired state
/// changes.
pub fn is_running(task: &Task) -> bool {
    task.desired_state == Some(TaskState::RUNNING)
        && task.status.as_ref().and_then(|status| status.state) == Some(TaskState::RUNNING)
}

/// A replicated service of the preloaded image, in the host's network: a network of its own is the most expensive thing
/// that Docker does for a task, and this kernel may have no IP_VS for published ports.
pub fn service(
    name: &str,
    replicas: u32,
    command: Vec<String>,
    stop_grace: Duration,
) -> anyhow::Result<ServiceSpec> {
    let container = TaskSpecContainerSpec {
        image: Some(IMAGE.to_owned()),
        command: Some(command),
        init: Some(false),
        stop_grace_period: Some(stop_grace.as_nanos().try_into()?),
        ..Default::default()
    };
    Ok(ServiceSpec {
        name: Some(name.to_owned()),
        task_template: Some(TaskSpec {
            container_spec: Some(container),
            networks: Some(vec![NetworkAttachmentConfig {
                target: Some("host".to_owned()),
                ..Default::default()
            }]),
            ..Default::default()
        }),
        mode: Some(ServiceSpecMode {
            replicated: Some(ServiceSpecModeReplicated { replicas: Some(replicas.into()) }),
            ..Default::default()
        }),
        ..Default::default()
    })
}

/// A service of the preloaded image on workers. skep starts its tasks elsewhere before it drains a worker.
pub fn start_first(
    name: &str,
    replicas: u32,
    command: Vec<String>,
    stop_grace: Duration,
) -> anyhow::Result<ServiceSpec> {
    let mut spec = service(name, replicas, command, stop_grace)?;
    spec.labels = Some([("skep.drain".to_owned(), "start-first".to_owned())].into());
    spec.task_template.get_or_insert_default().placement = Some(on_workers());
    Ok(spec)
}

fn on_workers() -> TaskSpecPlacement {
    TaskSpecPlacement {
        constraints: Some(vec!["node.role==worker".to_owned()]),
        ..Default::default()
    }
}

/// A service of the preloaded image with a task on every worker, reachable at a port of its host.
pub fn on_every_worker(
    name: &str,
    port: u16,
    command: Vec<String>,
    stop_grace: Duration,
) -> anyhow::Result<ServiceSpec> {
    let mut spec = service(name, 0, command, stop_grace)?;
    let task = spec.task_template.get_or_insert_default();
    // A port can be published only in a network of the task's own.
    task.networks = None;
    task.placement = Some(on_workers());
    spec.mode = Some(ServiceSpecMode {
        global: Some(std::collections::HashMap::new()),
        ..Default::default()
    });
    spec.endpoint_spec = Some(EndpointSpec {
        ports: Some(vec![EndpointPortConfig {
            target_port: Some(port.into()),
            published_port: Some(port.into()),
            publish_mode: Some(EndpointPortConfigPublishModeEnum::HOST),
            ..Default::default()
        }]),
        ..Default::default()
    });
    Ok(spec)
}

fn tail(text: String) -> Vec<String> {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(TAIL)..].iter().map(|line| (*line).to_owned()).collect()
}
