//! Decides whether Docker is in this cluster's swarm, and whether raft may count a node that is neither in it nor out
//! of it.
//!
//! Guarantees: a swarm is another cluster's only by evidence that names another swarm or another cluster. A charter, a
//! row or a certificate that is missing or cannot be read proves nothing.

use crate::clients::docker::{CLUSTER_LABEL, Certified, LocalNode, LocalState};
use crate::clients::ledger::Charter;
use crate::common::fact::Fact;
use crate::common::instance::{Membership, Role};
use crate::common::timing::LEADER_WITHIN;
use crate::node::Node;

/// Result of a lookup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lookup<T> {
    /// The value.
    Found(T),
    /// There was an answer, and it has no value.
    Nothing,
    /// There was no answer, or it cannot be read.
    CannotTell,
}

impl<T, E> From<Result<Option<T>, E>> for Lookup<T> {
    fn from(answer: Result<Option<T>, E>) -> Self {
        match answer {
            Ok(Some(found)) => Self::Found(found),
            Ok(None) => Self::Nothing,
            Err(_) => Self::CannotTell,
        }
    }
}

/// Docker's place, by its answer and the ledger.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// Whether the swarm is this cluster's.
    pub ours: Fact,
    /// Role in the certificate of a node that is neither in nor out. Docker's CA has signed it: raft counts no node
    /// that is not a manager by its certificate.
    pub certified: Lookup<Role>,
    /// Whether such a node has started to join and has never been a member.
    pub is_joining: Fact,
}

/// Evidence of the swarm's cluster, beside Docker and the certificate on this host.
#[derive(Clone, Debug)]
pub struct Evidence {
    /// The cluster's charter.
    pub charter: Lookup<Charter>,
    /// On a manager: whether the swarm's label names this cluster.
    pub is_label_ours: Lookup<bool>,
    /// Docker's node id in this instance's member row.
    pub row: Lookup<String>,
    /// Whether the ledger has an attempt of this instance: it has started to join and has never been Ready.
    pub attempt: Fact,
}

impl Default for Evidence {
    fn default() -> Self {
        Self {
            charter: Lookup::CannotTell,
            is_label_ours: Lookup::CannotTell,
            row: Lookup::CannotTell,
            attempt: Fact::CannotTell,
        }
    }
}

impl Evidence {
    fn is_row_of(&self, local: &LocalNode) -> bool {
        matches!(&self.row, Lookup::Found(id) if Some(id) == local.node_id.as_ref())
    }

    /// Whether this host's node has started to join and has never been Ready.
    #[must_use]
    pub fn is_joining(&self, local: &LocalNode) -> Fact {
        match &self.row {
            Lookup::CannotTell => Fact::CannotTell,
            _ if self.is_row_of(local) => Fact::No,
            _ => self.attempt,
        }
    }
}

/// Finds Docker's place, and completes `local` from the certificate if Docker does not report which node this is.
/// `known` is the result of an earlier observation while the node was active, or "cannot tell".
pub async fn look(
    node: &Node,
    local: &mut LocalNode,
    member: Option<&Membership>,
    known: Fact,
) -> Place {
    let certified = if is_unsettled(local.state) {
        certified_role(node, local).await
    } else {
        Lookup::CannotTell
    };
    let settled = |ours| Place { ours, certified, is_joining: Fact::No };
    if known != Fact::CannotTell {
        return settled(known);
    }
    if local.state == LocalState::Inactive || member.is_some_and(|it| is_joined(it, local)) {
        return settled(Fact::Yes);
    }
    if is_unsettled(local.state) && certified == Lookup::CannotTell {
        return Place { ours: Fact::CannotTell, certified, is_joining: Fact::CannotTell };
    }
    let evidence = gather(node, local).await;
    let is_joining = evidence.is_joining(local);
    Place { ours: judge(local, &evidence), certified, is_joining }
}

fn is_unsettled(state: LocalState) -> bool {
    matches!(state, LocalState::Pending | LocalState::Error)
}

/// Whether this process has joined the swarm as this node.
fn is_joined(member: &Membership, local: &LocalNode) -> bool {
    Some(&member.node_id) == local.node_id.as_ref()
        && local.swarm_id.as_ref().is_none_or(|id| *id == member.swarm_id)
}

