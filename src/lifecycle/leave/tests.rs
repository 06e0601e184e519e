//! Tests a departure in a world that answers late, dies and comes back.

mod nonsense;
mod read_only;
mod unsettled;
mod world;

use proptest::prelude::*;

use super::decide::{Observed, Outcome, Step, decide};
use super::memory::Flush;
use super::pause_after;
use super::traffic::Wait;
use crate::clients::docker::{LocalState, NodeView};
use crate::clients::ledger::{DepartureState, Traffic};
use crate::common::fact::Fact;
use crate::common::instance::{Reason, Role};
use world::{Event, World};
pub use world::{charter, listed, local, row};

fn traffic() -> impl Strategy<Value = Wait> {
    let now = |answers| Wait::Now { why: "the load balancer", answers };
    let late = |answers| Wait::BeforeLeaving { answers };
    prop_oneof![
        3 => Just(Wait::Over),
        2 => any::<bool>().prop_map(now),
        1 => any::<bool>().prop_map(late),
    ]
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        8 => Just(Event::Step),
        4 => Just(Event::TaskStops),
        3 => Just(Event::ListFollows),
        1 => any::<bool>().prop_map(Event::ManagersAct),
        1 => any::<bool>().prop_map(Event::Ledger),
        1 => any::<bool>().prop_map(Event::LedgerReadOnly),
        1 => any::<bool>().prop_map(Event::DrainFails),
        1 => Just(Event::Retry),
        1 => any::<bool>().prop_map(Event::Charter),
        1 => Just(Event::RowGone),
        1 => any::<bool>().prop_map(Event::Others),
        1 => Just(Event::PromotedByHand),
        1 => Just(Event::DemotedByHand),
        1 => any::<bool>().prop_map(Event::Docker),
        1 => Just(Event::State(LocalState::Pending)),
        1 => Just(Event::State(LocalState::Error)),
        2 => Just(Event::State(LocalState::Active)),
        1 => Just(Event::Restart),
        1 => Just(Event::PatienceOver),
        1 => Just(Event::TrafficOver),
        2 => traffic().prop_map(Event::Traffic),
        1 => Just(Event::DrainOver),
        1 => Just(Event::SettleOver),
        1 => Just(Event::DockerOver),
        1 => any::<bool>().prop_map(Event::Withdraw),
    ];
    prop::collection::vec(event, 0..80)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// For any events: no raft member leaves, no node leaves with live tasks or unflushed logs, a node leaves at most
    /// once, and every departure ends.
    #[test]
    fn every_departure_ends_and_loses_nothing(
        is_manager in any::<bool>(),
        tasks in 0usize..4,
        standalone in 0usize..2,
        is_stuck in any::<bool>(),
        is_certificate_readable in any::<bool>(),
        events in events(),
    ) {
        let role = if is_manager { Role::Manager } else { Role::Worker };
        let world = World { is_stuck, is_certificate_readable, ..World::new(role, tasks, standalone) };
        let mut world = world;
        let is_row_lost = events.iter().any(|event| matches!(event, Event::RowGone));
        for event in events {
            prop_assert_eq!(
                world.decide() == Step::Stay,
                world.is_withdrawn && world.is_as_it_was(),
                "{:?}", world
            );
            world.happen(event);
        }
        let outcome = world.run_out();
        prop_assert!(outcome.is_some(), "{:?}", world.decide());
        // Only a node that never was a member has nothing to leave, or one that is out and has no row left.
        let has_nothing = outcome == Some(Outcome::NothingToLeave);
        prop_assert!(!has_nothing || is_row_lost && !world.in_swarm, "{:?}", world);
        // Flushing had its turn, whatever did not stop.
        prop_assert!(world.flushes > 0 || outcome == Some(Outcome::Stayed), "{:?}", world);
        prop_assert!(world.left <= 1);
        // A node that is still in the swarm, or a manager in raft, does not report that it has left.
        let stays = [Outcome::TooLate, Outcome::DockerSilent, Outcome::Stayed];
        let has_stayed = outcome.is_some_and(|outcome| stays.contains(&outcome));
        prop_assert!(!(world.in_swarm || world.is_manager) || has_stayed, "{:?}", world);
        prop_assert!(world.tasks == 0 || world.is_stuck || has_stayed, "{:?}", world);
        // Only managers record that the node is off the node list.
        let is_off = world.row.as_ref().is_some_and(|row| row.state == DepartureState::Removed);
        prop_assert!(outcome != Some(Outcome::Left) || is_off && !world.in_swarm, "{:?}", world);
        // A departure that was taken back in time has cost nothing that counts.
        prop_assert!(outcome != Some(Outcome::Stayed) || world.is_as_it_was());
    }

    /// With managers that answer and tasks that stop, no time limit has to pass.
    #[test]
    fn an_undisturbed_departure_ends_off_the_list(is_manager in any::<bool>(), tasks in 0usize..4) {
        let role = if is_manager { Role::Manager } else { Role::Worker };
        let mut world = World::new(role, tasks, 1);
        let mut outcome = None;
        for _ in 0..40 {
            world.happen(Event::TaskStops);
            world.happen(Event::ListFollows);
            outcome = world.happen(Event::Step);
            if outcome.is_some() { break }
        }
        prop_assert_eq!(outcome, Some(Outcome::Left));
        prop_assert_eq!(world.flushes, 1);
    }
}

