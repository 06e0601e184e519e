//! Runs the instances of the local cloud: a network namespace, a real dockerd and a real skep each.
//!
//! ```text
//! root namespace     aws CLI ──► 127.0.0.1:N ─┐
//! skep-<run>         bridge 10.78.0.1:80, 443 ┴─► the AWS gateway      lo 169.254.169.254:80 ─► IMDS
//!                    bridge 10.78.0.3:N ──► the load balancers ──► instances
//! skep-<run>-ip-…    ens5 10.78.0.5, dockerd, skep, containers         (one per instance)
//! ```
//!
//! Guarantees: runs do not see each other and leave the root namespace as it is. Nothing outlives
//! its run: [`Fleet::stop`] and Drop remove everything but the logs, the kernel ends all processes
//! when the sim process dies, and the next run (or `skep-sim clean`) removes the rest.
//!
//! Assumptions: Linux, root, and the Debian packages docker.io, iproute2, iptables and
//! busybox-static (or other packages with the same programs); [`Fleet::start`] names the missing ones.

pub(crate) mod aws;
pub(crate) mod clean;
mod cost;
pub(crate) mod dockerd;
mod events;
mod front;
pub(crate) mod image;
mod inside;
mod instance;
pub(crate) mod machine;
mod narrate;
pub(crate) mod netns;
mod no_ingress;
mod nodes;
mod notify;
mod one_swarm;
mod power;
pub(crate) mod prerequisites;
pub(crate) mod process;
mod record;
mod registry;
pub(crate) mod run;
pub(crate) mod swarm;
pub(crate) mod timeline;
mod trouble;
pub(crate) mod wire;
pub mod workload;

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use anyhow::Context;
use tokio::sync::{broadcast, oneshot};
use tokio::task::JoinSet;

pub use clean::{clean_dead_runs, live_runs};
pub use cost::Cost;
pub use events::ContainerEvent;
pub use image::{IMAGE, preload};
pub use inside::Inside;
pub use instance::Instance;
pub use instance::options::{
    DOCKER_PAUSE, DockerStart, FleetOptions, PowerOff, Prepare, Restart, SHUTDOWN, default_dir,
};
pub use machine::CERTIFICATES;
pub use narrate::narrate;
pub use netns::{INTERFACE, METADATA_ADDRESS};
pub use notify::Notification;
pub use process::Exit;
pub use registry::Registry;
pub use swarm::{is_running, on_every_worker, service, start_first};
pub use timeline::Entry;

use crate::cloud::{Cloud, CloudOptions};
pub use crate::cloud::{ClusterBalancer, ClusterSpec, LAUNCH_HOOK, TERMINATION_HOOK};
pub use crate::machines::SlowLink;
use crate::machines::{Disturbance, Executed, Launch, Machines};
use aws::Aws;
use image::Template;
use instance::Site;
use netns::Namespace;
use no_ingress::NoIngress;
use one_swarm::OneSwarm;
use run::Run;
use timeline::Timeline;

/// The PATH in which programs are searched: the sim's own PATH may contain anything.
pub(crate) const SYSTEM_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A running local cloud with its instances. Dropping it stops it.
#[derive(Debug)]
pub struct Fleet {
    machines: Arc<Ec2>,
    aws: Aws,
    one_swarm: Option<OneSwarm>,
    _no_ingress: Option<NoIngress>,
    stopped: bool,
}

/// The instances of a run, which the cloud launches and terminates.
#[derive(Debug)]
struct Ec2 {
    site: Arc<Site>,
    register: Mutex<Register>,
}

#[derive(Debug, Default)]
struct Register {
    /// The fleet is stopping: no more launches.
    closed: bool,
    /// In the order of their launches, including terminated ones.
    instances: Vec<Arc<Instance>>,
}

/// The cloud's reference to the fleet: weak, so that it does not keep a dropped fleet alive.
struct Handle(Weak<Ec2>);

impl Machines for Handle {
    fn launch(&self, launch: Launch) {
        if let Some(machines) = self.0.upgrade() {
            machines.launch(launch);
        }
    }

    fn stop(&self, instance_id: &str) {
        if let Some((machines, instance)) = self.find(instance_id) {
            let how = machines.site.options.power_off;
            machines.site.runtime.spawn(instance.stop_now(how));
        }
    }

