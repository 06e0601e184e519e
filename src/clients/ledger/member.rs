//! Members: the nodes of the fleet, and the addresses of its managers.

use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::record::{self, Record};
use super::table::Condition;
use super::{Ledger, LedgerError, Rows};
use crate::common::instance::{Role, SchedulingHold};
use crate::common::labels::Labels;
use crate::common::printable::printable;

/// Start of the keys of these rows.
pub(super) const MEMBERS: &str = "member#";
/// How long the row of a worker is kept that nobody deletes. Nothing is concluded from its absence; its skep, if it
/// lives, writes the row again every few hours.
const WORKER_ROW_TTL: Duration = Duration::from_secs(30 * 24 * 3600);
/// Number of characters of a zone's name; AWS's longest have about 20.
const LONGEST_ZONE: usize = 64;
/// Number of characters of the reason for a replacement.
const LONGEST_REASON: usize = 1000;

/// One node's row: a manager refreshes its own every minute, a worker every few hours. A manager's never expires: skep
/// determines from these rows whether a swarm is lost, so age alone deletes none.
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
    #[serde(default)]
    pub scheduling_hold: Option<SchedulingHold>,
    /// On a worker: the permanent fault for which it asks the managers to have it replaced; `None` while it is well.
    #[serde(default)]
    pub replace_because: Option<String>,
    /// Time when the node last asked for that, by its clock.
    #[serde(default, with = "time::serde::timestamp::option")]
    pub replace_asked_at: Option<OffsetDateTime>,
    /// On a manager: whether its Docker reported a leader when the row was written.
    #[serde(default)]
    pub has_leader: bool,
    /// Time when the node last wrote the row, by its clock; a manager that marks the row as removed keeps the time.
    #[serde(with = "time::serde::timestamp")]
    pub updated_at: OffsetDateTime,
    /// On a worker, so that DynamoDB deletes the row of an instance that is long gone.
    #[serde(default, with = "time::serde::timestamp::option")]
    pub expires_at: Option<OffsetDateTime>,
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
            replace_because: None,
            replace_asked_at: None,
            has_leader: false,
            updated_at: now,
            expires_at: (configured_role == Role::Worker).then(|| now + WORKER_ROW_TTL),
        }
    }

    /// Returns the record of a configured worker that serves as a manager, as of `now`.
    #[must_use]
    pub fn promoted(
        instance_id: &str,
        address: IpAddr,
        zone: Option<&str>,
        group: Option<String>,
        membership: &crate::common::instance::Membership,
        now: OffsetDateTime,
    ) -> Self {
        Self {
            instance_id: instance_id.to_owned(),
            role: Role::Worker,
            node_id: membership.node_id.clone(),
            swarm_id: Some(membership.swarm_id.clone()),
            serves_as: Some(Role::Manager),
            address,
            zone: zone.unwrap_or_default().to_owned(),
            group,
            generation: membership.generation,
            state: MemberState::Ready,
            labels: Labels::new(),
            joined_paused: false,
            scheduling_hold: None,
            replace_because: None,
            replace_asked_at: None,
            has_leader: true,
            updated_at: now,
            expires_at: None,
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

impl Record for Member {
    fn check(&self) -> Result<(), String> {
        record::instance("instance_id", &self.instance_id)?;
        record::docker_id("node_id", &self.node_id)?;
        record::generation(self.generation)?;
        record::near("updated_at", self.updated_at)?;
        self.expires_at.map_or(Ok(()), |at| record::moment("expires_at", at))?;
        record::text("zone", &self.zone, LONGEST_ZONE)?;
        record::requested_labels("labels", &self.labels)?;
        if let Some(why) = &self.replace_because {
            record::text("replace_because", why, LONGEST_REASON)?;
        }
        self.replace_asked_at.map_or(Ok(()), |at| record::near("replace_asked_at", at))?;
        self.group.as_ref().map_or(Ok(()), |group| record::name("group", group))?;
        self.swarm_id.as_ref().map_or(Ok(()), |id| record::docker_id("swarm_id", id))
    }

    fn item(&self) -> Option<String> {
        Some(Ledger::member_item(self.role, &self.instance_id))
    }

    fn may_be_workers(&self) -> bool {
        self.role == Role::Worker
    }
}

/// The rows of the whole fleet, and the keys of those that cannot be read.
pub type MemberRows = Rows<Member>;

impl MemberRows {
    /// Returns the rows of instances that are configured as managers.
    pub fn of_managers(&self) -> impl Iterator<Item = &Member> {
        self.rows.iter().filter(|row| row.role == Role::Manager)
    }

    /// Whether one of them is this instance's.
    #[must_use]
    pub fn has_manager(&self, instance_id: &str) -> bool {
        self.of_managers().any(|row| row.instance_id == instance_id)
    }
}

impl Ledger {
    fn member_item(role: Role, instance_id: &str) -> String {
        format!("{MEMBERS}{role}#{instance_id}")
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
        let Member { role, instance_id, .. } = member;
        let item = Self::member_item(*role, instance_id);
        self.own_rows(*role, instance_id).put(&item, member, condition).await
    }

    /// Asks the managers to have this worker replaced, or asks again. `false` if the row is another node's, or if there is
    /// none.
    ///
    /// # Errors
    /// When DynamoDB fails.
    pub async fn request_replacement(
        &self,
        instance_id: &str,
        because: &str,
        now: OffsetDateTime,
    ) -> Result<bool, LedgerError> {
        let condition = Condition::new("attribute_exists(#item)")
            .text("because", printable(because, LONGEST_REASON - 1))
            .number("now", now.unix_timestamp());
        let item = Self::member_item(Role::Worker, instance_id);
        let update = "SET #replace_because = :because, #replace_asked_at = :now";
        self.own_rows(Role::Worker, instance_id).set(&item, update, condition).await
    }

    /// Records, as a manager, that the swarm no longer lists the node of this row. `false` if the row has changed
    /// since.
    ///
    /// # Errors
    /// When DynamoDB fails.
    pub async fn mark_removed(&self, seen: &Member) -> Result<bool, LedgerError> {
        let condition = Condition::new("#node_id = :node AND #state = :ready")
            .text("node", &seen.node_id)
            .text("ready", MemberState::Ready.as_str());
        let condition = condition.text("removed", MemberState::Removed.as_str());
        let item = Self::member_item(seen.role, &seen.instance_id);
        let rows = self.own_rows(seen.role, &seen.instance_id);
        rows.set(&item, "SET #state = :removed", condition).await
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
        self.own_rows(role, instance_id).get(&Self::member_item(role, instance_id)).await
    }

    /// Reads the rows of the managers, which a node can join.
    ///
    /// # Errors
    /// When DynamoDB fails.
    pub async fn fetch_managers(&self) -> Result<Vec<Member>, LedgerError> {
        let mut rows = self.survey_managers().await?.rows;
        rows.retain(|row| row.role == Role::Manager);
        Ok(rows)
    }

    /// Reads the rows of all managers: of those that are configured as managers, and, as [`Self::record_promoted`] wrote
    /// them, of workers that were promoted by hand; and the keys of those that cannot be read. No worker can write any
    /// of them.
    ///
    /// # Errors
    /// When DynamoDB fails.
    pub async fn survey_managers(&self) -> Result<MemberRows, LedgerError> {
        self.query(MEMBERS).await
    }

    /// Reads the rows that these workers have written about themselves. An instance without a row is absent from the
    /// result.
    ///
    /// # Errors
    /// When DynamoDB fails.
    pub async fn fetch_workers<'a>(
        &self,
        instances: impl IntoIterator<Item = &'a String>,
    ) -> Result<MemberRows, LedgerError> {
        let key = |id: &String| (self.workers_partition(id), Self::member_item(Role::Worker, id));
        self.get_many(instances.into_iter().map(key).collect()).await
    }

    /// Records, as a manager, that a configured worker serves as a manager: nodes that boot after the managers were lost
    /// find it, and rely on nothing that a worker has written.
    ///
    /// # Errors
    /// When DynamoDB fails.
    pub async fn record_promoted(&self, row: &Member) -> Result<(), LedgerError> {
        let item = Self::member_item(Role::Worker, &row.instance_id);
        self.put(&item, row, Condition::default()).await.map(drop)
    }

    /// Deletes the record of a promoted worker that is a worker again, or gone.
    ///
    /// # Errors
    /// When DynamoDB fails.
    pub async fn forget_promoted(&self, row: &Member) -> Result<(), LedgerError> {
        let item = Self::member_item(Role::Worker, &row.instance_id);
        self.delete(&item, Condition::default()).await.map(drop)
    }

    /// Deletes a row that has not been refreshed since it was read. `false` if it has been.
    ///
    /// # Errors
    /// When DynamoDB fails.
    pub async fn forget_member(&self, seen: &Member) -> Result<bool, LedgerError> {
        let condition = Condition::new("#node_id = :node AND #updated_at = :seen")
            .text("node", &seen.node_id)
            .number("seen", seen.updated_at.unix_timestamp());
        let item = Self::member_item(seen.role, &seen.instance_id);
        self.own_rows(seen.role, &seen.instance_id).delete(&item, condition).await
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
        let item = Self::member_item(role, instance_id);
        self.own_rows(role, instance_id).delete(&item, condition).await
    }

    /// Deletes this node's row. A missing row is a success.
    ///
    /// # Errors
    /// When DynamoDB fails.
    pub async fn delete_member(&self, role: Role, instance_id: &str) -> Result<(), LedgerError> {
        let item = Self::member_item(role, instance_id);
        self.own_rows(role, instance_id).delete(&item, Condition::default()).await.map(drop)
    }
}
