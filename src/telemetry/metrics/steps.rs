//! Measures the durations of the steps of boot and departure.

use tokio::time::Instant;

use super::metrics;

/// Measures one step after the other; the last one ends when this is dropped. A step that is entered repeatedly, as
/// every wait is, counts as one.
#[derive(Debug, Default)]
pub struct Stopwatch {
    current: Option<(&'static str, Instant)>,
}

impl Stopwatch {
    /// Starts a step, unless it is the present one.
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
