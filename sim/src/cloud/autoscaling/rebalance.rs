//! Spreads the instances of a group over its zones, also when they have become uneven.
//!
//! Guarantees: a rebalancing launches instances before it terminates others, and exceeds the group's maximum by 10 % or
//! one instance at most; protected instances stay; a scale-in takes an instance of the fullest zone.
//!
//! AWS: <https://docs.aws.amazon.com/autoscaling/ec2/userguide/auto-scaling-benefits.html#AutoScalingBehavior.InstanceUsage>.
//! It rebalances after an explicit termination, a detachment, a standby, a change of the zones, or the recovery of a zone;
//! this cloud rebalances whenever two zones differ by more than one instance. AWS documents neither how many instances it
//! launches at a time (here: all that are needed) nor whether the protection from scale-in holds (here: yes).

use std::cmp::Reverse;
use std::time::Duration;

use super::lifecycle::Lifecycle;
use super::scaling::Scaling;
use super::states::LifecycleState;
use super::states::Process;
use crate::cloud::Cloud;
use crate::cloud::errors::ApiError;
use crate::cloud::wire::Params;

/// The share of a group's maximum by which a rebalancing can exceed it, as a divisor; one instance at least.
const MARGIN: u32 = 10;

/// An instance that counts for its group's capacity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Member {
    pub sequence: u64,
    pub id: String,
    pub zone: String,
    pub protected: bool,
}

/// Where and why an instance is launched to balance the zones.
#[derive(Clone, Debug)]
pub(super) struct Balance {
    pub zone: String,
    pub cause: String,
}

/// Returns the number of members in a zone.
pub(super) fn population(members: &[Member], zone: &str) -> usize {
    members.iter().filter(|it| it.zone == zone).count()
}

/// Returns the members that a scale-in takes: those in zones that the group no longer has, then those in the fullest
/// zone, the oldest first. Protected ones stay.
/// <https://docs.aws.amazon.com/autoscaling/ec2/userguide/ec2-auto-scaling-termination-policies.html>
pub(super) fn victims(members: &[Member], zones: &[String], count: usize) -> Vec<String> {
    let mut left = members.to_vec();
    let mut victims = vec![];
    while victims.len() < count {
        let rank = |it: &Member| {
            (!zones.contains(&it.zone), population(&left, &it.zone), Reverse(it.sequence))
        };
        let choice = left.iter().enumerate().filter(|(_, it)| !it.protected);
        let Some((index, _)) = choice.max_by_key(|(_, it)| rank(it)) else { break };
        victims.push(left.remove(index).id);
    }
    victims
}

/// Returns the zone that needs one more instance, so that a member of another zone can go; `None`: the zones are even, or
/// no member can go. `open`: the zones in which instances can be launched.
fn zone_in_need(members: &[Member], zones: &[String], open: &[String]) -> Option<String> {
    let emptiest = open.iter().min_by_key(|zone| population(members, zone))?;
    let fewest = population(members, emptiest);
    let can_go = |it: &&Member| !it.protected;
    let is_better_there =
        |it: &Member| !zones.contains(&it.zone) || population(members, &it.zone) > fewest + 1;
    members.iter().filter(can_go).any(is_better_there).then(|| emptiest.clone())
}

/// Returns the cause of a termination for which an instance in one of these zones has made room. The wording is
/// AWS's, as quoted in <https://github.com/awslabs/benchmark-ai/issues/71>.
pub(super) fn because_balanced(zones: &[String], cause: &str) -> String {
    if zones.is_empty() {
        return cause.to_owned();
    }
    format!(
        "instances were launched to balance instances in zones {} with other zones resulting in \
         more than desired number of instances in the group. Then {cause}",
        zones.join(" ")
    )
}

impl Scaling {
    /// Returns the zones of a group.
    pub(super) fn zones_of(&self, group: &str) -> &[String] {
        match self.groups.get(group) {
            Some(group) if !group.zones.is_empty() => &group.zones,
            _ => &self.zones,
        }
    }

    /// Returns the zones of a group in which instances can be launched.
    pub(super) fn open_zones(&self, group: &str) -> Vec<String> {
        let zones = self.zones_of(group).iter();
        zones.filter(|zone| !self.impaired.contains(*zone)).cloned().collect()
    }

    /// Returns the instances that count for a group's capacity, oldest first.
    pub(super) fn members(&self, group: &str) -> Vec<Member> {
        let counted = self.instances().filter(|i| i.group == group && i.lifecycle.state().counts());
        let member = |i: &super::Instance| Member {
            sequence: i.sequence,
            id: i.id.clone(),
            zone: i.zone.clone(),
            protected: i.protected,
        };
        let mut members: Vec<Member> = counted.map(member).collect();
        members.sort_by_key(|it| it.sequence);
        members
    }

