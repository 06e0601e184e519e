//! Compares successive polls of the metadata, to find notices that are new and notices that were taken back. Pure.
//!
//! Guarantees: a notice counts at once, and is taken back only after several complete polls in a row without it; a poll
//! that failed, even in part, takes nothing back. A maintenance entry that cannot be read keeps only that maintenance
//! in force, and nothing else.

use std::collections::BTreeSet;

use time::OffsetDateTime;

use super::rules::due;
use super::{Seen, notice, scheduling_hold};
use crate::clients::imds::Scheduled;
use crate::common::instance::{Departure, SchedulingHold};
use crate::config::Settings;

/// Number of complete polls in a row without a notice, after which it is taken back: many machines serve the metadata,
/// and one answer may be outdated.
const LOOKS: u32 = 3;

/// Conclusion from one poll.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// The node must leave.
    pub notice: Option<Departure>,
    /// No notice has been in the metadata for several polls.
    pub is_clear: bool,
    /// The node must get no tasks although it stays.
    pub scheduling_hold: Option<SchedulingHold>,
}

/// Results of earlier polls.
#[derive(Clone, Debug, Default)]
pub struct NoticeDebouncer {
    scheduling_hold: Option<SchedulingHold>,
    /// Complete polls in a row without a notice.
    clear: u32,
    /// Polls in a row with less than [`NoticeDebouncer::scheduling_hold`].
    weaker: u32,
    /// The strongest hold in the latter.
    meanwhile: Option<SchedulingHold>,
    /// Maintenance that was a notice and has not been taken back.
    maintenance: BTreeSet<String>,
    /// Number of entries without an id that could not be read when that maintenance could.
    unnamed: usize,
}

impl NoticeDebouncer {
    /// Adds a poll.
    pub fn see(&mut self, seen: &Seen, settings: &Settings, now: OffsetDateTime) -> Told {
        let notice = notice(seen, settings, now);
        self.note_maintenance(seen, settings, now);
        let is_clear = notice.is_none() && !self.may_hide_maintenance(&seen.maintenance);
        self.clear = count(self.clear, is_clear && seen.is_whole);
        let is_clear = self.clear >= LOOKS;
        if is_clear {
            self.maintenance.clear();
        }
        let scheduling_hold = scheduling_hold(seen, settings);
        let is_weaker = scheduling_hold < self.scheduling_hold;
        self.weaker = count(self.weaker, is_weaker && seen.shows_scheduling_hold);
        self.meanwhile = if self.weaker > 0 { self.meanwhile.max(scheduling_hold) } else { None };
        if !is_weaker {
            self.scheduling_hold = scheduling_hold;
        } else if self.weaker >= LOOKS {
            (self.scheduling_hold, self.weaker, self.meanwhile) = (self.meanwhile, 0, None);
        }
        Told { notice, is_clear, scheduling_hold: self.scheduling_hold }
    }

    fn note_maintenance(&mut self, seen: &Seen, settings: &Settings, now: OffsetDateTime) {
        let due: Vec<String> =
            due(seen, settings, now).map(|event| event.event_id.clone()).collect();
        if !due.is_empty() {
            self.maintenance.extend(due);
            self.unnamed = unnamed(&seen.maintenance);
        }
    }

    /// Whether an entry that cannot be read may be the maintenance that is in force.
    fn may_hide_maintenance(&self, scheduled: &Scheduled) -> bool {
        let mut ids = scheduled.unreadable.iter().filter_map(|entry| entry.event_id.as_ref());
        !self.maintenance.is_empty()
            && (ids.any(|id| self.maintenance.contains(id)) || unnamed(scheduled) > self.unnamed)
    }
}

fn count(before: u32, holds: bool) -> u32 {
    if holds { before.saturating_add(1) } else { 0 }
}

