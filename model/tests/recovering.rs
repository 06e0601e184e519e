//! Checks that a quorum is re-created once and every node ends in it, and that the checker finds the fault in a
//! protocol without the claim, without the fence, or in which a manager without a row does not check whose raft it
//! joined.

use skep_model::recovering::{Fence, Recovering};
use stateright::{Checker, Expectation, HasDiscoveries, Model};

/// Two of three managers are gone.
const QUIET: Recovering = Recovering {
    managers: 3,
    lost: 2,
    workers: 0,
    recoveries: 1,
    crashes: 0,
    expiries: 0,
    terminations: 0,
    cuts: 0,
    outages: 0,
    adoptions: 0,
    dim_looks: 0,
    are_clocks_off: false,
    fence: Fence::Held,
};
/// The network between two managers is cut.
const APART: Recovering = Recovering { managers: 2, lost: 0, cuts: 1, ..QUIET };
/// A recovery is taken over from a skep that has died, while another instance tries to join.
const TAKEN_OVER: Recovering =
    Recovering { lost: 1, recoveries: 2, crashes: 1, expiries: 1, cuts: 1, ..QUIET };

/// Checks every state. `sometimes` properties are left out: a small world cannot reach all of them.
fn holds(model: Recovering) {
    let checker = model.checker().finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    println!("{} unique states, depth {}", checker.unique_state_count(), checker.max_depth());
    for property in checker.model().properties() {
        if matches!(property.expectation, Expectation::Always) {
            checker.assert_no_discovery(property.name);
        }
    }
}

#[test]
fn a_survivor_goes_on_after_crashes_with_its_worker() {
    holds(Recovering { workers: 1, crashes: 2, ..QUIET });
}

#[test]
fn one_that_was_cut_off_comes_back() {
    holds(Recovering { lost: 1, cuts: 2, adoptions: 1, ..QUIET });
}

#[test]
fn two_survivors_recover_at_once() {
    holds(Recovering {
        recoveries: 2,
        crashes: 1,
        expiries: 1,
        cuts: 2,
        adoptions: 1,
        are_clocks_off: true,
        ..APART
    });
}

#[test]
fn a_recovery_is_taken_over() {
    let model = Recovering { recoveries: 2, expiries: 1, ..APART };
    model.checker().spawn_bfs().join().assert_properties();
}

#[test]
fn the_last_survivor_is_terminated_in_the_middle() {
    holds(Recovering { managers: 2, lost: 1, terminations: 1, expiries: 1, crashes: 1, ..QUIET });
}

#[test]
fn the_ledger_is_out_of_reach() {
    holds(Recovering { managers: 3, lost: 0, cuts: 1, outages: 2, adoptions: 1, ..QUIET });
}

/// Docker does not answer, rows cannot be read, Auto Scaling does not answer: every property must hold nevertheless.
#[test]
fn looks_that_fail_to_see_something_cost_nothing() {
    holds(Recovering { dim_looks: 2, workers: 1, crashes: 1, expiries: 1, ..QUIET });
    holds(Recovering { dim_looks: 2, lost: 1, cuts: 2, ..QUIET });
    holds(Recovering { dim_looks: 2, recoveries: 2, expiries: 1, ..APART });
}

#[test]
fn silence_that_counts_as_no_leader_is_found() {
    let model = Recovering { cuts: 0, dim_looks: 1, fence: Fence::SilenceIsNo, ..APART };
    let checker = model.checker().spawn_bfs().join();
    checker.assert_any_discovery("no recovery begins beside a known quorum");
}

#[test]
fn without_claims_two_survivors_publish_the_same_generation() {
    let model = Recovering { recoveries: 2, fence: Fence::Unclaimed, ..APART };
    let checker = model.checker().spawn_bfs().join();
    checker.assert_any_discovery("one history per generation is published");
}

#[test]
fn without_the_fence_a_manager_that_was_never_comes_back() {
    let model = Recovering { cuts: 2, fence: Fence::Unfenced, ..APART };
    let checker = model.checker().spawn_bfs().join();
    checker.assert_any_discovery("with no more trouble all end in one swarm");
}

/// The manager joined through another one whose recovery was taken over, and joining nodes would follow it into that
/// history. The checker must find this.
#[test]
fn a_manager_without_a_row_must_ask_whose_raft_it_is_in() {
    let model = Recovering { fence: Fence::Unasked, ..TAKEN_OVER };
    let stray = "a manager is Ready in the history that was published, and in no other";
    let is_seen = HasDiscoveries::AnyOf([stray].into());
    let checker = model.checker().threads(2).finish_when(is_seen).spawn_bfs().join();
    checker.assert_any_discovery(stray);
}
