//! Members: who is in the fleet, and where managers listen.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::checked::{self, Checked};
use super::table::Condition;
use super::{Ledger, LedgerError, Rows};
use crate::common::instance::{Role, SchedulingHold};
use crate::common::labels::Labels;

/// One node's row: a manager refreshes its own every minute, a worker every few hours. It never expires:
/// skep reads from the rows which nodes there are and whether a swarm is lost, so age alone deletes none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    pub instance_id: String,
    pub role: Role,
    /// Docker's id of the node.
    pub node_id: String,
    /// Docker's id of the swarm that it is in; `None` in a row of a skep that did not write it.
    #[serde(default)]
    pub swarm_id: Option<String>,
    /// What Docker called the node when this was written: a worker may have been promoted by hand.
    /// `None` where Docker did not answer, or the row is of a skep that did not write it.
    #[serde(default)]
    pub serves_as: Option<Role>,
    /// Private address, where a manager listens on 2377.
    pub address: IpAddr,
    pub zone: String,
    #[serde(default)]
    pub group: Option<String>,
    /// Of the charter under which it joined.
    pub generation: u64,
    pub state: MemberState,
    /// What managers are to set on the node.
    #[serde(default)]
    pub labels: Labels,
    /// It gets no task before it has its first labels: managers activate it with them.
    #[serde(default)]
    pub joined_paused: bool,
    /// Why it is to get no tasks although it stays.
    #[serde(default, rename = "quiet")]
    pub scheduling_hold: Option<SchedulingHold>,
    /// Of a manager: its Docker saw a leader when this was written.
    #[serde(default)]
    pub has_leader: bool,
    #[serde(with = "time::serde::timestamp")]
    pub updated_at: OffsetDateTime,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MemberState {
    Ready,
    Leaving,
    /// By a manager: the swarm does not list this node any more, although it has not left.
    Removed,
}

impl MemberState {
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
    /// A row as of `now`, without labels.
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

    /// Is this node in the charter's swarm, as far as its row says which it is in?
    #[must_use]
    pub fn may_be_in(&self, charter: &super::Charter) -> bool {
        self.swarm_id.is_none() || self.swarm_id == charter.swarm_id
    }

    /// Is or was this node a manager, by its role or by what Docker called it?
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

    /// The partition with the rows of a role.
    fn members(&self, role: Role) -> Self {
        match role {
            Role::Manager => self.clone(),
            Role::Worker => self.nodes(),
        }
    }

    /// Writes or refreshes this node's own row. The managers' word that this very node is not
    /// listed any more stands; `false` then.
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

    /// A manager's word that the swarm does not list the node of this row any more. `false` when
    /// the row has changed meanwhile. It writes the row whole, since managers' rows are in a
    /// partition where nobody may update one.
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

    /// A node's row.
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

    /// Where one can join.
    ///
    /// # Errors
    /// When DynamoDB fails.
    pub async fn fetch_managers(&self) -> Result<Vec<Member>, LedgerError> {
        self.query("member#manager#", Self::item_of).await
    }

    /// The same, and which of these rows cannot be read. A worker may read no more: other workers' rows are not its
    /// own.
    ///
    /// # Errors
    /// When DynamoDB fails.
    pub async fn survey_managers(&self) -> Result<MemberRows, LedgerError> {
        self.query_all("member#manager#", Self::item_of).await
    }

    /// The whole fleet.
    ///
    /// # Errors
    /// When DynamoDB fails.
    pub async fn fetch_members(&self) -> Result<Vec<Member>, LedgerError> {
        self.survey_members().await.map(|all| all.rows)
    }

    /// The whole fleet, and which rows cannot be read: for those who conclude something from a row
    /// that is not there.
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

    /// Strikes out a row that nobody has refreshed since it was read. `false` where somebody has.
    ///
    /// # Errors
    /// When DynamoDB fails.
    pub async fn forget_member(&self, seen: &Member) -> Result<bool, LedgerError> {
        let condition = Condition::new("#node_id = :node AND #updated_at = :seen")
            .text("node", &seen.node_id)
            .number("seen", seen.updated_at.unix_timestamp());
        self.members(seen.role).delete(&Self::item_of(seen), condition).await
    }

    /// Strikes out the row of an instance that was this node. One that has come back as another stays.
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

    /// Strikes this node out. A row that is not there is struck out already.
    ///
    /// # Errors
    /// When DynamoDB fails.
    pub async fn delete_member(&self, role: Role, instance_id: &str) -> Result<(), LedgerError> {
        let item = Self::member_item(role, instance_id);
        self.members(role).delete(&item, Condition::default()).await.map(drop)
    }
}
