//! What skep reports to the operator: `skep status`, `skep recover`, `skep rotate-tokens`, the page.

use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::common::instance::Role;
use crate::common::labels::Labels;
use crate::common::state::{NodeState, StateHandle};

/// This node, and on a manager the whole fleet.
///
/// `N` is [`NodeState`]; whoever passes the report on as it is (`skep status --json`) reads it as a
/// `serde_json::Value`, and so loses nothing that a newer skep says.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StatusReport<N = NodeState> {
    pub node: N,
    /// `None` where this node cannot know: on a worker, and before it is in a swarm.
    pub fleet: Option<FleetView>,
}

/// Where the view of the fleet comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ViewSource {
    /// The ledger's rows and Docker's node list, put together.
    LedgerAndDocker,
    /// Docker did not answer, or this node is no manager.
    Ledger,
    /// The ledger did not answer.
    Docker,
    /// Neither did.
    Nothing,
}

/// The fleet as the ledger and Docker know it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FleetView {
    pub source: ViewSource,
    /// `None` where Docker did not answer, as without a quorum.
    #[serde(default)]
    pub quorum: Option<QuorumView>,
    /// Since when it is lost, by this manager's own state.
    #[serde(default, with = "time::serde::rfc3339::option")]
    pub quorum_lost_since: Option<OffsetDateTime>,
    pub members: Vec<FleetMember>,
    /// Why the view is not whole, in one line.
    pub problem: Option<String>,
    /// What does not work between these nodes, each in one line.
    #[serde(default)]
    pub warnings: Vec<String>,
}

impl FleetView {
    /// Whoever asks waits at a prompt or before a page, maybe because something is wrong with AWS.
    const PATIENCE: Duration = Duration::from_secs(5);

    /// A view in time, or one that says why there is none, with what this node's own `state` says.
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
            problem: Some(format!("neither ledger nor Docker answered within {patience:?}")),
            warnings: vec![],
        }
    }
}

/// How many managers there are, and how many may be lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuorumView {
    /// Members of raft.
    pub managers: usize,
    pub reachable: usize,
    /// How many of those that are reachable the swarm can do without.
    pub may_be_lost: usize,
}

/// One node of the fleet; what its source does not know is `None`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FleetMember {
    /// `None` for a node that Docker has and the ledger does not.
    pub instance_id: Option<String>,
    pub role: Role,
    /// Docker's id.
    pub node_id: Option<String>,
    /// The private address.
    pub address: Option<IpAddr>,
    pub zone: Option<String>,
    /// Auto Scaling group.
    pub group: Option<String>,
    /// Of the swarm that it is a member of, by the ledger.
    #[serde(default)]
    pub generation: Option<u64>,
    /// Its departure, while it goes on.
    #[serde(default)]
    pub leaving: Option<Leaving>,
    /// The ledger's word for the member.
    pub state: Option<String>,
    /// Docker's: `ready`, `down`, `unknown`, `disconnected`; `unknown`, too, where Docker has no list, as
    /// without a quorum. `None` for a node that Docker does not list.
    pub docker_state: Option<String>,
    /// Docker's: `active`, `pause`, `drain`.
    pub docker_availability: Option<String>,
    /// The node's labels, as Docker has them.
    #[serde(default)]
    pub labels: Labels,
    /// Does it lead the raft group?
    pub leader: bool,
    /// When it came into the swarm, by Docker.
    #[serde(default, with = "time::serde::rfc3339::option")]
    pub joined_at: Option<OffsetDateTime>,
    /// Where its departure stands, in words: `lifecycle: draining, waiting for the tasks to stop`.
    pub departure: Option<String>,
    /// Why it is to get no tasks although it stays: `standby`, `rebalance`.
    #[serde(default)]
    pub scheduling_hold: Option<String>,
    /// For one that looks dead: since when, what Auto Scaling says of it, and what follows.
    #[serde(default)]
    pub verdict: Option<String>,
    /// When the ledger's row was written.
    #[serde(with = "time::serde::rfc3339::option")]
    pub updated_at: Option<OffsetDateTime>,
}

/// A departure that goes on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leaving {
    /// Such as `spot`.
    pub reason: String,
    /// `requested`, `draining`, `drained` or `left`.
    pub state: String,
    #[serde(with = "time::serde::rfc3339")]
    pub requested_at: OffsetDateTime,
    /// When the machine goes.
    #[serde(with = "time::serde::rfc3339")]
    pub deadline: OffsetDateTime,
    /// In the node's own words; `None` while it goes on.
    pub waiting_for: Option<String>,
    /// The managers do the node's part, whose own skep is silent.
    pub stand_in: bool,
}

/// What a survivor sees, what it would do, and what that would cost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecoveryPlan {
    pub cluster: String,
    /// This node.
    pub instance_id: String,
    /// `None` where there is no charter, or it names none.
    pub swarm_id: Option<String>,
    /// The charter's; the quorum would be re-created under the next one.
    pub generation: u64,
    /// The other managers that the ledger knows.
    pub managers: Vec<OtherManager>,
    /// Why nothing may be re-created here and now, and what to do instead.
    pub refusal: Option<String>,
    /// What would be done, a sentence each; none where it is refused.
    pub steps: Vec<String>,
    /// What is or may be lost.
    pub costs: Vec<String>,
}

/// Another manager, as this node sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OtherManager {
    pub instance_id: String,
    pub address: IpAddr,
    /// Its lifecycle state in Auto Scaling, `gone`, or `in no group` where it never was in one; `None` where
    /// no answer came.
    pub auto_scaling: Option<String>,
    /// Does it accept connections on the swarm's port?
    pub listens: bool,
    /// How long ago it wrote its row.
    pub seen_seconds_ago: u64,
    /// It may take part in a quorum that cannot be seen from here.
    pub may_be_alive: bool,
}

/// What `skep rotate-tokens` has done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rotated {
    /// The charter's.
    pub generation: u64,
    /// Names of parameters or items that hold what is new.
    pub stored_in: Vec<String>,
}
