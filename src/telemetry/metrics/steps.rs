//! How long the steps of boot and departure take.

use tokio::time::Instant;

use super::metrics;

/// Measures one step after the other; the last ends where this is dropped. A step that is looked at
/// again and again, as every wait is, is one.
#[derive(Debug, Default)]
pub struct Stopwatch {
    current: Option<(&'static str, Instant)>,
}

impl Stopwatch {
    /// This step is being done, or waited for.
    pub fn enter(&mut self, step: &'static str) {
        if self.current.is_none_or(|(current, _)| current != step) {
            self.end();
            self.current = Some((step, Instant::now()));
        }
    }

    fn end(&mut self) {
        if let Some((step, since)) = self.current.take() {
            metrics().step(step, since.elapsed());
        }
    }
}

impl Drop for Stopwatch {
    fn drop(&mut self) {
        self.end();
    }
}
