//! The control socket: the command line uses it to send requests to the skep that runs on this host.
//!
//! | request | answer |
//! |---|---|
//! | `GET /status` | 200, a [`StatusReport`] |
//! | `GET /node` | 200, the report without the fleet, so that neither Docker nor the ledger is asked |
//! | `POST /leave` with `{"deadline_seconds": 600, "reason": "…"}`, `{}` or nothing | 202; 409 when the node is already leaving, unless its notice can be withdrawn or the deadline is nearer |
//! | `POST /rotate-tokens` with `{"worker_token": true, "manager_token": true, "unlock_key": false}` | 200, what was [`Rotated`]; 503, the reason of a failure |
//! | `GET /recover` | 200, a [`RecoveryPlan`]; nothing is changed |
//! | `POST /recover` | 202, the plan; the recovery has started unless the plan names a refusal |
//!
//! Guarantees:
//! - only root can use the socket (mode 0600), from the moment it exists;
//! - one skep per runtime directory: skep holds a lock, which the kernel releases when skep dies.
//!   A socket that was left behind is replaced, and a second skep is refused;
//! - `GET /status` always answers in time: if the fleet cannot be read, the report contains that as a problem.

mod client;
#[cfg(test)]
mod fuzz;
mod recover;
mod refusal;
mod rotate;
mod server;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

pub use client::{Client, ClientError};
pub use server::{ControlError, LeaveRequest, Server, parse_reason};

/// Returns the path of the socket of a skep with this runtime directory.
#[must_use]
pub fn socket_path(runtime_dir: &Path) -> PathBuf {
    runtime_dir.join("skep.sock")
}
