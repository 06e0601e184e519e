//! Injects faults into calls, by seed: the nth call under a rule always has the same fate.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fastrand::Rng;
use serde::{Deserialize, Serialize};

use super::requests::Service;

/// The faults of a call. Probabilities are from 0 to 1, and are tried in the order of the fields.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Fault {
    /// Additional milliseconds until the answer: minimum and maximum.
    pub latency_ms: Option<(u64, u64)>,
    /// Calls per second that are served; the others are throttled. A burst can use the calls of one second.
    pub per_second: Option<f64>,
    pub throttle: f64,
    /// The connection closes without an answer; the call is not executed.
    pub drop: f64,
    /// Answer 500; the call is not executed.
    pub error: f64,
    /// The call is executed, and the connection closes without an answer.
    pub lose_answer: f64,
    /// A `BatchGetItem` with several keys leaves some of them unprocessed, but never all.
    pub unprocessed: f64,
    /// The rule ends after this many calls.
    pub times: Option<u32>,
}

/// A fault and the calls that it applies to.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FaultRule {
    /// `None`: every service.
    #[serde(default)]
    pub service: Option<Service>,
    /// `None`: every operation. For the metadata, the method and path, as in the request log.
    #[serde(default)]
    pub action: Option<String>,
    pub fault: Fault,
}

/// The planned result of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Served,
    Throttled,
    Dropped,
    Failed,
    AnswerLost,
    /// Served for a part of the keys only; this seed chooses the part.
    InPart(u64),
}

struct Rule {
    rule: FaultRule,
    random: Rng,
    /// Chooses what stays unprocessed. Separate, so that it does not change the other faults of a seed.
    parts: Rng,
    left: Option<u32>,
    /// Number of calls that can pass now, and the time of its last update.
    allowance: f64,
    reckoned: Duration,
}

/// The active rules. Cheap to clone; clones share the same rules.
#[derive(Clone)]
pub struct Faults {
    seed: u64,
    rules: Arc<Mutex<Vec<Rule>>>,
}

impl Faults {
    pub(super) fn new(seed: u64) -> Self {
        Self { seed, rules: Arc::default() }
    }

    /// Sets a rule, and replaces an older one for the same calls.
    pub fn set(&self, service: impl Into<Option<Service>>, action: Option<&str>, fault: Fault) {
        self.set_rule(FaultRule {
            service: service.into(),
            action: action.map(str::to_owned),
            fault,
        });
    }

    pub fn set_rule(&self, rule: FaultRule) {
        let mut hasher = DefaultHasher::new();
        (self.seed, rule.service, &rule.action).hash(&mut hasher);
        let new = Rule {
            random: Rng::with_seed(hasher.finish()),
            parts: Rng::with_seed(hasher.finish().wrapping_add(1)),
            left: rule.fault.times,
            allowance: rule.fault.per_second.unwrap_or_default(),
            reckoned: Duration::ZERO,
            rule,
        };
        let mut rules = super::lock(&self.rules);
        rules.retain(|old| {
            (old.rule.service, &old.rule.action) != (new.rule.service, &new.rule.action)
        });
        rules.push(new);
    }

    /// Removes the rule for exactly these calls.
    pub fn remove(&self, service: impl Into<Option<Service>>, action: Option<&str>) {
        let service = service.into();
        super::lock(&self.rules)
            .retain(|old| (old.rule.service, old.rule.action.as_deref()) != (service, action));
    }

    pub fn clear(&self) {
        super::lock(&self.rules).clear();
    }

    pub fn rules(&self) -> Vec<FaultRule> {
        super::lock(&self.rules).iter().map(|rule| rule.rule.clone()).collect()
    }

