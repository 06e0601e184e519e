//! Reads the free space of file systems, and replaces files atomically.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::sys::statvfs::statvfs;

/// Free and total amount of one resource of a file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskSpace {
    /// Amount that processes without root rights can still use.
    pub free: u64,
    /// Total amount, with the part that is reserved for root; 0 if the file system does not limit its inodes.
    pub all: u64,
}

impl DiskSpace {
    /// Returns the free share, from 0 to 1. Some file systems create inodes on demand and report a total of 0: there
    /// the share is 1.
    #[must_use]
    pub fn share(self) -> f64 {
        if self.all == 0 { 1.0 } else { self.free as f64 / self.all as f64 }
    }
}

/// Space of a file system that processes without root rights can use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Disk {
    /// Space in bytes.
    pub bytes: DiskSpace,
    /// Number of inodes; each file and each directory needs one.
    pub inodes: DiskSpace,
}

impl Disk {
    /// Whether both paths are on the same file system.
    ///
    /// # Errors
    /// A path does not exist or cannot be reached.
    pub fn is_shared(one: &Path, other: &Path) -> io::Result<bool> {
        Ok(one.metadata()?.dev() == other.metadata()?.dev())
    }

    /// Reads the file system that holds `path`.
    ///
    /// # Errors
    /// The path does not exist or cannot be reached.
    pub fn of(path: &Path) -> nix::Result<Self> {
        let stat = statvfs(path)?;
        let bytes = |blocks: u64| blocks * stat.fragment_size();
        Ok(Self {
            bytes: DiskSpace { free: bytes(stat.blocks_available()), all: bytes(stat.blocks()) },
            inodes: DiskSpace { free: stat.files_available(), all: stat.files() },
        })
    }
}

/// Writes a file and its missing directories; after an error, the old file is unchanged.
///
/// # Errors
/// The file cannot be written, for example because the disk is full.
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
