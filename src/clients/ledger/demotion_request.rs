//! Requests of managers to be taken out of raft, so that they can join anew: who is known there by another
//! address, or has a certificate that is refused, cannot leave by itself.
//!
//! Guarantees: among the managers' rows, where no worker can write; one per instance.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::checked::{self, Checked};
use super::table::Condition;
use super::{Ledger, LedgerError, Rows};

/// The node deletes the row once it is back; this is for when it never comes.
const REJOIN_TTL: Duration = Duration::from_secs(48 * 3600);

/// One manager's wish not to be the node that it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DemotionRequest {
    pub instance_id: String,
    /// The node that is to go.
    pub node_id: String,
    pub because: String,
    /// Another manager's word that raft does not know that node any more.
    #[serde(default)]
    pub is_out: bool,
    #[serde(with = "time::serde::timestamp")]
    pub at: OffsetDateTime,
    #[serde(with = "time::serde::timestamp")]
    expires_at: OffsetDateTime,
}

impl DemotionRequest {
    #[must_use]
    pub fn new(instance_id: &str, node_id: &str, because: &str, now: OffsetDateTime) -> Self {
        Self {
            instance_id: instance_id.to_owned(),
            node_id: node_id.to_owned(),
            because: because.to_owned(),
            is_out: false,
            at: now,
            expires_at: now + REJOIN_TTL,
        }
    }
}

impl Checked for DemotionRequest {
    fn check(&self) -> Result<(), String> {
        checked::instance("instance_id", &self.instance_id)?;
        checked::docker_id("node_id", &self.node_id)?;
        checked::moment("at", self.at)?;
        checked::moment("expires_at", self.expires_at)
    }
}

impl Ledger {
    fn demotion_request_item(instance_id: &str) -> String {
        format!("rejoin#{instance_id}")
    }

    /// Asks the other managers. What was said about the same node stands.
    ///
    /// # Errors
    /// When DynamoDB fails.
    pub async fn request_demotion(&self, row: &DemotionRequest) -> Result<(), LedgerError> {
        let condition = Condition::new("attribute_not_exists(#item) OR #node_id <> :node")
            .text("node", &row.node_id);
        self.put(&Self::demotion_request_item(&row.instance_id), row, condition).await.map(drop)
    }

    /// What this instance has asked, consistently.
    ///
    /// # Errors
    /// When DynamoDB fails.
    pub async fn fetch_demotion_request(
        &self,
        instance_id: &str,
    ) -> Result<Option<DemotionRequest>, LedgerError> {
        self.get(&Self::demotion_request_item(instance_id)).await
    }

    /// All that was asked, and which rows cannot be read.
    ///
    /// # Errors
    /// When DynamoDB fails.
    pub async fn survey_demotion_requests(&self) -> Result<Rows<DemotionRequest>, LedgerError> {
        self.query_all("rejoin#", |row: &DemotionRequest| {
            Self::demotion_request_item(&row.instance_id)
        })
        .await
    }

    /// Another manager's word that raft does not know that node. `false` where nobody asks about it any
    /// more. It writes the row whole, since in this partition nobody may update one.
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

    /// Takes the request back: the node is well, whichever it is by now.
    ///
    /// # Errors
    /// When DynamoDB fails.
    pub async fn delete_demotion_request(&self, instance_id: &str) -> Result<(), LedgerError> {
        self.delete(&Self::demotion_request_item(instance_id), Condition::default()).await.map(drop)
    }
}
