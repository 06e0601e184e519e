//! `skep status --watch`: shows the status repeatedly.

use std::process::ExitCode;
use std::time::Duration;

use serde_json::Value;
use time::OffsetDateTime;

use super::draw::{Block, terminal};
use super::status::{self, Arguments, Look, MOST};
use super::view::Node;
use super::{leaving, print};
use crate::api::control::{Client, ClientError, socket_path};
use crate::common::report::StatusReport;
use crate::config::Settings;
use crate::telemetry::logging::wants_colour;

/// Time between two polls; for each, a manager asks the ledger and Docker.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Lines above and below the nodes of the table.
const AROUND_TABLE: usize = 15;
/// Number of nodes that are shown on a terminal of any height.
const FEWEST: usize = 5;

/// Shows the status until Ctrl-C, or until the reader closes the pipe. Waits for a skep that is restarted meanwhile.
///
/// # Errors
/// When no skep answers the first request, or standard output cannot be written.
pub async fn follow(arguments: &Arguments, settings: &Settings) -> anyhow::Result<ExitCode> {
    let Arguments { json, wide, .. } = *arguments;
    let client = Client::new(socket_path(&settings.runtime_dir));
    let (mut block, mut last) = (Block::default(), String::new());
    let mut answer: Result<_, ClientError> = Ok(client.status::<Value>().await?);
    loop {
        match terminal().filter(|_| !json) {
            Some(size) => {
                let text = match &answer {
                    Ok(report) => drawn(report, size, wide)?,
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

fn drawn(
    report: &StatusReport<Value>,
    (width, height): (usize, usize),
    wide: bool,
) -> Result<Vec<String>, ClientError> {
    let (node, fleet, now) = (node_of(report)?, report.fleet.clone(), OffsetDateTime::now_utc());
    let mut lines: Vec<String> = Vec::new();
    if node.departure.is_some() {
        lines = leaving::block(&node, now, width);
        lines.push(String::new());
    }
    let report = StatusReport { node, fleet };
    let colour = wants_colour(&std::io::stdout());
    let rows = rows(height, lines.len());
    let look = if wide { Look::whole(colour) } else { Look { width: Some(width), rows, colour } };
    let text = status::text(&report, now, look);
    lines.extend(text.lines().map(str::to_owned));
    Ok(lines)
}

/// Returns the number of nodes on a terminal of this height. The lines below the table, such as the quorum, are no less
/// important than the last node.
fn rows(height: usize, above: usize) -> usize {
    height.saturating_sub(above + AROUND_TABLE).clamp(FEWEST, MOST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_has_as_many_nodes_as_fit_with_what_is_around_them() {
        assert_eq!(rows(24, 0), 9);
        assert_eq!(rows(24, 12), FEWEST);
        assert_eq!(rows(1000, 0), MOST);
    }
}
