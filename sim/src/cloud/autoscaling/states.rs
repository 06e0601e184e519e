//! The names of lifecycle states, transitions, results and processes, as on the wire.

use std::fmt;

use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum LifecycleState {
    Pending,
    #[serde(rename = "Pending:Wait")]
    PendingWait,
    #[serde(rename = "Pending:Proceed")]
    PendingProceed,
    InService,
    EnteringStandby,
    Standby,
    Detaching,
    Detached,
    Terminating,
    #[serde(rename = "Terminating:Wait")]
    TerminatingWait,
    #[serde(rename = "Terminating:Proceed")]
    TerminatingProceed,
    Terminated,
    #[serde(rename = "Warmed:Pending")]
    WarmedPending,
    #[serde(rename = "Warmed:Pending:Wait")]
    WarmedPendingWait,
    #[serde(rename = "Warmed:Pending:Proceed")]
    WarmedPendingProceed,
    #[serde(rename = "Warmed:Stopped")]
    WarmedStopped,
    #[serde(rename = "Warmed:Running")]
    WarmedRunning,
    #[serde(rename = "Warmed:Terminating")]
    WarmedTerminating,
    #[serde(rename = "Warmed:Terminating:Wait")]
    WarmedTerminatingWait,
    #[serde(rename = "Warmed:Terminating:Proceed")]
    WarmedTerminatingProceed,
    #[serde(rename = "Warmed:Terminated")]
    WarmedTerminated,
    #[serde(rename = "Terminating:Retained")]
    TerminatingRetained,
    #[serde(rename = "Warmed:Pending:Retained")]
    WarmedPendingRetained,
    #[serde(rename = "Warmed:Terminating:Retained")]
    WarmedTerminatingRetained,
    ReplacingRootVolume,
    #[serde(rename = "ReplacingRootVolume:Wait")]
    ReplacingRootVolumeWait,
    #[serde(rename = "ReplacingRootVolume:Proceed")]
    ReplacingRootVolumeProceed,
    RootVolumeReplaced,
}

impl LifecycleState {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::PendingWait => "Pending:Wait",
            Self::PendingProceed => "Pending:Proceed",
            Self::InService => "InService",
            Self::EnteringStandby => "EnteringStandby",
            Self::Standby => "Standby",
            Self::Detaching => "Detaching",
            Self::Detached => "Detached",
            Self::Terminating => "Terminating",
            Self::TerminatingWait => "Terminating:Wait",
            Self::TerminatingProceed => "Terminating:Proceed",
            Self::Terminated => "Terminated",
            Self::WarmedPending => "Warmed:Pending",
            Self::WarmedPendingWait => "Warmed:Pending:Wait",
            Self::WarmedPendingProceed => "Warmed:Pending:Proceed",
            Self::WarmedStopped => "Warmed:Stopped",
            Self::WarmedRunning => "Warmed:Running",
            Self::WarmedTerminating => "Warmed:Terminating",
            Self::WarmedTerminatingWait => "Warmed:Terminating:Wait",
            Self::WarmedTerminatingProceed => "Warmed:Terminating:Proceed",
            Self::WarmedTerminated => "Warmed:Terminated",
            Self::TerminatingRetained => "Terminating:Retained",
            Self::WarmedPendingRetained => "Warmed:Pending:Retained",
            Self::WarmedTerminatingRetained => "Warmed:Terminating:Retained",
            Self::ReplacingRootVolume => "ReplacingRootVolume",
            Self::ReplacingRootVolumeWait => "ReplacingRootVolume:Wait",
            Self::ReplacingRootVolumeProceed => "ReplacingRootVolume:Proceed",
            Self::RootVolumeReplaced => "RootVolumeReplaced",
        }
    }

    /// Whether the instance leaves its group, has left and is retained, or is gone.
    pub fn is_leaving(self) -> bool {
        matches!(
            self,
            Self::Detaching
                | Self::Detached
                | Self::Terminating
                | Self::TerminatingWait
                | Self::TerminatingProceed
                | Self::Terminated
                | Self::WarmedTerminating
                | Self::WarmedTerminatingWait
                | Self::WarmedTerminatingProceed
                | Self::WarmedTerminated
        ) || self.is_retained()
    }

    /// Whether an abandoned termination hook has left the machine to an operator.
    pub fn is_retained(self) -> bool {
        matches!(
            self,
            Self::TerminatingRetained
                | Self::WarmedPendingRetained
                | Self::WarmedTerminatingRetained
        )
    }

    /// Whether an instance that comes from service into this state is deregistered from its target groups.
    pub(crate) fn leaves_service(self) -> bool {
        matches!(
            self,
            Self::Terminating
                | Self::EnteringStandby
                | Self::Detaching
                | Self::WarmedPending
                | Self::ReplacingRootVolume
        )
    }

    pub fn is_terminated(self) -> bool {
        matches!(self, Self::Terminated | Self::WarmedTerminated)
    }

    /// Whether the instance waits for a hook.
    pub fn is_waiting(self) -> bool {
        matches!(
            self,
            Self::PendingWait
                | Self::TerminatingWait
                | Self::WarmedPendingWait
                | Self::WarmedTerminatingWait
                | Self::ReplacingRootVolumeWait
        )
    }

    /// Whether the instance belongs to the warm pool, not to the group's capacity.
    pub fn is_warmed(self) -> bool {
        matches!(
            self,
            Self::WarmedPending
                | Self::WarmedPendingWait
                | Self::WarmedPendingProceed
                | Self::WarmedStopped
                | Self::WarmedRunning
                | Self::WarmedTerminating
                | Self::WarmedTerminatingWait
                | Self::WarmedTerminatingProceed
                | Self::WarmedTerminated
                | Self::WarmedPendingRetained
                | Self::WarmedTerminatingRetained
        )
    }

    /// Whether the group can take the instance from the pool into service.
    pub fn is_prepared(self) -> bool {
        matches!(self, Self::WarmedStopped | Self::WarmedRunning)
    }

    /// Whether the instance counts for the desired capacity.
    pub fn counts(self) -> bool {
        !self.is_leaving()
            && !self.is_warmed()
            && !matches!(self, Self::Standby | Self::EnteringStandby)
    }

    /// Returns the state that the metadata shows: the target state, not the present one. `None`: the metadata does not
    /// change. AWS's list of target states has none for a root volume that is replaced, so they stay `InService`:
    /// <https://docs.aws.amazon.com/autoscaling/ec2/userguide/retrieving-target-lifecycle-state-through-imds.html>.
    pub fn target(self, pool: PoolState) -> Option<&'static str> {
        match self {
            Self::Pending
            | Self::WarmedPending
            | Self::TerminatingRetained
            | Self::WarmedPendingRetained
            | Self::WarmedTerminatingRetained
            | Self::ReplacingRootVolume
            | Self::ReplacingRootVolumeWait
            | Self::ReplacingRootVolumeProceed
            | Self::RootVolumeReplaced => None,
            Self::WarmedPendingWait | Self::WarmedPendingProceed => Some(pool.steady().as_str()),
            Self::WarmedStopped | Self::WarmedRunning => Some(self.as_str()),
            Self::WarmedTerminating
            | Self::WarmedTerminatingWait
            | Self::WarmedTerminatingProceed
            | Self::WarmedTerminated => Some("Warmed:Terminated"),
            Self::PendingWait | Self::PendingProceed | Self::InService => Some("InService"),
            Self::EnteringStandby | Self::Standby => Some("Standby"),
            Self::Detaching | Self::Detached => Some("Detached"),
            Self::Terminating
            | Self::TerminatingWait
            | Self::TerminatingProceed
            | Self::Terminated => Some("Terminated"),
        }
    }
}

