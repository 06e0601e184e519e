//! What an adoption is decided on.

use std::collections::BTreeSet;
use std::net::IpAddr;

use time::OffsetDateTime;

use crate::clients::aws::ec2::Ec2Instance;
use crate::clients::docker::{Cluster, Engine, LocalNode, NodeView};
use crate::clients::ledger::{Charter, Traces};
use crate::common::instance::Role;

/// Facts for the plan.
#[derive(Clone, Debug)]
pub struct Observed {
    /// Instance id.
    pub me: String,
    /// Name of this cluster.
    pub cluster: String,
    /// This node's role, by its settings or tags.
    pub role: Role,
    /// The address that this node's skep advertises.
    pub address: IpAddr,
    /// Whether `swarm.autolock` is set.
    pub wants_autolock: bool,
    /// `None` if the ledger has no charter.
    pub charter: Option<Charter>,
    /// What rows and history name of earlier swarms.
    pub traces: Traces,
    /// Instances whose fresh row names them managers of another swarm of this cluster.
    pub rivals: BTreeSet<String>,
    /// Whether the ledger has a row of this node.
    pub has_row: bool,
    /// Keys of member rows that cannot be read.
    pub unreadable: BTreeSet<String>,
    /// Docker's answer about this host.
    pub local: LocalNode,
    /// The swarm; `None` where no leader answers, or this host is not a manager.
    pub swarm: Option<SwarmSeen>,
    /// Where the token store keeps tokens, without the generation.
    pub token_place: String,
    /// Time of the observation by this host's clock.
    pub now: OffsetDateTime,
}

impl Observed {
    /// Returns the claim of this node under which an adoption of this swarm was cut off; `None` once its lease has
    /// expired, because another manager can claim then at any time.
    #[must_use]
    pub fn own_claim(&self) -> Option<&Charter> {
        let swarm = self.swarm.as_ref()?;
        self.charter.as_ref().filter(|charter| {
            charter.is_claimed_by(&self.me)
                && charter.adopts.as_ref() == Some(&swarm.cluster.id)
                && charter.lease_expires_at > self.now
        })
    }
}

/// The swarm as its leader and EC2 show it.
#[derive(Clone, Debug)]
pub struct SwarmSeen {
    /// The swarm object.
    pub cluster: Cluster,
    /// The node list.
    pub nodes: Vec<NodeView>,
    /// The engine of this host, with the ports of the swarm.
    pub engine: Engine,
    /// The instances of this VPC that have the nodes' addresses, or why EC2 did not list them.
    pub instances: Result<Vec<Ec2Instance>, String>,
}
