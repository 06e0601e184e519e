//! Waits for the CloudWatch agent, by the files in which it records how far it has sent each log file.
//!
//! A file `/opt/aws/amazon-cloudwatch-agent/logs/state/<name>` holds, line by line, the largest offset that CloudWatch
//! Logs has accepted, the log file's path, and since 1.300056 the ranges that were sent, as `0-100,150-200`; the agent
//! writes it within 100 ms of an answer (`internal/state/range.go` and `manager.go` of
//! <https://github.com/aws/amazon-cloudwatch-agent>).
//!
//! Proof of arrival: of every log file, all bytes that were in it when the last task had ended are in ranges that were
//! sent. `flush.settle` is for log files that the agent has not found yet. The unsent lines of a removed log file are
//! lost.
//!
//! Assumes that skep can read the state files and the log files. Lines that the agent's own filters drop may count as
//! unsent.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::files::{READ_TIMEOUT, on_a_thread, open_regular};
use super::poll::{self, Flow, Look};
use super::progress::{Progress, Reading};
use crate::common::flush_result::FlushResult;

/// Waits until the agent has sent everything. `settle` counts from the last task's end.
pub async fn wait(
    state: &Path,
    settle: Duration,
    progress: &Progress,
) -> Result<FlushResult, String> {
    let mut removed = Removed::default();
    let outcome = poll::until_arrived(progress, settle, async || {
        let state = state.to_owned();
        let files = on_a_thread(READ_TIMEOUT, move || log_files(&state)).await??;
        Ok(look(&files, removed.lines(&files)))
    })
    .await?;
    progress.nothing_lost(outcome)
}

/// A log file, compared with the part of it that was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
struct LogFile {
    offset: u64,
    size: u64,
    /// All bytes before this offset are sent.
    sent_to: u64,
    unsent_lines: u64,
}

/// Returns the log files by their paths, without those that are gone.
fn log_files(state: &Path) -> Result<BTreeMap<String, LogFile>, String> {
    let failed = |path: &Path, error: io::Error| format!("{}: {error}", path.display());
    let mut files = BTreeMap::new();
    let mut is_known = false;
    for entry in state.read_dir().map_err(|error| failed(state, error))? {
        let path = entry.map_err(|error| failed(state, error))?.path();
        let text = std::fs::read_to_string(&path).map_err(|error| failed(&path, error))?;
        // The agent writes it in place: a half-written file is read again at the next poll.
        let Some(sent) = Sent::parse(&text) else {
            return Err(format!("{} is not a state file of the agent", path.display()));
        };
        is_known = true;
        let file = match open_regular(&sent.file) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(failed(&sent.file, error)),
        };
        let size = file.metadata().map_err(|error| failed(&sent.file, error))?.len();
        let (unsent_lines, first) =
            lines_in(&file, &sent.gaps(size)).map_err(|error| failed(&sent.file, error))?;
        let file =
            LogFile { offset: sent.offset, size, sent_to: first.unwrap_or(size), unsent_lines };
        files.insert(sent.file.display().to_string(), file);
    }
    if is_known { Ok(files) } else { Err(format!("{} names no log file", state.display())) }
}

fn look(files: &BTreeMap<String, LogFile>, lost: u64) -> Look {
    let behind = files.iter().filter(|(_, file)| file.unsent_lines > 0);
    let behind: Vec<&str> = behind.map(|(path, _)| path.as_str()).collect();
    let lines = files.values().map(|file| file.unsent_lines).sum();
    let flow = |(path, file): (&String, &LogFile)| Flow {
        name: path.clone(),
        received: file.size,
        finished: file.sent_to,
    };
    Look {
        is_empty: lines == 0,
        is_full: false,
        flows: files.iter().map(flow).collect(),
        counters: files.values().flat_map(|file| [file.offset, file.size]).collect(),
        reading: Reading {
            sent: None,
            unsent: Some(lines),
            lost,
            detail: (!behind.is_empty()).then(|| behind.join(", ")),
        },
    }
}

/// Counts the unsent lines of removed log files.
#[derive(Debug, Default)]
struct Removed {
    last: BTreeMap<String, LogFile>,
    lines: u64,
}

impl Removed {
    fn lines(&mut self, files: &BTreeMap<String, LogFile>) -> u64 {
        let gone = self.last.iter().filter(|(path, _)| !files.contains_key(*path));
        self.lines += gone.map(|(_, file)| file.unsent_lines).sum::<u64>();
        self.last.clone_from(files);
        self.lines
    }
}

/// The content of one state file.
#[derive(Debug, PartialEq, Eq)]
struct Sent {
    file: PathBuf,
    offset: u64,
    /// In order and disjoint.
    ranges: Vec<(u64, u64)>,
}

