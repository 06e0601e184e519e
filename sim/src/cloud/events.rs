//! The cloud's events: tests wait for them, and the demo shows them.

use std::sync::Mutex;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use tokio::sync::broadcast;

use super::autoscaling::{ActionResult, AlarmState, LifecycleState, RefreshStatus, Transition};
use super::elb::TargetState;

/// Number of events by which a subscriber can be late without losing any.
const SUBSCRIBER_BUFFER: usize = 16_384;
/// Number of events kept for `/_sim/events`: a boot of 1,000 nodes makes about ten per node.
const HISTORY: usize = 100_000;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CloudEvent {
    /// By the cloud's clock.
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
    #[serde(flatten)]
    pub kind: EventKind,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event")]
pub enum EventKind {
    InstanceLaunched {
        instance_id: String,
        group: String,
        zone: String,
        address: std::net::Ipv4Addr,
    },
    LifecycleChanged {
        instance_id: String,
        group: String,
        from: LifecycleState,
        to: LifecycleState,
    },
    HookStarted {
        instance_id: String,
        hook: String,
        transition: Transition,
        /// Whole milliseconds until the hook times out without a heartbeat.
        heartbeat_timeout_ms: u64,
    },
    Heartbeat {
        instance_id: String,
        hook: String,
    },
    HookCompleted {
        instance_id: String,
        hook: String,
        result: ActionResult,
    },
    HookTimedOut {
        instance_id: String,
        hook: String,
        default_result: ActionResult,
    },
    /// A new instance replaces one that left while the desired capacity did not decrease.
    Replaced {
        group: String,
        old: String,
        new: String,
    },
    DesiredCapacity {
        group: String,
        from: u32,
        to: u32,
    },
    /// An alarm of a scaling policy has changed its state.
    ScalingAlarm {
        group: String,
        policy: String,
        /// Whether it watches for values above the target.
        is_high: bool,
        state: AlarmState,
    },
    /// The status of an instance refresh has changed.
    InstanceRefresh {
        group: String,
        refresh: String,
        status: RefreshStatus,
        reason: Option<String>,
    },
    Unhealthy {
        instance_id: String,
    },
    /// The state of a target in a target group has changed.
    TargetHealth {
        /// The instance's id, or the address of a target that is none.
        instance_id: String,
        /// The name of the target group.
        target_group: String,
        from: TargetState,
        to: TargetState,
    },
    SpotNotice {
        instance_id: String,
        action: String,
        #[serde(with = "time::serde::rfc3339")]
        time: OffsetDateTime,
    },
    SpotReclaimed {
        instance_id: String,
    },
    RebalanceRecommended {
        instance_id: String,
    },
    MaintenanceScheduled {
        instance_id: String,
        code: String,
    },
    Crashed {
        instance_id: String,
    },
    Signalled {
        stack: String,
        logical_id: String,
        unique_id: String,
        status: String,
    },
    StackStatus {
        stack: String,
        /// The resource that changed; `None` for the stack itself.
        logical_id: Option<String>,
        status: String,
        reason: Option<String>,
    },
}

impl EventKind {
    /// Returns the instance that the event concerns, where there is one.
    pub fn instance_id(&self) -> Option<&str> {
        match self {
            Self::InstanceLaunched { instance_id, .. }
            | Self::LifecycleChanged { instance_id, .. }
            | Self::HookStarted { instance_id, .. }
            | Self::Heartbeat { instance_id, .. }
            | Self::HookCompleted { instance_id, .. }
            | Self::HookTimedOut { instance_id, .. }
            | Self::Unhealthy { instance_id }
            | Self::TargetHealth { instance_id, .. }
            | Self::SpotNotice { instance_id, .. }
            | Self::SpotReclaimed { instance_id }
            | Self::RebalanceRecommended { instance_id }
            | Self::MaintenanceScheduled { instance_id, .. }
            | Self::Crashed { instance_id } => Some(instance_id),
            Self::Signalled { unique_id, .. } => Some(unique_id),
            Self::Replaced { .. }
            | Self::DesiredCapacity { .. }
            | Self::ScalingAlarm { .. }
            | Self::InstanceRefresh { .. }
            | Self::StackStatus { .. } => None,
        }
    }
}

#[derive(Debug)]
pub(super) struct EventLog {
    sender: broadcast::Sender<CloudEvent>,
    history: Mutex<Vec<CloudEvent>>,
}

impl EventLog {
    pub(super) fn new() -> Self {
        Self { sender: broadcast::channel(SUBSCRIBER_BUFFER).0, history: Mutex::default() }
    }

    pub(super) fn subscribe(&self) -> broadcast::Receiver<CloudEvent> {
        self.sender.subscribe()
    }

    pub(super) fn publish(&self, event: CloudEvent) {
        let mut history = super::lock(&self.history);
        if history.len() < HISTORY {
            history.push(event.clone());
        }
        // Sent under the lock, so that subscribers see the order of the history. Having no subscriber is not an error.
        let _ = self.sender.send(event);
    }

    pub(super) fn since(&self, index: usize) -> Vec<CloudEvent> {
        super::lock(&self.history).get(index..).unwrap_or_default().to_vec()
    }
}
