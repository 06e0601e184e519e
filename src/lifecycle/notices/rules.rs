//! Decides by the metadata whether a node must leave, and by when, or must only get no tasks. Pure.

use std::time::Duration;

use time::OffsetDateTime;

use crate::clients::imds::{
    Maintenance, MaintenanceCode, MaintenanceState, Scheduled, SpotAction, TargetState,
};
use crate::common::instance::{Departure, Reason, SchedulingHold};
use crate::config::{Rebalance, Settings};

/// EC2 reclaims a spot instance within minutes of the time that the notice names. An instance that still runs this long
/// after it has outlived the notice.
const SPOT_OVERDUE: Duration = Duration::from_secs(600);

/// One poll of the metadata.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    pub target: Option<TargetState>,
    pub spot: Option<SpotAction>,
    pub maintenance: Scheduled,
    /// Time at which EC2 recommended to replace the instance.
    pub rebalance: Option<OffsetDateTime>,
    /// This node is in the swarm: an instance that waits in a warm pool is not.
    pub is_member: bool,
    /// Every request was answered: a notice that is missing here does not exist, except for maintenance entries that
    /// cannot be read.
    pub is_whole: bool,
    /// The two requests that decide whether the node gets tasks were answered: target state and recommendation.
    pub shows_scheduling_hold: bool,
}

impl Seen {
    /// Removes the notices that this instance has outlived: they belong to an earlier start of the machine, before
    /// `booted_at` if that is known, or EC2 did not act on them. A boot must not end because of them. Returns
    /// descriptions of the removed notices.
    pub fn take_old(
        &mut self,
        booted_at: Option<OffsetDateTime>,
        now: OffsetDateTime,
    ) -> Vec<String> {
        let is_earlier = |time| booted_at.is_some_and(|booted_at| time < booted_at);
        let is_overdue = |time| now - time > SPOT_OVERDUE;
        let spot = self.spot.take_if(|it| is_earlier(it.time) || is_overdue(it.time));
        let rebalance = self.rebalance.take_if(|time| is_earlier(*time));
        let is_old = |event: &Maintenance| ends_the_instance(event) && is_earlier(event.not_before);
        let events = std::mem::take(&mut self.maintenance.events);
        let (old, current) = events.into_iter().partition::<Vec<_>, _>(is_old);
        self.maintenance.events = current;
        let spot = spot.map(|it| format!("the spot notice for {}", it.time));
        let rebalance = rebalance.map(|time| format!("the rebalance recommendation of {time}"));
        let maintenance = old
            .into_iter()
            .map(|event| format!("{} of {} ({})", event.code, event.not_before, event.event_id));
        spot.into_iter().chain(rebalance).chain(maintenance).collect()
    }

    /// Whether every request was answered, and none showed anything but a target state.
    pub fn is_quiet(&self) -> bool {
        let Scheduled { events, unreadable } = &self.maintenance;
        let is_nothing = self.spot.is_none() && self.rebalance.is_none();
        self.is_whole && is_nothing && events.is_empty() && unreadable.is_empty()
    }
}

/// Returns the maintenance for which the node leaves.
pub(super) fn due<'a>(
    seen: &'a Seen,
    settings: &Settings,
    now: OffsetDateTime,
) -> impl Iterator<Item = &'a Maintenance> {
    let is_watched = settings.notices.maintenance;
    // Maintenance may be announced two weeks ahead: the node works until it needs the time to leave.
    let until = now + settings.notices.maintenance_lead;
    let events = seen.maintenance.events.iter();
    events.filter(move |event| is_watched && ends_the_instance(event) && event.not_before <= until)
}

/// Returns the notice in a poll: the one with the nearest deadline, if there are several.
#[must_use]
pub fn notice(seen: &Seen, settings: &Settings, now: OffsetDateTime) -> Option<Departure> {
    let longest = settings.leave.deadline;
    let lifecycle = seen.target.as_ref().and_then(|target| {
        let reason = if target.is_termination() {
            Reason::Lifecycle
        } else if target.is_pooled() && seen.is_member {
            Reason::Pool
        } else {
            return None;
        };
        Some(Departure { reason, noticed_at: now, deadline: now + longest })
    });
    let spot = seen.spot.as_ref().filter(|_| settings.notices.spot).map(|action| Departure {
        reason: Reason::Spot,
        noticed_at: now,
        deadline: action.time.min(now + longest),
    });
    let maintenance = due(seen, settings, now)
        .map(|event| Departure {
            reason: Reason::Maintenance,
            noticed_at: now,
            // From its date on, the maintenance may come at any moment, or hours later.
            deadline: event
                .not_before
                .clamp(now + settings.leave.shutdown_deadline.min(longest), now + longest),
        })
        .min_by_key(|departure| departure.deadline);
    let is_to_be_replaced =
        seen.rebalance.is_some() && settings.notices.rebalance == Rebalance::Leave;
    let rebalance = is_to_be_replaced.then(|| Departure {
        reason: Reason::Rebalance,
        noticed_at: now,
        deadline: now + longest,
    });
    let all = [lifecycle, spot, maintenance, rebalance];
    all.into_iter().flatten().min_by_key(|departure| departure.deadline)
}

