//! Removes the remains of runs: namespaces, cgroups, data roots.
//!
//! Processes and mounts need no cleaning: they end with the sim process (see
//! [`super::machine`]). A run whose register file is locked is alive, and is never changed.

use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;
use nix::errno::Errno;

use super::netns::Namespace;
use super::record::{self, REGISTER, Record};

/// Time for which a cgroup can stay busy after its last process was killed.
const CGROUP_PATIENCE: Duration = Duration::from_secs(2);

/// Removes the remains of every dead run on this machine; returns their ids.
pub fn clean_dead_runs() -> anyhow::Result<Vec<String>> {
    let mut cleaned = Vec::new();
    let entries = match fs::read_dir(REGISTER) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(cleaned),
        Err(error) => return Err(error).context(REGISTER),
    };
    for entry in entries {
        let path = entry?.path();
        // Another cleaner may have removed it.
        let Ok(mut file) = File::open(&path) else { continue };
        if file.try_lock().is_err() {
            continue;
        }
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        // Empty: the run is being created.
        let Ok(record) = serde_json::from_str::<Record>(&text) else { continue };
        erase(&record).with_context(|| format!("cannot clean run {}", record.id))?;
        fs::remove_file(&path).ok();
        cleaned.push(record.id);
    }
    Ok(cleaned)
}

/// The runs whose process is alive: id and directory.
pub fn live_runs() -> Vec<(String, PathBuf)> {
    let Ok(entries) = fs::read_dir(REGISTER) else { return Vec::new() };
    entries
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let file = File::open(&path).ok()?;
            if file.try_lock().is_ok() {
                return None;
            }
            let record: Record = serde_json::from_slice(&fs::read(&path).ok()?).ok()?;
            Some((record.id, record.dir))
        })
        .collect()
}

/// Removes one run; safe to repeat.
pub(crate) fn erase(record: &Record) -> anyhow::Result<()> {
    let aws = record::namespace(&record.id);
    for namespace in Namespace::with_prefix(&aws) {
        namespace.delete()?;
    }
    // Booted instances may still run if their sim was killed.
    kill_cgroup(&record::cgroup(&record.id));
    remove_cgroup(&record::cgroup(&record.id));
    // Fails while other runs have cgroups in it; this is intended.
    for hierarchy in hierarchies() {
        fs::remove_dir(hierarchy.join("skep-sim")).ok();
    }
    remove_dir(&record.scratch)?;
    if let Some(parent) = record.scratch.parent() {
        fs::remove_dir(parent).ok();
    }
    if record.keep_logs {
        return Ok(());
    }
    remove_dir(&record.dir)
}

/// Removes a directory tree; succeeds if it does not exist.
pub(crate) fn remove_dir(path: &Path) -> anyhow::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Kills every process of a cgroup and of its children, if the cgroup exists.
pub(crate) fn kill_cgroup(name: &str) {
    if let Some(hierarchy) = cgroup2() {
        fs::write(hierarchy.join(name.trim_start_matches('/')).join("cgroup.kill"), "1").ok();
    }
}

/// Removes a cgroup with its children from every hierarchy, as far as possible: a cgroup that stays is empty and
/// harmless.
pub(crate) fn remove_cgroup(name: &str) {
    let patience = Instant::now() + CGROUP_PATIENCE;
    for hierarchy in hierarchies() {
        let path = hierarchy.join(name.trim_start_matches('/'));
        while path.exists() && remove_tree(&path).is_err() && Instant::now() < patience {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Number of children of a cgroup that have processes. An unreadable one counts, unless it has just been removed.
pub(crate) fn busy_children(name: &str) -> usize {
    let has_gone = |error: &std::io::Error| {
        error.kind() == ErrorKind::NotFound || error.raw_os_error() == Some(Errno::ENODEV as i32)
    };
    let count = |hierarchy: PathBuf| {
        let is_busy = |child: &std::io::Result<fs::DirEntry>| match child {
            Ok(child) => match fs::read_to_string(child.path().join("cgroup.procs")) {
                Ok(processes) => !processes.is_empty(),
                // The directory also contains files.
                Err(error) => error.kind() != ErrorKind::NotADirectory && !has_gone(&error),
            },
            Err(_) => true,
        };
        match fs::read_dir(hierarchy.join(name.trim_start_matches('/'))) {
            Ok(children) => children.filter(is_busy).count(),
            Err(error) => usize::from(!has_gone(&error)),
        }
    };
    // A container is in every hierarchy, or only in those whose controllers it uses.
    hierarchies().into_iter().map(count).max().unwrap_or_default()
}

/// Removes cgroups from the leaves up, and only by `rmdir`: their files cannot be unlinked.
fn remove_tree(path: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    fs::remove_dir(path)
}

/// The mount points of the cgroup hierarchies: one with v2, one per controller with v1.
fn hierarchies() -> Vec<PathBuf> {
    mount_points(|kind| kind.starts_with("cgroup"))
}

/// The mount point of the unified hierarchy.
pub(crate) fn cgroup2() -> Option<PathBuf> {
    mount_points(|kind| kind == "cgroup2").pop()
}

fn mount_points(of: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    mounts
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ').skip(1);
            let (point, kind) = (fields.next()?, fields.next()?);
            of(kind).then(|| PathBuf::from(point))
        })
        .collect()
}
