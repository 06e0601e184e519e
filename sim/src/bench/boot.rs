//! Measures a worker's boot in four ways, in rounds that take turns.
//!
//! A measurement starts with the process (for the bare join: with the API call) and ends when a manager's node list
//! shows the node as ready. The same instance does all four, and its dockerd was started long before. Between two
//! measurements the node leaves, is removed from the node list and the ledger, and skep's state directory is emptied,
//! so that each is a first boot. Fresh instances would be no fairer, and would add the end of one dockerd and the
//! start of the next to every number.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use bollard::Docker;
use bollard::models::{LocalNodeState, Node, NodeState, SwarmJoinRequest, Task};
use bollard::query_parameters::{DeleteNodeOptionsBuilder, ListTasksOptionsBuilder};
use serde_json::json;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

use crate::fleet::{CERTIFICATES, ClusterSpec, Fleet, Instance, SYSTEM_PATH};

/// Interval between two polls of the manager; it is the resolution of the result.
pub const POLL_EVERY: Duration = Duration::from_millis(5);
/// Timeout of a boot: far longer than the slowest variant.
const LIMIT: Duration = Duration::from_secs(60);
/// Pause after a departure, so that the daemon's clean-up is not part of the next measurement.
const SETTLE: Duration = Duration::from_millis(300);
/// A manager records nodes that have become ready in batches, one every 100 ms. A pause of a fixed length after one of
/// these writes would favour the variant whose time fits into the rhythm, so a random part of this is added to it.
const BATCH: Duration = Duration::from_millis(100);
const SCRIPT: &str = include_str!("userdata.sh");

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// `skep run`, and plain HTTP to AWS.
    SkepHttp,
    /// `skep run` as on EC2: each service's first call opens a connection with TLS and checks its certificate.
    SkepTls,
    /// One call of the Docker API, with all parameters known.
    BareJoin,
    /// The shell script, with TLS to AWS.
    Script,
}

impl Variant {
    pub const ALL: [Variant; 4] =
        [Variant::SkepHttp, Variant::SkepTls, Variant::BareJoin, Variant::Script];

    pub fn name(self) -> &'static str {
        match self {
            Variant::SkepHttp => "skep, HTTP",
            Variant::SkepTls => "skep, TLS",
            Variant::BareJoin => "bare join",
            Variant::Script => "shell script",
        }
    }
}

/// The worker that boots repeatedly, and the manager that is polled.
pub struct Boots<'a> {
    pub fleet: &'a Fleet,
    pub cluster: &'a ClusterSpec,
    pub worker: Arc<Instance>,
    pub worker_docker: Docker,
    pub manager: Docker,
    /// The manager address for the bare join.
    pub manager_address: String,
    pub worker_token: String,
    pub aws: PathBuf,
}