/// Returns the reason why a node that stays must get no tasks: the strongest, if there are several.
#[must_use]
pub fn scheduling_hold(seen: &Seen, settings: &Settings) -> Option<SchedulingHold> {
    if seen.target == Some(TargetState::Standby) {
        return Some(SchedulingHold::Standby);
    }
    let is_paused = seen.rebalance.is_some() && settings.notices.rebalance == Rebalance::Pause;
    is_paused.then_some(SchedulingHold::Rebalance)
}

/// Whether the maintenance ends the instance. Reboots and network maintenance leave it where it is; a stop or a
/// retirement does not.
fn ends_the_instance(event: &Maintenance) -> bool {
    event.state == MaintenanceState::Active
        && matches!(event.code, MaintenanceCode::InstanceStop | MaintenanceCode::InstanceRetirement)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use time::Duration;

    use super::*;

    const NOW: OffsetDateTime = OffsetDateTime::UNIX_EPOCH;

    fn scheduled(events: Vec<Maintenance>) -> Scheduled {
        Scheduled { events, unreadable: Vec::new() }
    }

    fn event(code: MaintenanceCode, state: MaintenanceState, minutes: i64) -> Maintenance {
        Maintenance {
            event_id: "instance-event-1".into(),
            code,
            state,
            description: String::new(),
            not_before: NOW + Duration::minutes(minutes),
            not_after: None,
        }
    }

    fn maintenance(event: Maintenance) -> Seen {
        Seen { maintenance: scheduled(vec![event]), ..Seen::default() }
    }

    /// Returns whether a poll has a notice left on a machine that was started `minutes` ago, and the number of removed
    /// notices.
    fn current(mut seen: Seen, minutes: i64) -> (bool, usize) {
        let old = seen.take_old(Some(NOW - Duration::minutes(minutes)), NOW);
        (notice(&seen, &Settings::default(), NOW).is_some(), old.len())
    }

    #[test]
    fn maintenance_of_before_this_start_of_the_machine_is_no_notice() {
        use MaintenanceCode::{InstanceStop, SystemReboot};
        use MaintenanceState::{Active, Completed};
        let at = |minutes| maintenance(event(InstanceStop, Active, minutes));
        assert_eq!(current(at(-90), 60), (false, 1), "the machine was stopped and started since");
        assert_eq!(current(at(-60), 90), (true, 0), "it may still come at any moment");
        assert_eq!(current(at(20), 1), (true, 0));
        let mut unknown = at(-90);
        assert!(unknown.take_old(None, NOW).is_empty(), "its start is not known");
        let others = [event(SystemReboot, Active, -90), event(InstanceStop, Completed, -90)];
        let mut seen = Seen { maintenance: scheduled(others.to_vec()), ..Seen::default() };
        assert!(seen.take_old(Some(NOW), NOW).is_empty(), "these never were notices");
        assert_eq!(seen.maintenance.events, others);
    }

    #[test]
    fn a_spot_notice_that_ec2_has_not_acted_on_is_no_notice_any_more() {
        let at = |minutes| {
            let time = NOW + Duration::minutes(minutes);
            let spot = SpotAction { action: "terminate".into(), time };
            Seen { spot: Some(spot), ..Seen::default() }
        };
        assert_eq!(current(at(-60), 24 * 60), (false, 1), "an hour in the past");
        assert_eq!(current(at(-5), 3), (false, 1), "the instance was stopped and started since");
        assert_eq!(current(at(-5), 24 * 60), (true, 0), "it may only be late");
        assert_eq!(current(at(2), 1), (true, 0));
        let last = time::macros::datetime!(9999-12-31 23:59:59 UTC);
        let spot = SpotAction { action: "terminate".into(), time: last };
        let seen = Seen { spot: Some(spot), ..Seen::default() };
        assert_eq!(current(seen, 1), (true, 0), "no time can be added to it");
    }

    #[test]
    fn a_recommendation_of_before_this_start_of_the_machine_is_old() {
        let mut settings = Settings::default();
        settings.notices.rebalance = Rebalance::Leave;
        let mut seen = Seen { rebalance: Some(NOW - Duration::HOUR), ..Seen::default() };
        assert!(seen.take_old(Some(NOW - Duration::hours(2)), NOW).is_empty());
        assert!(notice(&seen, &settings, NOW).is_some());
        assert_eq!(seen.take_old(Some(NOW - Duration::MINUTE), NOW).len(), 1);
        assert!(notice(&seen, &settings, NOW).is_none());
    }

    #[test]
    fn only_maintenance_that_ends_the_instance_is_a_notice_and_not_before_its_time() {
        use MaintenanceCode::{InstanceRetirement, InstanceStop, SystemReboot};
        use MaintenanceState::{Active, Canceled, Completed};
        let settings = Settings::default();
        let is_notice = |seen: &Seen| notice(seen, &settings, NOW).is_some();
        assert!(is_notice(&maintenance(event(InstanceRetirement, Active, 29))));
        let late = notice(&maintenance(event(InstanceStop, Active, -90)), &settings, NOW);
        let time = settings.leave.shutdown_deadline;
        assert_eq!(late.map(|it| it.deadline), Some(NOW + time), "its date is over, and it stands");
        assert!(is_notice(&maintenance(event(InstanceStop, Active, 30))));
        assert!(
            !is_notice(&maintenance(event(InstanceStop, Active, 31))),
            "the time is not needed yet"
        );
        assert!(!is_notice(&maintenance(event(SystemReboot, Active, 1))));
        assert!(!is_notice(&maintenance(event(InstanceStop, Canceled, 1))));
        assert!(!is_notice(&maintenance(event(InstanceStop, Completed, 1))));
    }

    #[test]
    fn the_node_begins_to_leave_so_long_ahead_and_takes_no_longer_than_any() {
        let mut settings = Settings::default();
        settings.notices.maintenance_lead = std::time::Duration::from_secs(2 * 3600);
        let of = |minutes| {
            let stop = event(MaintenanceCode::InstanceStop, MaintenanceState::Active, minutes);
            notice(&maintenance(stop), &settings, NOW).map(|departure| departure.deadline)
        };
        assert_eq!(of(121), None);
        assert_eq!(of(120), Some(NOW + settings.leave.deadline));
        assert_eq!(of(20), Some(NOW + Duration::minutes(20)));
    }

    #[test]
    fn a_recommendation_is_what_the_operator_makes_of_it() {
        let seen = Seen { rebalance: Some(NOW), ..Seen::default() };
        let of = |rebalance| {
            let mut settings = Settings::default();
            settings.notices.rebalance = rebalance;
            let reason = notice(&seen, &settings, NOW).map(|departure| departure.reason);
            (reason, scheduling_hold(&seen, &settings))
        };
        assert_eq!(of(Rebalance::Ignore), (None, None));
        assert_eq!(of(Rebalance::Pause), (None, Some(SchedulingHold::Rebalance)));
        assert_eq!(of(Rebalance::Leave), (Some(Reason::Rebalance), None));
        let both = Seen { target: Some(TargetState::Standby), ..seen.clone() };
        let mut settings = Settings::default();
        settings.notices.rebalance = Rebalance::Pause;
        assert_eq!(scheduling_hold(&both, &settings), Some(SchedulingHold::Standby));
    }

    #[test]
    fn only_a_target_that_is_an_end_is_a_notice() {
        use TargetState::{
            Detached, InService, Standby, Terminated, WarmedRunning, WarmedStopped,
            WarmedTerminated,
        };
        let is_notice = |target: TargetState| {
            let seen = Seen { target: Some(target), ..Seen::default() };
            notice(&seen, &Settings::default(), NOW).is_some()
        };
        assert!([Terminated, WarmedTerminated].into_iter().all(is_notice));
        let others = [InService, Standby, Detached, WarmedStopped, WarmedRunning];
        assert!(!others.into_iter().any(is_notice));
        let of_a_member = |target: TargetState| {
            let seen = Seen { target: Some(target), is_member: true, ..Seen::default() };
            notice(&seen, &Settings::default(), NOW).map(|departure| departure.reason)
        };
        assert_eq!(of_a_member(WarmedStopped), Some(Reason::Pool), "it returns to the pool");
        assert_eq!(of_a_member(WarmedTerminated), Some(Reason::Lifecycle));
        assert_eq!(of_a_member(Standby), None);
    }

    proptest! {
        /// For any combination, the deadline is the nearest of all, and never beyond the longest time of a departure.
        #[test]
        fn the_machine_that_goes_first_sets_the_deadline(
            is_terminated in any::<bool>(),
            spot in prop::option::of(0i64..10_000),
            retired in prop::option::of(0i64..10_000),
            watches_spot in any::<bool>(),
        ) {
            let mut settings = Settings::default();
            settings.notices.spot = watches_spot;
            let seen = Seen {
                target: is_terminated.then_some(TargetState::Terminated),
                spot: spot.map(|seconds| SpotAction {
                    action: "terminate".into(),
                    time: NOW + Duration::seconds(seconds),
                }),
                maintenance: scheduled(retired
                    .map(|minutes| {
                        event(MaintenanceCode::InstanceRetirement, MaintenanceState::Active, minutes)
                    })
                    .into_iter()
                    .collect()),
                ..Seen::default()
            };
            let longest = NOW + settings.leave.deadline;
            let due: Vec<_> = [
                is_terminated.then_some(longest),
                spot.filter(|_| watches_spot).map(|it| longest.min(NOW + Duration::seconds(it))),
                retired
                    .map(|it| NOW + Duration::minutes(it))
                    .filter(|it| *it <= longest)
                    .map(|it| it.max(NOW + settings.leave.shutdown_deadline)),
            ]
            .into_iter()
            .flatten()
            .collect();
            let found = notice(&seen, &settings, NOW).map(|departure| departure.deadline);
            prop_assert_eq!(found, due.into_iter().min());
        }
    }
}
