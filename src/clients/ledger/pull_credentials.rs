//! Until when the pull credentials last that a service was given: Docker shows them to nobody.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::checked::{self, Checked};
use super::table::Condition;
use super::{Ledger, LedgerError};

/// What a service was given. It holds no credentials.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegistryAuth {
    /// Docker's id.
    pub service_id: String,
    /// The registry's host: a service may have moved to another since.
    pub registry: String,
    /// When ECR gave the credentials.
    #[serde(with = "time::serde::timestamp")]
    pub since: OffsetDateTime,
    /// When they end, and with them the row.
    #[serde(with = "time::serde::timestamp")]
    pub expires_at: OffsetDateTime,
}

impl Checked for RegistryAuth {
    fn check(&self) -> Result<(), String> {
        checked::docker_id("service_id", &self.service_id)?;
        checked::name("registry", &self.registry)?;
        checked::moment("since", self.since)?;
        checked::moment("expires_at", self.expires_at)
    }
}

impl Ledger {
    fn registry_auth_item(service_id: &str) -> String {
        format!("registry-auth#{service_id}")
    }

    /// What every service was given, as far as it has not ended.
    ///
    /// # Errors
    /// When DynamoDB fails.
    pub async fn fetch_registry_auths(&self) -> Result<Vec<RegistryAuth>, LedgerError> {
        let item = |row: &RegistryAuth| Self::registry_auth_item(&row.service_id);
        self.query("registry-auth#", item).await
    }

    /// Writes down what a service has now.
    ///
    /// # Errors
    /// When DynamoDB fails.
    pub async fn record_registry_auth(&self, row: &RegistryAuth) -> Result<(), LedgerError> {
        let item = Self::registry_auth_item(&row.service_id);
        self.put(&item, row, Condition::default()).await.map(drop)
    }
}
