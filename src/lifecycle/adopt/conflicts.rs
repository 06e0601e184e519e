//! Finds what does not fit between the swarm, the instances and skep's own assumptions. Pure.

use std::net::IpAddr;

use super::types::{Observed, SwarmSeen};
use crate::clients::aws::ec2::Ec2Instance;
use crate::clients::docker::{NodeView, SWARM_PORT};
use crate::common::instance::Role;
use crate::common::report::{AdoptedNode, AdoptionConflict};
use crate::config::identity::of_tags;
use crate::config::is_private;

/// Docker's default port of overlay networks (VXLAN), which the template's security group opens.
const DATA_PATH_PORT: u32 = 4789;
/// Subject of a conflict that concerns no single node.
const SWARM: &str = "swarm";

/// Returns the nodes as the plan shows them.
pub(super) fn describe(swarm: &SwarmSeen) -> Vec<AdoptedNode> {
    let mut nodes: Vec<AdoptedNode> = swarm.nodes.iter().map(|view| node(swarm, view)).collect();
    nodes.sort_by(|one, other| {
        (one.role != Role::Manager, &one.hostname)
            .cmp(&(other.role != Role::Manager, &other.hostname))
    });
    nodes
}

fn node(swarm: &SwarmSeen, view: &NodeView) -> AdoptedNode {
    let instance = view.ip().and_then(|address| one_at(swarm, address));
    AdoptedNode {
        node_id: view.id.clone(),
        hostname: view.hostname.clone(),
        role: view.role,
        role_by_tags: instance.and_then(|instance| of_tags(&instance.tags).1),
        state: view.state.clone(),
        address: view.address.clone(),
        instance_id: instance.map(|instance| instance.id.clone()),
        group: instance.and_then(|instance| instance.group.clone()),
    }
}

fn at(swarm: &SwarmSeen, address: IpAddr) -> impl Iterator<Item = &Ec2Instance> {
    let all = swarm.instances.as_deref().unwrap_or_default().iter();
    all.filter(move |instance| instance.addresses.contains(&address))
}

fn one_at(swarm: &SwarmSeen, address: IpAddr) -> Option<&Ec2Instance> {
    let mut found = at(swarm, address);
    found.next().filter(|_| found.next().is_none())
}

/// Returns the conflicts, those that block the adoption first.
pub(super) fn conflicts(seen: &Observed, swarm: &SwarmSeen) -> Vec<AdoptionConflict> {
    let mut found = of_swarm(seen, swarm);
    for view in &swarm.nodes {
        found.extend(of_node(seen, swarm, view));
    }
    found.sort_by_key(|it| !it.blocks);
    found
}

fn of_swarm(seen: &Observed, swarm: &SwarmSeen) -> Vec<AdoptionConflict> {
    let conflict = |blocks, what: String, remedy: &str| AdoptionConflict {
        subject: SWARM.to_owned(),
        what,
        remedy: remedy.to_owned(),
        blocks,
    };
    let mut found = vec![];
    if let Err(error) = &swarm.instances {
        found.push(conflict(
            true,
            format!("EC2 did not list the instances of the nodes, so nothing about them was checked: {error}"),
            "allow ec2:DescribeInstances to this instance's role",
        ));
    }
    let mut elsewhere: Vec<String> = swarm
        .engine
        .managers
        .iter()
        .filter(|it| it.port() != SWARM_PORT)
        .map(ToString::to_string)
        .collect();
    if !elsewhere.is_empty() {
        elsewhere.sort();
        found.push(conflict(
            true,
            format!("managers listen on another port than {SWARM_PORT}: {}", elsewhere.join(", ")),
            "skep's nodes join on port 2377: replace these managers, one after the other, by managers with the default port (`docker swarm join --advertise-addr <address>`)",
        ));
    }
    if let Some(port) =
        swarm.engine.data_path_port.filter(|port| ![0, DATA_PATH_PORT].contains(port))
    {
        found.push(conflict(
            false,
            format!("overlay networks use UDP port {port} and not {DATA_PATH_PORT}"),
            "open that port between all nodes in their security groups; the template opens 4789",
        ));
    }
    match (seen.wants_autolock, swarm.cluster.is_autolocked) {
        (true, false) => found.push(conflict(
            false,
            "swarm.autolock is set, and the managers of this swarm do not lock themselves".into(),
            "`docker swarm update --autolock=true` switches it on; skep stores the key",
        )),
        (false, true) => found.push(conflict(
            false,
            "the managers of this swarm lock themselves (autolock), and swarm.autolock is not set".into(),
            "skep stores the unlock key, and unlocks managers that restart; set swarm.autolock, so that a swarm that is founded later locks itself, too",
        )),
        (true, true) | (false, false) => {}
    }
    found
}

