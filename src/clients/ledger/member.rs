//! Members: the nodes of the fleet, and the addresses of its managers.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::checked::{self, Checked};
use super::table::Condition;
use super::{Ledger, LedgerError, Rows};
use crate::common::instance::{Role, SchedulingHold};
use crate::common::labels::Labels;

/// One node's row: a manager refreshes its own every minute, a worker every few hours. It never expires: skep
/// determines from the rows which nodes exist and whether a swarm is lost, so age alone deletes no row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Instance id, such as `i-0abc`; part of the row's key.
    pub instance_id: String,
    /// The node's configured role, which is part of the row's key.
    pub role: Role,
    /// Docker's id of the node.
    pub node_id: String,
    /// Docker's id of the node's swarm; `None` if a skep without this field wrote the row.
    #[serde(default)]
    pub swarm_id: Option<String>,
    /// The node's role in Docker when the row was written: a worker may have been promoted by hand. `None` if Docker
    /// did not answer, or if a skep without this field wrote the row.
    #[serde(default)]
    pub serves_as: Option<Role>,
    /// Private address, where a manager listens on 2377.
    pub address: IpAddr,
    /// Availability zone, such as `eu-central-1a`.
    pub zone: String,
    /// Auto Scaling group; `None` if the instance is in none, or if the node does not know its group.
    #[serde(default)]
    pub group: Option<String>,
    /// Generation of the charter under which the node joined.
    pub generation: u64,
    /// Whether the node is Ready, leaves, or was removed from the node list.
    pub state: MemberState,
    /// The labels that managers must set on the node.
    #[serde(default)]
    pub labels: Labels,
    /// The node joined with availability pause: it gets no task until managers set its first labels and activate it.
    #[serde(default)]
    pub joined_paused: bool,
    /// Why the node must get no new tasks although it stays.
    #[serde(default, rename = "quiet")]
    pub scheduling_hold: Option<SchedulingHold>,
    /// On a manager: whether its Docker reported a leader when the row was written.
    #[serde(default)]
    pub has_leader: bool,
    /// Time when the node last wrote the row, by its clock; a manager that marks the row as removed keeps the time.
    #[serde(with = "time::serde::timestamp")]
    pub updated_at: OffsetDateTime,
}

/// The state of a member, in its row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MemberState {
    /// Set by the node: it is Ready.
    Ready,
    /// Set by the node: it has asked the managers to drain it.
    Leaving,
    /// Set by a manager: the swarm no longer lists this node, although the node has not left.
    Removed,
}

impl MemberState {
    /// Returns the state in one word, as the row stores it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Leaving => "leaving",
            Self::Removed => "removed",
        }
    }
}

impl Member {
    /// Returns a row as of `now`, without labels.
    #[must_use]
    pub fn new(
        instance: &crate::common::instance::Instance,
        membership: &crate::common::instance::Membership,
        configured_role: Role,
        state: MemberState,
        now: OffsetDateTime,
    ) -> Self {
        Self {
            instance_id: instance.id.clone(),
            role: configured_role,
            node_id: membership.node_id.clone(),
            swarm_id: Some(membership.swarm_id.clone()).filter(|id| !id.is_empty()),
            serves_as: None,
            address: instance.private_address,
            zone: instance.zone.clone(),
            group: instance.group.clone(),
            generation: membership.generation,
            state,
            labels: Labels::new(),
            joined_paused: false,
            scheduling_hold: None,
            has_leader: false,
            updated_at: now,
        }
    }

    /// Whether this node may be in the charter's swarm; also true if the row does not name a swarm.
    #[must_use]
    pub fn may_be_in(&self, charter: &super::Charter) -> bool {
        self.swarm_id.is_none() || self.swarm_id == charter.swarm_id
    }

    /// Whether this node is or was a manager, by its configured role or by its role in Docker.
    #[must_use]
    pub fn is_manager(&self) -> bool {
        self.role == Role::Manager || self.serves_as == Some(Role::Manager)
    }
}

impl Checked for Member {
    fn check(&self) -> Result<(), String> {
        checked::instance("instance_id", &self.instance_id)?;
        checked::docker_id("node_id", &self.node_id)?;
        checked::generation(self.generation)?;
        checked::moment("updated_at", self.updated_at)?;
        self.group.as_ref().map_or(Ok(()), |group| checked::name("group", group))?;
        self.swarm_id.as_ref().map_or(Ok(()), |id| checked::docker_id("swarm_id", id))
    }
}

/// The rows of the whole fleet, and the keys of those that cannot be read.
pub type MemberRows = Rows<Member>;

impl Ledger {
    fn member_item(role: Role, instance_id: &str) -> String {
        format!("member#{role}#{instance_id}")
    }

