//! What the register says about the runs of this machine, and what their remains are called.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// One file per run, locked for as long as its process lives.
pub(crate) const REGISTER: &str = "/run/skep-sim";

/// What the register says about a run: enough to remove it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    pub id: String,
    pub pid: u32,
    pub dir: PathBuf,
    /// What is never kept: one engine directory per instance.
    pub scratch: PathBuf,
    pub keep_logs: bool,
}

/// The AWS namespace; an instance's is this and `-<hostname>`.
pub(crate) fn namespace(id: &str) -> String {
    format!("skep-{id}")
}

pub(crate) fn cgroup(id: &str) -> String {
    format!("/skep-sim/{id}")
}
