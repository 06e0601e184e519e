//! Observes the charter, Docker and the ledger for a booting node.

use std::time::Duration;

use time::OffsetDateTime;

use super::BootError;
use super::decide::{Mark, Observed, OwnSwarm};
use super::demotion_request::PeerDemotion;
use super::lookups::{self, Facts, OwnLookup, Rest};
use super::lost_swarm::{Absence, AbsenceTracker, OwnMembers};
use super::recreate::{self, Former};
use crate::clients::docker::{
    ADOPTED_LABEL, CLUSTER_LABEL, Certified, Cluster, LocalNode, NodeView,
};
use crate::clients::ledger::{Attempt, Charter, LedgerError, Member};
use crate::common::fact::Fact;
use crate::common::instance::Role;
use crate::manager::peers::{find_manager, is_led, no_leader};
use crate::node::Node;

/// Reads the charter and the state of Docker, and more only where these two leave a question open.
pub async fn observe(
    node: &Node,
    unsettled_for: Duration,
    absence_tracker: &mut AbsenceTracker,
) -> Result<Observed, BootError> {
    let (charter, local) = tokio::join!(node.ledger.fetch_charter(), node.swarm.fetch_local_node());
    let (charter, mut local) = (charter?, local?);
    let member = match lookups::needs_row(&local) {
        true => node.ledger.fetch_member(node.role, &node.instance.id).await?,
        false => None,
    };
    let certificate = complete_by_certificate(node, &mut local).await;
    let facts = Facts {
        me: &node.instance.id,
        role: node.role,
        charter: charter.as_ref(),
        local: &local,
        member: member.as_ref(),
        certified: certificate.as_ref().ok().copied().flatten(),
        is_joining: fetch_joining(node, &local, member.as_ref()).await?,
        is_moved: local.advertises_other_than(node.address),
        unsettled_for,
    };
    let wanted = lookups::choose(&facts);
    let peer_demotion = match wanted.peer_demotion {
        Some(open) => Some(fetch_peer_demotion(node, open).await?),
        None => None,
    };
    let own = match &wanted.own_swarm {
        Some(lookup) => fetch_own_swarm(node, &local, lookup).await?,
        None => Own { has_leader: no_leader(None, &local), ..Own::default() },
    };
    if wanted.starts_tracker {
        absence_tracker.begin();
    }
    let absence = match wanted.absence {
        Some(rest) => look_for_absence(node, absence_tracker, rest, &own).await,
        None => None,
    };
    let lives_on = match wanted.lives_on {
        Some(closed) => find_manager(node, closed, is_led).await?,
        None => None,
    };
    let Facts { certified, is_joining, is_moved, .. } = facts;
    Ok(Observed {
        is_moved,
        peer_demotion,
        has_leader: own.has_leader,
        lives_on,
        own_swarm: own.swarm,
        charter,
        local,
        certified,
        certificate_error: certificate.err(),
        member,
        absence,
        is_joining,
        unsettled_for,
        lease: node.settings.boot.lease,
        now: OffsetDateTime::now_utc(),
    })
}

/// Completes Docker's answer from the node certificate, if that is needed, and returns the role in it. The error is the
/// reason why the certificate cannot be read.
async fn complete_by_certificate(
    node: &Node,
    local: &mut LocalNode,
) -> Result<Option<Role>, String> {
    if !lookups::needs_certificate(local) {
        return Ok(None);
    }
    match node.swarm.complete_by_certificate(local).await {
        Ok(Certified::As(role)) => Ok(Some(role)),
        Ok(Certified::OfAnother | Certified::Nothing) => Ok(None),
        Err(error) => Err(error.to_string()),
    }
}

