//! Keeps the batches of one departure on disk. In `<state_dir>/ship`:
//!
//! | file | holds |
//! |---|---|
//! | `00000`, `00001`, … | one batch each |
//! | `batches.json` | the departure of the batches, the source and the number of lines of each, the sources that could not be read; written last |
//! | `done.json` | the result of each batch so far; written after every batch |
//!
//! Guarantees: one batch is in memory at a time; a restarted skep continues after the last batch with a result.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::batch::{Batch, Event, batches};
use crate::common::disk;

/// Limit on disk for all sources together. Lines beyond it are left out, and the outcome reports this: the node needs a
/// real shipper.
const MOST_SPOOLED: usize = 64 << 20;
/// Number of sources that are named for one problem.
const MOST_NAMED: usize = 3;

/// Collects the batches.
#[derive(Debug)]
pub struct Writer {
    dir: PathBuf,
    index: Index,
    bytes: usize,
    most_bytes: usize,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Index {
    /// The departure, and the start of the machine that it belongs to.
    key: String,
    batches: Vec<Entry>,
    /// Problems with reading or writing, by source.
    problems: BTreeMap<String, String>,
    /// Remarks on lines that were left out.
    notes: Vec<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Entry {
    source: String,
    lines: u64,
}

/// The result of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Done {
    /// Sent, except for this number of events that the receiver has rejected.
    Sent { rejected: u64 },
    /// Not sent: a retry would not help.
    GivenUp,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Ledger {
    /// Results by the batch's number.
    done: BTreeMap<usize, Done>,
    /// By source: the problem that keeps the rest of it from being sent.
    failed: BTreeMap<String, String>,
}

/// Returns the batches one by one, and records their results.
#[derive(Debug)]
pub struct Spool {
    dir: PathBuf,
    index: Index,
    ledger: Ledger,
}

impl Writer {
    /// Replaces an earlier spool.
    ///
    /// # Errors
    /// Errors of the file system.
    pub fn create(state_dir: &Path, key: &str) -> Result<Self, String> {
        let dir = state_dir.join("ship");
        let emptied = match fs::remove_dir_all(&dir) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => fs::create_dir_all(&dir),
        };
        emptied.map_err(|error| format!("{}: {error}", dir.display()))?;
        let index = Index { key: key.to_owned(), ..Index::default() };
        Ok(Self { dir, index, bytes: 0, most_bytes: MOST_SPOOLED })
    }

    /// Adds the lines of a source. Batches that cannot be written are a problem of this source.
    pub fn add(&mut self, source: &str, events: Vec<Event>, now: i64) {
        let mut left_out = 0;
        for batch in batches(source, events, now) {
            let lines = batch.events.len() as u64;
            let written = serde_json::to_vec(&batch).map_err(io::Error::from).and_then(|text| {
                if self.bytes + text.len() > self.most_bytes {
                    return Ok(false);
                }
                self.bytes += text.len();
                disk::replace(&self.dir.join(name(self.index.batches.len())), &text).map(|()| true)
            });
            match written {
                Ok(true) => self.index.batches.push(Entry { source: source.to_owned(), lines }),
                Ok(false) => left_out += lines,
                Err(error) => return self.problem(source, &error.to_string()),
            }
        }
        if left_out > 0 {
            let most = self.most_bytes;
            self.problem(
                source,
                &format!("more than {most} bytes in all sources together: some lines are left out"),
            );
        }
    }

    pub fn problem(&mut self, source: &str, problem: &str) {
        tracing::warn!(flusher = "ship", source, "{problem}");
        self.index.problems.insert(source.to_owned(), problem.to_owned());
    }

    pub fn note(&mut self, note: String) {
        tracing::info!(flusher = "ship", "{note}");
        self.index.notes.push(note);
    }

    /// Completes the spool: a skep that is restarted after this continues with these batches.
    ///
    /// # Errors
    /// Errors of the file system.
    pub fn finish(self) -> Result<Spool, String> {
        put_json(&self.dir, "batches.json", &self.index)?;
        Ok(Spool { dir: self.dir, index: self.index, ledger: Ledger::default() })
    }
}

impl Spool {
    /// Returns the spool of this departure, if it was written before.
    ///
    /// # Errors
    /// When this cannot be determined: sending everything again would show it twice.
    pub fn load(state_dir: &Path, key: &str) -> Result<Option<Self>, String> {
        let dir = state_dir.join("ship");
        // An index in the format of another version of skep belongs to another departure.
        let index: Option<Index> = get(&dir, "batches.json").or_else(|error| match error {
            Unreadable::Content(_) => Ok(None),
            Unreadable::File(problem) => Err(problem),
        })?;
        let Some(index) = index.filter(|index| index.key == key) else { return Ok(None) };
        let ledger = get(&dir, "done.json").map_err(|error| match error {
            Unreadable::Content(problem) | Unreadable::File(problem) => problem,
        })?;
        Ok(Some(Self { dir, index, ledger: ledger.unwrap_or_default() }))
    }

