//! Keeps the node's story: a small log of skep that survives restarts and crashes and needs no journal. `skep events`
//! shows it.
//!
//! Guarantees: two files of at most [`LARGEST_FILE`] bytes each, readable only by their owner. Each event is written as
//! one line in one write; a line that a crash has cut off is skipped. All lines at `info` and above are in it, whatever
//! `log.level` is. It contains no secret, because no log line does.

mod layer;
mod ring;

use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use time::OffsetDateTime;

pub use layer::Recorder;
pub use ring::Follower;
use ring::{NEWER, OLDER, Ring};

/// Bytes of each file. Both together hold weeks of a node that serves, and are small on any disk.
const LARGEST_FILE: u64 = 256 * 1024;

/// One event of the node's story.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Time when skep logged the line.
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
    /// `INFO`, `WARN` or `ERROR`.
    pub level: String,
    /// The part of skep that logged it: `boot`, `leave`, …; `node` for the node as a whole.
    #[serde(alias = "room")]
    pub component: String,
    /// Text of the log line, at most 2000 characters.
    pub message: String,
    /// Other fields of the log line, by name, such as `phase`.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub fields: Map<String, Value>,
}

/// Returns a recorder that writes events below a state directory.
///
/// # Errors
/// The directory or the file is not writable.
pub fn recorder(state_dir: &Path) -> io::Result<Recorder> {
    Ok(Recorder::new(Ring::open(state_dir, LARGEST_FILE)?))
}

/// Reads all events, oldest first; none if there are no files.
///
/// # Errors
/// The files cannot be read.
pub fn read(state_dir: &Path) -> io::Result<Vec<Event>> {
    let mut events = Vec::new();
    for file in [OLDER, NEWER] {
        match std::fs::read(state_dir.join(file)) {
            Ok(text) => events.extend(text.split(|byte| *byte == b'\n').filter_map(parse)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(events)
}

/// Parses a line; `None` for one that a crash has cut off.
fn parse(line: &[u8]) -> Option<Event> {
    serde_json::from_slice(line).ok()
}
