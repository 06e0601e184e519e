//! Plain types: the requests to the cloud, and its views.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::autoscaling::{ActionResult, LifecycleState, PoolState, Transition};

#[derive(Clone, Debug)]
pub struct CloudOptions {
    pub region: String,
    /// At least one; instances are spread over them.
    pub zones: Vec<String>,
    /// The subnet of the instances' addresses. The first four addresses and the last one stay free, as on AWS.
    pub subnet: (Ipv4Addr, u8),
    /// The seed of ids, credentials and faults.
    pub seed: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Market {
    #[default]
    OnDemand,
    Spot,
}

impl Market {
    /// Returns the value of `instance-life-cycle` in the metadata.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::OnDemand => "on-demand",
            Self::Spot => "spot",
        }
    }
}

/// The health checks that make an Auto Scaling group replace an instance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HealthCheckType {
    /// Those of EC2.
    #[default]
    Ec2,
    /// Those of EC2 and of the group's target groups.
    Elb,
}

impl HealthCheckType {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ec2 => "EC2",
            Self::Elb => "ELB",
        }
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        [Self::Ec2, Self::Elb].into_iter().find(|it| it.as_str() == text)
    }
}

/// An Auto Scaling group and its launch template in one.
#[derive(Clone, Debug)]
pub struct GroupSpec {
    pub name: String,
    pub min: u32,
    pub max: u32,
    pub desired: u32,
    /// Propagated to the instances at launch.
    pub tags: BTreeMap<String, String>,
    /// The CloudFormation stack and the logical id of the group in it.
    pub stack: Option<(String, String)>,
    pub instance_type: String,
    pub market: Market,
    pub image_id: String,
    /// The role of the instance profile; `None`: no credentials.
    pub role_name: Option<String>,
    pub user_data: Option<String>,
    /// Whether the metadata shows the instance tags.
    pub metadata_tags: bool,
    /// The target groups in which instances are registered while they are in service.
    pub target_group_arns: Vec<String>,
    pub health_check_type: HealthCheckType,
    /// The time in service for which the target groups' health checks do not count.
    pub health_check_grace: Duration,
    /// Whether the group's instance lifecycle policy retains the instances whose termination hook was abandoned.
    pub retain_abandoned: bool,
}

impl Default for GroupSpec {
    fn default() -> Self {
        Self {
            name: String::new(),
            min: 0,
            max: 0,
            desired: 0,
            tags: BTreeMap::new(),
            stack: None,
            instance_type: "t3.medium".to_owned(),
            market: Market::OnDemand,
            image_id: "ami-0123456789abcdef0".to_owned(),
            role_name: Some("skep-node".to_owned()),
            user_data: None,
            metadata_tags: true,
            target_group_arns: Vec::new(),
            health_check_type: HealthCheckType::Ec2,
            health_check_grace: Duration::ZERO,
            retain_abandoned: false,
        }
    }
}

/// A lifecycle hook. Through this API, its heartbeat timeout can be shorter than AWS's minimum of 30 s.
#[derive(Clone, Debug)]
pub struct HookSpec {
    pub group: String,
    pub name: String,
    pub transition: Transition,
    pub heartbeat_timeout: Duration,
    pub default_result: ActionResult,
    pub notification_metadata: Option<String>,
}

impl HookSpec {
    /// Returns a hook with AWS's defaults: a heartbeat timeout of one hour, and ABANDON.
    pub fn new(group: &str, name: &str, transition: Transition) -> Self {
        Self {
            group: group.to_owned(),
            name: name.to_owned(),
            transition,
            heartbeat_timeout: Duration::from_secs(3600),
            default_result: ActionResult::Abandon,
            notification_metadata: None,
        }
    }

    #[must_use]
    pub fn timeout(mut self, heartbeat_timeout: Duration, default_result: ActionResult) -> Self {
        self.heartbeat_timeout = heartbeat_timeout;
        self.default_result = default_result;
        self
    }
}

/// A warm pool of a group.
#[derive(Clone, Copy, Debug, Default)]
pub struct WarmPoolSpec {
    /// The minimum number of instances in the pool, for any desired capacity.
    pub min_size: u32,
    /// The wanted sum of the pool and the desired capacity; `None`: the group's maximum.
    pub max_prepared: Option<u32>,
    pub state: PoolState,
    /// Whether instances return to the pool on scale-in.
    pub reuse: bool,
}

#[derive(Clone, Debug)]
pub struct StackSpec {
    pub name: String,
    pub resources: Vec<StackResourceSpec>,
}

/// A resource with a creation policy.
#[derive(Clone, Debug)]
pub struct StackResourceSpec {
    pub logical_id: String,
    /// The name of the group that this resource is; it becomes the physical id.
    pub group: Option<String>,
    /// The number of SUCCESS signals that it waits for; 0: complete at once.
    pub signals: u32,
    pub timeout: Duration,
}

/// One entry of `events/maintenance/scheduled`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Maintenance {
    /// `instance-stop`, `instance-retirement`, `instance-reboot`, `system-reboot`, …
    pub code: String,
    pub description: String,
    /// Seconds from now until the maintenance can start.
    pub in_seconds: u64,
    /// The length of the window; `None`: `NotAfter` is empty.
    pub window_seconds: Option<u64>,
}

impl Default for Maintenance {
    fn default() -> Self {
        Self {
            code: "instance-retirement".to_owned(),
            description: "The instance is running on degraded hardware".to_owned(),
            in_seconds: 3600,
            window_seconds: None,
        }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct InstanceView {
    pub id: String,
    pub group: String,
    pub lifecycle: LifecycleState,
    pub healthy: bool,
    /// Whether scale-in leaves it alone.
    pub protected: bool,
    pub address: Ipv4Addr,
    pub zone: String,
    #[serde(with = "time::serde::rfc3339")]
    pub launched_at: OffsetDateTime,
    pub market: Market,
    pub role_name: Option<String>,
    pub tags: BTreeMap<String, String>,
    /// The hooks that wait for completion at present.
    pub waiting_hooks: Vec<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GroupView {
    pub name: String,
    pub min: u32,
    pub max: u32,
    pub desired: u32,
    pub hooks: Vec<String>,
    /// Oldest first.
    pub instances: Vec<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StackView {
    pub name: String,
    pub id: String,
    pub status: String,
    pub reason: Option<String>,
    pub resources: Vec<StackResourceView>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StackResourceView {
    pub logical_id: String,
    pub status: String,
    pub reason: Option<String>,
    pub required_signals: u32,
    /// The unique ids of the SUCCESS signals.
    pub succeeded: BTreeSet<String>,
    pub failed: BTreeSet<String>,
}
