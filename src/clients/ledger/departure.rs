//! Departures: how a node that cannot drain itself asks the managers to.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::checked::{self, Checked};
use super::table::Condition;
use super::{Ledger, LedgerError, Member, Rows};
use crate::common::instance::{Departure, Reason, Role};

/// A row that was left behind goes after this, so that `skep status` can still tell of it.
const DEPARTURE_TTL: Duration = Duration::from_secs(24 * 3600);

/// One node's wish to leave.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DepartureRow {
    pub instance_id: String,
    pub node_id: String,
    /// What the node was configured as, so that its member row can be found.
    pub role: Role,
    pub reason: Reason,
    pub state: DepartureState,
    #[serde(with = "time::serde::timestamp")]
    pub requested_at: OffsetDateTime,
    #[serde(with = "time::serde::timestamp")]
    pub deadline: OffsetDateTime,
    /// Which start of the machine asked: after another one the wish is void.
    pub boot_id: String,
    /// Another manager has seen that raft no longer knows this one.
    #[serde(default)]
    pub demoted: bool,
    /// The node has seen its departure through: a later start of skep is a new life.
    #[serde(default)]
    pub ended: bool,
    /// Tasks that were killed without their grace, once the node has seen its departure through.
    #[serde(default)]
    pub killed: u64,
    /// Written by a manager for a node whose own skep says nothing: managers do the node's part, too.
    #[serde(default)]
    pub stand_in: bool,
    /// The Auto Scaling group: whoever has left has no other row that names it. `None` where it is not known, or the
    /// row is of a skep that did not write it.
    #[serde(default)]
    pub group: Option<String>,
    /// What the node waits for, in its own words; `None` while it goes on.
    #[serde(default)]
    pub waiting_for: Option<String>,
    #[serde(with = "time::serde::timestamp")]
    expires_at: OffsetDateTime,
}

/// How far it is; only ever forward. The two last are ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DepartureState {
    /// By the node: please drain me.
    Requested,
    /// By a manager: no new tasks come, the present ones are stopping.
    Draining,
    /// By a manager: no task of the node is left.
    Drained,
    /// By the node: it is out of the swarm.
    Left,
    /// By a manager: the node is off the list.
    Removed,
    /// By the node, or by a manager long after the deadline: the deadline came before the node had left. Nobody
    /// drains it any more, and whatever becomes of the node is a new matter.
    Failed,
}

impl DepartureState {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Requested => "requested",
            Self::Draining => "draining",
            Self::Drained => "drained",
            Self::Left => "left",
            Self::Removed => "removed",
            Self::Failed => "failed",
        }
    }

    /// Nobody goes on with it.
    #[must_use]
    pub fn is_over(self) -> bool {
        matches!(self, Self::Removed | Self::Failed)
    }
}

impl DepartureRow {
    /// A fresh request of a node that names no group.
    #[must_use]
    pub fn request(
        instance_id: &str,
        node_id: &str,
        role: Role,
        departure: &Departure,
        boot_id: &str,
    ) -> Self {
        Self {
            instance_id: instance_id.to_owned(),
            node_id: node_id.to_owned(),
            role,
            reason: departure.reason,
            state: DepartureState::Requested,
            requested_at: departure.noticed_at,
            deadline: departure.deadline,
            boot_id: boot_id.to_owned(),
            demoted: false,
            ended: false,
            killed: 0,
            stand_in: false,
            group: None,
            waiting_for: None,
            expires_at: departure.deadline.max(departure.noticed_at) + DEPARTURE_TTL,
        }
    }

    /// A request on behalf of a member. It names no start of the machine, so that the node's own request
    /// takes its place.
    #[must_use]
    pub fn stand_in(member: &Member, now: OffsetDateTime, longest: Duration) -> Self {
        let departure =
            Departure { reason: Reason::Lifecycle, noticed_at: now, deadline: now + longest };
        let Member { instance_id, node_id, role, group, .. } = member;
        let request = Self::request(instance_id, node_id, *role, &departure, "");
        Self { stand_in: true, group: group.clone(), ..request }
    }

