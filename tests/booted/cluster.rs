//! The start of every scenario here: a swarm of booted instances.

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, ensure};
use skep_sim::booted::{self, BootedFleet, BootedOptions, IMAGE};
use skep_sim::fleet::ClusterSpec;

/// Name of the cluster and its stack, and prefix of its groups' names.
pub const CLUSTER: &str = "booted";

/// Whether instances can boot on this machine. Prints the missing parts; in CI nothing may be missing.
pub fn possible() -> anyhow::Result<bool> {
    match booted::check() {
        Ok(()) => Ok(true),
        Err(missing) if std::env::var("CI").is_ok_and(|ci| ci == "true") => Err(missing),
        Err(missing) => {
            // Directly to stderr: the test runner hides the output of a test that passes.
            writeln!(std::io::stderr(), "skipped: {missing:#}")?;
            Ok(false)
        }
    }
}

/// The package to install in the image: `SKEP_PACKAGE`, or the one that `make test` has built.
pub fn package() -> anyhow::Result<PathBuf> {
    if let Some(package) = std::env::var_os("SKEP_PACKAGE") {
        return Ok(package.into());
    }
    let test = std::env::current_exe()?;
    let target = test.ancestors().nth(3).context("it is in target/<profile>/deps")?;
    let is_deb = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "deb");
    let entries = std::fs::read_dir(target.join("package-trial"));
    let mut packages: Vec<PathBuf> = entries
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(is_deb)
        .collect();
    let package = packages.pop().context("there is no package: run `make test STAGES=packages`")?;
    ensure!(packages.is_empty(), "several packages: {package:?} and {packages:?}");
    Ok(package)
}

/// A cloud without instances that knows the image.
pub async fn fleet() -> anyhow::Result<BootedFleet> {
    let image = booted::built(&package()?).await?;
    let images = vec![(IMAGE.to_owned(), image)];
    BootedFleet::start(BootedOptions { images, ..BootedOptions::default() }).await
}

/// A cluster whose instances run a file of `userdata/`.
pub fn spec(managers: u32, workers: u32, user_data: &str) -> anyhow::Result<ClusterSpec> {
    Ok(ClusterSpec {
        image_id: Some(IMAGE.to_owned()),
        user_data: Some(booted::user_data(user_data)?),
        ..ClusterSpec::new(CLUSTER, managers, workers)
    })
}
