//! Keeps one flusher's row in the node's state up to date while it runs, so that its counts survive a time-out.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::time::Instant;

use crate::common::flush_result::{FlushResult, Outcome};
use crate::common::state::StateHandle;
use crate::telemetry::metrics::metrics;

/// A flusher's numbers at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    pub sent: Option<u64>,
    pub unsent: Option<u64>,
    /// Events discarded since the flush began.
    pub lost: u64,
    /// Text about the wait, such as `3 chunks`.
    pub detail: Option<String>,
}

#[derive(Clone, Debug)]
pub struct Progress {
    state: StateHandle,
    row: usize,
    lost: Arc<AtomicU64>,
    note: Arc<OnceLock<String>>,
}

impl Progress {
    /// Adds a row to the node's state.
    pub fn begin(state: &StateHandle, name: &str) -> Self {
        let mut row = 0;
        state.update(|state| {
            row = state.flush.len();
            state.flush.push(Outcome::running(name));
        });
        Self { state: state.clone(), row, lost: Arc::default(), note: Arc::default() }
    }

    pub fn say(&self, reading: Reading) {
        self.lost.store(reading.lost, Ordering::Relaxed);
        self.change(|row| {
            (row.sent, row.unsent, row.detail) = (reading.sent, reading.unsent, reading.detail);
        });
    }

    /// Shows a problem in the row; the counts stay.
    pub fn complain(&self, problem: &str) {
        self.change(|row| row.detail = Some(problem.to_owned()));
    }

    /// Adds a remark to a success: its proof, or its gaps. The first remark counts.
    pub fn note(&self, note: String) {
        let _ = self.note.set(note);
    }

    /// Returns an error if the shipper has discarded something: it has nothing left to send, but the flush has failed.
    pub fn nothing_lost(&self, result: FlushResult) -> Result<FlushResult, String> {
        match self.lost.load(Ordering::Relaxed) {
            0 => Ok(result),
            lost => Err(format!("the shipper has discarded {lost} since the flush began")),
        }
    }

    pub fn count(&self, count: impl FnOnce(&mut Outcome)) {
        self.change(count);
    }

    fn change(&self, change: impl FnOnce(&mut Outcome)) {
        self.state.update(|state| {
            if let Some(row) = state.flush.get_mut(self.row) {
                change(row);
            }
        });
    }

    fn end(&self, result: FlushResult, took: Duration) -> Option<Outcome> {
        self.change(|row| (row.result, row.seconds) = (result, took.as_secs_f64()));
        self.state.now().flush.get(self.row).cloned()
    }
}

/// Runs a flusher for at most `time`, and records and logs its outcome.
pub async fn report<F, Fut>(state: &StateHandle, name: &str, time: Duration, flush: F)
where
    F: FnOnce(Progress) -> Fut,
    Fut: Future<Output = Result<FlushResult, String>>,
{
    let progress = Progress::begin(state, name);
    let started = Instant::now();
    let result = match tokio::time::timeout(time, flush(progress.clone())).await {
        Ok(Ok(FlushResult::Done)) => {
            progress.change(|row| row.detail = progress.note.get().cloned());
            FlushResult::Done
        }
        Ok(Ok(result)) => result,
        Ok(Err(problem)) => {
            progress.complain(&problem);
            FlushResult::Failed
        }
        Err(_) => FlushResult::TimedOut,
    };
    let Some(Outcome { seconds, sent, unsent, detail, .. }) =
        progress.end(result, started.elapsed())
    else {
        return;
    };
    let detail = detail.as_deref();
    metrics().flushed(name, result.label(), sent, unsent);
    match result {
        FlushResult::Done => {
            tracing::info!(flusher = name, seconds, sent, unsent, detail, "flushed");
        }
        FlushResult::NotHere => tracing::debug!(flusher = name, "nothing to flush here"),
        FlushResult::TimedOut => {
            tracing::warn!(flusher = name, seconds, sent, unsent, detail, "flushing timed out");
        }
        FlushResult::Failed | FlushResult::Running => {
            tracing::warn!(flusher = name, seconds, sent, unsent, detail, "flushing failed");
        }
    }
}
