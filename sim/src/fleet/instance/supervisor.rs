//! Supervises skep as systemd does on a real instance, and no more.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, bail};
use nix::sys::signal::Signal;
use tokio::sync::watch;

use super::Instance;
use super::options::Restart;
use crate::fleet::SYSTEM_PATH;
use crate::fleet::dockerd::append;
use crate::fleet::machine::CERTIFICATES;
use crate::fleet::prerequisites::search_path;
use crate::fleet::process::{Exit, Process};
use crate::machines::Executed;

/// `EX_CONFIG`: skep exits with it when a restart cannot help.
const EXIT_CONFIG: i32 = 78;

#[derive(Debug, Default)]
struct State {
    process: Option<Process>,
    /// Whether it is restarted after a failure.
    supervised: bool,
    notify_task: Option<tokio::task::JoinHandle<()>>,
}

/// The supervision of one instance's skep. Its processes get the environment of an instance, and nothing of the sim's
/// own environment.
#[derive(Debug, Default)]
pub(crate) struct Supervisor {
    state: Mutex<State>,
    /// The exit of each process so far.
    exits: watch::Sender<Vec<Exit>>,
}

impl Supervisor {
    /// Ends restarts.
    pub(in crate::fleet) fn switch_off(&self) {
        self.lock().supervised = false;
    }

    /// Sends skep a signal; returns false when it does not run.
    pub(in crate::fleet) fn signal(&self, signal: Signal) -> bool {
        self.lock().process.as_ref().is_some_and(|process| process.signal(signal))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        if let Some(task) = self.lock().notify_task.take() {
            task.abort();
        }
    }
}

impl Instance {
    /// Starts `skep run`, supervised as the options configure.
    pub fn start_skep(self: &Arc<Self>) -> anyhow::Result<()> {
        let mut state = self.supervisor.lock();
        if state.process.as_ref().is_some_and(Process::is_running) {
            bail!("skep runs already on {}", self.id());
        }
        let mut command = self.skep_command()?;
        let log = append(&self.log_path())?;
        command.arg("run").stdout(log.try_clone()?).stderr(log);
        command.env("NOTIFY_SOCKET", self.notify_socket());
        self.notifications.process_started();
        let process = Process::watch_group(self.spawn(command)?);
        self.site.timeline.add(self.id(), format!("skep started, pid {}", process.pid()));
        state.process = Some(process.clone());
        state.supervised = self.site.options.restart != Restart::Never;
        let instance = Arc::clone(self);
        self.site.runtime.spawn(async move {
            let exit = process.exited().await;
            instance.skep_ended(exit).await;
        });
        Ok(())
    }

    async fn skep_ended(self: &Arc<Self>, exit: Exit) {
        self.site.timeline.add(self.id(), format!("skep ended: {exit}"));
        self.supervisor.exits.send_modify(|exits| exits.push(exit));
        let Restart::OnFailure(pause) = self.site.options.restart else { return };
        if !exit.is_failure() || exit == Exit::Code(EXIT_CONFIG) {
            return;
        }
        tokio::time::sleep(pause).await;
        if !self.supervisor.lock().supervised || self.skep_running() {
            return;
        }
        if let Err(error) = self.start_skep() {
            self.site.timeline.add(self.id(), format!("skep not restarted: {error:#}"));
        }
    }

    /// Stops skep as systemd does (SIGTERM), without a restart, and waits for its end.
    pub async fn stop_skep(&self) -> anyhow::Result<Exit> {
        let mut exits = self.supervisor.exits.subscribe();
        let (process, before) = {
            let mut state = self.supervisor.lock();
            state.supervised = false;
            let running = state.process.clone().filter(Process::is_running);
            (running.with_context(|| format!("skep does not run on {}", self.id()))?, {
                exits.borrow_and_update().len()
            })
        };
        process.terminate();
        exits.wait_for(|exits| exits.len() > before).await?;
        Ok(process.exited().await)
    }

    /// Sends skep a signal; supervision continues. Returns false when skep does not run.
    pub fn kill_skep(&self, signal: Signal) -> bool {
        self.site.timeline.add(self.id(), format!("skep gets {signal}"));
        self.supervisor.signal(signal)
    }

    pub fn skep_running(&self) -> bool {
        self.supervisor.lock().process.as_ref().is_some_and(Process::is_running)
    }

    /// The pid of skep in the root namespace, while it runs.
    pub fn skep_pid(&self) -> Option<i32> {
        let state = self.supervisor.lock();
        state.process.as_ref().filter(|process| process.is_running()).map(Process::pid)
    }

    /// The exit of every skep process so far.
    pub fn exits(&self) -> Vec<Exit> {
        self.supervisor.exits.borrow().clone()
    }

    /// [`Instance::exits`] as a shell reports them.
    pub fn exit_codes(&self) -> Vec<i32> {
        self.supervisor.exits.borrow().iter().map(|exit| exit.code()).collect()
    }

