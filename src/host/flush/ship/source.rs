//! Reads the sources on this host: the tails of files, of the journal, and of the stopped tasks' logs.
//!
//! Guarantees: every source has its own time limit, and all of them share one; of [`READ_AT_ONCE`] sources at a time
//! the last [`LARGEST_SOURCE`] bytes are in memory. A source that cannot be read is a problem in the outcome, and does
//! not stop the others.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::io::AsyncReadExt as _;
use tokio::time::{Instant, timeout_at};

use super::batch::Event;
use super::spool::Writer;
use super::tail::{LARGEST_SOURCE, Tail};
use crate::clients::docker::Swarm;
use crate::common::errors::chain;
use crate::common::process;
use crate::config::Ship;
use crate::host::flush::files::{READ_TIMEOUT, on_a_thread};

/// Number of sources that are read side by side: one that hangs does not stop the others.
const READ_AT_ONCE: usize = 2;
/// Time limit for reading all sources; the rest of the time is for sending.
const GATHERING: Duration = Duration::from_secs(10);
/// Bytes shown of an error message of `journalctl`.
const LONGEST_COMPLAINT: u64 = 500;

/// A source of log lines.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Source {
    Task { container: String, name: String },
    Journal,
    File(PathBuf),
}

impl Source {
    fn name(&self) -> String {
        match self {
            Self::Task { name, .. } => format!("task/{name}"),
            Self::Journal => "journal".to_owned(),
            Self::File(path) => path.display().to_string(),
        }
    }

    async fn read(&self, most_lines: u32, swarm: &Swarm) -> Result<Tail, String> {
        let most = most_lines as usize;
        match self {
            Self::Task { container, .. } => {
                let mut tail = Tail::new(most);
                let read = swarm.read_log(container, most_lines, |text| tail.feed(text)).await;
                read.map_err(|error| error.message)?;
                Ok(tail)
            }
            Self::Journal => journal(most).await,
            Self::File(path) => {
                let path = path.clone();
                let read = on_a_thread(READ_TIMEOUT, move || Tail::of_file(&path, most)).await?;
                read.map_err(|error| error.to_string())
            }
        }
    }

    fn event(&self, text: &str, now: i64) -> Event {
        match self {
            Self::Task { .. } => stamped(text, now),
            Self::Journal => journaled(text, now),
            Self::File(_) => line(text, now),
        }
    }
}

/// Writes all sources to the spool, with the problems of those that cannot be read.
pub async fn gather(settings: &Ship, swarm: &Swarm, spool: &mut Writer) {
    let until = Instant::now() + GATHERING;
    let mut sources = Vec::new();
    if settings.tasks {
        match timeout_at(until, swarm.fetch_ended_tasks()).await {
            Ok(Ok(ended)) => sources.extend(
                ended.into_iter().map(|it| Source::Task { container: it.id, name: it.name }),
            ),
            Ok(Err(error)) => spool.problem("tasks", &chain(&error)),
            Err(_) => spool.problem("tasks", "Docker does not answer"),
        }
    }
    if settings.journal {
        sources.push(Source::Journal);
    }
    sources.extend(settings.files.iter().cloned().map(Source::File));
    let read = stream::iter(sources).map(async |source| {
        let until = until.min(Instant::now() + READ_TIMEOUT);
        let read = timeout_at(until, source.read(settings.lines, swarm)).await;
        (source, read.unwrap_or_else(|_| Err("not read in time".to_owned())))
    });
    let mut read = std::pin::pin!(read.buffered(READ_AT_ONCE));
    while let Some((source, tail)) = read.next().await {
        let name = source.name();
        let (lines, is_cut) = match tail {
            Ok(tail) => tail.end(),
            Err(problem) => {
                spool.problem(&name, &problem);
                continue;
            }
        };
        if is_cut {
            spool.note(format!("{name}: reduced to its last {LARGEST_SOURCE} bytes"));
        }
        let now = milliseconds(OffsetDateTime::now_utc());
        let events = lines.iter().map(|line| source.event(line, now)).collect();
        drop(lines);
        spool.add(&name, events, now);
    }
}

