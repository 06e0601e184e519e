//! What hook scripts and the webhook are told about.

use serde::Serialize;

/// What has happened to this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Event {
    /// It is Ready: an active member of the swarm.
    Joined,
    /// It has been told to leave.
    Departing,
    /// None of its tasks runs any more; the logs are flushed next.
    Drained,
    /// Its departure has ended, as the outcome says; the machine may go now.
    Left,
    /// It could not take its place, as the outcome says.
    Failed,
}

impl Event {
    pub const ALL: [Event; 5] =
        [Event::Joined, Event::Departing, Event::Drained, Event::Left, Event::Failed];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Event::Joined => "joined",
            Event::Departing => "departing",
            Event::Drained => "drained",
            Event::Left => "left",
            Event::Failed => "failed",
        }
    }
}
