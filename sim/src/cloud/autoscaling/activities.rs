//! Records the launches and terminations that `DescribeScalingActivities` shows.

use std::time::Duration;

#[derive(Clone, Debug)]
pub(crate) struct Activity {
    pub id: String,
    pub group: String,
    pub description: String,
    pub cause: String,
    pub started: Duration,
    pub ended: Option<Duration>,
    pub status: Status,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    InProgress,
    /// Waiting until the target groups have deregistered the instance.
    WaitingForConnectionDraining,
    /// Waiting for a lifecycle hook.
    MidLifecycleAction,
    Successful,
    Cancelled,
}

impl Status {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InProgress => "InProgress",
            Self::WaitingForConnectionDraining => "WaitingForELBConnectionDraining",
            Self::MidLifecycleAction => "MidLifecycleAction",
            Self::Successful => "Successful",
            Self::Cancelled => "Cancelled",
        }
    }

    /// Returns the progress in percent.
    pub fn progress(self) -> u32 {
        match self {
            Self::InProgress => 30,
            Self::WaitingForConnectionDraining => 50,
            Self::MidLifecycleAction => 60,
            Self::Successful | Self::Cancelled => 100,
        }
    }
}

impl Activity {
    pub fn end(&mut self, status: Status, now: Duration) {
        self.status = status;
        self.ended = Some(now);
    }

    /// Cancels the activity if it is still in progress, because another one replaces it.
    pub fn end_if_open(&mut self, now: Duration) {
        if self.ended.is_none() {
            self.end(Status::Cancelled, now);
        }
    }
}