/// Completes Docker's answer from the certificate on this host. Returns the certificate's role.
async fn certified_role(node: &Node, local: &mut LocalNode) -> Lookup<Role> {
    match node.swarm.complete_by_certificate(local).await {
        Ok(Certified::As(role)) => Lookup::Found(role),
        Ok(Certified::OfAnother) => Lookup::CannotTell,
        Ok(Certified::Nothing) => Lookup::Nothing,
        Err(error) => {
            tracing::debug!("{error}");
            Lookup::CannotTell
        }
    }
}

async fn gather(node: &Node, local: &LocalNode) -> Evidence {
    let mut known =
        Evidence { charter: node.ledger.fetch_charter().await.into(), ..Evidence::default() };
    let is_enough = !is_unsettled(local.state) && judge(local, &known).is_yes();
    if is_enough || known.charter == Lookup::CannotTell {
        return known;
    }
    let row = node.ledger.fetch_member(node.role, &node.instance.id).await;
    known.row = row.map(|row| row.map(|row| row.node_id)).into();
    if local.is_manager {
        let labels = tokio::time::timeout(LEADER_WITHIN, node.swarm.fetch_swarm()).await;
        known.is_label_ours = match labels {
            Ok(Ok((labels, _))) => match labels.get(CLUSTER_LABEL) {
                Some(name) => Lookup::Found(*name == node.cluster),
                None => Lookup::Nothing,
            },
            Ok(Err(_)) | Err(_) => Lookup::CannotTell,
        };
    }
    if is_unsettled(local.state) {
        let attempt = node.ledger.fetch_attempt(node.role, &node.instance.id).await;
        known.attempt = attempt.map_or(Fact::CannotTell, |attempt| attempt.is_some().into());
    }
    known
}

/// Whether Docker is in this cluster's swarm. The swarm's id decides, if the charter can be read and names one; then
/// the swarm's label, then this node's member row. Pure.
#[must_use]
pub fn judge(local: &LocalNode, evidence: &Evidence) -> Fact {
    let by_charter = match &evidence.charter {
        Lookup::CannotTell => return Fact::CannotTell,
        Lookup::Found(charter) => by_charter(charter, local.swarm_id.as_ref()),
        Lookup::Nothing => Fact::CannotTell,
    };
    if by_charter.is_yes() {
        return Fact::Yes;
    }
    if local.state == LocalState::Locked {
        // Docker reports which swarm it is once it is unlocked.
        return Fact::CannotTell;
    }
    if let (true, Lookup::Found(is_ours)) = (local.is_manager, &evidence.is_label_ours) {
        return (*is_ours).into();
    }
    if evidence.is_row_of(local) {
        return Fact::Yes;
    }
    let is_label_open = local.is_manager && evidence.is_label_ours == Lookup::CannotTell;
    if is_label_open || evidence.row == Lookup::CannotTell {
        return Fact::CannotTell;
    }
    // A boot refuses a foreign swarm before it joins: a node without a certificate is in a join to this cluster's
    // swarm.
    let is_our_join = is_unsettled(local.state) && local.swarm_id.is_none();
    if is_our_join && evidence.attempt.is_yes() { Fact::Yes } else { by_charter }
}

