//! The expiry of the pull credentials of each service, which Docker does not show.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::record::{self, Record};
use super::table::Condition;
use super::{Ledger, LedgerError};

/// Registry and expiry of a service's pull credentials. The row does not hold the credentials.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegistryAuth {
    /// Docker's id of the service.
    pub service_id: String,
    /// The registry's host; the service may use another registry by now.
    pub registry: String,
    /// When ECR issued the credentials.
    #[serde(with = "time::serde::timestamp")]
    pub since: OffsetDateTime,
    /// When the credentials and this row expire.
    #[serde(with = "time::serde::timestamp")]
    pub expires_at: OffsetDateTime,
}

impl Record for RegistryAuth {
    fn check(&self) -> Result<(), String> {
        record::docker_id("service_id", &self.service_id)?;
        record::name("registry", &self.registry)?;
        record::moment("since", self.since)?;
        record::moment("expires_at", self.expires_at)
    }

    fn item(&self) -> Option<String> {
        Some(Ledger::registry_auth_item(&self.service_id))
    }
}

impl Ledger {
    fn registry_auth_item(service_id: &str) -> String {
        format!("registry-auth#{service_id}")
    }

    /// Returns the rows of all services; rows whose credentials have expired may be missing.
    ///
    /// # Errors
    /// When DynamoDB fails.
    pub async fn fetch_registry_auths(&self) -> Result<Vec<RegistryAuth>, LedgerError> {
        self.query("registry-auth#").await.map(|all| all.rows)
    }

    /// Records the registry and expiry of the credentials that a service has now.
    ///
    /// # Errors
    /// When DynamoDB fails.
    pub async fn record_registry_auth(&self, row: &RegistryAuth) -> Result<(), LedgerError> {
        let item = Self::registry_auth_item(&row.service_id);
        self.put(&item, row, Condition::default()).await.map(drop)
    }
}
