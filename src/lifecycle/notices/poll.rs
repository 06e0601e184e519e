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
use crate::common::state::StateHandle;
use crate::config::{Rebalance, Settings};

/// Time limit of a poll. A later answer is worth less than the next one.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// A clock that is off by no more than this counts as right: the `Date` header has whole seconds, and an answer takes
/// some time.
const CLOCK_TOLERANCE: time::Duration = time::Duration::seconds(5);
/// Number of different remarks that are logged, once each: metadata that caused ever new remarks would fill the log.
const MOST_REMARKS: usize = 100;

/// Polls for notices, and never returns. `first_look` receives the target state after the first poll: an instance that
/// must already leave, or wait in a warm pool, must not start to join.
pub async fn watch_metadata(
    imds: Imds,
    settings: Settings,
    notices: Notices,
    state: StateHandle,
    first_look: tokio::sync::oneshot::Sender<Option<TargetState>>,
) {
    let mut first_look = Some(first_look);
    let mut ticks = tokio::time::interval(settings.notices.interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut is_silent = false;
    let mut said = BTreeSet::new();
    let mut debouncer = NoticeDebouncer::default();
    loop {
        ticks.tick().await;
        let seen = match look(&imds, &settings).await {
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

async fn look(imds: &Imds, settings: &Settings) -> Result<Seen, ImdsError> {
    let deadline = Instant::now() + ANSWER_WITHIN;
    let spot = async {
        if settings.notices.spot { imds.fetch_spot_action(deadline).await } else { Ok(None) }
    };
    let maintenance = async {
        if settings.notices.maintenance {
            imds.fetch_scheduled_maintenance(deadline).await
        } else {
            Ok(Scheduled::default())
        }
    };
    let rebalance = async {
        match settings.notices.rebalance {
            Rebalance::Ignore => Ok(None),
            Rebalance::Pause | Rebalance::Leave => imds.fetch_rebalance(deadline).await,
        }
    };
    let target = imds.fetch_target_lifecycle_state(deadline);
    // One after the other, so that one kept connection serves them all. A notice that cannot be
    // parsed must not hide the others.
    let (target, spot, maintenance) = (target.await, spot.await, maintenance.await);
    let rebalance = rebalance.await;
    if let (Err(_), Err(_)) = (&target, &spot) {
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
