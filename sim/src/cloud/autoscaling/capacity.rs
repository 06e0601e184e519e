//! Launches and terminates instances until each group has its desired capacity.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use super::instance::{Credentials, Instance};
use super::lifecycle::{Event, Lifecycle};
use super::rebalance::{Balance, because_balanced, victims};
use super::scaling::{Outcome, Principal, Scaling};
use super::states::Process;
use crate::cloud::events::EventKind;
use crate::cloud::ids::Ids;
use crate::machines::Launch;

impl Scaling {
    /// Launches and terminates until each group has its desired capacity, and its instance refresh waits.
    pub(super) fn converge(&mut self, now: Duration) {
        self.fill_up(now);
        while self.advance_refreshes(now) {
            self.fill_up(now);
        }
    }

    /// Launches missing instances; terminates excess ones, or returns them to the warm pool.
    fn fill_up(&mut self, now: Duration) {
        let names: Vec<String> = self.groups.keys().cloned().collect();
        for name in names {
            let members = self.members(&name);
            let (settled, balanced) = self.without_balancing(&name, &members);
            let desired = self.groups.get(&name).map_or(0, |g| g.spec.desired as usize);
            let desired = desired + self.refresh_surge(&name);
            let is_suspended =
                |process| self.groups.get(&name).is_some_and(|group| group.is_suspended(process));
            let excess = match is_suspended(Process::Terminate) {
                true => 0,
                false => settled.len().saturating_sub(desired),
            };
            let launches = !is_suspended(Process::Launch);
            // Protected instances stay, and the group keeps more than its desired capacity.
            for id in victims(&settled, self.zones_of(&name), excess) {
                let cause = "an instance was taken out of service in response to a difference \
                             between desired and actual capacity, shrinking the capacity.";
                let cause = because_balanced(&balanced, cause);
                if !self.return_to_pool(&id, &cause, now) {
                    self.begin_termination(&id, false, &cause, now);
                }
            }
            let full = (members.len()..desired).all(|_| {
                launches
                    && (self.take_from_pool(&name, now)
                        || self.launch(&name, Lifecycle::new(now), now))
            });
            self.keep_pool(&name, now);
            if full && let Some(group) = self.groups.get_mut(&name) {
                // The group is full: gaps that no launch filled no longer exist.
                group.to_replace.clear();
            }
            if full {
                self.rebalance(&name, now);
            }
        }
    }

    /// Issues credentials of a role for an instance that no group has launched.
    pub fn credentials(&mut self, role_name: &str, instance_id: &str) -> Credentials {
        issue(&mut self.ids, &mut self.principals, role_name.to_owned(), instance_id)
    }

    /// Launches one instance; returns `false` when that is suspended, or the subnet has no free address.
    pub(super) fn launch(&mut self, group: &str, lifecycle: Lifecycle, now: Duration) -> bool {
        self.launch_as(group, lifecycle, None, now).is_some()
    }

    /// Launches one instance, as [`Scaling::launch`] does, or to balance the zones; returns its id.
    pub(super) fn launch_as(
        &mut self,
        group: &str,
        lifecycle: Lifecycle,
        balance: Option<Balance>,
        now: Duration,
    ) -> Option<String> {
        if self.groups.get(group)?.is_suspended(Process::Launch) {
            return None;
        }
        let is_warmed = lifecycle.state().is_warmed();
        let zone = match &balance {
            Some(balance) => balance.zone.clone(),
            None => {
                let new = super::refresh::launches_after(&self.refreshes, group);
                emptiest_zone(&self.open_zones(group), group, is_warmed, new, &self.instances)?
            }
        };
        let Some(address) = self.addresses.take() else {
            tracing::warn!(group, "the subnet has no free address, nothing is launched");
            return None;
        };
        let owner = self.groups.get_mut(group)?;
        let id = self.ids.instance();
        let image_id = super::refresh::image_of_launches(&self.refreshes, &owner.spec);
        let spec = &owner.spec;
        let role_name = spec.role_name.clone();
        let credentials =
            role_name.map(|role| issue(&mut self.ids, &mut self.principals, role, &id));
        self.sequence += 1;
        let instance = Instance {
            id: id.clone(),
            group: group.to_owned(),
            sequence: self.sequence,
            zone: zone.clone(),
            address,
            launched: now,
            instance_type: spec.instance_type.clone(),
            image_id,
            market: spec.market,
            user_data: spec.user_data.clone(),
            credentials,
            tags: owner.instance_tags(),
            metadata_tags: spec.metadata_tags,
            lifecycle,
            healthy: true,
            protected: false,
            spot: None,
            rebalance: None,
            maintenance: Vec::new(),
            activity: 0,
        };
        let replaced = match is_warmed || balance.is_some() {
            true => None,
            false => owner.to_replace.pop_front(),
        };
        let launch = Launch {
            instance_id: id.clone(),
            private_address: address,
            zone: zone.clone(),
            group: group.to_owned(),
            image_id: instance.image_id.clone(),
            tags: instance.tags.clone(),
        };
        self.by_address.insert(address, id.clone());
        self.instances.insert(id.clone(), instance);
        let cause = "an instance was started in response to a difference between desired and \
                     actual capacity, increasing the capacity.";
        let cause = balance.map_or_else(|| cause.to_owned(), |balance| balance.cause);
        let description = format!("Launching a new EC2 instance: {id}");
        self.record(&id, group, description, &cause, now);
        self.emit(EventKind::InstanceLaunched {
            instance_id: id.clone(),
            group: group.to_owned(),
            zone,
            address,
        });
        if let Some(old) = replaced {
            self.emit(EventKind::Replaced { group: group.to_owned(), old, new: id.clone() });
        }
        // The machine starts before the first transition, as EC2's does.
        self.outcomes.push(Outcome::Launch(launch));
        // A tick cannot be refused.
        let _ = self.step(&id, Event::Tick, now);
        Some(id)
    }

