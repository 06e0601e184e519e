//! Docker's raft: its members, the requests that it refuses, and the changes that it makes later.

use super::{Death, Life, Manager, Raft, World};

impl World {
    /// Whether the swarm can decide anything.
    pub(super) fn has_quorum(&self) -> bool {
        let members = self.managers.iter().filter(|one| one.is_member()).count();
        2 * self.managers.iter().filter(|one| one.votes()).count() > members
    }

    /// Whether fewer than half of raft's members have died without leaving, by a termination or at their deadline. Then
    /// the others must be able to decide.
    pub(super) fn has_lost_a_minority(&self) -> bool {
        let members = self.managers.iter().filter(|one| one.is_member());
        let died = |one: &&Manager| matches!(one.life, Life::TooLate | Life::Terminated);
        2 * members.clone().filter(died).count() < members.count()
    }

    /// Whether this manager gets answers from its swarm.
    pub(super) fn knows(&self, one: usize) -> bool {
        self.managers[one].votes() && self.has_quorum()
    }

    /// Whether Docker's own safeguard allows the removal, by the deaths that its leader has noticed.
    fn may_remove(&self, one: usize) -> bool {
        let others = self.others(one).filter(|other| other.is_member());
        let reached = others.clone().filter(|other| other.death != Death::Seen).count();
        self.has_quorum() && 2 * reached > others.count()
    }

    /// Requests a demotion. Returns `false` if Docker refuses it, to keep the quorum or because this is the last
    /// manager. Without a quorum the request has no effect.
    pub(super) fn demote(&mut self, one: usize) -> bool {
        if self.managers[one].raft != Raft::Member || !self.has_quorum() {
            return true;
        }
        let may = self.may_remove(one);
        if may {
            self.managers[one].raft = Raft::Going;
        }
        may
    }

    pub(super) fn can_follow(&self, one: usize) -> bool {
        self.managers[one].raft == Raft::Going && self.may_remove(one)
    }

    /// Carries out a demotion in raft.
    pub(super) fn raft_follows(&mut self, one: usize) {
        if !self.can_follow(one) {
            return;
        }
        let manager = &mut self.managers[one];
        let hears_of_it = manager.is_alive() && manager.in_swarm;
        manager.raft = if hears_of_it { Raft::Dropped } else { Raft::Out };
        let overlooked =
            |one: &Manager| one.is_member() && !one.votes() && one.death == Death::Overlooked;
        self.wrongs.blind_removal |=
            !self.is_crowded && !self.has_quorum() && self.managers.iter().any(overlooked);
        for other in self.managers.iter_mut().filter(|other| other.is_member() && !other.votes()) {
            if other.death == Death::Unseen {
                other.death = Death::Overlooked;
            }
        }
    }

    /// Leaves the swarm. Docker refuses this to a member of raft, except by force: then raft keeps it as a dead member.
    pub(super) fn leave(&mut self, one: usize, by_force: bool) {
        let is_member = self.managers[one].is_member();
        if is_member && !by_force {
            return;
        }
        let is_last = !self.others(one).any(Manager::is_member);
        self.wrongs.desertion |= is_member && !is_last;
        let manager = &mut self.managers[one];
        (manager.in_swarm, manager.is_impatient) = (false, false);
        if is_last {
            // Raft ends with its last member.
            manager.raft = Raft::Out;
        }
    }

    /// Lets a minute pass: Docker notices every death.
    pub(super) fn see_the_dead(&mut self) {
        for one in self.managers.iter_mut().filter(|one| one.is_member() && !one.votes()) {
            one.death = Death::Seen;
        }
    }

    /// Lets Docker notice the deaths that came before a removal from raft.
    pub(super) fn see_the_overlooked(&mut self) {
        for one in self.managers.iter_mut().filter(|one| one.death == Death::Overlooked) {
            one.death = Death::Seen;
        }
    }
}