    /// Removes from a group's members those that were launched to balance it and are not in service yet: they do not
    /// count before. Returns the others, and the zones of those that have come into service since the last call.
    pub(super) fn without_balancing(
        &mut self,
        name: &str,
        members: &[Member],
    ) -> (Vec<Member>, Vec<String>) {
        let mut settled = members.to_vec();
        let Some(group) = self.groups.get_mut(name) else { return (settled, vec![]) };
        let mut arrived = vec![];
        group.balancing.retain(|id| {
            let Some(instance) = self.instances.get(id) else { return false };
            let state = instance.lifecycle.state();
            if state == LifecycleState::InService {
                arrived.push(instance.zone.clone());
            }
            state.counts() && state != LifecycleState::InService
        });
        settled.retain(|member| !group.balancing.contains(&member.id));
        (settled, arrived)
    }

    /// Launches instances in the emptiest zones of a group that is not balanced. When they are in service, the group has
    /// more instances than it needs, and terminates some of the fullest zones.
    pub(super) fn rebalance(&mut self, name: &str, now: Duration) {
        let mut has_launched = false;
        while let Some(balance) = self.next_balance(name) {
            let Some(id) = self.launch_as(name, Lifecycle::new(now), Some(balance), now) else {
                break;
            };
            if let Some(group) = self.groups.get_mut(name) {
                group.balancing.insert(id);
            }
            has_launched = true;
        }
        // Without a launch hook, they may be in service already.
        if has_launched {
            self.converge(now);
        }
    }

    fn next_balance(&self, name: &str) -> Option<Balance> {
        let group = self.groups.get(name)?;
        if group.is_suspended(Process::AzRebalance) || group.is_suspended(Process::Launch) {
            return None;
        }
        let mut members = self.members(name);
        let most = group.spec.max + (group.spec.max / MARGIN).max(1);
        if members.len() >= most as usize {
            return None;
        }
        let (zones, open) = (self.zones_of(name), self.open_zones(name));
        let shown = zones.iter().map(|zone| population(&members, zone).to_string());
        let shown = shown.collect::<Vec<_>>().join(" ");
        // What remains when the excess has gone.
        let excess = members.len().saturating_sub(group.spec.desired as usize);
        let gone = victims(&members, zones, excess);
        members.retain(|member| !gone.contains(&member.id));
        let zone = zone_in_need(&members, zones, &open)?;
        let cause = format!(
            "availability zones {} had {shown} instances respectively. An instance was launched to \
             aid in balancing the group's zones.",
            zones.join(" ")
        );
        Some(Balance { zone, cause })
    }

    /// Sets the zones of a group; its instances in other zones are replaced.
    pub fn set_zones(
        &mut self,
        group: &str,
        zones: Vec<String>,
        now: Duration,
    ) -> Result<(), ApiError> {
        self.check_zones(&zones)?;
        self.group_mut(group)?.zones = zones;
        self.converge(now);
        Ok(())
    }

    /// Checks that these zones exist.
    pub(super) fn check_zones(&self, zones: &[String]) -> Result<(), ApiError> {
        match zones.iter().find(|zone| !self.zones.contains(zone)) {
            Some(zone) => Err(ApiError::validation(format!("Invalid Availability Zone: {zone}"))),
            None => Ok(()),
        }
    }

    /// Sets whether instances can be launched in a zone.
    pub fn impair_zone(&mut self, zone: &str, is_impaired: bool, now: Duration) {
        if is_impaired {
            self.impaired.insert(zone.to_owned());
        } else {
            self.impaired.remove(zone);
        }
        self.converge(now);
    }
}

/// Sets the zones that `UpdateAutoScalingGroup` names, if it names any.
pub(super) fn update(
    scaling: &mut Scaling,
    group: &str,
    params: &Params,
    now: Duration,
) -> Result<(), ApiError> {
    let zones = params.list("AvailabilityZones");
    if zones.is_empty() { Ok(()) } else { scaling.set_zones(group, zones, now) }
}

impl Cloud {
    /// Sets the zones of a group; its instances in other zones are replaced, the new ones first.
    pub fn set_zones(&self, group: &str, zones: &[&str]) -> Result<(), ApiError> {
        let zones = zones.iter().map(|zone| (*zone).to_owned()).collect();
        self.change(|state, now| state.scaling.set_zones(group, zones, now))
    }

    /// Sets whether groups can launch instances in a zone. The instances there stay; when the zone recovers, groups
    /// balance their zones.
    pub fn impair_zone(&self, zone: &str, is_impaired: bool) {
        self.change(|state, now| state.scaling.impair_zone(zone, is_impaired, now));
    }
}

#[cfg(test)]
#[path = "rebalance_tests.rs"]
mod tests;
