//! `skep-sim chaos` with wrong input, beside a second campaign, and interrupted.

use std::fs;
use std::path::Path;
use std::process::{Output, Stdio};

use anyhow::{Context, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::PATIENCE;
use super::commands::{failure, skep_sim, until};

/// A campaign on a fleet on which skep ends at once: it never gets past the boot.
fn chaos(home: &Path) -> tokio::process::Command {
    let mut command = skep_sim(home);
    command.args(["chaos", "--skep", "/bin/true", "--out"]).arg(home.join("out"));
    command
}

#[tokio::test]
async fn what_cannot_be_played_is_said() -> anyhow::Result<()> {
    let home = tempfile::tempdir()?;
    let Output { status, stderr, .. } =
        chaos(home.path()).args(["--seed", "many"]).output().await?;
    assert_eq!(status.code(), Some(2));
    let said = String::from_utf8(stderr)?;
    ensure!(said.starts_with("error: invalid value 'many' for '--seed <SEED>'"), "{said}");
    for (arguments, says) in [
        (["--replay", "soft-one-2"], "error: soft-one-2 is no round (such as soft-1-17)"),
        (["--experiments", "nonsense"], "error: no experiment has this in its name"),
    ] {
        let said = failure(chaos(home.path()).args(arguments)).await?;
        ensure!(said.starts_with(says), "{said}");
    }
    Ok(())
}

#[tokio::test]
async fn there_is_one_at_a_time_and_an_interrupted_one_leaves_nothing() -> anyhow::Result<()> {
    let home = tempfile::tempdir()?;
    let mut command = chaos(home.path());
    command.stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    let campaign = command.spawn()?;
    let run = || {
        let entries = fs::read_dir(home.path()).ok()?.flatten();
        let mut names = entries.filter(|entry| entry.path().join("timeline.jsonl").is_file());
        names.next().map(|entry| entry.file_name().to_string_lossy().into_owned())
    };
    until("a fleet", async || Ok(run().is_some())).await?;
    let run = run().context("the run is gone")?;
    let namespaces = || {
        let names = fs::read_dir("/run/netns").into_iter().flatten().flatten();
        names.filter(|name| name.file_name().to_string_lossy().contains(&run)).count()
    };
    until("its instances", async || Ok(namespaces() > 5)).await?;

    let second = failure(&mut chaos(home.path())).await?;
    ensure!(second.starts_with("error: another campaign is running and writes into"), "{second}");

    let pid = campaign.id().context("the campaign has ended")?;
    kill(Pid::from_raw(pid.cast_signed()), Signal::SIGINT)?;
    let ended = tokio::time::timeout(PATIENCE, campaign.wait_with_output()).await??;
    assert_eq!(ended.status.code(), Some(1));
    assert_eq!(String::from_utf8(ended.stderr)?, "error: interrupted\n");
    assert_eq!(namespaces(), 0);
    ensure!(!Path::new("/run/skep-sim").join(format!("{run}.json")).exists(), "{run} is alive");
    Ok(())
}
