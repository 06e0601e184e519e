//! A departure in a world that answers late, dies and comes back.

use proptest::prelude::*;
use time::OffsetDateTime;

use super::decide::{Blind, Clock, Observed, Outcome, Step, decide, decide_blind};
use super::observe::Flush;
use crate::fact::Fact;
use crate::instance::{Departure, Reason, Role};
use crate::ledger::{DepartureRow, DepartureState};
use crate::swarm::{Availability, LocalNode, LocalState, NodeView, Quorum, RaftView};

/// One node and what surrounds it.
#[derive(Clone, Debug)]
struct World {
    role: Role,
    in_swarm: bool,
    is_manager: bool,
    is_withdrawn: bool,
    row: Option<DepartureRow>,
    ledger_up: bool,
    /// Managers' skeps act on the row.
    managers_act: bool,
    other_managers: bool,
    drained: bool,
    tasks: usize,
    /// Those that the managers still list: they hear later of a task's end.
    listed: usize,
    standalone: usize,
    /// Those that stop after the flush.
    late: usize,
    /// A container that Docker cannot kill: it stays, whatever is asked.
    is_stuck: bool,
    /// Whether this node is a member can be told: by this process, or by the ledger.
    is_known: bool,
    /// Its own member row.
    is_recorded: bool,
    docker_up: bool,
    flush: Flush,
    clock: Clock,
    left: usize,
    flushes: usize,
    /// Steps that have failed to stop what is stuck.
    futile: usize,
}

#[derive(Clone, Copy, Debug)]
enum Event {
    Step,
    TaskStops,
    /// The managers hear of it.
    ListFollows,
    ManagersAct(bool),
    Ledger(bool),
    Others(bool),
    Docker(bool),
    /// skep is killed and starts again: all it remembered is gone.
    Restart,
    PatienceOver,
    DrainOver,
    DockerOver,
    /// Whoever gave the notice takes it back, or gives it again.
    Withdraw(bool),
}

pub fn row(role: Role) -> DepartureRow {
    let now = OffsetDateTime::UNIX_EPOCH;
    let departure = Departure { reason: Reason::Lifecycle, noticed_at: now, deadline: now };
    DepartureRow::request("i-1", "node", role, &departure, "boot")
}

/// A host's own word.
pub fn local(in_swarm: bool, is_manager: bool) -> LocalNode {
    LocalNode {
        state: if in_swarm { LocalState::Active } else { LocalState::Inactive },
        node_id: in_swarm.then(|| "node".into()),
        swarm_id: None,
        is_manager,
        has_managers: true,
        managers: vec![],
        error: String::new(),
        address: None,
        live_restore: false,
    }
}

/// A drained entry of the node list.
pub fn listed(role: Role, raft: Option<RaftView>) -> NodeView {
    NodeView {
        id: "node".into(),
        hostname: String::new(),
        engine: None,
        joined_at: None,
        state: "ready".into(),
        availability: Availability::Drain,
        labels: Default::default(),
        role,
        address: None,
        raft,
    }
}

impl World {
    fn new(role: Role, tasks: usize, standalone: usize) -> Self {
        Self {
            role,
            in_swarm: true,
            is_manager: role == Role::Manager,
            is_withdrawn: false,
            row: None,
            ledger_up: true,
            managers_act: true,
            other_managers: true,
            drained: false,
            tasks,
            listed: tasks,
            standalone,
            late: standalone,
            is_stuck: false,
            is_known: true,
            is_recorded: true,
            docker_up: true,
            flush: Flush::NotYet,
            clock: Clock::default(),
            left: 0,
            flushes: 0,
            futile: 0,
        }
    }

    fn ours(&self) -> Fact {
        if self.is_known || self.ledger_up { Fact::Yes } else { Fact::CannotTell }
    }

    fn decide(&self) -> Step {
        if self.docker_up {
            return decide(self.role, &self.look());
        }
        decide_blind(&Blind {
            row: self.row.clone().filter(|_| self.ledger_up),
            is_ledger_readable: self.ledger_up,
            is_member_known: self.is_known,
            is_flushed: self.flush != Flush::NotYet,
            clock: self.clock,
        })
    }

    fn look(&self) -> Observed {
        Observed {
            local: local(self.in_swarm, self.is_manager),
            is_withdrawn: self.is_withdrawn,
            ours: self.ours(),
            was_member: self.is_known || self.ledger_up && self.is_recorded,
            row: self.row.clone().filter(|_| self.ledger_up),
            is_ledger_readable: self.ledger_up,
            node: self.is_manager.then(|| {
                let raft = Some(RaftView { is_leader: true, is_reachable: true });
                let availability =
                    if self.drained { Availability::Drain } else { Availability::Active };
                NodeView { availability, ..listed(Role::Manager, raft) }
            }),
            task_containers: self.tasks,
            standalone_containers: self.standalone,
            late_containers: self.late,
            listed_tasks: self.is_manager.then_some(self.listed),
            is_flushed: self.flush.counts(&self.clock),
            is_last_manager: self.is_manager && !self.other_managers,
            quorum: Quorum { managers: 3, reachable: 3 },
            is_other_going: false,
            clock: self.clock,
        }
    }