/// Compares the charter's swarm with this node's. If one of them is not known, it cannot tell.
fn by_charter(charter: &Charter, own: Option<&String>) -> Fact {
    match (charter.swarm(), own) {
        (_, Some(_)) if charter.has_given_up(own) => Fact::Yes,
        (Some(named), Some(own)) => (named == own).into(),
        _ => Fact::CannotTell,
    }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;
    use crate::clients::aws::stub::Stub;
    use crate::clients::docker::tests::fake_engine::{FakeEngine, Instead, RELEASES};

    /// Of node `n1` in swarm `c1`.
    const WORKER: &str = include_str!("testdata/worker.crt");
    const MANAGER: &str = include_str!("testdata/manager.crt");

    /// Nothing found.
    const NONE: &str = "{}";
    const OUR_CHARTER: &str = r#"{"Item":{"schema":{"N":"2"},"phase":{"S":"open"},"generation":{"N":"1"},
        "founder":{"S":"i-9"},"lease_expires_at":{"N":"1"},"swarm_id":{"S":"c1"}}}"#;
    const OTHER_CHARTER: &str = r#"{"Item":{"schema":{"N":"2"},"phase":{"S":"open"},"generation":{"N":"1"},
        "founder":{"S":"i-9"},"lease_expires_at":{"N":"1"},"swarm_id":{"S":"c2"}}}"#;
    const LATER_CHARTER: &str = r#"{"Item":{"schema":{"N":"2"},"phase":{"S":"open"},"generation":{"N":"2"},
        "founder":{"S":"i-9"},"lease_expires_at":{"N":"1"},"swarm_id":{"S":"c2"},
        "former":{"L":[{"S":"c1"}]}}}"#;
    const CLAIM: &str = r#"{"Item":{"schema":{"N":"2"},"phase":{"S":"founding"},"generation":{"N":"1"},
        "founder":{"S":"i-9"},"lease_expires_at":{"N":"1"}}}"#;
    const OWN_ROW: &str = r#"{"Item":{"schema":{"N":"2"},"item":{"S":"member#manager#i-1"},"instance_id":{"S":"i-1"},"role":{"S":"manager"},
        "node_id":{"S":"n1"},"address":{"S":"10.0.0.1"},"zone":{"S":"a"},"generation":{"N":"1"},
        "state":{"S":"ready"},"updated_at":{"N":"1"}}}"#;
    const ATTEMPT: &str = r#"{"Item":{"schema":{"N":"2"},"item":{"S":"attempt#i-1"},"instance_id":{"S":"i-1"},"role":{"S":"manager"},
        "address":{"S":"10.0.0.1"},"at":{"N":"1"},"expires_at":{"N":"2"}}}"#;

    struct Host {
        engine: FakeEngine,
        stub: Stub,
        node: Node,
        root: TempDir,
    }

    impl Host {
        /// A host with this Docker state, node id in `/info` and certificate on the disk.
        async fn new(state: &str, node_id: &str, certificate: Option<&str>) -> Self {
            let (engine, stub) = (FakeEngine::start(RELEASES[0]), Stub::start().await);
            let node = Node::example(engine.swarm(), &stub).await;
            let root = tempfile::tempdir().unwrap();
            let dir = root.path().join("swarm/certificates");
            std::fs::create_dir_all(&dir).unwrap();
            if let Some(pem) = certificate {
                std::fs::write(dir.join("swarm-node.crt"), pem).unwrap();
            }
            let info = serde_json::json!({
                "DockerRootDir": root.path(),
                "Swarm": { "LocalNodeState": state, "NodeID": node_id, "ControlAvailable": false },
            });
            engine.lock().instead.insert("/info", Instead::Answer(info.to_string().leak()));
            Self { engine, stub, node, root }
        }

        /// Observes with these answers of the ledger, in their order.
        async fn look(&self, answers: &[&str]) -> (Place, LocalNode) {
            let mut local = self.node.swarm.fetch_local_node().await.unwrap();
            for answer in answers {
                self.stub.answer(200, answer);
            }
            let place = look(&self.node, &mut local, None, Fact::CannotTell).await;
            (place, local)
        }

        async fn ours(&self, answers: &[&str]) -> Fact {
            self.look(answers).await.0.ours
        }
    }

    /// skep was restarted; then the charter and the node's own row were deleted. Tasks run here.
    #[tokio::test]
    async fn a_worker_without_charter_and_row_cannot_tell_whose_swarm_it_is_in() {
        let host = Host::new("active", "n1", Some(WORKER)).await;
        assert_eq!(host.ours(&[NONE, NONE]).await, Fact::CannotTell);
        assert_eq!(host.ours(&[CLAIM, NONE]).await, Fact::CannotTell, "it names no swarm yet");
        assert_eq!(host.ours(&[NONE, OWN_ROW]).await, Fact::Yes);
        assert_eq!(host.ours(&[OUR_CHARTER]).await, Fact::Yes);
        assert_eq!(host.ours(&[LATER_CHARTER]).await, Fact::Yes, "it was this cluster's");
        assert_eq!(host.ours(&[OTHER_CHARTER, NONE]).await, Fact::No);
        // No answer is left: the ledger fails.
        assert_eq!(host.ours(&[]).await, Fact::CannotTell);
        assert_eq!(host.ours(&[OTHER_CHARTER]).await, Fact::CannotTell);

        let host = Host::new("active", "n1", None).await;
        assert_eq!(host.ours(&[OTHER_CHARTER, NONE]).await, Fact::CannotTell, "no id to compare");
    }

    #[tokio::test]
    async fn the_certificate_says_whose_swarm_it_is_that_docker_does_not_get_into() {
        for (state, node_id) in [("pending", "n1"), ("pending", ""), ("error", "")] {
            let host = Host::new(state, node_id, Some(MANAGER)).await;
            let (place, local) = host.look(&[OUR_CHARTER, NONE, ATTEMPT]).await;
            assert_eq!((place.ours, place.is_joining), (Fact::Yes, Fact::Yes), "{state}");
            assert_eq!(place.certified, Lookup::Found(Role::Manager));
            assert_eq!(local.node_id.as_deref(), Some("n1"));
            let (place, _) = host.look(&[OUR_CHARTER, OWN_ROW, ATTEMPT]).await;
            assert_eq!((place.ours, place.is_joining), (Fact::Yes, Fact::No), "it was Ready");

            assert_eq!(host.ours(&[OTHER_CHARTER, NONE, ATTEMPT]).await, Fact::No, "{state}");
            assert_eq!(host.ours(&[NONE, NONE, ATTEMPT]).await, Fact::CannotTell, "{state}");
            assert_eq!(host.ours(&[NONE, OWN_ROW, NONE]).await, Fact::Yes, "{state}");
            let (place, _) = host.look(&[OUR_CHARTER, NONE]).await;
            assert_eq!(place.is_joining, Fact::CannotTell, "the ledger fails");
        }
    }

    #[tokio::test]
    async fn a_join_without_a_certificate_is_ours_if_the_ledger_knows_of_it() {
        let host = Host::new("pending", "", None).await;
        let (place, _) = host.look(&[OUR_CHARTER, NONE, ATTEMPT]).await;
        assert_eq!((place.ours, place.is_joining), (Fact::Yes, Fact::Yes));
        assert_eq!(place.certified, Lookup::Nothing);
        assert_eq!(host.ours(&[OUR_CHARTER, NONE, NONE]).await, Fact::CannotTell);
        assert_eq!(host.ours(&[OUR_CHARTER, NONE]).await, Fact::CannotTell);
    }

    #[tokio::test]
    async fn a_certificate_of_an_earlier_life_says_nothing() {
        let host = Host::new("pending", "n2", Some(WORKER)).await;
        let (place, local) = host.look(&[OUR_CHARTER, NONE, ATTEMPT]).await;
        assert_eq!(place.certified, Lookup::CannotTell);
        assert_eq!(place.ours, Fact::CannotTell);
        assert_eq!((local.node_id.as_deref(), local.swarm_id), (Some("n2"), None));
        drop((host.engine, host.root));
    }

    /// The label decides on a manager; a swarm without a label is not another cluster's because of that.
    #[test]
    fn a_swarm_without_a_label_is_not_foreign_for_that() {
        let local = LocalNode {
            swarm_id: Some("c1".into()),
            ..crate::lifecycle::leave::tests::local(true, true)
        };
        let evidence = |is_label_ours, charter| Evidence {
            charter,
            is_label_ours,
            row: Lookup::Nothing,
            attempt: Fact::CannotTell,
        };
        let other = || Lookup::Found(crate::lifecycle::leave::tests::charter("c2"));
        let none = || Lookup::Nothing;
        for (label, charter, ours) in [
            (Lookup::Found(true), none(), Fact::Yes),
            (Lookup::Found(true), other(), Fact::Yes),
            (Lookup::Found(false), none(), Fact::No),
            (Lookup::Nothing, none(), Fact::CannotTell),
            (Lookup::Nothing, other(), Fact::No),
            (Lookup::CannotTell, other(), Fact::CannotTell),
        ] {
            let evidence = evidence(label, charter);
            assert_eq!(judge(&local, &evidence), ours, "{evidence:?}");
        }
    }
}
