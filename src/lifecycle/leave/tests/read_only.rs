//! Tests that a departure continues once it is late, if the ledger can be read but not written, or Docker does not
//! drain.

use super::world::{Event, World, row};
use crate::clients::ledger::DepartureState;
use crate::common::instance::Role;
use crate::lifecycle::leave::decide::{Outcome, Step};

fn read_only(role: Role, tasks: usize) -> World {
    World { read_only: true, ..World::new(role, tasks, 0) }
}

fn steps(world: &mut World, many: usize) {
    for _ in 0..many {
        assert_eq!(world.happen(Event::Step), None, "{world:?}");
    }
}

#[test]
fn nobody_can_be_asked() {
    for role in Role::ALL {
        let mut world = read_only(role, 2);
        steps(&mut world, 5);
        assert_eq!(world.decide(), Step::Request, "until it is late, it tries again");
        world.clock.patience_over = true;
        if role == Role::Manager {
            assert_eq!(world.decide(), Step::DrainSelf, "that needs no ledger");
            steps(&mut world, 1);
            (world.tasks, world.listed) = (0, 0);
        }
        steps(&mut world, 10);
        assert!(world.flushes == 1 && !world.is_manager, "{world:?}");
        assert_eq!(world.in_swarm, role == Role::Manager, "its demotion is not confirmed");
        world.clock.confirmation_over = true;
        steps(&mut world, 5);
        assert!(!world.in_swarm);
        assert_eq!(world.decide(), Step::Request, "the managers must take it off the list");
        world.clock.ledger_over = true;
        assert_eq!(world.step(), Some(Outcome::LeftUnconfirmed));

        // A moment later the ledger accepts writes.
        (world.read_only, world.is_write_failing) = (false, false);
        assert_eq!(world.decide(), Step::Request);
        assert_eq!((0..10).find_map(|_| world.happen(Event::Step)), Some(Outcome::Left));
    }
}

/// The ledger becomes read-only after the request.
#[test]
fn nobody_can_be_told_that_the_tasks_have_ended() {
    let mut world = read_only(Role::Manager, 0);
    world.row = Some(row(Role::Manager));
    (world.drained, world.listed) = (true, 0);
    steps(&mut world, 5);
    assert_eq!((world.decide(), world.flushes), (Step::MarkDrained, 0));
    world.clock.drain_over = true;
    steps(&mut world, 5);
    assert!(world.flushes == 1 && !world.is_manager, "{world:?}");
    world.clock.confirmation_over = true;
    steps(&mut world, 5);
    assert_eq!((world.in_swarm, world.decide()), (false, Step::MarkLeft));
    world.clock.ledger_over = true;
    assert_eq!(world.step(), Some(Outcome::LeftUnconfirmed));
}

#[test]
fn docker_does_not_drain() {
    let world = World::new(Role::Manager, 1, 0);
    let mut world = World { drain_fails: true, managers_act: false, ..world };
    steps(&mut world, 5);
    assert_eq!(world.decide(), Step::DrainSelf);
    assert_eq!(world.row.as_ref().map(|row| row.state), Some(DepartureState::Requested));
    world.clock.patience_over = true;
    assert!(matches!(world.decide(), Step::Wait { .. }), "{:?}", world.decide());
    world.clock.drain_over = true;
    assert!(matches!(world.decide(), Step::StopTasks { .. }), "{:?}", world.decide());
    steps(&mut world, 5);
    assert!(world.flushes == 1 && world.tasks == 0, "{world:?}");
}

/// The notice is taken back, but the request cannot be, and managers continue with it.
#[test]
fn a_request_that_cannot_be_taken_back_stands() {
    let mut world = read_only(Role::Worker, 1);
    (world.row, world.is_withdrawn) = (Some(row(Role::Worker)), true);
    steps(&mut world, 5);
    assert_eq!(world.decide(), Step::Stay);
    world.clock.patience_over = true;
    assert_ne!(world.decide(), Step::Stay);
    world.row = None;
    assert_eq!(world.decide(), Step::Stay, "there is nothing to take back");
}

#[test]
fn docker_does_not_answer_either() {
    let mut world = read_only(Role::Worker, 1);
    world.docker_up = false;
    steps(&mut world, 5);
    assert_eq!(world.decide(), Step::Request);
    world.clock.docker_over = true;
    assert_eq!(world.decide(), Step::Flush);
    assert_eq!(world.step(), None);
    assert_eq!(world.decide(), Step::Done(Outcome::DockerSilent));
}
