//! Departures: the rows with which nodes ask the managers to drain them, and which record the progress.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::record::{self, Record};
use super::table::Condition;
use super::{Ledger, LedgerError, Rows, Traffic, TurnFor};
use crate::common::instance::{Departure, Reason, Role};
use crate::common::printable::printable;

/// Start of the rows' sort keys.
pub(super) const DEPARTURES: &str = "departure#";
/// How long after the deadline a row that no node deletes expires; until then `skep status` shows it.
const DEPARTURE_TTL: Duration = Duration::from_secs(24 * 3600);

/// Number of characters of a boot id, which is a UUID.
const LONGEST_BOOT_ID: usize = 64;
/// Number of characters of the reason why a node waits.
pub(super) const LONGEST_WAIT: usize = 1000;

/// One node's departure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DepartureRow {
    /// Instance id of the node that leaves; part of the row's key.
    pub instance_id: String,
    /// Docker's id of the node that leaves.
    pub node_id: String,
    /// The node's configured role, which is part of the key of its member row.
    pub role: Role,
    /// Why the node leaves; `lifecycle` in a stand-in.
    pub reason: Reason,
    /// The progress, which the node and the managers record in turn.
    pub state: DepartureState,
    /// Time of the notice; in a stand-in, time when the manager wrote the row.
    #[serde(with = "time::serde::timestamp")]
    pub requested_at: OffsetDateTime,
    /// Time when the machine ends, whatever the node has finished by then.
    #[serde(with = "time::serde::timestamp")]
    pub deadline: OffsetDateTime,
    /// The start of the machine in which the row was written: after another start the row is void.
    pub boot_id: String,
    /// Another manager has confirmed that raft no longer lists this one.
    #[serde(default)]
    pub demoted: bool,
    /// The node has finished its departure: a later start of skep boots again instead of continuing it.
    #[serde(default)]
    pub ended: bool,
    /// Number of tasks that were killed without their grace, once the node has finished its departure.
    #[serde(default)]
    pub killed: u64,
    /// A manager wrote the row for a node whose own skep does not answer: managers do the node's part, too. Part of the
    /// key.
    #[serde(default)]
    pub stand_in: bool,
    /// The Auto Scaling group: after the node has left, no other row names it. `None` if it is unknown, or if a skep
    /// without this field wrote the row.
    #[serde(default)]
    pub group: Option<String>,
    /// The reason why the node waits, as text from the node; `None` while it makes progress.
    #[serde(default)]
    pub waiting_for: Option<String>,
    /// Set by the node: it may still receive traffic, and must not be drained before this time. `None` once its traffic
    /// has ended, and from a skep without this field.
    #[serde(default, with = "time::serde::timestamp::option")]
    pub hold_until: Option<OffsetDateTime>,
    /// Set by a manager; `None` until one has found out.
    #[serde(default)]
    pub traffic: Option<Traffic>,
    /// Set by a manager: the node waits for its turn to be drained, until then at the latest.
    #[serde(default, with = "time::serde::timestamp::option")]
    pub turn_by: Option<OffsetDateTime>,
    /// Set by a manager with `turn_by`: what is waited for, as text.
    #[serde(default)]
    pub turn_after: Option<String>,
    /// Set by a manager with `turn_by`.
    #[serde(default)]
    pub turn_for: TurnFor,
    /// Time when DynamoDB may delete the row.
    #[serde(with = "time::serde::timestamp")]
    pub expires_at: OffsetDateTime,
}

/// The progress of a departure, which only moves forward. The last two states are final.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DepartureState {
    /// Set by the node: it asks to be drained.
    Requested,
    /// Set by a manager: the node gets no new tasks, and the present ones are stopping.
    Draining,
    /// Set by a manager: the node has no tasks left.
    Drained,
    /// Set by the node: it has left the swarm.
    Left,
    /// Set by a manager: the node is removed from the node list.
    Removed,
    /// Set by the node, or by a manager long after the deadline: the deadline passed before the node had left. No
    /// manager drains the node any more, and a later departure of it is a new one.
    Failed,
}

impl DepartureState {
    /// Returns the state in one word, as the row stores it.
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

    /// Whether the departure is over: neither the node nor a manager continues it.
    #[must_use]
    pub fn is_over(self) -> bool {
        matches!(self, Self::Removed | Self::Failed)
    }
}

impl DepartureRow {
    /// Returns a new request of a node, without a group.
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
            hold_until: None,
            traffic: None,
            turn_by: None,
            turn_after: None,
            turn_for: TurnFor::Others,
            expires_at: departure.deadline.max(departure.noticed_at) + DEPARTURE_TTL,
        }
    }

    /// Returns a request of a manager for a node, without a group. Its deadline is `longest` after `now`.
    #[must_use]
    pub fn stand_in(
        instance_id: &str,
        node_id: &str,
        role: Role,
        now: OffsetDateTime,
        longest: Duration,
    ) -> Self {
        let departure =
            Departure { reason: Reason::Lifecycle, noticed_at: now, deadline: now + longest };
        Self { stand_in: true, ..Self::request(instance_id, node_id, role, &departure, "") }
    }

    /// Returns the notice that caused this departure.
    #[must_use]
    pub fn departure(&self) -> Departure {
        Departure { reason: self.reason, noticed_at: self.requested_at, deadline: self.deadline }
    }
}

