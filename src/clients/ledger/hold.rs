//! What keeps a departing node from being drained: traffic that it may still receive, and departures before its own.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::departure::LONGEST_WAIT;
use super::table::Condition;
use super::{DepartureRow, DepartureState, Ledger, LedgerError};
use crate::common::printable::printable;

/// Whether a load balancer may send requests to a departing node, as a manager has found out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Traffic {
    /// Its group has no load balancer, or the swarm publishes no port.
    None,
    /// Its group has a load balancer, and the swarm publishes ports.
    Balanced,
    /// The same, and the group replaces an instance that its load balancer calls unhealthy (health check type `ELB`).
    Replacing,
}

/// What a departing node waits for that must not be drained yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TurnFor {
    /// Departures before its own. The leader decides.
    #[default]
    Others,
    /// Its own tasks, which must run elsewhere first. Every manager sees when they do.
    OwnTasks,
}

impl DepartureRow {
    /// Whether the node may still receive traffic, so that it must not be drained.
    #[must_use]
    pub fn is_held(&self, now: OffsetDateTime) -> bool {
        self.traffic != Some(Traffic::None) && self.hold_until.is_some_and(|until| now < until)
    }

    /// Whether the node waits for its turn to be drained.
    #[must_use]
    pub fn awaits_turn(&self, now: OffsetDateTime) -> bool {
        self.state == DepartureState::Requested && self.turn_by.is_some_and(|by| now < by)
    }
}

impl Ledger {
    /// Records whether the departing node receives traffic. `false` if the departure is not the one that was seen, or is
    /// past its request.
    ///
    /// # Errors
    /// When DynamoDB fails.
    pub async fn note_traffic(
        &self,
        seen: &DepartureRow,
        traffic: Traffic,
    ) -> Result<bool, LedgerError> {
        let traffic = match traffic {
            Traffic::None => "none",
            Traffic::Balanced => "balanced",
            Traffic::Replacing => "replacing",
        };
        let condition = as_requested(seen).text("traffic", traffic);
        self.note(seen, "SET #traffic = :traffic", condition).await
    }

    /// Records that the departing node waits for its turn to be drained, at most until `by`. `false` as for
    /// [`Self::note_traffic`].
    ///
    /// # Errors
    /// When DynamoDB fails.
    pub async fn note_turn(
        &self,
        seen: &DepartureRow,
        by: OffsetDateTime,
        after: &str,
        turn_for: TurnFor,
    ) -> Result<bool, LedgerError> {
        let turn_for = match turn_for {
            TurnFor::Others => "others",
            TurnFor::OwnTasks => "own-tasks",
        };
        let condition = as_requested(seen)
            .number("by", by.unix_timestamp())
            .text("after", printable(after, LONGEST_WAIT - 1))
            .text("for", turn_for);
        let update = "SET #turn_by = :by, #turn_after = :after, #turn_for = :for";
        self.note(seen, update, condition).await
    }

    /// Records that the node's own traffic has ended: managers may drain it. `false` if the departure is another one.
    ///
    /// # Errors
    /// When DynamoDB fails.
    pub async fn end_hold(&self, seen: &DepartureRow) -> Result<bool, LedgerError> {
        let condition = Condition::new("#node_id = :node AND #boot_id = :boot")
            .text("node", &seen.node_id)
            .text("boot", &seen.boot_id);
        self.note(seen, "REMOVE #hold_until", condition).await
    }

    async fn note(
        &self,
        seen: &DepartureRow,
        update: &str,
        condition: Condition,
    ) -> Result<bool, LedgerError> {
        let item = Self::departure_item(seen.stand_in, &seen.instance_id);
        self.departures_of(seen).set(&item, update, condition).await
    }
}

fn as_requested(seen: &DepartureRow) -> Condition {
    Condition::new("#state = :requested AND #node_id = :node AND #boot_id = :boot")
        .text("requested", DepartureState::Requested.as_str())
        .text("node", &seen.node_id)
        .text("boot", &seen.boot_id)
}
