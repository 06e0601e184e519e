//! What came of the log flushers: plain values, for the log, `skep status` and whoever counts them.

use serde::{Deserialize, Serialize};

/// How one flusher stands, or ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FlushResult {
    Running,
    Done,
    /// Nothing to do on this host.
    NotHere,
    Failed,
    TimedOut,
}

impl FlushResult {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Done => "flushed",
            Self::NotHere => "nothing to flush here",
            Self::Failed => "failed",
            Self::TimedOut => "took too long",
        }
    }

    /// For machines that count.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Done => "done",
            Self::NotHere => "not_here",
            Self::Failed => "failed",
            Self::TimedOut => "timed_out",
        }
    }
}

/// One flusher of the present departure.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// `journal`, a shipper's name, a URL, or the path of an executable.
    pub name: String,
    pub result: FlushResult,
    /// How long it ran; 0 while it does.
    pub seconds: f64,
    /// What has arrived since the shipper started, as far as it says so: lines, records or events.
    pub sent: Option<u64>,
    /// What has not.
    pub unsent: Option<u64>,
    /// What went wrong, or what it waits for.
    pub detail: Option<String>,
}

impl Outcome {
    /// One that has just begun.
    #[must_use]
    pub fn running(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            result: FlushResult::Running,
            seconds: 0.0,
            sent: None,
            unsent: None,
            detail: None,
        }
    }
}
