//! The pace of a swarm: all times of the engines, each with its source, and the queue at the leader.
//!
//! What the swarm's leader does for a node (a raft proposal, a signature) it does one after the other, so a thousand
//! nodes that join at once wait for each other there. What a node does for itself happens at the same time everywhere.

use std::ops::RangeInclusive;
use std::sync::Mutex;
use std::time::Duration;

use tokio::time::Instant;

/// The leader's work for one worker that joins. Measured on engine 20.10: 15 workers at once join within 0.35 s, and the
/// leader's dockerd uses 5.3 ms of processor time for each.
pub(in crate::scale) const WORKER_JOIN: Duration = Duration::from_millis(6);
/// The leader's work for one write to a node or to the swarm, one raft proposal. Measured: an update of a node takes 2.1 ms
/// and 2.4 ms of the leader's processor time.
pub(in crate::scale) const WRITE: Duration = Duration::from_micros(2500);
/// Time of a node list for each entry; reads wait for no other work. Measured: a list of 17 nodes takes 2.0 ms.
pub(in crate::scale) const LIST_PER_NODE: Duration = Duration::from_micros(115);
/// A joining worker's own work: its key, and the round trips to the leader. A join of a single worker takes 60 to 160 ms
/// (measured, engines 20.10 and 28.5).
pub(in crate::scale) const JOINING: RangeInclusive<u64> = 45..=130;
/// Managers join one after the other, each for the 500 ms of swarmkit's own health poll: 0.53 s (measured).
pub(in crate::scale) const MANAGER_JOIN: Duration = Duration::from_millis(530);
/// `swarm init` takes 0.55 s for the same reason (measured).
pub(in crate::scale) const INIT: Duration = Duration::from_millis(550);
/// The dispatcher collects the states of nodes for 100 ms (swarmkit, `manager/dispatcher/dispatcher.go`,
/// `maxBatchInterval`).
pub(in crate::scale) const STATUS_BATCH: Duration = Duration::from_millis(100);
/// Docker stops waiting for a join after 20 s; the join goes on (moby, `daemon/cluster`, `swarmConnectTimeout`).
pub(in crate::scale) const JOIN_PATIENCE: Duration = Duration::from_secs(20);
/// A join with a wrong token, or through an address that refuses connections, fails after 10 s (measured).
pub(in crate::scale) const JOIN_REFUSAL: Duration = Duration::from_secs(10);
/// A worker leaves within 0.6 to 2.3 s (measured).
pub(in crate::scale) const LEAVING: RangeInclusive<u64> = 600..=2300;
/// The managers list a node as down 9.5 to 14 s after its last heartbeat (measured).
pub(in crate::scale) const DOWN_AFTER: RangeInclusive<u64> = 9500..=14_000;
/// A demotion: the managers show it after 0.2 s, the node itself 0.2 s later; the leader itself after 5 to 8 s
/// (measured).
pub(in crate::scale) const DEMOTION_SHOWN: Duration = Duration::from_millis(200);
pub(in crate::scale) const DEMOTION_DONE: Duration = Duration::from_millis(200);
pub(in crate::scale) const LEADER_DEMOTION_DONE: RangeInclusive<u64> = 5000..=8000;

/// Returns a random time of a range of milliseconds.
pub(in crate::scale) fn within(milliseconds: RangeInclusive<u64>) -> Duration {
    Duration::from_millis(fastrand::u64(milliseconds))
}

/// Work that is done one after the other, in the order of its arrival.
#[derive(Debug, Default)]
pub(super) struct Queue(Mutex<Option<Instant>>);

impl Queue {
    /// Returns when the work of `cost` is done.
    pub(super) async fn serve(&self, cost: Duration) {
        let now = Instant::now();
        let done = {
            let mut free_at = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            let done = free_at.map_or(now, |free_at| free_at.max(now)) + cost;
            *free_at = Some(done);
            done
        };
        tokio::time::sleep_until(done).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn work_waits_for_the_work_before_it() {
        let (queue, start) = (Queue::default(), Instant::now());
        let each = async || {
            queue.serve(WORKER_JOIN).await;
            start.elapsed()
        };
        assert_eq!(
            tokio::join!(each(), each(), each()),
            (WORKER_JOIN, WORKER_JOIN * 2, WORKER_JOIN * 3)
        );
        tokio::time::sleep(STATUS_BATCH).await;
        let before = start.elapsed();
        queue.serve(WORKER_JOIN).await;
        assert_eq!(start.elapsed() - before, WORKER_JOIN, "an idle leader serves at once");
    }
}
