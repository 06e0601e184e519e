//! Finds instances that Auto Scaling has in service and that are not members of the swarm. Pure.
//!
//! Guarantees: an instance is named only if Docker's list and the ledger show which instance each living node is. Assumes
//! that an instance is in service only after its node has joined, because the launch hook holds it until then.

use std::collections::{BTreeMap, BTreeSet};

use time::OffsetDateTime;

use crate::clients::aws::autoscaling::{GroupInstance, LifecycleState};
use crate::common::report::{FleetMember, Outsider, Outsiders, ViewSource};
use crate::node::Listed;

/// State of a node that is dead: it can be an entry of a failed join, which no instance belongs to.
const DOWN: &str = "down";

/// Returns the instances in service, with their groups.
pub(super) fn in_service(
    asked_at: OffsetDateTime,
    listed: &BTreeMap<String, GroupInstance>,
) -> Listed {
    let is_it = |it: &GroupInstance| it.lifecycle_state == LifecycleState::InService;
    let instances = listed.iter().filter(|(_, it)| is_it(it));
    Listed { asked_at, groups: instances.map(|(id, it)| (id.clone(), it.group.clone())).collect() }
}

/// Returns those of `listed` that are not members; `None` if that cannot be told: without Auto Scaling's answer, without
/// Docker's list or the ledger, and while the instance of a living node is unknown.
pub(super) fn find(
    source: ViewSource,
    members: &[FleetMember],
    listed: Option<Listed>,
) -> Option<Outsiders> {
    let listed = listed.filter(|_| source == ViewSource::LedgerAndDocker)?;
    // A row alone is no membership: it stays for some time after the node has left.
    let nodes = || members.iter().filter(|it| it.docker_state.is_some());
    let is_unknown =
        |it: &FleetMember| it.instance_id.is_none() && it.docker_state.as_deref() != Some(DOWN);
    if nodes().any(is_unknown) {
        return None;
    }
    let known: BTreeSet<&str> = nodes().filter_map(|it| it.instance_id.as_deref()).collect();
    let outside = listed.groups.into_iter().filter(|(id, _)| !known.contains(id.as_str()));
    let instances = outside.map(|(instance_id, group)| Outsider { instance_id, group }).collect();
    Some(Outsiders { asked_at: listed.asked_at, instances })
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;
    use crate::common::instance::Role;

    const AT: OffsetDateTime = datetime!(2026-11-02 12:00 UTC);

    fn member(instance_id: Option<&str>, docker_state: Option<&str>) -> FleetMember {
        let member = serde_json::json!({
            "instance_id": instance_id, "role": Role::Worker, "node_id": "n1",
            "docker_state": docker_state, "leader": false, "updated_at": null,
        });
        serde_json::from_value(member).unwrap()
    }

    fn listed() -> Listed {
        let group = |state: &str| GroupInstance {
            group: "workers".into(),
            lifecycle_state: state.into(),
            health: "HEALTHY".into(),
            protected: None,
            settings: None,
        };
        let states = [("i-1", "InService"), ("i-2", "InService"), ("i-3", "Terminating:Wait")];
        in_service(AT, &states.map(|(id, state)| (id.to_owned(), group(state))).into())
    }

    fn found(members: &[FleetMember]) -> Option<Vec<String>> {
        let found = find(ViewSource::LedgerAndDocker, members, Some(listed()))?;
        assert_eq!(found.asked_at, AT);
        assert!(found.instances.iter().all(|it| it.group == "workers"));
        Some(found.instances.into_iter().map(|it| it.instance_id).collect())
    }

    #[test]
    fn an_instance_in_service_is_a_member_or_is_named() {
        let [one, two] = ["i-1", "i-2"].map(|id| member(Some(id), Some("ready")));
        assert_eq!(found(&[one.clone(), two]), Some(vec![]), "the third one is not in service");
        assert_eq!(found(std::slice::from_ref(&one)), Some(vec!["i-2".to_owned()]));
        let row = member(Some("i-2"), None);
        assert_eq!(
            found(&[one.clone(), row]),
            Some(vec!["i-2".to_owned()]),
            "only its row is left"
        );
        let dead = member(Some("i-2"), Some("down"));
        assert_eq!(found(&[one, dead]), Some(vec![]), "it is on the list, where it looks dead");
    }

    #[test]
    fn what_cannot_be_told_is_not_told() {
        let one = member(Some("i-1"), Some("ready"));
        assert_eq!(found(&[one.clone(), member(None, Some("ready"))]), None, "it may be i-2");
        let failed_join = member(None, Some("down"));
        assert_eq!(found(&[one.clone(), failed_join]), Some(vec!["i-2".to_owned()]));
        for source in [ViewSource::Ledger, ViewSource::Docker, ViewSource::Nothing] {
            assert_eq!(find(source, std::slice::from_ref(&one), Some(listed())), None);
        }
        assert_eq!(find(ViewSource::LedgerAndDocker, &[one], None), None);
    }
}
