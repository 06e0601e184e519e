//! The errors of the ledger.

use thiserror::Error;

use super::table::SCHEMA;
use crate::clients::aws::AwsError;
use crate::common::errors::Explained;

#[derive(Debug, Error)]
pub enum LedgerError {
    #[error(transparent)]
    Aws(AwsError),
    #[error("{}", self.sentence(": "))]
    WrongKeys { table: String },
    #[error("{}", self.sentence(": "))]
    Malformed { item: String, source: serde_dynamo::Error },
    #[error("{}", self.sentence(": "))]
    NewerSchema { item: String, found: u64 },
}

impl LedgerError {
    /// Whether the same call may succeed a moment later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Aws(error) if error.is_retryable())
    }
}

impl Explained for LedgerError {
    fn evidence(&self) -> String {
        match self {
            Self::Aws(error) => error.evidence(),
            Self::WrongKeys { table } => format!("table {table} has other keys than skep needs"),
            Self::Malformed { item, .. } => format!("ledger item {item} cannot be read"),
            Self::NewerSchema { item, found } => format!(
                "ledger item {item} was written by a newer skep (schema {found}, this one supports {SCHEMA})"
            ),
        }
    }

    fn remedy(&self) -> Option<String> {
        let remedy = match self {
            Self::Aws(error) => return error.remedy(),
            Self::WrongKeys { .. } => {
                "create one with partition key `cluster` (S) and sort key `item` (S), or set `table` to the name of another table"
            }
            Self::Malformed { .. } => "repair it, or delete it if nothing needs it",
            Self::NewerSchema { .. } => "upgrade skep on this node",
        };
        Some(remedy.to_owned())
    }
}
