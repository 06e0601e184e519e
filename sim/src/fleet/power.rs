//! Switches instances on and off.
//!
//! Both block and hold [`Instance::switching`], so a termination that overtakes its launch waits for it, and the
//! fleet's Drop does not need the async runtime.

use std::fs;
use std::sync::{Arc, MutexGuard, PoisonError};

use anyhow::{Context, ensure};

use super::clean::{remove_cgroup, remove_dir};
use super::dockerd::append;
use super::inside::Inside;
use super::instance::options::{DockerStart, PowerOff};
use super::instance::{Instance, Power};
use super::machine::{Hardware, Machine};
use super::netns::Namespace;

/// The directories of an instance that are on its disk, beside Docker's.
const DISK: [&str; 4] = ["etc", "bin", "run", "state"];

impl Instance {
    /// Launches the instance: makes the computer, switches it on and starts its programs. An instance that was
    /// terminated meanwhile stays terminated.
    pub(super) async fn launch_now(self: Arc<Self>) {
        let instance = Arc::clone(&self);
        let on = tokio::task::spawn_blocking(move || {
            let _switching = instance.switching();
            if !matches!(*instance.power(), Power::Off) {
                return anyhow::Ok(false);
            }
            instance.make()?;
            instance.switch_on()?;
            Ok(true)
        });
        let started = match on.await {
            Ok(Ok(true)) => self.start_programs(),
            Ok(Ok(false)) => Ok(()),
            Ok(Err(error)) => Err(error),
            Err(error) => Err(error.into()),
        };
        // If the instance was removed meanwhile, this is no failure.
        if let Err(error) = started
            && !self.is_gone()
        {
            tracing::error!(instance = self.id(), "launch failed: {error:#}");
            self.site.timeline.add(self.id(), format!("launch failed: {error:#}"));
        }
    }

    /// Cuts the power and boots again on the same disk, like an EC2 reboot after a crash.
    pub async fn reboot(self: &Arc<Self>) -> anyhow::Result<()> {
        self.end_supervision();
        let instance = Arc::clone(self);
        tokio::task::spawn_blocking(move || {
            let _switching = instance.switching();
            ensure!(instance.is_on(), "{} is off", instance.id());
            instance.cut_power();
            instance.switch_on()
        })
        .await??;
        self.start_programs()
    }

    /// Stops the instance as EC2 does: off, with the disk and the address kept.
    pub(super) async fn stop_now(self: Arc<Self>, how: PowerOff) {
        let _turn = self.turn.lock().await;
        if !self.is_on() {
            return;
        }
        self.shut_down(how).await;
        let instance = Arc::clone(&self);
        let off = tokio::task::spawn_blocking(move || {
            let _switching = instance.switching();
            // If a termination came meanwhile, it wins.
            if instance.is_on() {
                instance.cut_power();
                instance.site.timeline.add(instance.id(), "stopped");
            }
        });
        off.await.ok();
    }

    /// Starts a machine that was stopped.
    pub(super) async fn start_now(self: Arc<Self>) {
        let _turn = self.turn.lock().await;
        let instance = Arc::clone(&self);
        let on = tokio::task::spawn_blocking(move || {
            let _switching = instance.switching();
            ensure!(matches!(*instance.power(), Power::Off), "{} is not stopped", instance.id());
            instance.switch_on()
        });
        let started = match on.await {
            Ok(Ok(())) => self.start_programs(),
            Ok(Err(error)) => Err(error),
            Err(error) => Err(error.into()),
        };
        if let Err(error) = started {
            tracing::error!(instance = self.id(), "start failed: {error:#}");
            self.site.timeline.add(self.id(), format!("start failed: {error:#}"));
        }
    }

    /// Replaces the root volume as EC2 does: shuts down, throws the disk away and boots from a new one, with the same
    /// id and address. The whole of the instance's disk is on its root volume.
    pub(super) async fn replace_root_volume_now(
        self: Arc<Self>,
        how: PowerOff,
    ) -> anyhow::Result<()> {
        let _turn = self.turn.lock().await;
        self.shut_down(how).await;
        let instance = Arc::clone(&self);
        tokio::task::spawn_blocking(move || {
            let _switching = instance.switching();
            // If a termination came meanwhile, it wins.
            ensure!(instance.is_on(), "{} is off", instance.id());
            instance.cut_power();
            instance.remove_disk_and_wire()?;
            for dir in DISK {
                remove_dir(&instance.dir.join(dir))?;
            }
            instance.make()?;
            instance.site.timeline.add(instance.id(), "new root volume");
            instance.switch_on()
        })
        .await??;
        self.start_programs()
    }

