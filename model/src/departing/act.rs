//! Carries out decided requests: the ledger's conditions, and skep's next step on the answer.

use skep::manager;

use super::look::Decision;
use super::{
    Fence, LEASE, LONGEST_CREDIBLE, Lease, Life, Manager, Raft, Request, Row, Stage, World,
};
use crate::clock::Clock;

impl World {
    pub(super) fn tell(&mut self, one: usize) {
        self.managers[one].life = Life::Leaving;
    }

    /// Observes and decides, and does at once everything that needs no separate request.
    pub(super) fn look_around(&mut self, one: usize, fence: Fence) {
        if self.is_to_reopen(one, fence) {
            self.managers[one].decided = Some(Request::ReopenCharter);
            return;
        }
        let decision = self.decide(one, fence);
        let is_in_doubt = !self.ours(one).is_yes();
        let is_harmless = matches!(decision, Decision::Wait | Decision::End(Life::TooLate));
        self.wrongs.in_doubt |= is_in_doubt && !is_harmless;
        let manager = &mut self.managers[one];
        manager.has_forgotten &= is_in_doubt;
        match decision {
            Decision::Wait => {}
            Decision::Send(request) => manager.decided = Some(request),
            Decision::Ask => manager.row = Some(Row { stage: Stage::Drained, demoted: false }),
            Decision::SayLeft => {
                if let Some(row) = &mut manager.row {
                    row.stage = Stage::Left;
                }
                self.return_lease(one);
            }
            Decision::End(life) => self.end(one, life),
        }
    }

    /// Ends the manager's instance.
    pub(super) fn end(&mut self, one: usize, life: Life) {
        let old = &self.managers[one];
        let raft = if old.raft == Raft::Dropped { Raft::Out } else { old.raft };
        // The rest of its state does not matter any more.
        self.managers[one] = Manager { life, raft, ..Manager::new(Clock::Right) };
    }

    /// Sends the decided request. A request that follows immediately from the answer is decided next.
    pub(super) fn send(&mut self, one: usize, request: Request, fence: Fence) {
        let is_cut_off = self.managers[one].is_cut_off;
        let next = match request {
            // A ledger that does not answer delays no departure.
            Request::TakeTurn { whose, .. } if is_cut_off => {
                Some(Request::Demote { whose, in_turn: false })
            }
            Request::TakeTurn { whose, now } => {
                self.take_lease(whose, now).then_some(Request::Demote { whose, in_turn: true })
            }
            Request::Demote { whose, in_turn } => {
                self.is_crowded |= !in_turn && fence != Fence::NoTurn;
                if !self.demote(whose) && in_turn && !is_cut_off {
                    self.return_lease(whose);
                }
                None
            }
            Request::Leave => {
                self.leave(one, fence == Fence::Unconfirmed);
                None
            }
            Request::CloseCharter if is_cut_off => None,
            Request::CloseCharter => {
                self.close_charter(one);
                Some(Request::LeaveLast)
            }
            // If the ledger is out of reach, the leader tries again later.
            Request::ReopenCharter => {
                self.is_open |= !is_cut_off;
                None
            }
            Request::LeaveLast => {
                self.leave(one, true);
                None
            }
        };
        self.managers[one].decided = next;
    }

    /// Delivers a request whose sender has died.
    pub(super) fn arrive(&mut self, request: Request) {
        match request {
            Request::TakeTurn { whose, now } => drop(self.take_lease(whose, now)),
            Request::Demote { whose, in_turn } => {
                self.is_crowded |= !in_turn || self.turn.is_none_or(|turn| turn.whose != whose);
                self.demote(whose);
            }
            // Another manager may have joined since the last one sent this.
            Request::CloseCharter => self.is_open = false,
            Request::ReopenCharter => self.is_open = true,
            // Docker's socket is on the same host: such a request never arrives late.
            Request::Leave | Request::LeaveLast => {}
        }
    }

    fn take_lease(&mut self, whose: usize, now: i64) -> bool {
        let credible = now + LONGEST_CREDIBLE.as_secs().cast_signed();
        let is_free = self.turn.is_none_or(|turn| {
            turn.whose == whose || turn.expires_at <= now || turn.expires_at > credible
        });
        if !is_free {
            return false;
        }
        let expiries = self.spent.expiries;
        self.is_crowded |=
            self.turn.is_some_and(|turn| turn.whose != whose && turn.taken_at == expiries);
        let expires_at = now + LEASE.as_secs().cast_signed();
        self.turn = Some(Lease { whose, expires_at, taken_at: expiries });
        true
    }

    fn return_lease(&mut self, whose: usize) {
        if self.turn.is_some_and(|turn| turn.whose == whose) {
            self.turn = None;
            if self.managers[whose].raft == Raft::Out {
                self.see_the_overlooked();
            }
        }
    }

    /// Whether this manager must reopen the charter: it is closed over the manager's swarm, and a leader answers.
    pub(super) fn is_to_reopen(&self, one: usize, fence: Fence) -> bool {
        let sees_it = self.managers[one].life == Life::Serving && !self.managers[one].is_cut_off;
        !self.is_open && sees_it && self.knows(one) && fence != Fence::StaysClosed
    }

    fn close_charter(&mut self, by: usize) {
        self.wrongs.early_close |= self.is_open && self.others(by).any(Manager::votes);
        self.is_open = false;
    }

    /// Returns another manager that can act on this departure.
    pub(super) fn helper_of(&self, one: usize) -> Option<usize> {
        let helps = |other: &usize| self.can_help(*other, one);
        (0..self.managers.len()).find(helps)
    }

    pub(super) fn can_help(&self, by: usize, one: usize) -> bool {
        by != one && self.knows(by) && !self.managers[by].is_cut_off
    }

    /// Whether another manager can advance this departure now.
    pub(super) fn is_served(&self, one: usize) -> bool {
        let waits = [manager::Action::None, manager::Action::Wait];
        self.helper_of(one).is_some() && !waits.contains(&self.care(one))
    }

    pub(super) fn serve(&mut self, one: usize) {
        let action = self.care(one);
        let Some(row) = &mut self.managers[one].row else { return };
        match action {
            manager::Action::ConfirmDemotion => row.demoted = true,
            manager::Action::Remove => {
                row.stage = Stage::Removed;
                self.return_lease(one);
            }
            // The node left without a demotion: once Docker sees it as dead, `bury` demotes it.
            manager::Action::Demote => {}
            action => panic!("no cause for {action:?}"),
        }
    }

    /// Whether a member of raft is dead by the answers of Docker and Auto Scaling.
    pub(super) fn is_to_be_buried(&self, one: usize) -> bool {
        let dead = &self.managers[one];
        dead.raft == Raft::Member && !dead.is_alive() && dead.death == super::Death::Seen
    }

    pub(super) fn bury(&mut self, by: usize, dead: usize) {
        let now = self.now(by);
        self.managers[by].decided = Some(Request::TakeTurn { whose: dead, now });
    }

    pub(super) fn is_to_be_swept(&self, one: usize) -> bool {
        let dead = &self.managers[one];
        let has_turn = self.turn.is_some_and(|turn| turn.whose == one);
        !dead.is_alive() && dead.raft == Raft::Out && has_turn && self.helper_of(one).is_some()
    }

    pub(super) fn sweep(&mut self, one: usize) {
        self.return_lease(one);
    }
}
