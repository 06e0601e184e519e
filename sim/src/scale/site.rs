//! The place of a run: one network namespace in which every instance has an address, the cloud, the engines, and the
//! skep processes.
//!
//! ```text
//! skep-<run>   lo 10.77.0.1:80      ─► the AWS gateway (plain HTTP)
//!              lo 10.77.0.4 … /32   one address per instance: a connection to it comes from it, so the metadata
//!                                   service on 0.0.0.0:1338 knows the instance by the peer address
//! ```
//!
//! Guarantee: nothing outlives the run. All processes are in a PID namespace that ends with this process, and
//! [`Site::stop`] and Drop remove everything but the logs.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak, mpsc};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use nix::sys::signal::Signal;
use nix::sys::socket::{Backlog, listen};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UnixDatagram};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

use super::engine::Engines;
use super::instance::Instance;
use super::priority;
use crate::cloud::{Cloud, CloudOptions, Quotas};
use crate::fleet::SYSTEM_PATH;
use crate::fleet::clean::clean_dead_runs;
use crate::fleet::machine::{Hardware, Machine};
use crate::fleet::netns::Namespace;
use crate::fleet::process::{Exit, Process};
use crate::fleet::run::Run;
use crate::machines::{Disturbance, Launch, Machines};

const SUBNET: (Ipv4Addr, u8) = (Ipv4Addr::new(10, 77, 0, 0), 16);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
/// The first address of an instance: AWS keeps the first four of a subnet.
const FIRST: u32 = 4;
/// Addresses beyond those of the first instances, for replacements.
const SPARE: u32 = 256;
const REGION: &str = "eu-central-1";
const METADATA_PORT: u16 = 1338;
pub(super) const HEALTH_PORT: u16 = 44554;
/// Connections that may wait to be accepted: all instances connect at once, and std allows 128.
const BACKLOG: i32 = 4096;
/// `RestartSec` of skep.service.
const RESTART_PAUSE: Duration = Duration::from_secs(1);
/// `EX_CONFIG`: a restart cannot help.
const EXIT_CONFIG: i32 = 78;
/// Name of the threads that play the engines, for their share of the processor.
pub(super) const ENGINE_THREADS: &str = "engines";

/// The options of a run.
#[derive(Clone, Debug)]
pub(super) struct Options {
    pub(super) skep: PathBuf,
    pub(super) nodes: u32,
    /// The value of `tokens.store`.
    pub(super) store: &'static str,
    /// Parent of the run's directory.
    pub(super) dir: PathBuf,
    pub(super) keep_logs: bool,
}

/// A running site; dropping it stops it.
pub(super) struct Site {
    pub(super) cloud: Cloud,
    pub(super) engines: Engines,
    fleet: Arc<Fleet>,
    servers: Vec<JoinHandle<()>>,
    engine_runtime: Option<Runtime>,
    namespace: Namespace,
    run: Run,
}

/// What launches need.
struct Fleet {
    options: Options,
    engines: Engines,
    machine: Mutex<Option<Machine>>,
    /// By id, terminated ones included.
    instances: Mutex<BTreeMap<String, Arc<Instance>>>,
    is_closed: AtomicBool,
    scratch: PathBuf,
    logs: PathBuf,
    /// The thread that starts processes, one after the other.
    starter: mpsc::Sender<Arc<Instance>>,
    runtime: tokio::runtime::Handle,
}

impl Site {
    /// Starts a cloud with the account's limits, and no instance.
    ///
    /// # Errors
    /// When the namespace, the cloud or the first process cannot be made.
    pub(super) async fn start(options: Options) -> anyhow::Result<Site> {
        tokio::task::spawn_blocking(clean_dead_runs).await??;
        let run = Run::create(&options.dir, options.keep_logs)?;
        let namespace = Namespace::create(&run.namespace())?;
        let count = options.nodes.saturating_add(SPARE).min(65_000);
        let own = (FIRST..FIRST + count).map(|number| Ipv4Addr::from(SUBNET.0.to_bits() + number));
        namespace.become_host(std::iter::once(GATEWAY).chain(own))?;
        let (scratch, logs) = (run.record.scratch.clone(), run.record.dir.clone());
        std::fs::create_dir_all(&scratch)?;
        let machine = power_on(&namespace, &scratch)?;
        let cloud = Cloud::new(CloudOptions {
            region: REGION.to_owned(),
            zones: ["a", "b", "c"].map(|zone| format!("{REGION}{zone}")).to_vec(),
            subnet: SUBNET,
            seed: 1,
        })?;
        cloud.limits().set(Some(Quotas::AWS));
        let servers = vec![
            tokio::spawn(cloud.clone().serve_aws(at(&namespace, GATEWAY, 80)?)),
            tokio::spawn(cloud.clone().serve_imds(at(
                &namespace,
                Ipv4Addr::UNSPECIFIED,
                METADATA_PORT,
            )?)),
        ];
        let engine_runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name(ENGINE_THREADS)
            .enable_all()
            .build()?;
        let of_managers = namespace.clone();
        let open = Box::new(move |address| of_managers.listen(SocketAddr::from((address, 2377))));
        let engines = Engines::new(1, engine_runtime.handle().clone(), open);
        let (starter, starts) = mpsc::channel();
        let fleet = Arc::new(Fleet {
            options,
            engines: engines.clone(),
            machine: Mutex::new(Some(machine)),
            instances: Mutex::default(),
            is_closed: AtomicBool::new(false),
            scratch,
            logs,
            starter,
            runtime: tokio::runtime::Handle::current(),
        });
        let weak = Arc::downgrade(&fleet);
        std::thread::spawn(move || start_all(&weak, &starts));
        cloud.set_machines(Arc::new(Handle(Arc::downgrade(&fleet))));
        let engine_runtime = Some(engine_runtime);
        Ok(Site { cloud, engines, fleet, servers, engine_runtime, namespace, run })
    }

