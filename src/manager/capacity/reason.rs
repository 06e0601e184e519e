//! Reads why a task waits for a node from swarmkit's explanation. Pure.

/// Why no node takes a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// Too few free CPUs, memory or generic resources.
    Resources,
    /// A port in host mode is in use.
    HostPort,
    /// Every node has as many replicas as it may.
    MaxReplicas,
    /// Nodes are not ready, or not active.
    Unavailable,
    Constraints,
    Platform,
    Plugin,
    Volume,
    /// Docker gives no reason, or one that skep does not know.
    Other,
}

/// Parts of the explanations of swarmkit's filters (`manager/scheduler/filter.go`). Of several in one explanation, the
/// first here is the reason.
const PARTS: [(&str, Reason); 8] = [
    ("insufficient resources", Reason::Resources),
    ("host-mode port already in use", Reason::HostPort),
    ("max replicas per node", Reason::MaxReplicas),
    ("constraints not satisfied", Reason::Constraints),
    ("unsupported platform", Reason::Platform),
    ("missing plugin", Reason::Plugin),
    ("cannot fulfill requested", Reason::Volume),
    // It counts every node that is drained, paused or Down, whatever the task asks for.
    ("not available for new tasks", Reason::Unavailable),
];

impl Reason {
    pub const ALL: [Self; 9] = [
        Self::Resources,
        Self::HostPort,
        Self::MaxReplicas,
        Self::Unavailable,
        Self::Constraints,
        Self::Platform,
        Self::Plugin,
        Self::Volume,
        Self::Other,
    ];

    /// Returns the reason in an explanation such as `no suitable node (insufficient resources on 2 nodes)`.
    pub fn of(explanation: &str) -> Self {
        let found = PARTS.iter().find(|(part, _)| explanation.contains(part));
        found.map_or(Self::Other, |(_, reason)| *reason)
    }

    /// Returns the value of the metric's label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Resources => "resources",
            Self::HostPort => "host_port",
            Self::MaxReplicas => "max_replicas",
            Self::Unavailable => "unavailable",
            Self::Constraints => "constraints",
            Self::Platform => "platform",
            Self::Plugin => "plugin",
            Self::Volume => "volume",
            Self::Other => "other",
        }
    }

    /// Whether a further node can remove the reason: it would have the same plugins and volumes. Constraints and
    /// platforms are compared with the nodes of each group.
    pub fn may_end_with_a_node(self) -> bool {
        !matches!(self, Self::Plugin | Self::Volume | Self::Other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_several_reasons_the_first_one_counts() {
        for (explanation, reason) in [
            ("insufficient resources on 1 node", Reason::Resources),
            (
                "scheduling constraints not satisfied on 2 nodes; insufficient resources on 1 node",
                Reason::Resources,
            ),
            ("host-mode port already in use on 3 nodes", Reason::HostPort),
            (
                "max replicas per node limit exceed; scheduling constraints not satisfied on 1 node",
                Reason::MaxReplicas,
            ),
            ("2 nodes not available for new tasks", Reason::Unavailable),
            ("missing plugin on 3 nodes; 3 nodes not available for new tasks", Reason::Plugin),
            ("scheduling constraints not satisfied on 2 nodes", Reason::Constraints),
            ("unsupported platform on 1 node", Reason::Platform),
            ("missing plugin on 1 node", Reason::Plugin),
            ("cannot fulfill requested CSI volume mounts on 1 node", Reason::Volume),
            ("the moon is in the wrong phase", Reason::Other),
        ] {
            let whole = format!("no suitable node ({explanation})");
            assert_eq!(Reason::of(&whole), reason, "{whole}");
            let ends = ![Reason::Plugin, Reason::Volume, Reason::Other].contains(&reason);
            assert_eq!(reason.may_end_with_a_node(), ends);
        }
        assert_eq!(Reason::of("no suitable node"), Reason::Other);
    }
}
