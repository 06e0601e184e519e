//! Shares the processors as if there were more of them: the cloud, the engines and the managers stand for other machines,
//! and must answer while a thousand workers boot on two cores. Otherwise time-outs and their repetitions are all that is
//! measured.

use std::fs;

use nix::libc;

/// Nice values: of this program, of managers' skeps, and of workers'.
const OWN: i32 = -15;
const MANAGER: i32 = -5;
const WORKER: i32 = 5;

/// Puts every thread of this program first; threads inherit it.
pub(super) fn raise_own() {
    for thread in threads() {
        set(thread, OWN);
    }
}

/// Sets the priority of a skep that has just been started.
pub(super) fn set_skep(pid: i32, is_manager: bool) {
    set(pid, if is_manager { MANAGER } else { WORKER });
}

fn threads() -> Vec<i32> {
    let names = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    names.filter_map(|name| name.file_name().to_str()?.parse().ok()).collect()
}

/// Does nothing for a process that has ended.
fn set(id: i32, nice: i32) {
    let Ok(id) = libc::id_t::try_from(id) else { return };
    // SAFETY: the call has no memory as an argument.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, id, nice) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_gets_its_priority() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let pid = child.id().cast_signed();
        set_skep(pid, false);
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        // proc(5): nice is field 19, the name in parentheses field 2.
        let nice = stat.rsplit_once(')').unwrap().1.split_whitespace().nth(16).unwrap();
        assert_eq!(nice, WORKER.to_string());
        assert!(threads().contains(&std::process::id().cast_signed()));
    }
}