/// It gets no new tasks, keeps its own while requests may come, and is drained once they do not.
#[test]
fn a_node_that_receives_requests_is_not_drained_before_they_end() {
    for role in [Role::Worker, Role::Manager] {
        let mut world = World::new(role, 1, 0);
        world.traffic = Wait::Now { why: "the load balancer", answers: true };
        for _ in 0..5 {
            world.happen(Event::Step);
        }
        assert_eq!(world.decide(), Step::Wait { why: "the load balancer".to_owned() });
        assert_eq!((world.drained, world.tasks), (false, 1));
        assert_eq!(world.paused, role == Role::Manager, "managers pause a worker");
        world.traffic = Wait::Over;
        assert_eq!(world.decide(), Step::EndHold);
        world.happen(Event::Step);
        world.happen(Event::Step);
        assert!(world.drained, "{role}");
    }
    // Managers that have found no load balancer do not wait for the node to record it.
    let mut world = World::new(Role::Worker, 1, 0);
    world.row = Some(row(Role::Worker));
    let row = world.row.as_mut().unwrap();
    row.hold_until = Some(time::OffsetDateTime::UNIX_EPOCH);
    assert_eq!(world.decide(), Step::EndHold);
    world.row.as_mut().unwrap().traffic = Some(Traffic::None);
    assert!(matches!(world.decide(), Step::Wait { .. }));
}

/// A group that goes by its balancer's health checks must not replace a node whose notice is withdrawn.
#[test]
fn a_node_that_may_stay_answers_with_503_only_before_it_leaves() {
    for role in [Role::Worker, Role::Manager] {
        let mut world = World::new(role, 1, 0);
        world.traffic = Wait::BeforeLeaving { answers: true };
        while world.decide() != Step::EndTraffic {
            world.happen(Event::Step);
            world.happen(Event::TaskStops);
            world.happen(Event::ListFollows);
        }
        assert!(world.drained && world.tasks == 0 && world.flushes == 1 && world.left == 0);
        world.happen(Event::Step);
        assert!(matches!(world.decide(), Step::Wait { .. }), "{role}");
        world.clock.leave_due = true;
        assert!(matches!(world.decide(), Step::Leave | Step::Demote { .. }), "{role}");
    }
}

#[test]
fn a_node_that_never_joined_leaves_as_if_it_had_not() {
    let mut world = World::new(Role::Worker, 0, 0);
    (world.in_swarm, world.flush) = (false, Flush::Whole);
    (world.is_known, world.is_recorded) = (false, false);
    assert_eq!(world.step(), Some(Outcome::NothingToLeave));
}

