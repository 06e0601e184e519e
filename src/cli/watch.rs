//! `skep status --watch`: shows the status repeatedly.

use std::process::ExitCode;
use std::time::Duration;

use serde_json::Value;
use time::OffsetDateTime;

use super::draw::{Block, terminal};
use super::view::Node;
use super::{leaving, print, status};
use crate::api::control::{Client, ClientError, socket_path};
use crate::common::report::StatusReport;
use crate::config::Settings;
use crate::telemetry::logging::wants_colour;

/// Time between two polls; for each, a manager asks the ledger and Docker.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Shows the status until Ctrl-C, or until the reader closes the pipe. Waits for a skep that is restarted meanwhile.
///
/// # Errors
/// When no skep answers the first request, or standard output cannot be written.
pub async fn follow(settings: &Settings, json: bool) -> anyhow::Result<ExitCode> {
    let client = Client::new(socket_path(&settings.runtime_dir));
    let (mut block, mut last) = (Block::default(), String::new());
    let mut answer: Result<_, ClientError> = Ok(client.status::<Value>().await?);
    loop {
        match terminal().filter(|_| !json) {
            Some(size) => {
                let text = match &answer {
                    Ok(report) => drawn(report, size.0)?,
                    Err(error) => vec![error.to_string()],
                };
                block.draw(&text, size)?;
            }
            None => {
                let line = match &answer {
                    Ok(report) if json => serde_json::to_string(report)?,
                    Ok(report) => leaving::line(&node_of(report)?),
                    Err(error) => error.to_string(),
                };
                if line != last && !print::while_read(&format!("{line}\n"))? {
                    return Ok(ExitCode::SUCCESS);
                }
                last = line;
            }
        }
        tokio::time::sleep(LOOK_EVERY).await;
        answer = client.status::<Value>().await;
    }
}

fn node_of(report: &StatusReport<Value>) -> Result<Node, ClientError> {
    serde_json::from_value(report.node.clone()).map_err(ClientError::Malformed)
}

fn drawn(report: &StatusReport<Value>, width: usize) -> Result<Vec<String>, ClientError> {
    let (node, fleet, now) = (node_of(report)?, report.fleet.clone(), OffsetDateTime::now_utc());
    let mut lines: Vec<String> = Vec::new();
    if node.departure.is_some() {
        lines = leaving::block(&node, now, width);
        lines.push(String::new());
    }
    let report = StatusReport { node, fleet };
    let text = status::text(&report, now, wants_colour(&std::io::stdout()));
    lines.extend(text.lines().map(str::to_owned));
    Ok(lines)
}
