//! The images that machines boot from: the base, and images made from it.
//!
//! An image is a stack of layers. The base is a root file system that `scripts/booted-base.sh`
//! makes; every image that EC2 creates adds the changes of one machine.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use anyhow::{Context, ensure};

use super::machine::Disk;
use crate::fleet::clean::remove_dir;

/// The image id of the base, which represents Debian's own image.
pub const BASE_IMAGE: &str = "ami-0000000000000ba5e";

/// Time for which an unused image is kept: longer than any run.
const KEPT: Duration = Duration::from_secs(2 * 3600);

/// A file system to boot from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// The topmost first.
    layers: Vec<PathBuf>,
    /// Docker's directories as the image's machine left them.
    docker: Option<PathBuf>,
}

impl Image {
    /// Returns the base image: the cached one, or a new one (about 1 min).
    pub async fn base() -> anyhow::Result<Image> {
        let script = workspace().join("scripts").join("booted-base.sh");
        let recipe = fs::read(&script)?;
        let cache = cache();
        let target = cache.join(format!("base-{}", key(&[&recipe])));
        tokio::task::spawn_blocking(move || {
            let _lock = lock(&cache, "base")?;
            if !target.exists() {
                let output = Command::new(&script).arg(&target).output()?;
                let error = String::from_utf8_lossy(&output.stderr);
                ensure!(output.status.success(), "{}: {error}", script.display());
            }
            prune(&cache, "base-", &target)?;
            Ok(Image { layers: vec![target], docker: None })
        })
        .await?
    }

    /// Its file systems, the topmost first.
    pub fn layers(&self) -> &[PathBuf] {
        &self.layers
    }

    /// Copies Docker's directories of the image, which are beside its root file system, to a new disk.
    pub(super) fn fill(&self, disk: &Disk) -> anyhow::Result<()> {
        match &self.docker {
            Some(docker) => {
                copy(&docker.join("docker/."), &disk.docker())?;
                copy(&docker.join("containerd/."), &disk.containerd())
            }
            None => Ok(()),
        }
    }

    /// Stores the disk of a machine that is off as an image, in a new directory.
    pub(super) fn keep(&self, disk: &Disk, dir: &Path) -> anyhow::Result<Image> {
        fs::create_dir_all(dir)?;
        for source in [disk.upper(), disk.docker(), disk.containerd()] {
            copy(&source, dir)?;
        }
        Ok(Image::on(dir, self))
    }

    /// The image that is stored in `dir`, on top of another.
    pub(super) fn on(dir: &Path, below: &Image) -> Image {
        let mut layers = vec![dir.join("upper")];
        layers.extend(below.layers.iter().cloned());
        Image { layers, docker: Some(dir.to_owned()) }
    }
}

/// The images of a run, by id.
#[derive(Debug, Default)]
pub(super) struct Images(Mutex<BTreeMap<String, Image>>);

impl Images {
    pub(super) fn add(&self, id: &str, image: Image) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(id.to_owned(), image);
    }

    pub(super) fn get(&self, id: &str) -> anyhow::Result<Image> {
        let images = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        images.get(id).cloned().with_context(|| format!("there is no image {id}"))
    }
}

/// Directory in which images are kept between runs.
pub(super) fn cache() -> PathBuf {
    workspace().join("target").join("booted")
}

pub(super) fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("/")).to_owned()
}

/// Locks the making of an image: two runs must not make the same one.
pub(super) fn lock(cache: &Path, what: &str) -> anyhow::Result<File> {
    fs::create_dir_all(cache)?;
    let lock = File::create(cache.join(format!("{what}.lock")))?;
    lock.lock()?;
    Ok(lock)
}

/// Marks `used` as used now, and removes the entries of this kind that were not used for [`KEPT`].
pub(super) fn prune(cache: &Path, kind: &str, used: &Path) -> anyhow::Result<()> {
    File::open(used)?.set_modified(SystemTime::now())?;
    for entry in fs::read_dir(cache)? {
        let path = entry?.path();
        let is_of_kind =
            path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(kind));
        let unused = path.metadata()?.modified()?.elapsed().is_ok_and(|unused| unused > KEPT);
        if is_of_kind && path.is_dir() && unused {
            remove_dir(&path)?;
        }
    }
    Ok(())
}

/// Name of an image: a hash of its inputs.
pub(super) fn key(inputs: &[&[u8]]) -> String {
    let mut hasher = DefaultHasher::new();
    inputs.hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

/// Copies with all attributes, including those of an overlay.
pub(super) fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    let output = Command::new("cp")
        .args(["--archive", "--reflink=auto"])
        .args([from, to])
        .output()
        .context("cannot run cp")?;
    ensure!(output.status.success(), "cp: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
