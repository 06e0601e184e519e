//! Attempts: the instances that have started to join, so that managers can tell an entry that a failed join left in
//! the node list from a node.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::checked::{self, Checked};
use super::table::Condition;
use super::{Ledger, LedgerError, Rows};
use crate::common::instance::Role;

/// One instance that is about to join, and the address under which the swarm may list it. Managers delete the row
/// when no entry is left that it explains.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// Instance id, such as `i-0abc`; part of the row's key.
    pub instance_id: String,
    /// The node's configured role.
    pub role: Role,
    /// Address that the node advertises, by which managers recognise its entry in the node list.
    pub address: IpAddr,
    /// Time when the node wrote the row, by its clock.
    #[serde(with = "time::serde::timestamp")]
    pub at: OffsetDateTime,
}

impl Attempt {
    /// Returns the attempt of an instance that starts to join at `now`.
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

    /// Records that this node starts to join.
    ///
    /// # Errors
    /// When DynamoDB fails.
    pub async fn put_attempt(&self, attempt: &Attempt) -> Result<(), LedgerError> {
        let item = Self::attempt_item(&attempt.instance_id);
        self.nodes().put(&item, attempt, Condition::default()).await.map(drop)
    }

    /// Reads an instance's attempt, consistently; there is none after the instance was Ready.
    ///
    /// # Errors
    /// When DynamoDB fails.
    pub async fn fetch_attempt(&self, instance_id: &str) -> Result<Option<Attempt>, LedgerError> {
        self.nodes().get(&Self::attempt_item(instance_id)).await
    }

    /// Reads all attempts of the cluster, and the keys of those that cannot be read.
    ///
    /// # Errors
    /// When DynamoDB fails.
    pub async fn survey_attempts(&self) -> Result<Rows<Attempt>, LedgerError> {
        let item_of = |attempt: &Attempt| Self::attempt_item(&attempt.instance_id);
        self.nodes().query_all("attempt#", item_of).await
    }

    /// Deletes an attempt that has succeeded, or that has left no entry in the node list.
    ///
    /// # Errors
    /// When DynamoDB fails.
    pub async fn delete_attempt(&self, instance_id: &str) -> Result<(), LedgerError> {
        let item = Self::attempt_item(instance_id);
        self.nodes().delete(&item, Condition::default()).await.map(drop)
    }
}
