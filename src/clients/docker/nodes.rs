//! Reads and changes the node list. Managers only.

use std::collections::HashMap;
use std::net::IpAddr;

use bollard::Docker;
use bollard::models::{NodeSpec, NodeSpecAvailabilityEnum, NodeSpecRoleEnum, ObjectVersion};
use bollard::query_parameters::{DeleteNodeOptionsBuilder, UpdateNodeOptionsBuilder};
use reqwest::Method;
use serde::Deserialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::availability::leaving;
use super::raw::Request;
use super::{Availability, Resources, Swarm, SwarmError, SwarmErrorKind};
use crate::common::instance::Role;
use crate::common::labels::Labels;
use crate::common::printable::printable;

/// Number of attempts of a write that conflicts with another write: two managers may decide alike, and swarmkit itself
/// writes to a node when it comes up or goes down.
const WRITE_ATTEMPTS: usize = 5;

/// State of a node whose state Docker does not report.
const UNKNOWN: &str = "unknown";

/// Characters that are kept of a text that a node reports of itself: the longest DNS name has as many.
const LONGEST_REPORT: usize = 253;

/// Bytes of the largest node list that skep reads: several thousand entries. Duties keep and compare whole lists.
const LARGEST_LIST: usize = 16 << 20;

/// The part of an entry that matters here. A node also reports plugins and labels of its engine, any number of them. It
/// chooses its availability when it joins, and swarmkit stores and Docker lists every number (`"7"`): what are names of
/// states stays text here, because one that is unknown must not make the whole list unreadable.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    #[serde(rename = "ID")]
    id: Option<String>,
    version: Option<ObjectVersion>,
    created_at: Option<String>,
    spec: Option<Spec>,
    description: Option<Description>,
    status: Option<Status>,
    manager_status: Option<ManagerStatus>,
}

