//! Re-creates a lost quorum on this node: Docker's part of it.
//!
//! Replacements wait for a leader in the middle of a join, and join the moment there is one. The rows distinguish them
//! from the former managers, whose rows have an earlier generation.

use std::collections::{BTreeMap, BTreeSet};

use super::BootError;
use crate::clients::docker::{InitSpec, NodeView};
use crate::clients::ledger::{Charter, LedgerError, Member, MemberRows};
use crate::common::fact::Fact;
use crate::common::instance::Role;
use crate::common::state::Phase;
use crate::node::Node;

/// Makes this node the only manager. The swarm's own labels stay as they are; a repetition does no harm.
pub async fn recreate(node: &Node, claim: &Charter, spec: InitSpec) -> Result<(), BootError> {
    let generation = claim.generation;
    let doing = format!("re-creating the quorum on this node alone, as generation {generation}");
    node.state.enter(Phase::Booting, doing);
    node.swarm.init(InitSpec { force_new_cluster: true, ..spec }).await?;
    tracing::warn!(generation, "this node is the only manager of the swarm now");
    Ok(())
}

/// The managers from before the quorum was re-created, by their rows.
#[derive(Clone, Debug, Default)]
pub struct Former {
    /// Node ids of other managers that joined under an earlier generation than the charter's, promoted workers
    /// included, with the role that each is configured for.
    nodes: BTreeMap<String, Role>,
    /// Node ids of all rows that can be read, and this node's.
    known: BTreeSet<String>,
    /// Keys of rows that cannot be read; their writers are unknown.
    unreadable: BTreeSet<String>,
}

impl Former {
    fn of_rows(all: MemberRows, me: &str, own_node: Option<&str>, charter: &Charter) -> Self {
        let known = all.rows.iter().map(|row| row.node_id.as_str()).chain(own_node);
        let known = known.map(str::to_owned).collect();
        let is_former = |row: &Member| {
            row.is_manager() && row.generation < charter.generation && row.instance_id != me
        };
        let former = all.rows.into_iter().filter(is_former);
        let nodes = former.map(|row| (row.node_id, row.role)).collect();
        Self { nodes, known, unreadable: all.unreadable }
    }

    /// Whether one of them is among `views`.
    pub fn is_among<'a>(&self, views: impl Iterator<Item = &'a NodeView>) -> Fact {
        let mut answer = Fact::No;
        for view in views {
            if self.nodes.contains_key(&view.id) {
                return Fact::Yes;
            }
            if self.may_be(view) {
                answer = Fact::CannotTell;
            }
        }
        answer
    }

    /// Whether one of the rows that cannot be read may be that of `view`.
    fn may_be(&self, view: &NodeView) -> bool {
        !self.unreadable.is_empty() && !self.known.contains(&view.id)
    }

    /// Whether `view` must be removed from the node list. A worker that was promoted and is a worker again stays.
    fn is_struck(&self, view: &NodeView) -> bool {
        let role = self.nodes.get(&view.id);
        role.is_some_and(|role| *role == Role::Manager || !view.is_plain_worker())
    }
}

/// Reads the managers from before this charter's generation; `own_node` is the node id of this host.
pub async fn fetch_former(
    node: &Node,
    own_node: Option<&str>,
    charter: &Charter,
) -> Result<Former, LedgerError> {
    let all = node.ledger.survey_managers().await?;
    Ok(Former::of_rows(all, &node.instance.id, own_node, charter))
}

