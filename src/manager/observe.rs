//! The one look at the fleet that all duties share: the node list, Auto Scaling's answer and the rows of the ledger, each
//! with the time of its request.
//!
//! Guarantees: a part is requested only when a duty needs an answer newer than the kept one, and duties that need it at
//! the same time share one request. Each duty names the moment after which an answer must have been requested; so a
//! duty that compares two parts also states their order. A failure is the answer for those who waited for it; it is
//! not kept, and never becomes an empty list.
//!
//! The rows of workers are read by their keys, because no partition that all workers can write is read: a duty names the
//! instances whose rows it needs. Those that exist are known from the nodes' labels, from Auto Scaling, and from what was
//! known within the last hours ([`Fleet::worker_ids`]).

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use time::OffsetDateTime;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::error::ManagerError;
use super::outsiders;
use super::placed::{Placed, instance_of, placed};
use crate::clients::aws::autoscaling::GroupInstance;
use crate::clients::docker::{NodeView, Service, ServiceTask};
use crate::clients::ledger::{
    Charter, DemotionRequest, DepartureRow, LedgerError, Member, MemberRows, Rows, SharedRows,
};
use crate::common::instance::Membership;
use crate::common::labels::GROUP;
use crate::node::Node;

/// The parts of the fleet that more than one duty reads.
pub(super) struct Fleet<'a> {
    pub node: &'a Node,
    pub membership: &'a Membership,
    nodes: Part<Vec<NodeView>>,
    shared: Part<Shared>,
    groups: Part<BTreeMap<String, GroupInstance>>,
    work: Part<Work>,
    workers: Workers,
}

/// The services, and the tasks of each, by its id, including ended ones as far as Docker keeps them.
#[derive(Debug)]
pub(super) struct Work {
    pub services: Vec<Service>,
    pub tasks: BTreeMap<String, Vec<ServiceTask>>,
}

/// An answer, and the time of its request.
#[derive(Debug)]
pub(super) struct Seen<T> {
    pub asked_at: Instant,
    answer: Arc<T>,
}

/// The rows of [`SharedRows`], each kind by itself: a charter that cannot be read concerns only those who ask for it.
#[derive(Debug)]
struct Shared {
    charter: Result<Arc<Option<Charter>>, Arc<ManagerError>>,
    managers: Arc<MemberRows>,
    departures: Arc<Rows<DepartureRow>>,
    demotion_requests: Arc<Rows<DemotionRequest>>,
}

impl From<SharedRows> for Shared {
    fn from(rows: SharedRows) -> Self {
        Self {
            charter: rows.charter.map(Arc::new).map_err(|error| Arc::new(error.into())),
            managers: Arc::new(rows.managers),
            departures: Arc::new(rows.departures),
            demotion_requests: Arc::new(rows.demotion_requests),
        }
    }
}

impl<T> Deref for Seen<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.answer
    }
}

impl<T> Seen<T> {
    /// Returns a part of the answer.
    fn part<P>(&self, answer: Arc<P>) -> Seen<P> {
        Seen { asked_at: self.asked_at, answer }
    }
}

impl<T: Clone> Seen<T> {
    /// Returns a copy of the answer, for a caller that adds to it.
    pub fn copy(&self) -> T {
        T::clone(&self.answer)
    }
}

impl<T> Clone for Seen<T> {
    fn clone(&self) -> Self {
        Self { asked_at: self.asked_at, answer: Arc::clone(&self.answer) }
    }
}

