//! Polls a shipper until everything that was written before the flush has arrived.
//!
//! The flush begins when the last task has ended. A shipper reads the tasks' last lines a moment later and publishes
//! its counters later still, both within [`Polling::settle`]. Guarantees, from the first readable answer on:
//!
//! - After `settle`, a poll that shows nothing unsent ends the flush: everything has arrived.
//! - After `settle`, the amount that has come in so far is the mark. Once every [`Flow`] has finished its mark, all
//!   lines of the tasks have arrived, however much comes in meanwhile.
//! - A counter that falls, a flow that disappears, an unreadable answer, or a shipper that accepts nothing because it
//!   is full, is "cannot tell": `settle` starts again.
//!
//! Assumes that `settle` is long enough, and that a flow finishes events in the order in which they came in.

use std::time::Duration;

use tokio::time::Instant;

use super::progress::{Progress, Reading};
use crate::common::flush_result::FlushResult;

/// Time between two polls: a departure waits seconds for its shippers, and a poll costs them almost nothing.
pub const INTERVAL: Duration = Duration::from_millis(250);
/// A shipper without a readable answer for this time is absent, or is something else: waiting longer would only use up
/// the time for leaving. Long enough for a shipper that restarts.
const SILENCE: Duration = Duration::from_secs(5);

/// Events that a shipper finishes in the order in which they came in, counted since the shipper started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flow {
    /// The thing that is counted, such as a sink or a log file: the same name at every poll.
    pub name: String,
    /// The amount that has come in.
    pub received: u64,
    /// The part of it that has arrived or was discarded.
    pub finished: u64,
}

/// The result of one poll of a shipper.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Look {
    /// Whether the shipper reports nothing left to send.
    pub is_empty: bool,
    /// Whether the shipper cannot accept more: its counters do not show how much it has not read yet.
    pub is_full: bool,
    /// Empty where the shipper's counters do not show the order in which it sends.
    pub flows: Vec<Flow>,
    /// Counters that never fall while the shipper runs, always the same ones in the same order.
    pub counters: Vec<u64>,
    pub reading: Reading,
}

/// The state after the polls so far.
#[derive(Debug)]
pub struct Polling {
    /// Longest time that the shipper needs to read and count the written lines.
    settle: Duration,
    /// Start of the present series of readable answers without a restart of the shipper.
    since: Option<Instant>,
    last: Vec<u64>,
    mark: Vec<Flow>,
}

impl Polling {
    pub fn new(settle: Duration) -> Self {
        Self { settle, since: None, last: Vec::new(), mark: Vec::new() }
    }

    /// Whether everything that was written before the flush has arrived, by a poll that began at `at`.
    pub fn has_arrived(&mut self, look: &Look, at: Instant) -> bool {
        if self.has_restarted(look) {
            self.forget();
        }
        self.last.clone_from(&look.counters);
        let since = *self.since.get_or_insert(at);
        if look.is_full && self.mark.is_empty() {
            self.since = Some(at);
            return false;
        }
        if at - since < self.settle {
            return false;
        }
        if look.is_empty {
            return true;
        }
        if self.mark.is_empty() {
            self.mark.clone_from(&look.flows);
        }
        !self.mark.is_empty()
            && self.mark.iter().all(|mark| {
                finished(look, &mark.name).is_some_and(|finished| finished >= mark.received)
            })
    }

    /// Forgets all earlier polls.
    pub fn forget(&mut self) {
        *self = Self::new(self.settle);
    }

    fn has_restarted(&self, look: &Look) -> bool {
        let falls = |(last, now): (&u64, &u64)| now < last;
        self.since.is_some() && self.last.len() != look.counters.len()
            || self.last.iter().zip(&look.counters).any(falls)
            || self.mark.iter().any(|mark| finished(look, &mark.name).is_none())
    }
}

fn finished(look: &Look, name: &str) -> Option<u64> {
    look.flows.iter().find(|flow| flow.name == name).map(|flow| flow.finished)
}