fn unnamed(scheduled: &Scheduled) -> usize {
    scheduled.unreadable.iter().filter(|entry| entry.event_id.is_none()).count()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::clients::imds::{
        Maintenance, MaintenanceCode, MaintenanceState, SpotAction, TargetState, UnreadableEvent,
    };
    use crate::config::Rebalance;

    const NOW: OffsetDateTime = OffsetDateTime::UNIX_EPOCH;

    fn settings() -> Settings {
        let mut settings = Settings::default();
        settings.notices.rebalance = Rebalance::Pause;
        settings
    }

    #[derive(Clone, Copy, Debug)]
    struct Look {
        is_whole: bool,
        is_reclaimed: bool,
        is_standby: bool,
        is_recommended: bool,
    }

    impl Look {
        fn seen(self) -> Seen {
            let Look { is_whole, is_reclaimed, is_standby, is_recommended } = self;
            let target = if is_standby { TargetState::Standby } else { TargetState::InService };
            Seen {
                target: Some(target),
                spot: is_reclaimed.then(|| SpotAction { action: "stop".into(), time: NOW }),
                rebalance: is_recommended.then_some(NOW),
                is_whole,
                shows_scheduling_hold: is_whole,
                ..Seen::default()
            }
        }
    }

    fn look() -> impl Strategy<Value = Look> {
        any::<[bool; 4]>().prop_map(|[is_whole, is_reclaimed, is_standby, is_recommended]| Look {
            is_whole,
            is_reclaimed,
            is_standby,
            is_recommended,
        })
    }

    proptest! {
        /// For any polls and failures: a cause counts from the poll that first shows it until enough complete polls in
        /// a row have not, and nothing else takes it back.
        #[test]
        fn only_whole_looks_take_something_back(looks in prop::collection::vec(look(), 1..30)) {
            let (mut debouncer, settings, mut before) = (NoticeDebouncer::default(), settings(), None);
            for n in 1..=looks.len() {
                let told = debouncer.see(&looks[n - 1].seen(), &settings, NOW);
                let last = |count: usize| &looks[n.saturating_sub(count)..n];
                let lasts = |holds: &dyn Fn(&Look) -> bool| {
                    n >= LOOKS as usize
                        && last(LOOKS as usize).iter().all(|look| look.is_whole && holds(look))
                };
                prop_assert_eq!(told.notice.is_some(), looks[n - 1].is_reclaimed);
                prop_assert_eq!(told.is_clear, lasts(&|look| !look.is_reclaimed));
                if looks[n - 1].is_standby {
                    prop_assert_eq!(told.scheduling_hold, Some(SchedulingHold::Standby), "at once");
                }
                if looks[n - 1].is_recommended {
                    prop_assert!(told.scheduling_hold.is_some(), "at once");
                }
                if before.is_some() && told.scheduling_hold.is_none() {
                    prop_assert!(lasts(&|look| !look.is_standby && !look.is_recommended));
                }
                if before == Some(SchedulingHold::Standby) && told.scheduling_hold != before {
                    prop_assert!(lasts(&|look| !look.is_standby));
                }
                before = told.scheduling_hold;
            }
        }
    }

    #[test]
    fn a_standby_that_is_over_is_believed_at_the_third_look() {
        let mut debouncer = NoticeDebouncer::default();
        let mut see = |is_standby, is_whole| {
            let look = Look { is_whole, is_reclaimed: false, is_standby, is_recommended: false };
            debouncer.see(&look.seen(), &settings(), NOW).scheduling_hold.is_some()
        };
        assert!(see(true, false));
        assert!(see(false, true) && see(false, true) && see(false, false), "a poll that failed");
        assert!(see(false, true) && see(false, true));
        assert!(!see(false, true));
    }

    /// Adds a poll with these maintenance entries, and no other notice.
    fn see_scheduled(
        debouncer: &mut NoticeDebouncer,
        stop: Option<&str>,
        unreadable: &[Option<&str>],
    ) -> Told {
        let stop = stop.map(|id| Maintenance {
            event_id: id.to_owned(),
            code: MaintenanceCode::InstanceStop,
            state: MaintenanceState::Active,
            description: String::new(),
            not_before: NOW,
            not_after: None,
        });
        let unreadable = unreadable
            .iter()
            .map(|id| UnreadableEvent { event_id: id.map(str::to_owned), problem: String::new() });
        let maintenance =
            Scheduled { events: stop.into_iter().collect(), unreadable: unreadable.collect() };
        let look =
            Look { is_whole: true, is_reclaimed: false, is_standby: false, is_recommended: false };
        debouncer.see(&Seen { maintenance, ..look.seen() }, &settings(), NOW)
    }

    #[test]
    fn an_unreadable_entry_keeps_only_its_own_maintenance_in_force() {
        let clears = |stop: Option<&str>, before: &[Option<&str>], after: &[Option<&str>]| {
            let mut debouncer = NoticeDebouncer::default();
            see_scheduled(&mut debouncer, stop, before);
            (0..LOOKS).any(|_| see_scheduled(&mut debouncer, None, after).is_clear)
        };
        assert!(clears(None, &[], &[Some("e-9")]), "a spot notice was in force, if any");
        assert!(clears(None, &[], &[None]));
        assert!(clears(Some("e-1"), &[], &[]));
        assert!(clears(Some("e-1"), &[], &[Some("e-9")]), "it is another one");
        assert!(clears(Some("e-1"), &[None], &[None]), "both could be told apart");
        assert!(!clears(Some("e-1"), &[], &[Some("e-1")]), "cannot tell whether it still stands");
        assert!(!clears(Some("e-1"), &[], &[None]), "it may be this one");
    }

    #[test]
    fn standby_ends_although_the_spot_notice_cannot_be_read() {
        let mut debouncer = NoticeDebouncer::default();
        let look =
            Look { is_whole: true, is_reclaimed: false, is_standby: true, is_recommended: false };
        assert!(debouncer.see(&look.seen(), &settings(), NOW).scheduling_hold.is_some());
        let back = Look { is_standby: false, ..look }.seen();
        let back = Seen { is_whole: false, shows_scheduling_hold: true, ..back };
        let told: Vec<_> = (0..LOOKS).map(|_| debouncer.see(&back, &settings(), NOW)).collect();
        assert!(told.iter().all(|told| !told.is_clear), "there may be a notice");
        assert_eq!(told.last().and_then(|told| told.scheduling_hold), None);
    }
}
