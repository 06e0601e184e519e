//! The reports for the operator: `skep status`, `skep recover`, `skep rotate-tokens`, the page.

use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::common::instance::Role;
use crate::common::labels::Labels;
use crate::common::state::{NodeState, StateHandle};

/// This node, and on a manager the whole fleet.
///
/// `N` is [`NodeState`]. `skep status --json`, which prints the report unchanged, reads it as a `serde_json::Value` and
/// so keeps the fields that a newer skep adds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StatusReport<N = NodeState> {
    /// State of this node.
    pub node: N,
    /// `None` on a worker, and before this node is in a swarm.
    pub fleet: Option<FleetView>,
}

/// Source of the view of the fleet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ViewSource {
    /// The ledger's rows and Docker's node list, merged.
    LedgerAndDocker,
    /// Docker did not answer, or this node is not a manager.
    Ledger,
    /// The ledger did not answer.
    Docker,
    /// Neither the ledger nor Docker answered.
    Nothing,
}

/// The fleet by the ledger and Docker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FleetView {
    /// Which of the ledger and Docker have answered.
    pub source: ViewSource,
    /// `None` if Docker did not answer, for example without a quorum.
    #[serde(default)]
    pub quorum: Option<QuorumView>,
    /// Time of the loss of the quorum, from this manager's own state.
    #[serde(default, with = "time::serde::rfc3339::option")]
    pub quorum_lost_since: Option<OffsetDateTime>,
    /// Every node that the ledger or Docker lists, managers first.
    pub members: Vec<FleetMember>,
    /// Why the view is incomplete, in one line.
    pub problem: Option<String>,
    /// Problems between these nodes, each in one line.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// The departures of the last day that are over, the newest notice first.
    #[serde(default)]
    pub departed: Vec<Departed>,
    /// Instances in service that are not members; `None` if that is not known.
    #[serde(default)]
    pub outsiders: Option<Outsiders>,
}

/// Instances that Auto Scaling lists as `InService` in the cluster's groups, and that are not members of the swarm.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outsiders {
    /// Time of the request to Auto Scaling.
    #[serde(with = "time::serde::rfc3339")]
    pub asked_at: OffsetDateTime,
    /// Sorted by their ids; empty if every instance in service is a member.
    pub instances: Vec<Outsider>,
}

/// An instance in service that is not a member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outsider {
    /// Such as `i-0abc`.
    pub instance_id: String,
    /// Its Auto Scaling group.
    pub group: String,
}

impl FleetView {
    /// Limit for collecting the view: the operator waits at a prompt or in front of the page, perhaps because AWS does
    /// not work.
    const PATIENCE: Duration = Duration::from_secs(5);

    /// Awaits `view` for 5 s; after that, returns a view that only names the problem. Adds the time of the loss of the
    /// quorum from this node's own `state`.
    pub async fn in_time(
        state: &StateHandle,
        view: impl Future<Output = Option<Self>>,
    ) -> Option<Self> {
        let view = tokio::time::timeout(Self::PATIENCE, view).await;
        let mut view = view.unwrap_or_else(|_| Some(Self::unanswered()))?;
        view.quorum_lost_since = state.now().quorum_lost_since;
        Some(view)
    }

    fn unanswered() -> Self {
        let patience = Self::PATIENCE;
        Self {
            source: ViewSource::Nothing,
            quorum: None,
            quorum_lost_since: None,
            members: vec![],
            problem: Some(format!("the ledger and Docker did not answer within {patience:?}")),
            warnings: vec![],
            departed: vec![],
            outsiders: None,
        }
    }
}

/// Number of managers, and number of managers that the swarm can lose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuorumView {
    /// Members of raft.
    pub managers: usize,
    /// Managers that the leader reaches, itself included.
    pub reachable: usize,
    /// Number of reachable managers that the swarm can lose and keep its quorum.
    pub may_be_lost: usize,
}

