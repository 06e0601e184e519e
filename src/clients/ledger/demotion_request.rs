//! Demotion requests: rows with which managers ask the others to demote them, so that they can join again. A manager
//! whose address in raft is outdated, or whose certificate is refused, cannot leave by itself.
//!
//! Guarantees: the rows are in the managers' partition, where no worker can write; one row per instance.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::record::{self, Record};
use super::table::Condition;
use super::{Ledger, LedgerError};
use crate::common::printable::printable;

/// The node deletes the row once it is back; the row expires after this time if the node never comes back.
const TTL: Duration = Duration::from_secs(48 * 3600);

/// Start of the rows' sort keys.
pub(super) const REQUESTS: &str = "demotion-request#";
/// Number of characters of the reason.
const LONGEST_REASON: usize = 1000;

/// One manager's request to be demoted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DemotionRequest {
    /// Instance id of the manager that asks; part of the row's key.
    pub instance_id: String,
    /// The node that must be demoted.
    pub node_id: String,
    /// The reason, as text; the manager that demotes the node logs it.
    pub because: String,
    /// Another manager has confirmed that raft no longer lists that node.
    #[serde(default)]
    pub is_out: bool,
    /// Time of the request, by the clock of the node that asks.
    #[serde(with = "time::serde::timestamp")]
    pub at: OffsetDateTime,
    #[serde(with = "time::serde::timestamp")]
    expires_at: OffsetDateTime,
}

impl DemotionRequest {
    /// Returns the request of an instance; its row expires 48 h after `now`.
    #[must_use]
    pub fn new(instance_id: &str, node_id: &str, because: &str, now: OffsetDateTime) -> Self {
        Self {
            instance_id: instance_id.to_owned(),
            node_id: node_id.to_owned(),
            because: printable(because, LONGEST_REASON - 1),
            is_out: false,
            at: now,
            expires_at: now + TTL,
        }
    }
}

impl Record for DemotionRequest {
    fn check(&self) -> Result<(), String> {
        record::instance("instance_id", &self.instance_id)?;
        record::docker_id("node_id", &self.node_id)?;
        record::text("because", &self.because, LONGEST_REASON)?;
        record::near("at", self.at)?;
        record::moment("expires_at", self.expires_at)
    }

    fn item(&self) -> Option<String> {
        Some(Ledger::demotion_request_item(&self.instance_id))
    }
}

impl Ledger {
    fn demotion_request_item(instance_id: &str) -> String {
        format!("{REQUESTS}{instance_id}")
    }

    /// Asks the other managers to demote this node. An earlier request for the same node stays unchanged.
    ///
    /// # Errors
    /// When DynamoDB fails.
    pub async fn request_demotion(&self, row: &DemotionRequest) -> Result<(), LedgerError> {
        let condition = Condition::new("attribute_not_exists(#item) OR #node_id <> :node")
            .text("node", &row.node_id);
        self.put(&Self::demotion_request_item(&row.instance_id), row, condition).await.map(drop)
    }

    /// Reads the request of this instance, consistently.
    ///
    /// # Errors
    /// When DynamoDB fails.
    pub async fn fetch_demotion_request(
        &self,
        instance_id: &str,
    ) -> Result<Option<DemotionRequest>, LedgerError> {
        self.get(&Self::demotion_request_item(instance_id)).await
    }

    /// Records that another manager has confirmed that raft no longer lists that node. `false` if the request no
    /// longer exists.
    ///
    /// # Errors
    /// When DynamoDB fails.
    pub async fn confirm_demotion_request(
        &self,
        seen: &DemotionRequest,
    ) -> Result<bool, LedgerError> {
        let condition = Condition::new("#node_id = :node").text("node", &seen.node_id);
        let row = DemotionRequest { is_out: true, ..seen.clone() };
        self.put(&Self::demotion_request_item(&seen.instance_id), &row, condition).await
    }

    /// Deletes the request: the instance is healthy again, as the same node or as another.
    ///
    /// # Errors
    /// When DynamoDB fails.
    pub async fn delete_demotion_request(&self, instance_id: &str) -> Result<(), LedgerError> {
        self.delete(&Self::demotion_request_item(instance_id), Condition::default()).await.map(drop)
    }
}
