//! Decides whether a departing node may still receive requests from a load balancer, and what it answers to health checks
//! meanwhile. Pure.
//!
//! - Auto Scaling terminates the node: it has deregistered the node, and its hook waits only when deregistration is over.
//!   The node answers health checks with 200 until then: with 503, a balancer would cut the requests that are under way.
//! - Otherwise nobody deregisters the node: it answers with 503, and serves for as long as a balancer needs to see that.
//! - A notice that EC2 may withdraw must not make a group replace the node that would stay: where the group goes by the
//!   balancer's health checks, the node is drained first, and answers with 503 only before it leaves the swarm.

use std::time::Duration;

use crate::clients::ledger::Traffic;
use crate::common::hook_wait::HookWait;
use crate::common::instance::Reason;
use crate::config::Leave;

/// Time for a manager to find out about the group's load balancer, before a node whose notice can be withdrawn answers
/// with 503.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// What a node waits for that does not know yet whether there is a load balancer.
const LOOKING: &str = "a manager to look for a load balancer";

/// Facts for the decision.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    pub reason: Reason,
    /// A manager's answer; `None`: not yet, or it cannot tell.
    pub answer: Option<Traffic>,
    pub hook: HookWait,
    /// Time since this departure began.
    pub waited: Duration,
    /// Time since the node has answered with 503; `None` while it answers with 200.
    pub refused_for: Option<Duration>,
    /// Whether a health check has had this answer.
    pub is_refusal_seen: bool,
}

impl Facts {
    /// Whether there is a load balancer that cannot know that this node leaves: nobody deregisters the node, and no health
    /// check has had 503.
    #[must_use]
    pub fn is_unseen(&self, settings: &Leave) -> bool {
        let is_balanced = matches!(self.answer, Some(Traffic::Balanced | Traffic::Replacing));
        // Without it, operators have said that no balancer asks.
        let has_lingered = !linger(self.reason, settings).is_zero() && self.refused_for.is_some();
        is_balanced && has_lingered && !self.is_refusal_seen && !self.reason.is_auto_scalings()
    }
}

/// The result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// The node is drained once this is over.
    Now {
        /// Completes "waiting for".
        why: &'static str,
        /// Whether health checks get 200.
        answers: bool,
    },
    /// The node is drained, and must not leave the swarm before this is over.
    BeforeLeaving {
        /// Whether health checks still get 200.
        answers: bool,
    },
    /// No load balancer sends to it.
    Over,
}

/// Returns whether to wait.
#[must_use]
pub fn judge(facts: &Facts, settings: &Leave) -> Wait {
    if facts.answer == Some(Traffic::None) || matches!(facts.hook, HookWait::Waits | HookWait::Over)
    {
        return Wait::Over;
    }
    if facts.reason.is_auto_scalings() {
        let is_over =
            facts.hook == HookWait::NoHook && facts.waited >= settings.deregistration_delay;
        let why = match facts.answer {
            None => LOOKING,
            Some(_) => "the load balancer: Auto Scaling deregisters this node",
        };
        return if is_over { Wait::Over } else { Wait::Now { why, answers: true } };
    }
    let lingers = facts.refused_for.is_none_or(|since| since < linger(facts.reason, settings));
    match facts.answer {
        _ if !lingers => Wait::Over,
        None if facts.reason.may_be_withdrawn() && facts.waited < ANSWER_WITHIN => {
            Wait::Now { why: LOOKING, answers: true }
        }
        Some(Traffic::Replacing) if facts.reason.may_be_withdrawn() => {
            Wait::BeforeLeaving { answers: facts.refused_for.is_none() }
        }
        _ => Wait::Now {
            why: "the load balancer to see that this node answers with 503",
            answers: false,
        },
    }
}

