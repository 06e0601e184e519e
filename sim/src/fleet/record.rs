//! The register's entries of the runs of this machine, and the names of their remains.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// One file per run, locked for as long as its process lives.
pub(crate) const REGISTER: &str = "/run/skep-sim";

/// The register's entry of a run: enough to remove the run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    pub id: String,
    pub pid: u32,
    pub dir: PathBuf,
    /// Never kept: one engine directory per instance.
    pub scratch: PathBuf,
    pub keep_logs: bool,
}

/// Name of the AWS namespace; an instance's namespace is this name and `-<hostname>`.
pub(crate) fn namespace(id: &str) -> String {
    format!("skep-{id}")
}

pub(crate) fn cgroup(id: &str) -> String {
    format!("/skep-sim/{id}")
}
