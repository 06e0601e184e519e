//! Tests several managers that leave, die and come back, each of which decides for itself.

use proptest::prelude::*;

use super::decide::{Clock, Observed, Outcome, Step, decide};
use super::tests::{listed, local, row};
use super::traffic::Wait;
use super::which_swarm::Lookup;
use crate::clients::docker::{NodeView, Quorum, RaftView};
use crate::clients::ledger::{DepartureRow, DepartureState};
use crate::common::fact::Fact;
use crate::common::instance::Role;

/// More managers make no sense in a swarm.
const MOST_MANAGERS: usize = 7;

#[derive(Clone, Debug)]
struct Manager {
    /// A member of raft.
    is_member: bool,
    is_alive: bool,
    /// Docker has accepted its demotion; raft has not carried it out yet.
    is_going: bool,
    in_swarm: bool,
    /// Its departure, which is past draining and flushing.
    row: Option<DepartureRow>,
    clock: Clock,
    /// Its last observation, which may be old.
    seen: Option<Observed>,
    outcome: Option<Outcome>,
}

/// The true state of raft and Docker, and the lease in the ledger.
#[derive(Clone, Debug)]
struct Swarm {
    managers: Vec<Manager>,
    turn: Option<usize>,
    is_ledger_up: bool,
    /// The ledger refuses every write.
    is_ledger_read_only: bool,
    closed: usize,
    /// Two demotions were under way at the same time.
    is_crowded: bool,
    /// Demotions that Docker refused because they would lose the quorum.
    refused: usize,
}

#[derive(Clone, Copy, Debug)]
enum Event {
    Told(usize),
    Dies(usize),
    Back(usize),
    /// Auto Scaling does not list it any more: another manager's skep removes it from raft, under the lease.
    Buried(usize),
    Joins,
    /// An operator demotes it, or promotes it again.
    DemotedByHand(usize),
    PromotedByHand(usize),
    Looks(usize),
    /// By its last observation.
    Acts(usize),
    RaftFollows(usize),
    LeaseEnds,
    Ledger(bool),
    LedgerReadOnly(bool),
    LeaveDue(usize),
}

impl Manager {
    fn new() -> Self {
        Self {
            is_member: true,
            is_alive: true,
            is_going: false,
            in_swarm: true,
            row: None,
            clock: Clock::default(),
            seen: None,
            outcome: None,
        }
    }

    fn raft(&self) -> Option<RaftView> {
        self.is_member.then_some(RaftView { is_leader: false, is_reachable: self.is_alive })
    }

    fn listed(&self) -> NodeView {
        listed(if self.is_going { Role::Worker } else { Role::Manager }, self.raft())
    }

    fn is_leaving(&self) -> bool {
        self.row.is_some() && self.outcome.is_none()
    }
}

impl Swarm {
    fn new(managers: usize) -> Self {
        Self {
            managers: vec![Manager::new(); managers],
            turn: None,
            is_ledger_up: true,
            is_ledger_read_only: false,
            closed: 0,
            is_crowded: false,
            refused: 0,
        }
    }

    fn quorum(&self) -> Quorum {
        Quorum::of(&self.managers.iter().map(Manager::listed).collect::<Vec<_>>())
    }

    fn look(&self, one: usize) -> Observed {
        let manager = &self.managers[one];
        let others = || self.managers.iter().enumerate().filter(|(other, _)| *other != one);
        // Without a leader, or without a connection to it, a manager cannot observe the swarm.
        let knows = manager.is_member && manager.is_alive && self.quorum().is_kept();
        Observed {
            local: local(manager.in_swarm, manager.is_member),
            is_withdrawn: false,
            ours: Fact::Yes,
            certified: Lookup::CannotTell,
            is_joining: Fact::No,
            was_member: true,
            row: manager.row.clone().filter(|_| self.is_ledger_up),
            is_ledger_readable: self.is_ledger_up,
            is_write_failing: self.is_ledger_read_only,
            is_drain_failing: false,
            traffic: Wait::Over,
            awaits_turn: false,
            node: knows.then(|| manager.listed()),
            task_containers: 0,
            standalone_containers: 0,
            late_containers: 0,
            listed_tasks: knows.then_some(0),
            is_flushed: true,
            is_last_manager: knows && others().all(|(_, other)| !other.is_member),
            quorum: if knows { self.quorum() } else { Quorum::default() },
            is_other_going: knows && others().any(|(_, other)| other.is_going),
            clock: manager.clock,
        }
    }

