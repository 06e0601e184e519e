//! skep gives every EC2 instance its place in a Docker Swarm, and removes it again without losing tasks, requests or
//! log lines.
//!
//! The source is divided into rooms. Each room imports only from the rooms below it; a test compares every path with
//! this table.
//!
//! | room | content |
//! |---|---|
//! | [`cli`] | the command line |
//! | [`agent`] | the process: start → boot → serve → leave on one page, and its background tasks |
//! | [`doctor`] | the checks of everything that a node depends on |
//! | [`api`] | the listeners on a port or a socket: health checks, the page, the control socket |
//! | [`lifecycle`] | this node: boot, membership, notices, departure, recovery |
//! | [`manager`] | the duties of a manager towards the other nodes |
//! | [`host`] | work on this host: flushing logs, freeing Docker's disk |
//! | [`node`] | one node and its clients, which every phase receives |
//! | [`clients`] | clients of the outside world, a folder each: AWS, Docker, metadata, ledger, secrets, systemd |
//! | [`telemetry`] | log, metrics, event log, notifications |
//! | [`config`] | settings and their sources |
//! | [`common`] | plain types and small helpers |

#![forbid(unsafe_code)]
#![warn(
    missing_docs,
    clippy::missing_errors_doc,
    clippy::missing_panics_doc,
    clippy::must_use_candidate
)]
// Tests may unwrap: clippy.toml.
#![warn(clippy::expect_used, clippy::unwrap_used)]

pub mod agent;
pub mod api;
pub mod cli;
pub mod clients;
pub mod common;
pub mod config;
pub mod doctor;
#[cfg(test)]
mod fuzz;
pub mod host;
pub mod lifecycle;
pub mod manager;
pub mod node;
#[cfg(test)]
mod rooms;
pub mod telemetry;
