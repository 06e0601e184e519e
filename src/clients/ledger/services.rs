//! The managers' statement that services are worse off than before the departures that are under way. New nodes read it:
//! a worker cannot list services.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::departure::LONGEST_WAIT;
use super::record::{self, Record};
use super::table::Condition;
use super::{Ledger, LedgerError};
use crate::common::printable::printable;

const ITEM: &str = "services";
/// Time after which DynamoDB may delete the row: managers that still exist have deleted it long before.
const TTL: Duration = Duration::from_secs(24 * 3600);

/// Services are worse off. Without departures that were not made up for there is no such row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServicesWorse {
    /// The departures and the service, as text.
    pub after: String,
    /// Time of the statement.
    #[serde(with = "time::serde::timestamp")]
    pub at: OffsetDateTime,
    #[serde(with = "time::serde::timestamp")]
    expires_at: OffsetDateTime,
}

impl Record for ServicesWorse {
    fn check(&self) -> Result<(), String> {
        record::text("after", &self.after, LONGEST_WAIT)?;
        record::near("at", self.at)?;
        record::moment("expires_at", self.expires_at)
    }
}

impl Ledger {
    /// Reads the managers' last statement, consistently; `None` if nothing is worse off, as far as they know. Workers may
    /// read it.
    ///
    /// # Errors
    /// When DynamoDB fails, or the row cannot be read.
    pub async fn fetch_services_worse(&self) -> Result<Option<ServicesWorse>, LedgerError> {
        self.get(ITEM).await
    }

    /// Records that services are worse off, or that they are not, unless another manager has stated something later.
    ///
    /// # Errors
    /// When DynamoDB fails.
    pub async fn state_services(
        &self,
        after: Option<&str>,
        now: OffsetDateTime,
    ) -> Result<(), LedgerError> {
        let condition = Condition::new("attribute_not_exists(#item) OR #at <= :now")
            .number("now", now.unix_timestamp());
        let Some(after) = after else { return self.delete(ITEM, condition).await.map(drop) };
        let after = printable(after, LONGEST_WAIT - 1);
        let row = ServicesWorse { after, at: now, expires_at: now + TTL };
        self.put(ITEM, &row, condition).await.map(drop)
    }
}
