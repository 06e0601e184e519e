//! The cluster's history: which generation was published last and for which swarm, and which swarms were given up before.
//! It stays when an operator deletes the charter, and when no manager is left that has a row.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::record::{self, Record};
use super::table::Condition;
use super::{Charter, Ledger, LedgerError, Traces};

const ITEM: &str = "history";

/// The highest generation that a manager has begun to publish, and the swarms up to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// The highest generation.
    pub generation: u64,
    /// Docker's id of its swarm.
    pub swarm_id: String,
    /// Docker's ids of the swarms that were given up before.
    #[serde(default)]
    pub former: BTreeSet<String>,
}

impl History {
    /// Returns the history up to a charter; `None` if it names no swarm.
    #[must_use]
    pub fn up_to(charter: &Charter) -> Option<Self> {
        let Charter { generation, swarm_id, former, .. } = charter;
        let former = former.iter().cloned().collect();
        Some(Self { generation: *generation, swarm_id: swarm_id.clone()?, former })
    }

    /// Returns these traces and those of the history.
    #[must_use]
    pub fn added_to(self, traces: Traces) -> Traces {
        let Traces { highest, mut swarms } = traces;
        swarms.extend(self.former.into_iter().chain([self.swarm_id]));
        Traces { highest: highest.max(self.generation), swarms }
    }
}

impl Record for History {
    fn check(&self) -> Result<(), String> {
        record::generation(self.generation)?;
        record::docker_id("swarm_id", &self.swarm_id)?;
        self.former.iter().try_for_each(|id| record::docker_id("former", id))
    }
}

impl Ledger {
    /// Reads the history, consistently; `None` before the first swarm.
    ///
    /// # Errors
    /// When DynamoDB fails, or when the row cannot be read.
    pub async fn fetch_history(&self) -> Result<Option<History>, LedgerError> {
        self.get(ITEM).await
    }

    /// Records a charter before it is published. A later generation that is already recorded stays.
    pub(super) async fn record_history(&self, charter: &Charter) -> Result<(), LedgerError> {
        let Some(history) = History::up_to(charter) else { return Ok(()) };
        let condition = Condition::new("attribute_not_exists(#item) OR #generation <= :generation")
            .number("generation", charter.generation);
        self.put(ITEM, &history, condition).await.map(drop)
    }
}