impl fmt::Display for LifecycleState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The state in which a warm pool keeps its instances. This cloud does not support `Hibernated`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum PoolState {
    #[default]
    Stopped,
    Running,
}

impl PoolState {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stopped => "Stopped",
            Self::Running => "Running",
        }
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        [Self::Stopped, Self::Running].into_iter().find(|state| state.as_str() == text)
    }

    /// Returns the lifecycle state of a prepared instance.
    pub(crate) fn steady(self) -> LifecycleState {
        match self {
            Self::Stopped => LifecycleState::WarmedStopped,
            Self::Running => LifecycleState::WarmedRunning,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Transition {
    #[serde(rename = "autoscaling:EC2_INSTANCE_LAUNCHING")]
    Launching,
    #[serde(rename = "autoscaling:EC2_INSTANCE_TERMINATING")]
    Terminating,
}

impl Transition {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Launching => "autoscaling:EC2_INSTANCE_LAUNCHING",
            Self::Terminating => "autoscaling:EC2_INSTANCE_TERMINATING",
        }
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        [Self::Launching, Self::Terminating]
            .into_iter()
            .find(|transition| transition.as_str() == text)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum ActionResult {
    Continue,
    Abandon,
}

impl ActionResult {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Continue => "CONTINUE",
            Self::Abandon => "ABANDON",
        }
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        [Self::Continue, Self::Abandon].into_iter().find(|result| result.as_str() == text)
    }
}

/// A process of a group that can be suspended:
/// <https://docs.aws.amazon.com/autoscaling/ec2/userguide/as-suspend-resume-processes.html>.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Process {
    /// Launches instances, whatever the cause.
    Launch,
    /// Terminates instances for a scale-in, a failed health check or a rebalancing.
    Terminate,
    /// Registers instances that enter service in the target groups.
    AddToLoadBalancer,
    /// Follows the alarms of scaling policies.
    AlarmNotification,
    /// Balances the zones.
    AzRebalance,
    /// Takes health checks of the load balancer into account.
    HealthCheck,
    InstanceRefresh,
    /// Replaces instances that are marked as unhealthy.
    ReplaceUnhealthy,
    /// This cloud has no scheduled actions.
    ScheduledActions,
}

impl Process {
    pub const ALL: [Self; 9] = [
        Self::Launch,
        Self::Terminate,
        Self::AddToLoadBalancer,
        Self::AlarmNotification,
        Self::AzRebalance,
        Self::HealthCheck,
        Self::InstanceRefresh,
        Self::ReplaceUnhealthy,
        Self::ScheduledActions,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Launch => "Launch",
            Self::Terminate => "Terminate",
            Self::AddToLoadBalancer => "AddToLoadBalancer",
            Self::AlarmNotification => "AlarmNotification",
            Self::AzRebalance => "AZRebalance",
            Self::HealthCheck => "HealthCheck",
            Self::InstanceRefresh => "InstanceRefresh",
            Self::ReplaceUnhealthy => "ReplaceUnhealthy",
            Self::ScheduledActions => "ScheduledActions",
        }
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|it| it.as_str() == text)
    }
}
