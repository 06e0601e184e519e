//! The state in which everything ends when no more faults happen.

use skep::common::instance::Role;
use skep::lifecycle::boot::Step;

use super::{Fence, LEASE, World};
use crate::clock::Clock;
use crate::sight::Sight;

/// Rounds that are enough for every node to take its place when no more faults happen.
const ROUNDS: usize = 24;

impl World {
    /// Whether a started recovery ends by itself, and every node is Ready in the charter's own history in the end, when
    /// no more faults happen. If the quorum is lost once more, the operator must recover again.
    pub(super) fn settles(&self, fence: Fence) -> bool {
        // The state after this request is checked, too.
        if self.hosts.iter().any(|host| host.decided.is_some()) {
            return true;
        }
        let mut world = self.clone();
        // A late request may never arrive.
        world.late.clear();
        for host in &mut world.hosts {
            (host.is_away, host.is_mute) = (false, false);
        }
        let begun = world.begun();
        world.go_on(fence);
        world.spent.expiries += Clock::expiries_beyond(LEASE);
        world.go_on(fence);
        if begun.is_some_and(|generation| world.charter.generation == generation)
            && !world.charter.is_open
        {
            return false;
        }
        world.ask_the_operator(fence);
        world.replace_the_stranded();
        world.go_on(fence);
        world.is_whole()
    }

    /// Returns the generation of a recovery whose founder is there to continue it.
    fn begun(&self) -> Option<u64> {
        let recovers = self.charter.recovers.filter(|_| !self.charter.is_open)?;
        let founder = self.host(self.slot_of(self.charter.founder)?).seat?;
        let is_in = self.history(founder.history).swarm == recovers;
        is_in.then_some(self.charter.generation)
    }

    fn is_led_anywhere(&self) -> bool {
        self.charter.is_open && !self.quorum(self.published(), false).is_empty()
    }

    /// Recovers on the managers that accept it. If no leader answers then, terminates every manager that is in a swarm,
    /// after which the next manager founds another swarm.
    fn ask_the_operator(&mut self, fence: Fence) {
        for slot in self.slots() {
            let host = self.host(slot);
            if !self.is_led_anywhere()
                && host.role == Role::Manager
                && host.decided.is_none()
                && self.may_recover(slot, fence, Sight::Clear)
            {
                self.recover(slot);
                self.go_on(fence);
            }
        }
        if self.is_led_anywhere() {
            return;
        }
        for slot in self.slots() {
            let host = self.host(slot);
            if host.role == Role::Manager && host.seat.is_some() {
                self.terminate(slot);
            }
        }
        self.go_on(fence);
    }

    /// Replaces stranded nodes: after the deadline of a failed boot, Auto Scaling replaces the instance. A node without
    /// a row whose history continues without it has no other way.
    fn replace_the_stranded(&mut self) {
        for slot in self.slots() {
            let host = self.host(slot);
            let is_known = host.seat.is_none_or(|seat| self.has_row(slot, seat));
            if !is_known && host.serves.is_none() && !self.is_led(slot) {
                self.terminate(slot);
            }
        }
    }

    fn is_whole(&self) -> bool {
        let is_in = |slot: u8| {
            let host = self.host(slot);
            host.serves == Some(self.charter.generation)
                && host.seat.is_some_and(|seat| seat.history == self.published())
                && self.is_led(slot)
        };
        self.charter.is_open && self.slots().all(is_in)
    }

    /// Lets every node act until the world changes no more.
    fn go_on(&mut self, fence: Fence) {
        for _ in 0..ROUNDS {
            let before = self.clone();
            for slot in self.slots() {
                self.take_a_round(slot, fence);
            }
            if *self == before {
                // Docker lets 16 s pass before a manager that was struck from raft tries to come back.
                self.slots().for_each(|slot| self.move_on(slot));
            }
            if *self == before {
                return;
            }
        }
    }

    fn take_a_round(&mut self, slot: u8, fence: Fence) {
        if self.host(slot).role == Role::Worker {
            self.move_on(slot);
        }
        if let Some(request) = self.host_mut(slot).decided.take() {
            self.send(slot, request, fence);
        } else if self.host(slot).serves.is_some() {
            self.care(slot, fence, Sight::Clear);
        } else if let Step::Join { .. } = self.step(slot, fence, Sight::Clear) {
            let doors = self.doors(slot);
            let door = doors.iter().find(|id| self.slot_of(**id).is_some_and(|it| self.is_led(it)));
            self.look(slot, door.copied(), fence, Sight::Clear);
        } else {
            self.look(slot, None, fence, Sight::Clear);
        }
        self.bury(slot);
        self.mark(slot);
    }
}
