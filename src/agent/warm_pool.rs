//! Handles warm pools: an instance that was prepared ahead, or has returned to the pool, is no node until it enters
//! service.
//!
//! Guarantees: the instance is admitted to the pool, and ends without a departure, only if Docker and the ledger
//! report that it is no member and that no departure of it was interrupted. Until then it waits, and `skep status`
//! shows the reason. If there is no answer whether the instance is in a pool, skep retries for up to
//! [`POOL_PATIENCE`].

use std::time::Duration;

use tokio::time::Instant;

use super::earlier_membership;
use crate::clients::docker::LocalState;
use crate::clients::imds::TargetState;
use crate::clients::systemd;
use crate::common::errors::chain;
use crate::common::instance::{Departure, Reason};
use crate::common::state::Phase;
use crate::lifecycle::boot;
use crate::lifecycle::leave;
use crate::lifecycle::notices::Notices;
use crate::lifecycle::signals::Announcer;
use crate::node::Node;

/// Name of this duty's trouble.
const WHO: &str = "the warm pool";
/// Time limit for metadata and Docker; a retry follows soon.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// How long skep asks whether the instance is in a pool, like the other waits of the first minute: a lasting outage of
/// Auto Scaling must not keep a fleet from booting.
const POOL_PATIENCE: Duration = Duration::from_secs(60);
/// Time between two requests to Auto Scaling.
const POOL_INTERVAL: Duration = Duration::from_secs(5);

/// The result of the wait before the boot.
pub enum Wait {
    /// The instance is in its group, or in none.
    None,
    /// The instance was in a warm pool, and enters service.
    Over,
    /// The instance ends without having served: Docker itself reports that there is nothing to leave.
    Ended(Departure),
    /// The node is still a member, or has left but not completed its departure: skep died on the way back to the pool.
    MustLeave,
    /// There is a notice, and Docker has not reported that there is nothing to leave.
    Departs,
}

/// Waits while the instance is in a warm pool. `is_pooled` is the metadata's answer, if there was one.
pub async fn await_service(
    node: &Node,
    announcer: &Announcer,
    notices: &Notices,
    is_pooled: Option<bool>,
) -> Wait {
    let is_pooled = match is_pooled {
        Some(known) => known,
        // If there is already a notice, the boot finds out what there is to leave.
        None => tokio::select! {
            biased;
            _ = notices.given() => false,
            is_it = ask_whether_pooled(node, announcer) => is_it,
        },
    };
    node.state.trouble(WHO, None);
    if !is_pooled {
        return Wait::None;
    }
    node.state.enter(Phase::Warmed, "waiting to enter service");
    // Without READY, systemd would kill the unit when its start times out.
    systemd::notify_ready();
    let wait = tokio::select! {
        biased;
        departure = given_in_the_pool(notices) => end(node, departure).await,
        () = until_in_service(node) => Wait::Over,
        () = admit(node, announcer) => Wait::MustLeave,
    };
    node.state.trouble(WHO, None);
    wait
}

/// Asks Auto Scaling whether the instance is in a warm pool, if the metadata did not answer at first. After a refusal,
/// or no answer for [`POOL_PATIENCE`], the instance boots as it would without warm pools.
async fn ask_whether_pooled(node: &Node, announcer: &Announcer) -> bool {
    let give_up = Instant::now() + POOL_PATIENCE;
    loop {
        let error = match announcer.is_in_warm_pool().await {
            Ok(is_pooled) => return is_pooled,
            Err(error) => error,
        };
        let why = format!("cannot tell whether this instance is in a warm pool: {}", chain(&error));
        if !error.is_retryable() || Instant::now() >= give_up {
            tracing::warn!("booting as if outside a warm pool: {why}");
            return false;
        }
        node.state.trouble(WHO, Some(why));
        tokio::time::sleep(POOL_INTERVAL).await;
        let deadline = Instant::now() + ANSWER_WITHIN;
        if let Ok(Some(target)) = node.imds.fetch_target_lifecycle_state(deadline).await {
            return target.is_pooled();
        }
    }
}

/// Judges a notice in the pool. A departure reads Docker and the ledger until its own deadline.
async fn end(node: &Node, departure: Departure) -> Wait {
    let local = tokio::time::timeout(ANSWER_WITHIN, node.swarm.fetch_local_node()).await;
    match local {
        Ok(Ok(local)) if local.state == LocalState::Inactive => Wait::Ended(departure),
        _ => Wait::Departs,
    }
}

/// Waits for a notice other than the return to the pool: the instance is already there.
async fn given_in_the_pool(notices: &Notices) -> Departure {
    loop {
        let departure = notices.given().await;
        if departure.reason != Reason::Pool {
            return departure;
        }
        notices.forget_pool();
    }
}

