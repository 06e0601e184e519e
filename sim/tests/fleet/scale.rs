//! `skep-sim scale` with sizes that make no run, and interrupted.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::PATIENCE;
use super::commands::{failure, skep_sim, until};

/// A run with a skep that fails at once: it never gets past the boot.
fn scale(home: &Path) -> tokio::process::Command {
    let mut command = skep_sim(home);
    command.args(["scale", "--skep", "/bin/false", "--out"]).arg(home.join("out"));
    command
}

fn files(dir: &Path) -> Vec<PathBuf> {
    fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect()
}

#[tokio::test]
async fn a_size_that_makes_no_run_is_refused_before_anything_starts() -> anyhow::Result<()> {
    let home = tempfile::tempdir()?;
    let said = failure(scale(home.path()).args(["--nodes", "0"])).await?;
    assert_eq!(
        said,
        "error: 0 instances are no run: --nodes must be 1 or more (make scale N=1000)\n"
    );
    let said = failure(scale(home.path()).args(["--nodes", "4000000000"])).await?;
    let first = said.lines().next().unwrap_or_default();
    assert_eq!(first, "error: 4000000000 instances do not fit on this machine:");
    for what in ["MiB of memory are needed", "threads are needed", "addresses are needed"] {
        ensure!(said.contains(what), "{said}");
    }
    assert_eq!(files(home.path()), Vec::<PathBuf>::new(), "nothing is left behind");
    Ok(())
}

#[tokio::test]
async fn an_interrupted_run_leaves_nothing() -> anyhow::Result<()> {
    let home = tempfile::tempdir()?;
    let mut command = scale(home.path());
    command.args(["--nodes", "3", "--keep-logs"]);
    command.stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    let scale = command.spawn()?;
    let run = || files(home.path()).into_iter().find(|dir| dir.join("sim.pid").is_file());
    let logs = |run: &Path| {
        files(run).iter().filter(|it| it.extension().is_some_and(|it| it == "log")).count()
    };
    until("its instances", async || Ok(run().is_some_and(|run| logs(&run) >= 3))).await?;
    let run = run().and_then(|run| Some(run.file_name()?.to_string_lossy().into_owned()));
    let run = run.context("the run is gone")?;
    let pid = scale.id().context("the run has ended")?;
    kill(Pid::from_raw(pid.cast_signed()), Signal::SIGINT)?;
    let ended = tokio::time::timeout(PATIENCE, scale.wait_with_output()).await??;
    assert_eq!(ended.status.code(), Some(1));
    assert_eq!(String::from_utf8(ended.stderr)?, "error: interrupted\n");
    for place in ["/run/netns", "/run/skep-sim", "/dev/shm/skep-sim"] {
        let left = fs::read_dir(place).into_iter().flatten().flatten();
        let left = left.filter(|it| it.file_name().to_string_lossy().contains(&run)).count();
        assert_eq!(left, 0, "{place}");
    }
    Ok(())
}