/// Removes the former managers from the node list. Docker refuses the certificate of a removed node, so that none
/// becomes a member of raft again before its own skep makes it join again. Returns `false` if another manager on the
/// list may be a former one, because its row cannot be read; the status names the rows.
pub async fn strike_out_former(
    node: &Node,
    own_node: &str,
    claim: &Charter,
) -> Result<bool, BootError> {
    let former = fetch_former(node, Some(own_node), claim).await?;
    let nodes = node.swarm.fetch_nodes().await?;
    for view in nodes.iter().filter(|view| former.is_struck(view)) {
        node.swarm.remove(&view.id).await?;
        tracing::info!(
            node = view.id,
            address = view.address,
            "removed a former manager from the node list"
        );
    }
    let managers = nodes.iter().filter(|view| !view.is_plain_worker());
    let unclear: Vec<&str> =
        managers.filter(|view| former.may_be(view)).map(|view| view.id.as_str()).collect();
    if !unclear.is_empty() {
        let keys = former.unreadable.iter().cloned().collect::<Vec<_>>().join(", ");
        node.state.enter(
            Phase::Booting,
            format!(
                "waiting for ledger rows to be repaired, or deleted if nothing needs them ({keys}): manager {} may be one from before the quorum was re-created",
                unclear.join(", ")
            ),
        );
    }
    Ok(unclear.is_empty())
}

#[cfg(test)]
mod tests {
    use time::OffsetDateTime;

    use super::*;
    use crate::lifecycle::boot::tests::world::member;

    const NOW: OffsetDateTime = OffsetDateTime::UNIX_EPOCH;

    /// Re-created on `i-me` as generation 2.
    fn former(rows: Vec<Member>, unreadable: &[&str]) -> Former {
        let claim = Charter::claim(None, &Default::default(), "i-me", NOW, Default::default());
        let charter = Charter { generation: 2, ..claim };
        let unreadable = unreadable.iter().map(|key| (*key).to_owned()).collect();
        let all = MemberRows { rows, unreadable, ..MemberRows::default() };
        Former::of_rows(all, "i-me", Some("node-i-me"), &charter)
    }

    #[test]
    fn promoted_workers_were_managers_and_a_row_that_cannot_be_read_leaves_it_open() {
        use Role::{Manager, Worker};
        let rows = || {
            vec![
                member("i-me", Manager, Manager, 1),
                member("i-former", Manager, Manager, 1),
                member("i-promoted", Worker, Manager, 1),
                member("i-worker", Worker, Worker, 1),
                member("i-new", Manager, Manager, 2),
            ]
        };
        let is_among = |former: &Former, ids: &[&str]| {
            let views: Vec<NodeView> =
                ids.iter().map(|id| NodeView::example(&format!("node-{id}"), Manager)).collect();
            former.is_among(views.iter())
        };
        let (clear, odd) = (former(rows(), &[]), former(rows(), &["member#manager#i-odd"]));
        for (raft, is_clear, is_odd) in [
            (&["i-me"][..], Fact::No, Fact::No),
            (&["i-me", "i-new"], Fact::No, Fact::No),
            (&["i-me", "i-former"], Fact::Yes, Fact::Yes),
            (&["i-me", "i-promoted"], Fact::Yes, Fact::Yes),
            (&["i-me", "i-odd"], Fact::No, Fact::CannotTell),
            (&["i-odd", "i-former"], Fact::Yes, Fact::Yes),
        ] {
            assert_eq!(is_among(&clear, raft), is_clear, "{raft:?}");
            assert_eq!(is_among(&odd, raft), is_odd, "{raft:?}");
        }
        let own_is_odd = former(vec![], &["member#manager#i-me"]);
        assert_eq!(is_among(&own_is_odd, &["i-me"]), Fact::No, "its own node id is known");
    }

    #[test]
    fn a_promoted_worker_comes_off_the_list_only_while_it_is_a_manager() {
        let promoted = member("i-1", Role::Worker, Role::Manager, 1);
        let manager = member("i-2", Role::Manager, Role::Manager, 1);
        let former = former(vec![promoted, manager], &[]);
        let is_struck = |id, role| former.is_struck(&NodeView::example(id, role));
        assert!(is_struck("node-i-1", Role::Manager));
        assert!(!is_struck("node-i-1", Role::Worker), "it was demoted again");
        assert!(is_struck("node-i-2", Role::Manager));
        assert!(!is_struck("node-i-3", Role::Manager));
    }
}
