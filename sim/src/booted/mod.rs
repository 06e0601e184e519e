//! Runs instances that really boot: systemd, cloud-init with the Ec2 datasource and Docker, from an image
//! that Packer has built, on the same cloud as [`crate::fleet`].
//!
//! ```text
//! root namespace   packer, aws CLI
//! skep-<run>       bridge 10.78.0.1: the AWS gateway, DHCP and DNS     lo 169.254.169.254: IMDS
//! skep-<run>-ip-…  ens5, everything else is the image's own            (one per instance)
//! ```
//!
//! Guarantees: as [`crate::fleet`]'s; the next run removes the remains of a killed run.

mod cluster;
mod images;
mod instance;
mod machine;
mod network;
mod packer;
mod prerequisites;

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use anyhow::{Context, bail};
use tokio::task::JoinSet;

pub use cluster::user_data;
pub use images::{BASE_IMAGE, Image};
pub use instance::BootedInstance;
pub use packer::{IMAGE, built};
pub use prerequisites::check;

use crate::cloud::{Cloud, CloudOptions};
use crate::fleet::aws::{self, Aws};
use crate::fleet::netns::Namespace;
use crate::fleet::run::Run;
use crate::fleet::timeline::Timeline;
use crate::fleet::{Entry, clean_dead_runs, default_dir};
use crate::machines::{Disturbance, Launch, Machines};
use images::Images;
use instance::Site;
use network::Network;

/// The options of a fleet of booted instances.
#[derive(Clone, Debug)]
pub struct BootedOptions {
    /// Parent of the run's directory.
    pub dir: PathBuf,
    /// Keep each instance's console after the run.
    pub keep_logs: bool,
    /// The private network; its first address is the gateway.
    pub subnet: (Ipv4Addr, u8),
    pub region: String,
    pub zones: Vec<String>,
    /// Seed of all random numbers of the cloud.
    pub seed: u64,
    /// Additional images by id, beside [`BASE_IMAGE`].
    pub images: Vec<(String, Image)>,
    /// Additional names that the instances' DNS resolves.
    pub names: Vec<(String, Ipv4Addr)>,
}

impl Default for BootedOptions {
    fn default() -> Self {
        BootedOptions {
            dir: default_dir(),
            keep_logs: true,
            subnet: (Ipv4Addr::new(10, 78, 0, 0), 24),
            region: "eu-central-1".to_owned(),
            zones: ["a", "b", "c"].map(|zone| format!("eu-central-1{zone}")).to_vec(),
            seed: 1,
            images: Vec::new(),
            names: Vec::new(),
        }
    }
}

/// A running local cloud whose instances boot. Dropping it stops it.
#[derive(Debug)]
pub struct BootedFleet {
    machines: Arc<Ec2>,
    aws: Aws,
    stopped: bool,
}

/// The instances of a run.
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
    instances: Vec<Arc<BootedInstance>>,
}

impl Ec2 {
    fn register(&self) -> MutexGuard<'_, Register> {
        self.register.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self) -> Vec<Arc<BootedInstance>> {
        let mut register = self.register();
        register.closed = true;
        register.instances.clone()
    }
}

/// The cloud's reference to the fleet: weak, so that it does not keep a dropped fleet alive.
struct Handle(Weak<Ec2>);

impl Handle {
    fn find(&self, instance_id: &str) -> Option<(Arc<Ec2>, Arc<BootedInstance>)> {
        let machines = self.0.upgrade()?;
        let instances = machines.register().instances.clone();
        let instance = instances.into_iter().find(|instance| instance.id() == instance_id)?;
        Some((machines, instance))
    }
}

impl Machines for Handle {
    fn launch(&self, launch: Launch) {
        let Some(machines) = self.0.upgrade() else { return };
        let mut register = machines.register();
        if register.closed {
            return;
        }
        let instance = Arc::new(BootedInstance::new(&machines.site, launch));
        register.instances.push(Arc::clone(&instance));
        // Taken here, so that an order right after the launch waits for it.
        let turn = Arc::clone(&instance.turn).try_lock_owned().ok();
        machines.site.runtime.spawn(async move {
            instance.launch_now().await;
            drop(turn);
        });
    }

    fn stop(&self, instance_id: &str) {
        if let Some((machines, instance)) = self.find(instance_id) {
            machines.site.runtime.spawn(instance.stop_now());
        }
    }

    fn start(&self, instance_id: &str) {
        if let Some((machines, instance)) = self.find(instance_id) {
            machines.site.runtime.spawn(instance.start_now());
        }
    }

    fn terminate(&self, instance_id: &str) {
        if let Some((machines, instance)) = self.find(instance_id) {
            machines.site.runtime.spawn(instance.terminate_now());
        }
    }

    fn create_image(&self, instance_id: &str, image_id: &str) {
        let Some((machines, instance)) = self.find(instance_id) else { return };
        let (cloud, image_id) = (machines.site.cloud.clone(), image_id.to_owned());
        machines.site.runtime.spawn(async move {
            let kept = instance.keep(&image_id).await;
            cloud.image_is_made(&image_id, kept.map_err(|error| format!("{error:#}")));
        });
    }

