//! Writes and follows two files: the newer one is written until it is full, then it replaces the older one.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use super::{Event, parse};

pub const NEWER: &str = "events.jsonl";
pub const OLDER: &str = "events.1.jsonl";

/// Writes events.
#[derive(Debug)]
pub struct Ring {
    dir: PathBuf,
    largest: u64,
    file: File,
    size: u64,
}

impl Ring {
    pub fn open(dir: &Path, largest: u64) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        let mut file = open(dir)?;
        let mut size = file.metadata()?.len();
        if size > 0 {
            file.seek(SeekFrom::End(-1))?;
            let mut last = [0];
            file.read_exact(&mut last)?;
            if last != *b"\n" {
                // A crash has cut off the last line: the next line must not be appended to it.
                file.write_all(b"\n")?;
                size += 1;
            }
        }
        Ok(Self { dir: dir.to_owned(), largest, file, size })
    }

    /// Appends a line, which must not contain a line break.
    pub fn append(&mut self, mut line: Vec<u8>) -> io::Result<()> {
        line.push(b'\n');
        let length = line.len() as u64;
        if self.size > 0 && self.size + length > self.largest {
            std::fs::rename(self.dir.join(NEWER), self.dir.join(OLDER))?;
            self.file = open(&self.dir)?;
            self.size = 0;
        }
        self.file.write_all(&line)?;
        self.size += length;
        Ok(())
    }
}

fn open(dir: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.create(true).read(true).append(true).mode(0o600).open(dir.join(NEWER))
}

/// Reads new events.
#[derive(Debug)]
pub struct Follower {
    path: PathBuf,
    file: Option<File>,
    /// The beginning of a line that is not complete yet.
    rest: Vec<u8>,
}

impl Follower {
    /// Returns a follower of the events after the present end.
    ///
    /// # Errors
    /// The file exists and cannot be read.
    pub fn from_end(state_dir: &Path) -> io::Result<Self> {
        let path = state_dir.join(NEWER);
        let file = match File::open(&path) {
            Ok(mut file) => {
                file.seek(SeekFrom::End(0))?;
                Some(file)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        Ok(Self { path, file, rest: Vec::new() })
    }

    /// Returns the events since the last call.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn read_new(&mut self) -> io::Result<Vec<Event>> {
        let mut events = self.read_on()?;
        let present = std::fs::metadata(&self.path).ok().map(|it| it.ino());
        let followed = self.file.as_ref().and_then(|file| file.metadata().ok()).map(|it| it.ino());
        if present.is_some() && present != followed {
            // Reads the lines that were written to the old file after the first read.
            events.extend(self.read_on()?);
            self.file = Some(File::open(&self.path)?);
            self.rest.clear();
            events.extend(self.read_on()?);
        }
        Ok(events)
    }

    fn read_on(&mut self) -> io::Result<Vec<Event>> {
        let Some(file) = &mut self.file else { return Ok(Vec::new()) };
        file.read_to_end(&mut self.rest)?;
        let Some(end) = self.rest.iter().rposition(|byte| *byte == b'\n') else {
            return Ok(Vec::new());
        };
        let lines: Vec<u8> = self.rest.drain(..=end).collect();
        Ok(lines.split(|byte| *byte == b'\n').filter_map(parse).collect())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use serde_json::Map;
    use time::OffsetDateTime;

    use super::super::read;
    use super::*;

    fn line(n: usize) -> Vec<u8> {
        let event = Event {
            at: OffsetDateTime::UNIX_EPOCH,
            level: "INFO".into(),
            component: "node".into(),
            message: format!("event {n}"),
            fields: Map::new(),
        };
        serde_json::to_vec(&event).unwrap()
    }

    fn messages(events: Vec<Event>) -> Vec<String> {
        events.into_iter().map(|event| event.message).collect()
    }

    #[test]
    fn what_is_kept_is_bounded_and_the_newest() {
        let dir = tempfile::tempdir().unwrap();
        let state_dir = dir.path().join("state");
        let mut ring = Ring::open(&state_dir, 1000).unwrap();
        for n in 0..100 {
            ring.append(line(n)).unwrap();
        }
        let kept = messages(read(&state_dir).unwrap());
        assert_eq!(kept.last().unwrap(), "event 99");
        assert!((10..25).contains(&kept.len()), "{kept:?}");
        for file in [NEWER, OLDER] {
            let meta = std::fs::metadata(state_dir.join(file)).unwrap();
            assert!(meta.len() <= 1000);
            assert_eq!(meta.permissions().mode() & 0o777, 0o600);
        }
    }

    #[test]
    fn a_torn_line_is_passed_over_and_tears_no_other() {
        let dir = tempfile::tempdir().unwrap();
        Ring::open(dir.path(), 1000).unwrap().append(line(1)).unwrap();
        let path = dir.path().join(NEWER);
        let mut text = std::fs::read(&path).unwrap();
        text.extend(&line(2)[..20]);
        std::fs::write(&path, text).unwrap();
        Ring::open(dir.path(), 1000).unwrap().append(line(3)).unwrap();
        assert_eq!(messages(read(dir.path()).unwrap()), ["event 1", "event 3"]);
    }

    #[test]
    fn a_follower_misses_nothing_when_the_files_change_places() {
        let dir = tempfile::tempdir().unwrap();
        let mut follower = Follower::from_end(dir.path()).unwrap();
        let mut ring = Ring::open(dir.path(), 300).unwrap();
        let mut seen = Vec::new();
        for n in 0..20 {
            ring.append(line(n)).unwrap();
            seen.extend(messages(follower.read_new().unwrap()));
        }
        assert_eq!(seen, (0..20).map(|n| format!("event {n}")).collect::<Vec<_>>());
        let mut late = Follower::from_end(dir.path()).unwrap();
        assert_eq!(late.read_new().unwrap(), []);
    }

    #[test]
    fn nothing_has_happened_where_there_is_no_file() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(dir.path()).unwrap(), []);
    }
}
