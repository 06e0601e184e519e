//! The time since which the ledger has answered this node. After an outage, an old row of another node is no
//! evidence against that node.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::time::Instant;

use super::Ledger;
use crate::clients::aws::AwsError;

/// Start of the time without an outage; `None` before the first answer and during an outage. Clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct Answering(Arc<Mutex<Option<Instant>>>);

impl Answering {
    pub(super) fn answered(&self) {
        self.lock().get_or_insert_with(Instant::now);
    }

    /// Ends the time without an outage. A refusal is no outage: DynamoDB answered this node, and may accept the
    /// requests of others.
    pub(super) fn failed(&self, error: &AwsError) {
        if error.is_retryable() {
            *self.lock() = None;
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ledger {
    /// Returns the time since which every call of this process has been answered; `None` during an outage, and
    /// before the first answer.
    #[must_use]
    pub fn answering_since(&self) -> Option<Instant> {
        *self.answering.lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clients::aws::stub::Stub;
    use crate::clients::ledger::{DepartureRow, DepartureState};
    use crate::common::instance::{Departure, Reason, Role};
    use time::OffsetDateTime;

    #[tokio::test]
    async fn an_outage_of_reads_or_writes_starts_the_time_anew() {
        let stub = Stub::start().await;
        let ledger = Ledger::example(&stub).await;
        let now = OffsetDateTime::UNIX_EPOCH;
        let departure = Departure { reason: Reason::Spot, noticed_at: now, deadline: now };
        let row = DepartureRow::request("i-1", "n1", Role::Worker, &departure, "boot");
        assert_eq!(ledger.answering_since(), None, "no call yet");
        stub.answer(200, "{}");
        ledger.fetch_charter().await.unwrap();
        let first = ledger.answering_since().unwrap();
        stub.answer(400, r#"{"__type": "x#ConditionalCheckFailedException"}"#);
        assert!(!ledger.advance_departure(&row, DepartureState::Left).await.unwrap());
        stub.answer(400, r#"{"__type": "x#AccessDeniedException", "message": "no"}"#);
        ledger.survey_departures().await.unwrap_err();
        assert_eq!(ledger.answering_since(), Some(first), "a refusal is an answer");
        for is_write in [true, false] {
            stub.answer(500, r#"{"__type": "x#InternalServerError"}"#);
            if is_write {
                ledger.advance_departure(&row, DepartureState::Left).await.unwrap_err();
            } else {
                ledger.survey_departures().await.unwrap_err();
            }
            assert_eq!(ledger.answering_since(), None, "an outage");
            stub.answer(200, r#"{"Items": [], "Count": 0}"#);
            ledger.survey_departures().await.unwrap();
            assert!(ledger.answering_since().is_some_and(|since| since > first));
        }
    }
}
