//! What is to be sent, on disk, and how much of it was: one departure's.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::batch::Batch;

#[derive(Debug)]
pub struct Spool {
    dir: PathBuf,
    content: Content,
    sent: usize,
}

#[derive(Debug, Serialize, Deserialize)]
struct Content {
    /// Which departure of which start of the machine.
    key: String,
    batches: Vec<Batch>,
    /// What could not be read.
    problems: Vec<String>,
}

impl Spool {
    /// The one of this departure, if it was begun before.
    pub fn load(state_dir: &Path, key: &str) -> Option<Self> {
        let dir = state_dir.join("ship");
        let content: Content =
            serde_json::from_slice(&fs::read(dir.join("batches.json")).ok()?).ok()?;
        if content.key != key {
            return None;
        }
        let sent = fs::read_to_string(dir.join("sent")).ok()?.trim().parse().ok()?;
        Some(Self { dir, content, sent })
    }

    /// Replaces what was there.
    pub fn write(
        state_dir: &Path,
        key: &str,
        batches: Vec<Batch>,
        problems: Vec<String>,
    ) -> Result<Self, String> {
        let dir = state_dir.join("ship");
        let content = Content { key: key.to_owned(), batches, problems };
        let spool = Self { dir, content, sent: 0 };
        fs::create_dir_all(&spool.dir)
            .map_err(|error| format!("{}: {error}", spool.dir.display()))?;
        // The count first: an old one must not be taken for that of new batches.
        spool.put("sent", b"0")?;
        let text = serde_json::to_vec(&spool.content).map_err(|error| error.to_string())?;
        spool.put("batches.json", &text)?;
        Ok(spool)
    }

    pub fn sent(&self) -> &[Batch] {
        &self.content.batches[..self.number()]
    }

    pub fn left(&self) -> &[Batch] {
        &self.content.batches[self.number()..]
    }

    pub fn problems(&self) -> &[String] {
        &self.content.problems
    }

    /// Of the next batch.
    pub fn number(&self) -> usize {
        self.sent.min(self.content.batches.len())
    }

    /// The next batch has arrived.
    pub fn advance(&mut self) -> Result<(), String> {
        self.sent += 1;
        self.put("sent", self.sent.to_string().as_bytes())
    }

    /// Whole or not at all.
    fn put(&self, name: &str, content: &[u8]) -> Result<(), String> {
        let (path, temporary) = (self.dir.join(name), self.dir.join(format!("{name}.new")));
        let written = || {
            let mut file = fs::File::create(&temporary)?;
            file.write_all(content)?;
            file.sync_all()?;
            fs::rename(&temporary, &path)
        };
        written().map_err(|error: std::io::Error| format!("{}: {error}", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::super::batch::Event;
    use super::*;

    #[test]
    fn what_was_sent_is_not_sent_again_and_another_departure_begins_anew() {
        let dir = tempfile::tempdir().unwrap();
        let batch = |text: &str| Batch {
            source: "x".into(),
            events: vec![Event { at: 1, text: text.into() }],
        };
        assert!(Spool::load(dir.path(), "one").is_none());
        let mut spool =
            Spool::write(dir.path(), "one", vec![batch("a"), batch("b")], Vec::new()).unwrap();
        spool.advance().unwrap();
        let again = Spool::load(dir.path(), "one").unwrap();
        assert_eq!((again.sent(), again.left()), (&[batch("a")][..], &[batch("b")][..]));
        assert!(Spool::load(dir.path(), "two").is_none());
        let other = Spool::write(dir.path(), "two", vec![batch("c")], Vec::new()).unwrap();
        assert_eq!((other.sent(), other.left()), (&[][..], &[batch("c")][..]));
    }
}