    fn start(&self, instance_id: &str) {
        if let Some((machines, instance)) = self.find(instance_id) {
            machines.site.runtime.spawn(instance.start_now());
        }
    }

    fn terminate(&self, instance_id: &str) {
        if let Some((machines, instance)) = self.find(instance_id) {
            let how = machines.site.options.power_off;
            machines.site.runtime.spawn(instance.terminate_now(how));
        }
    }

    fn replace_root_volume(&self, instance_id: &str, _image_id: &str) {
        let Some((machines, instance)) = self.find(instance_id) else { return };
        let (how, cloud) = (machines.site.options.power_off, machines.site.cloud.clone());
        machines.site.runtime.spawn(async move {
            let id = instance.id().to_owned();
            let replaced = instance.replace_root_volume_now(how).await;
            cloud.root_volume_is_replaced(&id, replaced.map_err(|error| format!("{error:#}")));
        });
    }

    fn disturb(&self, instance_id: &str, what: Disturbance) -> anyhow::Result<()> {
        let (_machines, instance) =
            self.find(instance_id).with_context(|| format!("there is no machine {instance_id}"))?;
        instance.disturb(what)
    }

    fn execute(&self, instance_id: &str, script: String) -> Option<oneshot::Receiver<Executed>> {
        let (machines, instance) = self.find(instance_id)?;
        if !instance.is_on() {
            return None;
        }
        let (tell, executed) = oneshot::channel();
        machines.site.runtime.spawn(async move {
            // Nobody waits any more when the cloud is dropped.
            let _ = tell.send(instance.execute(&script).await);
        });
        Some(executed)
    }
}

impl Handle {
    fn find(&self, instance_id: &str) -> Option<(Arc<Ec2>, Arc<Instance>)> {
        let machines = self.0.upgrade()?;
        let instance = machines.instances().into_iter().find(|it| it.id() == instance_id)?;
        Some((machines, instance))
    }
}

impl Ec2 {
    fn launch(&self, launch: Launch) -> Option<Arc<Instance>> {
        let mut register = self.register();
        if register.closed {
            return None;
        }
        let instance = Arc::new(Instance::new(&self.site, launch));
        register.instances.push(Arc::clone(&instance));
        // Taken here, so that a stop right after the launch waits for it.
        let turn = Arc::clone(&instance.turn).try_lock_owned().ok();
        let launching = Arc::clone(&instance);
        self.site.runtime.spawn(async move {
            launching.launch_now().await;
            drop(turn);
        });
        Some(instance)
    }

    fn instances(&self) -> Vec<Arc<Instance>> {
        self.register().instances.clone()
    }

    /// Ends launches, and returns the instances that must be switched off.
    fn close(&self) -> Vec<Arc<Instance>> {
        let mut register = self.register();
        register.closed = true;
        register.instances.clone()
    }

    fn register(&self) -> MutexGuard<'_, Register> {
        self.register.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Fleet {
    /// Removes the remains of dead runs and starts the cloud. It has no instances until groups launch them.
    ///
    /// # Errors
    ///
    /// Names what is missing on this machine.
    pub async fn start(options: FleetOptions) -> anyhow::Result<Fleet> {
        prerequisites::check(options.engine.as_deref())?;
        // Remains of other runs do not prevent a start.
        if let Err(error) = tokio::task::spawn_blocking(clean_dead_runs).await? {
            tracing::warn!("cannot clean up after dead runs: {error:#}");
        }
        let run = Run::create(&options.dir, options.keep_logs)?;
        let template = Template::ensure(
            &options.dir,
            &format!("{}-image", run.namespace()),
            options.engine.as_deref(),
            &options.daemon,
        )
        .await?;
        let gateway = aws::gateway(options.subnet);
        let namespace = Namespace::create(&run.namespace())?;
        let aws = Aws::open(
            &namespace,
            CloudOptions {
                region: options.region.clone(),
                zones: options.zones.clone(),
                subnet: options.subnet,
                seed: options.seed,
            },
        )
        .await?;
        let timeline = Timeline::create(&run.record.dir)?;
        let runtime = tokio::runtime::Handle::current();
        let site = Site {
            run,
            options,
            aws: namespace,
            cloud: aws.cloud.clone(),
            gateway,
            template,
            timeline,
            runtime,
        };
        if site.options.tls {
            std::fs::write(site.authority_file(), &aws.authority)?;
        }
        let machines = Arc::new(Ec2 { site: Arc::new(site), register: Mutex::default() });
        aws.cloud.set_machines(Arc::new(Handle(Arc::downgrade(&machines))));
        let one_swarm = machines.site.options.one_swarm.then(|| OneSwarm::watch(&machines));
        let no_ingress = (!machines.site.options.ingress).then(|| NoIngress::keep(&machines));
        Ok(Fleet { machines, aws, one_swarm, _no_ingress: no_ingress, stopped: false })
    }

    /// The AWS services and the admin side of this run.
    pub fn cloud(&self) -> &Cloud {
        &self.aws.cloud
    }

    /// The AWS endpoint in the root namespace, for the `aws` command line.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.aws.endpoint)
    }

