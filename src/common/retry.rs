//! Retries operations: a [`Backoff`] defines the waits, the caller defines the retryable errors and the deadline.
//!
//! Guarantees:
//! - an error that the caller does not call retryable is returned at once;
//! - no wait ends after the deadline: if the next one would, the last error is returned;
//! - waits grow exponentially and have jitter, so that a thousand nodes that fail together do not retry together.
//!
//! Assumes that one attempt limits its own time. The deadline ends the waits, it does not interrupt an attempt; every
//! client of this crate has timeouts of its own.

use std::error::Error;
use std::time::Duration;

use backon::{ExponentialBuilder, Retryable as _};
use tokio::time::Instant;

use crate::common::errors::chain;

/// The waits between attempts: the first wait, doubled each time up to a cap, each plus a random share of itself (so a
/// wait is at most twice the cap).
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    first: Duration,
    cap: Duration,
}

impl Backoff {
    /// Creates a backoff that waits `first`, then twice that, and so on up to `cap`, each before jitter.
    #[must_use]
    pub const fn new(first: Duration, cap: Duration) -> Self {
        Self { first, cap }
    }

    /// Returns the wait before the retry with this number, counted from 0, with jitter. For callers that retry without
    /// an error, or without a deadline.
    #[must_use]
    pub fn wait(&self, retry: u32) -> Duration {
        let wait = self.first.saturating_mul(2_u32.saturating_pow(retry)).min(self.cap);
        wait.mul_f64(1.0 + fastrand::f64())
    }

    /// Runs `attempt` until it succeeds, fails in a way that is not `retryable`, or the next wait
    /// would end after `deadline`. One attempt is made even when the deadline has passed.
    ///
    /// Retries are logged at DEBUG; the caller reports the last failure.
    ///
    /// # Errors
    /// The error of the last attempt.
    pub async fn run<T, E, F, Fut>(
        &self,
        operation: &str,
        deadline: Instant,
        retryable: impl Fn(&E) -> bool,
        attempt: F,
    ) -> Result<T, E>
    where
        E: Error,
        F: FnMut() -> Fut,
        Fut: Future<Output = Result<T, E>>,
    {
        let waits = ExponentialBuilder::new()
            .with_min_delay(self.first)
            .with_max_delay(self.cap)
            .without_max_times()
            .with_jitter();
        let mut retries = 0_u32;
        attempt
            .retry(waits)
            .when(retryable)
            .adjust(|_, wait| wait.filter(|wait| Instant::now() + *wait < deadline))
            .notify(|error, wait| {
                retries += 1;
                let (wait_ms, error) = (wait.as_millis(), chain(error));
                tracing::debug!(operation, retries, wait_ms, "retrying {operation} after: {error}");
            })
            .await
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use super::*;

    const QUICK: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));

    #[derive(Debug, thiserror::Error)]
    enum Trouble {
        #[error("busy")]
        Busy,
        #[error("denied")]
        Denied,
    }

    fn is_busy(error: &Trouble) -> bool {
        matches!(error, Trouble::Busy)
    }

    fn in_seconds(seconds: u64) -> Instant {
        Instant::now() + Duration::from_secs(seconds)
    }

    #[tokio::test(start_paused = true)]
    async fn retries_until_it_succeeds() {
        let attempts = Cell::new(0);
        let answer = QUICK
            .run("asking", in_seconds(60), is_busy, async || {
                attempts.set(attempts.get() + 1);
                if attempts.get() < 4 { Err(Trouble::Busy) } else { Ok("yes") }
            })
            .await;
        assert_eq!(answer.unwrap(), "yes");
        assert_eq!(attempts.get(), 4);
    }

    #[tokio::test(start_paused = true)]
    async fn does_not_retry_what_is_final() {
        let attempts = Cell::new(0);
        let answer: Result<(), _> = QUICK
            .run("asking", in_seconds(60), is_busy, async || {
                attempts.set(attempts.get() + 1);
                Err(Trouble::Denied)
            })
            .await;
        assert!(matches!(answer, Err(Trouble::Denied)));
        assert_eq!(attempts.get(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn gives_up_before_the_deadline_with_the_last_error() {
        let deadline = in_seconds(10);
        let attempts = Cell::new(0);
        let answer: Result<(), _> = QUICK
            .run("asking", deadline, is_busy, async || {
                attempts.set(attempts.get() + 1);
                Err(Trouble::Busy)
            })
            .await;
        assert!(is_busy(&answer.unwrap_err()));
        assert!(Instant::now() < deadline, "waited past the deadline");
        // The longest wait is twice the cap: a larger rest was enough for another attempt.
        assert!(deadline - Instant::now() <= Duration::from_secs(2), "stopped too early");
        assert!(attempts.get() >= 5, "{} attempts", attempts.get());
    }

    #[tokio::test(start_paused = true)]
    async fn tries_once_when_the_deadline_has_passed() {
        let attempts = Cell::new(0);
        let answer: Result<(), _> = QUICK
            .run("asking", Instant::now(), is_busy, async || {
                attempts.set(attempts.get() + 1);
                Err(Trouble::Busy)
            })
            .await;
        assert!(answer.is_err());
        assert_eq!(attempts.get(), 1);
    }

    #[test]
    fn a_single_wait_grows_alike_however_often_it_is_retried() {
        for (retry, base) in [(0, 100), (1, 200), (3, 800), (4, 1000), (u32::MAX, 1000)] {
            let (wait, base) = (QUICK.wait(retry), Duration::from_millis(base));
            assert!(wait >= base && wait <= base * 2, "{retry}: {wait:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn waits_grow_to_the_cap_and_carry_jitter() {
        let times = RefCell::new(Vec::new());
        let _: Result<(), _> = QUICK
            .run("asking", in_seconds(30), is_busy, async || {
                times.borrow_mut().push(Instant::now());
                Err(Trouble::Busy)
            })
            .await;
        let times = times.into_inner();
        let waits: Vec<_> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
        // tokio's clock has a resolution of 1 ms and rounds up.
        let tick = Duration::from_millis(2);
        for (n, wait) in waits.iter().enumerate() {
            let base = (QUICK.first * 2_u32.pow(n.min(10) as u32)).min(QUICK.cap);
            assert!(*wait >= base && *wait <= base * 2 + tick, "wait {n}: {wait:?} on {base:?}");
        }
        let capped = &waits[4..];
        assert!(capped.iter().any(|wait| wait.abs_diff(capped[0]) > tick), "no jitter: {capped:?}");
    }
}
