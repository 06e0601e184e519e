//! Plain types that every room uses: an [`Instance`], its [`Role`], its [`Membership`] in a swarm and its
//! [`Departure`] from it. Nothing here does I/O.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

/// Role of a node in the swarm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Maintains the state of the swarm as a member of raft; can also run tasks.
    Manager,
    /// Only runs tasks.
    Worker,
}

impl Role {
    /// Both roles, the manager first.
    pub const ALL: [Role; 2] = [Role::Manager, Role::Worker];

    /// Returns `manager` or `worker`, as settings, tags and the ledger have it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Manager => "manager",
            Role::Worker => "worker",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Purchase option of the instance; `instance-life-cycle` in the metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Market {
    /// Every option but spot: `on-demand`, `scheduled` or `capacity-block` in the metadata.
    OnDemand,
    /// EC2 can reclaim the instance, normally two minutes after a spot interruption notice.
    Spot,
}

impl Market {
    /// Returns `on-demand` or `spot`, as in the label `skep.market`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Market::OnDemand => "on-demand",
            Market::Spot => "spot",
        }
    }
}

/// The CloudFormation resource that waits for this instance's signal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StackResource {
    /// Name of the stack, from the tag `aws:cloudformation:stack-name`.
    pub stack: String,
    /// The resource's name in the template, from the tag `aws:cloudformation:logical-id`; such as `WorkerGroup`.
    pub logical_id: String,
}

/// Identity of this machine: facts of the instance metadata that do not change while it runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Instance {
    /// `i-` and hexadecimal digits.
    pub id: String,
    /// Amazon resource name, such as `arn:aws:ec2:eu-central-1:123456789012:instance/i-0abc`: IAM knows the caller
    /// by it (`ec2:SourceInstanceARN`).
    pub arn: String,
    /// EC2's instance type, such as `t3.small`.
    pub instance_type: String,
    /// Availability zone, such as `eu-central-1a`.
    pub zone: String,
    /// AWS region, such as `eu-central-1`.
    pub region: String,
    /// `local-ipv4`: the address that other nodes reach, never a public one.
    pub private_address: IpAddr,
    /// Purchase option: only a spot instance can be reclaimed by EC2.
    pub market: Market,
    /// Auto Scaling group, from the tag `aws:autoscaling:groupName`; `None` if the metadata has no tags.
    pub group: Option<String>,
    /// From the `aws:cloudformation:*` tags.
    pub stack: Option<StackResource>,
    /// Instance tags from the metadata; empty if the launch template does not enable them.
    pub tags: Tags,
}

/// Tags of an instance, by their keys.
pub type Tags = std::collections::BTreeMap<String, String>;

/// Tags that Auto Scaling and CloudFormation set; nobody else can set a tag that begins with `aws:`.
pub const GROUP_TAG: &str = "aws:autoscaling:groupName";
/// Name of the stack.
pub const STACK_TAG: &str = "aws:cloudformation:stack-name";
/// Name of the resource in the stack's template.
pub const LOGICAL_ID_TAG: &str = "aws:cloudformation:logical-id";

/// Whether this can be an instance id. AWS refuses a whole call if one id in it is too long.
#[must_use]
pub fn is_instance_id(id: &str) -> bool {
    /// `i-` and 17 digits.
    const LONGEST: usize = 19;
    let digits = id.strip_prefix("i-").unwrap_or_default();
    id.len() <= LONGEST && !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_alphanumeric())
}

#[cfg(test)]
impl Instance {
    /// Returns an instance without group and tags.
    pub(crate) fn example() -> Self {
        Self {
            id: "i-0abc".into(),
            arn: "arn:aws:ec2:eu-central-1:123456789012:instance/i-0abc".into(),
            instance_type: "t3.small".into(),
            zone: "eu-central-1a".into(),
            region: "eu-central-1".into(),
            private_address: [10, 0, 0, 1].into(),
            market: Market::OnDemand,
            group: None,
            stack: None,
            tags: std::collections::BTreeMap::new(),
        }
    }
}

/// Highest generation that skep accepts. A cluster founds a swarm a few times in its life: no generation that skep has
/// counted is near this one.
pub const HIGHEST_GENERATION: u64 = 1 << 53;

/// Proof of boot: this node is an active member of the charter's swarm.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Membership {
    /// Docker's id of this node.
    pub node_id: String,
    /// Docker's id of the swarm (`Cluster.ID`).
    pub swarm_id: String,
    /// The charter's generation.
    pub generation: u64,
    /// This node's role by Docker; after a demotion it may differ from the configured one.
    pub role: Role,
}