impl Sent {
    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        let offset = lines.next()?.trim().parse().ok()?;
        let file = PathBuf::from(lines.next()?);
        let range = |range: &str| {
            let (start, end) = range.split_once('-')?;
            Some((start.parse().ok()?, end.parse().ok()?))
        };
        let ranges = lines.next().and_then(|line| line.split(',').map(range).collect());
        let ranges = ranges.unwrap_or_else(|| vec![(0, offset)]);
        file.is_absolute().then_some(Self { file, offset, ranges })
    }

    /// Returns the parts of the file that were not sent. A file that is shorter than its sent offset is another file,
    /// which the agent has not read yet: all of it is unsent.
    fn gaps(&self, size: u64) -> Vec<(u64, u64)> {
        if size < self.offset {
            return vec![(0, size)];
        }
        let mut gaps = Vec::new();
        let mut reached = 0;
        for (start, end) in &self.ranges {
            gaps.push((reached, *start));
            reached = reached.max(*end);
        }
        gaps.push((reached, size));
        gaps.retain(|(from, to)| from < to);
        gaps
    }
}

/// Returns the number of lines that are not empty, and the start of the first gap with such a line.
fn lines_in(mut file: &File, gaps: &[(u64, u64)]) -> io::Result<(u64, Option<u64>)> {
    let (mut lines, mut first) = (0, None);
    for (from, to) in gaps {
        file.seek(SeekFrom::Start(*from))?;
        for line in BufReader::new(file.take(to - from)).split(b'\n') {
            if !line?.is_empty() {
                lines += 1;
                first.get_or_insert(*from);
            }
        }
    }
    Ok((lines, first))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A log file, and the agent's state file for it.
    struct Agent {
        dir: tempfile::TempDir,
    }

    impl Agent {
        fn new() -> Self {
            let agent = Self { dir: tempfile::tempdir().unwrap() };
            std::fs::create_dir(agent.state()).unwrap();
            agent
        }

        fn log(&self) -> PathBuf {
            self.dir.path().join("app.log")
        }

        fn state(&self) -> PathBuf {
            self.dir.path().join("state")
        }

        fn has_sent(&self, state: &str) -> Result<BTreeMap<String, LogFile>, String> {
            let state = state.replace("LOG", &self.log().display().to_string());
            std::fs::write(self.state().join("_app.log"), state).unwrap();
            log_files(&self.state())
        }
    }

    #[test]
    fn what_lies_between_the_ranges_is_unsent() {
        let agent = Agent::new();
        std::fs::write(agent.log(), "one\ntwo\nthree\nfour\n").unwrap();
        let unsent = |sent: &str| {
            let look = look(&agent.has_sent(sent)?, 0);
            Ok::<_, String>((look.is_empty, look.reading.unsent.unwrap(), look.flows[0].finished))
        };
        assert_eq!(unsent("19\nLOG"), Ok((true, 0, 19)));
        assert_eq!(unsent("19\nLOG\n0-19"), Ok((true, 0, 19)));
        assert_eq!(unsent("8\nLOG\n0-8"), Ok((false, 2, 8)));
        assert_eq!(unsent("19\nLOG\n0-4,8-19"), Ok((false, 1, 4)));
        // Only the end of the last line is unsent.
        assert_eq!(unsent("18\nLOG\n0-18"), Ok((true, 0, 19)));
        // The log file was truncated and written again.
        assert_eq!(unsent("900\nLOG\n0-900"), Ok((false, 4, 0)));
        for rubbish in ["", "nonsense\nLOG", "4\nrelative"] {
            assert!(unsent(rubbish).unwrap_err().contains("is not a state file"), "{rubbish}");
        }
        std::fs::remove_file(agent.state().join("_app.log")).unwrap();
        assert!(log_files(&agent.state()).unwrap_err().contains("names no log file"));
        assert!(log_files(&agent.dir.path().join("none")).unwrap_err().contains("No such file"));
    }

    #[test]
    fn a_log_file_that_grows_is_sent_once_its_size_at_the_mark_is() {
        let agent = Agent::new();
        let mut polling = poll::Polling::new(Duration::ZERO);
        let now = tokio::time::Instant::now();
        let mut poll = |log: &str, sent: &str| {
            std::fs::write(agent.log(), log).unwrap();
            polling.has_arrived(&look(&agent.has_sent(sent).unwrap(), 0), now)
        };
        assert!(!poll("one\ntwo\n", "4\nLOG\n0-4"));
        assert!(!poll("one\ntwo\nthree\n", "14\nLOG\n0-4,8-14"), "the second line is missing");
        assert!(poll("one\ntwo\nthree\nfour\n", "14\nLOG\n0-14"));
    }

    #[test]
    fn what_is_unsent_of_a_log_file_that_is_removed_is_lost() {
        let agent = Agent::new();
        let mut removed = Removed::default();
        std::fs::write(agent.log(), "one\ntwo\n").unwrap();
        let sent = "4\nLOG\n0-4";
        assert_eq!(removed.lines(&agent.has_sent(sent).unwrap()), 0);
        std::fs::remove_file(agent.log()).unwrap();
        assert_eq!(removed.lines(&agent.has_sent(sent).unwrap()), 1);
        assert_eq!(removed.lines(&agent.has_sent(sent).unwrap()), 1);
    }
}
