//! The content of a notification: the event and its node.

use serde::Serialize;
use time::OffsetDateTime;

use crate::common::event::Event;
use crate::common::instance::{Reason, Role};
use crate::common::state::NodeState;

/// One event, as a hook script reads it on its standard input and the webhook receives it as the body.
#[derive(Clone, Debug, Serialize)]
pub struct Message {
    /// Id of the event, the same in every attempt of delivery; 32 hexadecimal digits.
    pub id: String,
    /// What has happened to the node; a word such as `joined` in the JSON.
    pub event: Event,
    /// Time of the event.
    #[serde(with = "time::serde::rfc3339")]
    pub time: OffsetDateTime,
    /// Name of the cluster; `None` if skep has not read it yet.
    pub cluster: Option<String>,
    /// Instance id, such as `i-0abc`; `None` before the metadata has answered.
    pub instance_id: Option<String>,
    /// Docker's id.
    pub node_id: Option<String>,
    /// Configured role; `None` if skep has not read it yet.
    pub role: Option<Role>,
    /// Availability zone; `None` before the metadata has answered.
    pub zone: Option<String>,
    /// The charter's generation; `None` while the node has no valid membership, as for `node_id`.
    pub generation: Option<u64>,
    /// Why the node leaves.
    pub reason: Option<Reason>,
    /// Time when the machine ends; `None` if the node has no notice.
    #[serde(with = "time::serde::rfc3339::option")]
    pub deadline: Option<OffsetDateTime>,
    /// The outcome, in words: for people, not for programs.
    pub outcome: Option<String>,
}

impl Message {
    pub(super) fn new(event: Event, state: &NodeState, outcome: Option<&str>) -> Self {
        let membership = state.membership.as_ref();
        let instance = state.instance.as_ref();
        let departure = state.departure.as_ref();
        Self {
            id: format!("{:032x}", fastrand::u128(..)),
            event,
            time: OffsetDateTime::now_utc(),
            cluster: state.cluster.clone(),
            instance_id: instance.map(|instance| instance.id.clone()),
            node_id: membership.map(|membership| membership.node_id.clone()),
            role: state.role,
            zone: instance.map(|instance| instance.zone.clone()),
            generation: membership.map(|membership| membership.generation),
            reason: departure.map(|departure| departure.reason),
            deadline: departure.map(|departure| departure.deadline),
            outcome: outcome.map(str::to_owned),
        }
    }

    /// Returns the message as JSON, in one line.
    #[must_use]
    #[expect(clippy::expect_used, reason = "every field is text or a time")]
    pub fn json(&self) -> String {
        serde_json::to_string(self).expect("every field can be written")
    }
}
