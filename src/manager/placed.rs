//! Tells which instance each node is, from the labels that [`super::instances`] writes. Pure.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::clients::docker::NodeView;
use crate::clients::ledger::Member;
use crate::common::instance::{Role, is_instance_id};
use crate::common::labels::{GROUP, INSTANCE};

/// One node and the instance that it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Placed {
    pub instance_id: String,
    pub node_id: String,
    /// The configured role: that of the partition in which the instance has its row.
    pub role: Role,
    /// The Auto Scaling group of the instance, if it is or was in one.
    pub group: Option<String>,
}

/// Returns the instance of each node: by the rows of managers, which no worker can write, and by the labels.
pub(super) fn placed(nodes: &[NodeView], managers: &[Member]) -> Vec<Placed> {
    let of_managers = managers.iter().filter(|row| row.role == Role::Manager);
    let label = |row: &Member| {
        let is_its = |view: &&NodeView| instance_of(view) == Some(&row.instance_id);
        nodes.iter().find(is_its)?.labels.get(GROUP).cloned()
    };
    let mut all: Vec<Placed> = of_managers
        .map(|row| Placed {
            instance_id: row.instance_id.clone(),
            node_id: row.node_id.clone(),
            role: Role::Manager,
            group: row.group.clone().or_else(|| label(row)),
        })
        .collect();
    for view in nodes {
        let Some(instance) = instance_of(view) else { continue };
        if all.iter().any(|it| it.instance_id == instance && it.node_id == view.id) {
            continue;
        }
        let is_manager = |it: &Placed| it.instance_id == instance && it.role == Role::Manager;
        all.push(Placed {
            instance_id: instance.to_owned(),
            node_id: view.id.clone(),
            role: if all.iter().any(is_manager) { Role::Manager } else { Role::Worker },
            group: view.labels.get(GROUP).cloned(),
        });
    }
    all
}

/// Returns the instance that a node is, by its label; `None` while that is unknown.
pub(super) fn instance_of(view: &NodeView) -> Option<&str> {
    let instance = view.labels.get(INSTANCE).map(String::as_str);
    // An operator can write the label, too.
    instance.filter(|id| is_instance_id(id))
}

/// Returns the number of instances in a list: entries that nobody has identified cost no read.
pub(super) fn count_instances(nodes: &[NodeView]) -> usize {
    nodes.iter().filter_map(instance_of).collect::<BTreeSet<_>>().len()
}

/// Returns the address under which a node reaches the managers. Docker lists a leader that was joined without an address
/// at 0.0.0.0.
pub(super) fn address_of(view: &NodeView) -> Option<IpAddr> {
    view.ip().filter(|address| !address.is_unspecified() && !address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(id: &str, address: &str, instance: Option<&str>) -> NodeView {
        let node = NodeView::example(id, Role::Worker);
        let mut view = NodeView { address: Some(address.into()), ..node };
        view.labels.extend(instance.map(|it| (INSTANCE.to_owned(), it.to_owned())));
        view
    }

    #[test]
    fn a_node_is_the_instance_of_its_label_and_a_manager_also_that_of_its_row() {
        let managers: Vec<Member> = ["manager", "worker"]
            .iter()
            .map(|role| {
                let row = serde_json::json!({
                    "instance_id": "i-m", "role": role, "node_id": "m", "zone": "a",
                    "address": "10.0.0.1", "generation": 1, "state": "ready", "updated_at": 0,
                });
                serde_json::from_value(row).unwrap()
            })
            .collect();
        let nodes = [
            view("m", "10.0.0.1", Some("i-m")),
            view("again", "10.0.0.1", Some("i-m")),
            view("w", "10.0.0.2", Some("i-w")),
            view("odd", "10.0.0.3", Some("no instance id")),
            view("new", "10.0.0.4", None),
        ];
        let placed = placed(&nodes, &managers);
        let all: Vec<_> =
            placed.iter().map(|it| (&*it.node_id, &*it.instance_id, it.role)).collect();
        assert_eq!(
            all,
            [
                ("m", "i-m", Role::Manager),
                ("again", "i-m", Role::Manager),
                ("w", "i-w", Role::Worker)
            ]
        );
    }

    #[test]
    fn an_address_that_every_host_has_is_none() {
        for (address, is_one) in
            [("10.0.0.1", true), ("0.0.0.0", false), ("127.0.0.1", false), ("", false)]
        {
            assert_eq!(address_of(&view("n1", address, None)).is_some(), is_one, "{address}");
        }
    }
}
