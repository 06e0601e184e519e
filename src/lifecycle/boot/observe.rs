//! Observes the charter, Docker and the ledger for a booting node.

use std::time::Duration;

use time::OffsetDateTime;

use super::BootError;
use super::belonging::names;
use super::decide::{Mark, NEVER_RECORDED, Observed, OwnSwarm};
use super::demotion_request::{self, PeerDemotion};
use super::lost_swarm::{AbsenceTracker, OwnMembers};
use super::recreate::{self, Former};
use crate::clients::docker::{CLUSTER_LABEL, Certified, Cluster, LocalNode, LocalState, NodeView};
use crate::clients::ledger::{Attempt, CharterPhase, LedgerError, Member};
use crate::common::fact::Fact;
use crate::common::instance::Role;
use crate::manager::peers::{find_manager, is_led, no_leader};
use crate::node::Node;

/// How long to wait for a leader: it answers within milliseconds; without one Docker may be silent for half a minute.
const LEADER_PATIENCE: Duration = Duration::from_secs(5);
/// Longer than that silence: the decision then needs Docker's answer that there is no leader.
const NO_LEADER_PATIENCE: Duration = Duration::from_secs(35);

/// Reads the charter and the state of Docker, and more only where these two leave a question open.
pub async fn observe(
    node: &Node,
    unsettled_for: Duration,
    absence_tracker: &mut AbsenceTracker,
) -> Result<Observed, BootError> {
    let (charter, local) = tokio::join!(node.ledger.fetch_charter(), node.swarm.fetch_local_node());
    let (charter, mut local) = (charter?, local?);
    let member = match local.state {
        LocalState::Inactive => None,
        _ => node.ledger.fetch_member(node.role, &node.instance.id).await?,
    };
    let certificate = complete_by_certificate(node, &mut local).await;
    let named = charter.as_ref().and_then(|charter| charter.swarm_id.as_deref());
    let open = charter.as_ref().filter(|charter| charter.phase == CharterPhase::Open);
    let is_named = open.is_some() && named.is_some() && named == local.swarm_id.as_deref();
    let is_in_doubt = local.state != LocalState::Inactive && !is_named;
    let is_moved = local.advertises_other_than(node.address);
    let is_row_ours = names(member.as_ref(), &local);
    let may_be_joining = match local.state {
        LocalState::Pending | LocalState::Error => !is_row_ours,
        LocalState::Active => !is_row_ours && local.is_manager && !local.is_sound(),
        LocalState::Inactive | LocalState::Locked => false,
    };
    let is_joining = match may_be_joining {
        true => match node.ledger.fetch_attempt(&node.instance.id).await {
            Ok(attempt) => is_joining(attempt, member.as_ref()),
            Err(LedgerError::Malformed { .. }) => Fact::CannotTell,
            Err(error) => return Err(error.into()),
        },
        false => Fact::CannotTell,
    };
    let certified = certificate.as_ref().ok().copied().flatten();
    let may_need_demotion = is_moved
        || local.is_certificate_refused()
        || demotion_request::is_stuck(&local, certified, is_joining, unsettled_for)
        || local.state == LocalState::Active && !local.is_manager;
    let peer_demotion = match open {
        Some(open) if node.role == Role::Manager && may_need_demotion => {
            let (request, led) = tokio::try_join!(
                node.ledger.fetch_demotion_request(&node.instance.id),
                find_manager(node, open, is_led)
            )?;
            Some(PeerDemotion { request, is_led: led.is_some() })
        }
        _ => None,
    };
    let recovery = charter.as_ref().filter(|charter| charter.is_recovery());
    let recreated = charter.as_ref().filter(|charter| {
        is_named && !is_row_ours && charter.fences(&node.instance.id, NEVER_RECORDED)
    });
    let own = if (is_in_doubt || recreated.is_some()) && local.is_manager {
        let patience = if open.is_some() { NO_LEADER_PATIENCE } else { LEADER_PATIENCE };
        let former = match recovery.or(recreated) {
            Some(charter) => {
                recreate::fetch_former(node, local.node_id.as_deref(), charter).await?
            }
            None => Former::default(),
        };
        fetch_own_swarm(node, &local, &former, patience).await
    } else {
        Own { has_leader: no_leader(None, &local), ..Own::default() }
    };
    let Own { mut swarm, members, has_leader } = own;
    if charter.is_none()
        && let (Some(swarm), Some(members)) = (&mut swarm, &members)
    {
        let rows = node.ledger.fetch_members().await?;
        swarm.generation = swarm.generation.max(highest_of(members, &rows));
    }
    let is_inactive = local.state == LocalState::Inactive;
    if charter.is_none() || recovery.is_some() {
        // No node can join, so no failed search for a manager starts the tracker.
        absence_tracker.begin();
    }
    let absence = match (&charter, open.or(recovery)) {
        // Only managers found or publish.
        _ if node.role != Role::Manager => None,
        (None, _) if is_inactive => absence_tracker.look(node, None, None).await,
        (_, Some(seen)) if is_inactive => absence_tracker.look(node, Some(seen), None).await,
        (None, _) => match (&swarm, &members) {
            (Some(swarm), Some(members)) => {
                absence_tracker.look(node, None, Some((members, swarm.outranks()))).await
            }
            _ => None,
        },
        _ => None,
    };
    let lives_on = match &charter {
        Some(charter) if charter.phase == CharterPhase::Closed && is_inactive => {
            find_manager(node, charter, is_led).await?
        }
        _ => None,
    };
    Ok(Observed {
        is_moved,
        peer_demotion,
        has_leader,
        lives_on,
        own_swarm: swarm,
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

/// Completes Docker's answer from the node certificate, and returns the role in it: Docker calls no node a manager
/// while it is neither in a swarm nor out of it. The error is the reason why the certificate cannot be read.
async fn complete_by_certificate(
    node: &Node,
    local: &mut LocalNode,
) -> Result<Option<Role>, String> {
    let is_complete = local.node_id.is_some() && local.swarm_id.is_some();
    let is_unsettled = matches!(local.state, LocalState::Pending | LocalState::Error);
    if local.state == LocalState::Inactive || is_complete && !is_unsettled {
        return Ok(None);
    }
    match node.swarm.complete_by_certificate(local).await {
        Ok(Certified::As(role)) => Ok(Some(role)),
        Ok(Certified::OfAnother | Certified::Nothing) => Ok(None),
        Err(error) => Err(error.to_string()),
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
    former: &Former,
    patience: Duration,
) -> Own {
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
        is_alone: nodes.len() <= 1,
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