/// One node of the fleet; a field is `None` if the source does not have it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FleetMember {
    /// `None` for a node that is in Docker's node list and not in the ledger.
    pub instance_id: Option<String>,
    /// Role by the ledger, or by Docker for a node without a row.
    pub role: Role,
    /// Docker's id.
    pub node_id: Option<String>,
    /// The private address.
    pub address: Option<IpAddr>,
    /// Availability zone, by the ledger.
    pub zone: Option<String>,
    /// Auto Scaling group.
    pub group: Option<String>,
    /// Generation of its swarm, by the ledger.
    #[serde(default)]
    pub generation: Option<u64>,
    /// Its unfinished departure.
    #[serde(default)]
    pub leaving: Option<Leaving>,
    /// State of the member, by the ledger.
    pub state: Option<String>,
    /// State by Docker: `ready`, `down`, `unknown`, `disconnected`; `unknown` also if Docker has no list, for example
    /// without a quorum. `None` for a node that Docker does not list.
    pub docker_state: Option<String>,
    /// Availability by Docker: `active`, `pause`, `drain`.
    pub docker_availability: Option<String>,
    /// The node's labels, by Docker.
    #[serde(default)]
    pub labels: Labels,
    /// Whether it is the leader of the raft group.
    pub leader: bool,
    /// Host name, by Docker; `None` where the node has not reported one.
    #[serde(default)]
    pub hostname: Option<String>,
    /// Version of its Docker Engine, such as `28.5.2`; `None` where the node has not reported one.
    #[serde(default)]
    pub engine: Option<String>,
    /// Time of its join, by Docker.
    #[serde(default, with = "time::serde::rfc3339::option")]
    pub joined_at: Option<OffsetDateTime>,
    /// Progress of its departure, in words: `lifecycle: draining, waiting for the tasks to stop`.
    pub departure: Option<String>,
    /// Why it gets no tasks although it stays: `standby`, `rebalance`.
    #[serde(default)]
    pub scheduling_hold: Option<String>,
    /// For a node that looks dead: since when, Auto Scaling's answer about it, and the consequence.
    #[serde(default)]
    pub verdict: Option<String>,
    /// Number of its running tasks, by Docker; `None` if Docker gave no list of tasks, or does not list the node as
    /// `ready`: of another node Docker only knows what ran there once.
    #[serde(default)]
    pub tasks: Option<usize>,
    /// Time when the ledger's row was written.
    #[serde(with = "time::serde::rfc3339::option")]
    pub updated_at: Option<OffsetDateTime>,
}

/// An unfinished departure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leaving {
    /// Such as `spot`.
    pub reason: String,
    /// `requested`, `draining`, `drained` or `left`.
    pub state: String,
    /// Time of the notice.
    #[serde(with = "time::serde::rfc3339")]
    pub requested_at: OffsetDateTime,
    /// Time when the machine ends.
    #[serde(with = "time::serde::rfc3339")]
    pub deadline: OffsetDateTime,
    /// As the node reports it, or its turn; `None` while the departure makes progress.
    pub waiting_for: Option<String>,
    /// The node waits for its turn to be drained, until then at the latest; `None` if it does not.
    #[serde(default, with = "time::serde::rfc3339::option")]
    pub turn_by: Option<OffsetDateTime>,
    /// With `turn_by`: the instances that are drained first, and the service that is not whole yet, as text.
    #[serde(default)]
    pub turn_after: Option<String>,
    /// Whether managers carry the departure out, because the node's own skep does not answer.
    pub stand_in: bool,
}

