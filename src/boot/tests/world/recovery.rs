//! The operator's part: `skep recover` on a survivor.

use std::collections::BTreeSet;

use time::OffsetDateTime;

use super::{LEASE, Machine, Observed, World, name, row, swarm_name};
use crate::autoscaling::GroupInstance;
use crate::ledger::{Charter, CharterPhase, MemberState};
use crate::recover;

impl World {
    /// A manager that came in just before the quorum was re-created without it, and had no row yet:
    /// nobody fences it, it never becomes Ready, and Auto Scaling replaces it at its boot's deadline.
    pub fn is_stranded(&self, node: usize) -> bool {
        let (host, me) = (&self.nodes[node], self.machine(node));
        let is_left_out = host.swarm.is_some_and(|swarm| !self.swarms[swarm].contains(&me));
        is_left_out && self.is_manager_of(me) && !self.rows.contains_key(&me)
    }

    /// What `skep recover` does on that node; the skep of a manager that is listed writes its row.
    pub(super) fn recover(&mut self, node: usize) {
        let Observed { local, member, charter, .. } = self.look(node);
        let now = self.now();
        let me = self.machine(node);
        let machines: Vec<Machine> = self.rows.keys().copied().collect();
        let generation = charter.as_ref().map(|it| it.generation);
        let is_recovery = charter.as_ref().is_some_and(Charter::is_recovery);
        let others = machines.iter().filter(|it| {
            let is_of = Some(self.rows[*it].0) == generation || is_recovery;
            self.is_manager_of(**it) && **it != me && is_of
        });
        let others = others.map(|it| {
            let (generation, swarm) = self.rows[it];
            let updated_at = if self.is_there(*it) { now } else { OffsetDateTime::UNIX_EPOCH };
            let mut row = row(&format!("{}-in-{swarm}", it.0), generation, MemberState::Ready);
            (row.instance_id, row.updated_at) = (name(*it), updated_at);
            row
        });
        let group = |it: usize| {
            let (group, lifecycle_state, health) = Default::default();
            let listed = GroupInstance { group, lifecycle_state, health };
            (name(self.machine(it)), listed)
        };
        let seen = recover::Observed {
            me: name(me),
            local: Some(local),
            row: member,
            others: others.collect(),
            listed: Some((0..self.nodes.len()).map(group).collect()),
            listening: BTreeSet::new(),
            unlock_keys: None,
            has_leader: self.is_led(node),
            is_leaving: false,
            now,
            charter: charter.clone(),
        };
        let (Some(charter), Some(swarm), Ok(())) =
            (charter, self.nodes[node].swarm, recover::decide(&seen))
        else {
            return;
        };
        if charter.phase == CharterPhase::Open {
            assert!(!self.has_quorum(swarm), "it has a quorum");
        }
        self.charter =
            Some(Charter::recovery(&charter, &swarm_name(swarm), &name(me), now + LEASE));
    }
}