impl Boots<'_> {
    /// Measures one boot, and then restores the state before it.
    pub async fn measure(&self, variant: Variant) -> anyhow::Result<Duration> {
        self.worker.speak_tls(variant != Variant::SkepHttp);
        let took = match variant {
            Variant::SkepHttp | Variant::SkepTls => self.boot_with_skep().await,
            Variant::BareJoin => self.join_bare().await,
            Variant::Script => self.run_script().await,
        };
        let took = took.with_context(|| variant.name())?;
        self.undo().await.context("taking the worker out again")?;
        Ok(took)
    }

    /// Boots with skep. skep keeps running afterwards, and has confirmed its membership.
    pub async fn boot_with_skep(&self) -> anyhow::Result<Duration> {
        let start = Instant::now();
        self.worker.start_skep()?;
        let took = self.until_ready(start).await?;
        // Not measured: the other variants do not check that they have succeeded.
        let says = async || Ok(self.worker.is_ready());
        self.fleet.wait_until("skep to say that it is Ready", LIMIT, says).await?;
        Ok(took)
    }

    async fn join_bare(&self) -> anyhow::Result<Duration> {
        let request = SwarmJoinRequest {
            listen_addr: Some("0.0.0.0:2377".to_owned()),
            advertise_addr: Some(self.worker.address().to_string()),
            data_path_addr: None,
            remote_addrs: Some(vec![self.manager_address.clone()]),
            join_token: Some(self.worker_token.clone()),
        };
        let start = Instant::now();
        let (joined, ready) =
            tokio::join!(self.worker_docker.join_swarm(request), self.until_ready(start));
        joined?;
        ready
    }

    async fn run_script(&self) -> anyhow::Result<Duration> {
        let mut script = Command::new("bash");
        script.args(["-c", SCRIPT]).current_dir(self.worker.dir()).env_clear();
        script
            .env("PATH", SYSTEM_PATH)
            .env("HOME", self.worker.dir())
            .env("DOCKER_HOST", format!("unix://{}", self.worker.docker_socket().display()))
            .env("AWS", &self.aws)
            .env("AWS_ENDPOINT_URL", self.worker.endpoint())
            .env("AWS_CA_BUNDLE", CERTIFICATES)
            .env("AWS_CONFIG_FILE", "/dev/null")
            .env("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
            .env("TABLE", &self.cluster.table)
            .env("TOKEN_PARAMETER", format!("/skep/{}/worker-token/1", self.cluster.name));
        let start = Instant::now();
        let mut run = std::pin::pin!(self.worker.run(script));
        let mut ready = std::pin::pin!(self.until_ready(start));
        let took = tokio::select! {
            ready = &mut ready => ready?,
            output = &mut run => {
                let output = output?;
                // The script's steps after the join are not measured, and its signal fails because the stack is
                // already complete. A script that failed before the join never becomes ready.
                match timeout(Duration::from_secs(2), &mut ready).await {
                    Ok(ready) => return ready,
                    Err(_) => bail!("the script: {}", String::from_utf8_lossy(&output.stderr)),
                }
            }
        };
        run.await?;
        Ok(took)
    }

    /// Waits until the manager lists the worker as ready; returns the time since `start`.
    async fn until_ready(&self, start: Instant) -> anyhow::Result<Duration> {
        let is_ready =
            |node: Option<Node>| node.and_then(|node| node.status?.state) == Some(NodeState::READY);
        self.until(start, is_ready).await.context("the node did not become ready")
    }

    /// Polls the worker's entry in the node list; returns the time since `start` when it is as expected.
    pub async fn until(
        &self,
        start: Instant,
        is_so: impl Fn(Option<Node>) -> bool,
    ) -> anyhow::Result<Duration> {
        let mut ticks = interval(POLL_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let polling = async {
            loop {
                ticks.tick().await;
                if is_so(self.listed().await?) {
                    return anyhow::Ok(start.elapsed());
                }
            }
        };
        timeout(LIMIT, polling).await.with_context(|| format!("not within {LIMIT:?}"))?
    }

    /// The worker's entry in the node list.
    pub async fn listed(&self) -> anyhow::Result<Option<Node>> {
        find(&self.manager, &self.worker).await
    }

    /// The tasks of a service, ended ones included, as the manager lists them.
    pub async fn manager_tasks(&self, service: &str) -> anyhow::Result<Vec<Task>> {
        let filters = HashMap::from([("service".to_owned(), vec![service.to_owned()])]);
        let options = ListTasksOptionsBuilder::new().filters(&filters).build();
        Ok(self.manager.list_tasks(Some(options)).await?)
    }

    /// Removes all traces of the boot, so that the next one is a first boot.
    pub async fn undo(&self) -> anyhow::Result<()> {
        if self.worker.skep_running() {
            self.worker.stop_skep().await?;
        }
        self.worker_docker.leave_swarm(None).await?;
        let node = self.listed().await?.and_then(|node| node.id).context("it is not listed")?;
        self.remove(&node).await?;
        self.forget().await
    }

    /// Removes a node from the list, also one that Docker does not yet call Down.
    pub async fn remove(&self, node: &str) -> anyhow::Result<()> {
        let by_force = DeleteNodeOptionsBuilder::new().force(true).build();
        Ok(self.manager.delete_node(node, Some(by_force)).await?)
    }

    /// Removes the traces of a node that has left and is off the list.
    pub async fn forget(&self) -> anyhow::Result<()> {
        for item in ["member#worker", "departure"] {
            let item = format!("{item}#{}", self.worker.id());
            let cloud = self.fleet.cloud();
            let partition = cloud.workers_partition(&self.cluster.name, self.worker.id());
            let key = json!({ "cluster": { "S": partition }, "item": { "S": item } });
            self.fleet.cloud().delete_row(&self.cluster.table, &key)?;
        }
        let state = self.worker.dir().join("state");
        match fs::remove_dir_all(&state) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
            _ => fs::create_dir_all(&state)?,
        }
        let swarm = self.worker_docker.info().await?.swarm.unwrap_or_default();
        let state = swarm.local_node_state;
        ensure!(state == Some(LocalNodeState::INACTIVE), "after leaving, Docker says {state:?}");
        sleep(SETTLE + BATCH.mul_f64(fastrand::f64())).await;
        Ok(())
    }
}

/// An instance's entry in a manager's node list.
pub async fn find(manager: &Docker, instance: &Instance) -> anyhow::Result<Option<Node>> {
    let address = instance.address().to_string();
    let nodes = manager.list_nodes(None).await?;
    Ok(nodes.into_iter().find(|node| {
        let status = node.status.as_ref();
        status.and_then(|status| status.addr.as_deref()) == Some(address.as_str())
    }))
}