    /// The instances that are not terminated.
    pub(super) fn instances(&self) -> Vec<Arc<Instance>> {
        let mut all = self.all_instances();
        all.retain(|instance| !instance.is_terminated());
        all
    }

    /// All instances of the run.
    pub(super) fn all_instances(&self) -> Vec<Arc<Instance>> {
        self.fleet.register().values().cloned().collect()
    }

    /// The directory with the logs.
    pub(super) fn logs(&self) -> &Path {
        &self.fleet.logs
    }

    /// Fetches the metrics of an instance.
    ///
    /// # Errors
    /// When its skep does not answer.
    pub(super) async fn metrics(&self, address: Ipv4Addr) -> anyhow::Result<String> {
        let ask = async {
            let mut stream = self.namespace.dial((address, HEALTH_PORT).into()).await?;
            let request = format!("GET /metrics HTTP/1.0\r\nHost: {address}\r\n\r\n");
            stream.write_all(request.as_bytes()).await?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await?;
            let (head, body) = answer.split_once("\r\n\r\n").context("no answer to /metrics")?;
            ensure!(head.contains(" 200 "), "{address} refuses its metrics: {head}");
            Ok(body.to_owned())
        };
        tokio::time::timeout(Duration::from_secs(10), ask).await.context("no metrics in 10 s")?
    }

    /// Ends all processes and removes everything but the logs.
    ///
    /// # Errors
    /// When something could not be removed.
    pub(super) async fn stop(self) -> anyhow::Result<()> {
        tokio::task::spawn_blocking(move || self.tear_down()).await?
    }