/// A departure that is over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Departed {
    /// The instance that has left.
    pub instance_id: String,
    /// Docker's id of the node.
    pub node_id: String,
    /// Its configured role.
    pub role: Role,
    /// Auto Scaling group; `None` if the row does not name it.
    pub group: Option<String>,
    /// Such as `spot`.
    pub reason: String,
    /// `removed`: the node was removed from the node list. `failed`: the deadline passed before the node had left.
    pub state: String,
    /// Time of the notice.
    #[serde(with = "time::serde::rfc3339")]
    pub requested_at: OffsetDateTime,
    /// Time when the machine was to end.
    #[serde(with = "time::serde::rfc3339")]
    pub deadline: OffsetDateTime,
    /// Number of tasks that were killed without their grace, as far as the node has reported it.
    pub killed: u64,
    /// Whether managers carried the departure out, because the node's own skep did not answer.
    pub stand_in: bool,
}

/// Observations of a survivor, the steps of the recovery, and its costs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecoveryPlan {
    /// Name of the cluster.
    pub cluster: String,
    /// This node.
    pub instance_id: String,
    /// `None` if there is no charter, or the charter names no swarm.
    pub swarm_id: Option<String>,
    /// Generation of the charter; the quorum would be re-created under the next one.
    pub generation: u64,
    /// The other managers in the ledger.
    pub managers: Vec<OtherManager>,
    /// Why the quorum must not be re-created here now, and what to do instead.
    pub refusal: Option<String>,
    /// Steps of the recovery, a sentence each; empty if it is refused.
    pub steps: Vec<String>,
    /// Losses, certain and possible.
    pub costs: Vec<String>,
}

/// Another manager, as this node observes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OtherManager {
    /// Instance id in its row, such as `i-0abc`.
    pub instance_id: String,
    /// Private address in its row.
    pub address: IpAddr,
    /// Its lifecycle state in Auto Scaling, `gone`, or `in no group` if it was never in one; `None` if Auto Scaling did
    /// not answer.
    pub auto_scaling: Option<String>,
    /// Whether it accepts connections on the swarm's port.
    pub listens: bool,
    /// Age of its row.
    pub seen_seconds_ago: u64,
    /// Whether it may be part of a quorum that this node cannot observe.
    pub may_be_alive: bool,
}

/// What `skep adopt` sees and would write.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdoptionPlan {
    /// Name of the cluster.
    pub cluster: String,
    /// This node.
    pub instance_id: String,
    /// Docker's id of the swarm; `None` if no leader answers here.
    pub swarm_id: Option<String>,
    /// Generation under which the swarm is published; `None` if it is not.
    pub generation: Option<u64>,
    /// The nodes of the swarm, managers first.
    pub nodes: Vec<AdoptedNode>,
    /// What does not fit; those that block the adoption first.
    pub conflicts: Vec<AdoptionConflict>,
    /// Why the swarm must not be adopted here now, and what to do instead.
    pub refusal: Option<String>,
    /// What is written, a sentence each; empty if it is refused.
    pub steps: Vec<String>,
}

/// A node of a swarm that may be adopted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdoptedNode {
    /// Docker's id.
    pub node_id: String,
    /// Host name that it has reported; may be empty.
    pub hostname: String,
    /// Its role in the swarm.
    pub role: Role,
    /// The role that its instance's tags name.
    pub role_by_tags: Option<Role>,
    /// `ready`, `down`, `unknown` or `disconnected`.
    pub state: String,
    /// Its address in the swarm.
    pub address: Option<String>,
    /// The instance that has this address; `None` if EC2 lists none, or several.
    pub instance_id: Option<String>,
    /// The instance's Auto Scaling group.
    pub group: Option<String>,
}

/// Something that does not fit between a swarm, its instances and skep.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdoptionConflict {
    /// Host name or id of a node, or `swarm`.
    pub subject: String,
    /// What does not fit.
    pub what: String,
    /// What to do.
    pub remedy: String,
    /// Whether the swarm is not adopted before this is resolved.
    pub blocks: bool,
}

/// Result of `skep rotate-tokens`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rotated {
    /// Generation of the charter.
    pub generation: u64,
    /// Names of the parameters or items that hold the new tokens and unlock keys.
    pub stored_in: Vec<String>,
}
