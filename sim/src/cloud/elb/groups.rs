//! The pure core: changes target groups and their targets, and chooses the target of a new flow.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use fastrand::Rng;

use super::balancer::{Listener, LoadBalancer};
use super::specs::{HealthCheck, TargetGroupAttributes, TargetGroupSpec};
use super::target::{Cut, Event, Fact, Target, TargetState};
use super::target_group::{Member, TargetGroup, TargetKey, settings};
use crate::cloud::errors::ApiError;
use crate::cloud::ids::Ids;

/// Some of the open flows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum FlowsOf {
    Target { group: String, key: TargetKey },
    Listener(String),
}

/// An event to publish, or an order to the proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Health { target: String, target_group: String, from: TargetState, to: TargetState },
    Cut { flows: FlowsOf, reason: Cut },
}

/// A target that the proxy must check.
#[derive(Clone, Debug)]
pub(crate) struct ToCheck {
    pub group: String,
    pub key: TargetKey,
    pub registration: u64,
    pub at: SocketAddrV4,
    /// The `Host` header: the load balancer's address and the listener's port, as on AWS.
    pub host: SocketAddrV4,
    pub check: HealthCheck,
}

/// The target of a new flow.
#[derive(Clone, Debug)]
pub(crate) struct Placed {
    pub group: String,
    pub key: TargetKey,
    pub address: Ipv4Addr,
}

pub(crate) struct Elb {
    pub(super) region: String,
    pub(super) ids: Ids,
    random: Rng,
    /// These three are by ARN.
    pub(super) groups: BTreeMap<String, TargetGroup>,
    pub(super) balancers: BTreeMap<String, LoadBalancer>,
    pub(super) listeners: BTreeMap<String, Listener>,
    registrations: u64,
    version: u64,
    outcomes: Vec<Outcome>,
    /// The address of all load balancers, once they are served.
    pub address: Option<Ipv4Addr>,
}

impl Elb {
    pub fn new(region: &str, seed: u64) -> Self {
        Self {
            region: region.to_owned(),
            ids: Ids::new(seed),
            random: Rng::with_seed(seed),
            groups: BTreeMap::new(),
            balancers: BTreeMap::new(),
            listeners: BTreeMap::new(),
            registrations: 0,
            version: 0,
            outcomes: Vec::new(),
            address: None,
        }
    }

    pub fn take_outcomes(&mut self) -> Vec<Outcome> {
        std::mem::take(&mut self.outcomes)
    }

    /// Returns a number that grows with every change of the listeners, or of the targets to check.
    pub fn version(&self) -> u64 {
        self.version
    }

    pub(super) fn touch(&mut self) {
        self.version += 1;
    }

    pub(super) fn push(&mut self, outcome: Outcome) {
        self.outcomes.push(outcome);
    }

    /// Returns a target group by its ARN.
    pub fn group(&self, arn: &str) -> Result<&TargetGroup, ApiError> {
        self.groups.get(arn).ok_or_else(unknown_group)
    }

    pub(super) fn group_mut(&mut self, arn: &str) -> Result<&mut TargetGroup, ApiError> {
        self.groups.get_mut(arn).ok_or_else(unknown_group)
    }

    /// Returns the ARN of a target group by its name, which is unique.
    pub fn arn_of(&self, name: &str) -> Option<&str> {
        let group = self.groups.values().find(|group| group.spec.name == name)?;
        Some(&group.arn)
    }

    /// Creates a target group, and returns its ARN. Repeating it with the same settings changes nothing.
    pub fn create_group(&mut self, spec: TargetGroupSpec) -> Result<String, ApiError> {
        if let Some(old) = self.groups.values().find(|group| group.spec.name == spec.name) {
            if old.spec == spec {
                return Ok(old.arn.clone());
            }
            let message = "A target group with the same name exists, but with different settings";
            return Err(ApiError::new(400, "DuplicateTargetGroupName", message));
        }
        let id = self.ids.hex(16);
        let arn = self.arn(&format!("targetgroup/{}/{id}", spec.name));
        let (members, was_healthy) = (BTreeMap::new(), false);
        let group = TargetGroup { arn: arn.clone(), spec, members, was_healthy };
        self.groups.insert(arn.clone(), group);
        Ok(arn)
    }

