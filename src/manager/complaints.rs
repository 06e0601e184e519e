//! Reports failures that concern one node: logs each once, and lets none delay the other nodes.

use std::collections::BTreeSet;

use super::error::ManagerError;
use crate::common::errors::chain;
use crate::common::log_once::LogOnce;
use crate::node::Node;

/// The failures of one duty.
#[derive(Default)]
pub(super) struct Complaints {
    /// By the instance that each is about.
    logged: LogOnce<String, String>,
    /// The first failure of the present poll.
    failed: Option<String>,
}

impl Complaints {
    /// Whether the complaint about `whom` is new.
    pub(super) fn is_news(&mut self, whom: &str, complaint: &str) -> bool {
        self.logged.is_news(whom.to_owned(), complaint.to_owned())
    }

    /// Takes in the result of `what` for one of many, and logs a failure once, until it changes.
    ///
    /// # Errors
    /// If the same failure would follow for every other one, too.
    pub(super) fn take(
        &mut self,
        what: &str,
        whom: &str,
        done: Result<(), ManagerError>,
    ) -> Result<(), ManagerError> {
        match done {
            Ok(()) => self.logged.retain(|known| known != whom),
            Err(error) if error.concerns_all() => return Err(error),
            Err(error) => {
                let complaint = chain(&error);
                if self.is_news(whom, &complaint) {
                    tracing::warn!(instance = whom, "{what}: {complaint}");
                }
                self.record(format!("{what}: {whom}: {complaint}"));
            }
        }
        Ok(())
    }

    /// Records a failure of the present poll that is logged elsewhere.
    pub(super) fn record(&mut self, failure: String) {
        self.failed.get_or_insert(failure);
    }

    /// Ends the poll. Returns its first failure.
    pub(super) fn end_poll(&mut self) -> Option<String> {
        self.failed.take()
    }

    /// Forgets the instances that are no longer known.
    pub(super) fn retain(&mut self, is_known: impl Fn(&str) -> bool) {
        self.logged.retain(|whom| is_known(whom));
    }
}

/// Shows the rows that cannot be read; the ledger has logged the reasons. `who` is the name under which the trouble is
/// shown, another one for each kind of row.
pub(super) fn show_unreadable(node: &Node, who: &'static str, keys: &BTreeSet<String>) {
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    let trouble = (!keys.is_empty()).then(|| {
        format!(
            "ledger rows cannot be read: {}; repair them, or delete them if nothing needs them",
            some_of(&keys)
        )
    });
    node.state.show_trouble(who, trouble);
}

/// Returns the first names and the number of the others: a group may have a thousand.
pub(super) fn some_of<S: AsRef<str>>(names: &[S]) -> String {
    const NAMED: usize = 3;
    let (named, others) = names.split_at(names.len().min(NAMED));
    let named = named.iter().map(AsRef::as_ref).collect::<Vec<_>>().join(", ");
    if others.is_empty() { named } else { format!("{named} and {} more", others.len()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clients::aws::stub::Stub;
    use crate::clients::docker::tests::fake_engine::{FakeEngine, RELEASES};
    use crate::clients::docker::{SwarmError, SwarmErrorKind};

    fn failed(kind: SwarmErrorKind) -> Result<(), ManagerError> {
        let message = format!("{kind:?}");
        Err(SwarmError { operation: "label a node", kind, message }.into())
    }

    #[test]
    fn what_fails_for_one_is_said_once_and_ends_nothing_for_the_others() {
        let mut complaints = Complaints::default();
        let mut take = |done| complaints.take("labelling", "i-1", done).is_ok();
        assert!(take(failed(SwarmErrorKind::Other)) && take(Ok(())));
        assert!(take(failed(SwarmErrorKind::NotFound)));
        assert!(
            !take(failed(SwarmErrorKind::NoLeader)) && !take(failed(SwarmErrorKind::NotManager))
        );
        let failed = complaints.end_poll().unwrap();
        assert!(failed.contains("i-1") && failed.contains("Other"), "the first one: {failed}");
        assert_eq!(complaints.end_poll(), None, "the next poll has had none");
    }

    #[tokio::test]
    async fn rows_that_cannot_be_read_are_shown_until_they_can() {
        let (engine, stub) = (FakeEngine::start(RELEASES[0]), Stub::start().await);
        let node = Node::example(engine.swarm(), &stub).await;
        let keys = |count: usize| (1..=count).map(|it| format!("departure#i-{it}")).collect();
        show_unreadable(&node, "departures", &keys(5));
        let shown = node.state.now().trouble.unwrap();
        assert!(shown.contains("departure#i-3 and 2 more; repair them"), "{shown}");
        show_unreadable(&node, "departures", &keys(0));
        assert_eq!(node.state.now().trouble, None);
    }
}
