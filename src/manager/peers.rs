//! Finds the cluster's managers: by their rows, by their open port, and by their leader's answer.

use std::net::IpAddr;

use time::OffsetDateTime;

use crate::clients::docker::{LocalNode, NodeView, SwarmError, SwarmErrorKind, first_listening};
use crate::clients::ledger::{Charter, LedgerError, Member, MemberState};
use crate::common::fact::Fact;
use crate::common::timing::{MANAGER_ROW_IS_FRESH, NO_LEADER_WITHIN};
use crate::node::Node;

/// Returns whether this manager's swarm has a leader. An error other than Docker's answer that there is none, and a
/// missing answer, cannot tell.
pub async fn fetch_leader(node: &Node, local: &LocalNode) -> Fact {
    let answer = tokio::time::timeout(NO_LEADER_WITHIN, node.swarm.fetch_nodes()).await;
    match answer.map(|answer| has_leader(answer.as_deref())) {
        Ok(leader @ (Fact::Yes | Fact::No)) => leader,
        Ok(Fact::CannotTell) | Err(_) => no_leader(None, local),
    }
}

/// Returns the same from the answer to a request for the node list alone.
#[must_use]
pub fn has_leader(answer: Result<&[NodeView], &SwarmError>) -> Fact {
    match answer {
        Ok(nodes) if nodes.iter().any(NodeView::is_leader) => Fact::Yes,
        Err(error) if error.kind == SwarmErrorKind::NoLeader => Fact::No,
        Ok(_) | Err(_) => Fact::CannotTell,
    }
}

/// Returns `No` if Docker reports that there is no leader: as an answer, or in its complaint about this node.
#[must_use]
pub fn no_leader(error: Option<&SwarmError>, local: &LocalNode) -> Fact {
    let is_answer = error.is_some_and(|error| error.kind == SwarmErrorKind::NoLeader);
    let is_complaint = local.error.contains("does not have a leader");
    if is_answer || is_complaint { Fact::No } else { Fact::CannotTell }
}

/// Returns the address of another manager of the charter's own generation that listens, and whose row `will_do`
/// accepts.
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

/// Whether this node is Ready in the charter's swarm, under the charter's own generation, by its row.
pub(crate) fn is_ready_in(row: &Member, charter: &Charter) -> bool {
    row.generation == charter.generation
        && row.may_be_in(charter)
        && row.state == MemberState::Ready
}

/// Whether this manager has a leader, by a row that it wrote a moment ago.
#[must_use]
pub fn is_led(row: &Member) -> bool {
    row.has_leader
        && (OffsetDateTime::now_utc() - row.updated_at).unsigned_abs() < MANAGER_ROW_IS_FRESH
}
