//! Models one target of a target group: a pure state machine that gets the time as an argument.
//!
//! ```text
//!                ┌────────────── failed checks ─────────────┐
//! unused ──► initial ── passed checks ──► healthy ──► unhealthy.draining ──► unhealthy
//!                └──┬───────────────────────┴── (without an interval, unhealthy at once)
//!                   ▼ deregistered, from every state
//!               draining ── after the deregistration delay ──► unused, removed
//! ```
//!
//! A network load balancer waits for the whole deregistration delay, also when no flow is open: its guide, unlike that
//! of the application load balancer, has no shorter case. The health checks of a draining target continue: a target
//! that becomes unhealthy while it is draining loses its flows like any other.
//! <https://docs.aws.amazon.com/elasticloadbalancing/latest/network/edit-target-group-attributes.html#deregistration-delay>

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::specs::{HealthCheck, TargetGroupAttributes};

/// The state of a target, as on the wire:
/// <https://docs.aws.amazon.com/elasticloadbalancing/latest/APIReference/API_TargetHealth.html>
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TargetState {
    /// No listener forwards to the target group, or the target is not registered.
    Unused,
    Initial,
    Healthy,
    Unhealthy,
    /// Unhealthy; its flows are cut when the draining interval has passed.
    #[serde(rename = "unhealthy.draining")]
    UnhealthyDraining,
    Draining,
}

impl TargetState {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unused => "unused",
            Self::Initial => "initial",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
            Self::UnhealthyDraining => "unhealthy.draining",
            Self::Draining => "draining",
        }
    }

    pub fn is_unhealthy(self) -> bool {
        matches!(self, Self::Unhealthy | Self::UnhealthyDraining)
    }
}

impl fmt::Display for TargetState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The state of a target with its reason, as `DescribeTargetHealth` returns them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetHealth {
    pub state: TargetState,
    /// AWS's reason code; `None` for a healthy target.
    pub reason: Option<String>,
    pub description: Option<String>,
}

impl TargetHealth {
    fn new(state: TargetState, reason: Option<(&str, &str)>) -> Self {
        Self {
            state,
            reason: reason.map(|(code, _)| code.to_owned()),
            description: reason.map(|(_, description)| description.to_owned()),
        }
    }

    /// Returns the health of a target that is not registered.
    pub(super) fn not_registered() -> Self {
        let reason = ("Target.NotRegistered", "Target is not registered to the target group");
        Self::new(TargetState::Unused, Some(reason))
    }
}

/// Why a load balancer ends flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Cut {
    /// The target is unhealthy.
    Unhealthy,
    /// The target's deregistration delay has passed.
    Deregistered,
    /// The target's instance is terminated.
    Gone,
    /// The listener is deleted.
    Unlistened,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Event {
    /// Time has passed.
    Tick,
    /// A health check ended.
    Checked {
        passed: bool,
    },
    /// Whether a listener forwards to the target group.
    Use(bool),
    Register,
    Deregister,
}

/// One change that a step made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fact {
    Moved {
        from: TargetState,
        to: TargetState,
    },
    /// All flows to the target must end.
    Cut(Cut),
    /// The target is no longer registered.
    Removed,
}

/// The settings of the target group.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings<'a> {
    pub check: &'a HealthCheck,
    pub attributes: &'a TargetGroupAttributes,
}

#[derive(Clone, Debug)]
pub(crate) struct Target {
    state: TargetState,
    since: Duration,
    /// Consecutive results of health checks.
    passed: u32,
    failed: u32,
    is_checked: bool,
    /// Whether the health checks of a draining target fail, which its state does not show.
    is_failing: bool,
    /// Whether its flows were cut because it is unhealthy.
    is_cut: bool,
}

impl Target {
    /// Returns a target that is not registered yet.
    pub fn new(now: Duration) -> Self {
        Self {
            state: TargetState::Unused,
            since: now,
            passed: 0,
            failed: 0,
            is_checked: false,
            is_failing: false,
            is_cut: false,
        }
    }

    pub fn state(&self) -> TargetState {
        self.state
    }

    pub fn health(&self) -> TargetHealth {
        let reason = match self.state {
            TargetState::Healthy => None,
            TargetState::Unused => Some((
                "Target.NotInUse",
                "Target group is not configured to receive traffic from the load balancer",
            )),
            TargetState::Initial if self.is_checked => {
                Some(("Elb.InitialHealthChecking", "Initial health checks in progress"))
            }
            TargetState::Initial => {
                Some(("Elb.RegistrationInProgress", "Target registration is in progress"))
            }
            // A network load balancer has no finer reasons:
            // https://docs.aws.amazon.com/elasticloadbalancing/latest/network/target-group-health-checks.html
            TargetState::Unhealthy | TargetState::UnhealthyDraining => {
                Some(("Target.FailedHealthChecks", "Health checks failed"))
            }
            TargetState::Draining => {
                Some(("Target.DeregistrationInProgress", "Target deregistration is in progress"))
            }
        };
        TargetHealth::new(self.state, reason)
    }

    /// Returns the end of the deregistration of a draining target.
    pub fn deregistered_at(&self, settings: Settings<'_>) -> Option<Duration> {
        let end = self.since + settings.attributes.deregistration_delay;
        (self.state == TargetState::Draining).then_some(end)
    }

