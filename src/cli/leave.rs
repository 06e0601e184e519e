//! `skep leave`: takes this node out of the swarm.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use super::print;
use crate::config::{Settings, parse_duration};
use crate::control::{Client, ClientError, socket_path};

#[derive(Debug, Args)]
pub struct Arguments {
    /// How long it may take, such as 5m [default: the setting leave.deadline]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    deadline: Option<Duration>,
}

/// Tells the skep that runs on this host to leave, and does not wait until it has left. A node that
/// is leaving already does what was asked.
///
/// # Errors
/// When no skep runs here or it refuses, or standard output cannot be written.
pub async fn ask(arguments: &Arguments, settings: &Settings) -> anyhow::Result<ExitCode> {
    let client = Client::new(socket_path(&settings.runtime_dir));
    let answer = match client.leave(arguments.deadline).await {
        Ok(()) => "This node is leaving the swarm; `skep status` shows how far it is.\n".into(),
        Err(ClientError::AlreadyLeaving { doing }) => format!("This node is {doing}\n"),
        Err(error) => return Err(error.into()),
    };
    print::to_stdout(&answer)?;
    Ok(ExitCode::SUCCESS)
}