    pub(super) fn begin_termination(
        &mut self,
        id: &str,
        replace: bool,
        cause: &str,
        now: Duration,
    ) {
        let Some(instance) = self.instances.get(id) else {
            return;
        };
        let group = instance.group.clone();
        self.activities[instance.activity].end_if_open(now);
        self.record_termination(id, &group, cause, now);
        if replace {
            self.leaves_a_gap(&group, id);
        }
        // Terminating is never refused.
        let _ = self.step(id, Event::Terminate, now);
    }

    pub(super) fn record_termination(&mut self, id: &str, group: &str, cause: &str, now: Duration) {
        let description = format!("Terminating EC2 instance: {id}");
        self.record(id, group, description, cause, now);
    }

    /// Records that the next launch replaces this instance; an instance of the warm pool is not replaced.
    pub(super) fn leaves_a_gap(&mut self, group: &str, id: &str) {
        if self.instances.get(id).is_some_and(|i| i.lifecycle.state().is_warmed()) {
            return;
        }
        if let Some(group) = self.groups.get_mut(group) {
            group.to_replace.push_back(id.to_owned());
        }
    }

    /// Removes an instance whose machine ended without hooks: crashed, reclaimed, or terminated in the console.
    pub fn vanish(&mut self, id: &str, now: Duration) {
        let Some(instance) = self.instances.get(id) else {
            return;
        };
        if !instance.lifecycle.state().is_leaving() {
            let group = instance.group.clone();
            self.activities[instance.activity].end_if_open(now);
            let cause = "an instance was taken out of service in response to an EC2 health check \
                         indicating it has been terminated or stopped.";
            self.record_termination(id, &group, cause, now);
            self.leaves_a_gap(&group, id);
        }
        // Vanishing is never refused.
        let _ = self.step(id, Event::Vanish, now);
        self.converge(now);
    }
}

/// Issues credentials of a role for one instance.
fn issue(
    ids: &mut Ids,
    principals: &mut HashMap<String, Principal>,
    role_name: String,
    instance_id: &str,
) -> Credentials {
    let credentials = Credentials {
        role_name,
        access_key_id: ids.access_key(),
        secret_access_key: ids.secret(40),
        session_token: ids.secret(120),
    };
    let principal = Principal {
        instance_id: instance_id.to_owned(),
        role_name: credentials.role_name.clone(),
        session_token: credentials.session_token.clone(),
    };
    principals.insert(credentials.access_key_id.clone(), principal);
    credentials
}

/// Returns the zone with the fewest instances of the group; of several, the first in the given order. An instance for the
/// warm pool is placed among all instances, any other among those that count. `new`: the position after which launches are
/// those of an instance refresh, whose new instances are spread first: the others leave.
fn emptiest_zone(
    zones: &[String],
    group: &str,
    is_warmed: bool,
    new: Option<u64>,
    instances: &BTreeMap<String, Instance>,
) -> Option<String> {
    let population = |zone: &String, after: u64| {
        let is_there = |i: &&Instance| {
            let state = i.lifecycle.state();
            let counts = if is_warmed { !state.is_leaving() } else { state.counts() };
            i.group == group && &i.zone == zone && counts && i.sequence > after
        };
        instances.values().filter(is_there).count()
    };
    let of_new = |zone: &String| new.map_or(0, |after| population(zone, after));
    zones.iter().min_by_key(|zone| (of_new(zone), population(zone, 0))).cloned()
}
