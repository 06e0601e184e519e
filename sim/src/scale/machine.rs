//! Checks, before anything starts, that this machine can hold the run.

use std::fs;

use anyhow::bail;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Memory of one skep process with its part of the kernel, the engines and the cloud, in MiB. Measured with 1,000 release
/// builds: 4 MiB each, shared pages counted once; development builds take 12.
const MIB_PER_NODE: u64 = 12;
/// Memory of this program, whatever the number of nodes, in MiB.
const MIB: u64 = 300;
/// Open files of this program for each node: sockets of the engine and of notifications, and the connections to both
/// and to the cloud.
const FILES_PER_NODE: u64 = 12;
const FILES: u64 = 512;
/// Threads for each node: skep's own, and the one that waits for its end.
const THREADS_PER_NODE: u64 = 10;
const THREADS: u64 = 256;
/// Addresses of the run's network, a /16, less those that stay free.
const ADDRESSES: u64 = 65_000;

/// What a machine has.
#[derive(Clone, Debug)]
struct Machine {
    memory_mib: u64,
    /// The hard limit of this process.
    files: u64,
    threads: u64,
    is_root: bool,
}

impl Machine {
    fn look() -> anyhow::Result<Self> {
        let (_, files) = getrlimit(Resource::RLIMIT_NOFILE)?;
        let threads = ["/proc/sys/kernel/threads-max", "/proc/sys/kernel/pid_max"];
        let threads = threads.iter().filter_map(|file| number(file)).chain(pids_of_cgroup()).min();
        Ok(Self {
            memory_mib: available_memory()?,
            files,
            threads: threads.unwrap_or(u64::MAX),
            is_root: nix::unistd::geteuid().is_root(),
        })
    }

    /// Returns everything that is missing for a run of `nodes`.
    fn lacks(&self, nodes: u64) -> Vec<String> {
        let mut lacks = Vec::new();
        if !self.is_root {
            lacks.push("it makes network namespaces: it must run as root".to_owned());
        }
        let needs = [
            ("MiB of memory", MIB + nodes.saturating_mul(MIB_PER_NODE), self.memory_mib),
            ("open files", FILES + nodes.saturating_mul(FILES_PER_NODE), self.files),
            ("threads", THREADS + nodes.saturating_mul(THREADS_PER_NODE), self.threads),
            ("addresses", nodes, ADDRESSES),
        ];
        for (what, needed, there) in needs {
            if needed > there {
                lacks.push(format!("{needed} {what} are needed, {there} are available"));
            }
        }
        lacks
    }
}

/// Checks everything at once, and raises this process's limit of open files.
///
/// # Errors
/// Names everything that is missing. Nothing has been started.
pub(super) fn prepare(nodes: u32) -> anyhow::Result<()> {
    let machine = Machine::look()?;
    let lacks = machine.lacks(nodes.into());
    if !lacks.is_empty() {
        bail!("{nodes} instances do not fit on this machine:\n  {}", lacks.join("\n  "));
    }
    setrlimit(Resource::RLIMIT_NOFILE, machine.files, machine.files)?;
    Ok(())
}

/// Memory that processes can get without swapping, in MiB (proc(5), `MemAvailable`).
fn available_memory() -> anyhow::Result<u64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.map(|kib| kib / 1024).ok_or_else(|| anyhow::anyhow!("/proc/meminfo has no MemAvailable"))
}

fn number(file: &str) -> Option<u64> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

/// The limit of tasks of this process's cgroup; `None` where there is none.
fn pids_of_cgroup() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
    number(&format!("/sys/fs/cgroup{path}/pids.max"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine() -> Machine {
        Machine { memory_mib: 16_000, files: 1 << 20, threads: 30_000, is_root: true }
    }

    #[test]
    fn a_thousand_fit_on_a_machine_of_16_gib_and_ten_thousand_do_not() {
        assert!(machine().lacks(1000).is_empty());
        let lacks = machine().lacks(10_000);
        assert_eq!(
            lacks,
            [
                "120300 MiB of memory are needed, 16000 are available",
                "100256 threads are needed, 30000 are available",
            ]
        );
    }

    #[test]
    fn every_lack_is_named_at_once() {
        let machine = Machine { memory_mib: 1, files: 1024, threads: 100, is_root: false };
        let lacks = machine.lacks(u32::MAX.into());
        assert_eq!(lacks.len(), 5, "{lacks:?}");
    }

    #[test]
    fn this_machine_holds_a_node() {
        let machine = Machine::look().unwrap();
        assert!(machine.memory_mib > 0 && machine.files > 0 && machine.threads > 0, "{machine:?}");
    }
}
