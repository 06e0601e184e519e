//! A departure in a world that answers late, dies and comes back.

use proptest::prelude::*;
use time::OffsetDateTime;

use super::decide::{Clock, Observed, Outcome, Step, decide};
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
    standalone: usize,
    flushed: bool,
    clock: Clock,
    left: usize,
    flushes: usize,
}

#[derive(Clone, Copy, Debug)]
enum Event {
    Step,
    TaskStops,
    ManagersAct(bool),
    Ledger(bool),
    Others(bool),
    /// skep is killed and starts again: all it remembered is gone.
    Restart,
    PatienceOver,
    DrainOver,
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
            standalone,
            flushed: false,
            clock: Clock::default(),
            left: 0,
            flushes: 0,
        }
    }

    fn look(&self) -> Observed {
        Observed {
            local: local(self.in_swarm, self.is_manager),
            is_withdrawn: self.is_withdrawn,
            is_ours: true,
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
            listed_tasks: self.is_manager.then_some(self.tasks),
            is_flushed: self.flushed,
            is_last_manager: self.is_manager && !self.other_managers,
            quorum: Quorum { managers: 3, reachable: 3 },
            is_other_going: false,
            clock: self.clock,
        }
    }

    /// A member that has not begun to leave but for its tasks, and that can say so.
    fn is_as_it_was(&self) -> bool {
        let is_out = |row: &DepartureRow| row.demoted || row.state >= DepartureState::Left;
        self.in_swarm
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
            DepartureState::Draining if self.tasks == 0 => DepartureState::Drained,
            DepartureState::Left => DepartureState::Removed,
            state => state,
        };
    }

    fn step(&mut self) -> Option<Outcome> {
        let step = decide(self.role, &self.look());
        match step {
            Step::Done(outcome) => return Some(outcome),
            Step::Request => self.row = self.row.take().or_else(|| Some(row(self.role))),
            Step::DrainSelf => self.drained = true,
            Step::MarkDrained => self.row.as_mut().unwrap().state = DepartureState::Drained,
            Step::StopTasks { .. } => self.tasks = 0,
            Step::StopStandalone => self.standalone = 0,
            Step::Flush => {
                assert_eq!(self.tasks, 0, "flushed before the last task had stopped");
                self.flushed = true;
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
                assert_eq!(self.tasks, 0, "left with live tasks");
                (self.in_swarm, self.is_manager) = (false, false);
                self.left += 1;
            }
            Step::MarkLeft => self.row.as_mut().unwrap().state = DepartureState::Left,
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
            Event::TaskStops if self.drained => self.tasks = self.tasks.saturating_sub(1),
            Event::TaskStops => {}
            Event::ManagersAct(act) => self.managers_act = act,
            Event::Ledger(up) => self.ledger_up = up,
            Event::Others(there) => self.other_managers = there,
            Event::Restart => self.flushed = false,
            Event::PatienceOver => self.clock.patience_over = true,
            Event::Withdraw(is_withdrawn) => self.is_withdrawn = is_withdrawn,
            Event::DrainOver => (self.clock.patience_over, self.clock.drain_over) = (true, true),
        }
        None
    }
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        8 => Just(Event::Step),
        4 => Just(Event::TaskStops),
        1 => any::<bool>().prop_map(Event::ManagersAct),
        1 => any::<bool>().prop_map(Event::Ledger),
        1 => any::<bool>().prop_map(Event::Others),
        1 => Just(Event::Restart),
        1 => Just(Event::PatienceOver),
        1 => Just(Event::DrainOver),
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
        events in events(),
    ) {
        let role = if is_manager { Role::Manager } else { Role::Worker };
        let mut world = World::new(role, tasks, standalone);
        for event in events {
            prop_assert_eq!(
                decide(role, &world.look()) == Step::Stay,
                world.is_withdrawn && world.is_as_it_was(),
                "{:?}", world
            );
            world.happen(event);
        }
        // From here on time runs out, share by share, as it does.
        for share in 0..6 {
            match share {
                1 => world.clock.patience_over = true,
                2 => world.clock.drain_over = true,
                3 => (world.clock.confirmation_over, world.clock.relief_over) = (true, true),
                4 => world.clock.leave_due = true,
                5 => world.clock.over = true,
                _ => {}
            }
            for _ in 0..20 {
                world.happen(Event::Step);
            }
        }
        let outcome = world.step();
        prop_assert!(outcome.is_some(), "{:?}", decide(role, &world.look()));
        prop_assert!(world.left <= 1);
        let stays = [Outcome::TooLate, Outcome::Stayed];
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
    (world.in_swarm, world.flushed) = (false, true);
    assert_eq!(world.step(), Some(Outcome::NothingToLeave));
}

#[test]
fn a_foreign_swarm_is_not_left() {
    let world = World::new(Role::Worker, 0, 0);
    let seen = Observed { is_ours: false, is_flushed: true, ..world.look() };
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