    /// The notice that led to this row.
    #[must_use]
    pub fn departure(&self) -> Departure {
        Departure { reason: self.reason, noticed_at: self.requested_at, deadline: self.deadline }
    }
}

impl Checked for DepartureRow {
    fn check(&self) -> Result<(), String> {
        checked::instance("instance_id", &self.instance_id)?;
        checked::docker_id("node_id", &self.node_id)?;
        self.group.as_ref().map_or(Ok(()), |group| checked::name("group", group))?;
        checked::moment("requested_at", self.requested_at)?;
        checked::moment("deadline", self.deadline)?;
        checked::moment("expires_at", self.expires_at)
    }
}

impl Ledger {
    fn departure_item(instance_id: &str) -> String {
        format!("departure#{instance_id}")
    }

    /// Asks the managers to drain this node. A request that is under way for the same node and
    /// start of the machine stands as it is: asking twice is asking once.
    ///
    /// # Errors
    /// When DynamoDB fails.
    pub async fn request_departure(&self, row: &DepartureRow) -> Result<(), LedgerError> {
        let condition = Condition::new(
            "attribute_not_exists(#item) OR #boot_id <> :boot OR #node_id <> :node OR #state = :removed OR #state = :failed",
        )
        .text("boot", &row.boot_id)
        .text("node", &row.node_id)
        .text("removed", DepartureState::Removed.as_str())
        .text("failed", DepartureState::Failed.as_str());
        let item = Self::departure_item(&row.instance_id);
        self.nodes().put(&item, row, condition).await.map(drop)
    }

    /// Writes a request on behalf of a node, unless there is one of any kind for the same node that has not
    /// failed: what the node says of itself comes first. `false` where there is.
    ///
    /// # Errors
    /// When DynamoDB fails.
    pub async fn stand_in_for(&self, row: &DepartureRow) -> Result<bool, LedgerError> {
        let condition =
            Condition::new("attribute_not_exists(#item) OR #node_id <> :node OR #state = :failed")
                .text("node", &row.node_id)
                .text("failed", DepartureState::Failed.as_str());
        self.nodes().put(&Self::departure_item(&row.instance_id), row, condition).await
    }

    /// One node's departure, consistently.
    ///
    /// # Errors
    /// When DynamoDB fails.
    pub async fn fetch_departure(
        &self,
        instance_id: &str,
    ) -> Result<Option<DepartureRow>, LedgerError> {
        self.nodes().get(&Self::departure_item(instance_id)).await
    }

    /// All departures of the cluster, ended ones included, and which cannot be read.
    ///
    /// # Errors
    /// When DynamoDB fails.
    pub async fn survey_departures(&self) -> Result<Rows<DepartureRow>, LedgerError> {
        self.nodes()
            .query_all("departure#", |row: &DepartureRow| Self::departure_item(&row.instance_id))
            .await
    }

    /// Takes a departure from the state that was seen to the next. `false` when somebody else has, or where
    /// another departure has taken its place: what a node says of itself takes that of a row of managers.
    ///
    /// # Errors
    /// When DynamoDB fails.
    pub async fn advance_departure(
        &self,
        seen: &DepartureRow,
        to: DepartureState,
    ) -> Result<bool, LedgerError> {
        let condition = Condition::new("#state = :from AND #node_id = :node AND #boot_id = :boot")
            .text("from", seen.state.as_str())
            .text("node", &seen.node_id)
            .text("boot", &seen.boot_id)
            .text("to", to.as_str());
        let item = Self::departure_item(&seen.instance_id);
        self.nodes().set(&item, "SET #state = :to", condition).await
    }

