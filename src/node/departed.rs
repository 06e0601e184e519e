//! The departures of the last day that are over, for `skep status` and the page. Managers delete the rows after an hour;
//! each keeps here what it has read, until its skep ends.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use time::{Duration, OffsetDateTime};

use crate::clients::ledger::DepartureRow;
use crate::common::report::Departed;

/// How long after its notice a departure is kept.
const KEPT_FOR: Duration = Duration::hours(24);
/// Number of departures that are kept: the newest.
const MOST: usize = 1_000;

/// Departures by the time of the notice and the instance. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct DepartedLog(Arc<Mutex<BTreeMap<(OffsetDateTime, String), Departed>>>);

impl DepartedLog {
    /// Keeps the departures among `rows` that are over.
    pub fn add<'a>(&self, rows: impl IntoIterator<Item = &'a DepartureRow>, now: OffsetDateTime) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for row in rows.into_iter().filter(|row| row.state.is_over()) {
            kept.insert((row.requested_at, row.instance_id.clone()), departed(row));
        }
        kept.retain(|(at, _), _| now - *at < KEPT_FOR);
        while kept.len() > MOST {
            kept.pop_first();
        }
    }

    /// Returns the departures of the last day, the newest notice first.
    #[must_use]
    pub fn of_last_day(&self, now: OffsetDateTime) -> Vec<Departed> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let recent = kept.iter().rev().filter(|((at, _), _)| now - *at < KEPT_FOR);
        recent.map(|(_, departed)| departed.clone()).collect()
    }
}

fn departed(row: &DepartureRow) -> Departed {
    Departed {
        instance_id: row.instance_id.clone(),
        node_id: row.node_id.clone(),
        role: row.role,
        group: row.group.clone(),
        reason: row.reason.as_str().to_owned(),
        state: row.state.as_str().to_owned(),
        requested_at: row.requested_at,
        deadline: row.deadline,
        killed: row.killed,
        stand_in: row.stand_in,
    }
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;
    use crate::clients::ledger::DepartureState;
    use crate::common::instance::{Departure, Reason, Role};

    const NOW: OffsetDateTime = datetime!(2026-11-03 12:00 UTC);

    fn row(instance: &str, ago: Duration, state: DepartureState) -> DepartureRow {
        let noticed_at = NOW - ago;
        let deadline = noticed_at + Duration::minutes(2);
        let departure = Departure { reason: Reason::Spot, noticed_at, deadline };
        let row = DepartureRow::request(instance, "n1", Role::Worker, &departure, "boot");
        DepartureRow { state, killed: 2, ..row }
    }

    #[test]
    fn the_departures_of_the_last_day_are_kept_once_they_are_over() {
        let log = DepartedLog::default();
        let rows = [
            row("i-1", Duration::hours(20), DepartureState::Removed),
            row("i-2", Duration::hours(1), DepartureState::Failed),
            row("i-3", Duration::hours(1), DepartureState::Left),
            row("i-4", Duration::hours(25), DepartureState::Removed),
        ];
        log.add(&rows, NOW);
        log.add(&rows[..1], NOW);
        log.add(&rows[2..3], NOW);
        let shown = |now| {
            let shown = log.of_last_day(now).into_iter();
            shown.map(|it| (it.instance_id, it.state, it.killed)).collect::<Vec<_>>()
        };
        let [first, second] = [("i-2", "failed"), ("i-1", "removed")]
            .map(|(id, state)| (id.to_owned(), state.to_owned(), 2));
        assert_eq!(shown(NOW), [first.clone(), second], "also once the rows are deleted");
        assert_eq!(shown(NOW + Duration::hours(5)), [first]);
        assert!(shown(NOW + Duration::hours(24)).is_empty());
    }

    #[test]
    fn of_too_many_departures_the_newest_are_kept() {
        let log = DepartedLog::default();
        let ago = |n: usize| Duration::seconds(i64::try_from(n).unwrap());
        let rows: Vec<_> = (0..MOST + 5)
            .map(|n| row(&format!("i-{n}"), ago(n), DepartureState::Removed))
            .collect();
        log.add(&rows, NOW);
        let shown = log.of_last_day(NOW);
        assert_eq!((shown.len(), shown[0].instance_id.as_str()), (MOST, "i-0"));
        assert!(shown.iter().all(|it| it.instance_id != format!("i-{MOST}")));
    }
}
