//! The restoration of a swarm from a backup: at most one for each generation that begins by itself, by whichever leader.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::record::{self, Record};
use super::table::Condition;
use super::{Ledger, LedgerError};

const ITEM: &str = "restore";
/// Longest key of a backup: S3's limit.
const LONGEST_KEY: usize = 1024;

/// The state of a restoration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RestorationState {
    /// A manager creates what the backup holds.
    Begun,
    /// Everything was created except the pending objects.
    Waiting,
    /// Nothing is left to do.
    Done,
    /// Nothing was restored, and nothing will be.
    Skipped,
}

impl RestorationState {
    fn as_str(self) -> &'static str {
        match self {
            Self::Begun => "begun",
            Self::Waiting => "waiting",
            Self::Done => "done",
            Self::Skipped => "skipped",
        }
    }
}

/// The last restoration of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restoration {
    /// Generation of the swarm into which the backup is restored.
    pub generation: u64,
    /// What was done.
    pub state: RestorationState,
    /// Key of the backup; `None` where it was skipped.
    pub backup: Option<String>,
    /// Instance id of the manager that began it.
    pub by: String,
    /// Time when it was begun, by that manager's clock.
    #[serde(with = "time::serde::timestamp")]
    pub begun_at: OffsetDateTime,
    /// Objects that wait or were refused, by kind and name: `service web`.
    #[serde(default)]
    pub pending: BTreeSet<String>,
}

impl Restoration {
    /// Longest name of an object that is recorded, with its kind; Docker's limit for a service's is 63.
    pub const LONGEST_OBJECT: usize = 128;
}

impl Record for Restoration {
    fn check(&self) -> Result<(), String> {
        record::generation(self.generation)?;
        record::instance("by", &self.by)?;
        record::moment("begun_at", self.begun_at)?;
        if let Some(backup) = &self.backup {
            record::text("backup", backup, LONGEST_KEY)?;
        }
        self.pending.iter().try_for_each(|name| record::text("pending", name, Self::LONGEST_OBJECT))
    }
}

impl Ledger {
    /// Reads the last restoration, consistently; `None` if none was begun in this generation.
    ///
    /// # Errors
    /// When DynamoDB fails, or when the row cannot be read.
    pub async fn fetch_restoration(
        &self,
        generation: u64,
    ) -> Result<Option<Restoration>, LedgerError> {
        let row = self.get::<Restoration>(ITEM).await?;
        Ok(row.filter(|row| row.generation == generation))
    }

    /// Records a restoration, if the row is still the one that was `seen`; `None` is no row of this generation. `false` if
    /// another manager or operator was first, or there is a later generation.
    ///
    /// # Errors
    /// When the outcome is unknown: read it again before anything else.
    pub async fn record_restoration(
        &self,
        seen: Option<&Restoration>,
        row: &Restoration,
    ) -> Result<bool, LedgerError> {
        let condition = match seen {
            None => Condition::new("attribute_not_exists(#item) OR #generation < :generation"),
            Some(seen) => Condition::new(
                "#generation = :generation AND #state = :state AND #begun_at = :begun_at",
            )
            .text("state", seen.state.as_str())
            .number("begun_at", seen.begun_at.unix_timestamp()),
        };
        self.put(ITEM, row, condition.number("generation", row.generation)).await
    }
}