impl Record for DepartureRow {
    fn check(&self) -> Result<(), String> {
        record::instance("instance_id", &self.instance_id)?;
        record::docker_id("node_id", &self.node_id)?;
        self.group.as_ref().map_or(Ok(()), |group| record::name("group", group))?;
        record::text("boot_id", &self.boot_id, LONGEST_BOOT_ID)?;
        if let Some(why) = &self.waiting_for {
            record::text("waiting_for", why, LONGEST_WAIT)?;
        }
        if let Some(what) = &self.turn_after {
            record::text("turn_after", what, LONGEST_WAIT)?;
        }
        for (attribute, at) in [("hold_until", self.hold_until), ("turn_by", self.turn_by)] {
            at.map_or(Ok(()), |at| record::near(attribute, at))?;
        }
        record::near("requested_at", self.requested_at)?;
        record::near("deadline", self.deadline)?;
        record::moment("expires_at", self.expires_at)
    }

    fn item(&self) -> Option<String> {
        Some(Ledger::departure_item(self.stand_in, &self.instance_id))
    }

    fn may_be_workers(&self) -> bool {
        self.role == Role::Worker && !self.stand_in
    }
}

impl Ledger {
    /// A stand-in has a key of its own, in the partition of the cluster, where no worker can write it.
    pub(super) fn departure_item(is_stand_in: bool, instance_id: &str) -> String {
        let kind = if is_stand_in { "stand-in#" } else { "" };
        format!("{DEPARTURES}{kind}{instance_id}")
    }

    /// Returns the partition of a departure.
    pub(super) fn departures_of(&self, row: &DepartureRow) -> Self {
        match row.stand_in {
            true => self.clone(),
            false => self.own_rows(row.role, &row.instance_id),
        }
    }

