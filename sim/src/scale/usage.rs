//! Reads from the kernel what the run costs: memory and processor time of the skep processes, of the cloud, of the
//! engines, and of the whole machine.

use std::fs;

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;
use serde::Serialize;

use super::site::ENGINE_THREADS;

/// Ticks per second of the times in /proc; the kernel's interface fixes them (proc(5)).
const TICKS: f64 = 100.0;

/// Processor seconds so far.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct Processor {
    /// Of all skep processes, those that have ended included.
    pub(super) skep: f64,
    pub(super) engines: f64,
    /// This process without the engines.
    pub(super) cloud: f64,
    /// All processors of the machine, and the part of them that did anything.
    pub(super) machine: f64,
    pub(super) busy: f64,
}

impl Processor {
    pub(super) fn now(pids: &[i32]) -> Processor {
        let live: f64 = pids.iter().filter_map(|pid| seconds(&format!("/proc/{pid}/stat"))).sum();
        let skep = live + ended_children();
        let own = seconds("/proc/self/stat").unwrap_or_default();
        let engines = thread_seconds(ENGINE_THREADS);
        let (busy, machine) = machine().unwrap_or_default();
        Processor { skep, engines, cloud: (own - engines).max(0.0), machine, busy }
    }

    /// Returns what was used since `before`.
    pub(super) fn since(self, before: Processor) -> Processor {
        Processor {
            skep: (self.skep - before.skep).max(0.0),
            engines: self.engines - before.engines,
            cloud: (self.cloud - before.cloud).max(0.0),
            machine: self.machine - before.machine,
            busy: self.busy - before.busy,
        }
    }

    /// Returns the time that the kernel's own threads and programs of other people used.
    pub(super) fn others(self) -> f64 {
        (self.busy - self.skep - self.engines - self.cloud).max(0.0)
    }

    /// Returns the share of the machine's time that was used by anything.
    pub(super) fn saturation(self) -> f64 {
        if self.machine > 0.0 { self.busy / self.machine } else { 0.0 }
    }
}

/// Memory of the skep processes.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct Memory {
    pub(super) processes: usize,
    /// Resident, each process by itself.
    pub(super) median_rss_mib: f64,
    /// With shared pages divided among the processes that share them: the sum is what all of them take.
    pub(super) sum_pss_mib: f64,
    /// This program: the cloud and the engines.
    pub(super) sim_rss_mib: f64,
}

impl Memory {
    pub(super) fn now(pids: &[i32]) -> Memory {
        let all: Vec<[f64; 2]> = pids.iter().filter_map(rss_and_pss).collect();
        let mut rss: Vec<f64> = all.iter().map(|[rss, _]| *rss).collect();
        rss.sort_by(f64::total_cmp);
        Memory {
            processes: all.len(),
            median_rss_mib: rss.get(rss.len() / 2).copied().unwrap_or_default(),
            sum_pss_mib: all.iter().map(|[_, pss]| pss).sum(),
            sim_rss_mib: rss_and_pss(&std::process::id()).unwrap_or_default()[0],
        }
    }
}

fn rss_and_pss(pid: &impl std::fmt::Display) -> Option<[f64; 2]> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let field = |name: &str| -> Option<f64> {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        Some(line.split_whitespace().next()?.parse::<f64>().ok()? / 1024.0)
    };
    Some([field("Rss:")?, field("Pss:")?])
}

/// User and system time of a process or a thread.
fn seconds(stat: &str) -> Option<f64> {
    let stat = fs::read_to_string(stat).ok()?;
    // proc(5): the name, in parentheses, is the second field; utime and stime are fields 14 and 15.
    let mut times = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let mut ticks = || times.next()?.parse::<f64>().ok();
    Some((ticks()? + ticks()?) / TICKS)
}

/// Time of the children that have ended; this program starts hardly any but skep.
fn ended_children() -> f64 {
    let of = |time: TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
    getrusage(UsageWho::RUSAGE_CHILDREN)
        .map_or(0.0, |usage| of(usage.user_time()) + of(usage.system_time()))
}

/// Time of the threads of this process with a name.
fn thread_seconds(name: &str) -> f64 {
    let threads = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let named = threads.filter(|thread| {
        let comm = fs::read_to_string(thread.path().join("comm"));
        comm.is_ok_and(|comm| comm.trim() == name)
    });
    let times = named.filter_map(|thread| seconds(&thread.path().join("stat").to_string_lossy()));
    times.sum()
}

/// Busy time and all time of the machine's processors.
fn machine() -> Option<(f64, f64)> {
    let text = fs::read_to_string("/proc/stat").ok()?;
    let fields = text.lines().next()?.strip_prefix("cpu ")?.split_whitespace();
    // user nice system idle iowait irq softirq steal; the guests' time is part of user.
    let ticks: Vec<f64> = fields.take(8).filter_map(|field| field.parse().ok()).collect();
    let all: f64 = ticks.iter().sum();
    let idle = ticks.get(3)? + ticks.get(4)?;
    Some(((all - idle) / TICKS, all / TICKS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_a_cost() {
        let own = std::process::id().cast_signed();
        let memory = Memory::now(&[own, i32::MAX]);
        assert_eq!(memory.processes, 1);
        assert!(memory.median_rss_mib > 0.5 && memory.sum_pss_mib > 0.1, "{memory:?}");
        let before = Processor::now(&[own]);
        assert!(before.machine > 0.0 && before.busy > 0.0);
        let used = Processor::now(&[own]).since(before);
        assert!(used.skep >= 0.0 && used.saturation() >= 0.0, "{used:?}");
    }
}
