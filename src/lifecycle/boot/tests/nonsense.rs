//! Readable rows of any content: boot decides on them without a panic, and makes no claim under a generation that a row
//! already has.

use std::time::Duration;

use proptest::prelude::*;
use proptest::sample::select;
use time::OffsetDateTime;

use crate::clients::ledger::Charter;
use crate::clients::ledger::fuzz::{self, NOW};
use crate::common::fact::Fact;
use crate::common::instance::{HIGHEST_GENERATION, Role};
use crate::lifecycle::boot::decide::{Mark, Observed, OwnSwarm, Step, decide};
use crate::lifecycle::boot::demotion_request::PeerDemotion;
use crate::lifecycle::boot::lost_swarm::{self, Absence};

const ME: &str = "i-0";
const LEASE: Duration = Duration::from_secs(30);
/// A time at which no row is fresh.
const LATER: OffsetDateTime = time::macros::datetime!(2026-11-28 18:00 UTC);
/// How long Docker has been neither in a swarm nor out of it, and how long all managers have been gone.
const LONG: Duration = Duration::from_secs(600);

fn fact() -> impl Strategy<Value = Fact> {
    select(vec![Fact::Yes, Fact::No, Fact::CannotTell])
}

fn own_swarm() -> impl Strategy<Value = Option<OwnSwarm>> {
    let marks = select(vec![Mark::Ours, Mark::Others, Mark::Missing]);
    let generation = prop::option::of(select(vec![0, 1, HIGHEST_GENERATION]));
    let own = (marks, any::<bool>(), generation, fact());
    prop::option::of(own.prop_map(|(mark, is_alone, generation, has_former)| OwnSwarm {
        mark,
        is_alone,
        generation,
        created_at: Some(NOW),
        has_former,
    }))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn no_row_that_can_be_read_ends_a_boot(
        charter in prop::option::of(fuzz::charter()),
        members in fuzz::members(),
        rejoins in fuzz::rejoins(),
        local in fuzz::local(),
        role in select(&Role::ALL),
        own_swarm in own_swarm(),
        (has_leader, is_joining) in (fact(), fact()),
        (is_looked, is_moved, is_led) in any::<(bool, bool, bool)>(),
    ) {
        let rows = lost_swarm::of_rows(charter.as_ref(), &members, ME, LATER);
        let absence =
            Absence { is_self_listed: true, lasted: LONG, patience: LONG, ..rows };
        for generation in [None, charter.as_ref().map(|charter| charter.generation)] {
            prop_assert!(!absence.finding(generation).is_empty());
        }
        let seen = Observed {
            member: members.rows.iter().find(|row| row.instance_id == ME).cloned(),
            peer_demotion: rejoins.first().map(|row| PeerDemotion { request: Some(row.clone()), is_led }),
            absence: is_looked.then_some(absence),
            charter,
            local,
            certificate_error: None,
            certified: None,
            own_swarm,
            has_leader,
            lives_on: None,
            is_joining,
            is_moved,
            unsettled_for: LONG,
            lease: LEASE,
            now: LATER,
        };
        if let Step::Claim { seen: over, traces } = decide(ME, role, &seen) {
            let claim = Charter::claim(over.as_ref(), &traces, ME, LATER, LEASE);
            let is_new = |generation| claim.generation > generation;
            prop_assert!(is_new(traces.highest) && over.is_none_or(|it| is_new(it.generation)));
        }
    }
}
