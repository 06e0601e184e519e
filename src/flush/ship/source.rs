//! What there is to ship on this host: the tails of files, of the journal, and of the tasks that have
//! stopped.

use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::batch::{Batch, Event, batches};
use crate::child;
use crate::config::Ship;
use crate::swarm::Swarm;

/// Of a file, no more than this is read: its tail is wanted.
const LONGEST_TAIL: u64 = 16 << 20;

/// Everything, and what could not be read.
pub async fn gather(settings: &Ship, swarm: &Swarm) -> (Vec<Batch>, Vec<String>) {
    let now = milliseconds(OffsetDateTime::now_utc());
    let most = settings.lines as usize;
    let (mut found, mut problems) = (Vec::new(), Vec::new());
    let mut add = |name: String, events: Result<Vec<Event>, String>| match events {
        Ok(events) => {
            let unwanted = events.len().saturating_sub(most);
            found.extend(batches(&name, events.into_iter().skip(unwanted).collect(), now));
        }
        Err(problem) => problems.push(format!("{name}: {problem}")),
    };
    if settings.tasks {
        match swarm.fetch_task_logs(settings.lines).await {
            Ok(logs) => {
                for (name, log) in logs {
                    let log = log.map(|text| text.lines().map(|line| stamped(line, now)).collect());
                    add(format!("task/{name}"), log);
                }
            }
            Err(error) => add("tasks".to_owned(), Err(crate::errors::chain(&error))),
        }
    }
    if settings.journal {
        add("journal".to_owned(), journal(most, now).await);
    }
    for file in &settings.files {
        let text = tail(file).map_err(|error| error.to_string());
        let lines = |text: String| text.lines().map(|text| line(text, now)).collect();
        add(file.display().to_string(), text.map(lines));
    }
    (found, problems)
}

fn milliseconds(time: OffsetDateTime) -> i64 {
    i64::try_from(time.unix_timestamp_nanos() / 1_000_000).unwrap_or_default()
}

fn line(text: &str, at: i64) -> Event {
    Event { at, text: text.to_owned() }
}

/// A line behind Docker's time of it.
fn stamped(text: &str, now: i64) -> Event {
    let parsed = text.split_once(' ').and_then(|(time, rest)| {
        Some((milliseconds(OffsetDateTime::parse(time, &Rfc3339).ok()?), rest))
    });
    parsed.map_or_else(|| line(text, now), |(at, rest)| line(rest, at))
}

/// Behind `1700000000.123456`, as `journalctl --output=short-unix` has it.
async fn journal(lines: usize, now: i64) -> Result<Vec<Event>, String> {
    let output = child::command("journalctl")
        .args(["--quiet", "--output=short-unix", &format!("--lines={lines}")])
        .output()
        .await
        .map_err(|error| format!("journalctl: {error}"))?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).trim().to_owned());
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let event = |text: &str| {
        let parsed = text.split_once(' ').and_then(|(time, rest)| {
            let (seconds, fraction) = time.split_once('.')?;
            let (seconds, micros) = (seconds.parse::<i64>().ok()?, fraction.parse::<i64>().ok()?);
            Some(line(rest, seconds * 1000 + micros / 1000))
        });
        parsed.unwrap_or_else(|| line(text, now))
    };
    Ok(text.lines().map(event).collect())
}

fn tail(path: &Path) -> io::Result<String> {
    let mut file = std::fs::File::open(path)?;
    let size = file.metadata()?.len();
    file.seek(SeekFrom::Start(size.saturating_sub(LONGEST_TAIL)))?;
    let mut bytes = Vec::new();
    file.take(LONGEST_TAIL).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_dockers_time_or_now() {
        let found = stamped("2023-11-14T22:13:20.123456789Z hello world", 7);
        assert_eq!((found.at, found.text.as_str()), (1_700_000_000_123, "hello world"));
        assert_eq!((stamped("hello world", 7).at, stamped("hello", 7).text), (7, "hello".into()));
    }
}
