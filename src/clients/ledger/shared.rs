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
