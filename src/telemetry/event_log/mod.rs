//! The node's own story: what skep has said of itself, in a small log that survives restarts and crashes and
//! needs no journal. `skep events` reads it.
//!
//! Guarantees: two files of at most [`LARGEST_FILE`] each, readable by their owner alone; an event is one
//! write of one line, and a line that a crash has torn is passed over; what is said at `info` and above is
//! in it whatever `log.level` is. No secret is in it, because none is in any log line.

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

/// Both files together are weeks of a node that serves, and nothing on any disk.
const LARGEST_FILE: u64 = 256 * 1024;

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
    /// `INFO`, `WARN` or `ERROR`.
    pub level: String,
    /// The part of skep that speaks: `boot`, `leave`, …; `node` for what the node does as a whole.
    pub component: String,
    pub message: String,
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub fields: Map<String, Value>,
}

/// What writes events below a state directory from now on.
///
/// # Errors
/// When the directory or the file cannot be written to.
pub fn recorder(state_dir: &Path) -> io::Result<Recorder> {
    Ok(Recorder::new(Ring::open(state_dir, LARGEST_FILE)?))
}

/// Every event that is kept, oldest first; none where nothing has happened yet.
///
/// # Errors
/// When the files cannot be read.
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

/// A line that is no event was torn by a crash.
fn parse(line: &[u8]) -> Option<Event> {
    serde_json::from_slice(line).ok()
}
