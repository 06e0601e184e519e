//! Notices that this node is to leave, from wherever they come, as one [`Departure`].
//!
//! Guarantees: the first notice wins; a later one can only bring the deadline nearer; the same
//! notice read a hundred times is one. Watching starts before boot ends.

mod metadata;
mod notice;

use tokio::sync::watch;

use crate::instance::Departure;

pub use metadata::watch_metadata;
pub use notice::{Seen, ends_in_termination, notice};

/// Where notices arrive. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Notices(watch::Sender<Option<Departure>>);

impl Default for Notices {
    fn default() -> Self {
        Self(watch::Sender::new(None))
    }
}

impl Notices {
    /// Gives a notice. `true` when it is the first.
    pub fn give(&self, departure: Departure) -> bool {
        let mut is_first = false;
        self.0.send_if_modified(|current| {
            is_first = current.is_none();
            let merged = match current {
                None => departure.clone(),
                Some(first) => first.clone().merge(&departure),
            };
            current.replace(merged) != *current
        });
        if is_first {
            tracing::warn!(reason = %departure.reason, deadline = %departure.deadline, "this node is to leave");
        }
        is_first
    }

    /// Follows the notices.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Option<Departure>> {
        self.0.subscribe()
    }

    /// The departure in force.
    #[must_use]
    pub fn now(&self) -> Option<Departure> {
        self.0.borrow().clone()
    }

    /// Returns once there is a notice.
    pub async fn given(&self) -> Departure {
        let mut receiver = self.0.subscribe();
        loop {
            if let Some(departure) = receiver.borrow_and_update().clone() {
                return departure;
            }
            // The sender is in `self`, so this cannot fail.
            let _ = receiver.changed().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::instance::Reason;
    use time::{Duration, OffsetDateTime};

    fn notice(reason: Reason, seconds: i64) -> Departure {
        let noticed_at = OffsetDateTime::UNIX_EPOCH;
        Departure { reason, noticed_at, deadline: noticed_at + Duration::seconds(seconds) }
    }

    #[test]
    fn the_first_notice_wins_and_a_nearer_deadline_shortens_it() {
        let notices = Notices::default();
        let mut follower = notices.subscribe();
        assert!(notices.give(notice(Reason::Lifecycle, 1800)));
        assert!(!notices.give(notice(Reason::Spot, 120)));
        assert!(!notices.give(notice(Reason::Shutdown, 600)));
        assert_eq!(notices.now(), Some(notice(Reason::Lifecycle, 120)));
        follower.mark_unchanged();
        notices.give(notice(Reason::Spot, 120));
        assert!(!follower.has_changed().unwrap(), "the same notice again is no news");
    }
}
