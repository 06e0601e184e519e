//! Results of the log flushers, as plain values for the log, `skep status` and the metrics.

use serde::{Deserialize, Serialize};

/// The state or the result of one flusher.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FlushResult {
    /// The flusher has not ended.
    Running,
    /// The flusher has finished: all that it waited for has arrived.
    Done,
    /// The flusher has nothing to flush on this host.
    NotHere,
    /// The flusher ended with the error in [`Outcome::detail`].
    Failed,
    /// The time of the flusher ended before everything had arrived.
    TimedOut,
}

impl FlushResult {
    /// Returns the result in words, for `skep status`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Done => "flushed",
            Self::NotHere => "nothing to flush here",
            Self::Failed => "failed",
            Self::TimedOut => "timed out",
        }
    }

    /// Returns the value of the metrics' label `result`.
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

/// One flusher of the current departure.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// `journal`, a shipper's name, a URL, or the path of an executable.
    pub name: String,
    /// Its result; [`FlushResult::Running`] until it ends.
    pub result: FlushResult,
    /// Duration of its run; 0 while it runs.
    pub seconds: f64,
    /// Lines, records or events that have arrived since the shipper started, if the shipper reports them.
    pub sent: Option<u64>,
    /// Lines, records or events that have not arrived.
    pub unsent: Option<u64>,
    /// The error, or the condition that the flusher waits for.
    pub detail: Option<String>,
}

impl Outcome {
    /// Returns the outcome of a flusher that has just started.
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
