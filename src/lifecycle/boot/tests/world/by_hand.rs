//! The changes that an operator makes to a swarm by hand.

use super::World;
use crate::common::instance::Role;

impl World {
    /// Promotes the node. Docker admits it to raft within a moment, and its skep writes that into its row a moment
    /// later.
    pub(super) fn promote(&mut self, node: usize) {
        let me = self.machine(node);
        if self.is_led(node) && !self.is_manager_of(me) {
            self.change_role(node);
        }
    }

    /// Demotes the node. Docker refuses that for the last manager, and where the quorum would be lost.
    pub(super) fn demote(&mut self, node: usize) {
        let me = self.machine(node);
        if self.is_led(node) && self.is_manager_of(me) {
            self.change_role(node);
            let swarm = self.nodes[node].swarm.expect("it is led");
            if !self.has_quorum(swarm) {
                self.change_role(node);
            }
        }
    }

    /// Whether the node is a manager, or is configured as one: while it is alive, no node founds another swarm.
    pub fn counts_as_manager(&self, node: usize) -> bool {
        self.nodes[node].role == Role::Manager || self.is_manager_of(self.machine(node))
    }

    fn change_role(&mut self, node: usize) {
        let me = self.machine(node);
        if !self.by_hand.remove(&me) {
            self.by_hand.insert(me);
        }
        let serves_as = self.serves_as(me);
        if let Some(row) = self.rows.get_mut(&me) {
            row.serves_as = serves_as;
        }
    }
}
