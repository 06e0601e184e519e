//! Builds the image that instances boot from: with the real Packer and the real template in `packer/`, on an EC2 whose
//! instances boot here. The image is kept until one of its inputs changes.

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use super::images::{self, BASE_IMAGE, Image};
use super::{BootedFleet, BootedOptions};
use crate::cloud::ImageState;
use crate::fleet::aws::listener;
use crate::fleet::clean::remove_dir;
use crate::fleet::dockerd::append;
use crate::fleet::process::{Bound, Exit};

/// A fleet's id for the image that Packer has built.
pub const IMAGE: &str = "ami-0000000000005ce70";

/// Debian's account on AWS, and an image name in Debian's form: the template searches for both.
const DEBIAN: &str = "136693071363";
const DEBIAN_IMAGE: &str = "debian-12-amd64-local";
/// Address of Debian's packages for the builder: the second address of the subnet, which AWS reserves for its DNS.
const MIRROR_HOST: u32 = 2;
const MIRROR: &str = "deb.debian.org";
const HTTP: u16 = 80;
/// Lines of Packer's output that go into an error.
const TAIL: usize = 40;
/// Installing Docker takes 1 min here, but four others may run at the same time.
const BUILD_PATIENCE: Duration = Duration::from_secs(900);

/// Returns the image with this package: the cached one, or a new one (some minutes).
///
/// # Errors
///
/// When Packer fails: with the end of its output.
pub async fn built(package: &Path) -> anyhow::Result<Image> {
    let base = Image::base().await?;
    let cache = images::cache();
    let dir = cache.join(format!("image-{}", key(&base, package)?));
    let held = cache.clone();
    let _lock = tokio::task::spawn_blocking(move || images::lock(&held, "image")).await??;
    if !dir.exists() {
        let unfinished = cache.join("image.unfinished");
        remove_dir(&unfinished)?;
        build(package, &unfinished).await?;
        fs::rename(&unfinished, &dir)?;
    }
    images::prune(&cache, "image-", &dir)?;
    Ok(Image::on(&dir, &base))
}

/// A hash of the image's inputs: the base, the package, and everything in `packer/`.
fn key(base: &Image, package: &Path) -> anyhow::Result<String> {
    let mut inputs = vec![format!("{base:?}").into_bytes(), fs::read(package)?];
    let mut dirs = vec![images::workspace().join("packer")];
    let mut files = Vec::new();
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).with_context(|| format!("{}", dir.display()))? {
            let path = entry?.path();
            if path.is_dir() { dirs.push(path) } else { files.push(path) }
        }
    }
    files.sort();
    for file in files {
        inputs.push(file.display().to_string().into_bytes());
        inputs.push(fs::read(&file)?);
    }
    Ok(images::key(&inputs.iter().map(Vec::as_slice).collect::<Vec<_>>()))
}

/// Runs Packer, and stores its image in `dir`.
async fn build(package: &Path, dir: &Path) -> anyhow::Result<()> {
    let subnet = BootedOptions::default().subnet;
    let mirror = Ipv4Addr::from_bits(subnet.0.to_bits() + MIRROR_HOST);
    let options =
        BootedOptions { names: vec![(MIRROR.to_owned(), mirror)], ..BootedOptions::default() };
    let fleet = BootedFleet::start(options).await?;
    fleet.cloud().register_image(BASE_IMAGE, DEBIAN_IMAGE, DEBIAN);
    let forwarding = forward(&fleet, mirror)?;
    let log = fleet.dir().join("packer.log");
    let status = tokio::time::timeout(BUILD_PATIENCE, packer(&fleet, package, &log)).await;
    forwarding.abort();
    if status.context("Packer takes too long")?? != Exit::Code(0) {
        let said = fs::read_to_string(&log)?;
        let lines: Vec<&str> = said.lines().collect();
        let end = lines[lines.len().saturating_sub(TAIL)..].join("\n");
        bail!("packer build failed (all of it in {}):\n{end}", log.display());
    }
    let images = fleet.cloud().images();
    let [(id, _, state)] = images.as_slice() else { bail!("Packer has made {images:?}") };
    ensure!(*state == ImageState::Available, "{id} is {state:?}");
    fs::rename(fleet.image_dir(id), dir).or_else(|_| {
        // `dir` is on another file system.
        images::copy(&fleet.image_dir(id), dir)
    })?;
    fleet.stop().await
}

async fn packer(fleet: &BootedFleet, package: &Path, log: &Path) -> anyhow::Result<Exit> {
    let workspace = images::workspace();
    let templates = fleet.dir().join("packer");
    let copied = tokio::process::Command::new(workspace.join("packer/for-old-packer.sh"))
        .arg(&templates)
        .output()
        .await?;
    ensure!(copied.status.success(), "{}", String::from_utf8_lossy(&copied.stderr));
    // Packer runs in the AWS namespace, where the builder's private address is reachable.
    let log = append(log)?;
    let mut command = fleet.site().network.command("packer");
    command
        .current_dir(fleet.dir())
        .env("HOME", fleet.dir())
        .env("CHECKPOINT_DISABLE", "1")
        .env("AWS_ACCESS_KEY_ID", "AKIALOCALCLOUD000000")
        .env("AWS_SECRET_ACCESS_KEY", "local")
        .env("AWS_POLL_DELAY_SECONDS", "1")
        .args(["build", "-color=false"])
        .arg(variable("skep_package", &package.display().to_string()))
        .arg(variable("region", &fleet.cloud().region()))
        .arg(variable("ec2_endpoint", &format!("http://{}", fleet.site().network.gateway())))
        .arg(templates.join("debian"))
        .stdout(log.try_clone()?)
        .stderr(log);
    let packer = Bound::spawn(command)?;
    Ok(packer.process.exited().await)
}

fn variable(name: &str, value: &str) -> String {
    format!("-var={name}={value}")
}

/// Forwards connections to the mirror's address inside to the real mirror. Instances have no other connection to the
/// outside.
fn forward(fleet: &BootedFleet, mirror: Ipv4Addr) -> anyhow::Result<JoinHandle<()>> {
    let aws = &fleet.site().aws;
    aws.add_address(mirror)?;
    let inside = listener(aws.listen((mirror, HTTP).into())?)?;
    Ok(tokio::spawn(async move {
        while let Ok((mut near, _)) = inside.accept().await {
            tokio::spawn(async move {
                let mut far = TcpStream::connect((MIRROR, HTTP)).await?;
                tokio::io::copy_bidirectional(&mut near, &mut far).await
            });
        }
    }))
}
