//! Polls the metadata, with one cached token and one kept connection, every two seconds by default.

use std::collections::BTreeSet;
use std::time::Duration;

use time::OffsetDateTime;
use tokio::time::{Instant, MissedTickBehavior};

use super::debouncer::NoticeDebouncer;
use super::{Notices, Seen};
use crate::clients::imds::{Imds, ImdsError, Scheduled, TargetState};
use crate::clients::systemd;
use crate::common::errors::chain;
use crate::common::instance::Market;
use crate::common::state::StateHandle;
use crate::config::{Rebalance, Settings};

/// Time limit of a poll. A later answer is worth less than the next one.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// Time between two polls for maintenance, which is announced days ahead, and for a recommendation to rebalance, while
/// none is in force.
const RARELY: Duration = Duration::from_secs(10);
/// A clock that is off by no more than this counts as right: the `Date` header has whole seconds, and an answer takes
/// some time.
const CLOCK_TOLERANCE: time::Duration = time::Duration::seconds(5);
/// Number of different remarks that are logged, once each: metadata that caused ever new remarks would fill the log.
const MOST_REMARKS: usize = 100;

/// Polls for notices, and never returns. `first_look` receives the target state after the first poll: an instance that
/// must already leave, or wait in a warm pool, must not start to join.
pub async fn watch_metadata(
    imds: Imds,
    mut settings: Settings,
    market: Market,
    notices: Notices,
    state: StateHandle,
    first_look: tokio::sync::oneshot::Sender<Option<TargetState>>,
) {
    // EC2 interrupts no other instance.
    settings.notices.spot &= market == Market::Spot;
    let mut first_look = Some(first_look);
    let mut ticks = tokio::time::interval(settings.notices.interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut is_silent = false;
    let mut said = BTreeSet::new();
    let mut debouncer = NoticeDebouncer::default();
    let mut calm_since = None;
    loop {
        ticks.tick().await;
        let calm_for = calm_since.map(|since: Instant| since.elapsed());
        let is_brief = calm_for.is_some_and(|calm_for| calm_for < RARELY);
        let seen = match look(&imds, &settings, is_brief).await {
            Ok(mut seen) => {
                if is_silent {
                    tracing::info!("the metadata service answers again");
                }
                is_silent = false;
                say_once(remarks(&mut seen), &mut said);
                seen
            }
            Err(error) => {
                // Logged once: a service that fails for an hour is one event, not 1,800.
                if !is_silent {
                    tracing::warn!(
                        "cannot poll the instance metadata for notices: {}",
                        chain(&error)
                    );
                }
                is_silent = true;
                Seen::default()
            }
        };
        let seen = Seen { is_member: state.now().membership.is_some(), ..seen };
        let told = debouncer.see(&seen, &settings, OffsetDateTime::now_utc());
        if let Some(departure) = told.notice {
            notices.give(departure);
        }
        if told.is_clear {
            notices.withdraw();
        }
        // What was not asked must not take back what is in force.
        let is_calm = notices.now().is_none() && told.scheduling_hold.is_none();
        if !is_calm || !is_brief {
            calm_since = (is_calm && seen.is_quiet()).then(Instant::now);
        }
        state.hold_scheduling(told.scheduling_hold);
        // Without an answer nothing changes.
        if let Some(target) = &seen.target {
            state.set_detached(*target == TargetState::Detached);
        }
        // Also after an error: a metadata service that fails must not keep a node from joining.
        first_look.take().map(|told| told.send(seen.target));
    }
}

/// Removes old notices from a poll. Returns the remarks on them, and on entries that cannot be read.
fn remarks(seen: &mut Seen) -> Vec<String> {
    let now = OffsetDateTime::now_utc();
    // If the uptime cannot be read, no notice counts as one of an earlier start.
    let booted_at = systemd::uptime().ok().map(|uptime| now - uptime);
    let old = seen.take_old(booted_at, now);
    let old = old.into_iter().map(|what| format!("ignoring a notice that is over: {what}"));
    let unreadable = seen.maintenance.unreadable.iter().map(|entry| {
        let id = entry.event_id.as_deref().unwrap_or("without an id");
        let problem = &entry.problem;
        format!(
            "cannot tell whether scheduled maintenance {id} stops this instance: its entry in the metadata cannot be read ({problem})"
        )
    });
    old.chain(unreadable).collect()
}

fn say_once(remarks: Vec<String>, said: &mut BTreeSet<String>) {
    for remark in remarks {
        if said.len() < MOST_REMARKS && said.insert(remark.clone()) {
            tracing::warn!("{remark}");
        }
    }
}

/// Polls once: everything, or only what comes without a long warning.
async fn look(imds: &Imds, settings: &Settings, is_brief: bool) -> Result<Seen, ImdsError> {
    let deadline = Instant::now() + ANSWER_WITHIN;
    let spot = async {
        if settings.notices.spot { imds.fetch_spot_action(deadline).await } else { Ok(None) }
    };
    let maintenance = async {
        if settings.notices.maintenance && !is_brief {
            imds.fetch_scheduled_maintenance(deadline).await
        } else {
            Ok(Scheduled::default())
        }
    };
    let rebalance = async {
        match settings.notices.rebalance {
            Rebalance::Ignore => Ok(None),
            _ if is_brief => Ok(None),
            Rebalance::Pause | Rebalance::Leave => imds.fetch_rebalance(deadline).await,
        }
    };
    let target = imds.fetch_target_lifecycle_state(deadline);
    // One after the other, so that one kept connection serves them all. A notice that cannot be
    // parsed must not hide the others.
    let (target, spot, maintenance) = (target.await, spot.await, maintenance.await);
    let rebalance = rebalance.await;
    if target.is_err() && (spot.is_err() || !settings.notices.spot) {
        return target.map(|_| Seen::default());
    }
    let shows_scheduling_hold = target.is_ok() && rebalance.is_ok();
    let mut seen = Seen {
        is_member: false,
        is_whole: shows_scheduling_hold && spot.is_ok() && maintenance.is_ok(),
        shows_scheduling_hold,
        target: heard(target),
        spot: heard(spot),
        maintenance: heard(maintenance),
        rebalance: heard(rebalance),
    };
    let offset = imds.clock_offset().filter(|offset| offset.abs() > CLOCK_TOLERANCE);
    move_times(&mut seen, offset.unwrap_or_default());
    Ok(seen)
}

/// Converts the times in the metadata, which are by the service's clock, to this host's clock. That one may not be set
/// yet: a current notice must not look like one of an hour ago.
fn move_times(seen: &mut Seen, offset: time::Duration) {
    let spot = seen.spot.iter_mut().map(|action| &mut action.time);
    let maintenance = seen.maintenance.events.iter_mut().map(|event| &mut event.not_before);
    spot.chain(maintenance).chain(seen.rebalance.iter_mut()).for_each(|time| *time += offset);
}

fn heard<T: Default>(answer: Result<T, ImdsError>) -> T {
    answer.unwrap_or_else(|error| {
        tracing::debug!("{}", chain(&error));
        T::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clients::imds::SpotAction;
    use crate::clients::imds::stub::Stub;
    use crate::common::instance::{Departure, Reason};

    #[test]
    fn a_notice_of_now_is_not_old_on_a_clock_that_is_an_hour_ahead() {
        let now = OffsetDateTime::now_utc();
        let time = now + Duration::from_secs(120);
        let spot = SpotAction { action: "terminate".into(), time: time - time::Duration::HOUR };
        let seen = Seen { spot: Some(spot), ..Seen::default() };
        let (mut moved, mut not_moved) = (seen.clone(), seen);
        move_times(&mut moved, time::Duration::HOUR);
        assert_eq!(moved.spot.as_ref().map(|it| it.time), Some(time));
        assert!(moved.take_old(None, now).is_empty());
        assert_eq!(not_moved.take_old(None, now).len(), 1);
    }

    /// Number of polls (of the target state), and of those for maintenance and for a recommendation.
    fn asked(stub: &Stub) -> [u64; 3] {
        let answers = stub.answers();
        ["autoscaling/target-lifecycle-state", "events/maintenance/scheduled", REBALANCE]
            .map(|path| answers.asked.get(&format!("/latest/meta-data/{path}")).copied())
            .map(Option::unwrap_or_default)
    }

    const REBALANCE: &str = "events/recommendations/rebalance";

    #[tokio::test]
    async fn what_is_announced_long_before_is_polled_rarely_until_something_is_in_force() {
        let stub = Stub::start().await;
        let mut settings = Settings::default();
        settings.notices.interval = Duration::from_millis(2);
        settings.notices.rebalance = Rebalance::Pause;
        let (notices, state) = (Notices::default(), StateHandle::default());
        let (first_look, _first_looked) = tokio::sync::oneshot::channel();
        let (to_watch, settings) = (notices.clone(), settings);
        let market = Market::OnDemand;
        let watch =
            watch_metadata(stub.imds(), settings, market, to_watch, state.clone(), first_look);
        let watch = tokio::spawn(watch);
        let until = async |is: &dyn Fn([u64; 3]) -> bool| {
            while !is(asked(&stub)) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        until(&|[polls, ..]| polls >= 20).await;
        assert_eq!(asked(&stub)[1..], [1, 1], "nothing is in force");
        let departure = Departure {
            reason: Reason::Spot,
            noticed_at: OffsetDateTime::now_utc(),
            deadline: OffsetDateTime::now_utc(),
        };
        notices.give(departure);
        until(&|[_, maintenance, rebalance]| maintenance >= 10 && rebalance >= 10).await;
        assert!(notices.0.borrow().is_withdrawn, "complete polls have not shown it");
        watch.abort();
    }

    #[tokio::test]
    async fn metadata_that_answer_nothing_are_silent_on_either_market() {
        let stub = Stub::start().await;
        stub.answers().next_puts = std::iter::repeat_n(403, 100).collect();
        let mut settings = Settings::default();
        for asks_for_spot in [true, false] {
            settings.notices.spot = asks_for_spot;
            assert!(look(&stub.imds(), &settings, false).await.is_err(), "{asks_for_spot}");
        }
    }

    #[test]
    fn a_remark_is_made_once() {
        let mut said = BTreeSet::new();
        say_once(vec!["one".into(), "one".into(), "two".into()], &mut said);
        say_once(vec!["one".into()], &mut said);
        assert_eq!(said.len(), 2);
        say_once((0..1000).map(|n| n.to_string()).collect(), &mut said);
        assert_eq!(said.len(), MOST_REMARKS);
    }
}
