//! Re-creates the quorum for the operator on a node that is leaving: the only manager that has survived, whose instance
//! is scaled in.
//!
//! Guarantees: it runs between two rounds of the departure, and never takes more than draining's share. The departure
//! continues after a success and after a failure. After a success it serves the re-created swarm: tasks that have
//! started again are drained and flushed, and the time for a replacement starts anew.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::budget_of;
use super::memory::Memory;
use crate::clients::docker::NodeView;
use crate::clients::ledger::MemberState;
use crate::common::errors::chain;
use crate::common::fact::Fact;
use crate::common::instance::Role;
use crate::common::state::Phase;
use crate::lifecycle::boot;
use crate::lifecycle::notices::Notice;
use crate::node::Node;

/// Interval of reading the charter, to find a claim whose answer was lost, or one of an earlier start of skep.
const CLAIM_EVERY: Duration = Duration::from_secs(60);
/// Pause after the charter could not be read: an operator may have claimed a moment ago.
const CLAIM_AGAIN: Duration = Duration::from_secs(5);
/// DynamoDB answers within milliseconds; without an answer the departure continues.
const CHARTER_WITHIN: Duration = Duration::from_secs(5);
/// At least every 8 s, a worker's Docker tries to reach one of the managers that it knows.
const WORKERS_BACK_WITHIN: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Whether this node has claimed to re-create the quorum. Called between two rounds, once the departure is in the
/// ledger.
pub(super) async fn is_due(node: &Node, memory: &mut Memory) -> bool {
    let is_told = timeout(Duration::ZERO, node.recovery_begun.notified()).await.is_ok();
    let is_check_due = memory.claim_check_at.is_none_or(|at| at <= Instant::now());
    // Only managers claim.
    if node.role != Role::Manager || !(is_told || is_check_due) || memory.is_recovery_over {
        return false;
    }
    let claim = has_claimed(node).await;
    let pause = if claim == Fact::CannotTell { CLAIM_AGAIN } else { CLAIM_EVERY };
    memory.claim_check_at = Some(Instant::now() + pause);
    claim.is_yes()
}

async fn has_claimed(node: &Node) -> Fact {
    let me = &node.instance.id;
    match timeout(CHARTER_WITHIN, node.ledger.fetch_charter()).await {
        Ok(Ok(charter)) => {
            charter.is_some_and(|it| it.is_recovery() && it.is_claimed_by(me)).into()
        }
        Ok(Err(_)) | Err(_) => Fact::CannotTell,
    }
}

/// Re-creates the quorum, and waits for the workers: only this one of the managers that they know is left to send them
/// the addresses of others.
pub(super) async fn run(node: &Node, memory: &mut Memory, news: &mut watch::Receiver<Notice>) {
    const DOING: &str = "re-creating the quorum";
    node.state.enter(Phase::Leaving, DOING);
    // Code of the boot does the work; its steps must show as the departure's.
    let leaving = Node { state: node.state.while_leaving(DOING), ..node.clone() };
    let recovered = within_share(node, memory, news, boot::finish_recovery(&leaving)).await;
    let Some(recovered) = recovered else {
        memory.is_recovery_over = true;
        node.state.set_recovery_until(None);
        tracing::error!(
            "could not re-create the quorum within draining's share of the deadline; the departure continues without it"
        );
        return;
    };
    let Some(membership) = recovered else {
        tracing::warn!("the quorum is not re-created here; the departure continues");
        return;
    };
    memory.begin_again(membership.clone());
    node.state.update(|state| state.membership = Some(membership.clone()));
    tracing::warn!("the quorum is re-created, and the departure continues");
    node.state.enter(Phase::Leaving, "waiting for the workers to reconnect");
    if let Err(error) = node.record_member(&membership, MemberState::Leaving).await {
        tracing::warn!("{}", chain(&error));
    }
    let _ = within_share(node, memory, news, timeout(WORKERS_BACK_WITHIN, all_ready(node))).await;
}

/// Does `work` until draining's share of the deadline ends, which may come nearer meanwhile; returns `None` then.
async fn within_share<T>(
    node: &Node,
    memory: &mut Memory,
    news: &mut watch::Receiver<Notice>,
    work: impl Future<Output = T>,
) -> Option<T> {
    tokio::pin!(work);
    loop {
        let departure = news.borrow_and_update().departure.clone()?;
        node.state.set_departure(&departure);
        let until = budget_of(node, &departure, memory).drain_until;
        tokio::select! {
            done = &mut work => return Some(done),
            () = sleep_until(until) => return None,
            Ok(()) = news.changed() => {}
        }
    }
}

/// Waits until every node in the node list is Ready.
async fn all_ready(node: &Node) {
    while !node.swarm.fetch_nodes().await.is_ok_and(|nodes| nodes.iter().all(NodeView::is_ready)) {
        sleep(LOOK_EVERY).await;
    }
}

#[cfg(test)]
mod tests {
    use time::OffsetDateTime;

    use super::*;
    use crate::clients::aws::stub::Stub;
    use crate::clients::docker::Swarm;
    use crate::common::instance::{Departure, Reason};
    use crate::lifecycle::notices::Notices;