    /// Returns the number of the next batch of every source that has one left.
    pub fn next_of_each_source(&self) -> Vec<usize> {
        let mut next: BTreeMap<&str, usize> = BTreeMap::new();
        for (number, entry) in self.index.batches.iter().enumerate() {
            if !self.ledger.done.contains_key(&number) {
                next.entry(&entry.source).or_insert(number);
            }
        }
        let mut numbers: Vec<usize> = next.into_values().collect();
        numbers.sort_unstable();
        numbers
    }

    /// # Errors
    /// When the file cannot be read.
    pub fn batch(&self, number: usize) -> Result<Batch, String> {
        match get(&self.dir, &name(number)) {
            Ok(Some(batch)) => Ok(batch),
            Ok(None) => Err(format!("{} is missing", self.dir.join(name(number)).display())),
            Err(Unreadable::Content(problem) | Unreadable::File(problem)) => Err(problem),
        }
    }

    /// # Errors
    /// Errors of the file system.
    pub fn has_arrived(&mut self, number: usize, rejected: u64) -> Result<(), String> {
        self.ledger.done.insert(number, Done::Sent { rejected });
        put_json(&self.dir, "done.json", &self.ledger)
    }

    /// Stops trying to send this batch and the later ones of its source.
    ///
    /// # Errors
    /// Errors of the file system.
    pub fn give_up(&mut self, number: usize, problem: &str) -> Result<(), String> {
        let Some(source) = self.index.batches.get(number).map(|entry| entry.source.clone()) else {
            return Ok(());
        };
        tracing::warn!(flusher = "ship", source, "not sent: {problem}");
        for (other, entry) in self.index.batches.iter().enumerate() {
            if entry.source == source {
                self.ledger.done.entry(other).or_insert(Done::GivenUp);
            }
        }
        self.ledger.failed.insert(source, problem.to_owned());
        put_json(&self.dir, "done.json", &self.ledger)
    }

    pub fn totals(&self) -> Totals {
        let mut totals = Totals { notes: self.index.notes.clone(), ..Totals::default() };
        for (number, entry) in self.index.batches.iter().enumerate() {
            let rejected = match self.ledger.done.get(&number) {
                Some(Done::Sent { rejected }) => *rejected,
                _ => entry.lines,
            };
            totals.sent += entry.lines.saturating_sub(rejected);
            totals.unsent += rejected;
            if let Some(Done::Sent { rejected }) = self.ledger.done.get(&number) {
                totals.rejected += rejected;
            }
        }
        for (source, problem) in self.index.problems.iter().chain(&self.ledger.failed) {
            totals.failed.entry(problem.clone()).or_default().push(source.clone());
        }
        totals
    }
}

/// The results so far, in lines.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub sent: u64,
    /// Waiting, not sent after an error, or rejected by the receiver.
    pub unsent: u64,
    pub rejected: u64,
    /// Sources by their problem.
    pub failed: BTreeMap<String, Vec<String>>,
    pub notes: Vec<String>,
}

