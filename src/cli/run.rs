//! `skep run`: runs the node's whole life in the foreground.

use std::process::ExitCode;

use crate::agent::{self, RunError};
use crate::config::{EXIT_CODE, Loaded};
use crate::telemetry::logging;

/// Runs until the node has left or the service is stopped.
pub async fn run(loaded: Loaded) -> ExitCode {
    logging::start(&loaded.settings.log, &loaded.settings.state_dir);
    match agent::run(loaded).await {
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            // The reason is already in the log, as the node's last state.
            match error {
                RunError::Identity(_) => EXIT_CODE.into(),
                _ => ExitCode::FAILURE,
            }
        }
    }
}