    /// Says what the departing node waits for, or that it waits no more. A row of another departure
    /// stays as it is.
    ///
    /// # Errors
    /// When DynamoDB fails.
    pub async fn note_wait(
        &self,
        seen: &DepartureRow,
        waiting_for: Option<&str>,
    ) -> Result<(), LedgerError> {
        let condition = Condition::new("#node_id = :node AND #boot_id = :boot")
            .text("node", &seen.node_id)
            .text("boot", &seen.boot_id);
        let (update, condition) = match waiting_for {
            Some(why) => ("SET #waiting_for = :why", condition.text("why", why)),
            None => ("REMOVE #waiting_for", condition),
        };
        let item = Self::departure_item(&seen.instance_id);
        self.nodes().set(&item, update, condition).await.map(drop)
    }

    /// Another manager's word that raft no longer knows this node.
    ///
    /// # Errors
    /// When DynamoDB fails.
    pub async fn confirm_demotion(&self, seen: &DepartureRow) -> Result<bool, LedgerError> {
        let condition = Condition::new("#node_id = :node AND attribute_exists(#item)")
            .text("node", &seen.node_id)
            .flag("yes", true);
        let item = Self::departure_item(&seen.instance_id);
        self.nodes().set(&item, "SET #demoted = :yes", condition).await
    }

    /// The node's own last word: it has seen its departure through, in which so many tasks were killed. One that
    /// has failed is over with that.
    ///
    /// # Errors
    /// When DynamoDB fails.
    pub async fn end_departure(
        &self,
        instance_id: &str,
        boot_id: &str,
        killed: usize,
        has_failed: bool,
    ) -> Result<(), LedgerError> {
        let item = Self::departure_item(instance_id);
        let end = |condition: &'static str| {
            let condition = Condition::new(condition).text("boot", boot_id).flag("yes", true);
            condition.number("killed", killed)
        };
        if has_failed {
            // A node that is out is taken off the list, however late it was.
            let condition = end("#boot_id = :boot AND #state <> :left AND #state <> :removed")
                .text("left", DepartureState::Left.as_str())
                .text("removed", DepartureState::Removed.as_str())
                .text("failed", DepartureState::Failed.as_str());
            let update = "SET #ended = :yes, #killed = :killed, #state = :failed";
            if self.nodes().set(&item, update, condition).await? {
                return Ok(());
            }
        }
        let update = "SET #ended = :yes, #killed = :killed";
        self.nodes().set(&item, update, end("#boot_id = :boot")).await.map(drop)
    }

    /// Takes a departure of this node back, unless it is out by now. `false` where it is, or where the
    /// row is another departure's.
    ///
    /// # Errors
    /// When DynamoDB fails.
    pub async fn take_departure_back(&self, seen: &DepartureRow) -> Result<bool, LedgerError> {
        let condition = Condition::new(
            "#node_id = :node AND #boot_id = :boot AND #state <> :left AND #state <> :removed",
        )
        .text("node", &seen.node_id)
        .text("boot", &seen.boot_id)
        .text("left", DepartureState::Left.as_str())
        .text("removed", DepartureState::Removed.as_str());
        self.nodes().delete(&Self::departure_item(&seen.instance_id), condition).await
    }

    /// Forgets a departure that is over; one that has begun anew meanwhile stays.
    ///
    /// # Errors
    /// When DynamoDB fails.
    pub async fn forget_departure(&self, seen: &DepartureRow) -> Result<(), LedgerError> {
        let condition =
            Condition::new("(#state = :removed OR #state = :failed) AND #node_id = :node")
                .text("removed", DepartureState::Removed.as_str())
                .text("failed", DepartureState::Failed.as_str())
                .text("node", &seen.node_id);
        self.nodes().delete(&Self::departure_item(&seen.instance_id), condition).await.map(drop)
    }

    /// Deletes a departure, as when the machine has started anew.
    ///
    /// # Errors
    /// When DynamoDB fails.
    pub async fn delete_departure(&self, instance_id: &str) -> Result<(), LedgerError> {
        self.nodes()
            .delete(&Self::departure_item(instance_id), Condition::default())
            .await
            .map(drop)
    }
}