/// Admits an instance to the pool if it has nothing to leave; returns only if it has something to leave.
async fn admit(node: &Node, announcer: &Announcer) {
    /// Docker may be starting.
    const RETRY_INTERVAL: Duration = Duration::from_secs(5);
    loop {
        match must_leave(node).await {
            Ok(true) => return,
            Ok(false) => break,
            Err(why) => {
                let what = format!(
                    "cannot tell whether this node is a member of the swarm or has completed its departure, so it is not admitted to the warm pool: {why}"
                );
                node.state.trouble(WHO, Some(what));
                tokio::time::sleep(RETRY_INTERVAL).await;
            }
        }
    }
    node.state.trouble(WHO, None);
    boot::finish_before_the_pool(node).await;
    announcer.warmed().await;
    std::future::pending::<()>().await;
}

/// Whether the node must leave: Docker is in a swarm as the node that this instance's row names. The row is removed
/// with the node; an instance that was only prepared has no row. An instance that was Ready since this start of the
/// machine and is in no swarm has left: the ledger records whether its departure is complete, with its hook.
///
/// # Errors
/// The reason why skep cannot tell.
async fn must_leave(node: &Node) -> Result<bool, String> {
    let local = node.swarm.fetch_local_node().await.map_err(|error| chain(&error))?;
    if local.state == LocalState::Inactive {
        if !earlier_membership::was_ready(node) {
            return Ok(false);
        }
        return leave::is_interrupted(node).await.map_err(|error| chain(&error));
    }
    let row = node.ledger.fetch_member(node.role, &node.instance.id).await;
    match (row.map_err(|error| chain(&error))?, local.node_id) {
        (None, _) => Ok(false),
        (Some(row), Some(id)) => Ok(row.node_id == id),
        (Some(row), None) => {
            Err(format!("its row names node {}, and Docker none ({})", row.node_id, local.error))
        }
    }
}

async fn until_in_service(node: &Node) {
    loop {
        tokio::time::sleep(node.settings.notices.interval).await;
        let deadline = Instant::now() + ANSWER_WITHIN;
        match node.imds.fetch_target_lifecycle_state(deadline).await {
            Ok(target) if is_taken(target.as_ref()) => return,
            // The watch reports errors: it asks the same service.
            _ => {}
        }
    }
}

