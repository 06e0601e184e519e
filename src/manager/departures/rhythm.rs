//! How often managers read the departures: rarely while nothing is under way, and the faster the shorter the last step
//! is ago.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use tokio::time::Instant;

use crate::clients::ledger::{DepartureRow, DepartureState};
use crate::node::DepartureHints;

/// Time within which the leader sees a manager's request of which it was not told ([`DepartureHints`]): a firewall
/// between the nodes may drop what they tell. A spot notice leaves 120 s.
pub const LEADER_INTERVAL: Duration = Duration::from_millis(7_500);
/// The same while departures are under way, so that their steps follow each other faster: this share of the time since
/// one of them took its last step, within these limits, and not less than the last for each of them. Waiting for a
/// manager then adds no more than a tenth to what a step needs.
const BUSY_SHARE: u32 = 10;
const BUSY_INTERVAL: RangeInclusive<Duration> =
    Duration::from_millis(50)..=Duration::from_millis(500);
const EACH_UNDER_WAY: Duration = Duration::from_millis(10);
/// Time within which another manager sees a manager's request, if the leader's skep has not acted.
pub const BACKUP_INTERVAL: Duration = Duration::from_secs(10);
/// The same while a departure is under way: the departure may be the leader's own, and this manager the next leader.
pub(super) const BUSY_BACKUP_INTERVAL: Duration = Duration::from_secs(2);
/// Time within which the leader sees a worker's request of which it was not told: two of its polls. Each worker costs one
/// read, and 15 s are little of the 120 s of a spot notice.
const WORKERS_INTERVAL: Duration = Duration::from_secs(15);
/// The other managers read the workers' requests less often by this factor.
const BACKUP_FACTOR: u32 = 3;

/// Waits for the next poll: after `pause`, or earlier if a node tells that it has written its departure. While none is
/// under way, hints cause two polls a second at most, whoever sends them.
pub(super) async fn until_due(hints: &DepartureHints, pause: Duration) {
    let is_idle = pause > *BUSY_INTERVAL.end();
    let shortest = if is_idle { BUSY_INTERVAL.end() } else { BUSY_INTERVAL.start() };
    let shortest = pause.min(*shortest);
    tokio::time::sleep(shortest).await;
    tokio::select! {
        () = tokio::time::sleep(pause - shortest) => {}
        () = hints.given() => {}
    }
}

/// The departures with their states, and the time of their last change.
#[derive(Default)]
pub(super) struct Steps(Option<(BTreeMap<String, DepartureState>, Instant)>);

impl Steps {
    /// Returns the pause of the leader while departures are under way.
    pub(super) fn pause(&mut self, rows: &[DepartureRow]) -> Duration {
        let states: BTreeMap<_, _> =
            rows.iter().map(|row| (row.instance_id.clone(), row.state)).collect();
        let now = Instant::now();
        let since = match self.0.take() {
            Some((before, at)) if before == states => at,
            _ => now,
        };
        let pause = busy_pause(now - since, states.len());
        self.0 = Some((states, since));
        pause
    }
}

/// Returns the pause of the leader between two polls while so many departures are under way, of which one took its last
/// step so long ago.
#[must_use]
pub fn busy_pause(since_step: Duration, departures: usize) -> Duration {
    let each = EACH_UNDER_WAY.saturating_mul(u32::try_from(departures).unwrap_or(u32::MAX));
    (since_step / BUSY_SHARE).max(each).clamp(*BUSY_INTERVAL.start(), *BUSY_INTERVAL.end())
}

/// Returns the time between two reads of the requests of all workers.
#[must_use]
pub fn workers_interval(is_leader: bool) -> Duration {
    WORKERS_INTERVAL * if is_leader { 1 } else { BACKUP_FACTOR }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::common::instance::{Departure, Reason, Role};
    use time::OffsetDateTime;

    fn row(instance: &str) -> DepartureRow {
        let at = OffsetDateTime::UNIX_EPOCH;
        let departure = Departure { reason: Reason::Spot, noticed_at: at, deadline: at };
        DepartureRow::request(instance, "n1", Role::Worker, &departure, "boot")
    }

    #[tokio::test(start_paused = true)]
    async fn a_hint_ends_the_pause_but_not_the_shortest_one() {
        let hints = DepartureHints::default();
        let start = Instant::now();
        until_due(&hints, LEADER_INTERVAL).await;
        assert_eq!(start.elapsed().as_secs(), LEADER_INTERVAL.as_secs());
        hints.give("i-1");
        let start = Instant::now();
        until_due(&hints, LEADER_INTERVAL).await;
        assert_eq!(start.elapsed().as_millis(), BUSY_INTERVAL.end().as_millis());
        hints.give("i-1");
        let start = Instant::now();
        until_due(&hints, *BUSY_INTERVAL.end()).await;
        assert_eq!(start.elapsed().as_millis(), BUSY_INTERVAL.start().as_millis(), "under way");
        hints.give("i-1");
        let start = Instant::now();
        until_due(&hints, Duration::ZERO).await;
        assert!(start.elapsed() < *BUSY_INTERVAL.start(), "no pause is longer than asked for");
    }

    #[tokio::test(start_paused = true)]
    async fn the_leader_polls_the_faster_the_shorter_the_last_step_is_ago_and_the_fewer_leave() {
        let mut steps = Steps::default();
        let mut one = row("i-1");
        let pause = |steps: &mut Steps, rows: &[DepartureRow]| steps.pause(rows).as_millis();
        assert_eq!(pause(&mut steps, std::slice::from_ref(&one)), 50);
        tokio::time::advance(Duration::from_secs(3)).await;
        assert_eq!(pause(&mut steps, std::slice::from_ref(&one)), 300);
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(pause(&mut steps, std::slice::from_ref(&one)), 500);
        one.state = DepartureState::Draining;
        assert_eq!(pause(&mut steps, &[one]), 50);
        let many: Vec<_> = (0..40).map(|n| row(&format!("i-{n}"))).collect();
        assert_eq!(pause(&mut steps, &many), 400, "each is read in each poll");
    }

    /// An interval is over at the first poll after it.
    #[test]
    fn the_leader_reads_the_workers_requests_at_every_second_poll() {
        assert_eq!(workers_interval(true), LEADER_INTERVAL * 2);
    }
}