    fn tear_down(&self) -> anyhow::Result<()> {
        self.fleet.is_closed.store(true, Ordering::SeqCst);
        for server in &self.servers {
            server.abort();
        }
        for instance in self.all_instances() {
            if let Some(listener) = instance.life().listener.take() {
                listener.abort();
            }
        }
        let machine = self.fleet.machine.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(machine) = machine {
            machine.power_off();
        }
        self.run.erase()
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if let Err(error) = self.tear_down() {
            tracing::warn!("remains of run {} are left: {error:#}", self.run.record.id);
        }
        if let Some(runtime) = self.engine_runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// The cloud's reference to the fleet: weak, so that it does not keep a stopped one alive.
struct Handle(Weak<Fleet>);

impl Machines for Handle {
    fn launch(&self, launch: Launch) {
        if let Some(fleet) = self.0.upgrade() {
            fleet.launch(launch);
        }
    }

    fn stop(&self, _instance_id: &str) {}

    fn start(&self, _instance_id: &str) {}

    fn terminate(&self, instance_id: &str) {
        if let Some(fleet) = self.0.upgrade() {
            fleet.terminate(instance_id);
        }
    }

    fn disturb(&self, instance_id: &str, what: Disturbance) -> anyhow::Result<()> {
        bail!("the instances of this run know no {what:?} ({instance_id})")
    }
}

impl Fleet {
    fn register(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Instance>>> {
        self.instances.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn launch(&self, launch: Launch) {
        let id = launch.instance_id;
        let paths = [self.scratch.join(&id), self.logs.join(format!("{id}.log"))];
        let is_manager = launch.tags.get("skep:role").is_some_and(|role| role == "manager");
        let instance = Instance::new(id.clone(), launch.private_address, is_manager, paths);
        let instance = Arc::new(instance);
        self.register().insert(id, Arc::clone(&instance));
        // The thread ends with the fleet.
        let _ = self.starter.send(instance);
    }

    fn terminate(&self, id: &str) {
        let Some(instance) = self.register().get(id).cloned() else { return };
        {
            let mut life = instance.life();
            life.is_terminated = true;
            if let Some(process) = &life.process {
                process.signal(Signal::SIGKILL);
            }
            if let Some(listener) = life.listener.take() {
                listener.abort();
            }
        }
        self.engines.power_off(instance.address);
        std::fs::remove_dir_all(&instance.dir).ok();
    }

    /// Starts the engine and the first skep of an instance.
    fn boot(self: &Arc<Self>, instance: &Arc<Instance>) -> anyhow::Result<()> {
        // skep refuses a directory of settings that does not exist.
        std::fs::create_dir_all(instance.dir.join("etc"))?;
        let socket = instance.dir.join("docker.sock");
        self.engines.start(instance.address, &socket, &instance.dir.join("docker"))?;
        let _runtime = self.runtime.enter();
        let notifications = UnixDatagram::bind(instance.dir.join("notify.sock"))?;
        let heard = Arc::clone(instance);
        let listener = tokio::spawn(async move {
            let mut buffer = vec![0; 16384];
            while let Ok(length) = notifications.recv(&mut buffer).await {
                heard.hear(&String::from_utf8_lossy(&buffer[..length]));
            }
        });
        instance.life().listener = Some(listener.abort_handle());
        self.start_skep(instance)
    }

    fn start_skep(self: &Arc<Self>, instance: &Arc<Instance>) -> anyhow::Result<()> {
        let child = {
            let machine = self.machine.lock().unwrap_or_else(PoisonError::into_inner);
            let machine = machine.as_ref().context("the run is over")?;
            machine.spawn(self.command(instance)?)?
        };
        let process = Process::watch_group(child);
        priority::set_skep(process.pid(), instance.is_manager);
        {
            let mut life = instance.life();
            life.started.get_or_insert_with(tokio::time::Instant::now);
            life.process = Some(process.clone());
            if life.is_terminated {
                process.signal(Signal::SIGKILL);
            }
        }
        let (fleet, instance) = (Arc::clone(self), Arc::clone(instance));
        self.runtime.spawn(async move { fleet.follow(&instance, &process).await });
        Ok(())
    }

    /// Restarts a skep that failed, as systemd does.
    async fn follow(self: &Arc<Self>, instance: &Arc<Instance>, process: &Process) {
        let exit = process.exited().await;
        let is_over = || self.is_closed.load(Ordering::SeqCst) || instance.is_terminated();
        if is_over() {
            return;
        }
        instance.life().exits.push(exit);
        if !exit.is_failure() || exit == Exit::Code(EXIT_CONFIG) {
            return;
        }
        tokio::time::sleep(RESTART_PAUSE).await;
        if is_over() {
            return;
        }
        if let Err(error) = self.start_skep(instance) {
            tracing::warn!("{} is not restarted: {error:#}", instance.id);
        }
    }

    fn command(&self, instance: &Instance) -> anyhow::Result<Command> {
        let log = File::options().create(true).append(true).open(&instance.log)?;
        let (dir, address) = (&instance.dir, instance.address);
        let mut command = Command::new(&self.options.skep);
        command
            .arg("run")
            .env_clear()
            .current_dir(dir)
            .env("PATH", SYSTEM_PATH)
            .env("HOME", dir)
            .env("NOTIFY_SOCKET", dir.join("notify.sock"))
            .env("AWS_ENDPOINT_URL", format!("http://{GATEWAY}"))
            .env("AWS_EC2_METADATA_SERVICE_ENDPOINT", format!("http://{address}:{METADATA_PORT}"))
            .env("DOCKER_HOST", format!("unix://{}", dir.join("docker.sock").display()))
            .env("SKEP_HEALTH_LISTEN", format!("{address}:{HEALTH_PORT}"))
            .env("SKEP_TOKENS_STORE", self.options.store)
            .env("SKEP_CONFIG_DIR", dir.join("etc"))
            .env("SKEP_RUNTIME_DIR", dir.join("run"))
            .env("SKEP_STATE_DIR", dir.join("state"))
            .env("SKEP_FLUSH_DIR", dir.join("flush.d"))
            .env("SKEP_HOOK_SCRIPTS_DIR", dir.join("hooks.d"))
            .stdout(log.try_clone()?)
            .stderr(log);
        Ok(command)
    }
}

fn start_all(fleet: &Weak<Fleet>, starts: &mpsc::Receiver<Arc<Instance>>) {
    for instance in starts {
        let Some(fleet) = fleet.upgrade() else { return };
        if fleet.is_closed.load(Ordering::SeqCst) || instance.is_terminated() {
            continue;
        }
        if let Err(error) = fleet.boot(&instance) {
            tracing::error!("{} does not start: {error:#}", instance.id);
        }
    }
}

/// Powers on the computer whose processes are those of all instances.
fn power_on(namespace: &Namespace, scratch: &Path) -> anyhow::Result<Machine> {
    let empty = |name: &str| -> anyhow::Result<PathBuf> {
        let file = scratch.join(name);
        File::create(&file)?;
        Ok(file)
    };
    let docker_conf = scratch.join("etc-docker");
    std::fs::create_dir_all(&docker_conf)?;
    Machine::power_on(Hardware {
        hostname: "scale".to_owned(),
        netns: namespace.path(),
        resolv_conf: empty("resolv.conf")?,
        hosts: empty("hosts")?,
        docker_conf,
        certificates: None,
    })
}

fn at(namespace: &Namespace, address: Ipv4Addr, port: u16) -> anyhow::Result<TcpListener> {
    let listener = namespace.listen(SocketAddr::from((address, port)))?;
    // A listener that listens again only changes its backlog.
    listen(&listener, Backlog::new(BACKLOG)?)?;
    Ok(TcpListener::from_std(listener)?)
}
