//! Defines the running skep's report as the commands read it, and the texts that they share.

use std::net::IpAddr;
use std::time::Duration;

use serde::Deserialize;
use time::OffsetDateTime;

use crate::common::flush_result;
use crate::common::instance::{Departure, Role, SchedulingHold};
use crate::common::outcome::Outcome;
use crate::common::state::{Phase, Progress, in_utc};

/// The shown part of the running skep's [`NodeState`](crate::common::state::NodeState).
#[derive(Debug, Deserialize)]
pub(super) struct Node {
    pub(super) phase: Phase,
    #[serde(with = "time::serde::rfc3339")]
    pub(super) since: OffsetDateTime,
    pub(super) doing: String,
    pub(super) instance: Option<Instance>,
    pub(super) cluster: Option<String>,
    pub(super) role: Option<Role>,
    pub(super) membership: Option<Membership>,
    pub(super) departure: Option<Departure>,
    /// Older versions of skep do not send it.
    #[serde(default)]
    pub(super) failed_departure: Option<String>,
    #[serde(default)]
    pub(super) why: Option<String>,
    #[serde(default)]
    pub(super) progress: Option<Progress>,
    /// Older versions of skep do not send it.
    #[serde(default)]
    pub(super) scheduling_hold: Option<SchedulingHold>,
    /// Older versions of skep do not send it.
    #[serde(default)]
    pub(super) is_detached: bool,
    /// Older versions of skep do not send it.
    #[serde(default)]
    pub(super) flush: Vec<flush_result::Outcome>,
    /// Older versions of skep do not send it.
    #[serde(default)]
    pub(super) trouble: Option<String>,
    #[serde(default)]
    pub(super) outcome: Option<Outcome>,
    #[serde(default)]
    pub(super) killed: Vec<String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Instance {
    pub(super) id: String,
    pub(super) instance_type: String,
    pub(super) zone: String,
    pub(super) private_address: IpAddr,
    #[serde(default)]
    pub(super) group: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Membership {
    pub(super) node_id: String,
    pub(super) generation: u64,
    pub(super) role: Role,
}

impl Node {
    /// Whether the node is a manager by Docker's answer, or by its configured role if it is not a member.
    pub(super) fn is_manager(&self) -> bool {
        let role = self.membership.as_ref().map(|member| member.role).or(self.role);
        role == Some(Role::Manager)
    }

    /// Whether the node is leaving or has left.
    pub(super) fn is_leaving(&self) -> bool {
        self.departure.is_some() || matches!(self.phase, Phase::Leaving | Phase::Left)
    }

    /// Returns the instance and its Auto Scaling group, if they are known.
    pub(super) fn place(&self) -> Option<(&str, Option<&str>)> {
        let instance = self.instance.as_ref()?;
        Some((&instance.id, instance.group.as_deref()))
    }
}

pub(super) fn leaving(departure: &Departure, now: OffsetDateTime) -> String {
    let left = departure.deadline - now;
    let when = if left.is_positive() {
        format!("must be gone in {}", span(left))
    } else {
        format!("overdue by {}", span(-left))
    };
    let noticed = span(now - departure.noticed_at);
    format!("{} notice {noticed} ago; {when}, at {}", departure.reason, in_utc(departure.deadline))
}

/// Formats a duration like `2h 5m`: at most the two largest units, and no fractions of a second.
pub(super) fn span(duration: time::Duration) -> String {
    let seconds = Duration::from_secs(duration.whole_seconds().max(0).unsigned_abs());
    let text = humantime::format_duration(seconds).to_string();
    text.split(' ').take(2).collect::<Vec<_>>().join(" ")
}
