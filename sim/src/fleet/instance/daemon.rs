//! Supervises dockerd as systemd does on a real instance, and no more.

use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context;
use nix::sys::signal::Signal;

use super::Instance;
use super::options::Restart;
use crate::fleet::dockerd::append;
use crate::fleet::process::{Exit, Process};

/// Time for dockerd to stop.
const STOP_PATIENCE: Duration = Duration::from_secs(30);
/// Managers wait three times 5 to 5.5 s for the next heartbeat of a node. If that time ends while the node registers
/// again, Docker 20.10 lists the node as Down for as long as its session lasts.
const LAST_HEARTBEAT: Duration = Duration::from_secs(18);

/// The daemon of one instance.
#[derive(Debug, Default)]
pub(in crate::fleet) struct Daemon {
    process: Option<Process>,
    /// Whether it is restarted when it ends.
    supervised: bool,
}

impl Daemon {
    /// Sends dockerd a signal; returns false when it does not run.
    pub(in crate::fleet) fn signal(&self, signal: Signal) -> bool {
        self.process.as_ref().is_some_and(|process| process.signal(signal))
    }
}

impl Instance {
    /// Starts dockerd, supervised as the options configure, and follows its events once it is up.
    pub fn start_dockerd(self: &Arc<Self>) -> anyhow::Result<()> {
        self.start_daemon(&mut self.daemon())
    }

    fn start_daemon(self: &Arc<Self>, daemon: &mut Daemon) -> anyhow::Result<()> {
        let since = time::OffsetDateTime::now_utc().unix_timestamp();
        let record = append(&self.dir.join("docker-events.jsonl"))?;
        let process = Process::watch(self.spawn(self.dockerd.command()?)?);
        self.site.timeline.add(self.id(), "dockerd started");
        *daemon = Daemon {
            process: Some(process.clone()),
            supervised: self.site.options.docker_restart != Restart::Never,
        };
        let instance = Arc::clone(self);
        self.site.runtime.spawn(async move {
            let follow = async {
                let docker = instance.wait_docker().await?;
                instance.site.timeline.add(instance.id(), "Docker API is up");
                instance.events.follow(&docker, since, record).await;
                anyhow::Ok(())
            };
            // The event stream ends with the daemon; the wait for the API must end with it, too.
            let (_, exit) = tokio::join!(
                async {
                    tokio::select! {
                        _ = follow => {}
                        _ = process.exited() => {}
                    }
                },
                process.exited()
            );
            instance.site.timeline.add(instance.id(), format!("dockerd ended: {exit}"));
            instance.dockerd_ended(&process).await;
        });
        Ok(())
    }

    /// Starts dockerd again, unless it was stopped on request or was already started again.
    async fn dockerd_ended(self: &Arc<Self>, ended: &Process) {
        let Restart::OnFailure(pause) = self.site.options.docker_restart else { return };
        tokio::time::sleep(pause).await;
        let mut daemon = self.daemon();
        let is_last = daemon.process.as_ref().is_some_and(|last| last.pid() == ended.pid());
        if !daemon.supervised || !is_last {
            return;
        }
        if let Err(error) = self.start_daemon(&mut daemon) {
            self.site.timeline.add(self.id(), format!("dockerd not restarted: {error:#}"));
        }
    }

    /// Kills dockerd. containerd dies with it, by a parent-death signal; containers keep running. dockerd stays down.
    pub async fn kill_dockerd(&self) -> anyhow::Result<Exit> {
        self.end_dockerd(|process| {
            process.signal(Signal::SIGKILL);
        })
        .await
    }

    /// Stops dockerd as systemd does. It stays down.
    pub async fn stop_dockerd(&self) -> anyhow::Result<Exit> {
        self.end_dockerd(Process::terminate).await
    }

    /// Stops dockerd, starts it again after [`LAST_HEARTBEAT`] and waits for its API.
    pub async fn restart_dockerd(self: &Arc<Self>) -> anyhow::Result<()> {
        self.stop_dockerd().await?;
        tokio::time::sleep(LAST_HEARTBEAT).await;
        self.start_dockerd()?;
        self.wait_docker().await.map(drop)
    }

    /// Sends dockerd a signal; supervision continues. Returns false when dockerd does not run.
    pub fn signal_dockerd(&self, signal: Signal) -> bool {
        self.site.timeline.add(self.id(), format!("dockerd gets {signal}"));
        self.daemon().signal(signal)
    }

    pub fn dockerd_running(&self) -> bool {
        self.daemon().process.as_ref().is_some_and(Process::is_running)
    }

    async fn end_dockerd(&self, end: fn(&Process)) -> anyhow::Result<Exit> {
        let process = {
            let mut daemon = self.daemon();
            daemon.supervised = false;
            daemon.process.clone().context("dockerd was never started")?
        };
        end(&process);
        tokio::time::timeout(STOP_PATIENCE, process.exited())
            .await
            .with_context(|| format!("dockerd of {} does not stop", self.id()))
    }

    /// Ends restarts of skep and dockerd.
    pub(in crate::fleet) fn end_supervision(&self) {
        self.supervisor.switch_off();
        self.daemon().supervised = false;
    }

    pub(in crate::fleet) fn daemon(&self) -> MutexGuard<'_, Daemon> {
        self.daemon.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