    /// Docker's own safeguard, at the request and again when raft carries it out.
    fn may_remove(&self, one: usize) -> bool {
        let own = self.managers[one].raft();
        self.quorum().is_kept() && own.is_some_and(|own| self.quorum().without(own).is_kept())
    }

    /// Returns `false` if Docker refuses.
    fn demote(&mut self, one: usize) -> bool {
        if !self.managers[one].is_member || self.managers[one].is_going {
            return true;
        }
        if !self.may_remove(one) {
            self.refused += 1;
            return false;
        }
        self.is_crowded |= self.managers.iter().any(|manager| manager.is_going);
        self.managers[one].is_going = true;
        true
    }

    fn demote_under_lease(&mut self, one: usize) {
        if *self.turn.get_or_insert(one) == one && !self.demote(one) {
            self.turn = None;
        }
    }

    fn return_lease(&mut self, one: usize) {
        self.turn = self.turn.filter(|whose| *whose != one);
    }

    fn raft_follows(&mut self, one: usize) {
        if self.managers[one].is_going && self.may_remove(one) {
            let manager = &mut self.managers[one];
            (manager.is_member, manager.is_going) = (false, false);
            if let Some(row) = &mut manager.row {
                row.demoted |= !self.is_ledger_read_only;
            } else {
                // It was dead: the manager that removed it returns the lease.
                self.return_lease(one);
            }
        }
    }

    fn act(&mut self, one: usize) {
        let Some(seen) = self.managers[one].seen.clone() else { return };
        let manager = &mut self.managers[one];
        match decide(Role::Manager, &seen) {
            Step::Done(outcome) => manager.outcome = Some(outcome),
            // If the lease cannot be written, the demotion runs without it.
            Step::Demote { in_turn: true } if self.is_ledger_read_only => drop(self.demote(one)),
            Step::Demote { in_turn: true } => self.demote_under_lease(one),
            Step::Demote { in_turn: false } => drop(self.demote(one)),
            Step::Leave if manager.is_member => {
                // Promoted by hand since that observation: Docker refuses.
                assert!(!seen.local.is_manager, "a member of raft left");
            }
            Step::Leave => manager.in_swarm = false,
            // It closes the charter first.
            Step::LeaveLast if self.is_ledger_read_only => {}
            Step::LeaveLast => {
                (manager.is_member, manager.in_swarm) = (false, false);
                self.closed += 1;
            }
            Step::MarkLeft if self.is_ledger_read_only => {}
            Step::MarkLeft => {
                manager.row.as_mut().unwrap().state = DepartureState::Left;
                self.return_lease(one);
            }
            // The world begins after draining and flushing; without the ledger there is no row.
            Step::Wait { .. } | Step::Request | Step::Flush => {}
            step => panic!("{step:?}"),
        }
    }

    /// Observes and acts at once; then the other managers act.
    fn step(&mut self, one: usize) {
        if !self.managers[one].is_leaving() {
            return;
        }
        self.managers[one].seen = Some(self.look(one));
        self.act(one);
        let is_seen = self.quorum().is_kept() && self.is_ledger_up && !self.is_ledger_read_only;
        let Manager { is_member, row, .. } = &mut self.managers[one];
        if let Some(row) = row.as_mut().filter(|_| is_seen) {
            row.demoted |= !*is_member;
            if row.state == DepartureState::Left {
                row.state = DepartureState::Removed;
            }
        }
    }