    /// A member that has not begun to leave but for its tasks, and that can say so.
    fn is_as_it_was(&self) -> bool {
        let is_out = |row: &DepartureRow| row.demoted || row.state >= DepartureState::Left;
        self.docker_up
            && self.in_swarm
            && self.is_manager == (self.role == Role::Manager)
            && self.ledger_up
            && !self.row.as_ref().is_some_and(is_out)
    }

    /// What a manager's skep does about the row.
    fn managers(&mut self) {
        let Some(row) = self.row.as_mut().filter(|_| self.managers_act && self.ledger_up) else {
            return;
        };
        row.demoted |= self.role == Role::Manager && !self.is_manager;
        row.state = match row.state {
            DepartureState::Requested => {
                self.drained = true;
                DepartureState::Draining
            }
            DepartureState::Draining if self.listed == 0 => DepartureState::Drained,
            DepartureState::Left => DepartureState::Removed,
            state => state,
        };
    }

    fn step(&mut self) -> Option<Outcome> {
        let step = self.decide();
        match step {
            Step::Done(outcome) => return Some(outcome),
            Step::Request => self.row = self.row.take().or_else(|| Some(row(self.role))),
            Step::DrainSelf => self.drained = true,
            Step::MarkDrained => self.row.as_mut().unwrap().state = DepartureState::Drained,
            Step::StopTasks { .. } if self.is_stuck => self.futile += 1,
            Step::StopTasks { .. } => self.tasks = 0,
            Step::StopStandalone if self.is_stuck => self.futile += 1,
            Step::StopStandalone => self.standalone = 0,
            Step::StopLate if self.is_stuck => self.futile += 1,
            Step::StopLate => {
                assert!(self.flushes > 0, "a shipper was stopped before the flush");
                self.late = 0;
            }
            Step::Flush => {
                let is_hopeless = self.clock.stop_over && (self.is_stuck || !self.docker_up)
                    || self.clock.docker_over;
                assert!(self.tasks == 0 || is_hopeless, "flushed before the last task had stopped");
                let is_hurried = self.clock.patience_over || self.clock.drain_over;
                let is_inside = self.in_swarm && self.docker_up && self.ours() == Fact::Yes;
                assert!(self.listed == 0 || is_hurried || !is_inside, "managers still list a task");
                self.flush = if self.docker_up { Flush::Whole } else { Flush::Blind };
                self.flushes += 1;
            }
            Step::Demote { .. } => {
                assert!(self.other_managers, "the last manager was demoted");
                self.is_manager = false;
            }
            Step::Leave | Step::LeaveLast => {
                assert_eq!(self.is_manager, step == Step::LeaveLast, "a raft member left");
                assert!(step == Step::Leave || !self.other_managers, "it was not the last");
                assert!(self.flushes > 0, "left before the logs were flushed");
                assert!(self.tasks == 0 || self.is_stuck, "left with live tasks");
                let is_confirmed = self.row.as_ref().is_some_and(|row| row.demoted);
                let needs_no_word = self.role == Role::Worker || step == Step::LeaveLast;
                assert!(
                    needs_no_word || is_confirmed || self.clock.confirmation_over,
                    "left before another manager had confirmed the demotion"
                );
                assert_eq!(self.ours(), Fact::Yes, "left a swarm that may be another cluster's");
                (self.in_swarm, self.is_manager) = (false, false);
                self.left += 1;
            }
            Step::MarkLeft => {
                self.row.as_mut().unwrap().state = DepartureState::Left;
                self.is_recorded = false;
            }
            Step::Stay => {
                self.row = None;
                return Some(Outcome::Stayed);
            }
            Step::LeaveUnsettled => panic!("it had settled"),
            Step::Wait { .. } => {}
        }
        None
    }

