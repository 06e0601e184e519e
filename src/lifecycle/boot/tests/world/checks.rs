//! What must hold, and what nobody can tell.

use super::{World, name, swarm_name};
use crate::clients::ledger::{Charter, CharterPhase};
use crate::lifecycle::boot::decide::Step;

impl World {
    /// Nothing is given up that lives: a claim over an open charter is decided only where its swarm
    /// has no quorum and nobody is left who is in the ledger; a node leaves another swarm only.
    pub(super) fn assert_nothing_is_given_up(&self, node: usize, step: &Step) {
        if let Some(recovery) = self.charter.as_ref().filter(|it| it.is_recovery()) {
            let founder = (0..self.nodes.len())
                .find(|node| name(self.machine(*node)) == recovery.founder)
                .filter(|node| self.nodes[*node].swarm.is_some());
            assert!(founder.is_none() || !matches!(step, Step::Claim { .. }), "its founder lives");
        }
        let me = self.machine(node);
        let own = self.nodes[node].swarm;
        if let Step::Claim { traces, .. } = step {
            let seen = self.charter.as_ref().map_or(0, |charter| charter.generation);
            let next = seen.max(traces.highest) + 1;
            let is_lived = |open: &&(u64, usize)| self.has_quorum(open.1) && Some(open.1) != own;
            let living = self.opened.iter().find(is_lived);
            assert!(living.is_none(), "{step:?} over a swarm that lives: {living:?}");
            let is_of_another = |open: &&(u64, usize)| open.0 >= next && Some(open.1) != own;
            let is_known = |open: &&(u64, usize)| self.rows.values().any(|row| row.swarm == open.1);
            let twice = self.opened.iter().filter(is_of_another).find(is_known);
            assert!(twice.is_none(), "generation {next} again, after {twice:?}");
        }
        let Some(open) = self.charter.as_ref().filter(|it| it.phase == CharterPhase::Open) else {
            let is_leaving = matches!(step, Step::Discard { .. } | Step::LeaveStale { .. });
            assert!(!is_leaving, "{step:?} although no charter is open");
            return;
        };
        if let Step::LeaveStale { by_force, .. } = step {
            // One whose claim was taken over, and that has re-created the quorum all the same: what it
            // holds is another history of the same swarm.
            let is_fenced =
                self.rows.get(&me).is_some_and(|row| open.fences(&name(me), row.generation));
            let own = own.filter(|own| !is_fenced && self.swarms[*own].contains(&me));
            assert_ne!(own.map(swarm_name), open.swarm_id, "it is the charter's");
            assert!(!by_force || is_fenced || !self.is_led(node), "its swarm has a leader");
        }
        if !matches!(step, Step::Claim { .. }) {
            return;
        }
        let swarm = self.swarm_of(open).expect("the open one");
        let survivors = self.swarms[swarm].iter().filter(|machine| {
            let row = self.rows.get(*machine);
            let has_row = row.is_some_and(|row| row.generation == open.generation);
            self.is_there(**machine) && self.is_manager_of(**machine) && has_row
        });
        assert_eq!(survivors.count(), 0, "a swarm with survivors was given up");
    }

    /// Nobody can tell that its swarm is this cluster's, and Auto Scaling replaces the instance: Docker's
    /// init ended before it labelled that, and the claim was deleted or taken over; or charter and rows
    /// are gone, and those who had written them; or the charter was deleted while it was founded, and
    /// another swarm was published under that number.
    pub fn is_nobodys(&self, node: usize) -> bool {
        let Some(swarm) = self.nodes[node].swarm else { return false };
        let Some(label) = self.labels[swarm].1 else { return true };
        let is_published = self.opened.iter().any(|open| open.1 == swarm);
        let is_outnumbered = |charter: &Charter| {
            charter.phase == CharterPhase::Open && charter.generation <= label && !is_published
        };
        // It has no row, and the charter that knew its swarm is gone.
        let is_unknown = |charter: &Charter| {
            let is_known = charter.has_given_up(Some(&swarm_name(swarm)))
                || self.rows.contains_key(&self.machine(node));
            !is_known && !self.has_quorum(swarm) && self.swarm_of(charter) != Some(swarm)
        };
        let charter = self.charter.as_ref();
        charter.is_some_and(|charter| is_outnumbered(charter) || is_unknown(charter))
    }
}
