//! Merges the notices that this node must leave, from all sources, into one [`Departure`].
//!
//! Guarantees: the first notice wins; a later one can only bring the deadline nearer, or make it final; the same notice
//! read a hundred times is one. A notice that EC2 takes back is forgotten, as long as the node can still stay. Watching
//! starts before boot ends.

mod debouncer;
#[cfg(test)]
mod fuzz;
mod poll;
mod rules;

use tokio::sync::watch;

use crate::common::instance::{Departure, Reason};

pub use poll::watch_metadata;
use rules::{Seen, notice, scheduling_hold};

/// The notices of this node. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Notices(watch::Sender<Notice>);

/// The notice in force.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Notice {
    /// The merged notice; `None` if no notice is in force.
    pub departure: Option<Departure>,
    /// The source of the notice has taken it back; the node may still have to leave.
    pub is_withdrawn: bool,
}

impl Notices {
    /// Gives a notice. Returns `true` if it is the first.
    pub fn give(&self, departure: Departure) -> bool {
        let mut is_first = false;
        self.0.send_if_modified(|notice| {
            is_first = notice.departure.is_none();
            let merged = match notice.departure.clone() {
                None => departure.clone(),
                Some(first) => first.merge(&departure),
            };
            let new = Notice { departure: Some(merged), is_withdrawn: false };
            std::mem::replace(notice, new) != *notice
        });
        if is_first {
            tracing::info!(reason = %departure.reason, deadline = %departure.deadline, "this node must leave");
        }
        is_first
    }

    /// Takes back the notice in force, if its reason allows that.
    pub fn withdraw(&self) {
        self.0.send_if_modified(|notice| {
            let reason = notice.departure.as_ref().map(|departure| departure.reason);
            let Some(reason) = reason.filter(|reason| reason.may_be_withdrawn()) else {
                return false;
            };
            if !std::mem::replace(&mut notice.is_withdrawn, true) {
                tracing::info!(%reason, "the notice has been taken back");
                return true;
            }
            false
        });
    }

    /// Forgets the notice of the warm pool, because the instance is in the pool now.
    pub fn forget_pool(&self) {
        self.0.send_if_modified(|notice| {
            let is_over = notice.departure.as_ref().is_some_and(|it| it.reason == Reason::Pool);
            if is_over {
                *notice = Notice::default();
            }
            is_over
        });
    }

    /// Forgets a departure that failed, because the machine stays. The watchers give any other notice in force again.
    pub fn forget_failed(&self) {
        self.0.send_if_modified(|notice| std::mem::take(notice) != Notice::default());
    }

    /// Forgets a notice that was taken back, because the node stays. Returns `false` if another one is in force by now.
    #[must_use]
    pub fn forget(&self) -> bool {
        self.0.send_if_modified(|notice| {
            let is_over = notice.is_withdrawn;
            if is_over {
                *notice = Notice::default();
            }
            is_over
        })
    }

    /// Returns a receiver that follows the notices.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Notice> {
        self.0.subscribe()
    }

    /// Returns the departure in force.
    #[must_use]
    pub fn now(&self) -> Option<Departure> {
        self.0.borrow().departure.clone()
    }

    /// Returns once there is a notice.
    pub async fn given(&self) -> Departure {
        let mut receiver = self.0.subscribe();
        loop {
            if let Some(departure) = receiver.borrow_and_update().departure.clone() {
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
        notices.withdraw();
        assert!(!notices.forget(), "a termination is for good");
    }

    #[test]
    fn what_ends_the_machine_takes_the_place_of_an_operators_departure_and_a_failed_one_is_forgotten()
     {
        let notices = Notices::default();
        notices.give(notice(Reason::Operator, 600));
        notices.give(notice(Reason::Spot, 120));
        assert_eq!(notices.now(), Some(notice(Reason::Operator, 120)), "it may be taken back");
        notices.give(notice(Reason::Shutdown, 300));
        assert_eq!(notices.now(), Some(notice(Reason::Shutdown, 120)));
        notices.give(notice(Reason::Operator, 60));
        assert_eq!(notices.now(), Some(notice(Reason::Shutdown, 60)), "the machine ends");
        notices.forget_failed();
        assert_eq!(notices.now(), None);
    }

    #[test]
    fn what_is_taken_back_is_forgotten_unless_something_else_is_in_force() {
        let notices = Notices::default();
        notices.withdraw();
        notices.give(notice(Reason::Spot, 120));
        assert!(!notices.forget(), "it stands");
        notices.withdraw();
        notices.give(notice(Reason::Spot, 120));
        assert!(!notices.forget(), "it was given again meanwhile");
        notices.withdraw();
        assert!(notices.forget());
        assert_eq!(notices.now(), None);

        notices.give(notice(Reason::Maintenance, 600));
        notices.give(notice(Reason::Operator, 1800));
        notices.withdraw();
        assert!(!notices.forget());
        assert_eq!(notices.now(), Some(notice(Reason::Operator, 600)));
    }
}
