//! Runs programs with a small environment.

mod executables;
mod group;
mod lines;

use std::ffi::OsStr;
use std::process::Stdio;

use tokio::process::Command;

pub use executables::executables;
pub use group::{Pipe, Quota, run};
pub use lines::Lines;

/// The only variables that a child inherits: credentials and `SKEP_*` stay in skep.
const INHERITED: [&str; 4] = ["PATH", "HOME", "LANG", "TZ"];

/// Returns a program without input, with only `PATH`, `HOME`, `LANG` and `TZ` of skep's variables. It is killed when
/// its handle is dropped.
#[must_use]
pub fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command
        .env_clear()
        .envs(INHERITED.iter().filter_map(|name| Some((name, std::env::var_os(name)?))))
        .stdin(Stdio::null())
        .kill_on_drop(true);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_child_inherits_no_more_than_it_must() {
        let output = command("env").output().await.unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let names: Vec<&str> = text.lines().filter_map(|line| line.split('=').next()).collect();
        assert!(names.contains(&"PATH"));
        // Cargo sets dozens of variables for a test.
        assert!(names.iter().all(|name| INHERITED.contains(name)), "{names:?}");
    }
}
