//! Attempts: who has begun to join, so that what a failed join leaves in the node list can be told
//! from a node.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::checked::{self, Checked};
use super::table::Condition;
use super::{Ledger, LedgerError, Rows};
use crate::common::instance::Role;

/// One instance that is about to join, and at which address the swarm may come to list it. Managers delete the
/// row once nothing is left that it explains.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    pub instance_id: String,
    pub role: Role,
    pub address: IpAddr,
    #[serde(with = "time::serde::timestamp")]
    pub at: OffsetDateTime,
}

impl Attempt {
    #[must_use]
    pub fn new(instance_id: &str, role: Role, address: IpAddr, now: OffsetDateTime) -> Self {
        Self { instance_id: instance_id.to_owned(), role, address, at: now }
    }
}

impl Checked for Attempt {
    fn check(&self) -> Result<(), String> {
        checked::instance("instance_id", &self.instance_id)?;
        checked::moment("at", self.at)
    }
}

impl Ledger {
    fn attempt_item(instance_id: &str) -> String {
        format!("attempt#{instance_id}")
    }

    /// Says that this node begins to join.
    ///
    /// # Errors
    /// When DynamoDB fails.
    pub async fn put_attempt(&self, attempt: &Attempt) -> Result<(), LedgerError> {
        let item = Self::attempt_item(&attempt.instance_id);
        self.nodes().put(&item, attempt, Condition::default()).await.map(drop)
    }

    /// An instance's attempt, consistently; there is none once it was Ready.
    ///
    /// # Errors
    /// When DynamoDB fails.
    pub async fn fetch_attempt(&self, instance_id: &str) -> Result<Option<Attempt>, LedgerError> {
        self.nodes().get(&Self::attempt_item(instance_id)).await
    }

    /// All attempts of the cluster, and which cannot be read.
    ///
    /// # Errors
    /// When DynamoDB fails.
    pub async fn survey_attempts(&self) -> Result<Rows<Attempt>, LedgerError> {
        let item_of = |attempt: &Attempt| Self::attempt_item(&attempt.instance_id);
        self.nodes().query_all("attempt#", item_of).await
    }

    /// Forgets an attempt that has succeeded, or that nothing is left of.
    ///
    /// # Errors
    /// When DynamoDB fails.
    pub async fn delete_attempt(&self, instance_id: &str) -> Result<(), LedgerError> {
        let item = Self::attempt_item(instance_id);
        self.nodes().delete(&item, Condition::default()).await.map(drop)
    }
}
