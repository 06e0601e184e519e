//! Reads the items of the metadata that skep polls for notices.

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;
use time::{OffsetDateTime, PrimitiveDateTime};
use tokio::time::Instant;

use super::{Imds, ImdsError, Item, META_DATA};
use crate::common::known_words::words;

const TARGET_STATE: &str = "autoscaling/target-lifecycle-state";
const SPOT_ACTION: &str = "spot/instance-action";
const REBALANCE: &str = "events/recommendations/rebalance";
const MAINTENANCE: &str = "events/maintenance/scheduled";

/// The date format of AWS in scheduled events, always in GMT: `21 Jan 2019 09:00:43 GMT`.
const EVENT_DATE: &[BorrowedFormatItem<'_>] = format_description!(
    "[day padding:none] [month repr:short] [year] [hour]:[minute]:[second] GMT"
);

words! {
    /// The lifecycle state into which Auto Scaling moves the instance. It is the target: the present state is not in
    /// the metadata.
    TargetState {
        Detached = "Detached",
        InService = "InService",
        Standby = "Standby",
        /// Auto Scaling is removing the instance from its group.
        Terminated = "Terminated",
        WarmedHibernated = "Warmed:Hibernated",
        WarmedRunning = "Warmed:Running",
        WarmedStopped = "Warmed:Stopped",
        WarmedTerminated = "Warmed:Terminated",
    }
}

words! {
    /// EC2's action on a spot instance that it reclaims.
    Interruption {
        /// Starts at once, without the warning time of two minutes.
        Hibernate = "hibernate",
        Stop = "stop",
        Terminate = "terminate",
    }
}

words! {
    /// The effect of a scheduled event on the instance.
    MaintenanceCode {
        InstanceStop = "instance-stop",
        InstanceRetirement = "instance-retirement",
        InstanceReboot = "instance-reboot",
        SystemReboot = "system-reboot",
        SystemMaintenance = "system-maintenance",
    }
}

words! {
    /// The state of a scheduled event.
    MaintenanceState {
        Active = "active",
        Completed = "completed",
        Canceled = "canceled",
    }
}

impl TargetState {
    /// Whether Auto Scaling terminates the instance, in its group or in the warm pool.
    #[must_use]
    pub fn is_termination(&self) -> bool {
        matches!(self, Self::Terminated | Self::WarmedTerminated)
    }

    /// Whether the instance is in the warm pool.
    #[must_use]
    pub fn is_pooled(&self) -> bool {
        self.as_str().starts_with("Warmed:")
    }
}

/// A spot interruption notice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpotAction {
    /// What EC2 does with the instance: hibernate, stop or terminate it.
    pub action: Interruption,
    /// The time of the action, about two minutes after the notice appears.
    pub time: OffsetDateTime,
}

/// A scheduled event of EC2.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Maintenance {
    /// EC2's id of the event, such as `instance-event-1`.
    pub event_id: String,
    /// Its effect: only a stop and a retirement end the instance.
    pub code: MaintenanceCode,
    /// Only an active event can still end the instance.
    pub state: MaintenanceState,
    /// EC2's text about the event; empty if there is none.
    pub description: String,
    /// The earliest scheduled start time of the event.
    pub not_before: OffsetDateTime,
    /// `None` if AWS names no end.
    pub not_after: Option<OffsetDateTime>,
}

/// All scheduled events, including past ones: check their state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scheduled {
    /// The entries that can be read, in the order of the metadata.
    pub events: Vec<Maintenance>,
    /// The entries that cannot be read. They do not affect the others.
    pub unreadable: Vec<UnreadableEvent>,
}

/// An entry in the list of scheduled events that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnreadableEvent {
    /// `None` if the entry has no event id.
    pub event_id: Option<String>,
    /// Why it cannot be read, for the log.
    pub problem: String,
}

