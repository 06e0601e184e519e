//! The events that hook scripts and the webhook receive.

use serde::Serialize;

/// An event in the life of this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Event {
    /// The node is Ready: an active member of the swarm.
    Joined,
    /// The node has received a notice and must leave.
    Departing,
    /// All tasks of the node have ended; the logs are flushed next.
    Drained,
    /// The departure has ended, with the result in the outcome; the machine may end now.
    Left,
    /// The node could not boot, for the reason in the outcome.
    Failed,
}

impl Event {
    /// Every event, so that each has its metrics before it occurs.
    pub const ALL: [Event; 5] =
        [Event::Joined, Event::Departing, Event::Drained, Event::Left, Event::Failed];

    /// Returns the word by which hook scripts, the webhook and the metrics name the event.
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