    /// Returns the fate of the next call, and its additional latency.
    pub(super) fn plan(&self, service: Service, action: &str, now: Duration) -> (Fate, Duration) {
        let mut rules = super::lock(&self.rules);
        let (mut fate, mut latency) = (Fate::Served, Duration::ZERO);
        for rule in rules.iter_mut().filter(|rule| rule.is_for(service, action)) {
            if let Some(left) = &mut rule.left {
                *left = left.saturating_sub(1);
            }
            let (its_fate, its_latency) = rule.draw(now);
            latency += its_latency;
            if fate == Fate::Served {
                fate = its_fate;
            }
        }
        rules.retain(|rule| rule.left != Some(0));
        (fate, latency)
    }
}

impl Rule {
    fn is_for(&self, service: Service, action: &str) -> bool {
        let of = &self.rule;
        of.service.is_none_or(|of| of == service)
            && of.action.as_deref().is_none_or(|of| of == action)
    }

    fn draw(&mut self, now: Duration) -> (Fate, Duration) {
        let fault = &self.rule.fault;
        let latency = fault.latency_ms.map_or(Duration::ZERO, |(from, to)| {
            Duration::from_millis(self.random.u64(from..=to.max(from)))
        });
        let mut happens = |probability: f64| self.random.f64() < probability;
        // All are drawn, so that one probability does not change the random numbers of another.
        let drawn = [
            (happens(fault.throttle), Fate::Throttled),
            (happens(fault.drop), Fate::Dropped),
            (happens(fault.error), Fate::Failed),
            (happens(fault.lose_answer), Fate::AnswerLost),
            (self.parts.f64() < fault.unprocessed, Fate::InPart(self.parts.u64(..))),
        ];
        let fate = drawn.into_iter().find(|(happens, _)| *happens).map(|(_, fate)| fate);
        let over = fault.per_second.is_some_and(|rate| {
            let gained = now.saturating_sub(self.reckoned).as_secs_f64() * rate;
            self.reckoned = now;
            self.allowance = (self.allowance + gained).min(rate.max(1.0));
            let over = self.allowance < 1.0;
            if !over {
                self.allowance -= 1.0;
            }
            over
        });
        let fate = if over { Fate::Throttled } else { fate.unwrap_or(Fate::Served) };
        (fate, latency)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fates(seed: u64) -> Vec<Fate> {
        let faults = Faults::new(seed);
        let fault = Fault { error: 0.3, drop: 0.3, ..Fault::default() };
        faults.set(Service::Ssm, None, fault);
        (0..50).map(|_| faults.plan(Service::Ssm, "GetParameter", Duration::ZERO).0).collect()
    }

    #[test]
    fn the_seed_decides() {
        assert_eq!(fates(1), fates(1));
        assert_ne!(fates(1), fates(2));
        assert!(fates(1).contains(&Fate::Served));
        assert!(fates(1).contains(&Fate::Failed));
    }

    #[test]
    fn a_rule_is_for_its_calls_and_its_times() {
        let faults = Faults::new(1);
        let fault = Fault { error: 1.0, times: Some(2), ..Fault::default() };
        faults.set(Service::Ssm, Some("PutParameter"), fault);
        let plan = |action| faults.plan(Service::Ssm, action, Duration::ZERO).0;
        assert_eq!(plan("GetParameter"), Fate::Served);
        assert_eq!(plan("PutParameter"), Fate::Failed);
        assert_eq!(plan("PutParameter"), Fate::Failed);
        assert_eq!(plan("PutParameter"), Fate::Served);
        assert!(faults.rules().is_empty());
    }

    #[test]
    fn a_rate_lets_through_what_it_says() {
        let faults = Faults::new(1);
        let fault = Fault { per_second: Some(40.0), ..Fault::default() };
        faults.set(Service::Ssm, None, fault);
        let served = |faults: &Faults, now| {
            (0..200)
                .filter(|_| faults.plan(Service::Ssm, "GetParameter", now).0 == Fate::Served)
                .count()
        };
        assert_eq!(served(&faults, Duration::from_secs(1)), 40);
        assert_eq!(served(&faults, Duration::from_secs(1)), 0);
        assert_eq!(served(&faults, Duration::from_millis(1500)), 20);
    }
}
