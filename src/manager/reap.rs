//! Nodes that died without a word: no notice, no departure, only an entry that stays Down.
//!
//! Guarantees: a node is taken off the list only when Docker has called it Down for a while **and**
//! a successful answer of Auto Scaling does not list its instance any more. An answer that does not
//! list the asking instance either proves nothing. A manager is demoted first.
//!
//! Assumes a member row that says which instance a node is; a node without one is left alone.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::time::Duration;

use tokio::time::Instant;

use super::act::CareError;
use crate::demotion::{Demotion, demote_in_turn};
use crate::instance::Role;
use crate::ledger::Member;
use crate::node::Node;
use crate::swarm::{NodeView, SwarmErrorKind};

/// Docker's list is near; Auto Scaling is asked only about nodes that are Down.
const INTERVAL: Duration = Duration::from_secs(15);
/// An engine that restarts is Down for some seconds, too.
const LEADER_PATIENCE: Duration = Duration::from_secs(20);
/// The other managers come in when the leader's skep has not acted.
const BACKUP_PATIENCE: Duration = Duration::from_secs(60);

/// Since when each node has been seen Down, by node id.
type DownSince = BTreeMap<String, Instant>;

/// Takes the dead off the list for as long as this node is a manager; never returns.
pub async fn reap_the_dead(node: &Node, node_id: &str) -> Infallible {
    loop {
        super::until_manager(node).await;
        let mut down_since = DownSince::new();
        loop {
            tokio::time::sleep(INTERVAL).await;
            match look(node, node_id, &mut down_since).await {
                Ok(()) => {}
                Err(CareError::Swarm(error)) if error.kind == SwarmErrorKind::NotManager => break,
                Err(error) => {
                    tracing::warn!("looking for dead nodes: {}", crate::errors::chain(&error));
                }
            }
        }
    }
}

async fn look(node: &Node, me: &str, down_since: &mut DownSince) -> Result<(), CareError> {
    let nodes = node.swarm.fetch_nodes().await?;
    let is_leader = nodes.iter().any(|view| view.id == me && view.is_leader());
    let patience = if is_leader { LEADER_PATIENCE } else { BACKUP_PATIENCE };
    let due = down_for(&nodes, patience, down_since, Instant::now());
    if due.is_empty() {
        return Ok(());
    }
    let members = node.ledger.fetch_members().await?;
    let suspects: Vec<(&NodeView, &Member)> = due
        .into_iter()
        .filter_map(|view| Some((view, members.iter().find(|member| member.node_id == view.id)?)))
        .collect();
    if suspects.is_empty() {
        return Ok(());
    }
    let mut ids: Vec<&str> = suspects.iter().map(|(_, row)| row.instance_id.as_str()).collect();
    ids.push(&node.instance.id);
    let listed = node.autoscaling.fetch_listed(&ids).await?;
    if !listed.contains_key(&node.instance.id) {
        tracing::debug!("Auto Scaling does not list this instance itself: no evidence of a death");
        return Ok(());
    }
    for (view, member) in suspects {
        let who = member.instance_id.as_str();
        match listed.get(who) {
            Some(seen) => {
                tracing::debug!(
                    instance = who,
                    lifecycle = seen.lifecycle_state,
                    "Down, and listed"
                );
            }
            // A manager that cannot be demoted yet must not keep the others on the list.
            None => {
                if let Err(error) = bury(node, view, member).await {
                    tracing::warn!(instance = who, "{}", crate::errors::chain(&error));
                }
            }
        }
    }
    Ok(())
}

/// The nodes that have been Down for `patience`. One that comes back starts anew.
fn down_for<'a>(
    nodes: &'a [NodeView],
    patience: Duration,
    since: &mut DownSince,
    now: Instant,
) -> Vec<&'a NodeView> {
    since.retain(|id, _| nodes.iter().any(|view| view.id == *id && view.is_down()));
    nodes
        .iter()
        .filter(|view| view.is_down())
        .filter(|view| now - *since.entry(view.id.clone()).or_insert(now) >= patience)
        .collect()
}

/// One step: a raft member is demoted now and taken off the list at a later look.
async fn bury(node: &Node, view: &NodeView, member: &Member) -> Result<(), CareError> {
    let (who, id) = (member.instance_id.as_str(), view.id.as_str());
    if !view.is_plain_worker() {
        tracing::warn!(
            instance = who,
            node = id,
            "a manager is Down and its instance is in no group any more: demoting it"
        );
        if let Demotion::HeldUp { waiting_for } = demote_in_turn(node, id).await? {
            tracing::warn!(instance = who, node = id, "not demoted yet: waiting for {waiting_for}");
        }
        return Ok(());
    }
    node.swarm.remove(id).await?;
    node.ledger.delete_member(member.role, who).await?;
    if member.role == Role::Manager {
        node.ledger.give_turn_back(id).await?;
    }
    tracing::warn!(
        instance = who,
        node = id,
        "removed a node that is Down and whose instance is in no group any more"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::swarm::Availability;

    fn node(id: &str, state: &str) -> NodeView {
        NodeView {
            id: id.into(),
            hostname: String::new(),
            state: state.into(),
            availability: Availability::Active,
            role: Role::Worker,
            address: None,
            raft: None,
        }
    }

    #[test]
    fn only_who_stays_down_is_suspected() {
        let (start, patience) = (Instant::now(), Duration::from_secs(20));
        let mut since = DownSince::new();
        let mut look = |seconds: u64, states: [&str; 3]| -> Vec<String> {
            let nodes = ["a", "b", "c"].iter().zip(states).map(|(id, state)| node(id, state));
            let nodes: Vec<NodeView> = nodes.collect();
            let now = start + Duration::from_secs(seconds);
            down_for(&nodes, patience, &mut since, now).iter().map(|it| it.id.clone()).collect()
        };
        assert!(look(0, ["down", "unknown", "down"]).is_empty());
        assert!(look(10, ["down", "unknown", "ready"]).is_empty());
        assert_eq!(look(20, ["down", "unknown", "down"]), ["a"], "c was back meanwhile");
        assert_eq!(look(30, ["down", "unknown", "down"]), ["a"], "c has been Down for 10 s");
        assert_eq!(look(40, ["ready", "disconnected", "down"]), ["c"]);
    }
}
