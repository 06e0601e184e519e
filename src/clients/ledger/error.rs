//! The errors of the ledger.

use thiserror::Error;

use super::table::SCHEMA;
use crate::clients::aws::AwsError;

#[derive(Debug, Error)]
pub enum LedgerError {
    #[error(transparent)]
    Aws(AwsError),
    #[error(
        "table {table} has other keys than skep needs: create one with partition key `cluster` (S) and sort key `item` (S), or set `table` to the name of another table"
    )]
    WrongKeys { table: String },
    #[error("ledger item {item} cannot be read: repair it, or delete it if nothing needs it")]
    Malformed { item: String, source: serde_dynamo::Error },
    #[error(
        "ledger item {item} was written by a newer skep (schema {found}, this one supports {SCHEMA}): upgrade skep on this node"
    )]
    NewerSchema { item: String, found: u64 },
}

impl LedgerError {
    /// Whether the same call may succeed a moment later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Aws(error) if error.is_retryable())
    }
}