#[derive(Deserialize)]
struct RawSpotAction {
    action: String,
    #[serde(with = "time::serde::rfc3339")]
    time: OffsetDateTime,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawRebalance {
    #[serde(with = "time::serde::rfc3339")]
    notice_time: OffsetDateTime,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RawMaintenance {
    event_id: String,
    code: String,
    state: String,
    #[serde(default)]
    description: String,
    not_before: String,
    #[serde(default)]
    not_after: Option<String>,
}

impl Imds {
    /// Reads the lifecycle state into which Auto Scaling moves this instance; `None` outside a group and before the
    /// first transition.
    ///
    /// # Errors
    /// See [`ImdsError`]; temporary errors are retried until `deadline`.
    pub async fn fetch_target_lifecycle_state(
        &self,
        deadline: Instant,
    ) -> Result<Option<TargetState>, ImdsError> {
        let text = self.read("reading the target lifecycle state", TARGET_STATE, deadline).await?;
        Ok(text.as_deref().map(str::trim).filter(|text| !text.is_empty()).map(TargetState::from))
    }

    /// Reads the spot interruption notice; `None` while there is none.
    ///
    /// # Errors
    /// See [`ImdsError`].
    pub async fn fetch_spot_action(
        &self,
        deadline: Instant,
    ) -> Result<Option<SpotAction>, ImdsError> {
        let raw: Option<RawSpotAction> =
            self.read_json("reading the spot notice", SPOT_ACTION, deadline).await?;
        Ok(raw.map(|raw| SpotAction { action: raw.action.as_str().into(), time: raw.time }))
    }

    /// Reads the time at which EC2 recommended replacing this spot instance; `None` while it has not.
    ///
    /// # Errors
    /// See [`ImdsError`].
    pub async fn fetch_rebalance(
        &self,
        deadline: Instant,
    ) -> Result<Option<OffsetDateTime>, ImdsError> {
        let raw: Option<RawRebalance> =
            self.read_json("reading the rebalance recommendation", REBALANCE, deadline).await?;
        Ok(raw.map(|raw| raw.notice_time))
    }

    /// Reads the scheduled events; empty if the metadata lists none. An unreadable entry does not affect the others.
    ///
    /// # Errors
    /// See [`ImdsError`]; also when the list as a whole cannot be read.
    pub async fn fetch_scheduled_maintenance(
        &self,
        deadline: Instant,
    ) -> Result<Scheduled, ImdsError> {
        const OPERATION: &str = "reading the scheduled maintenance";
        let entries: Option<Vec<Value>> = self.read_json(OPERATION, MAINTENANCE, deadline).await?;
        let mut scheduled = Scheduled::default();
        for entry in entries.unwrap_or_default() {
            let event_id = entry.get("EventId").and_then(Value::as_str).map(str::to_owned);
            match maintenance(entry) {
                Ok(event) => scheduled.events.push(event),
                Err(problem) => {
                    scheduled.unreadable.push(UnreadableEvent { event_id, problem });
                }
            }
        }
        Ok(scheduled)
    }

    async fn read_json<T: DeserializeOwned>(
        &self,
        operation: &'static str,
        path: &str,
        deadline: Instant,
    ) -> Result<Option<T>, ImdsError> {
        let Some(text) = self.read(operation, path, deadline).await? else { return Ok(None) };
        serde_json::from_str(&text)
            .map(Some)
            .map_err(|error| self.notice(operation, path).malformed(error.to_string()))
    }

    fn notice<'a>(&self, operation: &'static str, path: &'a str) -> Item<'a> {
        Item { operation, path, uri: self.uri(&format!("{META_DATA}{path}")) }
    }
}

fn maintenance(entry: Value) -> Result<Maintenance, String> {
    let raw: RawMaintenance = serde_json::from_value(entry).map_err(|error| error.to_string())?;
    let not_after = raw.not_after.filter(|date| !date.trim().is_empty());
    Ok(Maintenance {
        not_before: event_date(&raw.not_before)?,
        not_after: not_after.as_deref().map(event_date).transpose()?,
        event_id: raw.event_id,
        code: raw.code.as_str().into(),
        state: raw.state.as_str().into(),
        description: raw.description,
    })
}

fn event_date(text: &str) -> Result<OffsetDateTime, String> {
    PrimitiveDateTime::parse(text.trim(), EVENT_DATE)
        .map(PrimitiveDateTime::assume_utc)
        .map_err(|error| format!("cannot parse the date {text:?}: {error}"))
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::super::stub::{Stub, soon};
    use super::*;

    #[tokio::test]
    async fn nothing_is_announced_on_a_quiet_instance() {
        let stub = Stub::start().await;
        let imds = stub.imds();
        assert_eq!(imds.fetch_target_lifecycle_state(soon()).await.unwrap(), None);
        assert_eq!(imds.fetch_spot_action(soon()).await.unwrap(), None);
        assert_eq!(imds.fetch_rebalance(soon()).await.unwrap(), None);
        assert_eq!(imds.fetch_scheduled_maintenance(soon()).await.unwrap(), Scheduled::default());
    }

    #[tokio::test]
    async fn the_target_state_is_known_or_kept_as_it_is() {
        let stub = Stub::start().await;
        let imds = stub.imds();
        for (word, state) in [
            ("InService", TargetState::InService),
            ("Terminated\n", TargetState::Terminated),
            ("Warmed:Stopped", TargetState::WarmedStopped),
            ("Warmed:Elsewhere", TargetState::Unknown("Warmed:Elsewhere".into())),
        ] {
            stub.set(TARGET_STATE, word);
            let read = imds.fetch_target_lifecycle_state(soon()).await.unwrap().unwrap();
            assert_eq!(read, state);
            assert_eq!(read.as_str(), word.trim());
        }
    }

    #[tokio::test]
    async fn a_spot_notice_and_a_recommendation_have_their_times() {
        let stub = Stub::start().await;
        stub.set(SPOT_ACTION, r#"{"action": "terminate", "time": "2026-11-20T08:22:00Z"}"#);
        stub.set(REBALANCE, r#"{"noticeTime": "2026-11-20T08:20:00Z"}"#);
        let imds = stub.imds();
        let spot = imds.fetch_spot_action(soon()).await.unwrap().unwrap();
        let time = datetime!(2026-11-20 08:22 UTC);
        assert_eq!(spot, SpotAction { action: Interruption::Terminate, time });
        let rebalance = imds.fetch_rebalance(soon()).await.unwrap();
        assert_eq!(rebalance, Some(datetime!(2026-11-20 08:20 UTC)));
    }

    #[tokio::test]
    async fn maintenance_may_have_no_end() {
        let stub = Stub::start().await;
        stub.set(
            MAINTENANCE,
            r#"[
            {"NotBefore": "21 Jan 2019 09:00:43 GMT", "Code": "system-reboot",
             "Description": "scheduled reboot", "EventId": "instance-event-1",
             "NotAfter": "21 Jan 2019 09:17:23 GMT", "State": "active"},
            {"NotBefore": "1 Feb 2019 00:00:00 GMT", "Code": "instance-stop",
             "Description": "[Completed] stop", "EventId": "instance-event-2",
             "NotAfter": "", "State": "completed"},
            {"NotBefore": "01 Feb 2019 00:00:00 GMT", "Code": "new-idea",
             "EventId": "instance-event-3", "State": "postponed"}]"#,
        );
        let Scheduled { events, unreadable } =
            stub.imds().fetch_scheduled_maintenance(soon()).await.unwrap();
        assert_eq!(unreadable, []);
        assert_eq!(
            events[0],
            Maintenance {
                event_id: "instance-event-1".into(),
                code: MaintenanceCode::SystemReboot,
                state: MaintenanceState::Active,
                description: "scheduled reboot".into(),
                not_before: datetime!(2019-01-21 09:00:43 UTC),
                not_after: Some(datetime!(2019-01-21 09:17:23 UTC)),
            }
        );
        assert_eq!(events[1].not_before, datetime!(2019-02-01 00:00 UTC));
        assert_eq!(events[1].not_after, None);
        assert_eq!(events[1].state, MaintenanceState::Completed);
        assert_eq!(events[2].not_before, datetime!(2019-02-01 00:00 UTC));
        assert_eq!(events[2].code, MaintenanceCode::Unknown("new-idea".into()));
        assert_eq!(events.len(), 3);
    }

    #[tokio::test]
    async fn nonsense_is_an_error_that_names_its_path() {
        let stub = Stub::start().await;
        let imds = stub.imds();
        stub.set(SPOT_ACTION, "soon");
        let error = imds.fetch_spot_action(soon()).await.unwrap_err();
        assert!(matches!(&error, ImdsError::Malformed { path, .. } if path == SPOT_ACTION));
        stub.set(MAINTENANCE, "{");
        let error = imds.fetch_scheduled_maintenance(soon()).await.unwrap_err();
        assert!(matches!(&error, ImdsError::Malformed { path, .. } if path == MAINTENANCE));
        assert!(error.to_string().contains(MAINTENANCE), "{error}");
    }

    #[tokio::test]
    async fn an_event_that_cannot_be_read_does_not_hide_the_others() {
        let stub = Stub::start().await;
        stub.set(
            MAINTENANCE,
            r#"[{"NotBefore": "whenever", "Code": "x", "EventId": "e-1", "State": "active"},
            {"NotBefore": "1 Feb 2019 00:00:00 GMT", "Code": "instance-stop",
             "EventId": "e-2", "State": "active"}, 7]"#,
        );
        let Scheduled { events, unreadable } =
            stub.imds().fetch_scheduled_maintenance(soon()).await.unwrap();
        let ids: Vec<_> = events.iter().map(|event| event.event_id.as_str()).collect();
        assert_eq!(ids, ["e-2"]);
        let ids: Vec<_> = unreadable.iter().map(|entry| entry.event_id.as_deref()).collect();
        assert_eq!(ids, [Some("e-1"), None]);
        assert!(unreadable[0].problem.contains("whenever"), "{unreadable:?}");
    }
}
