//! What is told: the event, and whose it is.

use serde::Serialize;
use time::OffsetDateTime;

use crate::common::event::Event;
use crate::common::instance::{Reason, Role};
use crate::common::state::NodeState;

/// One event as it is told: on a hook's standard input, and as the webhook's body.
#[derive(Clone, Debug, Serialize)]
pub struct Message {
    /// The same in every attempt to deliver it; 32 hexadecimal digits.
    pub id: String,
    pub event: Event,
    #[serde(with = "time::serde::rfc3339")]
    pub time: OffsetDateTime,
    pub cluster: Option<String>,
    pub instance_id: Option<String>,
    /// Docker's.
    pub node_id: Option<String>,
    pub role: Option<Role>,
    pub zone: Option<String>,
    pub generation: Option<u64>,
    /// Why it leaves.
    pub reason: Option<Reason>,
    #[serde(with = "time::serde::rfc3339::option")]
    pub deadline: Option<OffsetDateTime>,
    /// How it ended, in words: for people, not for programs.
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

    /// As JSON, in one line.
    #[must_use]
    pub fn json(&self) -> String {
        serde_json::to_string(self).expect("every field can be written")
    }
}
