//! Recovery by the operator: `skep recover` on a survivor.

use std::collections::BTreeSet;

use time::OffsetDateTime;

use super::{LEASE, Machine, World, name, swarm_name};
use crate::clients::aws::autoscaling::GroupInstance;
use crate::clients::ledger::{Charter, CharterPhase};
use crate::common::fact::Fact;
use crate::common::instance::Role;
use crate::lifecycle::boot::decide::Observed;
use crate::lifecycle::recover;

impl World {
    /// Whether the node is a manager that joined just before the quorum was re-created without it, and had no row yet;
    /// or the charter that would fence it was deleted meanwhile. Nothing fences it, it never becomes Ready, and Auto
    /// Scaling replaces it at the deadline of its boot.
    pub fn is_stranded(&self, node: usize) -> bool {
        let (host, me) = (&self.nodes[node], self.machine(node));
        let is_left_out = host.swarm.is_some_and(|swarm| !self.swarms[swarm].contains(&me));
        let row = self.rows.get(&me).map(|row| row.generation);
        let is_fenced = row
            .zip(self.charter.as_ref())
            .is_some_and(|(generation, charter)| charter.fences(&name(me), generation));
        is_left_out && self.is_manager_of(me) && !is_fenced
    }

    /// Runs `skep recover` on that node; the skep of a listed manager writes its row.
    pub(super) fn recover(&mut self, node: usize) {
        if self.nodes[node].role == Role::Worker {
            // A worker that was promoted by hand is not permitted to write the charter.
            return;
        }
        let Observed { local, member, charter, .. } = self.look(node);
        let now = self.now();
        let me = self.machine(node);
        let is_readable = |it: &Machine| self.rows.get(it).is_none_or(|row| !row.is_unreadable);
        let unreadable = self.rows.keys().filter(|it| !is_readable(it)).map(|it| name(*it));
        let machines: Vec<Machine> = self.rows.keys().copied().collect();
        let generation = charter.as_ref().map(|it| it.generation);
        let is_recovery = charter.as_ref().is_some_and(Charter::is_recovery);
        let others = machines.iter().filter(|it| {
            let is_of = Some(self.rows[*it].generation) == generation || is_recovery;
            let is_manager = self.member(**it, self.rows[*it]).is_manager();
            is_manager && **it != me && is_of && is_readable(it)
        });
        let others = others.map(|it| {
            let updated_at = if self.is_there(*it) { now } else { OffsetDateTime::UNIX_EPOCH };
            let mut row = self.member(*it, self.rows[it]);
            row.updated_at = updated_at;
            row
        });
        let listed = |it: String| {
            let (group, lifecycle_state, health) =
                (String::new(), "InService".into(), String::new());
            (it, GroupInstance { group, lifecycle_state, health, protected: None, settings: None })
        };
        let seen = recover::Observed {
            me: name(me),
            local: Some(local),
            row: member.filter(|_| is_readable(&me)),
            unreadable: unreadable.collect(),
            others: others.collect(),
            listed: Some(self.attached().map(listed).collect()),
            listening: BTreeSet::new(),
            unlock_keys: None,
            has_leader: Fact::from(self.is_led(node)),
            leaves_by: None,
            now,
            charter: charter.clone(),
        };
        let (Some(charter), Some(swarm), Ok(())) =
            (charter, self.nodes[node].swarm, recover::decide(&seen))
        else {
            return;
        };
        if charter.phase == CharterPhase::Open {
            // Auto Scaling does not list a detached instance: the plan warns the operator that such a manager may be
            // alive.
            let is_detached = |it: &Machine| self.nodes[it.0].is_detached;
            let is_told = self.swarms[swarm].iter().any(|it| *it != me && is_detached(it));
            assert!(is_told || !self.has_quorum(swarm), "it has a quorum");
        }
        self.charter =
            Some(Charter::recovery(&charter, &swarm_name(swarm), &name(me), now + LEASE));
    }
}
