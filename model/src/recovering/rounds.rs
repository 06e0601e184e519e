//! The duties of serving managers: they remove dead nodes, and mark the rows of nodes that are not on their list.

use super::{Node, Seat, World};

impl World {
    /// Returns the seat of a manager that has a leader and, by its own record, serves in the charter's generation.
    fn presides(&self, slot: u8) -> Option<Seat> {
        let host = self.host(slot);
        let is_of = self.charter.is_open && host.serves == Some(self.charter.generation);
        let is_manager = host.role == skep::common::instance::Role::Manager;
        host.seat.filter(|_| is_of && is_manager && !host.is_mute && self.is_led(slot))
    }

    /// Returns a node on its list or in its raft that no instance is any more.
    fn dead(&self, slot: u8) -> Option<(u8, Node)> {
        let Seat { history, .. } = self.presides(slot)?;
        let is_dead = |node: &&Node| {
            let host = self.slot_of(node.0).map(|slot| self.host(slot));
            host.is_none_or(|host| host.seat.is_none_or(|seat| seat.node != **node))
        };
        let one = self.history(history);
        one.listed.iter().chain(&one.raft).find(is_dead).map(|node| (history, *node))
    }

    pub(super) fn may_bury(&self, slot: u8) -> bool {
        self.dead(slot).is_some()
    }

    pub(super) fn bury(&mut self, slot: u8) {
        while let Some((history, node)) = self.dead(slot) {
            let one = &mut self.histories[usize::from(history)];
            one.listed.remove(&node);
            one.raft.remove(&node);
            self.rows.retain(|_, row| row.node != node);
        }
    }

    /// Returns the instance of a row of the charter's generation whose node is not on its list.
    fn missing(&self, slot: u8) -> Option<u8> {
        let Seat { history, .. } = self.presides(slot)?;
        let listed = &self.history(history).listed;
        let is_missing = |row: &super::MemberRow| {
            let is_of = row.generation == self.charter.generation && !row.is_removed;
            is_of && !listed.contains(&row.node)
        };
        self.rows.iter().find(|(_, row)| is_missing(row)).map(|(id, _)| *id)
    }

    pub(super) fn may_mark(&self, slot: u8) -> bool {
        self.missing(slot).is_some()
    }

    pub(super) fn mark(&mut self, slot: u8) {
        while let Some(id) = self.missing(slot) {
            self.rows.get_mut(&id).expect("it was found").is_removed = true;
        }
    }
}
