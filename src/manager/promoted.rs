//! Records workers that were promoted by hand: the only rows about them that nodes rely on which boot after the managers
//! were lost. A worker cannot write where such a row must be, and another node must not rely on what it writes elsewhere.
//!
//! Guarantees: a row is written for a node that Docker lists as a manager and whose instance has no manager's row; it is
//! deleted once the node list, which comes from a leader, shows the node as a worker or not at all.

use std::time::Duration;

use time::OffsetDateTime;

use super::duty::{Duty, Poll};
use super::error::ManagerError;
use super::observe::{Fleet, lately};
use super::placed::{address_of, instance_of};
use crate::clients::docker::NodeView;
use crate::clients::ledger::Member;
use crate::common::instance::{Membership, Role};
use crate::common::labels::{GROUP, ZONE};
use crate::common::timing::{JOIN_IS_RECORDED, MANAGER_ROW_EVERY};

/// Name of this duty.
const NAME: &str = "promoted workers";
/// Time between two polls: several within the time for which a manager's row counts as fresh.
const INTERVAL: Duration = MANAGER_ROW_EVERY;

/// Records promoted workers for as long as this node is a manager.
pub(super) async fn run(fleet: &Fleet<'_>) {
    let duty = Duty { name: NAME, first: INTERVAL / 2, after_failure: INTERVAL, trouble: None };
    duty.run(fleet, poll).await;
}

async fn poll(Poll { fleet, .. }: Poll<'_, ()>) -> Result<Duration, ManagerError> {
    let managers = fleet.managers(lately(INTERVAL / 2)).await?;
    let nodes = fleet.nodes(managers.asked_at).await?;
    let now = OffsetDateTime::now_utc();
    for step in decide(&nodes, &managers.rows, fleet.membership, now) {
        match step {
            Step::Record(row) => fleet.node.ledger.record_promoted(&row).await?,
            Step::Forget(row) => fleet.node.ledger.forget_promoted(&row).await?,
        }
    }
    Ok(INTERVAL)
}

#[derive(Debug, PartialEq)]
enum Step {
    Record(Box<Member>),
    Forget(Box<Member>),
}

/// Returns the rows to write and to delete. Pure.
fn decide(nodes: &[NodeView], rows: &[Member], own: &Membership, now: OffsetDateTime) -> Vec<Step> {
    let mut steps = vec![];
    for view in nodes {
        let Some(instance) = instance_of(view) else { continue };
        let of_instance = || rows.iter().filter(|row| row.instance_id == instance);
        // A configured manager that has just joined writes its own row within that time.
        let is_settled = view.joined_at.is_some_and(|joined| now - joined > JOIN_IS_RECORDED);
        let is_recent =
            |row: &Member| row.node_id == view.id && now - row.updated_at < MANAGER_ROW_EVERY / 2;
        if view.raft.is_some_and(|raft| raft.is_reachable)
            && is_settled
            && of_instance().all(|row| row.role == Role::Worker && !is_recent(row))
        {
            steps.extend(record(view, instance, own, now).map(Box::new).map(Step::Record));
        }
    }
    let is_promoted = |row: &&Member| row.role == Role::Worker;
    let is_still =
        |row: &Member| nodes.iter().any(|it| it.id == row.node_id && !it.is_plain_worker());
    let over = rows.iter().filter(is_promoted).filter(|row| !is_still(row));
    steps.extend(over.map(|row| Step::Forget(Box::new(row.clone()))));
    steps
}

fn record(
    view: &NodeView,
    instance: &str,
    own: &Membership,
    now: OffsetDateTime,
) -> Option<Member> {
    let membership = Membership {
        node_id: view.id.clone(),
        swarm_id: own.swarm_id.clone(),
        generation: own.generation,
        role: Role::Manager,
    };
    Some(Member::promoted(
        instance,
        address_of(view)?,
        view.labels.get(ZONE).map(String::as_str),
        view.labels.get(GROUP).cloned(),
        &membership,
        now,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clients::docker::RaftView;
    use crate::common::labels::INSTANCE;

    const NOW: OffsetDateTime = time::macros::datetime!(2026-11-21 12:00 UTC);

    fn view(role: Role, is_reachable: bool, joined: OffsetDateTime) -> NodeView {
        let mut view = NodeView::example("n2", role);
        view.labels.insert(INSTANCE.to_owned(), "i-2".to_owned());
        view.address = Some("10.0.0.2".to_owned());
        view.joined_at = Some(joined);
        view.raft = view.raft.map(|raft| RaftView { is_reachable, ..raft });
        view
    }

    #[test]
    fn a_promoted_worker_is_recorded_again_and_again_and_forgotten_once_it_is_a_worker() {
        let own = Membership::example();
        let long_ago = NOW - Duration::from_secs(3600);
        let decide =
            |view: &NodeView, rows: &[Member]| decide(std::slice::from_ref(view), rows, &own, NOW);
        let promoted = view(Role::Manager, true, long_ago);
        let [Step::Record(row)] = &decide(&promoted, &[])[..] else { panic!() };
        assert!(row.is_manager() && row.role == Role::Worker && row.instance_id == "i-2");
        let rows = |age: u64| {
            [Member { updated_at: NOW - Duration::from_secs(age), ..Member::clone(row) }]
        };
        assert_eq!(decide(&promoted, &rows(10)), []);
        assert_eq!(decide(&promoted, &rows(60)).len(), 1);
        let own_row = [Member { role: Role::Manager, ..Member::clone(row) }];
        assert_eq!(decide(&promoted, &own_row), [], "it is configured as a manager");
        assert_eq!(decide(&view(Role::Manager, true, NOW), &[]), [], "it has just joined");
        let unreached = view(Role::Manager, false, long_ago);
        assert_eq!(decide(&unreached, &[]), [], "it is not reached");
        assert_eq!(decide(&unreached, &rows(999)), [], "it may be the last one of a lost quorum");
        let worker = decide(&view(Role::Worker, true, long_ago), &rows(10));
        assert!(matches!(&worker[..], [Step::Forget(_)]), "{worker:?}");
    }
}