    /// The AWS endpoint that instances use.
    pub fn gateway(&self) -> String {
        self.site().endpoint(self.site().options.tls)
    }

    pub fn run_id(&self) -> &str {
        &self.site().run.record.id
    }

    /// The run's directory: one directory per instance, and `timeline.jsonl`.
    pub fn dir(&self) -> &Path {
        &self.site().run.record.dir
    }

    /// Name of the network namespace with the bridge and the endpoints.
    pub fn netns(&self) -> &str {
        self.site().aws.name()
    }

    /// The instances that are not terminated, oldest first.
    pub fn instances(&self) -> Vec<Arc<Instance>> {
        let mut instances = self.machines.instances();
        instances.retain(|instance| !instance.is_gone());
        instances
    }

    /// All instances of this run, oldest first.
    pub fn all_instances(&self) -> Vec<Arc<Instance>> {
        self.machines.instances()
    }

    /// An instance by id, terminated or not.
    pub fn instance(&self, id: &str) -> Option<Arc<Instance>> {
        self.machines.instances().into_iter().find(|instance| instance.id() == id)
    }

    /// The instances of a group that are not terminated, oldest first.
    pub fn group(&self, name: &str) -> Vec<Arc<Instance>> {
        let mut instances = self.instances();
        instances.retain(|instance| instance.launch().group == name);
        instances
    }

    /// [`ClusterSpec::create`] in this fleet's cloud.
    pub fn create_cluster(&self, spec: &ClusterSpec) -> anyhow::Result<()> {
        spec.create(self.cloud())
    }

    /// Launches an instance that the cloud does not list: it has no metadata.
    pub fn launch(&self, launch: Launch) -> anyhow::Result<Arc<Instance>> {
        self.machines.launch(launch).context("the fleet is going down")
    }

    /// Subscribes to the events of the instances from now on.
    pub fn subscribe(&self) -> broadcast::Receiver<Entry> {
        self.site().timeline.subscribe()
    }

    /// All events of the instances so far.
    pub fn timeline(&self) -> Vec<Entry> {
        self.site().timeline.entries()
    }

    /// Cuts the power of every instance and removes everything but the logs.
    ///
    /// # Errors
    ///
    /// When something could not be removed, or the fleet had a second swarm although [`FleetOptions::one_swarm`] is
    /// set.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        self.aws.close();
        let mut stopping = JoinSet::new();
        for instance in self.machines.close() {
            stopping.spawn(instance.terminate_now(PowerOff::Cut));
        }
        stopping.join_all().await;
        self.stopped = true;
        let site = Arc::clone(self.site());
        tokio::task::spawn_blocking(move || site.run.erase()).await??;
        self.one_swarm.as_ref().map_or(Ok(()), OneSwarm::judge)
    }

    fn site(&self) -> &Arc<Site> {
        &self.machines.site
    }
}

impl Drop for Fleet {
    /// After a panic, or without a call of [`Fleet::stop`]: does the same, blocking.
    fn drop(&mut self) {
        self.aws.close();
        if self.stopped {
            return;
        }
        let instances = self.machines.close();
        std::thread::scope(|threads| {
            for instance in &instances {
                threads.spawn(|| instance.throw_away());
            }
        });
        if let Err(error) = self.site().run.erase() {
            tracing::warn!("remains of run {} are left: {error:#}", self.run_id());
        }
    }
}