fn of_node(seen: &Observed, swarm: &SwarmSeen, view: &NodeView) -> Vec<AdoptionConflict> {
    let is_own = seen.local.node_id.as_ref() == Some(&view.id);
    let is_manager = view.raft.is_some() || view.role == Role::Manager;
    let name = if view.hostname.is_empty() { &view.id } else { &view.hostname };
    let conflict = |blocks, what: String, remedy: String| AdoptionConflict {
        subject: name.clone(),
        what,
        remedy,
        blocks,
    };
    let mut found = vec![];
    if view.raft.is_some_and(|raft| !raft.is_reachable) {
        found.push(conflict(
            false,
            "a member of raft that its leader does not reach: it counts for the quorum".into(),
            format!("repair it, or remove it: `docker node demote {0}`, then `docker node rm --force {0}`", view.id),
        ));
    } else if view.state != "ready" {
        found.push(conflict(
            false,
            format!("its state is {}", view.state),
            format!("`docker node rm {}` if it is gone: skep removes no node that was in no Auto Scaling group", view.id),
        ));
    }
    let Some(address) = view.ip() else {
        found.push(conflict(
            false,
            "Docker lists it without an address, so no instance can be found for it".into(),
            "start its Docker, or remove it".into(),
        ));
        return found;
    };
    if !is_private(address) {
        found.push(conflict(
            is_manager,
            format!("the swarm has the address {address} for it, which is not private"),
            "let it leave and join again with `--advertise-addr <its private address>`; skep does so by itself on a worker, which ends its tasks".into(),
        ));
        return found;
    }
    if is_own && address != seen.address {
        found.push(conflict(
            true,
            format!(
                "the swarm has the address {address} for this node, and skep would use {}",
                seen.address
            ),
            format!("set swarm.advertise_address = \"{address}\" in this node's skep.toml"),
        ));
    }
    if swarm.instances.is_ok() {
        found.extend(
            of_instance(seen, swarm, view, (address, is_own))
                .map(|(what, remedy)| conflict(false, what, remedy)),
        );
    }
    found
}

/// Returns what the instance of a node does not fit, with the remedies.
fn of_instance<'a>(
    seen: &'a Observed,
    swarm: &'a SwarmSeen,
    view: &'a NodeView,
    (address, is_own): (IpAddr, bool),
) -> impl Iterator<Item = (String, String)> {
    let mut found = vec![];
    let instances: Vec<&Ec2Instance> = at(swarm, address).collect();
    match instances[..] {
        [instance] => {
            let (cluster, role) = of_tags(&instance.tags);
            let id = &instance.id;
            if let Some(primary) = instance.primary.filter(|it| *it != address && !is_own) {
                found.push((
                    format!("it has several addresses: the swarm has {address} for it, and its metadata name {primary} first"),
                    format!("set swarm.advertise_address = \"{address}\" in its skep.toml before skep starts there; otherwise skep lets a worker leave and join again, which ends its tasks, and refuses to start on a manager"),
                ));
            }
            if let Some(role) = role.filter(|role| *role != view.role && !is_own) {
                found.push((
                    format!("it is a {} of the swarm, and the tags of {id} name the role {role}", view.role),
                    format!("change the tag skep:role, or set role = \"{}\" in its skep.toml; skep never promotes or demotes it", view.role),
                ));
            }
            if let Some(cluster) = cluster.filter(|cluster| *cluster != seen.cluster && !is_own) {
                found.push((
                    format!("the tags of {id} name the cluster {cluster}"),
                    format!("change the tag skep:cluster to {0}, or set cluster = \"{0}\" in its skep.toml", seen.cluster),
                ));
            }
        }
        [] => found.push((
            format!("EC2 lists no instance of this VPC with the address {address}"),
            "skep's managers identify a node by its instance: they serve none that they cannot identify, and leave it alone".into(),
        )),
        _ => found.push((
            format!("EC2 lists {} instances of this VPC with the address {address}", instances.len()),
            "skep's managers serve no node that they cannot identify".into(),
        )),
    }
    found.into_iter()
}
