//! Which of the things that the metadata tells make a node leave, and by when, and which only keep tasks
//! away from it. Pure.

use time::OffsetDateTime;

use crate::config::{Rebalance, Settings};
use crate::imds::{Maintenance, MaintenanceCode, MaintenanceState, SpotAction, TargetState};
use crate::instance::{Departure, Quiet, Reason};

/// One look at the metadata.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    pub target: Option<TargetState>,
    pub spot: Option<SpotAction>,
    pub maintenance: Vec<Maintenance>,
    /// When EC2 recommended to replace the instance.
    pub rebalance: Option<OffsetDateTime>,
    /// This node is in the swarm: an instance that waits in a warm pool is not.
    pub is_member: bool,
    /// Every question was answered: what is not in here is not there.
    pub is_whole: bool,
}

/// The notice in what was seen: the one whose machine goes first, if there are several.
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
    let spot = seen.spot.as_ref().filter(|_| settings.watch.spot).map(|action| Departure {
        reason: Reason::Spot,
        noticed_at: now,
        deadline: action.time.min(now + longest),
    });
    let maintenance = seen
        .maintenance
        .iter()
        .filter(|event| settings.watch.maintenance && ends_the_instance(event))
        // It may be announced two weeks ahead: the node works until it needs the time.
        .filter(|event| event.not_before <= now + settings.watch.maintenance_lead)
        .map(|event| Departure {
            reason: Reason::Maintenance,
            noticed_at: now,
            // From its date on it may come at any moment, or hours later.
            deadline: event
                .not_before
                .clamp(now + settings.leave.shutdown_deadline.min(longest), now + longest),
        })
        .min_by_key(|departure| departure.deadline);
    let is_to_be_replaced =
        seen.rebalance.is_some() && settings.watch.rebalance == Rebalance::Leave;
    let rebalance = is_to_be_replaced.then(|| Departure {
        reason: Reason::Rebalance,
        noticed_at: now,
        deadline: now + longest,
    });
    let all = [lifecycle, spot, maintenance, rebalance];
    all.into_iter().flatten().min_by_key(|departure| departure.deadline)
}

/// Why a node that stays is to get no tasks: what keeps most away, if there are several.
#[must_use]
pub fn quiet(seen: &Seen, settings: &Settings) -> Option<Quiet> {
    if seen.target == Some(TargetState::Standby) {
        return Some(Quiet::Standby);
    }
    let is_paused = seen.rebalance.is_some() && settings.watch.rebalance == Rebalance::Pause;
    is_paused.then_some(Quiet::Rebalance)
}

/// Reboots and network maintenance leave the instance where it is; a stop or a retirement does
/// not.
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
        Seen { maintenance: vec![event], ..Seen::default() }
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
        settings.watch.maintenance_lead = std::time::Duration::from_secs(2 * 3600);
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
            settings.watch.rebalance = rebalance;
            let reason = notice(&seen, &settings, NOW).map(|departure| departure.reason);
            (reason, quiet(&seen, &settings))
        };
        assert_eq!(of(Rebalance::Ignore), (None, None));
        assert_eq!(of(Rebalance::Pause), (None, Some(Quiet::Rebalance)));
        assert_eq!(of(Rebalance::Leave), (Some(Reason::Rebalance), None));
        let both = Seen { target: Some(TargetState::Standby), ..seen.clone() };
        let mut settings = Settings::default();
        settings.watch.rebalance = Rebalance::Pause;
        assert_eq!(quiet(&both, &settings), Some(Quiet::Standby));
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
        assert_eq!(of_a_member(WarmedStopped), Some(Reason::Pool), "it goes back to the pool");
        assert_eq!(of_a_member(WarmedTerminated), Some(Reason::Lifecycle));
        assert_eq!(of_a_member(Standby), None);
    }

    proptest! {
        /// Whatever is seen together: the deadline is the nearest of all, and never beyond what
        /// any departure may take.
        #[test]
        fn the_machine_that_goes_first_sets_the_deadline(
            is_terminated in any::<bool>(),
            spot in prop::option::of(0i64..10_000),
            retired in prop::option::of(0i64..10_000),
            watches_spot in any::<bool>(),
        ) {
            let mut settings = Settings::default();
            settings.watch.spot = watches_spot;
            let seen = Seen {
                target: is_terminated.then_some(TargetState::Terminated),
                spot: spot.map(|seconds| SpotAction {
                    action: "terminate".into(),
                    time: NOW + Duration::seconds(seconds),
                }),
                maintenance: retired
                    .map(|minutes| {
                        event(MaintenanceCode::InstanceRetirement, MaintenanceState::Active, minutes)
                    })
                    .into_iter()
                    .collect(),
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
