//! Attempts: each instance records that it starts to join, so that it can tell after an interruption that it has not been
//! Ready, and so that a manager whose join hangs can be recognised as the instance that asks for its demotion.

use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::record::{self, Record};
use super::table::Condition;
use super::{Ledger, LedgerError};
use crate::common::instance::Role;

/// How long a row is kept that its instance does not delete, because it never became Ready.
const TTL: Duration = Duration::from_secs(7 * 24 * 3600);

/// One instance that is about to join, and the address under which the swarm may list it.
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
    /// Time when DynamoDB may delete the row.
    #[serde(with = "time::serde::timestamp")]
    pub expires_at: OffsetDateTime,
}

impl Attempt {
    /// Returns the attempt of an instance that starts to join at `now`.
    #[must_use]
    pub fn new(instance_id: &str, role: Role, address: IpAddr, now: OffsetDateTime) -> Self {
        let (instance_id, expires_at) = (instance_id.to_owned(), now + TTL);
        Self { instance_id, role, address, at: now, expires_at }
    }
}

impl Record for Attempt {
    fn check(&self) -> Result<(), String> {
        record::instance("instance_id", &self.instance_id)?;
        record::near("at", self.at)?;
        record::moment("expires_at", self.expires_at)
    }

    fn item(&self) -> Option<String> {
        Some(Ledger::attempt_item(&self.instance_id))
    }

    fn may_be_workers(&self) -> bool {
        self.role == Role::Worker
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
        let Attempt { instance_id, role, .. } = attempt;
        let item = Self::attempt_item(instance_id);
        self.own_rows(*role, instance_id).put(&item, attempt, Condition::default()).await.map(drop)
    }

    /// Reads an instance's attempt, consistently; there is none after the instance was Ready.
    ///
    /// # Errors
    /// When DynamoDB fails.
    pub async fn fetch_attempt(
        &self,
        role: Role,
        instance_id: &str,
    ) -> Result<Option<Attempt>, LedgerError> {
        self.own_rows(role, instance_id).get(&Self::attempt_item(instance_id)).await
    }

    /// Deletes an attempt that has succeeded, or that has left no entry in the node list.
    ///
    /// # Errors
    /// When DynamoDB fails.
    pub async fn delete_attempt(&self, role: Role, instance_id: &str) -> Result<(), LedgerError> {
        let item = Self::attempt_item(instance_id);
        self.own_rows(role, instance_id).delete(&item, Condition::default()).await.map(drop)
    }
}