/// Adds up the rises of a counter, also across restarts of the process that keeps it.
#[derive(Debug, Default)]
pub struct Rise {
    last: Option<u64>,
    sum: u64,
}

impl Rise {
    /// Takes the counter's present value; returns its rise since the first one.
    pub fn to(&mut self, now: u64) -> u64 {
        let last = self.last.replace(now).unwrap_or(now);
        self.sum += now.checked_sub(last).unwrap_or(now);
        self.sum
    }
}

/// Polls until everything that was written before the flush has arrived.
///
/// # Errors
/// The last problem, once there was no readable answer for [`SILENCE`].
pub async fn until_arrived(
    progress: &Progress,
    settle: Duration,
    mut look: impl AsyncFnMut() -> Result<Look, String>,
) -> Result<FlushResult, String> {
    let mut heard = Instant::now();
    let mut polling = Polling::new(settle);
    loop {
        let at = Instant::now();
        match look().await {
            Ok(mut look) => {
                heard = Instant::now();
                let has_arrived = polling.has_arrived(&look, at);
                if has_arrived && !look.is_empty {
                    let newer = look.reading.unsent.replace(0);
                    progress.note(by_count(settle, newer));
                } else if look.is_full && polling.mark.is_empty() {
                    let full = "its buffer is full: it may not have read everything yet";
                    look.reading.detail.get_or_insert_with(|| full.to_owned());
                } else if look.is_empty && !has_arrived {
                    let settles =
                        format!("nothing is unsent; it gets {settle:?} to read the last lines");
                    look.reading.detail.get_or_insert(settles);
                }
                progress.say(look.reading);
                if has_arrived {
                    return Ok(FlushResult::Done);
                }
            }
            Err(problem) if heard.elapsed() >= SILENCE => return Err(problem),
            Err(problem) => {
                progress.complain(&problem);
                polling.forget();
            }
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

/// Describes the proof where newer events are still under way.
fn by_count(settle: Duration, newer: Option<u64>) -> String {
    let newer = newer.map_or_else(|| "newer events".to_owned(), |newer| format!("{newer} newer"));
    format!("all events that it had received after {settle:?} have arrived; {newer} under way")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::common::state::StateHandle;

    /// A poll of one flow.
    fn look(received: u64, finished: u64) -> Result<Look, String> {
        let unsent = received - finished;
        Ok(Look {
            is_empty: unsent == 0,
            flows: vec![Flow { name: "x".into(), received, finished }],
            counters: vec![received, finished],
            reading: Reading { unsent: Some(unsent), ..Reading::default() },
            ..Look::default()
        })
    }

    fn full(received: u64, finished: u64) -> Result<Look, String> {
        Ok(Look { is_full: true, ..look(received, finished).unwrap() })
    }

    /// A poll of a shipper that reports only the unsent events.
    fn gauge(unsent: u64) -> Result<Look, String> {
        Ok(Look { is_empty: unsent == 0, ..Look::default() })
    }

    /// Plays polls, repeating the last one for ever; returns the outcome and the number of polls.
    async fn played(
        settle: u64,
        looks: &[Result<Look, String>],
    ) -> (Result<FlushResult, String>, usize) {
        let mut asked = 0;
        let progress = Progress::begin(&StateHandle::default(), "x");
        let outcome = until_arrived(&progress, Duration::from_millis(settle), async || {
            asked += 1;
            looks[(asked - 1).min(looks.len() - 1)].clone()
        });
        let outcome = tokio::time::timeout(Duration::from_secs(60), outcome).await;
        (outcome.unwrap_or(Ok(FlushResult::TimedOut)), asked)
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_settling_time_the_first_empty_answer_is_enough() {
        assert_eq!(played(0, &[gauge(2), gauge(0)]).await, (Ok(FlushResult::Done), 2));
        assert_eq!(played(0, &[gauge(2)]).await.0, Ok(FlushResult::TimedOut));
    }

    #[tokio::test(start_paused = true)]
    async fn an_empty_shipper_is_believed_after_the_settling_time_although_its_counters_move() {
        assert_eq!(played(750, &[look(1, 1)]).await, (Ok(FlushResult::Done), 4));
        let busy: Vec<_> = (1..9).map(|n| look(n, n)).collect();
        assert_eq!(played(750, &busy).await, (Ok(FlushResult::Done), 4));
    }

    /// 10 events had come in after the settling time, and at every poll some were unsent.
    #[tokio::test(start_paused = true)]
    async fn a_busy_shipper_is_done_once_it_has_acknowledged_the_mark() {
        let busy = [look(7, 1), look(8, 2), look(9, 3), look(10, 4), look(50, 9), look(90, 10)];
        assert_eq!(played(750, &busy).await, (Ok(FlushResult::Done), 6));
        assert_eq!(played(750, &busy[..5]).await.0, Ok(FlushResult::TimedOut));
    }

    #[tokio::test(start_paused = true)]
    async fn every_flow_must_have_finished_its_mark() {
        let two = |slow, fast: u64| {
            let mut two = look(9, slow).unwrap();
            two.flows.push(Flow { name: "fast".into(), received: fast + 1, finished: fast });
            Ok(two)
        };
        let looks = [two(2, 10), two(2, 500), two(9, 501)];
        assert_eq!(played(0, &looks).await, (Ok(FlushResult::Done), 3));
        assert_eq!(played(0, &looks[..2]).await.0, Ok(FlushResult::TimedOut));
    }

    #[tokio::test(start_paused = true)]
    async fn a_counter_that_falls_starts_the_settling_time_again() {
        // The shipper restarted before it sent its last events, and has not read them again yet.
        let restarts = [look(9, 5), look(9, 6), look(9, 7), look(0, 0), look(0, 0)];
        assert_eq!(played(750, &restarts).await, (Ok(FlushResult::Done), 7));
        let after_the_mark = [look(9, 5), look(2, 1), look(9, 2), look(30, 9)];
        assert_eq!(played(250, &after_the_mark).await, (Ok(FlushResult::Done), 4));
        let mut gone = look(9, 5).unwrap();
        gone.flows.clear();
        let looks = [look(9, 1), look(9, 1), Ok(gone), look(30, 12)];
        assert_eq!(played(250, &looks).await.0, Ok(FlushResult::TimedOut));
    }

    #[tokio::test(start_paused = true)]
    async fn an_unreadable_answer_starts_the_settling_time_again() {
        let hiccup = [look(1, 1), look(1, 1), Err("gone".into()), look(1, 1)];
        assert_eq!(played(750, &hiccup).await, (Ok(FlushResult::Done), 7));
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_shipper_proves_nothing_about_what_it_has_not_read() {
        let backlog = [full(10, 1), full(20, 11), look(21, 20), look(22, 20), look(22, 22)];
        assert_eq!(played(500, &backlog).await, (Ok(FlushResult::Done), 5));
        let always = [full(10, 1), full(20, 11), full(30, 21), full(40, 31)];
        assert_eq!(played(500, &always).await.0, Ok(FlushResult::TimedOut));
        // The mark was taken before the shipper was full.
        let later = [look(5, 1), look(6, 2), full(40, 6)];
        assert_eq!(played(250, &later).await, (Ok(FlushResult::Done), 3));
    }

    #[test]
    fn a_restart_does_not_hide_what_was_given_up() {
        let mut lost = Rise::default();
        assert_eq!([7, 7, 9, 1, 4].map(|count| lost.to(count)), [0, 0, 2, 3, 6]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_never_answers_is_given_up() {
        let begun = Instant::now();
        let (outcome, _) = played(0, &[Err("connection refused".into())]).await;
        assert_eq!(outcome, Err("connection refused".into()));
        assert!((SILENCE..SILENCE + INTERVAL * 2).contains(&begun.elapsed()));
    }
}
