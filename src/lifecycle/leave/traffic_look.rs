//! Looks at the traffic of a departing node, and sets its answer to health checks.

use time::OffsetDateTime;
use tokio::time::Instant;

use super::decide::Observed;
use super::memory::Memory;
use super::traffic::{Facts, Wait, judge};
use crate::common::hook_wait::HookWait;
use crate::common::instance::Departure;
use crate::node::Node;

/// Completes an observation with the traffic of this node, and sets the answer to health checks by it.
pub fn look(node: &Node, departure: &Departure, memory: &mut Memory, seen: &mut Observed) {
    let now = Instant::now();
    let state = node.state.now();
    let facts = Facts {
        reason: departure.reason,
        answer: seen.row.as_ref().and_then(|row| row.traffic),
        hook: state.hook_wait,
        waited: now - memory.start,
        refused_for: memory.refused_since.map(|since| now - since),
        is_refusal_seen: state.is_refusal_seen,
    };
    seen.traffic = judge(&facts, &node.settings.leave);
    seen.awaits_turn =
        seen.row.as_ref().is_some_and(|row| row.awaits_turn(OffsetDateTime::now_utc()));
    if seen.is_held() || seen.awaits_turn {
        memory.asked_at = now;
    }
    let answers = match seen.traffic {
        Wait::Now { answers, .. } => answers && seen.is_held(),
        Wait::BeforeLeaving { answers } => answers && seen.may_be_member() && !seen.clock.leave_due,
        Wait::Over => false,
    };
    if !answers {
        refuse(node, memory);
    }
    if let Some(why) = not_waited_for(node, seen, &facts)
        && !memory.is_cut_told
    {
        memory.is_cut_told = true;
        tracing::warn!("requests may be lost: this node is drained without waiting for {why}");
    }
}

/// Answers health checks with 503 from now on.
pub fn refuse(node: &Node, memory: &mut Memory) {
    if memory.refused_since.is_none() {
        memory.refused_since = Some(Instant::now());
        node.state.update(|state| state.is_out_of_traffic = true);
    }
}

/// Returns what the departure does not wait for any longer, and why.
fn not_waited_for(node: &Node, seen: &Observed, facts: &Facts) -> Option<String> {
    match seen.traffic {
        _ if !seen.may_be_member() => None,
        Wait::Now { why, .. } if !seen.is_held() => {
            let cause = if seen.clock.traffic_over {
                "its share of the deadline is over"
            } else {
                "managers drain this node already"
            };
            Some(format!("{why}: {cause}"))
        }
        Wait::Over if facts.hook == HookWait::Over => Some(
            "Auto Scaling: its termination hook was completed elsewhere, or timed out".to_owned(),
        ),
        Wait::Over if facts.is_unseen(&node.settings.leave) => Some(
            "the load balancer to stop sending: none has asked for this node's health since it answers with \
             503. Do the target group's health checks ask the health port?"
                .to_owned(),
        ),
        Wait::BeforeLeaving { .. } if seen.clock.leave_due => {
            Some("the load balancer: only the time for leaving is left".to_owned())
        }
        _ => None,
    }
}
