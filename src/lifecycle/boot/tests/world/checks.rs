//! The properties that must hold, and the situations that no node can decide.

use super::{World, name, swarm_name};
use crate::clients::ledger::{Charter, CharterPhase};
use crate::lifecycle::boot::decide::Step;

impl World {
    /// Asserts that no node abandons a living swarm: it claims an open charter only if the swarm of that charter has no
    /// quorum and no manager in the ledger is left, and it leaves only another swarm.
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
            let twice = self.opened.iter().find(is_of_another);
            assert!(twice.is_none(), "generation {next} again, after {twice:?}");
        }
        let Some(open) = self.charter.as_ref().filter(|it| it.phase == CharterPhase::Open) else {
            let is_leaving = matches!(step, Step::Discard { .. } | Step::LeaveStale { .. });
            assert!(!is_leaving, "{step:?} although no charter is open");
            return;
        };
        if let Step::LeaveStale { by_force, .. } = step {
            // A manager that re-created the quorum although its claim was taken over: it holds another history of the
            // same swarm.
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
        assert_eq!(survivors.count(), 0, "a swarm with survivors was abandoned");
    }

    /// Whether no fact shows that the node's swarm is this cluster's, so that Auto Scaling replaces the instance:
    /// Docker's init ended before it labelled the swarm, and the claim was deleted or taken over; or the charter and
    /// the rows are gone, with the nodes that wrote them; or the charter was deleted while the swarm was being founded,
    /// and another swarm was published under that generation.
    pub fn is_nobodys(&self, node: usize) -> bool {
        let Some(swarm) = self.nodes[node].swarm else { return false };
        let Some(label) = self.labels[swarm].1 else { return true };
        let is_published = self.opened.iter().any(|open| open.1 == swarm);
        let is_outnumbered = |charter: &Charter| {
            charter.phase == CharterPhase::Open && charter.generation <= label && !is_published
        };
        // It has no row, and the charter that named its swarm is gone.
        let is_unknown = |charter: &Charter| {
            let is_known = charter.has_given_up(Some(&swarm_name(swarm)))
                || self.rows.contains_key(&self.machine(node));
            !is_known && !self.has_quorum(swarm) && self.swarm_of(charter) != Some(swarm)
        };
        let charter = self.charter.as_ref();
        charter.is_some_and(|charter| is_outnumbered(charter) || is_unknown(charter))
    }
}
