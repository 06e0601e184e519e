//! The members' rows: observations of them, their updates, and the damage that may happen to them.

use std::collections::BTreeSet;
use std::time::Duration;

use time::OffsetDateTime;

use super::{Machine, PATIENCE, Row, World, name, node_name, row, swarm_name};
use crate::clients::ledger::{Charter, CharterPhase, Living, Member, MemberRows, MemberState};
use crate::common::fact::Fact;
use crate::common::instance::Role;
use crate::common::timing::MANAGER_ROW_IS_FRESH;
use crate::lifecycle::boot::lost_swarm::{self, Absence, OwnMembers};

impl World {
    /// Returns the row as skep reads it from the ledger.
    pub(super) fn member(&self, machine: Machine, of: Row) -> Member {
        let mut row = row(&node_name(machine, of.swarm), of.generation, MemberState::Ready);
        row.instance_id = name(machine);
        (row.role, row.serves_as) = (self.nodes[machine.0].role, Some(of.serves_as));
        row.swarm_id = Some(swarm_name(of.swarm));
        row.group = Some("group".into());
        row.updated_at = OffsetDateTime::UNIX_EPOCH + Duration::from_secs(of.at);
        row
    }

    /// Returns the rows in the managers' partition: those of managers, and those that managers have written about promoted
    /// workers.
    fn survey(&self) -> MemberRows {
        let is_managers = |it: &Machine, row: &Row| {
            self.nodes[it.0].role == Role::Manager || row.serves_as == Role::Manager
        };
        let (unreadable, readable): (Vec<_>, Vec<_>) = self
            .rows
            .iter()
            .filter(|(it, row)| is_managers(it, row))
            .partition(|(_, row)| row.is_unreadable);
        MemberRows {
            rows: readable.into_iter().map(|(it, row)| self.member(*it, *row)).collect(),
            unreadable: unreadable.into_iter().map(|(it, _)| name(*it)).collect(),
            ..MemberRows::default()
        }
    }

    /// Returns the observation of a manager that is in no swarm, or without a charter in the swarm `own`, with its
    /// generation.
    pub(super) fn absence(&mut self, node: usize, own: Option<(usize, u64)>) -> Option<Absence> {
        let charter = self.charter.clone();
        let is_of_interest = |it: &Charter| it.phase == CharterPhase::Open || it.is_recovery();
        if !charter.as_ref().is_none_or(is_of_interest) {
            return None;
        }
        let (me, now) = (name(self.machine(node)), self.now());
        let mut all = self.survey();
        let own = own.map(|(swarm, generation)| {
            let nodes = self.swarms[swarm].iter().map(|it| node_name(*it, swarm)).collect();
            (OwnMembers { swarm_id: swarm_name(swarm), nodes }, generation)
        });
        let own = own.as_ref().map(|(own, generation)| (own, *generation));
        if let Some((own, generation)) = own {
            all.rows.retain(|row| lost_swarm::is_rival(row, own, generation));
        }
        let mut seen = lost_swarm::of_rows(charter.as_ref(), &all, &me, now);
        if charter.is_none() {
            seen.traces = lost_swarm::recall(seen.traces, self.history.clone(), own);
        }
        if charter.is_none() && seen.is_without_trace() {
            return Some(seen);
        }
        let listens = |it: &Machine| {
            let host = &self.nodes[it.0];
            let is_manager = self.is_manager_of(*it) && host.swarm.is_some();
            self.is_there(*it) && is_manager && !host.is_silent
        };
        let is_asked = |it: &Machine| all.rows.iter().any(|row| row.instance_id == name(*it));
        let others = self.rows.keys().filter(|it| name(**it) != me);
        let is_listening = others.filter(|it| is_asked(it)).any(listens);
        let there: BTreeSet<String> = self.attached().collect();
        let mut absence = Absence {
            listed: seen.managers.intersection(&there).cloned().collect(),
            is_self_listed: there.contains(&me),
            listening: is_listening.then_some([10, 0, 0, 1].into()),
            patience: PATIENCE,
            ..seen
        };
        let generation = charter.map_or(0, |charter| charter.generation);
        let host = &mut self.nodes[node];
        host.gone = absence.is_complete().then_some(match host.gone {
            Some((of, since)) if of == generation => (of, since),
            _ => (generation, self.now_seconds),
        });
        let since = host.gone.map_or(self.now_seconds, |(_, since)| since);
        absence.lasted = Duration::from_secs(self.now_seconds - since);
        Some(absence)
    }

