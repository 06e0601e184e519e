//! Tests that a departure decides on rows of any readable content without a panic, and never leaves a swarm because of
//! its row alone.

use proptest::prelude::*;
use proptest::sample::select;

use super::world::World;
use crate::clients::ledger::fuzz;
use crate::common::fact::Fact;
use crate::common::instance::Role;
use crate::lifecycle::leave::decide::{Blind, Observed, Step, decide, decide_blind};
use crate::lifecycle::leave::which_swarm::{Evidence, Lookup, judge};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn no_row_that_can_be_read_ends_a_departure(
        charter in prop::option::of(fuzz::charter()),
        member in prop::option::of(fuzz::member()),
        row in prop::option::of(fuzz::departure()),
        local in fuzz::local(),
        role in select(&Role::ALL),
        (is_late, is_flushed) in any::<(bool, bool)>(),
    ) {
        let mut world = World::new(role, 1, 1);
        (world.clock.patience_over, world.clock.drain_over) = (is_late, is_late);
        let evidence = Evidence {
            charter: charter.map_or(Lookup::Nothing, Lookup::Found),
            row: member.map_or(Lookup::Nothing, |row| Lookup::Found(row.node_id)),
            ..Evidence::default()
        };
        let seen = world.look();
        let ours = judge(&local, &evidence);
        let seen = Observed { local, row: row.clone(), ours, is_flushed, ..seen };
        let step = decide(role, &seen);
        let leaves = matches!(step, Step::Leave | Step::LeaveLast | Step::LeaveUnsettled);
        prop_assert!(!leaves || ours == Fact::Yes && is_flushed, "{step:?}");
        let blind = Blind {
            row,
            is_ledger_readable: true,
            is_write_failing: false,
            is_member_known: true,
            is_flushed,
            clock: world.clock,
        };
        prop_assert!(!matches!(decide_blind(&blind), Step::Done(_)));
    }
}
