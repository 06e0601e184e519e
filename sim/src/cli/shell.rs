//! `skep-sim shell`: runs a shell or a command inside an instance.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, bail};
use clap::Args;
use skep_sim::fleet::Inside;

use super::current::Current;
use super::instance::OfInstance;

#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    instance: OfInstance,
    /// Command to run there, such as `-- skep status` [default: bash]
    #[arg(last = true)]
    command: Vec<String>,
}

/// Replaces this process with the command, in the instance's namespaces and with the environment of its skep. Returns
/// only on an error.
///
/// # Errors
/// When no cloud runs here, the instance is off, or `nsenter` is missing.
pub async fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let current = Current::find()?;
    let id = arguments.instance.id().await?;
    let dir = current.dir.join(&id);
    if !dir.is_dir() {
        bail!("{id} is no instance of the cloud that runs here");
    }
    let inside = Inside::read(&dir)?.with_context(|| format!("{id} is switched off"))?;
    let mut shell = Command::new("nsenter");
    shell.arg(format!("--target={}", inside.init)).args(["--mount", "--uts", "--net", "--pid"]);
    shell.arg(format!("--wd={}", dir.display())).arg("--");
    match arguments.command.as_slice() {
        [] => shell.arg("bash"),
        command => shell.args(command),
    };
    let terminal = std::env::var_os("TERM");
    shell.env_clear().envs(&inside.environment).envs(terminal.map(|it| ("TERM", it)));
    let error = shell.exec();
    if error.kind() == io::ErrorKind::NotFound {
        bail!("nsenter is missing: it is in the package util-linux");
    }
    Err(error).context("cannot run nsenter")
}
