//! Each manager's observation, and skep's decision on it.

use skep::clients::docker::{Availability, LocalNode, LocalState, NodeView, Quorum, RaftView};
use skep::clients::ledger::{Charter, CharterPhase, DepartureRow, DepartureState, Traces};
use skep::common::fact::Fact;
use skep::common::instance::{Departure, Reason, Role};
use skep::lifecycle::leave;
use skep::manager;
use time::OffsetDateTime;

use super::{Death, Fence, LEASE, Life, Manager, Raft, Request, Row, Stage, Time, World};

const SWARM: &str = "swarm";

/// The decision on a manager's observation.
pub(super) enum Decision {
    /// Another node must act first.
    Wait,
    /// A request to send.
    Send(Request),
    /// It requests its demotion from the managers, in its row.
    Ask,
    /// It records in its row that it has left.
    SayLeft,
    End(Life),
}

impl Row {
    fn departure(self) -> DepartureRow {
        let now = OffsetDateTime::UNIX_EPOCH;
        let wish = Departure { reason: Reason::Lifecycle, noticed_at: now, deadline: now };
        let state = match self.stage {
            Stage::Drained => DepartureState::Drained,
            Stage::Left => DepartureState::Left,
            Stage::Removed => DepartureState::Removed,
        };
        let mut row = DepartureRow::request("i", "node", Role::Manager, &wish, "boot");
        (row.state, row.demoted) = (state, self.demoted);
        row
    }
}

impl Manager {
    /// Returns its entry in the node list.
    fn listed(&self) -> NodeView {
        let is_reachable = self.death != Death::Seen;
        NodeView {
            id: "node".into(),
            hostname: String::new(),
            engine: None,
            platform: None,
            resources: None,
            joined_at: None,
            state: if is_reachable { "ready" } else { "down" }.into(),
            availability: Availability::Drain,
            labels: Default::default(),
            role: if self.raft == Raft::Member { Role::Manager } else { Role::Worker },
            address: None,
            raft: self.is_member().then_some(RaftView { is_leader: false, is_reachable }),
        }
    }

    fn local(&self) -> LocalNode {
        LocalNode {
            state: if self.in_swarm { LocalState::Active } else { LocalState::Inactive },
            node_id: self.in_swarm.then(|| "node".into()),
            swarm_id: Some(SWARM.into()),
            is_manager: self.in_swarm && self.raft != Raft::Out,
            has_managers: true,
            managers: vec![],
            error: String::new(),
            address: None,
            live_restore: false,
        }
    }
}

impl World {
    /// Returns the charter as skep reads it.
    fn charter(&self) -> Charter {
        let now = OffsetDateTime::UNIX_EPOCH;
        let claim = Charter::claim(None, &Traces::default(), "i", now, LEASE);
        let phase = if self.is_open { CharterPhase::Open } else { CharterPhase::Closed };
        Charter { phase, swarm_id: Some(SWARM.into()), ..claim }
    }

    /// Whether this manager's swarm is the cluster's, as far as it can tell.
    pub(super) fn ours(&self, one: usize) -> Fact {
        let me = &self.managers[one];
        if !me.has_forgotten || !me.in_swarm {
            return Fact::Yes;
        }
        let charter = match me.is_cut_off {
            true => leave::Lookup::CannotTell,
            false => leave::Lookup::Found(self.charter()),
        };
        leave::judge(&me.local(), &leave::Evidence { charter, ..leave::Evidence::default() })
    }

    fn look(&self, one: usize, fence: Fence) -> leave::Observed {
        let me = &self.managers[one];
        let knows = self.knows(one);
        let others: Vec<NodeView> = match knows {
            true => self.others(one).map(Manager::listed).collect(),
            false => vec![],
        };
        let own = knows.then(|| me.listed());
        let mut seen = leave::Observed {
            local: me.local(),
            is_withdrawn: false,
            ours: self.ours(one),
            certified: leave::Lookup::CannotTell,
            is_joining: Fact::No,
            was_member: true,
            row: me.row.filter(|_| !me.is_cut_off).map(Row::departure),
            is_ledger_readable: !me.is_cut_off,
            is_write_failing: false,
            is_drain_failing: false,
            traffic: leave::Wait::Over,
            awaits_turn: false,
            task_containers: 0,
            standalone_containers: 0,
            late_containers: 0,
            listed_tasks: knows.then_some(0),
            is_flushed: true,
            is_last_manager: knows && others.iter().all(NodeView::is_plain_worker),
            is_other_going: others.iter().any(NodeView::is_being_demoted),
            quorum: Quorum::of(&others.into_iter().chain(own.clone()).collect::<Vec<_>>()),
            node: own,
            clock: leave::Clock {
                traffic_over: true,
                patience_over: true,
                drain_over: true,
                stop_over: true,
                leave_due: me.time >= Time::LeaveDue,
                over: me.time == Time::Over,
                confirmation_over: me.is_impatient,
                settle_over: true,
                replacement_wait_over: me.is_impatient,
                ledger_over: me.is_impatient,
                docker_over: false,
            },
        };
        match fence {
            Fence::Held | Fence::StaysClosed => {}
            Fence::DoubtIsNo if seen.ours == Fact::CannotTell => seen.ours = Fact::No,
            Fence::DoubtIsNo => {}
            Fence::NoTurn => {
                seen.is_other_going = false;
                seen.quorum.reachable = seen.quorum.managers;
            }
            Fence::Unconfirmed if me.raft == Raft::Going => {
                seen.local.is_manager = false;
                if let Some(row) = &mut seen.row {
                    row.demoted = true;
                }
            }
            Fence::Unconfirmed => {}
        }
        seen
    }

    /// Returns skep's next step in its own departure.
    pub(super) fn decide(&self, one: usize, fence: Fence) -> Decision {
        let demote = |in_turn| match in_turn && fence != Fence::NoTurn {
            true => Request::TakeTurn { whose: one, now: self.now(one) },
            false => Request::Demote { whose: one, in_turn: false },
        };
        match leave::decide(Role::Manager, &self.look(one, fence)) {
            leave::Step::Wait { .. } => Decision::Wait,
            leave::Step::Request => Decision::Ask,
            leave::Step::MarkLeft => Decision::SayLeft,
            leave::Step::Demote { in_turn } => Decision::Send(demote(in_turn)),
            leave::Step::Leave => Decision::Send(Request::Leave),
            leave::Step::LeaveLast => Decision::Send(Request::CloseCharter),
            leave::Step::Done(leave::Outcome::TooLate) => Decision::End(Life::TooLate),
            leave::Step::Done(_) => Decision::End(Life::Gone),
            step => panic!("no cause for {step:?}"),
        }
    }

    /// Returns another manager's next step in this departure.
    pub(super) fn care(&self, one: usize) -> manager::Action {
        let Some(row) = self.managers[one].row else { return manager::Action::None };
        let is_listed = row.stage != Stage::Removed;
        let node = is_listed.then(|| self.managers[one].listed());
        let age = manager::Age::default();
        manager::decide(&row.departure(), node.as_ref(), 0, false, age)
    }
}
