//! What is left of a file system, and files that are written as a whole or not at all.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::sys::statvfs::statvfs;

/// So much of so much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskSpace {
    pub free: u64,
    pub all: u64,
}

impl DiskSpace {
    /// From 0 to 1. Some file systems make inodes as they need them, and have no number: nothing is
    /// short there.
    #[must_use]
    pub fn share(self) -> f64 {
        if self.all == 0 { 1.0 } else { self.free as f64 / self.all as f64 }
    }
}

/// A file system, as whoever is not root may use it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Disk {
    pub bytes: DiskSpace,
    pub inodes: DiskSpace,
}

impl Disk {
    /// Whether both are the same one.
    ///
    /// # Errors
    /// A path is not there, or out of reach.
    pub fn is_shared(one: &Path, other: &Path) -> io::Result<bool> {
        Ok(one.metadata()?.dev() == other.metadata()?.dev())
    }

    /// The one that `path` is on.
    ///
    /// # Errors
    /// The path is not there, or out of reach.
    pub fn of(path: &Path) -> nix::Result<Self> {
        let stat = statvfs(path)?;
        let bytes = |blocks: u64| blocks * stat.fragment_size();
        Ok(Self {
            bytes: DiskSpace { free: bytes(stat.blocks_available()), all: bytes(stat.blocks()) },
            inodes: DiskSpace { free: stat.files_available(), all: stat.files() },
        })
    }
}

/// Writes a file, with its directories, or leaves what was there.
///
/// # Errors
/// It cannot be written, as on a disk that is full.
pub fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let mut file = File::create(&new)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(new, path)
}