    fn replace_root_volume(&self, instance_id: &str, image_id: &str) {
        let Some((machines, instance)) = self.find(instance_id) else { return };
        let (cloud, image_id) = (machines.site.cloud.clone(), image_id.to_owned());
        machines.site.runtime.spawn(async move {
            let id = instance.id().to_owned();
            let replaced = instance.replace_root_volume_now(&image_id).await;
            cloud.root_volume_is_replaced(&id, replaced.map_err(|error| format!("{error:#}")));
        });
    }

    fn disturb(&self, _instance_id: &str, _what: Disturbance) -> anyhow::Result<()> {
        bail!("not supported on booted machines")
    }
}

impl BootedFleet {
    /// Removes the remains of dead runs and starts the cloud, without instances.
    ///
    /// # Errors
    ///
    /// Names what is missing on this machine.
    pub async fn start(options: BootedOptions) -> anyhow::Result<BootedFleet> {
        check()?;
        prerequisites::raise_limits()?;
        // Remains of other runs do not prevent a start.
        if let Err(error) = tokio::task::spawn_blocking(clean_dead_runs).await? {
            tracing::warn!("cannot clean up after dead runs: {error:#}");
        }
        let images = Images::default();
        images.add(BASE_IMAGE, Image::base().await?);
        for (id, image) in options.images {
            images.add(&id, image);
        }
        let run = Run::create(&options.dir, options.keep_logs)?;
        let namespace = Namespace::create(&run.namespace())?;
        let cloud_options = CloudOptions {
            region: options.region,
            zones: options.zones,
            subnet: options.subnet,
            seed: options.seed,
        };
        let aws = Aws::open(&namespace, cloud_options).await?;
        let network = Network::start(
            &run.record.dir.join("network"),
            &namespace,
            aws::gateway(options.subnet),
            &options.names,
        )?;
        let site = Site {
            timeline: Timeline::create(&run.record.dir)?,
            run,
            aws: namespace,
            network,
            cloud: aws.cloud.clone(),
            images,
            runtime: tokio::runtime::Handle::current(),
        };
        let machines = Arc::new(Ec2 { site: Arc::new(site), register: Mutex::default() });
        aws.cloud.set_machines(Arc::new(Handle(Arc::downgrade(&machines))));
        Ok(BootedFleet { machines, aws, stopped: false })
    }

    /// The AWS services and the admin side of this run.
    pub fn cloud(&self) -> &Cloud {
        &self.aws.cloud
    }

    /// The AWS endpoint in the root namespace, for the `aws` command line.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.aws.endpoint)
    }

    /// The run's directory: one directory per instance, and `timeline.jsonl`.
    pub fn dir(&self) -> &Path {
        &self.site().run.record.dir
    }

    /// The instances that are not terminated, oldest first.
    pub fn instances(&self) -> Vec<Arc<BootedInstance>> {
        let mut instances = self.all_instances();
        instances.retain(|instance| !instance.is_gone());
        instances
    }

    /// All instances of this run, oldest first.
    pub fn all_instances(&self) -> Vec<Arc<BootedInstance>> {
        self.machines.register().instances.clone()
    }

    /// An instance by id, terminated or not.
    pub fn instance(&self, id: &str) -> Option<Arc<BootedInstance>> {
        self.all_instances().into_iter().find(|instance| instance.id() == id)
    }

    /// The instances of a group that are not terminated, oldest first.
    pub fn group(&self, name: &str) -> Vec<Arc<BootedInstance>> {
        let mut instances = self.instances();
        instances.retain(|instance| instance.launch().group == name);
        instances
    }

    /// Switches the DNS for the instances on or off; while it is off, they get no answer.
    pub fn answer_names(&self, answer: bool) -> anyhow::Result<()> {
        self.site().network.answer_names(answer)
    }

    /// All events of the instances so far.
    pub fn timeline(&self) -> Vec<Entry> {
        self.site().timeline.entries()
    }

    /// Cuts the power of every instance and removes everything but the logs.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        self.aws.close();
        let mut stopping = JoinSet::new();
        for instance in self.machines.close() {
            stopping.spawn_blocking(move || instance.throw_away());
        }
        stopping.join_all().await;
        self.stopped = true;
        let site = Arc::clone(self.site());
        tokio::task::spawn_blocking(move || {
            site.network.stop();
            site.run.erase()
        })
        .await?
        .context("cannot remove the run")
    }

    /// Directory of an image that was made in this run.
    fn image_dir(&self, image_id: &str) -> PathBuf {
        self.site().run.record.scratch.join(image_id)
    }

    fn site(&self) -> &Arc<Site> {
        &self.machines.site
    }
}

impl Drop for BootedFleet {
    /// After a panic, or without a call of [`BootedFleet::stop`]: does the same, blocking.
    fn drop(&mut self) {
        if self.stopped {
            return;
        }
        self.aws.close();
        let instances = self.machines.close();
        std::thread::scope(|threads| {
            for instance in &instances {
                threads.spawn(|| instance.throw_away());
            }
        });
        self.site().network.stop();
        if let Err(error) = self.site().run.erase() {
            tracing::warn!("remains of run {} are left: {error:#}", self.site().run.record.id);
        }
    }
}