/// Whether an instance has left the pool to enter service. A termination is a notice, which ends the wait by itself.
fn is_taken(target: Option<&TargetState>) -> bool {
    target.is_some_and(|target| !target.is_pooled() && !target.is_termination())
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use secrecy::SecretString;
    use time::OffsetDateTime;

    use super::*;
    use crate::clients::aws::stub::Stub;
    use crate::clients::docker::tests::fake_engine::{FakeEngine, Instead, RELEASES};
    use crate::clients::docker::{Availability, JoinAnswer};
    use crate::common::instance::Instance;
    use crate::lifecycle::signals::tests::listed;

    async fn world() -> (FakeEngine, Stub, Node, Announcer) {
        let (engine, stub) = (FakeEngine::start(RELEASES[0]), Stub::start().await);
        let node = Node::example(engine.swarm(), &stub).await;
        let announcer = Announcer::new(&node.instance, &node.settings, &stub.aws().await);
        (engine, stub, node, announcer)
    }

    /// Joins as node `n1`.
    async fn join(node: &Node) {
        let (address, token) =
            (IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)), SecretString::from("SWMTKN-1-a-b"));
        let joined = node.swarm.join(address, address, &token, Availability::Active).await;
        assert_eq!(joined, JoinAnswer::Joined);
    }

    fn row(node_id: &str) -> String {
        format!(
            r#"{{"Item": {{"item": {{"S": "member#manager#i-0abc"}}, "schema": {{"N": "2"}}, "node_id": {{"S": "{node_id}"}},
                "instance_id": {{"S": "i-0abc"}}, "role": {{"S": "manager"}}, "zone": {{"S": "a"}},
                "address": {{"S": "10.0.0.1"}}, "generation": {{"N": "1"}},
                "state": {{"S": "ready"}}, "updated_at": {{"N": "1"}}}}}}"#
        )
    }

    #[tokio::test]
    async fn a_notice_in_the_pool_is_no_departure_only_where_docker_is_in_no_swarm() {
        let (engine, _stub, node, announcer) = world().await;
        let wait = async || {
            let notices = Notices::default();
            let noticed_at = OffsetDateTime::now_utc();
            let deadline = noticed_at + Duration::from_secs(600);
            notices.give(Departure { reason: Reason::Lifecycle, noticed_at, deadline });
            await_service(&node, &announcer, &notices, Some(true)).await
        };
        assert!(matches!(wait().await, Wait::Ended(_)));
        engine.lock().instead.insert("/info", Instead::Refusal(500, "busy"));
        assert!(matches!(wait().await, Wait::Departs), "Docker cannot tell");
        engine.lock().instead.clear();
        join(&node).await;
        assert!(matches!(wait().await, Wait::Departs), "a member");
    }

    #[tokio::test]
    async fn an_instance_that_has_left_ends_its_departure_before_it_is_let_into_the_pool() {
        let (_engine, stub, mut node, _) = world().await;
        let dir = tempfile::tempdir().unwrap();
        node.settings.state_dir = dir.path().to_owned();
        earlier_membership::remember(&node, "n1");
        let departure = |boot_id: &str, state: &str, ended: bool| {
            format!(
                r#"{{"Item": {{"item": {{"S": "departure#i-0abc"}}, "schema": {{"N": "2"}}, "instance_id": {{"S": "i-0abc"}}, "node_id": {{"S": "n1"}},
                    "role": {{"S": "manager"}}, "reason": {{"S": "pool"}}, "state": {{"S": "{state}"}},
                    "requested_at": {{"N": "1"}}, "deadline": {{"N": "2"}},
                    "boot_id": {{"S": "{boot_id}"}}, "ended": {{"BOOL": {ended}}},
                    "expires_at": {{"N": "3"}}}}}}"#
            )
        };
        let boot_id = node.boot_id.clone();
        for (answer, is_due) in [
            (departure(&boot_id, "drained", false), true),
            (departure(&boot_id, "left", false), true),
            (departure(&boot_id, "removed", false), true),
            (departure(&boot_id, "removed", true), false),
            (departure("another", "left", false), false),
            ("{}".to_owned(), false),
        ] {
            stub.answer(200, &answer);
            assert_eq!(must_leave(&node).await, Ok(is_due), "{answer}");
        }
        assert!(must_leave(&node).await.is_err(), "the ledger does not answer");
        earlier_membership::forget(&node);
        let asked = stub.requests().len();
        assert_eq!(must_leave(&node).await, Ok(false), "it has never been Ready");
        assert_eq!(stub.requests().len(), asked);
    }

    #[tokio::test]
    async fn a_member_is_who_its_row_and_docker_name_and_neither_may_be_silent() {
        let (engine, stub, node, _) = world().await;
        assert_eq!(must_leave(&node).await, Ok(false));
        assert_eq!(stub.requests(), [""; 0], "Docker's answer is enough");
        engine.lock().instead.insert("/info", Instead::Refusal(500, "busy"));
        assert!(must_leave(&node).await.unwrap_err().contains("busy"));
        engine.lock().instead.clear();
        join(&node).await;
        assert!(must_leave(&node).await.is_err(), "the ledger does not answer");
        for (answer, is_it) in
            [(row("n1"), true), (row("another"), false), ("{}".to_owned(), false)]
        {
            stub.answer(200, &answer);
            assert_eq!(must_leave(&node).await, Ok(is_it), "{answer}");
        }
    }

    /// An instance of a pool that joined would be stopped a moment later, a manager together with its vote.
    #[tokio::test]
    async fn whether_it_is_in_a_pool_is_asked_again_where_no_answer_comes() {
        for (lifecycle, is_it) in [("Warmed:Running", true), ("InService", false)] {
            let (_engine, stub, node, _) = world().await;
            let instance = Instance { group: Some("workers".into()), ..node.instance.clone() };
            let announcer = Announcer::new(&instance, &node.settings, &stub.aws().await);
            let mut state = node.state.subscribe();
            stub.answer(403, &Stub::xml_error("AccessDenied", "no"));
            assert!(!ask_whether_pooled(&node, &announcer).await, "a role without it must boot");
            stub.answer(503, "");
            let going_on = async {
                drop(state.wait_for(|state| state.trouble.is_some()).await.unwrap());
                stub.answer(200, "token");
                stub.answer(404, "");
                stub.answer(200, &listed("workers", lifecycle));
                tokio::time::pause();
                tokio::time::advance(POOL_INTERVAL).await;
                tokio::time::resume();
            };
            assert_eq!(tokio::join!(ask_whether_pooled(&node, &announcer), going_on).0, is_it);
            let trouble = node.state.now().trouble.unwrap();
            assert!(trouble.contains("whether this instance is in a warm pool"), "{trouble}");
        }
    }

    #[tokio::test]
    async fn nobody_is_let_into_the_pool_before_docker_has_answered() {
        let (engine, stub, node, announcer) = world().await;
        engine.lock().instead.insert("/info", Instead::Refusal(500, "busy"));
        let (notices, mut state) = (Notices::default(), node.state.subscribe());
        let until_asked = async {
            while stub.requests().is_empty() {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            biased;
            _ = await_service(&node, &announcer, &notices, Some(true)) => panic!("it waits"),
            () = until_asked => panic!("Auto Scaling was asked for the hook"),
            shown = state.wait_for(|state| state.trouble.is_some()) => drop(shown.unwrap()),
        }
        let trouble = node.state.now().trouble.unwrap();
        assert!(trouble.contains("warm pool") && trouble.contains("busy"), "{trouble}");
    }

    #[test]
    fn an_instance_of_the_pool_waits_until_it_is_taken_into_service() {
        let waits = |target: &str| TargetState::from(target).is_pooled();
        for target in ["Stopped", "Running", "Hibernated", "Terminated", "Elsewhere"] {
            assert!(waits(&format!("Warmed:{target}")));
        }
        for target in ["InService", "Standby", "Detached", "Terminated"] {
            assert!(!waits(target));
        }
    }

    #[test]
    fn neither_silence_nor_a_termination_takes_it_into_service() {
        let taken = |target: &str| is_taken(Some(&TargetState::from(target)));
        assert!(taken("InService"));
        assert!(["Warmed:Running", "Warmed:Terminated", "Terminated"].iter().all(|it| !taken(it)));
        assert!(!is_taken(None));
    }
}