#[cfg(test)]
impl Membership {
    /// Returns the membership of the manager `n1` in the swarm `swarm`.
    pub(crate) fn example() -> Self {
        Self {
            node_id: "n1".to_owned(),
            swarm_id: "swarm".to_owned(),
            generation: 1,
            role: Role::Manager,
        }
    }
}

impl fmt::Display for Membership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { role, node_id, generation, .. } = self;
        write!(f, "{role} {node_id} of generation {generation}")
    }
}

/// Why a node leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reason {
    /// Auto Scaling terminates the instance: `target-lifecycle-state` is `Terminated`.
    Lifecycle,
    /// EC2 reclaims the spot instance.
    Spot,
    /// Scheduled maintenance stops the instance, reboots it into other hardware, or retires it.
    Maintenance,
    /// EC2 recommends replacing the spot instance, and `notices.rebalance` is `leave`.
    Rebalance,
    /// Auto Scaling returns the instance to the warm pool: it may enter service again.
    Pool,
    /// The machine is powered off.
    Shutdown,
    /// `skep leave`.
    Operator,
}

impl Reason {
    /// Returns the word in the ledger, in `SKEP_REASON` and in the metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::Lifecycle => "lifecycle",
            Reason::Spot => "spot",
            Reason::Maintenance => "maintenance",
            Reason::Rebalance => "rebalance",
            Reason::Pool => "pool",
            Reason::Shutdown => "shutdown",
            Reason::Operator => "operator",
        }
    }

    /// Whether Auto Scaling ends the node: then one of its lifecycle hooks waits for the node.
    #[must_use]
    pub fn is_auto_scalings(self) -> bool {
        matches!(self, Reason::Lifecycle | Reason::Pool)
    }

    /// Whether the machine stays, whatever the result of the departure.
    #[must_use]
    pub fn keeps_the_machine(self) -> bool {
        self == Reason::Operator
    }

    /// Whether the node goes on answering health checks with 200 at first: Auto Scaling has deregistered it, and 503 would
    /// let a balancer cut open requests; or the notice may be withdrawn, and 503 might let a group replace the node.
    #[must_use]
    pub fn begins_in_traffic(self) -> bool {
        self.is_auto_scalings() || self.may_be_withdrawn()
    }

    /// Whether EC2 may withdraw the notice, so that the node stays.
    #[must_use]
    pub fn may_be_withdrawn(self) -> bool {
        matches!(self, Reason::Spot | Reason::Maintenance | Reason::Rebalance)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A notice that this node must leave, with its deadline.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Departure {
    /// Why the node must leave.
    pub reason: Reason,
    /// Time when skep received the first notice.
    #[serde(with = "time::serde::rfc3339")]
    pub noticed_at: OffsetDateTime,
    /// Time when the machine ends, whatever the node has finished by then.
    #[serde(with = "time::serde::rfc3339")]
    pub deadline: OffsetDateTime,
}

impl Departure {
    /// Merges two notices: takes the nearer deadline, and the reason of the first one, unless only the later one is
    /// final, or only the later one ends the machine and is final.
    #[must_use]
    pub fn merge(self, later: &Departure) -> Departure {
        let (first, second) = (self.reason, later.reason);
        let is_for_good = first.may_be_withdrawn() && !second.may_be_withdrawn();
        let ends_the_machine =
            first.keeps_the_machine() && !second.keeps_the_machine() && !second.may_be_withdrawn();
        let reason = if is_for_good || ends_the_machine { second } else { first };
        Departure { reason, deadline: self.deadline.min(later.deadline), ..self }
    }
}

/// Why a node that stays in the swarm gets no tasks. The order counts: a later variant keeps more tasks away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SchedulingHold {
    /// EC2 recommends replacing the spot instance: the node keeps its tasks and gets no new ones.
    Rebalance,
    /// The instance is in Standby in Auto Scaling: its tasks move to other nodes.
    Standby,
}

impl SchedulingHold {
    /// Returns `standby` or `rebalance`, as in `skep status`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            SchedulingHold::Standby => "standby",
            SchedulingHold::Rebalance => "rebalance",
        }
    }

    /// Returns the meaning of the hold, for an operator.
    #[must_use]
    pub fn explain(self) -> &'static str {
        match self {
            SchedulingHold::Standby => "in Standby: no tasks here until it is InService again",
            SchedulingHold::Rebalance => "EC2 recommends replacing it: no new tasks here",
        }
    }
}