/// An operator's deadline has passed: the machine stays, and the node with it; any other deadline ends the machine.
#[test]
fn a_departure_that_fails_on_a_machine_that_stays_leaves_the_node_serving() {
    let late = Outcome::TooLate;
    assert_eq!(late.on_machine(Reason::Operator, false), Outcome::Failed);
    assert_eq!(late.on_machine(Reason::Operator, true), late, "it is out");
    for reason in [Reason::Lifecycle, Reason::Spot, Reason::Maintenance, Reason::Shutdown] {
        assert_eq!(late.on_machine(reason, false), late, "{reason}");
    }
    assert_eq!(Outcome::Left.on_machine(Reason::Operator, false), Outcome::Left);
    assert!(Outcome::Failed.is_failure() && Outcome::Failed.stays() && !late.stays());
}

#[test]
fn a_foreign_swarm_is_not_left() {
    let world = World::new(Role::Worker, 0, 0);
    let seen =
        Observed { ours: Fact::No, was_member: false, row: None, is_flushed: true, ..world.look() };
    assert_eq!(decide(Role::Worker, &seen), Step::Done(Outcome::NothingToLeave));
}

/// It is drained and demoted, and leaves, as a manager does; it stays if its notice is taken back in time.
#[test]
fn a_worker_that_was_promoted_by_hand_is_demoted_before_it_leaves() {
    let mut world = World::new(Role::Worker, 1, 0);
    world.happen(Event::PromotedByHand);
    let mut steps = vec![];
    let ended = (0..20).find_map(|_| {
        world.happen(Event::TaskStops);
        world.happen(Event::ListFollows);
        steps.push(world.decide());
        world.happen(Event::Step)
    });
    assert_eq!(ended, Some(Outcome::Left), "{steps:?}");
    let at = |wanted: &Step| steps.iter().position(|step| step == wanted);
    let (demotes, leaves) = (at(&Step::Demote { in_turn: true }), at(&Step::Leave));
    assert!(demotes.is_some() && demotes < leaves, "{steps:?}");

    let mut world = World::new(Role::Worker, 1, 0);
    world.happen(Event::PromotedByHand);
    world.happen(Event::Step);
    world.is_withdrawn = true;
    assert_eq!(world.decide(), Step::Stay);
}

#[test]
fn a_manager_that_is_being_demoted_or_cannot_tell_leaves_all_the_same() {
    let mut world = World::new(Role::Manager, 1, 0);
    world.is_withdrawn = true;
    let mut seen = world.look();
    assert_eq!(decide(Role::Manager, &seen), Step::Stay);
    let own = seen.node.clone().unwrap();
    for node in [None, Some(NodeView { role: Role::Worker, ..own })] {
        seen.node = node;
        assert_ne!(decide(Role::Manager, &seen), Step::Stay, "{:?}", seen.node);
    }
}

#[test]
fn a_locked_manager_is_never_left_by_force() {
    let world = World::new(Role::Manager, 0, 0);
    let mut seen = Observed { is_flushed: true, row: None, ..world.look() };
    // As `/info` shows a locked manager.
    seen.local.state = LocalState::Locked;
    (seen.local.is_manager, seen.node) = (false, None);
    seen.clock.leave_due = true;
    assert!(matches!(decide(Role::Manager, &seen), Step::Wait { .. }));
    seen.clock.over = true;
    assert_eq!(decide(Role::Manager, &seen), Step::Done(Outcome::TooLate));
}

/// A node has not left a swarm that may be another cluster's, or that has no leader.
#[test]
fn a_node_that_cannot_tell_whose_swarm_it_is_in_waits_and_does_what_is_safe_here() {
    let mut world = World::new(Role::Manager, 1, 1);
    (world.is_known, world.ledger_up) = (false, false);
    assert!(matches!(world.decide(), Step::Wait { .. }));
    world.clock.patience_over = true;
    let mut steps = vec![];
    while let step
    @ (Step::StopTasks { .. } | Step::StopStandalone | Step::Flush | Step::StopLate) =
        world.decide()
    {
        assert_eq!(world.step(), None);
        steps.push(step);
    }
    assert!(
        matches!(
            steps[..],
            [Step::StopTasks { .. }, Step::StopStandalone, Step::Flush, Step::StopLate]
        ),
        "{steps:?}"
    );
    assert!(matches!(world.decide(), Step::Wait { .. }));
    assert!(world.in_swarm && world.is_manager);
    world.clock.over = true;
    assert_eq!(world.decide(), Step::Done(Outcome::TooLate));
}