fn linger(reason: Reason, settings: &Leave) -> Duration {
    let own = match reason {
        Reason::Spot => settings.linger_spot,
        Reason::Maintenance => settings.linger_maintenance,
        Reason::Rebalance => settings.linger_rebalance,
        Reason::Shutdown => settings.linger_shutdown,
        Reason::Operator => settings.linger_operator,
        Reason::Lifecycle | Reason::Pool => None,
    };
    own.unwrap_or(settings.linger)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Settings;

    const SECOND: Duration = Duration::from_secs(1);

    fn facts(reason: Reason) -> Facts {
        let (answer, hook) = (Some(Traffic::Balanced), HookWait::Unknown);
        Facts { reason, answer, hook, waited: SECOND, refused_for: None, is_refusal_seen: true }
    }

    fn answers(wait: Wait) -> Option<bool> {
        match wait {
            Wait::Now { answers, .. } => Some(answers),
            Wait::BeforeLeaving { .. } | Wait::Over => None,
        }
    }

    #[test]
    fn a_node_that_auto_scaling_terminates_serves_until_the_hook_waits() {
        let settings = Settings::default().leave;
        let judge = |facts| judge(&facts, &settings);
        for reason in [Reason::Lifecycle, Reason::Pool] {
            for answer in [None, Some(Traffic::Balanced), Some(Traffic::Replacing)] {
                let late = Facts { answer, waited: 3000 * SECOND, ..facts(reason) };
                for hook in [HookWait::Unknown, HookWait::StillToCome] {
                    assert_eq!(answers(judge(Facts { hook, ..late })), Some(true), "{hook:?}");
                }
                for hook in [HookWait::Waits, HookWait::Over, HookWait::NoHook] {
                    assert_eq!(judge(Facts { hook, ..late }), Wait::Over, "{hook:?}");
                }
            }
            let no_hook = Facts { hook: HookWait::NoHook, ..facts(reason) };
            assert_eq!(answers(judge(no_hook)), Some(true), "the deregistration delay");
        }
    }

    #[test]
    fn a_node_that_nobody_deregisters_answers_with_503_and_goes_on_serving() {
        let mut settings = Settings::default().leave;
        settings.linger_spot = Some(5 * SECOND);
        for (reason, linger) in [(Reason::Operator, 20), (Reason::Shutdown, 20), (Reason::Spot, 5)]
        {
            let judge = |seconds: Option<u32>, answer| {
                let refused_for = seconds.map(|seconds| seconds * SECOND);
                judge(&Facts { refused_for, answer, ..facts(reason) }, &settings)
            };
            let balanced = Some(Traffic::Balanced);
            assert_eq!(answers(judge(None, balanced)), Some(false), "{reason}");
            assert_eq!(answers(judge(Some(linger - 1), balanced)), Some(false), "{reason}");
            assert_eq!(judge(Some(linger), balanced), Wait::Over, "{reason}");
            assert_eq!(judge(None, Some(Traffic::None)), Wait::Over, "{reason}");
            let is_patient = reason.may_be_withdrawn();
            assert_eq!(answers(judge(None, None)), Some(is_patient), "{reason}");
        }
        settings.linger = Duration::ZERO;
        let now = Facts { refused_for: Some(Duration::ZERO), ..facts(Reason::Operator) };
        assert_eq!(judge(&now, &settings), Wait::Over);
    }

    #[test]
    fn a_balancer_that_asks_nobody_cannot_know_that_the_node_leaves() {
        let silent =
            Facts { refused_for: Some(SECOND), is_refusal_seen: false, ..facts(Reason::Spot) };
        let mut settings = Settings::default().leave;
        assert!(silent.is_unseen(&settings));
        for seen in [
            Facts { is_refusal_seen: true, ..silent },
            Facts { answer: Some(Traffic::None), ..silent },
            Facts { answer: None, ..silent },
            Facts { refused_for: None, ..silent },
            Facts { reason: Reason::Lifecycle, ..silent },
        ] {
            assert!(!seen.is_unseen(&settings), "{seen:?}");
        }
        settings.linger = Duration::ZERO;
        assert!(!silent.is_unseen(&settings), "nobody was waited for");
    }

    #[test]
    fn a_notice_that_may_be_withdrawn_makes_no_group_replace_the_node() {
        let settings = Settings::default().leave;
        for reason in [Reason::Spot, Reason::Maintenance, Reason::Rebalance] {
            let seen = Facts { answer: Some(Traffic::Replacing), ..facts(reason) };
            assert_eq!(judge(&seen, &settings), Wait::BeforeLeaving { answers: true });
            let refused = Facts { refused_for: Some(SECOND), ..seen };
            assert_eq!(judge(&refused, &settings), Wait::BeforeLeaving { answers: false });
            let over = Facts { refused_for: Some(20 * SECOND), ..seen };
            assert_eq!(judge(&over, &settings), Wait::Over);
            let silent = Facts { answer: None, waited: ANSWER_WITHIN, ..seen };
            assert_eq!(answers(judge(&silent, &settings)), Some(false), "no manager answers");
        }
        let operator = Facts { answer: Some(Traffic::Replacing), ..facts(Reason::Operator) };
        assert_eq!(answers(judge(&operator, &settings)), Some(false), "it leaves in any case");
    }
}
