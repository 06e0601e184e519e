//! Keeps the termination hook alive during a departure, and completes it.

use std::convert::Infallible;
use std::time::Duration;

use time::OffsetDateTime;
use tokio::time::Instant;

use crate::clients::aws::autoscaling::HookResult;
use crate::clients::imds::TargetState;
use crate::common::errors::chain;
use crate::common::fact::Fact;
use crate::common::hook_wait::HookWait;
use crate::common::instance::Departure;
use crate::common::state::Phase;
use crate::lifecycle::leave::Outcome;
use crate::lifecycle::notices::Notices;
use crate::lifecycle::signals::{Announcer, TerminationHook};
use crate::node::Node;

/// Time limit for the metadata, if the notice came from another source.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// Auto Scaling ends every lifecycle action after this time, in spite of heartbeats.
const LONGEST_ACTION: Duration = Duration::from_secs(48 * 3600);

/// Sends heartbeats while the node leaves; the hook's longest time becomes the departure's deadline. If the node leaves
/// for another reason, this function polls whether Auto Scaling terminates it meanwhile.
pub async fn keep_alive(
    node: &Node,
    announcer: &Announcer,
    notices: &Notices,
    departure: &Departure,
) -> Infallible {
    // The hook of an earlier departure may belong to another group.
    announcer.forget_termination_hook();
    if !departure.reason.is_auto_scalings() {
        while !is_terminating(node).await.is_yes() {
            tokio::time::sleep(node.settings.notices.interval).await;
        }
    }
    let Ok(hook) = announcer.find_termination_hook(Instant::now() + LONGEST_ACTION).await else {
        return std::future::pending().await;
    };
    let deadline = match &hook {
        // Heartbeats hold the instance from now on, no matter when this departure began.
        Some(hook) => OffsetDateTime::now_utc() + hook.longest(),
        // No hook holds the instance: it has only the time of a shutdown.
        None => OffsetDateTime::now_utc() + node.settings.leave.shutdown_deadline,
    };
    notices.give(Departure { deadline, ..departure.clone() });
    match hook {
        Some(hook) => hook.keep_alive().await,
        None => {
            announcer.see_hook(HookWait::NoHook);
            std::future::pending().await
        }
    }
}

/// Whether Auto Scaling terminates this instance, by its metadata.
async fn is_terminating(node: &Node) -> Fact {
    match node.imds.fetch_target_lifecycle_state(Instant::now() + ANSWER_WITHIN).await {
        Ok(target) => target.as_ref().is_some_and(TargetState::is_termination).into(),
        Err(_) => Fact::CannotTell,
    }
}

/// Completes the hook, if Auto Scaling terminates this instance.
pub async fn complete(node: &Node, announcer: &Announcer, departure: &Departure, outcome: Outcome) {
    if !departure.reason.is_auto_scalings() {
        match is_terminating(node).await {
            Fact::Yes => {}
            Fact::No => return,
            Fact::CannotTell => {
                tracing::warn!(
                    "cannot tell from the metadata whether Auto Scaling terminates this instance; the managers complete the termination hook, if there is one"
                );
                return;
            }
        }
    }
    let Some(hook) = find_hook(node, announcer, departure).await else { return };
    node.state.enter(Phase::Leaving, "completing the termination hook");
    // Both results terminate the instance; they differ in whether the departure was complete.
    let result = match outcome {
        Outcome::TooLate | Outcome::DockerSilent | Outcome::Failed => HookResult::Abandon,
        Outcome::Left | Outcome::LeftUnconfirmed | Outcome::NothingToLeave | Outcome::Stayed => {
            HookResult::Continue
        }
    };
    hook.complete(result).await;
}

/// Returns the hook that was kept alive; without one, the hook that Auto Scaling names in time.
async fn find_hook(
    node: &Node,
    announcer: &Announcer,
    departure: &Departure,
) -> Option<TerminationHook> {
    if let Some(hook) = announcer.known_termination_hook() {
        return Some(hook);
    }
    node.state.enter(Phase::Leaving, "looking for the termination hook");
    let shutdown = node.settings.leave.shutdown_deadline;
    let time = search_time(departure, OffsetDateTime::now_utc(), shutdown);
    match announcer.find_termination_hook(Instant::now() + time).await {
        Ok(hook) => hook,
        Err(error) => {
            tracing::warn!(
                "the termination hook was not completed, if there is one: no usable answer from Auto Scaling within {} s ({})",
                time.as_secs(),
                chain(&error)
            );
            None
        }
    }
}

