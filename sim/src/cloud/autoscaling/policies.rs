//! Target tracking: policies that keep a metric of CloudWatch at a target by changing the desired capacity.
//!
//! Guarantees: without values there is no action; a desired capacity stays between the group's sizes; a scale-in does not
//! begin while instances launch or warm up.
//!
//! What AWS documents
//! (<https://docs.aws.amazon.com/autoscaling/ec2/userguide/as-scaling-target-tracking.html>): two alarms for each policy;
//! a scale-out in proportion to the metric, rounded up, without the instances that warm up; a scale-in that is more
//! gradual, with the instances that terminate; with several policies, the largest capacity, and a scale-in only when all
//! of them agree. What AWS does not document, and this cloud assumes: how many periods an alarm needs and where the lower
//! one is (see [`PolicyPace`] and `LOW`), as AWS's consoles show them; that a group of no instances is computed like one
//! of one, which ECS needs for its capacity providers
//! (<https://aws.amazon.com/blogs/containers/deep-dive-on-amazon-ecs-cluster-auto-scaling/>). Periods begin with the first
//! policy instead of the full minute, and an alarm needs values in each of its periods; CloudWatch fills gaps from older
//! ones.

use std::collections::BTreeMap;
use std::time::Duration;

use time::OffsetDateTime;

use super::policy::{
    Alarm, AlarmState, Capacity, LOW, Policy, PolicyPace, PolicySpec, Verdict, Watch, resolve,
};
use super::scaling::Scaling;
use super::states::{LifecycleState, Process};
use crate::cloud::cloudwatch::CloudWatch;
use crate::cloud::errors::ApiError;
use crate::cloud::events::EventKind;

/// The warm-up of an instance without a value of its own: the default cooldown of a group.
/// <https://docs.aws.amazon.com/autoscaling/ec2/APIReference/API_PutScalingPolicy.html>
const DEFAULT_WARMUP: Duration = Duration::from_secs(300);

impl Scaling {
    /// Returns the time at which the alarms are evaluated next.
    pub fn policies_due(&self) -> Option<Duration> {
        self.policies.next
    }

    /// Sets how long alarms wait; the present period begins anew.
    pub fn set_policy_pace(&mut self, pace: PolicyPace, now: Duration) {
        self.policies.pace = pace;
        self.policies.next = self.policies.next.map(|_| now + pace.period);
        self.touch();
    }

    pub fn policies(&self) -> impl Iterator<Item = &Policy> {
        self.policies.all.values()
    }

    pub fn alarms(&self) -> impl Iterator<Item = Alarm> {
        self.policies().flat_map(|policy| self.alarms_of(policy))
    }

    pub(super) fn alarms_of(&self, policy: &Policy) -> Vec<Alarm> {
        policy.alarms(&self.region, self.policies.pace)
    }

    /// Adds a policy, or changes the present one; its alarms have no data at first.
    pub fn put_policy(&mut self, spec: PolicySpec, now: Duration) -> Result<&Policy, ApiError> {
        self.group(&spec.group)?;
        if !(spec.target.is_finite() && spec.target > 0.0) {
            return Err(ApiError::validation("TargetValue must be a positive number"));
        }
        let key = (spec.group.clone(), spec.name.clone());
        let is_other = |it: &Policy| it.spec.group == spec.group && it.spec.name != spec.name;
        if self.policies().any(|it| is_other(it) && it.spec.metric == spec.metric) {
            return Err(ApiError::validation(
                "Only one TargetTrackingScaling policy for a given metric specification is allowed.",
            ));
        }
        let id = match self.policies.all.get(&key) {
            Some(policy) => policy.id.clone(),
            None => self.ids.uuid(),
        };
        let watch = Watch { since: now, ..Watch::default() };
        let policy = Policy { spec, id, high: watch, low: watch };
        // The event also makes the timers look at the new deadline.
        self.emit_alarm(&policy, true, AlarmState::InsufficientData);
        self.policies.next.get_or_insert(now + self.policies.pace.period);
        Ok(self.policies.all.entry(key).insert_entry(policy).into_mut())
    }

    /// Deletes a policy by its name or its ARN.
    pub fn delete_policy(&mut self, group: Option<&str>, name: &str) -> Result<(), ApiError> {
        let region = self.region.clone();
        let is_it = |policy: &Policy| {
            (policy.spec.name == name && group == Some(&policy.spec.group))
                || policy.arn(&region) == name
        };
        let before = self.policies.all.len();
        self.policies.all.retain(|_, policy| !is_it(policy));
        if self.policies.all.len() == before {
            return Err(ApiError::validation(format!("PolicyName: {name} not found")));
        }
        self.stop_without_policies();
        Ok(())
    }

    /// Deletes the policies of a group that is deleted.
    pub(super) fn delete_policies_of(&mut self, group: &str) {
        self.policies.all.retain(|(of, _), _| of != group);
        self.stop_without_policies();
    }

