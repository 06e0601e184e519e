//! Tests a notice for a node that is neither in its swarm nor out of it.

use proptest::prelude::*;

use super::world::{Event, World};
use crate::clients::docker::LocalState;
use crate::common::fact::Fact;
use crate::common::instance::Role;
use crate::lifecycle::leave::Lookup;
use crate::lifecycle::leave::decide::{Observed, Step, decide};
use crate::lifecycle::leave::memory::Flush;

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        8 => Just(Event::Step),
        2 => Just(Event::State(LocalState::Pending)),
        1 => Just(Event::State(LocalState::Active)),
        2 => Just(Event::State(LocalState::Error)),
        1 => any::<bool>().prop_map(Event::Ledger),
        1 => any::<bool>().prop_map(Event::LedgerReadOnly),
        1 => any::<bool>().prop_map(Event::Charter),
        1 => any::<bool>().prop_map(Event::Docker),
        1 => Just(Event::Restart),
        1 => Just(Event::SettleOver),
        1 => Just(Event::PatienceOver),
    ];
    prop::collection::vec(event, 0..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// For any result of the join: no raft member leaves by force, and the departure ends.
    #[test]
    fn a_join_that_has_not_settled_costs_no_quorum(
        is_manager in any::<bool>(),
        is_certified in any::<bool>(),
        is_in_raft in any::<bool>(),
        is_certificate_readable in any::<bool>(),
        events in events(),
    ) {
        let role = if is_manager { Role::Manager } else { Role::Worker };
        let world = World::joining(role, is_certified, is_in_raft);
        let mut world = World { is_certificate_readable, ..world };
        for event in events {
            world.happen(event);
        }
        let outcome = world.run_out();
        prop_assert!(outcome.is_some(), "{:?}", world.decide());
        prop_assert!(world.flushes > 0, "{:?}", world);
        prop_assert!(!world.in_swarm || outcome.is_some_and(crate::common::outcome::Outcome::is_failure));
    }
}

fn is_wait(step: &Step) -> bool {
    matches!(step, Step::Wait { .. })
}

/// A swarm of one manager grows to two: the second one counts in raft before Docker reports that it is in.
#[test]
fn a_managers_join_is_given_up_only_once_docker_says_error() {
    for is_certified in [true, false] {
        let mut world = World::joining(Role::Manager, is_certified, true);
        world.clock.settle_over = true;
        assert_eq!(world.step(), None);
        assert_eq!(world.flushes, 1);
        assert!(is_wait(&world.decide()), "{:?}", world.decide());
        world.clock.leave_due = true;
        assert!(is_wait(&world.decide()), "time does not make it safe");
        world.happen(Event::State(LocalState::Error));
        assert_eq!(world.decide(), Step::LeaveUnsettled);
        world.ledger_up = false;
        assert!(is_wait(&world.decide()), "it is not known whether it was Ready");
    }
}

#[test]
fn a_manager_that_was_ready_is_not_left_by_force() {
    let mut world = World::new(Role::Manager, 0, 0);
    (world.is_known, world.flush) = (false, Flush::Whole);
    (world.clock.settle_over, world.clock.leave_due) = (true, true);
    for state in [LocalState::Pending, LocalState::Error] {
        world.state = state;
        assert!(is_wait(&world.decide()), "{:?}", world.decide());
    }
}

#[test]
fn a_worker_is_left_by_force_unless_raft_may_count_it() {
    let mut world = World::new(Role::Worker, 0, 0);
    (world.state, world.clock.settle_over) = (LocalState::Pending, true);
    world.step();
    for (certified, is_joining, is_left) in [
        (Lookup::Found(Role::Worker), Fact::No, true),
        (Lookup::Nothing, Fact::Yes, true),
        // Promoted by hand.
        (Lookup::Found(Role::Manager), Fact::No, false),
        (Lookup::CannotTell, Fact::No, false),
        (Lookup::CannotTell, Fact::CannotTell, false),
    ] {
        for state in [LocalState::Pending, LocalState::Error] {
            let mut seen = Observed { certified, is_joining, ..world.look() };
            seen.local.state = state;
            let step = decide(Role::Worker, &seen);
            assert_eq!(step == Step::LeaveUnsettled, is_left, "{state:?} {certified:?}: {step:?}");
            assert!(is_left || is_wait(&step), "{step:?}");
        }
    }
}

/// Neither this host nor the ledger shows whose swarm it is; tasks run.
#[test]
fn a_worker_without_charter_and_row_does_not_claim_to_be_done() {
    let mut world = World::new(Role::Worker, 1, 0);
    for event in [Event::Restart, Event::Charter(false), Event::RowGone] {
        world.happen(event);
    }
    assert!(is_wait(&world.decide()), "{:?}", world.decide());
    world.clock.patience_over = true;
    assert!(matches!(world.decide(), Step::StopTasks { .. }), "{:?}", world.decide());
    world.happen(Event::Charter(true));
    assert_eq!(world.decide(), Step::Request, "it is known again");
}