    fn happen(&mut self, event: Event) -> Option<Outcome> {
        match event {
            Event::Step => {
                self.managers();
                return self.step();
            }
            Event::TaskStops if self.drained && !self.is_stuck => {
                self.tasks = self.tasks.saturating_sub(1)
            }
            Event::TaskStops => {}
            Event::ListFollows => self.listed = self.tasks,
            Event::ManagersAct(act) => self.managers_act = act,
            Event::Ledger(up) => self.ledger_up = up,
            Event::Others(there) => self.other_managers = there,
            Event::Docker(up) => self.docker_up = up,
            // It knows the swarm's id by the certificate, and the charter by the ledger.
            Event::Restart => (self.flush, self.is_known) = (Flush::NotYet, false),
            Event::PatienceOver => self.clock.patience_over = true,
            Event::Withdraw(is_withdrawn) => self.is_withdrawn = is_withdrawn,
            Event::DrainOver => (self.clock.patience_over, self.clock.drain_over) = (true, true),
            Event::DockerOver => self.clock.docker_over = !self.docker_up,
        }
        None
    }
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        8 => Just(Event::Step),
        4 => Just(Event::TaskStops),
        3 => Just(Event::ListFollows),
        1 => any::<bool>().prop_map(Event::ManagersAct),
        1 => any::<bool>().prop_map(Event::Ledger),
        1 => any::<bool>().prop_map(Event::Others),
        1 => any::<bool>().prop_map(Event::Docker),
        1 => Just(Event::Restart),
        1 => Just(Event::PatienceOver),
        1 => Just(Event::DrainOver),
        1 => Just(Event::DockerOver),
        1 => any::<bool>().prop_map(Event::Withdraw),
    ];
    prop::collection::vec(event, 0..80)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// Whatever happens on the way: no raft member leaves, nothing leaves with live tasks or
    /// unflushed, leaving twice is leaving once, and every departure ends.
    #[test]
    fn every_departure_ends_and_loses_nothing(
        is_manager in any::<bool>(),
        tasks in 0usize..4,
        standalone in 0usize..2,
        is_stuck in any::<bool>(),
        events in events(),
    ) {
        let role = if is_manager { Role::Manager } else { Role::Worker };
        let mut world = World { is_stuck, ..World::new(role, tasks, standalone) };
        for event in events {
            prop_assert_eq!(
                world.decide() == Step::Stay,
                world.is_withdrawn && world.is_as_it_was(),
                "{:?}", world
            );
            world.happen(event);
        }
        // From here on time runs out, share by share, as it does.
        for share in 0..8 {
            match share {
                1 => world.clock.patience_over = true,
                2 => world.clock.drain_over = true,
                3 => world.clock.stop_over = true,
                4 => (world.clock.confirmation_over, world.clock.relief_over) = (true, true),
                5 => world.clock.ledger_over = true,
                6 => world.clock.leave_due = true,
                7 => world.clock.over = true,
                _ => {}
            }
            for _ in 0..20 {
                world.happen(Event::Step);
            }
        }
        let outcome = world.step();
        prop_assert!(outcome.is_some(), "{:?}", world.decide());
        // Only who never was a member has nothing to leave.
        prop_assert!(outcome != Some(Outcome::NothingToLeave), "{:?}", world);
        // Whatever does not stop: flushing had its turn where Docker answered or time was left.
        prop_assert!(world.flushes > 0 || outcome == Some(Outcome::Stayed), "{:?}", world);
        prop_assert!(world.left <= 1);
        let stays = [Outcome::TooLate, Outcome::DockerSilent, Outcome::Stayed];
        prop_assert!(!world.in_swarm || outcome.is_some_and(|outcome| stays.contains(&outcome)));
        // Taken back in time, it has lost nothing that counts.
        prop_assert!(outcome != Some(Outcome::Stayed) || world.is_as_it_was());
    }

    /// With managers that answer and tasks that stop, nobody's patience is needed.
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

#[test]
fn a_node_that_never_joined_leaves_as_if_it_had_not() {
    let mut world = World::new(Role::Worker, 0, 0);
    (world.in_swarm, world.flush) = (false, Flush::Whole);
    (world.is_known, world.is_recorded) = (false, false);
    assert_eq!(world.step(), Some(Outcome::NothingToLeave));
}

/// An operator's deadline is over: the machine stays, and the node with it; any other deadline ends the machine.
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
    // What /info says of one.
    seen.local.state = LocalState::Locked;
    (seen.local.is_manager, seen.node) = (false, None);
    seen.clock.leave_due = true;
    assert!(matches!(decide(Role::Manager, &seen), Step::Wait { .. }));
    seen.clock.over = true;
    assert_eq!(decide(Role::Manager, &seen), Step::Done(Outcome::TooLate));
}

/// A swarm that may be another cluster's, or has no leader, is nothing that a node has left.
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

/// A node that left while the ledger was down says so once it answers, and is taken off the list.
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

/// With Docker down the request is written all the same, and logs are flushed in time.
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
    assert_eq!(world.decide(), Step::Flush, "what tasks have written is not lost");
    assert_eq!(world.step(), None);
    assert_eq!(world.decide(), Step::Done(Outcome::DockerSilent));
    world.docker_up = true;
    assert!(!matches!(world.decide(), Step::Done(_)), "it came back");
}

/// What cannot be stopped uses up draining's share and no other.
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
            // What is stuck after the flush, too, uses up the rest of flushing's share.
            world.clock.leave_due |= world.flushes > 0;
            world.happen(Event::Step)
        });
        assert_eq!(ended, Some(Outcome::Left), "{world:?}");
        assert_eq!((world.flushes, world.left), (1, 1));
    }
}