/// Maximum age of the rows and of the node list by which groups are named and managers are told from workers.
const NAMES_AGE: Duration = Duration::from_secs(30);
/// How long the row of a worker is kept that no duty asks for.
const ROWS_KEPT: Duration = Duration::from_secs(600);

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
            shared: Part::default(),
            groups: Part::default(),
            work: Part::default(),
            workers: Workers::default(),
        }
    }

    /// Returns the node list, requested at `since` or later. A list without this node itself is an error.
    pub async fn nodes(&self, since: Instant) -> Result<Seen<Vec<NodeView>>, ManagerError> {
        let fetch = async || {
            let nodes = self.node.swarm.fetch_nodes().await?;
            // Such as the list of another swarm: it proves nothing about this one.
            let own = &self.membership.node_id;
            if nodes.iter().any(|view| view.id == *own) {
                Ok(nodes)
            } else {
                Err(ManagerError::Unlisted)
            }
        };
        let nodes = self.nodes.read(since, fetch).await?;
        self.node.known_instances.add(nodes.iter().filter_map(instance_of));
        Ok(nodes)
    }

    /// Returns the services and all tasks, requested at `since` or later. The answer can have many megabytes.
    pub async fn work(&self, since: Instant) -> Result<Seen<Work>, ManagerError> {
        let swarm = &self.node.swarm;
        let fetch = async || -> Result<_, ManagerError> {
            let (services, tasks) =
                tokio::try_join!(swarm.fetch_services(), swarm.fetch_tasks_by_service())?;
            Ok(Work { services, tasks })
        };
        self.work.read(since, fetch).await
    }

    /// Returns the charter, requested at `since` or later; `None` if the ledger has none.
    pub async fn charter(&self, since: Instant) -> Result<Seen<Option<Charter>>, ManagerError> {
        let shared = self.shared(since).await?;
        let charter = shared.charter.clone().map_err(ManagerError::Shared)?;
        Ok(shared.part(charter))
    }

    /// Returns the rows of the managers, promoted workers included, requested at `since` or later.
    pub async fn managers(&self, since: Instant) -> Result<Seen<MemberRows>, ManagerError> {
        let shared = self.shared(since).await?;
        Ok(shared.part(Arc::clone(&shared.managers)))
    }

    /// Returns the departures of managers, and all stand-ins, requested at `since` or later.
    pub async fn departures(
        &self,
        since: Instant,
    ) -> Result<Seen<Rows<DepartureRow>>, ManagerError> {
        let shared = self.shared(since).await?;
        Ok(shared.part(Arc::clone(&shared.departures)))
    }

    /// Returns the managers' requests to be demoted, requested at `since` or later.
    pub async fn demotion_requests(
        &self,
        since: Instant,
    ) -> Result<Seen<Rows<DemotionRequest>>, ManagerError> {
        let shared = self.shared(since).await?;
        Ok(shared.part(Arc::clone(&shared.demotion_requests)))
    }

    async fn shared(&self, since: Instant) -> Result<Seen<Shared>, ManagerError> {
        let fetch = async || self.node.ledger.survey_shared().await.map(Shared::from);
        self.shared.read(since, fetch).await
    }

    /// Returns the instances of the cluster's groups, requested at `since` or later: of the groups with the tag
    /// `skep:cluster`, and of those that the nodes and the managers' rows name.
    pub async fn groups(
        &self,
        since: Instant,
    ) -> Result<Seen<BTreeMap<String, GroupInstance>>, ManagerError> {
        let fetch = async || -> Result<_, ManagerError> {
            let nodes = self.nodes(lately(NAMES_AGE)).await?;
            let managers = self.managers(lately(NAMES_AGE)).await?;
            let labels = nodes.iter().filter_map(|view| view.labels.get(GROUP));
            let rows = managers.rows.iter().filter_map(|row| row.group.as_ref());
            let names = labels.chain(rows).chain(self.node.group()).map(String::as_str).collect();
            let asked_at = OffsetDateTime::now_utc();
            let listed = self.node.autoscaling.fetch_groups(&self.node.cluster, &names).await?;
            self.node.in_service.set(outsiders::in_service(asked_at, &listed));
            Ok(listed)
        };
        let groups = self.groups.read(since, fetch).await?;
        self.node.known_instances.add(groups.keys().map(String::as_str));
        Ok(groups)
    }

    /// Returns the last answer of Auto Scaling, however old; `None` before the first, and while a request is under way.
    pub fn last_groups(&self) -> Option<Seen<BTreeMap<String, GroupInstance>>> {
        self.groups.last()
    }

    /// Returns which instance each node is, by the labels of this list and the managers' rows.
    pub async fn placed(&self, nodes: &[NodeView]) -> Result<Vec<Placed>, ManagerError> {
        let managers = self.managers(lately(NAMES_AGE)).await?;
        Ok(placed(nodes, &managers.rows))
    }

    /// Returns the instances that may have a worker's rows: those that are known and are not managers.
    pub async fn worker_ids(&self) -> Result<BTreeSet<String>, ManagerError> {
        let managers = self.managers(lately(NAMES_AGE)).await?;
        let known = self.node.known_instances.all().into_iter();
        Ok(known.filter(|id| !managers.has_manager(id) && *id != self.node.instance.id).collect())
    }

    /// Returns the rows that these workers have written about themselves, each requested at `since` or later. The node
    /// that a row names is a claim: see [`super::claims`].
    pub async fn workers(
        &self,
        ids: &BTreeSet<String>,
        since: Instant,
    ) -> Result<MemberRows, ManagerError> {
        let fetch = async |ids: &BTreeSet<String>| self.node.ledger.fetch_workers(ids).await;
        self.workers.read(ids, since, fetch).await
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

    fn last(&self) -> Option<Seen<T>> {
        match self.0.try_lock().as_deref() {
            Ok(Some(Kept::Answer(seen))) => Some(seen.clone()),
            _ => None,
        }
    }
}

