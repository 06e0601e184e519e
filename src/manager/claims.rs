//! Checks for which node a worker's row may speak. The writer of a row is the instance to whose partition IAM binds it;
//! the node that the row names is a claim.

use super::placed::instance_of;
use crate::clients::docker::NodeView;

/// What Docker's list shows of a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Claim<'a> {
    /// The node is the writer's own.
    Own(&'a NodeView),
    /// No such node is listed: the row can affect no node.
    NotListed,
    /// It is unknown yet which instance the node is.
    Unproven,
    /// The node is that of another instance.
    OfAnother(&'a str),
}

/// Checks the claim of an instance to be a node.
pub(super) fn check<'a>(nodes: &'a [NodeView], instance_id: &str, node_id: &str) -> Claim<'a> {
    match nodes.iter().find(|view| view.id == node_id) {
        None => Claim::NotListed,
        Some(view) => match instance_of(view) {
            None => Claim::Unproven,
            Some(owner) if owner == instance_id => Claim::Own(view),
            Some(owner) => Claim::OfAnother(owner),
        },
    }
}

/// Returns the sentence about a row that names another instance's node.
pub(super) fn refusal(item: &str, node_id: &str, owner: &str) -> String {
    format!(
        "ignoring ledger row {item}: it names node {node_id}, which is the node of {owner}; find out who wrote it, and terminate that instance if it was not an operator"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::common::instance::Role;
    use crate::common::labels::INSTANCE;

    #[test]
    fn a_row_speaks_for_the_node_that_is_labelled_with_its_writer_alone() {
        let of = |instance: &str| {
            let mut view = NodeView::example("n1", Role::Worker);
            view.labels.insert(INSTANCE.to_owned(), instance.to_owned());
            vec![view]
        };
        let own = of("i-1");
        assert_eq!(check(&own, "i-1", "n1"), Claim::Own(&own[0]));
        assert_eq!(check(&own, "i-2", "n1"), Claim::OfAnother("i-1"));
        assert_eq!(check(&own, "i-1", "n2"), Claim::NotListed);
        assert_eq!(check(&of(""), "i-1", "n1"), Claim::Unproven, "a label by hand");
        let bare = [NodeView::example("n1", Role::Worker)];
        assert_eq!(check(&bare, "i-1", "n1"), Claim::Unproven);
    }
}
