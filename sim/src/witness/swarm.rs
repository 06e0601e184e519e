//! The recorded facts about the swarm as a whole, from the daemons and the charter.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use bollard::models::{Node, NodeSpecAvailabilityEnum, NodeState, Reachability};

/// One entry of a manager's node list.
#[derive(Clone, Debug)]
pub struct Listed {
    pub address: Ipv4Addr,
    pub state: NodeState,
    pub is_draining: bool,
    pub is_manager: bool,
    pub is_leader: bool,
    is_reachable: bool,
}

impl Listed {
    fn of(node: &Node) -> Option<Listed> {
        let status = node.status.as_ref()?;
        let manager = node.manager_status.as_ref();
        // The address in a manager's own status can be `0.0.0.0`; the others connect to its raft address.
        let raft = manager.and_then(|manager| manager.addr.as_deref()?.rsplit_once(':'));
        let address = raft.map(|(host, _)| host).or(status.addr.as_deref())?;
        let availability = node.spec.as_ref()?.availability;
        Some(Listed {
            address: address.parse().ok()?,
            state: status.state?,
            is_draining: availability == Some(NodeSpecAvailabilityEnum::DRAIN),
            is_manager: manager.is_some(),
            is_leader: manager.and_then(|manager| manager.leader) == Some(true),
            is_reachable: manager.and_then(|manager| manager.reachability)
                == Some(Reachability::REACHABLE),
        })
    }
}

#[derive(Debug, Default)]
pub struct SwarmFacts {
    /// Every swarm id that a daemon or the charter has returned, with the first source of each.
    pub ids: BTreeMap<String, String>,
    /// Every generation of the charter.
    pub generations: BTreeSet<u64>,
    /// Number of polls of daemons for their swarm id.
    pub looks: u64,
    /// The latest node list.
    pub list: Vec<Listed>,
    pub leader: Option<Ipv4Addr>,
    /// The moment when a manager last listed a leader and a reachable majority.
    last_quorum: Option<f64>,
    longest_gap: f64,
}

impl SwarmFacts {
    /// Records a node list; returns the leader's address if the leader has changed.
    pub fn listed(&mut self, nodes: &[Node], at: f64) -> Option<Ipv4Addr> {
        self.list = nodes.iter().filter_map(Listed::of).collect();
        let managers = self.list.iter().filter(|node| node.is_manager).count();
        let reachable = self.list.iter().filter(|node| node.is_reachable).count();
        // A leader that has lost its majority still lists itself as leader for a while.
        if reachable * 2 <= managers {
            return None;
        }
        let leader = self.list.iter().find(|node| node.is_leader)?.address;
        self.longest_gap = self.without_leader(at);
        self.last_quorum = Some(at);
        let changed = self.leader != Some(leader);
        self.leader = Some(leader);
        changed.then_some(leader)
    }

    /// The longest time without a quorum in seconds, from the first quorum until now.
    pub fn without_leader(&self, now: f64) -> f64 {
        self.longest_gap.max(self.last_quorum.map_or(0.0, |last| now - last))
    }

    /// Restarts the measurement of the time without a quorum.
    pub fn forget_gaps(&mut self, now: f64) {
        self.longest_gap = 0.0;
        self.last_quorum = self.last_quorum.map(|_| now);
    }

    pub fn named(&mut self, swarm_id: &str, by: &str) {
        self.ids.entry(swarm_id.to_owned()).or_insert_with(|| by.to_owned());
    }

    pub fn at(&self, address: Ipv4Addr) -> Option<&Listed> {
        self.list.iter().find(|node| node.address == address)
    }
}

#[cfg(test)]
mod tests {
    use bollard::models::{ManagerStatus, NodeSpec, NodeStatus};

    use super::*;

    fn manager(host: u8, leads: bool, reachability: Reachability) -> Node {
        Node {
            spec: Some(NodeSpec::default()),
            status: Some(NodeStatus { state: Some(NodeState::READY), ..NodeStatus::default() }),
            manager_status: Some(ManagerStatus {
                leader: Some(leads),
                reachability: Some(reachability),
                addr: Some(format!("10.78.0.{host}:2377")),
            }),
            ..Node::default()
        }
    }

    #[test]
    fn a_leader_without_a_majority_is_none() {
        let (up, away) = (Reachability::REACHABLE, Reachability::UNREACHABLE);
        let mut swarm = SwarmFacts::default();
        assert!(swarm.without_leader(7.0).abs() < 0.001, "nothing is lost before it was there");
        let all = [manager(4, true, up), manager(5, false, up), manager(6, false, away)];
        assert_eq!(swarm.listed(&all, 10.0), Some(Ipv4Addr::new(10, 78, 0, 4)));
        assert_eq!(swarm.listed(&all, 11.0), None, "it leads already");
        let alone = [manager(4, true, up), manager(5, false, away), manager(6, false, away)];
        assert_eq!(swarm.listed(&alone, 20.0), None);
        assert!((swarm.without_leader(25.0) - 14.0).abs() < 0.001);
        swarm.listed(&all, 31.0);
        assert!((swarm.without_leader(32.0) - 20.0).abs() < 0.001, "the longest stays");
    }
}