    pub fn delete_group(&mut self, arn: &str) -> Result<(), ApiError> {
        if self.is_used(arn) {
            let message =
                format!("Target group '{arn}' is currently in use by a listener or a rule");
            return Err(ApiError::new(400, "ResourceInUse", message));
        }
        // An unknown target group counts as deleted. Without a listener, no target has flows.
        self.groups.remove(arn);
        self.touch();
        Ok(())
    }

    /// Changes the attributes of a target group. They apply to draining targets, too.
    pub fn set_attributes(
        &mut self,
        arn: &str,
        attributes: TargetGroupAttributes,
        now: Duration,
    ) -> Result<(), ApiError> {
        self.group_mut(arn)?.spec.attributes = attributes;
        self.tick(now);
        self.cut_unhealthy(arn);
        self.touch();
        Ok(())
    }

    pub(super) fn arn(&self, resource: &str) -> String {
        let (region, account) = (&self.region, crate::cloud::ACCOUNT);
        format!("arn:aws:elasticloadbalancing:{region}:{account}:{resource}")
    }

    /// Whether a listener forwards to the target group.
    pub(super) fn is_used(&self, arn: &str) -> bool {
        self.listeners.values().any(|listener| listener.target_group == arn)
    }

    /// Updates the targets of a group after a change of its listeners.
    pub(super) fn refresh_use(&mut self, arn: &str, now: Duration) {
        let is_used = self.is_used(arn);
        for key in self.keys(arn) {
            self.step(arn, &key, Event::Use(is_used), now);
        }
        self.touch();
    }

    /// Registers a target at a port, or at the group's. A draining target is registered again.
    pub fn register(
        &mut self,
        arn: &str,
        id: &str,
        port: Option<u16>,
        address: Ipv4Addr,
        now: Duration,
    ) -> Result<(), ApiError> {
        // A target whose deregistration is over is new.
        self.tick(now);
        let (registration, is_used) = (self.registrations + 1, self.is_used(arn));
        let group = self.group_mut(arn)?;
        let key = TargetKey { id: id.to_owned(), port: port.unwrap_or(group.spec.port) };
        let member = group.members.entry(key.clone()).or_insert_with(|| Member {
            target: Target::new(now),
            address,
            registration,
        });
        let event = match member.target.state() {
            TargetState::Unused => Event::Use(is_used),
            TargetState::Draining => Event::Register,
            _ => return Ok(()),
        };
        member.registration = registration;
        self.registrations = registration;
        self.step(arn, &key, event, now);
        self.touch();
        Ok(())
    }

    /// Starts the deregistration of a target, if it is registered.
    pub fn deregister(
        &mut self,
        arn: &str,
        id: &str,
        port: Option<u16>,
        now: Duration,
    ) -> Result<(), ApiError> {
        let port = port.unwrap_or(self.group(arn)?.spec.port);
        self.step(arn, &TargetKey { id: id.to_owned(), port }, Event::Deregister, now);
        Ok(())
    }

    /// Removes a terminated instance from all target groups.
    pub fn forget(&mut self, id: &str) {
        let arns: Vec<String> = self.groups.keys().cloned().collect();
        for arn in arns {
            for key in self.keys(&arn).into_iter().filter(|key| key.id == id) {
                let Some(group) = self.groups.get_mut(&arn) else { continue };
                let Some(member) = group.members.remove(&key) else { continue };
                let (target_group, from) = (group.spec.name.clone(), member.target.state());
                let flows = FlowsOf::Target { group: arn.clone(), key };
                self.push(Outcome::Cut { flows, reason: Cut::Gone });
                if from != TargetState::Unused {
                    let (target, to) = (id.to_owned(), TargetState::Unused);
                    self.push(Outcome::Health { target, target_group, from, to });
                }
                self.touch();
            }
            self.cut_unhealthy(&arn);
        }
    }

    /// Applies the result of a health check.
    pub fn checked(&mut self, checked: &ToCheck, passed: bool, now: Duration) {
        let member = self.groups.get(&checked.group).and_then(|it| it.members.get(&checked.key));
        if member.is_some_and(|member| member.registration == checked.registration) {
            self.step(&checked.group, &checked.key, Event::Checked { passed }, now);
        }
    }