    fn item_of(member: &Member) -> String {
        Self::member_item(member.role, &member.instance_id)
    }

    /// Returns the partition with the rows of a role.
    fn members(&self, role: Role) -> Self {
        match role {
            Role::Manager => self.clone(),
            Role::Worker => self.nodes(),
        }
    }

    /// Writes or refreshes this node's own row. `false`, without a write, if managers have marked this same node as
    /// removed.
    ///
    /// # Errors
    /// When DynamoDB fails.
    pub async fn put_member(&self, member: &Member) -> Result<bool, LedgerError> {
        let condition = Condition::new(
            "attribute_not_exists(#item) OR #node_id <> :node OR #state <> :removed",
        )
        .text("node", &member.node_id)
        .text("removed", MemberState::Removed.as_str());
        let item = Self::member_item(member.role, &member.instance_id);
        self.members(member.role).put(&item, member, condition).await
    }

    /// Records, as a manager, that the swarm no longer lists the node of this row. `false` if the row has changed
    /// since. Writes the whole row, since IAM allows no update in the partition of managers' rows.
    ///
    /// # Errors
    /// When DynamoDB fails.
    pub async fn mark_removed(&self, seen: &Member) -> Result<bool, LedgerError> {
        let condition = Condition::new("#node_id = :node AND #state = :ready")
            .text("node", &seen.node_id)
            .text("ready", MemberState::Ready.as_str());
        let item = Self::member_item(seen.role, &seen.instance_id);
        let row = Member { state: MemberState::Removed, ..seen.clone() };
        self.members(seen.role).put(&item, &row, condition).await
    }

    /// Reads a node's row, consistently.
    ///
    /// # Errors
    /// When DynamoDB fails.
    pub async fn fetch_member(
        &self,
        role: Role,
        instance_id: &str,
    ) -> Result<Option<Member>, LedgerError> {
        self.members(role).get(&Self::member_item(role, instance_id)).await
    }

    /// Reads the rows of the managers, which a node can join.
    ///
    /// # Errors
    /// When DynamoDB fails.
    pub async fn fetch_managers(&self) -> Result<Vec<Member>, LedgerError> {
        self.query("member#manager#", Self::item_of).await
    }

    /// Reads the rows of the managers, and the keys of those that cannot be read. A worker can read no other rows than
    /// these and its own.
    ///
    /// # Errors
    /// When DynamoDB fails.
    pub async fn survey_managers(&self) -> Result<MemberRows, LedgerError> {
        self.query_all("member#manager#", Self::item_of).await
    }

    /// Reads the rows of the whole fleet.
    ///
    /// # Errors
    /// When DynamoDB fails.
    pub async fn fetch_members(&self) -> Result<Vec<Member>, LedgerError> {
        self.survey_members().await.map(|all| all.rows)
    }

    /// Reads the rows of the whole fleet, and the keys of those that cannot be read, for code that draws a conclusion
    /// from a missing row.
    ///
    /// # Errors
    /// When DynamoDB fails.
    pub async fn survey_members(&self) -> Result<MemberRows, LedgerError> {
        let workers = self.nodes();
        let (managers, workers) = tokio::try_join!(
            self.survey_managers(),
            workers.query_all("member#worker#", Self::item_of)
        )?;
        let mut all = managers;
        all.rows.extend(workers.rows);
        all.unreadable.extend(workers.unreadable);
        Ok(all)
    }

    /// Deletes a row that has not been refreshed since it was read. `false` if it has been.
    ///
    /// # Errors
    /// When DynamoDB fails.
    pub async fn forget_member(&self, seen: &Member) -> Result<bool, LedgerError> {
        let condition = Condition::new("#node_id = :node AND #updated_at = :seen")
            .text("node", &seen.node_id)
            .number("seen", seen.updated_at.unix_timestamp());
        self.members(seen.role).delete(&Self::item_of(seen), condition).await
    }

    /// Deletes the row of an instance if it is for this node; if the instance has come back as another node, it stays.
    ///
    /// # Errors
    /// When DynamoDB fails.
    pub async fn delete_member_of(
        &self,
        role: Role,
        instance_id: &str,
        node_id: &str,
    ) -> Result<bool, LedgerError> {
        let condition = Condition::new("#node_id = :node").text("node", node_id);
        self.members(role).delete(&Self::member_item(role, instance_id), condition).await
    }

    /// Deletes this node's row. A missing row is a success.
    ///
    /// # Errors
    /// When DynamoDB fails.
    pub async fn delete_member(&self, role: Role, instance_id: &str) -> Result<(), LedgerError> {
        let item = Self::member_item(role, instance_id);
        self.members(role).delete(&item, Condition::default()).await.map(drop)
    }
}
