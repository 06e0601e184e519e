//! Checks that this machine can boot instances, and raises its limits.

use anyhow::{Context, bail};

use crate::fleet::clean::cgroup2;
use crate::fleet::prerequisites::{find, search_path};

/// The programs that booted instances need, and the Debian packages that contain them.
const PROGRAMS: [(&str, &str); 9] = [
    ("mmdebstrap", "mmdebstrap"),
    ("systemd-nspawn", "systemd-container"),
    ("dnsmasq", "dnsmasq-base"),
    ("packer", "packer"),
    ("ssh-keygen", "openssh-client"),
    ("ip", "iproute2"),
    ("nsenter", "util-linux"),
    ("busybox", "busybox-static"),
    ("cp", "coreutils"),
];

/// Every booted system has about ten inotify instances, all of the same user. The kernel allows 128 per user, and
/// systemd hangs without a free one.
const INOTIFY_INSTANCES: u32 = 1024;
const INOTIFY_LIMIT: &str = "/proc/sys/fs/inotify/max_user_instances";

/// Checks everything at once.
///
/// # Errors
///
/// Names everything that is missing, and the remedy.
pub fn check() -> anyhow::Result<()> {
    let mut problems = Vec::new();
    if !nix::unistd::geteuid().is_root() {
        problems.push("booted instances need root".to_owned());
    }
    let path = search_path(None);
    for (program, package) in PROGRAMS {
        if find(program, &path).is_none() {
            problems.push(format!("`{program}` is missing (package {package})"));
        }
    }
    let filesystems = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    if !filesystems.lines().any(|line| line.ends_with("overlay")) {
        problems.push("the kernel has no overlayfs (`modprobe overlay`)".to_owned());
    }
    if cgroup2().is_none() {
        problems.push("no cgroup2 hierarchy is mounted".to_owned());
    }
    if problems.is_empty() {
        return Ok(());
    }
    bail!("cannot boot instances here:\n  {}", problems.join("\n  "));
}

/// Raises the machine's limits for a dozen booted systems, until its next reboot.
pub(super) fn raise_limits() -> anyhow::Result<()> {
    let limit = std::fs::read_to_string(INOTIFY_LIMIT)?;
    if limit.trim().parse::<u32>()? < INOTIFY_INSTANCES {
        std::fs::write(INOTIFY_LIMIT, INOTIFY_INSTANCES.to_string())
            .with_context(|| format!("cannot raise {INOTIFY_LIMIT}"))?;
    }
    Ok(())
}
