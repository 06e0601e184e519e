//! `skep events`: prints the node's event log, and follows it.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use time::macros::format_description;

use super::{draw, print};
use crate::config::{Settings, parse_age};
use crate::telemetry::event_log::{self, Event, Follower};
use crate::telemetry::logging::wants_colour;

/// Time between two reads: too short for an operator to notice, and cheap for the file system.
const LOOK_EVERY: Duration = Duration::from_millis(500);

#[derive(Debug, Args)]
pub struct Arguments {
    /// Follow: also print new events
    #[arg(long, short)]
    follow: bool,
    /// Print one JSON object per line
    #[arg(long)]
    json: bool,
    /// Print only events since a time such as 2026-11-02T12:00:00Z, or since an age such as 2h
    #[arg(long, value_name = "TIME", value_parser = since)]
    since: Option<OffsetDateTime>,
}

/// Parses a time, or an age.
pub(super) fn since(text: &str) -> Result<OffsetDateTime, String> {
    if let Ok(time) = OffsetDateTime::parse(text, &Rfc3339) {
        return Ok(time);
    }
    let ago = parse_age(text).map_err(|problem| {
        format!("neither a time such as 2026-11-02T12:00:00Z nor a duration: {problem}")
    })?;
    Ok(OffsetDateTime::now_utc() - ago)
}

/// Prints the events that are stored in the state directory; skep does not have to run.
///
/// # Errors
/// When they cannot be read, or standard output cannot be written.
pub async fn print(arguments: &Arguments, settings: &Settings) -> anyhow::Result<ExitCode> {
    let state_dir = &settings.state_dir;
    let failed =
        || format!("cannot read the events in {}; try again with sudo", state_dir.display());
    // Opened before the read: an event between the two would be missed.
    let follower = Follower::from_end(state_dir).with_context(failed)?;
    let mut kept = event_log::read(state_dir).with_context(failed)?;
    kept.retain(|event| arguments.since.is_none_or(|since| event.at >= since));
    let mut is_read = show(&kept, arguments)?;
    if !arguments.follow {
        return Ok(ExitCode::SUCCESS);
    }
    let (mut follower, mut last) = (follower, kept.pop());
    while is_read {
        let mut new = follower.read_new().with_context(failed)?;
        // An event between the two calls above is in both.
        if let Some(at) = last.take().map(|event| event.at) {
            new.retain(|event| event.at > at);
        }
        is_read = show(&new, arguments)?;
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints events. Returns `false` once the reader has closed the pipe.
fn show(events: &[Event], arguments: &Arguments) -> anyhow::Result<bool> {
    let width = draw::terminal().map(|(width, _)| width);
    let colour = wants_colour(&std::io::stdout());
    for event in events {
        let is_read = print::while_read(&if arguments.json {
            format!("{}\n", serde_json::to_value(event)?)
        } else {
            text(event, width, colour)
        })?;
        if !is_read {
            return Ok(false);
        }
    }
    Ok(true)
}

fn text(event: &Event, width: Option<usize>, colour: bool) -> String {
    let format = format_description!("[year]-[month]-[day] [hour]:[minute]:[second]");
    let at = event.at.to_offset(time::UtcOffset::UTC).format(format).unwrap_or_default();
    let mut said = format!("{}: {}", event.component, event.message);
    for (key, value) in &event.fields {
        match value {
            Value::String(text) => said.push_str(&format!(" {key}={text}")),
            value => said.push_str(&format!(" {key}={value}")),
        }
    }
    let (begin, end) = match event.level.as_str() {
        _ if !colour => ("", ""),
        "ERROR" => ("\x1b[31m", "\x1b[0m"),
        "WARN" => ("\x1b[33m", "\x1b[0m"),
        _ => ("", ""),
    };
    let lines = draw::wrap(&format!("{begin}{at}{end}  "), &said.replace('\n', " "), width);
    lines.iter().map(|line| format!("{line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    #[test]
    fn an_event_is_a_line_in_a_pipe_and_fits_a_narrow_terminal() {
        let event = Event {
            at: datetime!(2026-11-02 12:00:00 UTC),
            level: "ERROR".into(),
            component: "node".into(),
            message: "no table of this name is there".into(),
            fields: [("phase".into(), "failed".into()), ("generation".into(), 3.into())]
                .into_iter()
                .collect(),
        };
        let line =
            "2026-11-02 12:00:00  node: no table of this name is there generation=3 phase=failed\n";
        assert_eq!(text(&event, None, false), line);
        assert!(text(&event, None, true).starts_with("\x1b[31m2026-11-02 12:00:00\x1b[0m  node"));
        let narrow = text(&event, Some(40), false);
        assert!(narrow.lines().count() > 1 && narrow.lines().all(|line| line.len() <= 40));
    }

    #[test]
    fn since_is_a_time_or_how_long_ago() {
        assert_eq!(since("2026-11-02T12:00:00Z").unwrap(), datetime!(2026-11-02 12:00:00 UTC));
        let two_hours_ago = since("2h").unwrap();
        let ago = OffsetDateTime::now_utc() - two_hours_ago;
        assert_eq!(ago.whole_minutes(), 120);
        let a_month_ago = since("30d").unwrap();
        assert_eq!((OffsetDateTime::now_utc() - a_month_ago).whole_days(), 30);
        assert!(since("yesterday").unwrap_err().contains("2026-11-02T12:00:00Z"));
    }
}
