//! The control socket: how the command line talks to the skep that runs on this host.
//!
//! | request | answer |
//! |---|---|
//! | `GET /status` | 200, a [`StatusReport`] |
//! | `GET /node` | 200, the same without the fleet, so that nobody else is asked |
//! | `POST /leave` with `{"deadline_seconds": 600, "reason": "…"}`, `{}` or nothing | 202; 409 when the node is leaving already, unless its notice may be taken back or the deadline is nearer |
//! | `POST /rotate-tokens` with `{"worker_token": true, "manager_token": true, "unlock_key": false}` | 200, what was [`Rotated`]; 503, why not |
//! | `GET /recover` | 200, a [`RecoveryPlan`]: nothing is changed |
//! | `POST /recover` | 202, the plan, which has begun unless it names a refusal |
//!
//! Guarantees:
//! - the socket is root's alone (mode 0600) from its first moment;
//! - one skep per runtime directory: a lock says so, which the kernel drops when its holder dies,
//!   so that a socket left behind is replaced and a second skep is refused;
//! - `GET /status` always answers in time: a fleet that cannot be seen is a problem in the report.

mod client;
mod recover;
mod refusal;
mod rotate;
mod server;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

pub use client::{Client, ClientError};
pub use server::{ControlError, LeaveRequest, Server, parse_reason};

/// Where the socket of a skep with this runtime directory is.
#[must_use]
pub fn socket_path(runtime_dir: &Path) -> PathBuf {
    runtime_dir.join("skep.sock")
}