/// The rows of workers that were read last, by instance: each with the time of its request.
#[derive(Default)]
struct Workers(Mutex<BTreeMap<String, (Instant, Option<Member>)>>);

impl Workers {
    /// Requests the rows that are older than `since`; a row that cannot be read is requested each time.
    async fn read(
        &self,
        ids: &BTreeSet<String>,
        since: Instant,
        fetch: impl AsyncFnOnce(&BTreeSet<String>) -> Result<MemberRows, LedgerError>,
    ) -> Result<MemberRows, ManagerError> {
        let mut kept = self.0.lock().await;
        kept.retain(|id, (asked_at, _)| ids.contains(id) || asked_at.elapsed() < ROWS_KEPT);
        let is_old = |id: &&String| kept.get(*id).is_none_or(|(asked_at, _)| *asked_at < since);
        let due: BTreeSet<String> = ids.iter().filter(is_old).cloned().collect();
        let mut all = MemberRows::default();
        if !due.is_empty() {
            let asked_at = Instant::now();
            let answer = fetch(&due).await?;
            let mut rows: BTreeMap<String, Member> =
                answer.rows.into_iter().map(|row| (row.instance_id.clone(), row)).collect();
            all = Rows { rows: vec![], ..answer };
            for id in due {
                if all.hides(&id) {
                    kept.remove(&id);
                } else {
                    let row = rows.remove(&id);
                    kept.insert(id, (asked_at, row));
                }
            }
        }
        all.rows = ids.iter().filter_map(|id| kept.get(id)?.1.clone()).collect();
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::clients::aws::stub::Stub;
    use crate::clients::docker::tests::fake_engine::{FakeEngine, Instead, RELEASES};
    use crate::clients::docker::{SwarmError, SwarmErrorKind};

    const TAKES: Duration = Duration::from_secs(1);

    /// Such as the list of a swarm that an operator has made on this host under a running skep.
    #[tokio::test]
    async fn a_list_without_this_manager_proves_nothing() {
        let (engine, stub) = (FakeEngine::start(RELEASES[0]), Stub::start().await);
        let node = Node::example(engine.swarm(), &stub).await;
        let membership = Membership::example();
        let fleet = Fleet::new(&node, &membership);
        assert_eq!(fleet.nodes(Instant::now()).await.unwrap().len(), 1);
        for list in ["[]", r#"[{ "ID": "n9" }]"#] {
            engine.lock().instead.insert("/nodes", Instead::Answer(list));
            let error = fleet.nodes(Instant::now()).await.unwrap_err();
            assert!(error.to_string().contains("not in Docker's list"), "{error}");
        }
    }

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
