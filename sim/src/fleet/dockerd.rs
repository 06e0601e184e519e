//! The Docker daemon of one instance: its configuration, its command and its API.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::net::Ipv4Addr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail};
use bollard::{ClientVersion, Docker};
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use super::prerequisites;

/// Docker can take 21 s to open its socket when no manager of its swarm is reachable.
pub(crate) const API_PATIENCE: Duration = Duration::from_secs(60);
/// Timeout of one call of a client, in seconds: join and leave need 20 s.
const CALL_TIMEOUT: u64 = 60;
/// From newest to oldest: engines from 29 on refuse the version that 20.10 needs.
const API_VERSIONS: [ClientVersion; 2] = [
    ClientVersion { major_version: 1, minor_version: 44 },
    ClientVersion { major_version: 1, minor_version: 41 },
];

/// Starts containerd with dockerd's settings and one more. containerd's garbage collector may use a share of all
/// time, by default 2 %. In an almost empty store it therefore runs 150 times a second: half the cost of an idle
/// daemon. https://github.com/containerd/containerd/blob/main/docs/garbage-collection.md
const CONTAINERD: &str = r#"#!/bin/sh
settings=/run/docker/containerd/containerd.toml
plugin=scheduler
! grep -q '^version = [23]' "$settings" || plugin=io.containerd.gc.v1.scheduler
printf '\n[plugins."%s"]\n  pause_threshold = 0.0002\n' "$plugin" >>"$settings"
PATH=${PATH#*:}
exec containerd "$@"
"#;

/// The paths and settings of one daemon.
#[derive(Clone, Debug)]
pub(crate) struct Dockerd {
    /// Removed with the instance.
    pub dir: PathBuf,
    pub socket: PathBuf,
    pub log: PathBuf,
    pub cgroup: String,
    /// A folder with another engine.
    pub engine: Option<PathBuf>,
    /// Tasks pull their images; otherwise they run the images that are present.
    pub pulls: bool,
}

impl Dockerd {
    pub(crate) fn data_root(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// The instance's `/etc/docker`.
    pub(crate) fn etc(&self) -> PathBuf {
        self.dir.join("etc")
    }

    /// The instance's `/etc/resolv.conf`: nothing listens at its name server, so a look-up is refused at once
    /// and a pull of a local-only image does not hang.
    pub(crate) fn resolv_conf(&self) -> PathBuf {
        self.dir.join("resolv.conf")
    }

    /// The instance's `/etc/hosts`: the only names that it can resolve.
    pub(crate) fn hosts(&self) -> PathBuf {
        self.dir.join("hosts")
    }

    /// The directory that is before the engine's programs in the PATH.
    fn programs(&self) -> PathBuf {
        self.socket.with_file_name("programs")
    }

    /// Writes the configuration; `hosts` are names with their addresses. Run-time files stay at Docker's
    /// defaults: the instance has a /run of its own.
    pub(crate) fn prepare(
        &self,
        overrides: &Map<String, Value>,
        hosts: &[(Ipv4Addr, String)],
    ) -> anyhow::Result<()> {
        fs::create_dir_all(self.etc())?;
        fs::write(self.resolv_conf(), "nameserver 127.0.0.1\n")?;
        let localhost = [(Ipv4Addr::LOCALHOST, "localhost".to_owned())];
        let lines = localhost.iter().chain(hosts).map(|(at, name)| format!("{at} {name}\n"));
        fs::write(self.hosts(), lines.collect::<String>())?;
        let mut daemon = json!({
            "data-root": self.data_root(),
            "hosts": [format!("unix://{}", self.socket.display())],
            "cgroup-parent": self.cgroup,
            "exec-opts": ["native.cgroupdriver=cgroupfs"],
        });
        if let Some(daemon) = daemon.as_object_mut() {
            daemon.extend(overrides.clone());
        }
        fs::create_dir_all(self.programs())?;
        let mut options = OpenOptions::new();
        let mut script = options
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o755)
            .open(self.programs().join("containerd"))?;
        script.write_all(CONTAINERD.as_bytes())?;
        let file = self.etc().join("daemon.json");
        fs::write(&file, serde_json::to_vec_pretty(&daemon)?)
            .with_context(|| format!("cannot write {}", file.display()))
    }

    /// The daemon's command line, for [`super::machine::Machine::spawn`].
    pub(crate) fn command(&self) -> anyhow::Result<Command> {
        // A killed daemon leaves its socket, which would look like an API.
        fs::remove_file(&self.socket).ok();
        let log = append(&self.log)?;
        let mut path = self.programs().into_os_string();
        path.push(":");
        path.push(prerequisites::search_path(self.engine.as_deref()));
        let mut command = Command::new("dockerd");
        command
            .env_clear()
            .env("PATH", path)
            // An instance has one processor, but Go uses all processors of the machine. And memory is cheaper here
            // than time.
            .env("GOMAXPROCS", "1")
            .env("GOGC", "400")
            .env("HOME", &self.dir)
            // With it, Docker asks no registry; by default it asks one at every start of a task.
            .env("DOCKER_SERVICE_PREFER_OFFLINE_IMAGE", if self.pulls { "0" } else { "1" })
            .stdout(log.try_clone()?)
            .stderr(log);
        Ok(command)
    }

    /// A client for the daemon; fails while there is no socket.
    pub(crate) fn client(&self, version: &ClientVersion) -> anyhow::Result<Docker> {
        let socket = self.socket.to_str().context("the socket's path is not UTF-8")?;
        Docker::connect_with_unix(socket, CALL_TIMEOUT, version)
            .with_context(|| format!("no Docker API at {socket}"))
    }

    /// Waits until the API answers; returns the version to use.
    pub(crate) async fn wait_api(&self, patience: Duration) -> anyhow::Result<ClientVersion> {
        let end = Instant::now() + patience;
        while Instant::now() < end {
            for version in &API_VERSIONS {
                let Ok(docker) = self.client(version) else { break };
                let answer = tokio::time::timeout_at(end, docker.version()).await;
                if matches!(answer, Ok(Ok(_))) {
                    return Ok(*version);
                }
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        bail!("no Docker API at {} after {patience:?}", self.socket.display())
    }
}

/// The version to use until the daemon has answered.
pub(crate) fn oldest_api() -> &'static ClientVersion {
    &API_VERSIONS[API_VERSIONS.len() - 1]
}

/// Opens a log file to append to it: it keeps its content when the writer restarts.
pub(crate) fn append(path: &Path) -> anyhow::Result<File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .with_context(|| format!("cannot open {}", path.display()))
}