/// Returns how long to search for a hook once the departure has ended: the rest of its time, and at least the time of a
/// shutdown. An instance that returns to a warm pool must not search forever.
fn search_time(departure: &Departure, now: OffsetDateTime, shutdown: Duration) -> Duration {
    Duration::try_from(departure.deadline - now).unwrap_or_default().max(shutdown)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clients::aws::stub::Stub;
    use crate::clients::docker::Swarm;
    use crate::common::instance::Reason;
    use crate::lifecycle::signals::tests::{COMPLETED, NO_HOOKS, hooks, listed};

    const WAITS: &str = "Terminating:Wait";

    /// Returns a departure that began `age` ago and has an hour left.
    fn departure(reason: Reason, age: Duration) -> Departure {
        let now = OffsetDateTime::now_utc();
        Departure { reason, noticed_at: now - age, deadline: now + Duration::from_secs(3600) }
    }

    /// Returns a node whose shutdown deadline is zero.
    async fn node(stub: &Stub) -> (Node, Announcer) {
        let mut node = Node::example(Swarm::new("unix:///nowhere".to_owned()), stub).await;
        node.settings.leave.shutdown_deadline = Duration::ZERO;
        let announcer = Announcer::new(&node.instance, &node.settings, &stub.aws().await);
        (node, announcer)
    }

    async fn until_asked(stub: &Stub, times: usize) {
        while stub.requests().len() < times {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_hook_that_was_kept_alive_is_completed_although_nobody_names_it_any_more() {
        let stub = Stub::start().await;
        let (node, announcer) = node(&stub).await;
        let departure = Departure {
            deadline: OffsetDateTime::now_utc(),
            ..departure(Reason::Lifecycle, Duration::ZERO)
        };
        stub.answer(200, &listed("workers", WAITS));
        stub.answer(200, &hooks("skep-terminate", "TERMINATING"));
        let notices = Notices::default();
        tokio::select! {
            never = keep_alive(&node, &announcer, &notices, &departure) => match never {},
            // The third is a heartbeat.
            () = until_asked(&stub, 3) => {}
        }
        stub.answer(200, COMPLETED);
        complete(&node, &announcer, &departure, Outcome::Left).await;
        let request = stub.last_request();
        for part in ["CompleteLifecycleAction", "AutoScalingGroupName=workers", "CONTINUE"] {
            assert!(request.contains(part), "no {part} in {request}");
        }
    }

    #[tokio::test]
    async fn a_hook_that_is_not_known_is_looked_for_in_the_departures_own_time() {
        let stub = Stub::start().await;
        let (node, announcer) = node(&stub).await;
        stub.answer(200, &listed("workers", WAITS));
        stub.answer(200, &hooks("skep-terminate", "TERMINATING"));
        stub.answer(200, COMPLETED);
        let departure = departure(Reason::Lifecycle, Duration::ZERO);
        complete(&node, &announcer, &departure, Outcome::TooLate).await;
        assert!(stub.last_request().contains("ABANDON"), "{}", stub.last_request());

        let now = departure.noticed_at;
        let (minute, shutdown) = (Duration::from_secs(60), Duration::from_secs(80));
        let until =
            |deadline| search_time(&Departure { deadline, ..departure.clone() }, now, shutdown);
        assert_eq!(until(now + 5 * minute), 5 * minute);
        assert_eq!(until(now - minute), shutdown);
    }

    /// The departure's first notice is older than the time of a shutdown.
    #[tokio::test]
    async fn a_departure_that_is_under_way_has_the_time_of_a_shutdown_from_a_termination_without_a_hook()
     {
        for reason in [Reason::Operator, Reason::Spot] {
            let stub = Stub::start().await;
            let (mut node, announcer) = node(&stub).await;
            let shutdown = Duration::from_secs(80);
            node.settings.leave.shutdown_deadline = shutdown;
            let departure = departure(reason, Duration::from_secs(600));
            let notices = Notices::default();
            notices.give(departure.clone());
            let mut news = notices.subscribe();
            stub.answer(200, "token");
            stub.answer(200, "Terminated");
            stub.answer(200, &listed("workers", WAITS));
            stub.answer(200, NO_HOOKS);
            let before = OffsetDateTime::now_utc();
            let has_changed = news.wait_for(|notice| {
                notice.departure.as_ref().is_some_and(|it| it.deadline != departure.deadline)
            });
            tokio::select! {
                never = keep_alive(&node, &announcer, &notices, &departure) => match never {},
                changed = has_changed => drop(changed.unwrap()),
            }
            let deadline = notices.now().unwrap().deadline;
            let after = OffsetDateTime::now_utc();
            assert!(deadline >= before + shutdown && deadline <= after + shutdown, "{reason}");
        }
    }

    #[tokio::test]
    async fn metadata_that_do_not_answer_do_not_deny_a_termination() {
        let stub = Stub::start().await;
        let (node, _) = node(&stub).await;
        stub.answer(200, "token");
        stub.answer(403, "");
        assert_eq!(is_terminating(&node).await, Fact::CannotTell);
        stub.answer(404, "");
        assert_eq!(is_terminating(&node).await, Fact::No);
        stub.answer(200, "Terminated");
        assert_eq!(is_terminating(&node).await, Fact::Yes);
    }
}