impl Totals {
    /// Describes the problems, the rejected events and the remarks; empty if there are none.
    pub fn summary(&self) -> String {
        let mut parts = Vec::new();
        for (problem, sources) in &self.failed {
            let named = sources.iter().take(MOST_NAMED).cloned().collect::<Vec<_>>().join(", ");
            let more = match sources.len().saturating_sub(MOST_NAMED) {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            parts.push(format!("{named}{more}: {problem}"));
        }
        if self.rejected > 0 {
            let rejected = self.rejected;
            parts.push(format!("{rejected} events rejected: older than the log group keeps them"));
        }
        parts.extend(self.notes.iter().cloned());
        parts.join("; ")
    }
}

fn name(number: usize) -> String {
    format!("{number:05}")
}

enum Unreadable {
    File(String),
    Content(String),
}

fn get<T: DeserializeOwned>(dir: &Path, name: &str) -> Result<Option<T>, Unreadable> {
    let path = dir.join(name);
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Unreadable::File(format!("{}: {error}", path.display()))),
    };
    serde_json::from_slice(&text)
        .map(Some)
        .map_err(|error| Unreadable::Content(format!("{}: {error}", path.display())))
}

fn put_json(dir: &Path, name: &str, content: &impl Serialize) -> Result<(), String> {
    let text = serde_json::to_vec(content).map_err(io::Error::from);
    text.and_then(|text| disk::replace(&dir.join(name), &text))
        .map_err(|error| format!("{}: {error}", dir.join(name).display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_700_000_000_000;

    fn events(texts: &[&str]) -> Vec<Event> {
        texts.iter().map(|text| Event { at: NOW, text: (*text).to_owned() }).collect()
    }

    #[test]
    fn what_is_noted_is_not_sent_again_and_another_departure_starts_anew() {
        let dir = tempfile::tempdir().unwrap();
        let load = |key| Spool::load(dir.path(), key).unwrap();
        assert!(load("one").is_none());
        let mut writer = Writer::create(dir.path(), "one").unwrap();
        writer.add("a", events(&["1", "2"]), NOW);
        assert!(load("one").is_none(), "not complete yet");
        writer.add("b", events(&["3"]), NOW);
        writer.finish().unwrap().has_arrived(0, 1).unwrap();

        let mut again = load("one").unwrap();
        assert_eq!(again.next_of_each_source(), [1]);
        assert_eq!(again.batch(1).unwrap().events, events(&["3"]));
        let totals = again.totals();
        assert_eq!((totals.sent, totals.unsent, totals.rejected), (1, 2, 1));
        again.give_up(1, "no permission").unwrap();
        let again = load("one").unwrap();
        assert!(again.next_of_each_source().is_empty());
        assert_eq!(
            again.totals().summary(),
            "b: no permission; 1 events rejected: older than the log group keeps them"
        );

        assert!(load("two").is_none());
        Writer::create(dir.path(), "two").unwrap().finish().unwrap();
        assert!(load("two").unwrap().next_of_each_source().is_empty());
    }

    #[test]
    fn a_spool_that_cannot_be_read_is_not_taken_for_none() {
        let dir = tempfile::tempdir().unwrap();
        Writer::create(dir.path(), "one").unwrap().finish().unwrap();
        fs::write(dir.path().join("ship/done.json"), "half").unwrap();
        assert!(Spool::load(dir.path(), "one").is_err());
        fs::write(dir.path().join("ship/batches.json"), "half").unwrap();
        assert!(Spool::load(dir.path(), "one").unwrap().is_none());
    }

    #[test]
    fn the_disk_is_bounded_and_what_is_left_out_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = Writer::create(dir.path(), "one").unwrap();
        writer.most_bytes = 200;
        writer.add("a", events(&[&"x".repeat(100)]), NOW);
        writer.add("b", events(&[&"y".repeat(100)]), NOW);
        let spool = writer.finish().unwrap();
        assert_eq!((spool.next_of_each_source(), spool.totals().unsent), (vec![0], 1));
        assert!(spool.totals().summary().starts_with("b: more than 200 bytes"));
    }

    #[test]
    fn sources_with_the_same_problem_are_named_together() {
        let failed =
            BTreeMap::from([("denied".to_owned(), "abcde".chars().map(String::from).collect())]);
        let totals = Totals { failed, ..Totals::default() };
        assert_eq!(totals.summary(), "a, b, c and 2 more: denied");
    }
}
