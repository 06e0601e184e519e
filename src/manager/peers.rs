//! Managers of the cluster: by their rows, by who listens, and by what their leader answers.

use std::net::IpAddr;
use std::time::Duration;

use time::OffsetDateTime;

use crate::clients::docker::{LocalNode, NodeView, SwarmError, SwarmErrorKind, first_listening};
use crate::clients::ledger::{Charter, LedgerError, Member, MemberRows, MemberState};
use crate::common::fact::Fact;
use crate::common::instance::Role;
use crate::node::Node;

/// A manager writes its row once a minute; one that is older says nothing about its leader now.
pub(crate) const FRESH: Duration = Duration::from_secs(150);

/// A leader answers within milliseconds; without one Docker may be silent for half a minute before it
/// says so.
const LEADER_PATIENCE: Duration = Duration::from_secs(35);

/// Does the swarm that this manager is in have a leader? An error that is not Docker's word that
/// there is none, and silence, cannot tell.
pub async fn fetch_leader(node: &Node, local: &LocalNode) -> Fact {
    let answer = tokio::time::timeout(LEADER_PATIENCE, node.swarm.fetch_nodes()).await;
    match answer.map(|answer| has_leader(&answer)) {
        Ok(leader @ (Fact::Yes | Fact::No)) => leader,
        Ok(Fact::CannotTell) | Err(_) => no_leader(None, local),
    }
}

/// The same by an answer to a request for the node list alone.
#[must_use]
pub fn has_leader(answer: &Result<Vec<NodeView>, SwarmError>) -> Fact {
    match answer {
        Ok(nodes) if nodes.iter().any(NodeView::is_leader) => Fact::Yes,
        Err(error) if error.kind == SwarmErrorKind::NoLeader => Fact::No,
        Ok(_) | Err(_) => Fact::CannotTell,
    }
}

/// Docker's word that there is no leader: as an answer, or in its complaint about this node.
#[must_use]
pub fn no_leader(error: Option<&SwarmError>, local: &LocalNode) -> Fact {
    let is_answer = error.is_some_and(|error| error.kind == SwarmErrorKind::NoLeader);
    let is_complaint = local.error.contains("does not have a leader");
    if is_answer || is_complaint { Fact::No } else { Fact::CannotTell }
}

/// All members' rows, and which cannot be read; on a worker the managers' alone, since its role may read no others.
///
/// # Errors
/// When the ledger fails.
pub async fn survey(node: &Node) -> Result<MemberRows, LedgerError> {
    match node.role {
        Role::Manager => node.ledger.survey_members().await,
        Role::Worker => node.ledger.survey_managers().await,
    }
}

/// Another manager of the charter's own generation that listens, and whose row will do: a place to
/// go to.
///
/// # Errors
/// When the ledger fails.
pub async fn find_manager(
    node: &Node,
    charter: &Charter,
    will_do: impl Fn(&Member) -> bool,
) -> Result<Option<IpAddr>, LedgerError> {
    let mut rows = node.ledger.fetch_managers().await?;
    rows.retain(|row| {
        will_do(row) && is_ready_in(row, charter) && row.instance_id != node.instance.id
    });
    let addresses: Vec<IpAddr> = rows.iter().map(|row| row.address).collect();
    Ok(first_listening(&addresses).await)
}

/// Is this node Ready in the charter's swarm, under the charter's own generation, by its row?
pub(crate) fn is_ready_in(row: &Member, charter: &Charter) -> bool {
    row.generation == charter.generation
        && row.may_be_in(charter)
        && row.state == MemberState::Ready
}

/// Has this manager a leader, by what it has said a moment ago?
#[must_use]
pub fn is_led(row: &Member) -> bool {
    row.has_leader && (OffsetDateTime::now_utc() - row.updated_at).unsigned_abs() < FRESH
}