    /// Whether raft has former managers, by the rows.
    pub(super) fn has_former(&self, me: Machine, swarm: usize) -> Fact {
        let generation = self.charter.as_ref().map(|charter| charter.generation);
        let is_all_readable = self.rows.values().all(|row| !row.is_unreadable);
        let raft = self.swarms[swarm].iter().filter(|it| self.is_manager_of(**it) && **it != me);
        let mut answer = Fact::No;
        for it in raft {
            // A row with another node id is of a swarm that the machine was in before.
            let row = self.rows.get(it).filter(|row| row.swarm == swarm && !row.is_unreadable);
            let was_manager = |row: &Row| {
                self.nodes[it.0].role == Role::Manager || row.serves_as == Role::Manager
            };
            match row {
                Some(row) if Some(row.generation) < generation && was_manager(row) => {
                    return Fact::Yes;
                }
                None if !is_all_readable => answer = Fact::CannotTell,
                _ => {}
            }
        }
        answer
    }

    pub(super) fn write_row(&mut self, machine: Machine, generation: u64, swarm: usize) {
        let (at, serves_as) = (self.now_seconds, self.serves_as(machine));
        let row = Row { generation, swarm, serves_as, at, is_unreadable: false };
        self.rows.insert(machine, row);
    }

    /// Returns its role in Docker.
    pub(super) fn serves_as(&self, machine: Machine) -> Role {
        if self.is_manager_of(machine) { Role::Manager } else { Role::Worker }
    }

    /// Returns the instances that Auto Scaling lists.
    pub(super) fn attached(&self) -> impl Iterator<Item = String> + '_ {
        let attached = (0..self.nodes.len()).filter(|node| !self.nodes[*node].is_detached);
        attached.map(|node| name(self.machine(node)))
    }

    /// Lets time pass. By then every member of a swarm with a quorum has written its row, and every serving node has
    /// written it again.
    pub(super) fn pass(&mut self, time: Duration) {
        self.now_seconds += time.as_secs() + 1;
        self.record();
    }

    pub(super) fn record(&mut self) {
        for (generation, swarm) in self.opened.clone() {
            if self.has_quorum(swarm) {
                for machine in self.swarms[swarm].clone() {
                    if self.is_there(machine) {
                        self.write_row(machine, generation, swarm);
                    }
                }
            }
        }
        for node in 0..self.nodes.len() {
            if let Some((generation, swarm)) = self.nodes[node].serves
                && !self.nodes[node].is_silent
            {
                self.write_row(self.machine(node), generation, swarm);
            }
        }
    }

    /// Deletes the rows that no machine writes any more.
    pub(super) fn tidy_rows(&mut self) {
        let nodes = self.nodes.clone();
        self.rows.retain(|(node, life), _| nodes[*node].life == *life);
    }

    pub(super) fn spoil_row(&mut self, node: usize) {
        let machine = self.machine(node);
        if let Some(row) = self.rows.get_mut(&machine) {
            row.is_unreadable = true;
        }
    }

    /// Repairs the rows that cannot be read, as the log requests.
    pub fn mend_rows(&mut self) {
        self.rows.values_mut().for_each(|row| row.is_unreadable = false);
    }

    /// Lets the rows of machines that are gone become too old to prove that these are alive.
    pub fn grow_old(&mut self) {
        self.pass(MANAGER_ROW_IS_FRESH);
    }

    /// Runs the duty of [`crate::manager::mark_removed_members`] for a missing charter.
    pub(super) fn serve(&mut self, node: usize) {
        let Some((generation, swarm)) = self.nodes[node].serves else { return };
        let is_manager = self.is_manager_of(self.machine(node));
        // A worker that was promoted by hand is not permitted to write the charter.
        let may_write = is_manager && self.nodes[node].role == Role::Manager;
        if self.charter.is_some() || !may_write || !self.is_led(node) {
            return;
        }
        let readable = || self.rows.values().filter(|row| !row.is_unreadable);
        let own = readable().filter(|row| row.swarm == swarm).map(|row| row.generation);
        let generation = own.chain([generation]).max().unwrap_or(generation);
        if readable().all(|row| row.swarm == swarm || row.generation <= generation) {
            self.restore(self.machine(node), generation, swarm);
        }
    }

    pub(super) fn restore(&mut self, machine: Machine, generation: u64, swarm: usize) {
        self.write_row(machine, generation, swarm);
        if self.charter.is_none() {
            let recovered = self.recovered.get(&swarm);
            let living = Living {
                swarm_id: swarm_name(swarm),
                generation,
                is_recovered: recovered == Some(&generation),
                ca_digest: String::new(),
                created_at: None,
                restored_by: name(machine),
                now: self.now(),
            };
            self.open(Charter::restored(None, &living));
        }
    }
}
