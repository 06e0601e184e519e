//! Divides the deadline into shares: for traffic to end, for draining, for flushing, for leaving. None can use the share
//! of a later one.

use std::time::Duration;

use tokio::time::Instant;

use crate::common::timing::LEAVE_SHARE;

/// Bounds of the share for leaving. Demoting and leaving took 0.6–8 s on the engines that were measured.
const SHORTEST_LEAVE: Duration = Duration::from_secs(5);
const LONGEST_LEAVE: Duration = Duration::from_secs(60);
/// Leaving and flushing together never take more than this share of a short deadline.
const MOST_RESERVED: f64 = 0.6;
/// Traffic's part of the time before flushing.
const TRAFFIC_SHARE: f64 = 0.4;
/// The longest deregistration delay of a target group is 3600 s; Auto Scaling needs seconds more.
const LONGEST_TRAFFIC: Duration = Duration::from_secs(3900);
/// If no manager drains the node, it stops its tasks itself after this part of draining's share.
const PATIENCE_SHARE: f64 = 0.4;

/// Time at the end of draining's share for stopping the tasks that managers have not stopped: Docker's own grace, and
/// at most a quarter (`STOP_PART`) of the share.
const LONGEST_STOP: Duration = Duration::from_secs(10);
const STOP_PART: u32 = 4;

/// Points in time on the way to the deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// The node is drained after this, whatever a load balancer sends.
    pub traffic_until: Instant,
    /// The node does not wait for managers after this.
    pub patience_until: Instant,
    /// After this the node stops its tasks itself, whatever the managers do.
    pub drain_until: Instant,
    /// The node does not wait for running containers after this.
    pub stop_until: Instant,
    /// End of flushing.
    pub flush_until: Instant,
    /// The machine ends.
    pub deadline: Instant,
}

impl Budget {
    /// Returns the grace of tasks that this node stops itself. This host does not know the grace of a service, so it is
    /// all the time that draining has left.
    #[must_use]
    pub fn grace(&self, now: Instant) -> Duration {
        self.stop_until.saturating_duration_since(now)
    }

    /// Returns the time until the next of these points; a day after the last.
    #[must_use]
    pub fn next_point(&self, now: Instant) -> Duration {
        const DAY: Duration = Duration::from_secs(24 * 3600);
        let points = [
            self.traffic_until,
            self.patience_until,
            self.drain_until,
            self.stop_until,
            self.flush_until,
            self.deadline,
        ];
        let ahead = points.into_iter().filter(|point| *point > now).map(|point| point - now);
        ahead.min().unwrap_or(DAY)
    }

    /// Divides the time from `start` to `deadline`. `flush_share` is a share of the whole, 0 to 0.5. The patience with the
    /// managers counts from `asked_at`, when they could begin to drain the node.
    #[must_use]
    pub fn new(
        start: Instant,
        deadline: Instant,
        flush_share: f64,
        longest_patience: Duration,
        asked_at: Instant,
    ) -> Self {
        let whole = deadline.saturating_duration_since(start);
        let leave = whole.mul_f64(LEAVE_SHARE).clamp(SHORTEST_LEAVE, LONGEST_LEAVE);
        let flush = whole.mul_f64(flush_share);
        let reserved = (leave + flush).min(whole.mul_f64(MOST_RESERVED));
        let leave = leave.min(reserved);
        let drain = whole.saturating_sub(reserved);
        let drain_until = start + drain.saturating_sub(LONGEST_STOP.min(drain / STOP_PART));
        let patience = drain.mul_f64(PATIENCE_SHARE).min(longest_patience);
        Self {
            traffic_until: start + drain.mul_f64(TRAFFIC_SHARE).min(LONGEST_TRAFFIC),
            patience_until: (asked_at + patience).min(drain_until),
            drain_until,
            stop_until: start + drain,
            flush_until: deadline.checked_sub(leave).unwrap_or(start).max(start),
            deadline,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// For any deadline the points are in order, and flushing and leaving have time.
        #[test]
        fn draining_cannot_eat_what_is_kept(
            seconds in 0u64..200_000,
            flush_share in 0.0f64..=0.5,
            patience in 0u64..10_000,
            asked_after in 0u64..200_000,
        ) {
            let start = Instant::now();
            let whole = Duration::from_secs(seconds);
            let asked_at = start + Duration::from_secs(asked_after);
            let patience = Duration::from_secs(patience);
            let budget = Budget::new(start, start + whole, flush_share, patience, asked_at);
            prop_assert!(start <= budget.patience_until);
            prop_assert!(start <= budget.traffic_until);
            prop_assert!(budget.traffic_until <= budget.drain_until);
            prop_assert!(budget.patience_until <= budget.drain_until);
            prop_assert!(budget.drain_until <= budget.stop_until);
            prop_assert!(budget.stop_until <= budget.flush_until);
            prop_assert!(budget.flush_until <= budget.deadline);
            let kept = budget.deadline - budget.stop_until;
            let least = whole.mul_f64(LEAVE_SHARE).min(LONGEST_LEAVE) + whole.mul_f64(flush_share);
            prop_assert!(kept >= least.min(whole.mul_f64(MOST_RESERVED)).mul_f64(0.999));
            prop_assert!(kept <= whole.mul_f64(MOST_RESERVED).mul_f64(1.001));
        }
    }

    #[test]
    fn tasks_that_are_stopped_here_have_all_that_draining_has_left() {
        let start = Instant::now();
        let seconds = Duration::from_secs;
        let budget = Budget::new(start, start + seconds(120), 0.2, seconds(300), start);
        assert_eq!(budget.grace(start), seconds(84));
        assert_eq!(budget.grace(start + seconds(80)), seconds(4));
        assert_eq!(budget.grace(start + seconds(90)), seconds(0));
    }

    #[test]
    fn a_spot_notice_leaves_room_for_flushing_and_leaving() {
        let start = Instant::now();
        let deadline = start + Duration::from_secs(120);
        let budget = Budget::new(start, deadline, 0.2, Duration::from_secs(300), start);
        assert_eq!(deadline - budget.flush_until, Duration::from_secs(12));
        assert_eq!(budget.flush_until - budget.stop_until, Duration::from_secs(24));
        assert_eq!(budget.stop_until - budget.drain_until, Duration::from_secs(10));
        // More than the 20 s that a node serves on after its 503.
        assert_eq!(budget.traffic_until - start, Duration::from_millis(33_600));
    }
}