    fn told(&mut self, one: usize) {
        let row = self.managers[one].row.get_or_insert_with(|| row(Role::Manager));
        row.state = row.state.max(DepartureState::Drained);
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Told(one) if self.managers[one].in_swarm => self.told(one),
            Event::DemotedByHand(one) => {
                let is_going = self.managers[one].is_going;
                self.managers[one].is_going = is_going || self.may_remove(one);
            }
            Event::PromotedByHand(one) if self.quorum().is_kept() => {
                let manager = &mut self.managers[one];
                if manager.is_alive && manager.in_swarm {
                    (manager.is_member, manager.is_going) = (true, false);
                }
            }
            Event::Dies(one) => self.managers[one].is_alive = false,
            Event::Back(one) => self.managers[one].is_alive = true,
            Event::Buried(one) => {
                let dead = &self.managers[one];
                if dead.is_member && !dead.is_alive && dead.row.is_none() {
                    self.demote_under_lease(one);
                }
            }
            Event::Joins if self.quorum().is_kept() => {
                if let Some(free) =
                    self.managers.iter_mut().find(|one| !one.is_member && !one.is_leaving())
                {
                    *free = Manager::new();
                }
            }
            Event::Looks(one) if self.managers[one].is_leaving() => {
                self.managers[one].seen = Some(self.look(one));
            }
            // An observation by which the last one would leave is fresh: its time limit is minutes.
            Event::Acts(one)
                if self.managers[one].is_leaving() && !self.look(one).is_last_manager =>
            {
                let seen = self.managers[one].seen.as_ref();
                if seen.is_some_and(|seen| !seen.is_last_manager) {
                    self.act(one);
                }
            }
            Event::RaftFollows(one) => self.raft_follows(one),
            Event::LeaseEnds => self.turn = None,
            Event::Ledger(up) => self.is_ledger_up = up,
            Event::LedgerReadOnly(read_only) => self.is_ledger_read_only = read_only,
            Event::LeaveDue(one) => self.managers[one].clock.leave_due = true,
            Event::Told(_) | Event::Joins | Event::PromotedByHand(_) => {}
            Event::Looks(_) | Event::Acts(_) => {}
        }
    }

    /// Every manager acts on fresh observations.
    fn settle(&mut self) {
        for _ in 0..8 * self.managers.len() {
            for one in 0..self.managers.len() {
                self.step(one);
                self.raft_follows(one);
            }
        }
    }

    fn all(&mut self, change: impl Fn(&mut Manager)) {
        self.managers.iter_mut().for_each(change);
    }
}

fn event(managers: usize) -> impl Strategy<Value = Event> {
    let one = 0..managers;
    prop_oneof![
        3 => one.clone().prop_map(Event::Told),
        2 => one.clone().prop_map(Event::Dies),
        2 => one.clone().prop_map(Event::Back),
        2 => one.clone().prop_map(Event::Buried),
        1 => Just(Event::Joins),
        1 => one.clone().prop_map(Event::DemotedByHand),
        1 => one.clone().prop_map(Event::PromotedByHand),
        6 => one.clone().prop_map(Event::Looks),
        6 => one.clone().prop_map(Event::Acts),
        4 => one.clone().prop_map(Event::RaftFollows),
        1 => Just(Event::LeaseEnds),
        1 => any::<bool>().prop_map(Event::Ledger),
        1 => any::<bool>().prop_map(Event::LedgerReadOnly),
        1 => one.prop_map(Event::LeaveDue),
    ]
}