/// All that a node's spec has.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Spec {
    name: Option<String>,
    labels: Option<HashMap<String, String>>,
    role: Option<String>,
    availability: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ManagerStatus {
    leader: Option<bool>,
    reachability: Option<String>,
    addr: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Description {
    hostname: Option<String>,
    platform: Option<Platform>,
    resources: Option<Resources>,
    engine: Option<Engine>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Platform {
    #[serde(rename = "OS")]
    os: Option<String>,
    architecture: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Engine {
    engine_version: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Status {
    state: Option<String>,
    addr: Option<String>,
}

/// One entry of the node list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeView {
    /// Docker's id of the node.
    pub id: String,
    /// Host name that the node has reported; empty where it has not reported one.
    pub hostname: String,
    /// The version of its Docker Engine, such as `28.5.2`; none where it has not reported one.
    pub engine: Option<String>,
    /// The operating system and architecture that it has reported, such as `linux` and `x86_64`.
    pub platform: Option<(String, String)>,
    /// Its CPUs, memory and other resources, whatever runs there; none where it has not reported them.
    pub resources: Option<Resources>,
    /// Time when it joined the swarm.
    pub joined_at: Option<OffsetDateTime>,
    /// `ready`, `down`, `unknown` or `disconnected`.
    pub state: String,
    /// The availability in its spec.
    pub availability: Availability,
    /// The labels that constraints name as `node.labels.…`.
    pub labels: Labels,
    /// The desired role; the node takes it within seconds.
    pub role: Role,
    /// IP address of the node; without one, a manager's address in raft. `None` where both are missing.
    pub address: Option<String>,
    /// Raft's view of a manager; `None` for a worker, and for a manager once its demotion is done.
    pub raft: Option<RaftView>,
}

/// A manager as raft sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RaftView {
    /// Whether raft has elected it as leader.
    pub is_leader: bool,
    /// Whether its reachability is `reachable`, and not `unknown` or `unreachable`.
    pub is_reachable: bool,
}

impl Availability {
    /// swarmkit gives tasks to a node that is `active`, and to no other.
    fn of(spec: Option<&str>) -> Self {
        match spec {
            Some("active" | "") | None => Self::Active,
            Some("drain") => Self::Drain,
            Some(_) => Self::Pause,
        }
    }

    fn spec(self) -> NodeSpecAvailabilityEnum {
        match self {
            Self::Active => NodeSpecAvailabilityEnum::ACTIVE,
            Self::Pause => NodeSpecAvailabilityEnum::PAUSE,
            Self::Drain => NodeSpecAvailabilityEnum::DRAIN,
        }
    }
}

impl Spec {
    fn role(&self) -> Role {
        if self.role.as_deref() == Some("manager") { Role::Manager } else { Role::Worker }
    }

    /// Returns the spec to write back. Docker refuses an availability that it does not know.
    fn into_written(self) -> NodeSpec {
        let role = match self.role() {
            Role::Manager => NodeSpecRoleEnum::MANAGER,
            Role::Worker => NodeSpecRoleEnum::WORKER,
        };
        NodeSpec {
            role: Some(role),
            availability: Some(Availability::of(self.availability.as_deref()).spec()),
            name: self.name,
            labels: self.labels,
        }
    }
}

impl NodeView {
    fn of(node: Entry) -> Option<Self> {
        let spec = node.spec.unwrap_or_default();
        let status = node.status.unwrap_or_default();
        let description = node.description.unwrap_or_default();
        let joined = node.created_at;
        let reported = |text: String| printable(&text, LONGEST_REPORT);
        // A manager that never came up has not reported its address, but raft has it from the join.
        let raft_address = node.manager_status.as_ref().and_then(|raft| {
            let (host, _port) = raft.addr.as_ref()?.rsplit_once(':')?;
            Some(host.trim_matches(['[', ']']).to_owned())
        });
        Some(Self {
            id: node.id?,
            joined_at: joined.and_then(|at| OffsetDateTime::parse(&at, &Rfc3339).ok()),
            platform: description.platform.and_then(|platform| {
                Some((reported(platform.os?), reported(platform.architecture?)))
            }),
            resources: description.resources,
            engine: description.engine.and_then(|engine| engine.engine_version).map(reported),
            hostname: description.hostname.map(reported).unwrap_or_default(),
            state: status.state.unwrap_or_else(|| UNKNOWN.to_owned()),
            availability: Availability::of(spec.availability.as_deref()),
            role: spec.role(),
            labels: spec.labels.unwrap_or_default().into_iter().collect(),
            address: status.addr.filter(|address| !address.is_empty()).or(raft_address),
            raft: node.manager_status.map(|raft| RaftView {
                is_leader: raft.leader.unwrap_or_default(),
                is_reachable: raft.reachability.as_deref() == Some("reachable"),
            }),
        })
    }

    /// A Ready and active node of this role; a manager is in raft, and reachable.
    #[cfg(test)]
    pub(crate) fn example(id: &str, role: Role) -> Self {
        let raft = RaftView { is_leader: false, is_reachable: true };
        Self {
            id: id.into(),
            hostname: String::new(),
            engine: None,
            platform: None,
            resources: None,
            joined_at: None,
            state: "ready".into(),
            availability: Availability::Active,
            labels: Labels::new(),
            role,
            address: None,
            raft: (role == Role::Manager).then_some(raft),
        }
    }

    /// Returns its address; `None` where it has none, or Docker reports something else.
    #[must_use]
    pub fn ip(&self) -> Option<IpAddr> {
        self.address.as_ref()?.parse().ok()
    }

    /// Returns the major version of its engine.
    #[must_use]
    pub fn engine_major(&self) -> Option<u32> {
        self.engine.as_ref()?.split('.').next()?.parse().ok()
    }

    /// Whether it is a worker both by its desired role and in raft, so that a demotion is complete.
    #[must_use]
    pub fn is_plain_worker(&self) -> bool {
        self.role == Role::Worker && self.raft.is_none()
    }

    /// Whether its desired role is worker while raft still has it as a member.
    #[must_use]
    pub fn is_being_demoted(&self) -> bool {
        self.role == Role::Worker && self.raft.is_some()
    }

    /// Whether it is `down`: the managers receive nothing from it. `unknown` and `disconnected` are not that yet.
    #[must_use]
    pub fn is_down(&self) -> bool {
        self.state == "down"
    }

    /// Whether it is `ready`; a node that has only just left can still be `ready`.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.state == "ready"
    }

    /// Whether it is the leader of the managers.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        self.raft.is_some_and(|raft| raft.is_leader)
    }
}

impl Swarm {
    /// Fetches every node of the node list, dead ones included. Managers only.
    ///
    /// # Errors
    /// [`SwarmErrorKind::NotManager`], [`SwarmErrorKind::NoLeader`].
    pub async fn fetch_nodes(&self) -> Result<Vec<NodeView>, SwarmError> {
        const OPERATION: &str = "list the nodes";
        let request = Request { largest: LARGEST_LIST, ..Request::new(Method::GET, "nodes") };
        let nodes: Vec<Entry> = self.read(OPERATION, request).await?;
        // A part of a list is no list.
        let nodes: Option<Vec<NodeView>> = nodes.into_iter().map(NodeView::of).collect();
        nodes.ok_or_else(|| SwarmError::unexpected(OPERATION, "an entry has no id"))
    }

    /// Fetches one node; `None` where it is not in the node list. Managers only.
    ///
    /// # Errors
    /// As for [`Swarm::fetch_nodes`].
    pub async fn fetch_node(&self, node_id: &str) -> Result<Option<NodeView>, SwarmError> {
        Ok(self.inspect(node_id).await?.and_then(NodeView::of))
    }

