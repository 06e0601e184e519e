//! Remembers the failed actions of a departure, so that it can continue without them once it is late.

use tokio::time::Instant;

use crate::common::timing::LEAVE_RETRY;

/// Last failure of one action of this departure, with the reason. After a restart of skep the action is tried again.
#[derive(Debug, Default)]
pub struct Failing(Option<(Instant, String)>);

impl Failing {
    /// Records that the action failed now.
    pub fn set(&mut self, why: String) {
        self.0 = Some((Instant::now(), why));
    }

    /// Records that the action succeeded.
    pub fn clear(&mut self) {
        self.0 = None;
    }

    /// Whether the action failed a short time ago: it is not tried again yet, and a departure that is late continues
    /// without it.
    pub fn is_recent(&self) -> bool {
        self.0.as_ref().is_some_and(|(at, _)| at.elapsed() < LEAVE_RETRY)
    }

    /// Returns the reason for the failure, until the action succeeds or was not tried for a long time.
    pub fn why(&self) -> Option<&String> {
        self.0.as_ref().filter(|(at, _)| at.elapsed() < 2 * LEAVE_RETRY).map(|(_, why)| why)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_has_failed_is_tried_again_after_a_while() {
        let mut writes = Failing::default();
        assert!(!writes.is_recent());
        writes.set("refused".to_owned());
        assert!(writes.is_recent());
        tokio::time::advance(LEAVE_RETRY).await;
        assert!(!writes.is_recent());
        assert_eq!(writes.why().map(String::as_str), Some("refused"), "it may still fail");
        writes.clear();
        assert_eq!(writes.why(), None);
    }
}
