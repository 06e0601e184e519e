//! Checks that this machine can run instances.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::bail;

use super::SYSTEM_PATH;

/// The programs that instances need, and the Debian packages that contain them.
const PROGRAMS: [(&str, &str); 7] = [
    ("dockerd", "docker.io"),
    ("containerd", "docker.io"),
    ("runc", "docker.io"),
    ("ip", "iproute2"),
    ("tc", "iproute2"),
    ("iptables", "iptables"),
    ("busybox", "busybox-static"),
];

/// Checks everything at once.
///
/// # Errors
///
/// Names everything that is missing, and the remedy.
pub(crate) fn check(engine: Option<&Path>) -> anyhow::Result<()> {
    let mut problems = Vec::new();
    if !nix::unistd::geteuid().is_root() {
        problems.push("the local cloud makes network namespaces: it must run as root".to_owned());
    }
    // Instances have a working directory of their own. And if the other engine did not exist, the machine's engine
    // would run instead of it.
    if let Some(engine) = engine.filter(|it| !it.is_absolute() || !it.join("dockerd").is_file()) {
        problems.push(format!(
            "{} is no folder with another engine: it needs an absolute path, and `dockerd` in it",
            engine.display()
        ));
    }
    let path = search_path(engine);
    for (program, package) in PROGRAMS {
        if find(program, &path).is_none() {
            problems.push(format!("`{program}` is missing (package {package})"));
        }
    }
    if problems.is_empty() {
        return Ok(());
    }
    bail!("cannot run instances here, `make setup` (as root) helps:\n  {}", problems.join("\n  "));
}

/// The PATH of an instance's daemons.
pub(crate) fn search_path(engine: Option<&Path>) -> OsString {
    let mut path = OsString::new();
    if let Some(engine) = engine {
        path.push(engine);
        path.push(":");
    }
    path.push(SYSTEM_PATH);
    path
}

pub(crate) fn find(program: &str, path: &OsString) -> Option<PathBuf> {
    std::env::split_paths(path).map(|dir| dir.join(program)).find(|file| file.is_file())
}
