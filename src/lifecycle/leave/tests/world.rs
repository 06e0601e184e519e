//! Simulates one node and its surroundings: Docker, the ledger, the managers. It decides with the shipped `decide`.

use std::time::Duration;

use time::OffsetDateTime;

use crate::clients::docker::{Availability, LocalNode, LocalState, NodeView, Quorum, RaftView};
use crate::clients::ledger::{Charter, CharterPhase, DepartureRow, DepartureState, Traces};
use crate::common::fact::Fact;
use crate::common::instance::{Departure, Reason, Role};
use crate::lifecycle::leave::decide::{
    Blind, Clock, Observed, Outcome, Step, decide, decide_blind,
};
use crate::lifecycle::leave::memory::Flush;
use crate::lifecycle::leave::traffic::Wait;
use crate::lifecycle::leave::which_swarm::{Evidence, Lookup, judge};

const SWARM: &str = "swarm";

/// One node and its surroundings.
#[derive(Clone, Debug)]
pub struct World {
    pub role: Role,
    pub in_swarm: bool,
    /// Docker's answer, while the node is in the swarm or joins it.
    pub state: LocalState,
    /// A member of raft, whatever Docker reports.
    pub is_manager: bool,
    /// The node has its certificate.
    pub is_certified: bool,
    pub is_certificate_readable: bool,
    /// The ledger has an attempt: the node has started to join, and was never Ready.
    pub is_joining: bool,
    pub is_withdrawn: bool,
    pub row: Option<DepartureRow>,
    pub ledger_up: bool,
    /// The ledger refuses every write.
    pub read_only: bool,
    /// This process has seen a refused write.
    pub is_write_failing: bool,
    /// Docker refuses to drain this manager.
    pub drain_fails: bool,
    pub is_drain_failing: bool,
    pub has_charter: bool,
    /// Managers' skeps act on the row.
    pub managers_act: bool,
    pub other_managers: bool,
    pub drained: bool,
    pub paused: bool,
    /// Whether a load balancer may still send requests.
    pub traffic: Wait,
    pub tasks: usize,
    /// Tasks that the managers still list: they learn later that a task has ended.
    pub listed: usize,
    pub standalone: usize,
    /// Containers that stop after the flush.
    pub late: usize,
    /// A container that Docker cannot kill: it never stops.
    pub is_stuck: bool,
    /// This process knows that the node is a member.
    pub is_known: bool,
    /// The node has a member row.
    pub is_recorded: bool,
    pub docker_up: bool,
    pub flush: Flush,
    pub clock: Clock,
    pub left: usize,
    pub flushes: usize,
    /// Steps that failed to stop a stuck container.
    pub futile: usize,
}

#[derive(Clone, Copy, Debug)]
pub enum Event {
    Step,
    TaskStops,
    /// The managers learn of it.
    ListFollows,
    ManagersAct(bool),
    Ledger(bool),
    LedgerReadOnly(bool),
    DrainFails(bool),
    /// The last failures were long ago: the node tries again.
    Retry,
    /// The charter is deleted, or published again.
    Charter(bool),
    /// The node's member row is deleted.
    RowGone,
    Others(bool),
    /// By an operator.
    PromotedByHand,
    DemotedByHand,
    Docker(bool),
    State(LocalState),
    /// skep is killed and starts again, without its memory.
    Restart,
    PatienceOver,
    TrafficOver,
    /// The traffic ends, or a balancer is found to need the node until it leaves.
    Traffic(Wait),
    DrainOver,
    SettleOver,
    DockerOver,
    /// The notice is taken back, or given again.
    Withdraw(bool),
}

pub fn row(role: Role) -> DepartureRow {
    let now = OffsetDateTime::UNIX_EPOCH;
    let departure = Departure { reason: Reason::Lifecycle, noticed_at: now, deadline: now };
    DepartureRow::request("i-1", "node", role, &departure, "boot")
}

/// Returns an open charter.
pub fn charter(swarm_id: &str) -> Charter {
    let (now, lease) = (OffsetDateTime::UNIX_EPOCH, Duration::from_secs(60));
    let claim = Charter::claim(None, &Traces::default(), "i-9", now, lease);
    Charter { phase: CharterPhase::Open, swarm_id: Some(swarm_id.to_owned()), ..claim }
}

/// Returns the answer of a host's Docker.
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

/// Returns a drained entry of the node list.
pub fn listed(role: Role, raft: Option<RaftView>) -> NodeView {
    NodeView { availability: Availability::Drain, raft, ..NodeView::example("node", role) }
}

