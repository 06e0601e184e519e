//! Delays the report of success while services are worse off than before the departures that are under way, so that a
//! rolling update or an instance refresh does not take the next node too early.
//!
//! Guarantees: success is delayed for a third of the time that the launch hook waits, and of `boot.deadline`, which the
//! stack's own time must exceed; and for half of what is left of both. Then it is reported, whatever the services do, and
//! the log tells so. Silence of the ledger is no answer: it delays the report just as long. Only a first boot is delayed.

use std::time::Duration;

use tokio::time::Instant;

use crate::common::errors::chain;
use crate::lifecycle::signals::Announcer;
use crate::node::Node;

/// Time between two reads of the managers' statement.
const INTERVAL: Duration = Duration::from_secs(5);
/// Shortest timeout that Auto Scaling accepts for a hook: it counts if the hook's own is unknown.
const SHORTEST_HOOK: Duration = Duration::from_secs(30);
/// The delay's part of a timeout.
const PART: u32 = 3;

/// Returns once success can be reported. `began` is the start of the first boot.
pub async fn delay(node: &Node, announcer: &Announcer, began: Option<Instant>) {
    let Some(began) = began.filter(|_| node.settings.pace.delay_success) else { return };
    if announcer.has_reported().await {
        return;
    }
    let hook = announcer.launch_timeout().await.unwrap_or_else(|error| {
        tracing::warn!("cannot tell how long the launch hook waits: {}", chain(&error));
        Some(SHORTEST_HOOK)
    });
    until_whole(node, longest(hook, node.settings.boot.deadline, began.elapsed())).await;
}

/// Returns the longest delay after a boot that took `boot`.
fn longest(hook: Option<Duration>, deadline: Duration, boot: Duration) -> Duration {
    let timeout = hook.map_or(deadline, |hook| hook.min(deadline));
    (timeout / PART).min(timeout.saturating_sub(boot) / 2)
}

async fn until_whole(node: &Node, longest: Duration) {
    let until = Instant::now() + longest;
    let mut logged = None;
    loop {
        let why = match node.ledger.fetch_services_worse().await {
            Ok(None) => return,
            Ok(Some(worse)) => format!("services are worse off, after {}", worse.after),
            Err(error) => format!("cannot tell whether services are whole: {}", chain(&error)),
        };
        if Instant::now() >= until {
            let longest = humantime::format_duration(longest);
            tracing::warn!("reporting success after a delay of {longest} all the same: {why}");
            return;
        }
        if logged.as_ref() != Some(&why) {
            tracing::info!("success is not reported yet: {why}");
            logged = Some(why);
        }
        tokio::time::sleep_until((Instant::now() + INTERVAL).min(until)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clients::aws::stub::Stub;
    use crate::clients::docker::tests::fake_engine::{FakeEngine, RELEASES};

    #[test]
    fn a_delay_leaves_the_hook_and_the_stack_time() {
        let seconds = Duration::from_secs;
        assert_eq!(longest(None, seconds(600), seconds(60)), seconds(200));
        assert_eq!(longest(Some(seconds(300)), seconds(600), seconds(60)), seconds(100));
        assert_eq!(longest(Some(seconds(900)), seconds(600), seconds(60)), seconds(200));
        assert_eq!(longest(Some(seconds(300)), seconds(600), seconds(200)), seconds(50));
        assert_eq!(longest(Some(seconds(300)), seconds(600), seconds(5000)), seconds(0));
    }

    #[tokio::test]
    async fn success_waits_until_the_services_are_whole_or_the_time_is_over() {
        let (engine, stub) = (FakeEngine::start(RELEASES[0]), Stub::start().await);
        let node = Node::example(engine.swarm(), &stub).await;
        stub.answer(200, "{}");
        until_whole(&node, Duration::from_secs(3600)).await;
        assert_eq!(stub.requests().len(), 1, "no departure is under way");
        let worse = r#"{ "Item": { "item": { "S": "services" }, "schema": { "N": "2" },
            "after": { "S": "i-1 (service web)" }, "at": { "N": "1" }, "expires_at": { "N": "2" } } }"#;
        for answer in [(200, worse), (400, r#"{ "__type": "AccessDeniedException" }"#)] {
            stub.answer(answer.0, answer.1);
            stub.answer(answer.0, answer.1);
            let began = Instant::now();
            until_whole(&node, Duration::from_millis(50)).await;
            assert!(began.elapsed() >= Duration::from_millis(50));
        }
    }
}