    /// Makes the changes that are due.
    pub fn tick(&mut self, now: Duration) {
        let mut due = Vec::new();
        for group in self.groups.values() {
            for (key, deadline) in group.deadlines() {
                if deadline <= now {
                    due.push((group.arn.clone(), key.clone()));
                }
            }
        }
        for (arn, key) in due {
            self.step(&arn, &key, Event::Tick, now);
        }
    }

    /// Returns the time of the next change that needs no call.
    pub fn next_deadline(&self) -> Option<Duration> {
        let deadlines = self.groups.values().flat_map(TargetGroup::deadlines);
        deadlines.map(|(_, deadline)| deadline).min()
    }

    /// Returns a target for a new flow: a healthy one or, where none is healthy, any that is not draining.
    pub fn place(&mut self, listener: &str) -> Option<Placed> {
        let group = self.groups.get(&self.listeners.get(listener)?.target_group)?;
        let targets = group.receivers();
        let (key, member) = *self.random.choice(&targets)?;
        Some(Placed { group: group.arn.clone(), key: key.clone(), address: member.address })
    }

    /// Returns the targets to check: those of the groups in use, including draining ones.
    pub fn to_check(&self) -> Vec<ToCheck> {
        let mut all = Vec::new();
        let address = self.address.unwrap_or(Ipv4Addr::UNSPECIFIED);
        for group in self.groups.values() {
            let mut listeners = self.listeners.values();
            let Some(used_by) = listeners.find(|it| it.target_group == group.arn) else { continue };
            let check = &group.spec.health_check;
            all.extend(group.members.iter().map(|(key, member)| ToCheck {
                group: group.arn.clone(),
                key: key.clone(),
                registration: member.registration,
                at: SocketAddrV4::new(member.address, check.port.unwrap_or(key.port)),
                host: SocketAddrV4::new(address, used_by.port),
                check: check.clone(),
            }));
        }
        all
    }

    fn keys(&self, arn: &str) -> Vec<TargetKey> {
        self.groups.get(arn).map(|it| it.members.keys().cloned().collect()).unwrap_or_default()
    }

    fn step(&mut self, arn: &str, key: &TargetKey, event: Event, now: Duration) {
        let Some(group) = self.groups.get_mut(arn) else { return };
        let TargetGroup { spec, members, .. } = group;
        let Some(member) = members.get_mut(key) else { return };
        let mut facts = Vec::new();
        member.target.step(event, now, settings(spec), &mut facts);
        for fact in facts {
            self.follow(arn, key, fact);
        }
        self.cut_unhealthy(arn);
    }

    fn follow(&mut self, arn: &str, key: &TargetKey, fact: Fact) {
        let Some(group) = self.groups.get_mut(arn) else { return };
        match fact {
            Fact::Moved { from, to } => {
                group.was_healthy |= to == TargetState::Healthy;
                let (target, target_group) = (key.id.clone(), group.spec.name.clone());
                self.push(Outcome::Health { target, target_group, from, to });
            }
            Fact::Cut(reason) => {
                let flows = FlowsOf::Target { group: arn.to_owned(), key: key.clone() };
                self.push(Outcome::Cut { flows, reason });
            }
            Fact::Removed => {
                group.members.remove(key);
                self.touch();
            }
        }
    }

    /// Cuts the flows of unhealthy targets, once the group has a healthy one.
    fn cut_unhealthy(&mut self, arn: &str) {
        let Some(group) = self.groups.get_mut(arn) else { return };
        let fails_open = !group.has_healthy();
        let TargetGroup { spec, members, .. } = group;
        let mut cut = Vec::new();
        for (key, member) in members {
            if let Some(fact) = member.target.cut_if_unhealthy(fails_open, settings(spec)) {
                cut.push((key.clone(), fact));
            }
        }
        for (key, fact) in cut {
            self.follow(arn, &key, fact);
        }
    }
}

fn unknown_group() -> ApiError {
    ApiError::new(400, "TargetGroupNotFound", "One or more target groups not found")
}

#[cfg(test)]
#[path = "groups_tests.rs"]
mod tests;
