//! The errors of the ledger.

use thiserror::Error;

use super::table::SCHEMA;
use crate::clients::aws::AwsError;
use crate::common::errors::Explained;

/// A failed access to the ledger.
#[derive(Debug, Error)]
pub enum LedgerError {
    /// DynamoDB refused the call or did not answer.
    #[error(transparent)]
    Aws(AwsError),
    /// The table has other keys than `cluster` and `item`.
    #[error("{}", self.sentence(": "))]
    WrongKeys {
        /// Name of the table.
        table: String,
    },
    /// A row cannot be read, for example because it was edited by hand; or a value cannot be written as a row.
    #[error("{}", self.sentence(": "))]
    Malformed {
        /// Sort key of the row, such as `charter`.
        item: String,
        /// The attribute or the check that failed.
        source: serde_dynamo::Error,
    },
    /// Another skep wrote the row, with a schema number that this skep does not support.
    #[error("{}", self.sentence(": "))]
    OtherSchema {
        /// Sort key of the row, such as `charter`.
        item: String,
        /// Schema number of the row.
        found: u64,
    },
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
            Self::OtherSchema { item, found } => {
                let which = if *found > SCHEMA { "a newer" } else { "an older" };
                format!(
                    "ledger item {item} was written by {which} skep (schema {found}, this one supports {SCHEMA})"
                )
            }
        }
    }

    fn remedy(&self) -> Option<String> {
        let remedy = match self {
            Self::Aws(error) => return error.remedy(),
            Self::WrongKeys { .. } => {
                "create one with partition key `cluster` (S) and sort key `item` (S), or set `table` to the name of another table"
            }
            Self::Malformed { .. } => "repair it, or delete it if nothing needs it",
            Self::OtherSchema { found, .. } if *found > SCHEMA => "upgrade skep on this node",
            Self::OtherSchema { .. } => {
                "skep does not convert it: stop skep on all nodes, delete all items of the cluster, and start the new skep, first on the managers (docs/ledger.md, \"An older layout\")"
            }
        };
        Some(remedy.to_owned())
    }
}
