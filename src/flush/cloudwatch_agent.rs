//! The CloudWatch agent, by the files in which it keeps how far it has sent each log file.
//!
//! A file `/opt/aws/amazon-cloudwatch-agent/logs/state/<name>` holds, line by line, the largest offset that
//! CloudWatch Logs has taken, the log file's path, and since 1.300056 the ranges that were sent, as
//! `0-100,150-200`; it is written within 100 ms of an answer (`internal/state/range.go` and `manager.go` of
//! <https://github.com/aws/amazon-cloudwatch-agent>).
//!
//! Assumes that skep may read them and the log files. Lines that the agent's own filters drop may count
//! as unsent.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::poll::{self, Look};
use super::progress::{Progress, Reading};
use crate::flushed::Flushed;

pub async fn wait(state: &Path, settle: Duration, progress: &Progress) -> Result<Flushed, String> {
    poll::until_caught_up(progress, settle, async || {
        let state = state.to_owned();
        let look = tokio::task::spawn_blocking(move || look(&state));
        look.await.map_err(|error| error.to_string())?
    })
    .await
}

fn look(state: &Path) -> Result<Look, String> {
    let failed = |path: &Path, error: io::Error| format!("{}: {error}", path.display());
    let mut mark = Vec::new();
    let (mut lines, mut behind) = (0, Vec::new());
    let mut paths = Vec::new();
    for entry in state.read_dir().map_err(|error| failed(state, error))? {
        paths.push(entry.map_err(|error| failed(state, error))?.path());
    }
    paths.sort();
    for path in &paths {
        let text = std::fs::read_to_string(path).map_err(|error| failed(path, error))?;
        // It is written in place: half of it is read again.
        let Some(sent) = Sent::parse(&text) else {
            return Err(format!("{} is no state file of the agent", path.display()));
        };
        let file = match File::open(&sent.file) {
            Ok(file) => file,
            // A log file that has gone takes what is unsent of it along.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(failed(&sent.file, error)),
        };
        let size = file.metadata().map_err(|error| failed(&sent.file, error))?.len();
        let unsent =
            lines_in(&file, &sent.gaps(size)).map_err(|error| failed(&sent.file, error))?;
        if unsent > 0 {
            behind.push(sent.file.display().to_string());
        }
        lines += unsent;
        mark.extend([sent.offset, size]);
    }
    if mark.is_empty() {
        return Err(format!("{} names no log file", state.display()));
    }
    let detail = (!behind.is_empty()).then(|| behind.join(", "));
    let reading = Reading { unsent: Some(lines), detail, ..Reading::default() };
    Ok(Look { caught_up: lines == 0, mark, reading })
}

/// What one state file says.
#[derive(Debug, PartialEq, Eq)]
struct Sent {
    file: PathBuf,
    offset: u64,
    /// In order, and apart from each other.
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

    /// What of the file was not sent. One that is shorter than what was sent is another one, which the
    /// agent has not looked at: all of it.
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

/// Lines with something in them.
fn lines_in(mut file: &File, gaps: &[(u64, u64)]) -> io::Result<u64> {
    let mut lines = 0;
    for (from, to) in gaps {
        file.seek(SeekFrom::Start(*from))?;
        for line in BufReader::new(file.take(to - from)).split(b'\n') {
            lines += u64::from(!line?.is_empty());
        }
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_between_the_ranges_is_unsent() {
        let dir = tempfile::tempdir().unwrap();
        let (log, state) = (dir.path().join("app.log"), dir.path().join("state"));
        std::fs::create_dir(&state).unwrap();
        std::fs::write(&log, "one\ntwo\nthree\nfour\n").unwrap();
        let unsent = |sent: &str| {
            std::fs::write(state.join("_app.log"), sent.replace("LOG", &log.display().to_string()))
                .unwrap();
            look(&state).map(|look| (look.caught_up, look.reading.unsent.unwrap()))
        };
        assert_eq!(unsent("19\nLOG"), Ok((true, 0)));
        assert_eq!(unsent("19\nLOG\n0-19"), Ok((true, 0)));
        assert_eq!(unsent("8\nLOG\n0-8"), Ok((false, 2)));
        assert_eq!(unsent("19\nLOG\n0-4,8-19"), Ok((false, 1)));
        // Only the end of the last line is missing.
        assert_eq!(unsent("18\nLOG\n0-18"), Ok((true, 0)));
        // Truncated, and written anew.
        assert_eq!(unsent("900\nLOG\n0-900"), Ok((false, 4)));
        for rubbish in ["", "nonsense\nLOG", "4\nrelative"] {
            assert!(unsent(rubbish).unwrap_err().contains("is no state file"), "{rubbish}");
        }
        std::fs::remove_file(state.join("_app.log")).unwrap();
        assert!(look(&state).unwrap_err().contains("names no log file"));
        assert!(look(&dir.path().join("none")).unwrap_err().contains("No such file"));
    }
}
