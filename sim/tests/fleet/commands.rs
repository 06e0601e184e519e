//! The commands that inject faults, as an operator enters them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use bollard::Docker;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use skep_sim::cloud::{GroupSpec, LifecycleState, PoolState, WarmPoolSpec};
use skep_sim::fleet::{Fleet, FleetOptions, Restart, default_dir};
use tokio::process::{Child, Command};

use super::PATIENCE;
use super::trouble::hangs;

const API_IS_UP: &str = "Docker API is up";

#[tokio::test]
async fn an_operator_disturbs_a_cloud_that_is_up_and_mends_it() -> anyhow::Result<()> {
    let cloud = Up::start().await?;
    let [one, other] = &cloud.instances().await?[..] else { panic!("one manager, one worker") };
    let (id, other) = (&one.id, &other.id);

    let ends = format!("`skep-sim mend {id}` ends it");
    for (arguments, line, happens) in [
        (
            vec!["isolate", id],
            format!("{id} is cut off from the other instances; {ends}"),
            "isolated",
        ),
        (
            vec!["cut", &one.address],
            format!("{id} is cut off from the other instances, the metadata and AWS; {ends}"),
            "link cut",
        ),
        (
            vec!["slow", id, "--rate", "1mbit", "--queue", "50ms"],
            format!("{id} sends and receives 1000 kbit/s at most; {ends}"),
            "link slow: 1000 kbit/s, a packet waits for 50ms at most",
        ),
        (vec!["mend", id], format!("{id} is mended"), "mended"),
        (
            vec!["stop", id, "dockerd"],
            format!("dockerd of {id} is stopped; `skep-sim cont {id} dockerd` continues it"),
            "dockerd gets SIGSTOP",
        ),
    ] {
        assert_eq!(cloud.says(&arguments).await?, format!("{line}\n"));
        assert_eq!(cloud.story_of(id)?.last().map(String::as_str), Some(happens));
    }
    let docker = one.docker()?;
    until("no answer", async || Ok(hangs(&docker).await)).await?;
    let continued = cloud.says(&["cont", id, "dockerd"]).await?;
    assert_eq!(continued, format!("dockerd of {id} is continued\n"));
    docker.ping().await?;

    let killed = cloud.says(&["kill", id, "dockerd"]).await?;
    assert_eq!(killed, format!("dockerd of {id} is killed; its supervisor starts it again\n"));
    until("a second Docker API", async || {
        Ok(cloud.story_of(id)?.iter().filter(|what| *what == API_IS_UP).count() == 2)
    })
    .await?;

    let mended = cloud.says(&["mend", "--all"]).await?;
    assert_eq!(mended, format!("{id} is mended\n{other} is mended\n"));
    let addresses = cloud.says(&["shell", id, "--", "ip", "-4", "-o", "address"]).await?;
    ensure!(addresses.contains(&format!(" {}/", one.address)), "{addresses}");
    let name = cloud.says(&["shell", other, "--", "docker", "info", "-f", "{{.Name}}"]).await?;
    ensure!(name.starts_with("ip-10-78-0-"), "{name}");
    ensure!(!cloud.says(&["shell", id, "--", "pgrep", "-x", "dockerd"]).await?.is_empty());
    let bare = cloud.refuses(&["kill", id, "skep"]).await?;
    assert_eq!(bare, format!("error: skep does not run on {id}\n"));
    let unknown = cloud.refuses(&["cut", "i-nobody"]).await?;
    assert_eq!(unknown, "error: no instance is called i-nobody; see `skep-sim list`\n");
    cloud.stop().await
}

#[tokio::test]
async fn a_machine_that_is_off_is_only_mended() -> anyhow::Result<()> {
    let fleet = Fleet::start(FleetOptions {
        docker_restart: Restart::OnFailure(Duration::ZERO),
        keep_logs: false,
        ..FleetOptions::default()
    })
    .await?;
    fleet.cloud().create_group(GroupSpec {
        name: "nodes".into(),
        max: 1,
        ..GroupSpec::default()
    })?;
    let pool = WarmPoolSpec { state: PoolState::Stopped, ..WarmPoolSpec::default() };
    fleet.cloud().put_warm_pool("nodes", pool)?;
    fleet
        .wait_until("a stopped machine", PATIENCE, async || {
            Ok(fleet.timeline().iter().any(|entry| entry.what == "stopped"))
        })
        .await?;
    let [instance] = &fleet.cloud().instances()[..] else { panic!("one instance") };
    assert_eq!(instance.lifecycle, LifecycleState::WarmedStopped);

    let (dir, id, endpoint) = (fleet.dir(), &instance.id, &fleet.endpoint());
    for what in [&["isolate", id][..], &["cut", id], &["slow", id], &["stop", id, "dockerd"]] {
        let refused = failure(skep_sim(dir).args(what).args(["--endpoint", endpoint])).await?;
        assert_eq!(refused, format!("error: {id} is switched off\n"), "{what:?}");
    }
    let mended = success(skep_sim(dir).args(["mend", id, "--endpoint", endpoint])).await?;
    assert_eq!(mended, format!("{id} is mended\n"));
    let timeline = fleet.timeline();
    ensure!(!timeline.iter().any(|it| it.what.contains("not restarted")), "{timeline:#?}");
    fleet.stop().await
}

