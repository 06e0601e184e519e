//! Tests permissions on the ledger with requests that change nothing.

use serde::Serialize;
use serde::de::IgnoredAny;

use super::table::Condition;
use super::{Ledger, LedgerError};
use crate::common::instance::Role;

/// A key that no row has.
const ITEM: &str = "doctor";

/// A kind of access to the rows of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reads one row.
    Get,
    /// Reads many rows by their keys.
    BatchGet,
    /// Reads the rows whose keys start with a text.
    Query,
    /// Writes a whole row.
    Put,
    /// Sets attributes of a row.
    Update,
    /// Deletes a row.
    Delete,
}

impl Access {
    /// Returns the name of the operation, as in IAM actions.
    #[must_use]
    pub fn operation(self) -> &'static str {
        match self {
            Self::Get => "GetItem",
            Self::BatchGet => "BatchGetItem",
            Self::Query => "Query",
            Self::Put => "PutItem",
            Self::Update => "UpdateItem",
            Self::Delete => "DeleteItem",
        }
    }
}

/// The partitions of a cluster, which `dynamodb:LeadingKeys` distinguishes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Partition<'a> {
    /// Charter and managers' rows.
    Cluster,
    /// The rows that the worker with this instance id writes about itself.
    Worker(&'a str),
    /// The manager token and the unlock keys.
    Managers,
}

#[derive(Serialize)]
struct Nothing {}

impl Ledger {
    /// Returns the key of a partition.
    #[must_use]
    pub fn key_of(&self, partition: Partition<'_>) -> String {
        self.at(partition).partition_key().to_owned()
    }

    fn at(&self, partition: Partition<'_>) -> Self {
        match partition {
            Partition::Cluster => self.clone(),
            Partition::Worker(instance_id) => self.own_rows(Role::Worker, instance_id),
            Partition::Managers => self.partition(format!("{}#managers", self.partition_key())),
        }
    }

    /// Tries an access to a partition: reads a row that does not exist, or writes on a condition that no row meets.
    ///
    /// # Errors
    /// When DynamoDB fails or refuses.
    pub async fn try_access(
        &self,
        partition: Partition<'_>,
        access: Access,
    ) -> Result<(), LedgerError> {
        let rows = self.at(partition);
        let never = || Condition::new("attribute_exists(#item) AND attribute_not_exists(#item)");
        match access {
            Access::Get => rows.get::<IgnoredAny>(ITEM).await.map(drop),
            Access::BatchGet => {
                let key = (rows.partition_key().to_owned(), ITEM.to_owned());
                self.get_many::<IgnoredAny>([key].into()).await.map(drop)
            }
            Access::Query => rows.query::<IgnoredAny>(ITEM).await.map(drop),
            Access::Put => rows.put(ITEM, &Nothing {}, never()).await.map(drop),
            Access::Update => {
                let update = never().text("tried", "");
                rows.set(ITEM, "SET #tried = :tried", update).await.map(drop)
            }
            Access::Delete => rows.delete(ITEM, never()).await.map(drop),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clients::aws::stub::Stub;
    use crate::clients::aws::{AwsError, AwsErrorKind};

    const ALL: [Access; 6] =
        [Access::Get, Access::BatchGet, Access::Query, Access::Put, Access::Update, Access::Delete];

    #[tokio::test]
    async fn a_write_that_is_tried_has_a_condition_that_no_row_meets() {
        let stub = Stub::start().await;
        let ledger = Ledger::example(&stub).await;
        for access in [Access::Put, Access::Update, Access::Delete] {
            stub.answer(400, r#"{"__type": "x#ConditionalCheckFailedException"}"#);
            ledger.try_access(Partition::Worker("i-2"), access).await.unwrap();
            let request = stub.last_request();
            let never = "attribute_exists(#item) AND attribute_not_exists(#item)";
            assert!(request.contains(never) && request.contains(":instance/i-2"), "{request}");
        }
        assert_eq!(ledger.key_of(Partition::Managers), "prod#managers");
    }

    #[tokio::test]
    async fn a_refusal_is_an_error_whatever_is_tried() {
        let stub = Stub::start().await;
        let ledger = Ledger::example(&stub).await;
        for access in ALL {
            stub.answer(400, r#"{"__type": "x#AccessDeniedException", "message": "no"}"#);
            let error = ledger.try_access(Partition::Cluster, access).await.unwrap_err();
            let is_right = |error: &AwsError| {
                (error.kind, error.operation) == (AwsErrorKind::AccessDenied, access.operation())
            };
            assert!(matches!(&error, LedgerError::Aws(error) if is_right(error)), "{error}");
        }
    }
}
