//! A target tracking policy, its alarms, and what it asks for. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::cloud::cloudwatch::{Metric, Statistic};

/// The share of the target below which a scale-in is due.
pub(super) const LOW: f64 = 0.9;

/// A target tracking policy.
#[derive(Clone, Debug, PartialEq)]
pub struct PolicySpec {
    pub group: String,
    pub name: String,
    pub metric: Metric,
    pub statistic: Statistic,
    /// Only values with this unit count.
    pub unit: Option<String>,
    pub target: f64,
    pub disable_scale_in: bool,
    /// The time in service after which an instance counts at a scale-out.
    pub warmup: Option<Duration>,
    pub enabled: bool,
}

impl PolicySpec {
    /// Returns a policy with AWS's defaults, for the average of a metric.
    pub fn new(group: &str, name: &str, metric: Metric, target: f64) -> Self {
        Self {
            group: group.to_owned(),
            name: name.to_owned(),
            metric,
            statistic: Statistic::Average,
            unit: None,
            target,
            disable_scale_in: false,
            warmup: None,
            enabled: true,
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Policy {
    pub spec: PolicySpec,
    pub id: String,
    pub(super) high: Watch,
    pub(super) low: Watch,
}

/// All policies, by group and name.
#[derive(Debug, Default)]
pub(super) struct Policies {
    pub all: BTreeMap<(String, String), Policy>,
    pub pace: PolicyPace,
    /// The end of the present period; `None` without policies.
    pub next: Option<Duration>,
}

/// A group's sizes and instances, as one policy counts them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Capacity {
    pub min: u32,
    pub max: u32,
    pub desired: u32,
    /// The instances in service that do not warm up.
    pub warm: u32,
    /// The instances in service and those that terminate.
    pub standing: u32,
    /// Whether instances launch or warm up.
    pub is_growing: bool,
}

/// What a policy wants for its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Out(u32),
    In(u32),
    Stay,
}

impl Policy {
    /// Returns the new capacity that the states of the alarms ask for. `value`: of the last period.
    pub(super) fn verdict(&self, value: Option<f64>, of: Capacity) -> Verdict {
        let Some(value) = value else { return Verdict::Stay };
        let wanted = |instances: u32| {
            let wanted = (f64::from(instances) * value / self.spec.target).ceil();
            // A float becomes the nearest number of its type: a negative one becomes 0.
            (wanted as u32).clamp(of.min, of.max)
        };
        if self.high.state == AlarmState::Alarm {
            let wanted = wanted(of.warm.max(1));
            return if wanted > of.desired { Verdict::Out(wanted) } else { Verdict::Stay };
        }
        if self.low.state == AlarmState::Alarm && !of.is_growing {
            let wanted = wanted(of.standing);
            return if wanted < of.desired { Verdict::In(wanted) } else { Verdict::Stay };
        }
        Verdict::Stay
    }

    /// Returns the alarms: the high one, and the low one where the policy scales in.
    pub(super) fn alarms(&self, region: &str, pace: PolicyPace) -> Vec<Alarm> {
        let alarm = |is_high: bool| {
            let (side, watch) = if is_high { ("High", self.high) } else { ("Low", self.low) };
            let name = format!("TargetTracking-{}-Alarm{side}-{}", self.spec.group, self.id);
            let account = crate::cloud::ACCOUNT;
            Alarm {
                arn: format!("arn:aws:cloudwatch:{region}:{account}:alarm:{name}"),
                name,
                policy_arn: self.arn(region),
                spec: self.spec.clone(),
                is_high,
                threshold: if is_high { self.spec.target } else { self.spec.target * LOW },
                state: watch.state,
                since: watch.since,
                period: pace.period,
                periods: if is_high { pace.high } else { pace.low },
            }
        };
        let sides = if self.spec.disable_scale_in { &[true][..] } else { &[true, false] };
        sides.iter().map(|is_high| alarm(*is_high)).collect()
    }

    pub fn arn(&self, region: &str) -> String {
        let PolicySpec { group, name, .. } = &self.spec;
        format!(
            "arn:aws:autoscaling:{region}:{}:scalingPolicy:{}:autoScalingGroupName/{group}:policyName/{name}",
            crate::cloud::ACCOUNT,
            self.id
        )
    }
}

/// Returns the new desired capacity: the largest that a policy wants, and a smaller one only if all policies that scale
/// in want that.
pub(super) fn resolve(verdicts: &[(Verdict, bool)]) -> Option<u32> {
    let out = verdicts.iter().filter_map(|(verdict, _)| match verdict {
        Verdict::Out(wanted) => Some(*wanted),
        _ => None,
    });
    if let Some(wanted) = out.max() {
        return Some(wanted);
    }
    let scale_in = verdicts.iter().filter(|(_, scales_in)| *scales_in);
    let wanted = scale_in.map(|(verdict, _)| match verdict {
        Verdict::In(wanted) => Some(*wanted),
        _ => None,
    });
    wanted.collect::<Option<Vec<u32>>>()?.into_iter().max()
}

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