/// A `skep-sim up` of a manager and a worker without skep.
struct Up {
    process: Child,
    /// Directory in which the commands find the running cloud.
    home: tempfile::TempDir,
}

/// An instance as `skep-sim list --json` shows it.
#[derive(serde::Deserialize)]
struct Listed {
    id: String,
    address: String,
    docker: String,
}

impl Listed {
    fn docker(&self) -> anyhow::Result<Docker> {
        let socket = self.docker.strip_prefix("unix://").context("no socket")?;
        Ok(Docker::connect_with_unix(socket, 60, bollard::API_DEFAULT_VERSION)?)
    }
}

impl Up {
    async fn start() -> anyhow::Result<Up> {
        let home = tempfile::tempdir()?;
        let mut up = skep_sim(home.path());
        // The directory with the image that all tests share.
        up.args(["up", "--bare", "--managers", "1", "--workers", "1", "--dir"]).arg(default_dir());
        let process = up.stdout(Stdio::null()).kill_on_drop(true).spawn()?;
        let cloud = Up { process, home };
        until("two Docker APIs", async || {
            let entries = cloud.timeline()?;
            Ok(entries.iter().filter(|entry| entry["what"] == API_IS_UP).count() == 2)
        })
        .await?;
        Ok(cloud)
    }

    async fn instances(&self) -> anyhow::Result<Vec<Listed>> {
        Ok(serde_json::from_str(&self.says(&["list", "--json"]).await?)?)
    }

    async fn says(&self, arguments: &[&str]) -> anyhow::Result<String> {
        success(skep_sim(self.home.path()).args(arguments)).await
    }

    async fn refuses(&self, arguments: &[&str]) -> anyhow::Result<String> {
        failure(skep_sim(self.home.path()).args(arguments)).await
    }

    /// The events of an instance so far.
    fn story_of(&self, id: &str) -> anyhow::Result<Vec<String>> {
        let mut entries = self.timeline()?;
        entries.retain(|entry| entry["instance"] == id);
        let whats = entries.iter().filter_map(|entry| Some(entry["what"].as_str()?.to_owned()));
        Ok(whats.collect())
    }

    fn timeline(&self) -> anyhow::Result<Vec<Value>> {
        let text = fs::read_to_string(self.dir()?.join("timeline.jsonl"))?;
        Ok(text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?)
    }

    /// The run's directory.
    fn dir(&self) -> anyhow::Result<PathBuf> {
        let current: Value =
            serde_json::from_slice(&fs::read(self.home.path().join("current.json"))?)?;
        Ok(current["dir"].as_str().context("no directory")?.into())
    }

    async fn stop(mut self) -> anyhow::Result<()> {
        let dir = self.dir()?;
        let pid = self.process.id().context("`skep-sim up` has ended")?;
        kill(Pid::from_raw(pid.cast_signed()), Signal::SIGTERM)?;
        let status = tokio::time::timeout(PATIENCE, self.process.wait()).await??;
        ensure!(status.success(), "`skep-sim up`: {status}");
        Ok(fs::remove_dir_all(dir)?)
    }
}

pub(super) fn skep_sim(home: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_skep-sim"));
    command.env("SKEP_SIM_DIR", home);
    command
}

/// Runs a command that must succeed; returns its output.
async fn success(command: &mut Command) -> anyhow::Result<String> {
    let output = command.output().await?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {}: {error}", output.status);
    Ok(String::from_utf8(output.stdout)?)
}

/// Runs a command that must fail with exit code 1; returns its standard error.
pub(super) async fn failure(command: &mut Command) -> anyhow::Result<String> {
    let output = command.output().await?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.code() == Some(1), "{command:?}: {}: {said}", output.status);
    ensure!(said.is_empty(), "{command:?} failed and says {said}");
    Ok(String::from_utf8(output.stderr)?)
}

/// Waits until `look` returns true.
pub(super) async fn until<F>(what: &str, mut look: F) -> anyhow::Result<()>
where
    F: AsyncFnMut() -> anyhow::Result<bool>,
{
    let end = Instant::now() + PATIENCE;
    loop {
        match look().await {
            Ok(true) => return Ok(()),
            last if Instant::now() > end => bail!("waited in vain for {what}: {last:?}"),
            _ => tokio::time::sleep(Duration::from_millis(200)).await,
        }
    }
}
