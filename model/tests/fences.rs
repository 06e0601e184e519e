//! Checks that founding holds, and that the checker finds the fault in a protocol without one of its fences.

use skep_model::founding::{Fence, Founding};
use stateright::{Checker, Expectation, Model};

const QUIET: Founding = Founding {
    managers: 2,
    workers: 1,
    crashes: 1,
    expiries: 1,
    terminations: 0,
    silences: 0,
    dim_looks: 0,
    fence: Fence::Held,
};
const LOSING: Founding =
    Founding { crashes: 0, expiries: 0, terminations: 2, silences: 1, ..QUIET };

#[test]
fn founding_holds() {
    QUIET.checker().spawn_bfs().join().assert_properties();
}

#[test]
fn founding_holds_where_looks_fail_to_see_something() {
    Founding { dim_looks: 2, ..QUIET }.checker().spawn_bfs().join().assert_properties();
}

#[test]
fn founding_without_its_fence_ends_in_two_swarms() {
    let model = Founding { workers: 2, fence: Fence::Missing, ..QUIET };
    let checker = model.checker().spawn_bfs().join();
    checker.assert_any_discovery("two swarms never have managers and joiners");
}

#[test]
fn losing_holds() {
    for model in [LOSING, Founding { dim_looks: 2, ..LOSING }] {
        let checker = model.checker().target_max_depth(12).spawn_bfs().join();
        for property in LOSING.properties() {
            if matches!(property.expectation, Expectation::Always) {
                checker.assert_no_discovery(property.name);
            }
        }
    }
}

#[test]
fn a_swarm_that_is_only_silent_must_not_be_given_up() {
    let model = Founding { fence: Fence::SilenceIsDeath, ..LOSING };
    let checker = model.checker().target_max_depth(12).spawn_bfs().join();
    checker.assert_any_discovery("none is given up while a manager of it is there");
}
