//! The state in which everything ends when no more faults happen.

use super::{Death, Fence, Life, Raft, Time, World};
use crate::clock::Clock;

/// Rounds that are enough for one manager to leave when no more faults happen.
const ROUNDS_PER_MANAGER: usize = 12;

impl World {
    /// Whether every departure ends when no more faults happen. As long as a manager stays and the swarm has a quorum,
    /// each must end before its deadline.
    pub(super) fn settles(&self, fence: Fence) -> bool {
        let mut world = self.clone();
        // A late request may never arrive.
        world.late.clear();
        let is_urgent: Vec<bool> =
            world.managers.iter().map(|one| one.time == Time::Over).collect();
        let goes = |world: &Self, life: Life| {
            let mut all = world.managers.iter().zip(&is_urgent);
            all.any(|(one, is_urgent)| one.life == life && !is_urgent)
        };
        world.go_on(fence);
        world.spent.expiries += Clock::expiries_beyond(super::LEASE);
        world.go_on(fence);
        let stays = world.managers.iter().any(|one| one.votes() && !one.is_leaving());
        let was_late = self.managers.iter().filter(|one| one.life == Life::TooLate).count();
        let is_late = world
            .managers
            .iter()
            .zip(&is_urgent)
            .filter(|(one, urgent)| one.life == Life::TooLate && !**urgent)
            .count();
        if stays && world.has_quorum() && (goes(&world, Life::Leaving) || is_late > was_late) {
            return false;
        }
        for time in [Time::Ample, Time::LeaveDue, Time::Over] {
            for one in &mut world.managers {
                one.is_impatient = true;
                one.time = one.time.max(time);
            }
            world.go_on(fence);
        }
        !world.managers.iter().any(super::Manager::is_leaving)
    }

    /// Whether the charter is open in the end when no more faults happen, if a manager stays and the swarm has a
    /// quorum: a booting node then joins this swarm and founds no other.
    pub(super) fn ends_open(&self, fence: Fence) -> bool {
        // Only a late request can close it over a swarm that lives.
        if self.is_open && self.late.is_empty() {
            return true;
        }
        let mut world = self.clone();
        for request in std::mem::take(&mut world.late) {
            world.arrive(request);
        }
        world.go_on(fence);
        let stays = world.managers.iter().any(|one| one.votes() && !one.is_leaving());
        world.is_open || !stays || !world.has_quorum()
    }

    /// Lets every manager act until the world changes no more.
    fn go_on(&mut self, fence: Fence) {
        for _ in 0..ROUNDS_PER_MANAGER * self.managers.len() {
            let before = self.clone();
            for one in 0..self.managers.len() {
                self.managers[one].is_cut_off = false;
                self.move_on(one, fence);
            }
            if *self == before {
                return;
            }
        }
    }

    fn move_on(&mut self, one: usize, fence: Fence) {
        if self.managers[one].is_member() && !self.managers[one].votes() {
            self.managers[one].death = Death::Seen;
        }
        if let Some(request) = self.managers[one].decided.take() {
            self.send(one, request, fence);
        } else if self.managers[one].is_leaving() || self.is_to_reopen(one, fence) {
            self.look_around(one, fence);
        }
        self.raft_follows(one);
        if self.managers[one].raft == Raft::Dropped {
            self.managers[one].raft = Raft::Out;
        }
        if self.is_served(one) {
            self.serve(one);
        }
        let dead = (0..self.managers.len()).find(|dead| self.is_to_be_buried(*dead));
        if let Some(dead) = dead
            && self.managers[one].decided.is_none()
            && self.can_help(one, dead)
            // Reopening and burying are separate loops in skep: neither delays the other.
            && !self.is_to_reopen(one, fence)
        {
            self.bury(one, dead);
        }
        if self.is_to_be_swept(one) {
            self.sweep(one);
        }
    }
}