impl World {
    pub fn new(role: Role, tasks: usize, standalone: usize) -> Self {
        Self {
            role,
            in_swarm: true,
            state: LocalState::Active,
            is_manager: role == Role::Manager,
            is_certified: true,
            is_certificate_readable: true,
            is_joining: false,
            is_withdrawn: false,
            row: None,
            ledger_up: true,
            read_only: false,
            is_write_failing: false,
            drain_fails: false,
            is_drain_failing: false,
            has_charter: true,
            managers_act: true,
            other_managers: true,
            drained: false,
            paused: false,
            traffic: Wait::Over,
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

    /// A join that continues in the background. Raft counts a manager once it is in, and Docker reports that later.
    pub fn joining(role: Role, is_certified: bool, is_in_raft: bool) -> Self {
        Self {
            state: LocalState::Pending,
            is_manager: role == Role::Manager && is_certified && is_in_raft,
            is_certified,
            is_joining: true,
            is_known: false,
            is_recorded: false,
            ..Self::new(role, 0, 0)
        }
    }

    /// Docker's answer, completed from the certificate.
    pub fn local(&self) -> LocalNode {
        if !self.in_swarm {
            return local(false, false);
        }
        let is_readable = self.is_certified && self.is_certificate_readable;
        let is_named = is_readable || self.is_certified && self.state != LocalState::Error;
        LocalNode {
            state: self.state,
            node_id: is_named.then(|| "node".into()),
            swarm_id: is_readable.then(|| SWARM.into()),
            ..local(true, self.is_manager && self.state == LocalState::Active)
        }
    }

    fn is_settled(&self) -> bool {
        self.in_swarm && self.state == LocalState::Active
    }

    fn is_unsettled(&self) -> bool {
        self.in_swarm && self.state != LocalState::Active
    }

    fn certified(&self) -> Lookup<Role> {
        match (self.is_unsettled() && self.is_certificate_readable, self.is_certified) {
            (false, _) => Lookup::CannotTell,
            (true, false) => Lookup::Nothing,
            (true, true) if self.is_manager => Lookup::Found(Role::Manager),
            // A node that joins with the manager token gets a manager's certificate before raft counts it.
            (true, true) if self.is_joining => Lookup::Found(self.role),
            (true, true) => Lookup::Found(Role::Worker),
        }
    }

    fn evidence(&self) -> Evidence {
        if !self.ledger_up {
            return Evidence::default();
        }
        let charter = self.has_charter.then(|| charter(SWARM));
        let row = self.is_recorded.then(|| "node".to_owned());
        Evidence {
            charter: charter.map_or(Lookup::Nothing, Lookup::Found),
            is_label_ours: Lookup::Found(true),
            row: row.map_or(Lookup::Nothing, Lookup::Found),
            attempt: self.is_joining.into(),
        }
    }

    fn place(&self) -> (Fact, Fact) {
        let local = self.local();
        if !self.in_swarm || self.is_known && local.node_id.is_some() {
            return (Fact::Yes, Fact::No);
        }
        if self.is_unsettled() && self.certified() == Lookup::CannotTell {
            return (Fact::CannotTell, Fact::CannotTell);
        }
        let evidence = self.evidence();
        (judge(&local, &evidence), evidence.is_joining(&local))
    }

    pub fn ours(&self) -> Fact {
        self.place().0
    }

    pub fn decide(&self) -> Step {
        if self.docker_up {
            return decide(self.role, &self.look());
        }
        decide_blind(&Blind {
            row: self.row.clone().filter(|_| self.ledger_up),
            is_ledger_readable: self.ledger_up,
            is_write_failing: self.is_write_failing,
            is_member_known: self.is_known,
            is_flushed: self.flush != Flush::NotYet,
            clock: self.clock,
        })
    }

    pub fn look(&self) -> Observed {
        let local = self.local();
        let (ours, is_joining) = self.place();
        let is_manager = local.is_manager;
        Observed {
            local,
            is_withdrawn: self.is_withdrawn,
            ours,
            certified: self.certified(),
            is_joining,
            was_member: self.is_known || self.ledger_up && self.is_recorded,
            row: self.row.clone().filter(|_| self.ledger_up),
            is_ledger_readable: self.ledger_up,
            is_write_failing: self.is_write_failing,
            is_drain_failing: self.is_drain_failing,
            traffic: self.traffic,
            awaits_turn: false,
            node: is_manager.then(|| {
                let raft = Some(RaftView { is_leader: true, is_reachable: true });
                let availability = match (self.drained, self.paused) {
                    (true, _) => Availability::Drain,
                    (false, true) => Availability::Pause,
                    (false, false) => Availability::Active,
                };
                NodeView { availability, ..listed(Role::Manager, raft) }
            }),
            task_containers: self.tasks,
            standalone_containers: self.standalone,
            late_containers: self.late,
            listed_tasks: is_manager.then_some(self.listed),
            is_flushed: self.flush.counts(&self.clock),
            is_last_manager: is_manager && !self.other_managers,
            quorum: Quorum { managers: 3, reachable: 3 },
            is_other_going: false,
            clock: self.clock,
        }
    }

    fn is_late(&self) -> bool {
        self.clock.patience_over || self.clock.drain_over
    }

    /// Whether the node is a member that has lost nothing but tasks, and can record that.
    pub fn is_as_it_was(&self) -> bool {
        let is_out = |row: &DepartureRow| row.demoted || row.state >= DepartureState::Left;
        let is_request_kept = self.row.is_some() && self.is_write_failing && self.is_late();
        self.docker_up
            && self.in_swarm
            && self.state == LocalState::Active
            && self.ours().is_yes()
            && (self.is_manager || self.role == Role::Worker)
            && self.ledger_up
            && !is_request_kept
            && !self.row.as_ref().is_some_and(is_out)
    }

    /// Acts on the row as a manager's skep does.
    fn managers(&mut self) {
        let can_write = self.managers_act && self.ledger_up && !self.read_only;
        let Some(row) = self.row.as_mut().filter(|_| can_write) else { return };
        row.demoted |= self.role == Role::Manager && !self.is_manager;
        row.state = match row.state {
            DepartureState::Requested if row.hold_until.is_some() && !self.clock.traffic_over => {
                DepartureState::Requested
            }
            DepartureState::Requested => {
                self.drained = true;
                DepartureState::Draining
            }
            DepartureState::Draining if self.listed == 0 => DepartureState::Drained,
            DepartureState::Left => DepartureState::Removed,
            state => state,
        };
    }

    /// Tries a write, and returns whether the ledger accepts it.
    fn write(&mut self) -> bool {
        self.is_write_failing = self.read_only || !self.ledger_up;
        !self.is_write_failing
    }

    pub fn step(&mut self) -> Option<Outcome> {
        let step = self.decide();
        match step {
            Step::Done(outcome) => return Some(outcome),
            Step::Request if self.write() => {
                let is_held = self.docker_up && self.look().is_held();
                let new = || DepartureRow {
                    hold_until: is_held.then_some(OffsetDateTime::UNIX_EPOCH),
                    ..row(self.role)
                };
                self.row = self.row.take().or_else(|| Some(new()));
            }
            Step::PauseSelf => {
                self.is_drain_failing = self.drain_fails;
                self.paused |= !self.drain_fails;
            }
            Step::EndHold if self.write() => {
                assert!(!self.look().is_held(), "the hold ended before the traffic");
                self.row.as_mut().unwrap().hold_until = None;
            }
            Step::EndHold => {}
            Step::EndTraffic => self.traffic = Wait::BeforeLeaving { answers: false },
            Step::DrainSelf => {
                assert!(!self.look().is_held(), "drained before the traffic had ended");
                self.is_drain_failing = self.drain_fails;
                self.drained |= !self.drain_fails;
            }
            Step::MarkDrained if self.write() => {
                self.row.as_mut().unwrap().state = DepartureState::Drained;
            }
            Step::StopTasks { .. } if self.is_stuck => self.futile += 1,
            Step::StopTasks { .. } => {
                let is_member = self.state == LocalState::Active && self.ours().is_yes();
                let is_held = is_member && self.look().is_held();
                assert!(!is_held, "stopped tasks that a balancer sends requests to");
                self.tasks = 0;
            }
            Step::StopStandalone if self.is_stuck => self.futile += 1,
            Step::StopStandalone => self.standalone = 0,
            Step::StopLate if self.is_stuck => self.futile += 1,
            Step::StopLate => {
                assert!(self.flushes > 0, "a shipper was stopped before the flush");
                self.late = 0;
            }
            Step::Flush => self.flush(),
            Step::Demote { .. } => {
                assert!(self.other_managers, "the last manager was demoted");
                self.is_manager = false;
            }
            Step::Leave | Step::LeaveLast => {
                assert_eq!(self.is_manager, step == Step::LeaveLast, "a raft member left");
                assert!(step == Step::Leave || !self.other_managers, "it was not the last");
                let is_balanced = matches!(self.traffic, Wait::BeforeLeaving { .. });
                assert!(!is_balanced || self.clock.leave_due, "left with a balancer that sends");
                let is_confirmed = self.row.as_ref().is_some_and(|row| row.demoted);
                let needs_no_word = self.role == Role::Worker || step == Step::LeaveLast;
                assert!(
                    needs_no_word || is_confirmed || self.clock.confirmation_over,
                    "left before another manager had confirmed the demotion"
                );
                self.leave();
                self.is_known = true;
            }
            Step::LeaveUnsettled => {
                assert!(!self.is_manager, "a raft member left by force");
                self.leave();
            }
            Step::MarkLeft if self.write() => {
                self.row.as_mut().unwrap().state = DepartureState::Left;
                self.is_recorded = false;
            }
            Step::Stay if self.row.is_none() || self.write() => {
                self.row = None;
                return Some(Outcome::Stayed);
            }
            // The ledger refused the write.
            Step::Request | Step::MarkDrained | Step::MarkLeft | Step::Stay => {}
            Step::Wait { .. } => {}
        }
        None
    }

    fn flush(&mut self) {
        let is_hopeless =
            self.clock.stop_over && (self.is_stuck || !self.docker_up) || self.clock.docker_over;
        assert!(self.tasks == 0 || is_hopeless, "flushed before the last task had stopped");
        let is_inside = self.is_settled() && self.docker_up && self.ours() == Fact::Yes;
        assert!(self.listed == 0 || self.is_late() || !is_inside, "managers still list a task");
        self.flush = if self.docker_up { Flush::Whole } else { Flush::Blind };
        self.flushes += 1;
    }

    fn leave(&mut self) {
        assert!(self.flushes > 0, "left before the logs were flushed");
        assert!(self.tasks == 0 || self.is_stuck, "left with live tasks");
        assert_eq!(self.ours(), Fact::Yes, "left a swarm that may be another cluster's");
        (self.in_swarm, self.is_manager) = (false, false);
        self.left += 1;
    }

    pub fn happen(&mut self, event: Event) -> Option<Outcome> {
        match event {
            Event::Step => {
                self.managers();
                return self.step();
            }
            Event::TaskStops if self.drained && !self.is_stuck => {
                self.tasks = self.tasks.saturating_sub(1);
            }
            Event::TaskStops => {}
            Event::ListFollows => self.listed = self.tasks,
            Event::ManagersAct(act) => self.managers_act = act,
            Event::Ledger(up) => self.ledger_up = up,
            Event::LedgerReadOnly(read_only) => self.read_only = read_only,
            Event::DrainFails(fails) => self.drain_fails = fails,
            Event::Retry => (self.is_write_failing, self.is_drain_failing) = (false, false),
            Event::Charter(is_there) => self.has_charter = is_there,
            Event::RowGone => self.is_recorded = false,
            Event::Others(there) => self.other_managers = there,
            Event::PromotedByHand => self.is_manager |= self.is_settled(),
            // Docker refuses to demote the last one.
            Event::DemotedByHand => self.is_manager &= !(self.is_settled() && self.other_managers),
            Event::Docker(up) => self.docker_up = up,
            Event::State(state) => self.docker_says(state),
            // The node still has the swarm's id from the certificate, and the charter from the ledger.
            Event::Restart => {
                (self.flush, self.is_known) = (Flush::NotYet, false);
                (self.is_write_failing, self.is_drain_failing) = (false, false);
            }
            Event::PatienceOver => self.clock.patience_over = true,
            Event::TrafficOver => self.clock.traffic_over = true,
            Event::Traffic(wait) => self.traffic = wait,
            Event::Withdraw(is_withdrawn) => self.is_withdrawn = is_withdrawn,
            Event::DrainOver => {
                (self.clock.traffic_over, self.clock.patience_over) = (true, true);
                self.clock.drain_over = true;
            }
            Event::SettleOver => self.clock.settle_over = true,
            Event::DockerOver => self.clock.docker_over = !self.docker_up,
        }
        None
    }

    fn docker_says(&mut self, state: LocalState) {
        if self.is_joining {
            match state {
                // A node that was active had joined.
                _ if self.state == LocalState::Active => return,
                LocalState::Active => {
                    (self.is_certified, self.is_manager) = (true, self.role == Role::Manager);
                }
                // The join failed.
                LocalState::Error => self.is_manager = false,
                _ => {}
            }
        }
        self.state = state;
    }

    /// Lets the time run out, share by share.
    pub fn run_out(&mut self) -> Option<Outcome> {
        for share in 0..8 {
            match share {
                1 => {
                    (self.clock.traffic_over, self.clock.patience_over) = (true, true);
                    self.clock.settle_over = true;
                }
                2 => self.clock.drain_over = true,
                3 => self.clock.stop_over = true,
                4 => {
                    (self.clock.confirmation_over, self.clock.replacement_wait_over) = (true, true);
                }
                5 => self.clock.ledger_over = true,
                6 => self.clock.leave_due = true,
                7 => self.clock.over = true,
                _ => {}
            }
            for _ in 0..20 {
                self.happen(Event::Step);
            }
        }
        self.step()
    }
}