    /// Drains a node, and marks on it that skep did so. Returns `false` where there is no such node.
    ///
    /// # Errors
    /// As for [`Swarm::fetch_nodes`]; after a timeout or without a leader the outcome is unknown.
    pub async fn drain(&self, node_id: &str) -> Result<bool, SwarmError> {
        self.keep_tasks_away(node_id, Availability::Drain).await
    }

    /// Pauses a node that leaves, or that gives up tasks: it keeps its tasks and gets no new ones. Marks on it that skep
    /// did so. Returns `false` where there is no such node.
    ///
    /// # Errors
    /// As for [`Swarm::drain`].
    pub async fn pause(&self, node_id: &str) -> Result<bool, SwarmError> {
        self.keep_tasks_away(node_id, Availability::Pause).await
    }

    async fn keep_tasks_away(
        &self,
        node_id: &str,
        wanted: Availability,
    ) -> Result<bool, SwarmError> {
        self.relabel(node_id, |labels, now| {
            let mut labels = labels.clone();
            let then = leaving(&mut labels, now, wanted);
            (then != now).then_some((labels, then))
        })
        .await
    }

    /// Changes a node's labels and availability, both in one write. `edit` receives the present ones and returns the
    /// new ones, or `None` where nothing must change. Returns `false` where there is no such node.
    ///
    /// # Errors
    /// As for [`Swarm::drain`].
    pub async fn relabel(
        &self,
        node_id: &str,
        edit: impl Fn(&Labels, Availability) -> Option<(Labels, Availability)>,
    ) -> Result<bool, SwarmError> {
        self.change(node_id, "update the node", |spec| {
            let labels: Labels = spec.labels.clone().unwrap_or_default().into_iter().collect();
            let now = match spec.availability {
                Some(NodeSpecAvailabilityEnum::DRAIN) => Availability::Drain,
                Some(NodeSpecAvailabilityEnum::PAUSE) => Availability::Pause,
                _ => Availability::Active,
            };
            let Some((labels, availability)) = edit(&labels, now) else { return false };
            spec.labels = Some(labels.into_iter().collect());
            if availability != now {
                spec.availability = Some(availability.spec());
            }
            true
        })
        .await
    }

    /// Makes a manager a worker. Returns `false` where there is no such node.
    ///
    /// # Errors
    /// [`SwarmErrorKind::WouldLoseQuorum`], [`SwarmErrorKind::LastManager`].
    pub async fn demote(&self, node_id: &str) -> Result<bool, SwarmError> {
        self.change(node_id, "demote the node", |spec| {
            spec.role.replace(NodeSpecRoleEnum::WORKER) != Some(NodeSpecRoleEnum::WORKER)
        })
        .await
    }

    /// Removes a node from the list, also one that has only just left and still counts as ready. Succeeds where the
    /// node is not in the list.
    ///
    /// # Errors
    /// [`SwarmErrorKind::NotRemovable`] for a raft member.
    pub async fn remove(&self, node_id: &str) -> Result<(), SwarmError> {
        let options = &DeleteNodeOptionsBuilder::default().force(true).build();
        let delete = |docker: Docker| async move {
            docker.delete_node(node_id, Some(options.clone())).await
        };
        match self.call("remove the node", delete).await {
            Err(error) if error.kind == SwarmErrorKind::NotFound => Ok(()),
            removed => removed,
        }
    }

    async fn inspect(&self, node_id: &str) -> Result<Option<Entry>, SwarmError> {
        let request = Request::new(Method::GET, format!("nodes/{node_id}"));
        match self.read("inspect the node", request).await {
            Err(error) if error.kind == SwarmErrorKind::NotFound => Ok(None),
            node => node.map(Some),
        }
    }

    /// Reads the node, changes its **whole** spec (Docker deletes every omitted field) and writes it at the version
    /// that was read; starts again where another write came in between.
    async fn change(
        &self,
        node_id: &str,
        operation: &'static str,
        mut edit: impl FnMut(&mut NodeSpec) -> bool,
    ) -> Result<bool, SwarmError> {
        for attempt in 1.. {
            let Some(node) = self.inspect(node_id).await? else { return Ok(false) };
            let mut spec = node.spec.unwrap_or_default().into_written();
            if !edit(&mut spec) {
                return Ok(true);
            }
            let version = node.version.and_then(|version| version.index).unwrap_or_default();
            let options = &UpdateNodeOptionsBuilder::default()
                .version(i64::try_from(version).unwrap_or(i64::MAX))
                .build();
            let spec = &spec;
            let update = |docker: Docker| async move {
                docker.update_node(node_id, spec.clone(), options.clone()).await
            };
            match self.call(operation, update).await {
                Ok(()) => return Ok(true),
                Err(error) if error.kind == SwarmErrorKind::Stale && attempt < WRITE_ATTEMPTS => {}
                Err(error) if error.kind == SwarmErrorKind::NotFound => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        unreachable!("the loop ends by returning")
    }
}
