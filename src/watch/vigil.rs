//! From look to look: what is new, and what has been taken back. Pure.
//!
//! Guarantees: what was announced is believed at once, and that it is gone only after several whole looks
//! in a row; a look that failed, or half of it, takes nothing back.

use time::OffsetDateTime;

use super::{Seen, notice, quiet};
use crate::config::Settings;
use crate::instance::{Departure, Quiet};

/// So many looks in a row must find something gone: the metadata is many machines' work, and one answer of
/// it may be behind.
const LOOKS: u32 = 3;

/// What a look tells the story.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// The node is to leave.
    pub notice: Option<Departure>,
    /// Nothing in the metadata makes it leave, and that has lasted.
    pub is_clear: bool,
    /// It is to get no tasks although it stays.
    pub quiet: Option<Quiet>,
}

/// What earlier looks have found.
#[derive(Clone, Debug, Default)]
pub struct Vigil {
    quiet: Option<Quiet>,
    /// Whole looks in a row without a notice, and at less than [`Vigil::quiet`].
    clear: u32,
    louder: u32,
    /// The most that was seen in the latter.
    meanwhile: Option<Quiet>,
}

impl Vigil {
    /// Takes a look in.
    pub fn see(&mut self, seen: &Seen, settings: &Settings, now: OffsetDateTime) -> Told {
        let count = |before: u32, holds: bool| match holds && seen.is_whole {
            true => before.saturating_add(1),
            false => 0,
        };
        let notice = notice(seen, settings, now);
        self.clear = count(self.clear, notice.is_none());
        let quiet = quiet(seen, settings);
        let is_louder = quiet < self.quiet;
        self.louder = count(self.louder, is_louder);
        self.meanwhile = if self.louder > 0 { self.meanwhile.max(quiet) } else { None };
        if !is_louder {
            self.quiet = quiet;
        } else if self.louder >= LOOKS {
            (self.quiet, self.louder, self.meanwhile) = (self.meanwhile, 0, None);
        }
        Told { notice, is_clear: self.clear >= LOOKS, quiet: self.quiet }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::Rebalance;
    use crate::imds::{SpotAction, TargetState};

    const NOW: OffsetDateTime = OffsetDateTime::UNIX_EPOCH;

    fn settings() -> Settings {
        let mut settings = Settings::default();
        settings.watch.rebalance = Rebalance::Pause;
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
        /// Whatever is seen and whatever fails: a cause is told from the look that first shows it until
        /// enough whole looks in a row have not, and never taken back by anything else.
        #[test]
        fn only_whole_looks_take_something_back(looks in prop::collection::vec(look(), 1..30)) {
            let (mut vigil, settings, mut before) = (Vigil::default(), settings(), None);
            for n in 1..=looks.len() {
                let told = vigil.see(&looks[n - 1].seen(), &settings, NOW);
                let last = |count: usize| &looks[n.saturating_sub(count)..n];
                let lasts = |holds: &dyn Fn(&Look) -> bool| {
                    n >= LOOKS as usize
                        && last(LOOKS as usize).iter().all(|look| look.is_whole && holds(look))
                };
                prop_assert_eq!(told.notice.is_some(), looks[n - 1].is_reclaimed);
                prop_assert_eq!(told.is_clear, lasts(&|look| !look.is_reclaimed));
                if looks[n - 1].is_standby {
                    prop_assert_eq!(told.quiet, Some(Quiet::Standby), "at once");
                }
                if looks[n - 1].is_recommended {
                    prop_assert!(told.quiet.is_some(), "at once");
                }
                if before.is_some() && told.quiet.is_none() {
                    prop_assert!(lasts(&|look| !look.is_standby && !look.is_recommended));
                }
                if before == Some(Quiet::Standby) && told.quiet != before {
                    prop_assert!(lasts(&|look| !look.is_standby));
                }
                before = told.quiet;
            }
        }
    }

    #[test]
    fn a_standby_that_is_over_is_believed_at_the_third_look() {
        let mut vigil = Vigil::default();
        let mut see = |is_standby, is_whole| {
            let look = Look { is_whole, is_reclaimed: false, is_standby, is_recommended: false };
            vigil.see(&look.seen(), &settings(), NOW).quiet.is_some()
        };
        assert!(see(true, false));
        assert!(see(false, true) && see(false, true) && see(false, false), "a look that failed");
        assert!(see(false, true) && see(false, true));
        assert!(!see(false, true));
    }
}