    /// Asks the managers to drain this node. A departure that is under way for the same node and start of the machine
    /// stays unchanged, so that a second request has no effect.
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
        let item = Self::departure_item(false, &row.instance_id);
        self.departures_of(row).put(&item, row, condition).await.map(drop)
    }

    /// Writes a stand-in for a node, unless there is one that has not failed. The caller has found that the node itself
    /// has no departure; managers give a node's own row priority. `false` if one exists.
    ///
    /// # Errors
    /// When DynamoDB fails.
    pub async fn stand_in_for(&self, row: &DepartureRow) -> Result<bool, LedgerError> {
        let condition =
            Condition::new("attribute_not_exists(#item) OR #node_id <> :node OR #state = :failed")
                .text("node", &row.node_id)
                .text("failed", DepartureState::Failed.as_str());
        self.put(&Self::departure_item(true, &row.instance_id), row, condition).await
    }

    /// Reads the departure that a node has requested itself, consistently.
    ///
    /// # Errors
    /// When DynamoDB fails.
    pub async fn fetch_departure(
        &self,
        role: Role,
        instance_id: &str,
    ) -> Result<Option<DepartureRow>, LedgerError> {
        let item = Self::departure_item(false, instance_id);
        self.own_rows(role, instance_id).get(&item).await
    }

    /// Reads a departure again, consistently: the node's own request, or the managers' stand-in.
    ///
    /// # Errors
    /// When DynamoDB fails.
    pub async fn fetch_departure_again(
        &self,
        seen: &DepartureRow,
    ) -> Result<Option<DepartureRow>, LedgerError> {
        match seen.stand_in {
            true => self.get(&Self::departure_item(true, &seen.instance_id)).await,
            false => self.fetch_departure(seen.role, &seen.instance_id).await,
        }
    }

    /// Returns whether a departure of this node is under way, requested by the node itself or by managers in its place.
    /// Workers may read both.
    ///
    /// # Errors
    /// When DynamoDB fails.
    pub async fn is_leaving(
        &self,
        role: Role,
        instance_id: &str,
        node_id: &str,
    ) -> Result<bool, LedgerError> {
        let stand_in = Self::departure_item(true, instance_id);
        let (own, stand_in) = tokio::try_join!(
            self.fetch_departure(role, instance_id),
            self.get::<DepartureRow>(&stand_in)
        )?;
        let is_under_way =
            |row: DepartureRow| row.node_id == node_id && row.state < DepartureState::Removed;
        Ok(own.is_some_and(is_under_way) || stand_in.is_some_and(is_under_way))
    }

    /// Reads the departures of managers and all stand-ins, including those that are over, and the keys of those that
    /// cannot be read.
    ///
    /// # Errors
    /// When DynamoDB fails.
    pub async fn survey_departures(&self) -> Result<Rows<DepartureRow>, LedgerError> {
        self.query(DEPARTURES).await
    }

    /// Reads the departures that these workers have requested themselves. An instance without one is absent from the
    /// result.
    ///
    /// # Errors
    /// When DynamoDB fails.
    pub async fn fetch_workers_departures<'a>(
        &self,
        instances: impl IntoIterator<Item = &'a String>,
    ) -> Result<Rows<DepartureRow>, LedgerError> {
        let key = |id: &String| (self.workers_partition(id), Self::departure_item(false, id));
        self.get_many(instances.into_iter().map(key).collect()).await
    }

    /// Moves a departure from the state that was seen to another state. `false` if another node has moved it, or if
    /// another departure has replaced it, such as a later request of the same instance.
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
        let item = Self::departure_item(seen.stand_in, &seen.instance_id);
        self.departures_of(seen).set(&item, "SET #state = :to", condition).await
    }

    /// Records what the departing node waits for, or that it no longer waits. A row of another departure stays
    /// unchanged.
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
            Some(why) => {
                let why = printable(why, LONGEST_WAIT - 1);
                ("SET #waiting_for = :why", condition.text("why", why))
            }
            None => ("REMOVE #waiting_for", condition),
        };
        let item = Self::departure_item(seen.stand_in, &seen.instance_id);
        self.departures_of(seen).set(&item, update, condition).await.map(drop)
    }

    /// Records that another manager has confirmed that raft no longer lists this node.
    ///
    /// # Errors
    /// When DynamoDB fails.
    pub async fn confirm_demotion(&self, seen: &DepartureRow) -> Result<bool, LedgerError> {
        let condition = Condition::new("#node_id = :node AND attribute_exists(#item)")
            .text("node", &seen.node_id)
            .flag("yes", true);
        let item = Self::departure_item(seen.stand_in, &seen.instance_id);
        self.departures_of(seen).set(&item, "SET #demoted = :yes", condition).await
    }

    /// Records, as the node's last write, that it has finished its departure, and how many tasks were killed. A failed
    /// departure is over with this write.
    ///
    /// # Errors
    /// When DynamoDB fails.
    pub async fn end_departure(
        &self,
        role: Role,
        instance_id: &str,
        boot_id: &str,
        killed: usize,
        has_failed: bool,
    ) -> Result<(), LedgerError> {
        let (rows, item) =
            (self.own_rows(role, instance_id), Self::departure_item(false, instance_id));
        let end = |condition: &'static str| {
            let condition = Condition::new(condition).text("boot", boot_id).flag("yes", true);
            condition.number("killed", killed)
        };
        if has_failed {
            // Not over `left`: managers must still remove a node from the node list if it left after its deadline.
            let condition = end("#boot_id = :boot AND #state <> :left AND #state <> :removed")
                .text("left", DepartureState::Left.as_str())
                .text("removed", DepartureState::Removed.as_str())
                .text("failed", DepartureState::Failed.as_str());
            let update = "SET #ended = :yes, #killed = :killed, #state = :failed";
            if rows.set(&item, update, condition).await? {
                return Ok(());
            }
        }
        let update = "SET #ended = :yes, #killed = :killed";
        rows.set(&item, update, end("#boot_id = :boot")).await.map(drop)
    }

    /// Deletes the departure of this node because the node stays, unless it has left by now. `false` if it has left,
    /// or if the row is another departure's.
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
        let item = Self::departure_item(false, &seen.instance_id);
        self.departures_of(seen).delete(&item, condition).await
    }

    /// Deletes a departure that is over; one that has started again since stays.
    ///
    /// # Errors
    /// When DynamoDB fails.
    pub async fn forget_departure(&self, seen: &DepartureRow) -> Result<(), LedgerError> {
        let condition =
            Condition::new("(#state = :removed OR #state = :failed) AND #node_id = :node")
                .text("removed", DepartureState::Removed.as_str())
                .text("failed", DepartureState::Failed.as_str())
                .text("node", &seen.node_id);
        let item = Self::departure_item(seen.stand_in, &seen.instance_id);
        self.departures_of(seen).delete(&item, condition).await.map(drop)
    }

    /// Deletes a stand-in for a node that has requested its departure itself.
    ///
    /// # Errors
    /// When DynamoDB fails.
    pub async fn withdraw_stand_in(&self, seen: &DepartureRow) -> Result<(), LedgerError> {
        let condition = Condition::new("#node_id = :node").text("node", &seen.node_id);
        self.delete(&Self::departure_item(true, &seen.instance_id), condition).await.map(drop)
    }

    /// Deletes a departure in any state, such as one of an earlier start of the machine.
    ///
    /// # Errors
    /// When DynamoDB fails.
    pub async fn delete_departure(&self, role: Role, instance_id: &str) -> Result<(), LedgerError> {
        let item = Self::departure_item(false, instance_id);
        self.own_rows(role, instance_id).delete(&item, Condition::default()).await.map(drop)
    }
}