fn swarms() -> impl Strategy<Value = (usize, Vec<Event>)> {
    (1..=MOST_MANAGERS)
        .prop_flat_map(|size| (Just(size), prop::collection::vec(event(size), 0..120)))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// With old observations, dead ledgers and leases that expire, no act of skep loses the quorum, and every departure
    /// ends with its time.
    #[test]
    fn the_quorum_is_never_lost_by_skep((size, events) in swarms()) {
        let mut swarm = Swarm::new(size);
        for event in events {
            let was_kept = swarm.quorum().is_kept();
            swarm.happen(event);
            let is_skeps = matches!(event, Event::Acts(_) | Event::Buried(_) | Event::RaftFollows(_));
            prop_assert!(!is_skeps || !was_kept || swarm.quorum().is_kept(), "{event:?}");
        }
        swarm.settle();
        swarm.all(|one| (one.clock.confirmation_over, one.clock.replacement_wait_over) = (true, true));
        swarm.settle();
        swarm.all(|one| one.clock.leave_due = true);
        swarm.settle();
        swarm.all(|one| one.clock.over = true);
        swarm.settle();
        for one in &swarm.managers {
            prop_assert!(!one.is_leaving(), "{one:?}");
        }
        prop_assert!(swarm.closed <= 1);
    }

    /// While leases last and the ledger answers, one demotion is under way at a time; and with fresh observations, skep
    /// never requests one that would lose the quorum.
    #[test]
    fn one_manager_goes_at_a_time((size, events) in swarms(), is_fresh in any::<bool>()) {
        let mut swarm = Swarm::new(size);
        for event in events {
            match event {
                Event::Acts(one) | Event::Looks(one) if is_fresh => swarm.step(one),
                // Other managers' skeps request these.
                Event::Buried(one) if is_fresh && !swarm.may_remove(one) => {}
                Event::LeaseEnds | Event::LeaveDue(_) => {}
                // An operator takes no lease.
                Event::DemotedByHand(_) | Event::PromotedByHand(_) => {}
                Event::Ledger(_) | Event::LedgerReadOnly(_) => {}
                event => swarm.happen(event),
            }
            prop_assert!(!is_fresh || swarm.refused == 0, "{event:?}");
            prop_assert!(!swarm.is_crowded, "{event:?}");
        }
    }

    /// Every dead manager comes back or is removed: then no time limit has to pass.
    #[test]
    fn those_that_may_go_do((size, events) in swarms(), buries in any::<bool>()) {
        let mut swarm = Swarm::new(size);
        for event in events {
            match event {
                Event::LeaveDue(_) | Event::Ledger(_) | Event::LedgerReadOnly(_) => {}
                event => swarm.happen(event),
            }
        }
        for one in 0..size {
            if !(buries && swarm.managers[one].row.is_none() && swarm.quorum().is_kept()) {
                swarm.happen(Event::Back(one));
            }
        }
        // One manager has to stay, or the last one waits for a replacement.
        let stays = |one: &Manager| {
            one.is_member && one.is_alive && !one.is_going && one.row.is_none()
        };
        prop_assume!(swarm.managers.iter().any(stays));
        for _ in 0..4 {
            swarm.happen(Event::LeaseEnds);
            for one in 0..size {
                swarm.happen(Event::Buried(one));
                swarm.happen(Event::RaftFollows(one));
            }
            swarm.settle();
        }
        for one in swarm.managers.iter().filter(|one| one.row.is_some()) {
            prop_assert_eq!(one.outcome, Some(Outcome::Left));
        }
        prop_assert_eq!(swarm.closed, 0);
    }

    /// The cluster is deleted: all managers leave, and the last one closes the charter.
    #[test]
    fn when_all_are_told_all_go(size in 1..=MOST_MANAGERS) {
        let mut swarm = Swarm::new(size);
        (0..size).for_each(|one| swarm.told(one));
        swarm.settle();
        prop_assert_eq!(swarm.closed, 0, "the last one waits for a replacement");
        prop_assert_eq!(swarm.quorum().managers, 1);
        swarm.all(|one| (one.clock.replacement_wait_over, one.clock.confirmation_over) = (true, true));
        swarm.settle();
        prop_assert_eq!(swarm.closed, 1);
        prop_assert!(swarm.managers.iter().all(|one| !one.in_swarm && one.outcome.is_some()));
        prop_assert!(!swarm.is_crowded);
    }
}

#[test]
fn it_says_what_it_waits_for() {
    let mut swarm = Swarm::new(3);
    swarm.told(0);
    swarm.managers[1].is_alive = false;
    let Step::Wait { why } = decide(Role::Manager, &swarm.look(0)) else { panic!("it leaves") };
    assert!(why.starts_with("a replacement: 3 managers, 2 reachable"), "{why}");
    swarm.managers[1].is_alive = true;
    assert_eq!(decide(Role::Manager, &swarm.look(0)), Step::Demote { in_turn: true });
    swarm.managers[1].is_going = true;
    let Step::Wait { why } = decide(Role::Manager, &swarm.look(0)) else { panic!("it leaves") };
    assert!(why.contains("another manager to take effect"), "{why}");
}
