//! The alarms of scaling policies: how long they wait, and their states.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::policies::PolicySpec;

/// How long alarms wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PolicyPace {
    pub period: Duration,
    /// The periods above the target before a scale-out.
    pub high: u32,
    /// The periods below the target before a scale-in.
    pub low: u32,
}

impl Default for PolicyPace {
    /// AWS's pace.
    fn default() -> Self {
        Self { period: Duration::from_secs(60), high: 3, low: 15 }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum AlarmState {
    Ok,
    Alarm,
    #[default]
    InsufficientData,
}

impl AlarmState {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::Alarm => "ALARM",
            Self::InsufficientData => "INSUFFICIENT_DATA",
        }
    }

    /// Returns the state after periods with these values; `None`: a period without values.
    pub(super) fn after(values: &[Option<f64>], breaches: impl Fn(f64) -> bool) -> Self {
        if values.iter().all(Option::is_none) {
            return Self::InsufficientData;
        }
        if values.iter().all(|value| value.is_some_and(&breaches)) { Self::Alarm } else { Self::Ok }
    }
}

/// The present state of one alarm, and the time at which it began.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Watch {
    pub state: AlarmState,
    pub since: Duration,
}

impl Watch {
    /// Sets the state; returns whether it changed.
    pub fn becomes(&mut self, state: AlarmState, now: Duration) -> bool {
        if self.state == state {
            return false;
        }
        *self = Self { state, since: now };
        true
    }
}

/// An alarm as CloudWatch shows it.
#[derive(Clone, Debug)]
pub(crate) struct Alarm {
    pub name: String,
    pub arn: String,
    pub policy_arn: String,
    pub spec: PolicySpec,
    pub is_high: bool,
    pub threshold: f64,
    pub state: AlarmState,
    pub since: Duration,
    pub period: Duration,
    pub periods: u32,
}