/// Returns whether this node is still joining; "cannot tell" if that does not matter, or if the attempt is unreadable.
async fn fetch_joining(
    node: &Node,
    local: &LocalNode,
    row: Option<&Member>,
) -> Result<Fact, LedgerError> {
    if !lookups::needs_attempt(local, row) {
        return Ok(Fact::CannotTell);
    }
    match node.ledger.fetch_attempt(node.role, &node.instance.id).await {
        Ok(attempt) => Ok(is_joining(attempt, row)),
        Err(LedgerError::Malformed { .. }) => Ok(Fact::CannotTell),
        Err(error) => Err(error),
    }
}

/// Whether this node is still joining. An attempt ends when the node is Ready, and the node writes its row just before:
/// an attempt that is not younger than the row may have ended.
fn is_joining(attempt: Option<Attempt>, row: Option<&Member>) -> Fact {
    match (attempt, row) {
        (None, _) => Fact::No,
        (Some(attempt), Some(row)) if attempt.at <= row.updated_at => Fact::CannotTell,
        (Some(_), _) => Fact::Yes,
    }
}

async fn fetch_peer_demotion(node: &Node, open: &Charter) -> Result<PeerDemotion, LedgerError> {
    let (request, led) = tokio::try_join!(
        node.ledger.fetch_demotion_request(&node.instance.id),
        find_manager(node, open, is_led)
    )?;
    Ok(PeerDemotion { request, is_led: led.is_some() })
}

async fn look_for_absence(
    node: &Node,
    absence_tracker: &mut AbsenceTracker,
    rest: Rest<'_>,
    own: &Own,
) -> Option<Absence> {
    match rest {
        Rest::Charter(charter) => absence_tracker.look(node, Some(charter), None).await,
        Rest::AnySwarm => absence_tracker.look(node, None, None).await,
        Rest::OtherSwarms => {
            let (swarm, members) = own.swarm.as_ref().zip(own.members.as_ref())?;
            absence_tracker.look(node, None, Some((members, swarm.outranks()))).await
        }
    }
}

/// The swarm in which this node is a manager, by the answer of its leader.
#[derive(Default)]
struct Own {
    swarm: Option<OwnSwarm>,
    members: Option<OwnMembers>,
    has_leader: Fact,
}

async fn fetch_own_swarm(
    node: &Node,
    local: &LocalNode,
    lookup: &OwnLookup<'_>,
) -> Result<Own, LedgerError> {
    let former = match lookup.former {
        Some(charter) => recreate::fetch_former(node, local.node_id.as_deref(), charter).await?,
        None => Former::default(),
    };
    let mut own = ask_leader(node, local, &former, lookup.patience).await;
    if lookup.is_generation_in_rows
        && let (Some(swarm), Some(members)) = (&mut own.swarm, &own.members)
    {
        let rows = node.ledger.survey_managers().await?.rows;
        swarm.generation = swarm.generation.max(highest_of(members, &rows));
    }
    Ok(own)
}

async fn ask_leader(node: &Node, local: &LocalNode, former: &Former, patience: Duration) -> Own {
    let look = async { tokio::try_join!(node.swarm.fetch_cluster(), node.swarm.fetch_nodes()) };
    match tokio::time::timeout(patience, look).await {
        Ok(Ok((cluster, nodes))) => Own {
            swarm: Some(own_swarm(&node.cluster, &cluster, &nodes, former)),
            has_leader: Fact::Yes,
            members: Some(OwnMembers {
                swarm_id: cluster.id,
                nodes: nodes.into_iter().map(|view| view.id).collect(),
            }),
        },
        Ok(Err(error)) => {
            tracing::debug!("{error}");
            Own { has_leader: no_leader(Some(&error), local), ..Own::default() }
        }
        Err(_) => Own { has_leader: no_leader(None, local), ..Own::default() },
    }
}

fn own_swarm(
    own_cluster: &str,
    cluster: &Cluster,
    nodes: &[NodeView],
    former: &Former,
) -> OwnSwarm {
    OwnSwarm {
        mark: match cluster.labels.get(CLUSTER_LABEL) {
            Some(name) if name == own_cluster => Mark::Ours,
            Some(_) => Mark::Others,
            None => Mark::Missing,
        },
        is_alone: nodes.len() <= 1 && !cluster.labels.contains_key(ADOPTED_LABEL),
        generation: cluster.generation(),
        created_at: cluster.created_at,
        has_former: former.is_among(nodes.iter().filter(|view| view.raft.is_some())),
    }
}