    fn stop_without_policies(&mut self) {
        if self.policies.all.is_empty() {
            self.policies.next = None;
        }
    }

    /// Evaluates the alarms if a period has ended, and scales the groups that need it. `date`: of `now`.
    pub fn follow_policies(&mut self, metrics: &CloudWatch, date: OffsetDateTime, now: Duration) {
        let Some(next) = self.policies.next.filter(|next| *next <= now) else { return };
        let period = self.policies.pace.period.max(Duration::from_millis(1));
        // Periods that ended unnoticed are evaluated with the last one.
        let missed = (now - next).as_nanos() / period.as_nanos();
        let ended = next + period * u32::try_from(missed).unwrap_or(u32::MAX);
        self.policies.next = Some(ended + period);
        let end = date - (now - ended);
        let mut verdicts: BTreeMap<String, Vec<(Verdict, bool)>> = BTreeMap::new();
        for key in self.policies.all.keys().cloned().collect::<Vec<_>>() {
            let value = self.watch(&key, metrics, end, now);
            let Some(policy) = self.policies.all.get(&key).filter(|it| it.spec.enabled) else {
                continue;
            };
            let Some(capacity) = self.capacity(&policy.spec, now) else { continue };
            let verdict = policy.verdict(value, capacity);
            verdicts.entry(key.0).or_default().push((verdict, !policy.spec.disable_scale_in));
        }
        for (group, verdicts) in verdicts {
            self.scale(&group, &verdicts, now);
        }
    }

    /// Sets the states of a policy's alarms; returns the value of the last period.
    fn watch(
        &mut self,
        key: &(String, String),
        metrics: &CloudWatch,
        end: OffsetDateTime,
        now: Duration,
    ) -> Option<f64> {
        let pace = self.policies.pace;
        let policy = self.policies.all.get_mut(key)?;
        let PolicySpec { metric, statistic, unit, target, .. } = &policy.spec;
        let value = |periods_ago: u32| {
            let to = end - pace.period * periods_ago;
            metrics.statistic(metric, *statistic, unit.as_deref(), to - pace.period, to)
        };
        let values: Vec<Option<f64>> = (0..pace.high.max(pace.low)).map(value).collect();
        let last = |periods: u32| &values[..periods as usize];
        let high = AlarmState::after(last(pace.high), |value| value > *target);
        let low = AlarmState::after(last(pace.low), |value| value < target * LOW);
        let changed = [
            (true, high, policy.high.becomes(high, now)),
            (false, low, policy.low.becomes(low, now)),
        ];
        let (policy, newest) = (policy.clone(), values.first().copied().flatten());
        for (is_high, state, _) in changed.into_iter().filter(|(.., changed)| *changed) {
            self.emit_alarm(&policy, is_high, state);
        }
        newest
    }

    fn emit_alarm(&mut self, policy: &Policy, is_high: bool, state: AlarmState) {
        if !is_high && policy.spec.disable_scale_in {
            return;
        }
        let PolicySpec { group, name, .. } = policy.spec.clone();
        self.emit(EventKind::ScalingAlarm { group, policy: name, is_high, state });
    }

    fn capacity(&self, spec: &PolicySpec, now: Duration) -> Option<Capacity> {
        let group = &self.group(&spec.group).ok()?.spec;
        let warmup = spec.warmup.unwrap_or(DEFAULT_WARMUP);
        let (mut warm, mut standing, mut is_growing) = (0, 0, false);
        for instance in self.instances().filter(|it| it.group == spec.group) {
            let state = instance.lifecycle.state();
            match state {
                LifecycleState::InService => {
                    let is_warm = instance.lifecycle.since() + warmup <= now;
                    warm += u32::from(is_warm);
                    standing += 1;
                    is_growing |= !is_warm;
                }
                _ if state.counts() => is_growing = true,
                LifecycleState::Terminating
                | LifecycleState::TerminatingWait
                | LifecycleState::TerminatingProceed => standing += 1,
                _ => {}
            }
        }
        let (min, max, desired) = (group.min, group.max, group.desired);
        Some(Capacity { min, max, desired, warm, standing, is_growing })
    }

    fn scale(&mut self, group: &str, verdicts: &[(Verdict, bool)], now: Duration) {
        let Some(wanted) = resolve(verdicts) else { return };
        let Ok(of) = self.group(group) else { return };
        let process = if wanted > of.spec.desired { Process::Launch } else { Process::Terminate };
        if of.is_suspended(Process::AlarmNotification) || of.is_suspended(process) {
            return;
        }
        // Not refused: the capacity is between the group's sizes.
        let _ = self.set_desired(group, wanted, now);
    }
}

#[cfg(test)]
#[path = "policies_tests.rs"]
mod tests;