    fn charter(founder: &str, phase: &str) -> String {
        format!(
            r#"{{"Item": {{"cluster": {{"S": "prod"}}, "item": {{"S": "charter"}}, "schema": {{"N": "2"}}, "phase": {{"S": "{phase}"}},
                "generation": {{"N": "2"}}, "founder": {{"S": "{founder}"}}, "lease_expires_at": {{"N": "1"}},
                "recovers": {{"S": "swarm"}}}}}}"#
        )
    }

    #[tokio::test]
    async fn a_claim_of_this_node_alone_makes_it_due() {
        let stub = Stub::start().await;
        let node = Node::example(Swarm::new("unix:///nowhere".to_owned()), &stub).await;
        let me = node.instance.id.clone();
        let due = async |status, answer: &str, is_told: bool| {
            // Without `is_told`, the claim is of an earlier start of skep.
            let mut memory = Memory::new(Instant::now());
            if is_told {
                memory.claim_check_at = Some(Instant::now() + CLAIM_EVERY);
                node.recovery_begun.notify_one();
            }
            stub.answer(status, answer);
            is_due(&node, &mut memory).await
        };
        for is_told in [true, false] {
            assert!(due(200, &charter(&me, "founding"), is_told).await);
            assert!(!due(200, &charter("i-another", "founding"), is_told).await);
            assert!(!due(200, &charter(&me, "open"), is_told).await, "it is done");
            assert!(!due(200, "{}", is_told).await);
            assert!(!due(500, "{}", is_told).await, "cannot tell");
        }
    }

    /// An operator has claimed, and reading the charter fails.
    #[tokio::test]
    async fn a_charter_that_cannot_be_read_is_asked_for_again_in_a_few_seconds() {
        let stub = Stub::start().await;
        let mut node = Node::example(Swarm::new("unix:///nowhere".to_owned()), &stub).await;
        let mut memory = Memory::new(Instant::now());
        let next = |memory: &Memory| memory.claim_check_at.unwrap() - Instant::now();
        node.recovery_begun.notify_one();
        assert!(!is_due(&node, &mut memory).await, "cannot tell");
        assert!(next(&memory) <= CLAIM_AGAIN);
        let asked = stub.requests().len();
        assert!(!is_due(&node, &mut memory).await);
        assert_eq!(stub.requests().len(), asked, "not asked every half second");

        memory.claim_check_at = Some(Instant::now());
        stub.answer(200, &charter(&node.instance.id, "founding"));
        assert!(is_due(&node, &mut memory).await);
        assert!(next(&memory) > CLAIM_EVERY / 2, "it was answered");

        let asked = stub.requests().len();
        node.role = Role::Worker;
        assert!(!is_due(&node, &mut Memory::new(Instant::now())).await);
        assert_eq!(stub.requests().len(), asked, "a worker claims nothing");
    }

    /// Flushing, demoting and leaving keep their shares even if the work never ends; a nearer deadline counts at once.
    #[tokio::test(start_paused = true)]
    async fn it_takes_no_more_than_drainings_share() {
        let stub = Stub::start().await;
        let node = Node::example(Swarm::new("unix:///nowhere".to_owned()), &stub).await;
        let notices = Notices::default();
        let noticed_at = OffsetDateTime::now_utc();
        let given = |seconds: u64, reason| {
            let deadline = noticed_at + Duration::from_secs(seconds);
            notices.give(Departure { reason, noticed_at, deadline });
        };
        given(1000, Reason::Lifecycle);
        let start = Instant::now();
        let mut memory = Memory::new(start);
        let mut news = notices.subscribe();
        let endless = std::future::pending::<()>();
        assert!(within_share(&node, &mut memory, &mut news, endless).await.is_none());
        let took = start.elapsed();
        assert!(took > Duration::from_secs(500) && took < Duration::from_secs(950), "{took:?}");

        let start = Instant::now();
        let mut memory = Memory::new(start);
        let nearer = async {
            sleep(Duration::from_secs(10)).await;
            given(100, Reason::Spot);
        };
        let endless = std::future::pending::<()>();
        let (ended, ()) =
            tokio::join!(within_share(&node, &mut memory, &mut news, endless), nearer);
        assert!(ended.is_none() && start.elapsed() < Duration::from_secs(100));
        let mut memory = Memory::new(Instant::now());
        assert_eq!(within_share(&node, &mut memory, &mut news, async { 7 }).await, Some(7));
    }

    #[tokio::test]
    async fn a_node_that_leaves_is_shown_as_leaving_while_it_re_creates_the_quorum() {
        let stub = Stub::start().await;
        let node = Node::example(Swarm::new("unix:///nowhere".to_owned()), &stub).await;
        let notices = Notices::default();
        let noticed_at = OffsetDateTime::now_utc();
        let deadline = noticed_at + Duration::from_secs(1000);
        notices.give(Departure { reason: Reason::Lifecycle, noticed_at, deadline });
        let (mut memory, mut news) = (Memory::new(Instant::now()), notices.subscribe());
        let mut states = node.state.subscribe();
        let shown = tokio::select! {
            () = run(&node, &mut memory, &mut news) => panic!("Docker does not answer"),
            shown = states.wait_for(|state| state.doing.contains("retrying")) => {
                shown.unwrap().clone()
            }
        };
        assert_eq!(shown.phase, Phase::Leaving);
        let doing = "re-creating the quorum: retrying after: ";
        assert!(shown.doing.starts_with(doing), "{}", shown.doing);
        // The node's own state enters phases as always.
        node.state.enter(Phase::Booting, "looking for the swarm");
        assert_eq!(node.state.now().phase, Phase::Booting);
    }
}