/// Returns the highest generation in the rows of the members of this swarm.
fn highest_of(own: &OwnMembers, rows: &[Member]) -> Option<u64> {
    let own = rows.iter().filter(|row| own.has(row) == Some(true));
    own.map(|row| row.generation).max()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clients::aws::stub::Stub;
    use crate::clients::docker::Tokens;
    use crate::clients::docker::tests::fake_engine::{FakeEngine, Instead, RELEASES};
    use crate::clients::ledger::MemberState;
    use crate::lifecycle::boot::tests::world::row;

    /// Docker calls no node a manager there, including a worker that was promoted by hand.
    #[tokio::test]
    async fn the_role_in_the_certificate_is_known_wherever_docker_is_neither_in_nor_out() {
        // The certificate of node `n1`.
        const MANAGER: &str = include_str!("../leave/testdata/manager.crt");
        let (engine, stub) = (FakeEngine::start(RELEASES[0]), Stub::start().await);
        let node = Node::example(engine.swarm(), &stub).await;
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("swarm/certificates");
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("swarm-node.crt"), MANAGER).unwrap();
        for (state, node_id, certified) in [
            ("pending", "n1", Some(Role::Manager)),
            ("pending", "", Some(Role::Manager)),
            ("error", "", Some(Role::Manager)),
            ("pending", "n2", None),
            ("active", "n1", None),
        ] {
            let info = serde_json::json!({
                "DockerRootDir": root.path(),
                "Swarm": { "LocalNodeState": state, "NodeID": node_id, "ControlAvailable": false },
            });
            engine.lock().instead.insert("/info", Instead::Answer(info.to_string().leak()));
            let mut local = node.swarm.fetch_local_node().await.unwrap();
            let role = complete_by_certificate(&node, &mut local).await;
            assert_eq!(role, Ok(certified), "{state} {node_id}");
        }
    }

    /// A boot that fails leaves by force a swarm that skep founded and that is empty, and no other.
    #[test]
    fn an_adopted_swarm_never_counts_as_empty() {
        let cluster = |labels: &[&str]| Cluster {
            id: "s".into(),
            created_at: None,
            labels: labels.iter().map(|it| ((*it).to_owned(), "prod".to_owned())).collect(),
            tokens: Tokens { worker: "w".into(), manager: "m".into() },
            is_autolocked: false,
        };
        let nodes = [NodeView::example("n1", Role::Manager)];
        let is_alone = |labels: &[&str]| {
            own_swarm("prod", &cluster(labels), &nodes, &Former::default()).is_alone
        };
        assert!(is_alone(&[CLUSTER_LABEL]));
        assert!(!is_alone(&[CLUSTER_LABEL, ADOPTED_LABEL]));
    }

    #[test]
    fn an_attempt_goes_on_while_no_later_row_says_that_the_node_was_ready() {
        let mut member = row("node", 1, MemberState::Ready);
        let attempt = |after: u64| {
            let at = member.updated_at + Duration::from_secs(after);
            Some(Attempt::new("i-0", Role::Manager, [10, 0, 0, 1].into(), at))
        };
        let (early, late) = (attempt(0), attempt(1));
        assert_eq!(is_joining(None, Some(&member)), Fact::No);
        assert_eq!(is_joining(early.clone(), None), Fact::Yes);
        assert_eq!(
            is_joining(late.clone(), Some(&member)),
            Fact::Yes,
            "the row is from an earlier life"
        );
        assert_eq!(is_joining(early, Some(&member)), Fact::CannotTell, "it may have joined");
        member.updated_at += Duration::from_secs(60);
        assert_eq!(is_joining(late, Some(&member)), Fact::CannotTell);
    }
}