/// A node that left while the ledger was down records it once the ledger answers, and is removed from the node list.
#[test]
fn a_departure_without_a_ledger_is_made_up_for() {
    let mut world = World::new(Role::Worker, 1, 0);
    (world.ledger_up, world.clock.patience_over) = (false, true);
    while world.in_swarm {
        assert_eq!(world.step(), None);
    }
    for _ in 0..3 {
        assert!(matches!(world.decide(), Step::Wait { .. }), "{:?}", world.decide());
    }
    world.ledger_up = true;
    let ended = (0..10).find_map(|_| world.happen(Event::Step));
    assert_eq!(ended, Some(Outcome::Left));
    assert_eq!(world.row.unwrap().state, DepartureState::Removed);
}

/// With Docker down the node writes its request all the same, and flushes the logs in time.
#[test]
fn without_docker_the_managers_are_asked_and_logs_are_flushed() {
    let mut world = World::new(Role::Worker, 1, 0);
    world.docker_up = false;
    assert_eq!(world.decide(), Step::Request);
    world.step();
    assert!(matches!(world.decide(), Step::Wait { .. }));
    (world.clock.patience_over, world.clock.drain_over, world.clock.stop_over) = (true, true, true);
    assert_eq!(world.decide(), Step::Flush);
    world.clock.leave_due = true;
    world.step();
    assert!(matches!(world.decide(), Step::Wait { .. }));
    world.clock.over = true;
    assert_eq!(world.decide(), Step::Done(Outcome::TooLate));
}

#[test]
fn a_docker_that_does_not_come_back_holds_the_machine_no_longer() {
    let mut world = World::new(Role::Manager, 1, 0);
    world.docker_up = false;
    world.step();
    assert!(matches!(world.decide(), Step::Wait { .. }));
    world.clock.docker_over = true;
    assert_eq!(world.decide(), Step::Flush, "the logs of the tasks are not lost");
    assert_eq!(world.step(), None);
    assert_eq!(world.decide(), Step::Done(Outcome::DockerSilent));
    world.docker_up = true;
    assert!(!matches!(world.decide(), Step::Done(_)), "it came back");
}

/// A container that cannot be stopped uses up draining's share and no other.
#[test]
fn a_container_that_cannot_be_stopped_leaves_the_other_shares_alone() {
    for role in Role::ALL {
        let mut world = World { is_stuck: true, ..World::new(role, 1, 1) };
        (world.clock.patience_over, world.clock.drain_over) = (true, true);
        for _ in 0..5 {
            world.happen(Event::Step);
        }
        assert!(world.futile > 0 && world.flushes == 0 && world.in_swarm);
        world.clock.stop_over = true;
        let ended = (0..20).find_map(|_| {
            world.clock.confirmation_over |= world.left > 0;
            // A stuck container that stops after the flush uses up the rest of flushing's share.
            world.clock.leave_due |= world.flushes > 0;
            world.happen(Event::Step)
        });
        assert_eq!(ended, Some(Outcome::Left), "{world:?}");
        assert_eq!((world.flushes, world.left), (1, 1));
    }
}

#[test]
fn failures_in_a_row_are_followed_by_longer_pauses_up_to_a_limit() {
    let pauses: Vec<_> = (0..6).map(|failures| pause_after(failures).as_millis()).collect();
    assert_eq!(pauses, [500, 1000, 2000, 4000, 5000, 5000]);
    assert_eq!(pause_after(u32::MAX), pause_after(5));
}
