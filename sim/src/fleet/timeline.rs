//! Records what happened to the instances, in order: for viewers, for tests, and in `timeline.jsonl`.

use std::fmt;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::sync::broadcast;

use super::dockerd::append;

/// Number of entries by which a slow subscriber can be late before it loses entries.
const BACKLOG: usize = 4096;

/// One event.
#[derive(Clone, Debug, Serialize)]
pub struct Entry {
    /// Since the fleet was started.
    #[serde(rename = "seconds", serialize_with = "as_seconds")]
    pub at: Duration,
    /// The instance's id.
    pub instance: String,
    pub what: String,
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>8.3}  {}  {}", self.at.as_secs_f64(), self.instance, self.what)
    }
}

#[derive(Debug)]
pub(crate) struct Timeline {
    start: Instant,
    written: Mutex<(File, Vec<Entry>)>,
    subscribers: broadcast::Sender<Entry>,
}

impl Timeline {
    pub(crate) fn create(dir: &Path) -> anyhow::Result<Timeline> {
        let file = append(&dir.join("timeline.jsonl"))?;
        Ok(Timeline {
            start: Instant::now(),
            written: Mutex::new((file, Vec::new())),
            subscribers: broadcast::channel(BACKLOG).0,
        })
    }

    pub(crate) fn add(&self, instance: &str, what: impl Into<String>) {
        let entry =
            Entry { at: self.start.elapsed(), instance: instance.to_owned(), what: what.into() };
        tracing::debug!(instance, "{}", entry.what);
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        if let Ok(line) = serde_json::to_string(&entry) {
            writeln!(written.0, "{line}").ok();
        }
        written.1.push(entry.clone());
        // Inside the lock, so that subscribers see the same order.
        self.subscribers.send(entry).ok();
    }

    pub(crate) fn subscribe(&self) -> broadcast::Receiver<Entry> {
        self.subscribers.subscribe()
    }

    pub(crate) fn entries(&self) -> Vec<Entry> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner).1.clone()
    }
}

fn as_seconds<S: serde::Serializer>(at: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(at.as_secs_f64())
}