fn milliseconds(time: OffsetDateTime) -> i64 {
    i64::try_from(time.unix_timestamp_nanos() / 1_000_000).unwrap_or_default()
}

fn line(text: &str, at: i64) -> Event {
    Event { at, text: text.to_owned() }
}

/// Reads a line that begins with Docker's time of it.
fn stamped(text: &str, now: i64) -> Event {
    let parsed = text.split_once(' ').and_then(|(time, rest)| {
        Some((milliseconds(OffsetDateTime::parse(time, &Rfc3339).ok()?), rest))
    });
    parsed.map_or_else(|| line(text, now), |(at, rest)| line(rest, at))
}

/// Reads a line that begins with a time such as `1700000000.123456`, as `journalctl --output=short-unix` prints it.
fn journaled(text: &str, now: i64) -> Event {
    let parsed = text.split_once(' ').and_then(|(time, rest)| {
        let (seconds, fraction) = time.split_once('.')?;
        let (seconds, micros) = (seconds.parse::<i64>().ok()?, fraction.parse::<i64>().ok()?);
        Some(line(rest, seconds.checked_mul(1000)?.checked_add(micros / 1000)?))
    });
    parsed.unwrap_or_else(|| line(text, now))
}

async fn journal(lines: usize) -> Result<Tail, String> {
    let failed = |error: std::io::Error| format!("journalctl: {error}");
    let mut child = process::command("journalctl")
        .args(["--quiet", "--output=short-unix", &format!("--lines={lines}")])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) else {
        return Err("journalctl: no output".to_owned());
    };
    let (mut tail, mut complaint) = (Tail::new(lines), String::new());
    // The closed pipe stops a `journalctl` with a longer error message.
    let mut stderr = stderr.take(LONGEST_COMPLAINT);
    let (read, _, status) =
        tokio::join!(tail.read(stdout), stderr.read_to_string(&mut complaint), child.wait());
    read.map_err(failed)?;
    match status.map_err(failed)? {
        status if status.success() => Ok(tail),
        status => Err(format!("journalctl: {status}: {}", complaint.trim())),
    }
}

#[cfg(test)]
mod tests {
    use super::super::spool::Spool;
    use super::*;

    #[test]
    fn a_line_has_dockers_time_or_now() {
        let found = stamped("2023-11-14T22:13:20.123456789Z hello world", 7);
        assert_eq!((found.at, found.text.as_str()), (1_700_000_000_123, "hello world"));
        assert_eq!((stamped("hello world", 7).at, stamped("hello", 7).text), (7, "hello".into()));
        let found = journaled("1700000000.123456 host app: hello", 7);
        assert_eq!((found.at, found.text.as_str()), (1_700_000_000_123, "host app: hello"));
        assert_eq!(journaled("99999999999999999.1 x", 7).at, 7);
    }

    /// Docker does not answer, one file is a FIFO, one does not exist: the third file is still sent.
    #[tokio::test]
    async fn a_source_that_cannot_be_read_stops_no_other_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        nix::unistd::mkfifo(&path("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        std::fs::write(path("log"), "one\ntwo\n").unwrap();
        let mut settings = crate::config::Settings::default().ship;
        settings.files = ["fifo", "none", "log"].map(path).to_vec();
        let mut spool = Writer::create(dir.path(), "key").unwrap();
        let swarm = Swarm::new(format!("unix://{}", path("no.sock").display()));
        gather(&settings, &swarm, &mut spool).await;
        spool.finish().unwrap();

        let spool = Spool::load(dir.path(), "key").unwrap().unwrap();
        let totals = spool.totals();
        assert_eq!((totals.sent, totals.unsent), (0, 2));
        let summary = totals.summary();
        for part in ["tasks", "fifo", "not a regular file", "none", "No such file"] {
            assert!(summary.contains(part), "{part}: {summary}");
        }
    }
}
