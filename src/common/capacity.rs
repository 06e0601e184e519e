//! The capacity of an Auto Scaling group of the swarm, in plain numbers: for metrics, CloudWatch and the status.

/// The capacity of one group.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct GroupCapacity {
    /// Nodes that get new tasks.
    pub nodes: usize,
    /// Those of them on which no task runs, except of global services.
    pub idle: usize,
    /// The nodes that are not idle, and those that the pending tasks need.
    pub needed: usize,
    /// Tasks that wait for a node and could run on a new node of the group.
    pub pending: usize,
    /// CPUs that tasks reserve on these nodes.
    pub cpus_reserved: f64,
    /// CPUs that further tasks can reserve there.
    pub cpus_available: f64,
    /// Bytes of memory that tasks reserve on these nodes.
    pub memory_reserved: u64,
    /// Bytes of memory that further tasks can reserve there.
    pub memory_available: u64,
}

/// The least [`GroupCapacity::needed_percent`] of a group without nodes that needs some.
const FROM_NOTHING: f64 = 200.0;

impl GroupCapacity {
    /// Returns the needed nodes in percent of the nodes: 100 for exactly enough, more for too few, less where nodes are
    /// idle. A group without nodes is measured like one with one node: it has 100 if it needs none, and otherwise at least
    /// 200, as ECS reports it (<https://aws.amazon.com/blogs/containers/deep-dive-on-amazon-ecs-cluster-auto-scaling/>).
    #[must_use]
    pub fn needed_percent(&self) -> f64 {
        match (self.needed, self.nodes) {
            (0, 0) => 100.0,
            (needed, 0) => FROM_NOTHING.max(100.0 * needed as f64),
            (needed, nodes) => 100.0 * needed as f64 / nodes as f64,
        }
    }

    /// Returns the reserved share of the CPUs in percent; `None` of a group without CPUs.
    #[must_use]
    pub fn cpu_percent(&self) -> Option<f64> {
        percent(self.cpus_reserved, self.cpus_available)
    }

    /// Returns the reserved share of the memory in percent; `None` of a group without memory.
    #[must_use]
    pub fn memory_percent(&self) -> Option<f64> {
        percent(self.memory_reserved as f64, self.memory_available as f64)
    }
}

fn percent(reserved: f64, available: f64) -> Option<f64> {
    let all = reserved + available;
    (all > 0.0).then(|| 100.0 * reserved / all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_enough_nodes_are_a_hundred_percent() {
        let percent =
            |needed, nodes| GroupCapacity { needed, nodes, ..Default::default() }.needed_percent();
        assert_eq!([percent(5, 5), percent(0, 0)], [100.0, 100.0]);
        assert_eq!([percent(7, 5), percent(3, 4), percent(0, 2)], [140.0, 75.0, 0.0]);
        assert_eq!([percent(1, 0), percent(9, 0)], [200.0, 900.0]);
    }

    #[test]
    fn a_share_of_nothing_is_unknown() {
        let empty = GroupCapacity::default();
        assert_eq!((empty.cpu_percent(), empty.memory_percent()), (None, None));
        let half = GroupCapacity { cpus_reserved: 1.5, cpus_available: 1.5, ..empty };
        assert_eq!((half.cpu_percent(), half.memory_percent()), (Some(50.0), None));
        assert_eq!(GroupCapacity { memory_available: 7, ..empty }.memory_percent(), Some(0.0));
    }
}
