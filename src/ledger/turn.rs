//! Turns: one change of raft's members at a time.
//!
//! Guarantees: of two skeps whose clocks agree, one at a time has the turn. Assumes that somebody
//! else keeps the quorum where clocks do not agree, or where a row was edited by hand: Docker, which
//! refuses a demotion that would lose it. The lease only saves trouble.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::table::Condition;
use super::{Ledger, LedgerError};

const ITEM: &str = "turn#demotion";
/// A demotion is over within 10 s; after this, whoever had the turn has died with it.
const LEASE: Duration = Duration::from_secs(60);
/// A lease that ends later than this is not believed: nobody waits for a clock that is minutes
/// ahead, nor for a row that was edited by hand.
const LONGEST_CREDIBLE: Duration = Duration::from_secs(120);

/// Who is taken out of raft, and by whom.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Turn {
    /// Whose demotion it is: any manager may go on with it.
    pub node_id: String,
    /// Instance id of the one whose skep has begun it.
    pub taken_by: String,
    #[serde(with = "time::serde::timestamp")]
    expires_at: OffsetDateTime,
}

impl Ledger {
    /// Takes the turn for the demotion of a node, or takes it for longer. `false` while it is
    /// another one's.
    ///
    /// # Errors
    /// When DynamoDB fails.
    pub async fn take_turn(
        &self,
        node_id: &str,
        taken_by: &str,
        now: OffsetDateTime,
    ) -> Result<bool, LedgerError> {
        let turn = Turn {
            node_id: node_id.to_owned(),
            taken_by: taken_by.to_owned(),
            expires_at: now + LEASE,
        };
        let condition = Condition::new(
            "attribute_not_exists(#item) OR #node_id = :node OR #expires_at <= :now OR #expires_at > :credible",
        )
        .text("node", node_id)
        .number("now", now.unix_timestamp())
        .number("credible", (now + LONGEST_CREDIBLE).unix_timestamp());
        self.put(ITEM, &turn, condition).await
    }

    /// Whose turn it is, consistently.
    ///
    /// # Errors
    /// When DynamoDB fails, or the row was edited by hand.
    pub async fn fetch_turn(&self) -> Result<Option<Turn>, LedgerError> {
        self.get(ITEM).await
    }

    /// Gives the turn back once the node is out of raft; another one's stays.
    ///
    /// # Errors
    /// When DynamoDB fails; the lease then ends by itself.
    pub async fn give_turn_back(&self, node_id: &str) -> Result<(), LedgerError> {
        let condition = Condition::new("#node_id = :node").text("node", node_id);
        self.delete(ITEM, condition).await.map(drop)
    }
}
