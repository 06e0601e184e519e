//! The identity of one run: its name, its directory, and the lock that shows that it is alive.
//!
//! Everything that a run creates in the system carries its id, so that any process can remove it, also after the run's
//! process was killed. After a reboot the register under /run is empty, and the namespaces are gone, too.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use nix::sys::statfs::{TMPFS_MAGIC, statfs};

use super::clean;
use super::record::{REGISTER, Record, cgroup, namespace};

/// Longest path of a run's directory: the path of a unix socket has at most 107 bytes, and an instance adds
/// `/i-0123456789abcdef0/docker.sock`.
const SOCKET_ROOM: usize = 107 - 32;

/// Parent directory of the scratch directories of runs.
const SCRATCH: &str = "skep-sim";
/// Free bytes of shared memory from which data roots are put there: an instance needs a few MB.
const ENOUGH_MEMORY: u64 = 2 << 30;

/// A run of this process.
#[derive(Debug)]
pub(crate) struct Run {
    pub record: Record,
    file: PathBuf,
    /// Held while the run lives; the kernel releases it with the process.
    _lock: File,
}

impl Run {
    pub(crate) fn create(parent: &Path, keep_logs: bool) -> anyhow::Result<Run> {
        fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
        let id = new_id()?;
        let dir = parent.canonicalize()?.join(&id);
        ensure!(
            dir.as_os_str().len() <= SOCKET_ROOM,
            "{} is too long for the unix sockets below it: choose a shorter directory",
            dir.display()
        );
        let scratch = shared_memory().unwrap_or_else(|| dir.clone()).join(SCRATCH).join(&id);
        let record = Record { id, pid: std::process::id(), dir, scratch, keep_logs };
        fs::create_dir_all(REGISTER)?;
        let file = Path::new(REGISTER).join(format!("{}.json", record.id));
        let mut lock = OpenOptions::new().create_new(true).write(true).open(&file)?;
        // A cleaner may read the file before the lock; it does not touch empty files.
        lock.lock().context("cannot lock the run")?;
        lock.write_all(&serde_json::to_vec(&record)?)?;
        fs::create_dir_all(&record.dir)?;
        fs::write(record.dir.join("sim.pid"), format!("{}\n", record.pid))?;
        Ok(Run { record, file, _lock: lock })
    }

    pub(crate) fn namespace(&self) -> String {
        namespace(&self.record.id)
    }

    /// The cgroup that holds the containers of all instances.
    pub(crate) fn cgroup(&self) -> String {
        cgroup(&self.record.id)
    }

    /// Removes everything but the logs. The machines must be off. Repeating it does nothing.
    pub(crate) fn erase(&self) -> anyhow::Result<()> {
        if self.file.exists() {
            clean::erase(&self.record)?;
            fs::remove_file(&self.file).ok();
        }
        Ok(())
    }
}

impl Drop for Run {
    /// For a start that failed or was cancelled.
    fn drop(&mut self) {
        if let Err(error) = self.erase() {
            tracing::warn!("remains of run {} are left: {error:#}", self.record.id);
        }
    }
}

/// Shared memory, if enough of it is free: making and removing data roots takes some 300 ms each on a busy disk, and
/// 20 ms in memory.
fn shared_memory() -> Option<PathBuf> {
    let path = Path::new("/dev/shm");
    let status = statfs(path).ok()?;
    let free = status.blocks_available() * u64::try_from(status.block_size()).ok()?;
    (status.filesystem_type() == TMPFS_MAGIC && free >= ENOUGH_MEMORY).then(|| path.to_owned())
}

/// An id that sorts by time and is unique on this machine: `1120-231502-3f2a`.
fn new_id() -> anyhow::Result<String> {
    let format = time::macros::format_description!("[month][day]-[hour][minute][second]");
    let now = time::OffsetDateTime::now_utc().format(format)?;
    Ok(format!("{now}-{:04x}", fastrand::u16(..)))
}
