//! Finds out which instance each node is, and writes that on the node as Docker labels, together with the facts of the
//! instance.
//!
//! Guarantees: a label is written only where EC2 lists exactly one instance of this VPC at the address under which the
//! node reaches the managers, which the node cannot choose; it is written once, while the node is alive, and stays when
//! its instance is gone. No row of the ledger is read for it. All duties take a node for the instance in its label, so a
//! row can affect no node but its writer's own. Only managers can write labels.
//!
//! A node at an address that no instance of the VPC has is left alone: skep does nothing for it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use tokio::time::Instant;

use super::complaints::Complaints;
use super::duty::{Duty, Poll};
use super::error::ManagerError;
use super::node_edit::{BACKUP, LEADER, Rhythm};
use super::observe::{Fleet, lately};
use super::placed::{address_of, instance_of};
use crate::clients::aws::autoscaling::GroupInstance;
use crate::clients::aws::ec2::Ec2Instance;
use crate::clients::docker::NodeView;
use crate::common::held_since::HeldSince;
use crate::common::labels::{self, GROUP, INSTANCE, Labels};

/// Name of this duty.
const NAME: &str = "instances";
/// Number of nodes that one poll identifies: EC2 is asked about them in one call. Where many nodes join at once, the next
/// poll follows without a pause.
const AT_ONCE: usize = 49;
/// Time after which EC2 is asked again about an address at which it has listed no instance, or two.
const AGAIN: Duration = Duration::from_secs(60);

/// State that one poll leaves for the next; by node id.
#[derive(Default)]
struct Memory {
    unknown: HeldSince<String>,
    asked: BTreeMap<String, Instant>,
}

/// Labels nodes with their instances for as long as this node is a manager.
pub(super) async fn run(fleet: &Fleet<'_>) {
    let (first, after_failure) = (Duration::ZERO, BACKUP.look);
    Duty { name: NAME, first, after_failure, trouble: None }.run(fleet, poll).await;
}

async fn poll(
    Poll { fleet, memory, complaints }: Poll<'_, Memory>,
) -> Result<Duration, ManagerError> {
    let node = fleet.node;
    let nodes = fleet.nodes(lately(LEADER.look)).await?;
    let rhythm = Rhythm::of(fleet, &nodes);
    follow_groups(fleet, &nodes, complaints).await?;
    let mut due = memory.due(&nodes, rhythm.patience, nodes.asked_at);
    complaints.retain(|id| nodes.iter().any(|view| view.id == id));
    if due.is_empty() {
        return Ok(rhythm.look);
    }
    let pause = if due.len() > AT_ONCE { Duration::ZERO } else { rhythm.look };
    due.truncate(AT_ONCE);
    let addresses: BTreeSet<IpAddr> = due.iter().map(|(_, address)| *address).collect();
    let own = (node.instance.id.as_str(), node.instance.private_address);
    let listed = node.ec2.fetch_by_address(own, &addresses).await?;
    for (view, address) in due {
        memory.asked.insert(view.id.clone(), Instant::now());
        let mut at_address = listed.iter().filter(|it| it.addresses.contains(&address));
        let (Some(instance), None) = (at_address.next(), at_address.next()) else {
            let why = format!("EC2 lists no instance of this VPC at {address}, or several");
            if complaints.is_news(&view.id, &why) {
                tracing::warn!(
                    node = view.id,
                    hostname = view.hostname,
                    "{why}: skep does nothing for this node"
                );
            }
            continue;
        };
        let facts = facts_of(instance);
        let edit = |labels: &Labels, availability| {
            let is_known = labels.contains_key(INSTANCE);
            let mut labels = labels.clone();
            labels.extend(facts.clone());
            (!is_known).then_some((labels, availability))
        };
        let written = node.swarm.relabel(&view.id, edit).await;
        if let Ok(true) = written {
            tracing::info!(node = view.id, instance = instance.id, %address, "identified");
        }
        complaints.take("identifying a node", &view.id, written.map(drop).map_err(Into::into))?;
    }
    Ok(pause)
}

/// Corrects the label with the group of an instance that was attached to another one.
async fn follow_groups(
    fleet: &Fleet<'_>,
    nodes: &[NodeView],
    complaints: &mut Complaints,
) -> Result<(), ManagerError> {
    let Some(listed) = fleet.last_groups() else { return Ok(()) };
    for (view, group) in moved(nodes, &listed) {
        let edit = |labels: &Labels, availability| {
            let mut labels = labels.clone();
            labels.insert(GROUP.to_owned(), group.to_owned());
            Some((labels, availability))
        };
        let written = fleet.node.swarm.relabel(&view.id, edit).await;
        complaints.take("identifying a node", &view.id, written.map(drop).map_err(Into::into))?;
    }
    Ok(())
}

/// Returns the nodes whose instance is in another group than their label shows.
fn moved<'a>(
    nodes: &'a [NodeView],
    listed: &'a BTreeMap<String, GroupInstance>,
) -> impl Iterator<Item = (&'a NodeView, &'a str)> {
    nodes.iter().filter_map(|view| {
        let group = listed.get(instance_of(view)?)?.group.as_str();
        (view.labels.get(GROUP).map(String::as_str) != Some(group)).then_some((view, group))
    })
}

impl Memory {
    /// Returns the nodes about which EC2 must be asked now, with their addresses.
    fn due<'a>(
        &mut self,
        nodes: &'a [NodeView],
        patience: Duration,
        now: Instant,
    ) -> Vec<(&'a NodeView, IpAddr)> {
        // The address of a node that is Down may be another instance's by now. A second live node at an address is not the
        // instance: its connection is forwarded there. Of a host that joins anew, the old entry is Down within seconds.
        let taken: BTreeSet<IpAddr> = nodes
            .iter()
            .filter(|view| view.is_ready() && instance_of(view).is_some())
            .filter_map(address_of)
            .collect();
        let unknown = nodes.iter().filter(|view| instance_of(view).is_none() && !view.is_down());
        let unknown: Vec<(&NodeView, IpAddr)> =
            unknown.filter_map(|view| Some((view, address_of(view)?))).collect();
        self.unknown.observe(unknown.iter().map(|(view, _)| view.id.clone()), now);
        self.asked.retain(|id, _| self.unknown.since(id).is_some());
        let is_due = |(view, address): &(&NodeView, IpAddr)| {
            self.unknown.held_for(&view.id, now).is_some_and(|held| held >= patience)
                && !taken.contains(address)
                && self.asked.get(&view.id).is_none_or(|asked| now - *asked >= AGAIN)
        };
        unknown.into_iter().filter(is_due).collect()
    }
}

/// Returns the labels with the facts of an instance.
fn facts_of(instance: &Ec2Instance) -> Labels {
    let facts = [
        (INSTANCE, Some(instance.id.as_str())),
        (labels::ZONE, Some(instance.zone.as_str())),
        (labels::INSTANCE_TYPE, Some(instance.instance_type.as_str())),
        (labels::MARKET, Some(instance.market.as_str())),
        (GROUP, instance.group.as_deref()),
    ];
    let facts = facts.into_iter().filter_map(|(key, value)| Some((key.into(), value?.into())));
    facts.collect()
}

#[cfg(test)]
mod tests;