    /// Shuts the system down in the way of `how`, before the power is cut.
    async fn shut_down(&self, how: PowerOff) {
        self.end_supervision();
        if let PowerOff::Clean(patience) = how {
            self.site.timeline.add(self.id(), "shutting down");
            tokio::time::timeout(patience, self.stop_skep()).await.ok();
            tokio::time::timeout(patience, self.stop_dockerd()).await.ok();
        }
    }

    /// Terminates the instance in the way that the options configure.
    pub(super) async fn terminate_now(self: Arc<Self>, how: PowerOff) {
        self.shut_down(how).await;
        let instance = Arc::clone(&self);
        tokio::task::spawn_blocking(move || instance.throw_away()).await.ok();
    }

    /// Cuts the power and removes everything but the records. Blocks; repeating it does nothing.
    pub(super) fn throw_away(&self) {
        self.end_supervision();
        let _switching = self.switching();
        let power = std::mem::replace(&mut *self.power(), Power::Gone);
        Inside::remove(self.dir());
        match power {
            Power::On(machine) => machine.power_off(),
            Power::Off => {}
            Power::Gone => return,
        }
        let removed = self.remove_disk_and_wire();
        for socket in [self.docker_socket(), &self.notify_socket()] {
            fs::remove_file(socket).ok();
        }
        if let Err(error) = removed {
            tracing::warn!(instance = self.id(), "remains are left: {error:#}");
        }
        self.site.timeline.add(self.id(), "power off");
    }

    /// Removes Docker's part of the disk, and the network with the kernel's state of it. The machine is off.
    fn remove_disk_and_wire(&self) -> anyhow::Result<()> {
        self.site.aws.unplug(self.address());
        remove_cgroup(&self.dockerd.cgroup);
        self.netns.delete().and_then(|()| remove_dir(&self.dockerd.dir))
    }

    /// Makes the disk and the wire.
    fn make(&self) -> anyhow::Result<()> {
        for dir in DISK {
            fs::create_dir_all(self.dir.join(dir))?;
        }
        fs::create_dir_all(self.dir.join("etc/flush.d"))?;
        append(&self.log_path())?;
        let options = &self.site.options;
        let hosts: Vec<_> =
            options.hosts.iter().map(|name| (self.site.gateway, name.clone())).collect();
        self.dockerd.prepare(&options.daemon, &hosts)?;
        if options.tls {
            self.trust_the_cloud()?;
        }
        self.site.template.copy_to(&self.dockerd.data_root())?;
        if let Some(config) = &options.config {
            self.write_config(config)?;
        }
        Namespace::create(self.netns())?;
        let (gateway, prefix) = (self.site.gateway, options.subnet.1);
        self.site.aws.plug(&self.netns, self.address(), gateway, prefix)?;
        if let Some(prepare) = &options.prepare {
            prepare(self).context("FleetOptions::prepare")?;
        }
        Ok(())
    }

    fn switch_on(&self) -> anyhow::Result<()> {
        let machine = Machine::power_on(Hardware {
            hostname: self.hostname(),
            netns: self.netns.path(),
            resolv_conf: self.dockerd.resolv_conf(),
            hosts: self.dockerd.hosts(),
            docker_conf: self.dockerd.etc(),
            certificates: self.site.options.tls.then(|| self.certificates()),
        })?;
        let inside = Inside { init: machine.init(), environment: self.environment() };
        inside.write(self.dir())?;
        *self.power() = Power::On(machine);
        self.site.timeline.add(self.id(), format!("power on, {}", self.address()));
        Ok(())
    }

    /// The caller holds [`Instance::switching`].
    fn cut_power(&self) {
        let power = std::mem::replace(&mut *self.power(), Power::Off);
        Inside::remove(self.dir());
        if let Power::On(machine) = power {
            machine.power_off();
        }
    }

    fn switching(&self) -> MutexGuard<'_, ()> {
        self.switching.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn start_programs(self: &Arc<Self>) -> anyhow::Result<()> {
        self.listen_for_notifications()?;
        let order = self.site.options.docker_start;
        if matches!(order, DockerStart::WithSkep | DockerStart::BeforeSkep) {
            self.start_dockerd()?;
        }
        if let DockerStart::AfterSkep(delay) = order {
            let instance = Arc::clone(self);
            self.site.runtime.spawn(async move {
                tokio::time::sleep(delay).await;
                instance.start_dockerd()
            });
        }
        if self.site.options.skep.is_none() {
            return Ok(());
        }
        if order == DockerStart::BeforeSkep {
            let instance = Arc::clone(self);
            self.site.runtime.spawn(async move {
                instance.wait_docker().await?;
                instance.start_skep()
            });
            return Ok(());
        }
        self.start_skep()
    }
}
