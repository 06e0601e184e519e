//! Which of the things that the metadata tells make a node leave, and by when. Pure.

use time::OffsetDateTime;

use crate::config::Settings;
use crate::imds::{Maintenance, MaintenanceCode, MaintenanceState, SpotAction, TargetState};
use crate::instance::{Departure, Reason};

/// One look at the metadata.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    pub target: Option<TargetState>,
    pub spot: Option<SpotAction>,
    pub maintenance: Vec<Maintenance>,
}

/// The notice in what was seen: the one whose machine goes first, if there are several.
#[must_use]
pub fn notice(seen: &Seen, settings: &Settings, now: OffsetDateTime) -> Option<Departure> {
    let longest = settings.leave.deadline;
    let lifecycle = (seen.target == Some(TargetState::Terminated)).then(|| Departure {
        reason: Reason::Lifecycle,
        noticed_at: now,
        deadline: now + longest,
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
        .map(|event| Departure {
            reason: Reason::Maintenance,
            noticed_at: now,
            deadline: event.not_before,
        })
        // It may be announced two weeks ahead: the node works until it needs the time.
        .filter(|departure| departure.deadline <= now + longest)
        .min_by_key(|departure| departure.deadline);
    [lifecycle, spot, maintenance].into_iter().flatten().min_by_key(|departure| departure.deadline)
}

/// Reboots and network maintenance leave the instance where it is; a stop or a retirement does
/// not.
fn ends_the_instance(event: &Maintenance) -> bool {
    event.state == MaintenanceState::Active
        && matches!(event.code, MaintenanceCode::InstanceStop | MaintenanceCode::InstanceRetirement)
}
