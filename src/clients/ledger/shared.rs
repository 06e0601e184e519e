//! Reads in one request the rows that all nodes of a cluster share and that change while nodes come and go: managers look
//! at them every few seconds, and DynamoDB charges the whole request as one.

use super::charter::{self, Charter};
use super::demotion_request::{DemotionRequest, REQUESTS};
use super::departure::{DEPARTURES, DepartureRow};
use super::member::MEMBERS;
use super::table::{decode, item_of_row};
use super::{Ledger, LedgerError, MemberRows, Rows};

/// The rows of one request.
#[derive(Debug)]
pub struct SharedRows {
    /// `None` if the ledger has none. A charter that cannot be read is an error, and hides no other row.
    pub charter: Result<Option<Charter>, LedgerError>,
    /// As of [`Ledger::survey_managers`].
    pub managers: MemberRows,
    /// As of [`Ledger::survey_departures`].
    pub departures: Rows<DepartureRow>,
    /// The managers that ask to be demoted.
    pub demotion_requests: Rows<DemotionRequest>,
}

impl Ledger {
    /// Reads the charter, the managers, the departures of managers with all stand-ins, and the demotion requests,
    /// consistently.
    ///
    /// # Errors
    /// When DynamoDB fails.
    pub async fn survey_shared(&self) -> Result<SharedRows, LedgerError> {
        // `$` is the character after `#`. The pull credentials, a row for each service, are behind the members.
        let rows = self.query_range(charter::ITEM, "member$").await?;
        let mut shared = SharedRows {
            charter: Ok(None),
            managers: Rows::default(),
            departures: Rows::default(),
            demotion_requests: Rows::default(),
        };
        for row in rows {
            let item = item_of_row(&row);
            let is = |prefix: &str| item.starts_with(prefix);
            if item == charter::ITEM {
                shared.charter = decode(row).map(Some);
            } else if is(MEMBERS) {
                self.sort_into(&mut shared.managers, vec![row]);
            } else if is(DEPARTURES) {
                self.sort_into(&mut shared.departures, vec![row]);
            } else if is(REQUESTS) {
                self.sort_into(&mut shared.demotion_requests, vec![row]);
            }
        }
        Ok(shared)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::clients::aws::stub::Stub;

    #[tokio::test]
    async fn each_row_is_of_its_kind_and_an_unreadable_charter_hides_no_other() {
        let stub = Stub::start().await;
        let ledger = Ledger::example(&stub).await;
        let items = |keys: &[&str]| {
            let rows: Vec<_> = keys
                .iter()
                .map(|key| serde_json::json!({ "item": { "S": key }, "schema": { "N": "2" } }))
                .collect();
            serde_json::json!({ "Items": rows, "Count": rows.len() }).to_string()
        };
        let keys = [
            "charter",
            "demotion-request#i-1",
            "departure#i-2",
            "departure#stand-in#i-3",
            "doctor",
            "history",
            "lease#demotion",
            "member#manager#i-4",
            "member#worker#i-5",
        ];
        stub.answer(200, &items(&keys));
        let shared = ledger.survey_shared().await.unwrap();
        let set = |keys: &[&str]| keys.iter().map(ToString::to_string).collect::<BTreeSet<_>>();
        assert!(shared.charter.is_err());
        assert_eq!(shared.demotion_requests.unreadable, set(&keys[1..2]));
        assert_eq!(shared.departures.unreadable, set(&keys[2..4]));
        assert_eq!(shared.managers.unreadable, set(&keys[7..]));
        stub.answer(200, &items(&[]));
        assert!(matches!(ledger.survey_shared().await.unwrap().charter, Ok(None)));
    }
}
