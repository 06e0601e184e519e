//! One target group with its registered targets.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::specs::TargetGroupSpec;
use super::target::{Settings, Target, TargetHealth, TargetState};

/// One registered target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetView {
    /// The name of the target group.
    pub target_group: String,
    /// The instance's id, or an address.
    pub id: String,
    pub port: u16,
    pub health: TargetHealth,
}

/// A target of a target group: an instance's id or an address, and a port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TargetKey {
    pub id: String,
    pub port: u16,
}

/// A registered target.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    pub target: Target,
    pub address: Ipv4Addr,
    /// Unique for each registration: the results of checks of an older one do not count.
    pub registration: u64,
}

#[derive(Clone, Debug)]
pub(crate) struct TargetGroup {
    pub arn: String,
    pub spec: TargetGroupSpec,
    pub members: BTreeMap<TargetKey, Member>,
    /// Whether it ever had a healthy target.
    pub was_healthy: bool,
}

impl TargetGroup {
    pub fn has_healthy(&self) -> bool {
        self.members.values().any(|member| member.target.state() == TargetState::Healthy)
    }

    /// Returns the targets that new flows can have. Without a healthy target, the load balancer fails open:
    /// <https://docs.aws.amazon.com/elasticloadbalancing/latest/network/target-group-health-checks.html>
    pub fn receivers(&self) -> Vec<(&TargetKey, &Member)> {
        let in_state = |is_wanted: fn(TargetState) -> bool| {
            let members = self.members.iter();
            members.filter(|(_, member)| is_wanted(member.target.state())).collect::<Vec<_>>()
        };
        let healthy = in_state(|state| state == TargetState::Healthy);
        if healthy.is_empty() { in_state(|state| state != TargetState::Draining) } else { healthy }
    }

    /// Returns the health of a target, registered or not.
    pub fn health(&self, key: &TargetKey) -> TargetHealth {
        let member = self.members.get(key);
        member.map_or_else(TargetHealth::not_registered, |member| member.target.health())
    }

    /// Returns the end of a target's deregistration, if it is draining.
    pub fn deregistered_at(&self, member: &Member) -> Option<Duration> {
        member.target.deregistered_at(settings(&self.spec))
    }

    pub(super) fn deadlines(&self) -> impl Iterator<Item = (&TargetKey, Duration)> {
        let members = self.members.iter();
        members.filter_map(|(key, member)| {
            Some((key, member.target.next_deadline(settings(&self.spec))?))
        })
    }
}

pub(super) fn settings(spec: &TargetGroupSpec) -> Settings<'_> {
    Settings { check: &spec.health_check, attributes: &spec.attributes }
}
