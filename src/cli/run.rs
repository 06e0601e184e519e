//! `skep run`: the node's whole life, in the foreground.

use std::process::ExitCode;

use crate::agent::{self, RunError};
use crate::config::{EXIT_CODE, Loaded};
use crate::{errors, logging};

/// Lives until the node has left or the service is stopped. What ends it badly is logged here, and
/// only here.
pub async fn run(loaded: Loaded) -> ExitCode {
    logging::start(&loaded.settings.log);
    match agent::run(loaded).await {
        Ok(ended) => {
            tracing::info!(?ended, "done");
            ExitCode::SUCCESS
        }
        Err(error) => {
            tracing::error!("{}", errors::chain(&error));
            match error {
                RunError::Identity(_) => EXIT_CODE.into(),
                _ => ExitCode::FAILURE,
            }
        }
    }
}