    /// Runs the skep command line inside the instance, with the environment of the agent.
    pub async fn skep<I, A>(&self, args: I) -> anyhow::Result<Output>
    where
        I: IntoIterator<Item = A>,
        A: Into<OsString>,
    {
        let mut command = self.skep_command()?;
        command.args(args.into_iter().map(Into::into));
        self.run(command).await
    }

    /// Runs a script as Run Command does, with the environment of a command line on the instance.
    pub(in crate::fleet) async fn execute(&self, script: &str) -> Executed {
        let mut command = Command::new("sh");
        command.args(["-c", script]).current_dir(&self.dir);
        command.env_clear().envs(self.environment());
        match self.run(command).await {
            Ok(output) => Executed {
                code: output.status.code().unwrap_or(-1),
                out: String::from_utf8_lossy(&output.stdout).into_owned(),
            },
            Err(error) => Executed { code: -1, out: format!("{error:#}") },
        }
    }

    /// The same as [`Instance::skep`] on a terminal of `columns` columns and 24 lines: standard output is everything that the terminal
    /// received.
    pub async fn skep_on_terminal(&self, columns: u16, args: &str) -> anyhow::Result<Output> {
        let skep = self.skep_command()?;
        let program = skep.get_program().to_string_lossy();
        let script = format!("stty cols {columns} rows 24; exec {program} {args}");
        let mut command = Command::new("script");
        command.args(["-qec", &script, "/dev/null"]).current_dir(&self.dir).env_clear();
        command.env("TERM", "xterm");
        command.envs(skep.get_envs().filter_map(|(name, value)| Some((name, value?))));
        self.run(command).await
    }

    /// The environment of a command line on the instance, with `skep` in the PATH; less if the fleet has no skep.
    pub(in crate::fleet) fn environment(&self) -> BTreeMap<String, String> {
        let docker =
            ("DOCKER_HOST".to_owned(), format!("unix://{}", self.docker_socket().display()));
        let Ok(skep) = self.skep_command() else {
            let path = ("PATH".to_owned(), SYSTEM_PATH.to_owned());
            return BTreeMap::from([path, docker]);
        };
        let text = |text: &OsStr| text.to_string_lossy().into_owned();
        let mut environment: BTreeMap<_, _> =
            skep.get_envs().filter_map(|(name, value)| Some((text(name), text(value?)))).collect();
        if self.site.options.tls {
            environment.insert("AWS_CA_BUNDLE".to_owned(), CERTIFICATES.to_owned());
        }
        if let Some(folder) = Path::new(skep.get_program()).parent()
            && let Some(path) = environment.get_mut("PATH")
        {
            *path = format!("{}:{path}", folder.display());
        }
        environment
    }

    /// The binary with the environment that an instance gives it.
    fn skep_command(&self) -> anyhow::Result<Command> {
        let options = &self.site.options;
        let program = options.skep.as_ref().context("this fleet has no skep binary")?;
        let mut path = OsString::from(self.dir.join("bin"));
        path.push(":");
        path.push(search_path(options.engine.as_deref()));
        let mut command = Command::new(program);
        command
            .env_clear()
            .current_dir(&self.dir)
            .env("PATH", path)
            // Not root's home: it may contain AWS profiles.
            .env("HOME", &self.dir)
            .env("AWS_ENDPOINT_URL", self.endpoint())
            .env("DOCKER_HOST", format!("unix://{}", self.docker_socket().display()))
            .env("SKEP_CONFIG_DIR", self.dir.join("etc"))
            .env("SKEP_RUNTIME_DIR", self.dir.join("run"))
            .env("SKEP_STATE_DIR", self.dir.join("state"))
            .env("SKEP_FLUSH_DIR", self.dir.join("etc").join("flush.d"))
            .env("SKEP_HOOK_SCRIPTS_DIR", self.dir.join("etc").join("hooks.d"))
            .envs(&options.skep_env);
        Ok(command)
    }

    /// Opens the `NOTIFY_SOCKET` once: it stays open over a reboot.
    pub(in crate::fleet) fn listen_for_notifications(self: &Arc<Self>) -> anyhow::Result<()> {
        let mut state = self.supervisor.lock();
        if state.notify_task.is_none() {
            let _runtime = self.site.runtime.enter();
            // Weak: the task is only aborted when the instance is dropped.
            let instance = Arc::downgrade(self);
            let on_status = move |status: &str| {
                if let Some(instance) = instance.upgrade() {
                    instance.site.timeline.add(instance.id(), format!("skep: {status}"));
                }
            };
            state.notify_task = Some(self.notifications.listen(&self.notify_socket(), on_status)?);
        }
        Ok(())
    }

    pub(in crate::fleet) fn notify_socket(&self) -> PathBuf {
        self.dir.join("notify.sock")
    }
}
