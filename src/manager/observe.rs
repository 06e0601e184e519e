//! The one look at the fleet that all duties share: the node list and the rows of the ledger, each with the time of its
//! request.
//!
//! Guarantees: a part is requested only when a duty needs an answer newer than the kept one, and duties that need it at
//! the same time share one request. Each duty names the moment after which an answer must have been requested; so a
//! duty that compares two parts also states their order. A failure is the answer for those who waited for it; it is
//! not kept, and never becomes an empty list.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

use super::error::ManagerError;
use crate::clients::docker::NodeView;
use crate::clients::ledger::{Attempt, Charter, DepartureRow, MemberRows, Rows};
use crate::common::instance::Membership;
use crate::node::Node;

/// The parts of the fleet that more than one duty reads.
pub(super) struct Fleet<'a> {
    pub node: &'a Node,
    pub membership: &'a Membership,
    nodes: Part<Vec<NodeView>>,
    charter: Part<Option<Charter>>,
    members: Part<MemberRows>,
    departures: Part<Rows<DepartureRow>>,
    attempts: Part<Rows<Attempt>>,
}

/// An answer, and the time of its request.
#[derive(Debug)]
pub(super) struct Seen<T> {
    pub asked_at: Instant,
    answer: Arc<T>,
}

impl<T> Deref for Seen<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.answer
    }
}

impl<T> Clone for Seen<T> {
    fn clone(&self) -> Self {
        Self { asked_at: self.asked_at, answer: Arc::clone(&self.answer) }
    }
}

/// Returns the moment before which an answer is older than `age`.
pub(super) fn lately(age: Duration) -> Instant {
    let now = Instant::now();
    now.checked_sub(age).unwrap_or(now)
}

impl<'a> Fleet<'a> {
    /// Starts without any answer.
    pub fn new(node: &'a Node, membership: &'a Membership) -> Self {
        Self {
            node,
            membership,
            nodes: Part::default(),
            charter: Part::default(),
            members: Part::default(),
            departures: Part::default(),
            attempts: Part::default(),
        }
    }

    /// Returns the node list, requested at `since` or later.
    pub async fn nodes(&self, since: Instant) -> Result<Seen<Vec<NodeView>>, ManagerError> {
        self.nodes.read(since, || self.node.swarm.fetch_nodes()).await
    }

    /// Returns the charter, requested at `since` or later; `None` if the ledger has none.
    pub async fn charter(&self, since: Instant) -> Result<Seen<Option<Charter>>, ManagerError> {
        self.charter.read(since, || self.node.ledger.fetch_charter()).await
    }

    /// Returns the members' rows, requested at `since` or later.
    pub async fn members(&self, since: Instant) -> Result<Seen<MemberRows>, ManagerError> {
        self.members.read(since, || self.node.ledger.survey_members()).await
    }

    /// Returns the departures, requested at `since` or later.
    pub async fn departures(
        &self,
        since: Instant,
    ) -> Result<Seen<Rows<DepartureRow>>, ManagerError> {
        self.departures.read(since, || self.node.ledger.survey_departures()).await
    }

    /// Returns the attempts to join, requested at `since` or later.
    pub async fn attempts(&self, since: Instant) -> Result<Seen<Rows<Attempt>>, ManagerError> {
        self.attempts.read(since, || self.node.ledger.survey_attempts()).await
    }

    /// Whether this node is the leader, by a node list.
    pub fn is_leader(&self, nodes: &[NodeView]) -> bool {
        nodes.iter().any(|view| view.id == self.membership.node_id && view.is_leader())
    }
}

/// The last answer about one part, or the last failure.
enum Kept<T> {
    Answer(Seen<T>),
    Failure { ended_at: Instant, error: Arc<ManagerError> },
}

/// One part. The lock is held during a request, so that concurrent duties share it.
struct Part<T>(Mutex<Option<Kept<T>>>);

impl<T> Default for Part<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T> Part<T> {
    async fn read<E: Into<ManagerError>>(
        &self,
        since: Instant,
        fetch: impl AsyncFnOnce() -> Result<T, E>,
    ) -> Result<Seen<T>, ManagerError> {
        let began = Instant::now();
        let mut kept = self.0.lock().await;
        match &*kept {
            Some(Kept::Answer(seen)) if seen.asked_at >= since => return Ok(seen.clone()),
            // Prevents the waiting duties from asking a service that hangs one after the other.
            Some(Kept::Failure { ended_at, error }) if *ended_at > began => {
                return Err(ManagerError::Shared(Arc::clone(error)));
            }
            _ => {}
        }
        let asked_at = Instant::now();
        match fetch().await {
            Ok(answer) => {
                let seen = Seen { asked_at, answer: Arc::new(answer) };
                *kept = Some(Kept::Answer(seen.clone()));
                Ok(seen)
            }
            Err(error) => {
                let error = Arc::new(error.into());
                let ended_at = Instant::now();
                *kept = Some(Kept::Failure { ended_at, error: Arc::clone(&error) });
                Err(ManagerError::Shared(error))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::clients::docker::{SwarmError, SwarmErrorKind};

    const TAKES: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn an_answer_serves_everybody_for_whom_it_is_new_enough() {
        let (part, requests) = (Part::default(), Cell::new(0));
        let read = async |since| {
            let fetch = async || {
                tokio::time::sleep(TAKES).await;
                requests.set(requests.get() + 1);
                Ok::<_, ManagerError>(requests.get())
            };
            *part.read(since, fetch).await.unwrap()
        };
        let start = Instant::now();
        assert_eq!(tokio::join!(read(start), read(start)), (1, 1), "one request for both");
        assert_eq!(read(lately(TAKES)).await, 1, "it was requested a second ago");
        assert_eq!(read(Instant::now()).await, 2, "its request must not be older than the caller");
        assert_eq!(read(start).await, 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_is_shared_by_those_who_wait_and_is_kept_for_nobody() {
        let (part, requests) = (Part::<()>::default(), Cell::new(0));
        let read = async || {
            let fetch = async || {
                tokio::time::sleep(TAKES).await;
                requests.set(requests.get() + 1);
                Err::<(), _>(SwarmError::silent("list the nodes"))
            };
            part.read(Instant::now(), fetch).await.unwrap_err()
        };
        let (one, other) = tokio::join!(read(), read());
        assert_eq!(requests.get(), 1, "a service that hangs is not asked twice");
        for error in [one, other, read().await] {
            let docker = error.of_docker().map(|error| error.kind);
            assert_eq!(docker, Some(SwarmErrorKind::TimedOut), "{error}");
        }
        assert_eq!(requests.get(), 2);
    }
}
