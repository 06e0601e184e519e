//! Checks that managers leave without losing the quorum, and that the checker finds the fault in a protocol without
//! one of its safeguards, such as waiting for each other or for the own demotion.

use skep_model::departing::{Action, Departing, Fence};
use stateright::{Checker, Expectation, Model};

const QUIET: Departing = Departing {
    managers: 3,
    leaving: 3,
    replacements: 0,
    crashes: 0,
    expiries: 0,
    terminations: 0,
    outages: 0,
    hurries: 0,
    are_clocks_off: false,
    fence: Fence::Held,
};

/// Checks every state. `sometimes` properties are left out: a small world cannot reach all of them.
fn holds(model: Departing) {
    let checker = model.checker().spawn_bfs().join();
    println!("{} unique states, depth {}", checker.unique_state_count(), checker.max_depth());
    for property in checker.model().properties() {
        if matches!(property.expectation, Expectation::Always) {
            checker.assert_no_discovery(property.name);
        }
    }
}

#[test]
fn all_managers_leave() {
    let model = Departing { hurries: 2, ..QUIET };
    model.checker().spawn_bfs().join().assert_properties();
}

#[test]
fn a_manager_dies_while_others_leave() {
    for managers in 2..=4 {
        holds(Departing { managers, leaving: managers - 1, terminations: 1, ..QUIET });
    }
}

#[test]
fn replacements_come() {
    holds(Departing { leaving: 2, replacements: 1, terminations: 1, hurries: 1, ..QUIET });
}

#[test]
fn processes_die_and_requests_are_late() {
    holds(Departing { leaving: 2, crashes: 1, expiries: 1, terminations: 1, ..QUIET });
}

#[test]
fn clocks_are_off_and_the_ledger_is_out_of_reach() {
    holds(Departing {
        leaving: 2,
        outages: 1,
        expiries: 1,
        terminations: 1,
        are_clocks_off: true,
        ..QUIET
    });
}

/// A skep restarts in the middle of a departure while it cannot reach the ledger.
const IN_DOUBT: Departing =
    Departing { managers: 2, leaving: 1, crashes: 1, outages: 2, hurries: 2, ..QUIET };

#[test]
fn who_cannot_tell_whose_swarm_it_is_in_waits_until_it_can() {
    holds(Departing { terminations: 1, ..IN_DOUBT });
    holds(Departing { leaving: 2, crashes: 2, hurries: 0, ..IN_DOUBT });
    holds(Departing { managers: 3, leaving: 2, hurries: 0, ..IN_DOUBT });
}

/// A node that takes doubt for no treats the swarm as another cluster's, and ends while raft still counts its vote.
#[test]
fn doubt_that_counts_as_no_loses_the_quorum() {
    let model = Departing { fence: Fence::DoubtIsNo, ..IN_DOUBT };
    let checker = model.checker().spawn_bfs().join();
    checker.assert_any_discovery("who cannot tell whose swarm it is in changes nothing in it");
    checker.assert_any_discovery("the quorum is lost by deaths alone");
}

/// The last manager's skep dies while it closes the charter; another manager joins before the request arrives.
const TOO_LATE: Departing =
    Departing { managers: 1, leaving: 1, replacements: 2, crashes: 1, hurries: 2, ..QUIET };

#[test]
fn a_charter_that_was_closed_too_late_is_opened_again() {
    holds(TOO_LATE);
    holds(Departing { managers: 2, leaving: 2, replacements: 1, ..TOO_LATE });
    holds(Departing { terminations: 1, outages: 1, ..TOO_LATE });
}

#[test]
fn one_that_stays_closed_is_found() {
    let model = Departing { fence: Fence::StaysClosed, ..TOO_LATE };
    let checker = model.checker().spawn_bfs().join();
    let name = "with no more trouble the charter is open over a swarm that lives";
    checker.assert_any_discovery(name);
}

/// Docker has accepted two demotions at once; then a third manager dies, and Docker has not noticed this yet. The
/// checker must find this sequence.
#[test]
fn without_turns_two_demotions_meet_a_death() {
    let model =
        Departing { managers: 4, leaving: 2, terminations: 1, fence: Fence::NoTurn, ..QUIET };
    let checker = model.checker().spawn_bfs().join();
    let goes = |one| [Action::Tell(one), Action::Look(one), Action::Look(one), Action::Act(one)];
    let die = [Action::Terminate(3), Action::RaftFollows(0), Action::RaftFollows(1)];
    let story = [&goes(0)[..], &goes(1), &die].concat();
    checker.assert_discovery("nobody is removed on a look from before a death", story);
}

/// Both managers leave by force, while Docker still counts the first as alive. The checker must find this sequence.
#[test]
fn unconfirmed_demotions_lose_the_quorum() {
    let model = Departing { leaving: 2, fence: Fence::Unconfirmed, ..QUIET };
    let checker = model.checker().spawn_bfs().join();
    let wants = |one| [Action::Tell(one), Action::Look(one), Action::Look(one)];
    let goes = |one| [Action::Act(one), Action::Act(one), Action::Look(one), Action::Act(one)];
    let story = [&wants(0)[..], &wants(1), &goes(0), &[Action::Look(0)], &goes(1)].concat();
    checker.assert_discovery("the quorum is lost by deaths alone", story);
    checker.assert_any_discovery("no member of raft leaves but the last");
}
