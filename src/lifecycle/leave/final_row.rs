//! Records in the ledger that the node's departure has ended, and whether it failed.

use std::convert::Infallible;
use std::time::Duration;

use super::decide::Outcome;
use crate::common::errors::chain;
use crate::common::retry::Backoff;
use crate::node::Node;

/// Name under which this module reports trouble.
const WHO: &str = "a failed departure";
/// Time limit of one write. The record only saves other nodes, or the next start of skep, some time.
const ANSWER_WITHIN: Duration = Duration::from_secs(15);
/// Managers drain the node until they read that its departure has failed.
const RETRY: Backoff = Backoff::new(Duration::from_secs(5), Duration::from_secs(60));

/// Records that the departure has ended with `outcome`. Without the record, the next start of skep continues this
/// departure, which then ends again. For a failed departure, [`record_failure`] retries the write; it finds the failure
/// in the node's state.
pub async fn record_end(node: &Node, outcome: Outcome) {
    let killed = node.state.now().killed.len();
    let ended = write(node, killed, outcome.is_failure()).await;
    if let Err(why) = &ended {
        tracing::warn!("could not record the end of the departure in the ledger: {why}");
    }
    if outcome == Outcome::Failed {
        node.state.update(|state| {
            state.failed_departure = Some(state.with_killed(outcome.as_str()));
            state.unrecorded_failure = ended.is_err().then_some(killed);
            state.forget_departure();
        });
    }
}

/// Forgets the failure of an earlier departure, because another departure has started.
pub fn forget_failure(node: &Node) {
    node.state.trouble(WHO, None);
    node.state.update(|state| {
        state.failed_departure = None;
        state.unrecorded_failure = None;
    });
}

/// Records that a departure failed, if the ledger did not accept it at once, and retries until it does: otherwise
/// managers would continue to drain a node that serves. Never returns: run it beside the other work of the node.
pub async fn record_failure(node: &Node) -> Infallible {
    let mut state = node.state.subscribe();
    let mut failures = 0;
    loop {
        let unrecorded = state.wait_for(|state| state.unrecorded_failure.is_some()).await;
        // The sender is in `node`, so this does not fail.
        let Some(killed) = unrecorded.ok().and_then(|state| state.unrecorded_failure) else {
            continue;
        };
        match write(node, killed, true).await {
            Ok(()) => {
                failures = 0;
                node.state.trouble(WHO, None);
                node.state.update(|state| state.unrecorded_failure = None);
            }
            Err(why) => {
                let what = format!(
                    "the end of the failed departure cannot be written to the ledger, and managers drain this node until it is: {why}"
                );
                node.state.trouble(WHO, Some(what));
                tokio::time::sleep(RETRY.wait(failures)).await;
                failures = failures.saturating_add(1);
            }
        }
    }
}

async fn write(node: &Node, killed: usize, has_failed: bool) -> Result<(), String> {
    let ended =
        node.ledger.end_departure(node.role, &node.instance.id, &node.boot_id, killed, has_failed);
    match tokio::time::timeout(ANSWER_WITHIN, ended).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(chain(&error)),
        Err(_) => Err(format!("no answer within {} s", ANSWER_WITHIN.as_secs())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clients::aws::stub::Stub;
    use crate::clients::docker::Swarm;

    #[tokio::test]
    async fn a_failure_that_the_ledger_does_not_take_is_written_later() {
        let stub = Stub::start().await;
        let node = Node::example(Swarm::new("unix:///nowhere".to_owned()), &stub).await;
        node.state.update(|state| state.killed = vec!["web.1".to_owned()]);
        record_end(&node, Outcome::Failed).await;
        let state = node.state.now();
        assert_eq!(state.unrecorded_failure, Some(1));
        assert!(state.failed_departure.is_some_and(|words| words.contains("web.1")));
        let before = stub.requests().len();
        let mut states = node.state.subscribe();
        tokio::select! {
            never = record_failure(&node) => match never {},
            shown = states.wait_for(|state| state.trouble.is_some()) => drop(shown.unwrap()),
        }
        assert!(stub.requests().len() > before && node.state.now().unrecorded_failure == Some(1));

        stub.answer(200, "{}");
        tokio::select! {
            never = record_failure(&node) => match never {},
            done = states.wait_for(|state| state.unrecorded_failure.is_none()) => drop(done.unwrap()),
        }
        let written = stub.last_request();
        for part in ["departure#i-0abc", r#"":failed":{"S":"failed"}"#, r#"":killed":{"N":"1"}"#] {
            assert!(written.contains(part), "no {part} in {written}");
        }
        assert_eq!(node.state.now().trouble, None);
    }

    #[tokio::test]
    async fn what_the_ledger_takes_at_once_and_other_ends_are_written_once() {
        let stub = Stub::start().await;
        let node = Node::example(Swarm::new("unix:///nowhere".to_owned()), &stub).await;
        record_end(&node, Outcome::Left).await;
        assert_eq!(node.state.now().unrecorded_failure, None, "its row records that it is out");
        stub.answer(200, "{}");
        record_end(&node, Outcome::Failed).await;
        let state = node.state.now();
        assert_eq!((state.unrecorded_failure, state.failed_departure.is_some()), (None, true));
        node.state.update(|state| state.unrecorded_failure = Some(0));
        forget_failure(&node);
        let state = node.state.now();
        assert_eq!((state.unrecorded_failure, state.failed_departure), (None, None));
    }
}