    /// Returns the time of the next change that needs no other event.
    pub fn next_deadline(&self, settings: Settings<'_>) -> Option<Duration> {
        match self.state {
            TargetState::UnhealthyDraining => {
                Some(self.since + settings.attributes.unhealthy_draining_interval)
            }
            _ => self.deregistered_at(settings),
        }
    }

    /// Applies one event and its immediate consequences.
    pub fn step(
        &mut self,
        event: Event,
        now: Duration,
        settings: Settings<'_>,
        facts: &mut Vec<Fact>,
    ) {
        // Due changes come before the event.
        self.settle(now, settings, facts);
        if facts.contains(&Fact::Removed) {
            return;
        }
        self.apply(event, now, settings, facts);
        self.settle(now, settings, facts);
    }

    fn apply(
        &mut self,
        event: Event,
        now: Duration,
        settings: Settings<'_>,
        facts: &mut Vec<Fact>,
    ) {
        use TargetState as S;
        match event {
            Event::Use(true) if self.state == S::Unused => self.begin(now, facts),
            // A draining target that is registered again receives new flows after new initial checks.
            Event::Register if self.state == S::Draining => self.begin(now, facts),
            Event::Use(false) if !matches!(self.state, S::Unused | S::Draining) => {
                self.go(S::Unused, now, facts);
            }
            Event::Deregister if self.state == S::Unused => facts.push(Fact::Removed),
            Event::Deregister if self.state != S::Draining => {
                self.is_failing = self.state.is_unhealthy();
                self.go(S::Draining, now, facts);
            }
            Event::Checked { passed } if self.state != S::Unused => {
                self.is_checked = true;
                self.count(passed);
                self.judge(now, settings, facts);
            }
            Event::Tick
            | Event::Use(_)
            | Event::Register
            | Event::Deregister
            | Event::Checked { .. } => {}
        }
    }

    fn begin(&mut self, now: Duration, facts: &mut Vec<Fact>) {
        (self.passed, self.failed, self.is_checked, self.is_failing) = (0, 0, false, false);
        self.go(TargetState::Initial, now, facts);
    }

    fn count(&mut self, passed: bool) {
        (self.passed, self.failed) = match passed {
            true => (self.passed.saturating_add(1), 0),
            false => (0, self.failed.saturating_add(1)),
        };
    }

    /// Applies the thresholds.
    fn judge(&mut self, now: Duration, settings: Settings<'_>, facts: &mut Vec<Fact>) {
        use TargetState as S;
        let is_good = self.passed >= settings.check.healthy_threshold;
        let is_bad = self.failed >= settings.check.unhealthy_threshold;
        match self.state {
            S::Draining if is_good || is_bad => self.is_failing = is_bad,
            S::Initial | S::Unhealthy | S::UnhealthyDraining if is_good => {
                self.go(S::Healthy, now, facts);
            }
            S::Initial | S::Healthy if is_bad => {
                let attributes = settings.attributes;
                let waits = !attributes.unhealthy_connection_termination
                    && !attributes.unhealthy_draining_interval.is_zero();
                let next = if waits { S::UnhealthyDraining } else { S::Unhealthy };
                self.go(next, now, facts);
            }
            _ => {}
        }
    }

    /// Makes the changes that are due.
    fn settle(&mut self, now: Duration, settings: Settings<'_>, facts: &mut Vec<Fact>) {
        if self.next_deadline(settings).is_none_or(|deadline| deadline > now) {
            return;
        }
        match self.state {
            TargetState::UnhealthyDraining => self.go(TargetState::Unhealthy, now, facts),
            _ => {
                if settings.attributes.connection_termination {
                    facts.push(Fact::Cut(Cut::Deregistered));
                }
                self.go(TargetState::Unused, now, facts);
                facts.push(Fact::Removed);
            }
        }
    }

    /// Cuts the flows of an unhealthy target, once. `fails_open`: the target group has no healthy target, so that
    /// unhealthy ones keep their flows and get new ones:
    /// <https://docs.aws.amazon.com/elasticloadbalancing/latest/network/target-group-health-checks.html>.
    /// A draining target gets no new flows in that case, so it does not keep the old ones either.
    pub fn cut_if_unhealthy(&mut self, fails_open: bool, settings: Settings<'_>) -> Option<Fact> {
        let attributes = settings.attributes;
        let is_due = match self.state {
            TargetState::Unhealthy => {
                let interval = attributes.unhealthy_draining_interval;
                !fails_open && (attributes.unhealthy_connection_termination || !interval.is_zero())
            }
            TargetState::Draining => self.is_failing && attributes.unhealthy_connection_termination,
            _ => false,
        };
        let was_cut = std::mem::replace(&mut self.is_cut, is_due);
        (is_due && !was_cut).then_some(Fact::Cut(Cut::Unhealthy))
    }

    fn go(&mut self, to: TargetState, now: Duration, facts: &mut Vec<Fact>) {
        let from = std::mem::replace(&mut self.state, to);
        self.since = now;
        facts.push(Fact::Moved { from, to });
    }
}

#[cfg(test)]
#[path = "target_tests.rs"]
mod tests;
