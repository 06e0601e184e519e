//! Reopens a charter that is closed over a living swarm, and publishes one that is missing. The last manager closes the
//! charter; if that write arrives late, because its sender died with the request on its way, another manager may have
//! joined meanwhile. A charter is missing if an operator has deleted it, or has re-created the table. In both states no
//! node can join, and managers that boot check whether they must found another swarm.
//!
//! Guarantees: a closed charter is reopened only by a manager that serves this very swarm under this very generation,
//! while a leader answers. One that is missing, by a read that has succeeded, is written again by the same, under the
//! generation of its members, if there is still none. A claim that came in between stands. Unreadable rows do not delay
//! this: the swarm that this node serves was published, and its leader and labels are better evidence than those rows.
//! Assumes that it is not called for a departing node, which may be the last manager.

use super::error::ManagerError;
use crate::clients::docker::NodeView;
use crate::clients::ledger::{Charter, Member};
use crate::common::instance::{Membership, Role};
use crate::node::{self, Node};

/// Name under which this duty reports that it cannot publish a missing charter.
pub(super) const CHARTER: &str = "the charter";

/// Reopens the charter if it is closed over the swarm of these nodes.
pub async fn reopen_charter(
    node: &Node,
    charter: &Charter,
    membership: &Membership,
    nodes: &[NodeView],
) -> Result<(), ManagerError> {
    if is_closed_over_us(charter, membership, nodes) && node.ledger.reopen_charter(charter).await? {
        tracing::warn!(
            swarm_id = membership.swarm_id,
            generation = membership.generation,
            "the charter was closed although this swarm is alive; reopened it"
        );
    }
    Ok(())
}

/// Writes a missing charter again, or shows and returns the reason why it cannot. `known` is the charter that was last
/// read.
pub async fn publish_again(
    node: &Node,
    membership: &Membership,
    members: &[Member],
    nodes: &[NodeView],
    known: Option<&Charter>,
) -> Result<Result<(), String>, ManagerError> {
    let published = match generation_of(membership, members) {
        _ if !serves(membership, nodes) => Ok(()),
        Ok(generation) => {
            let membership = Membership { generation, ..membership.clone() };
            node::publish_again(node, &membership, known).await?;
            Ok(())
        }
        Err(why) => Err(format!("the charter is missing, and {why}")),
    };
    node.state.trouble(CHARTER, published.clone().err());
    Ok(published)
}

/// Returns the generation of this swarm: the highest that a member has, so that a re-created quorum keeps its fence.
///
/// # Errors
/// As text: a member of another swarm has a row with a later generation, and that swarm may be the cluster's by now.
pub(super) fn generation_of(membership: &Membership, members: &[Member]) -> Result<u64, String> {
    let (own, others): (Vec<&Member>, Vec<&Member>) = members
        .iter()
        .filter(|row| row.swarm_id.is_some())
        .partition(|row| row.swarm_id.as_ref() == Some(&membership.swarm_id));
    let own = own.into_iter().map(|row| row.generation).chain([membership.generation]);
    let highest = own.max().unwrap_or(membership.generation);
    match others.into_iter().find(|row| row.generation > highest) {
        None => Ok(highest),
        Some(later) => Err(format!(
            "{} has a row of generation {} of another swarm; leave the swarm that is not needed, and delete that row if it belongs to that swarm",
            later.instance_id, later.generation
        )),
    }
}

fn is_closed_over_us(charter: &Charter, membership: &Membership, nodes: &[NodeView]) -> bool {
    charter.is_closed_over(&membership.swarm_id, membership.generation) && serves(membership, nodes)
}

/// Whether this node serves as a manager of the swarm. A node list comes from a leader, so the swarm has its quorum. A
/// manager that is being demoted leaves this to those that stay.
fn serves(membership: &Membership, nodes: &[NodeView]) -> bool {
    let stays = |view: &NodeView| {
        view.id == membership.node_id && view.raft.is_some() && view.role == Role::Manager
    };
    nodes.iter().any(stays)
}

#[cfg(test)]
mod tests {
    use time::OffsetDateTime;

    use super::*;
    use crate::clients::docker::RaftView;
    use crate::clients::ledger::CharterPhase;

    fn charter(phase: CharterPhase, generation: u64, swarm_id: Option<&str>) -> Charter {
        Charter {
            phase,
            generation,
            founder: "i-1".into(),
            lease_expires_at: OffsetDateTime::UNIX_EPOCH,
            swarm_id: swarm_id.map(str::to_owned),
            ca_digest: None,
            founded_at: None,
            former: vec![],
            recovers: None,
            adopts: None,
        }
    }

    fn view(id: &str, role: Role, is_in_raft: bool) -> NodeView {
        let raft = RaftView { is_leader: true, is_reachable: true };
        NodeView { raft: is_in_raft.then_some(raft), ..NodeView::example(id, role) }
    }

    #[test]
    fn only_a_manager_of_this_very_swarm_and_generation_opens_it_again() {
        let membership = Membership {
            node_id: "me".into(),
            swarm_id: "swarm".into(),
            generation: 2,
            role: Role::Manager,
        };
        let closed = charter(CharterPhase::Closed, 2, Some("swarm"));
        let is_due = |charter, view: NodeView| is_closed_over_us(&charter, &membership, &[view]);
        let me = || view("me", Role::Manager, true);
        assert!(is_due(closed.clone(), me()));
        for another in [
            charter(CharterPhase::Open, 2, Some("swarm")),
            charter(CharterPhase::Founding, 2, Some("swarm")),
            charter(CharterPhase::Closed, 1, Some("swarm")),
            charter(CharterPhase::Closed, 3, Some("swarm")),
            charter(CharterPhase::Closed, 2, Some("another")),
            charter(CharterPhase::Closed, 2, None),
        ] {
            assert!(!is_due(another, me()));
        }
        assert!(!is_due(closed.clone(), view("another", Role::Manager, true)), "it is not listed");
        assert!(!is_due(closed.clone(), view("me", Role::Worker, true)), "it is being demoted");
        assert!(!is_due(closed, view("me", Role::Manager, false)), "it is not in raft");
        for (view, is_it) in [
            (me(), true),
            (view("me", Role::Worker, true), false),
            (view("me", Role::Manager, false), false),
            (view("another", Role::Manager, true), false),
        ] {
            assert_eq!(serves(&membership, &[view]), is_it, "the same for a missing charter");
        }
    }
}
