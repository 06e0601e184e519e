//! The time of the last rotation of the join tokens, so that the next rotation happens on time, and once.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::record::{self, Record};
use super::table::Condition;
use super::{Ledger, LedgerError};

const ITEM: &str = "token-rotation";

#[derive(Serialize, Deserialize)]
struct Rotation {
    generation: u64,
    #[serde(with = "time::serde::timestamp")]
    rotated_at: OffsetDateTime,
}

impl Record for Rotation {
    fn check(&self) -> Result<(), String> {
        record::generation(self.generation)?;
        record::moment("rotated_at", self.rotated_at)
    }
}

impl Ledger {
    /// Returns the time when skep last rotated the tokens of this generation; `None` if it never has.
    ///
    /// # Errors
    /// When DynamoDB fails.
    pub async fn fetch_token_rotation(
        &self,
        generation: u64,
    ) -> Result<Option<OffsetDateTime>, LedgerError> {
        let row = self.get::<Rotation>(ITEM).await?;
        Ok(row.filter(|row| row.generation == generation).map(|row| row.rotated_at))
    }

    /// Records a rotation, unless a later one is already recorded.
    ///
    /// # Errors
    /// When DynamoDB fails.
    pub async fn record_token_rotation(
        &self,
        generation: u64,
        rotated_at: OffsetDateTime,
    ) -> Result<(), LedgerError> {
        let condition = Condition::new(
            "attribute_not_exists(#item) OR #generation < :generation OR #rotated_at < :rotated_at",
        )
        .number("generation", generation)
        .number("rotated_at", rotated_at.unix_timestamp());
        self.put(ITEM, &Rotation { generation, rotated_at }, condition).await.map(drop)
    }
}
