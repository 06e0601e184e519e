//! Counts the managers, and the managers that the swarm can lose without losing its quorum.

use super::nodes::{NodeView, RaftView};

/// The members of raft as its leader counts them; a member whose demotion is in progress still counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quorum {
    /// All members, reachable or not.
    pub managers: usize,
    /// Managers that the leader reaches, itself included.
    pub reachable: usize,
}

impl Quorum {
    /// Counts the managers of a node list.
    #[must_use]
    pub fn of(nodes: &[NodeView]) -> Self {
        let members = nodes.iter().filter_map(|node| node.raft);
        members.fold(Self::default(), |sum, member| Self {
            managers: sum.managers + 1,
            reachable: sum.reachable + usize::from(member.is_reachable),
        })
    }

    /// Returns the numbers without this member.
    #[must_use]
    pub fn without(self, member: RaftView) -> Self {
        Self {
            managers: self.managers.saturating_sub(1),
            reachable: self.reachable.saturating_sub(usize::from(member.is_reachable)),
        }
    }

    /// Whether the swarm can decide anything: raft needs more than half of its members.
    #[must_use]
    pub fn is_kept(self) -> bool {
        2 * self.reachable > self.managers
    }

    /// Returns how many of the reachable managers can be lost while the quorum is kept.
    #[must_use]
    pub fn may_be_lost(self) -> usize {
        self.reachable.saturating_sub(self.managers / 2 + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn raft_needs_more_than_half_of_its_members() {
        let of = |managers, reachable| Quorum { managers, reachable };
        for (quorum, is_kept, may_be_lost) in [
            (of(0, 0), false, 0),
            (of(1, 1), true, 0),
            (of(2, 2), true, 0),
            (of(2, 1), false, 0),
            (of(3, 3), true, 1),
            (of(3, 2), true, 0),
            (of(3, 1), false, 0),
            (of(4, 2), false, 0),
            (of(5, 5), true, 2),
            (of(5, 4), true, 1),
            (of(7, 7), true, 3),
        ] {
            assert_eq!(quorum.is_kept(), is_kept, "{quorum:?}");
            assert_eq!(quorum.may_be_lost(), may_be_lost, "{quorum:?}");
        }
        let leader = RaftView { is_leader: true, is_reachable: true };
        assert_eq!(of(3, 2).without(leader), of(2, 1));
        let dead = RaftView { is_leader: false, is_reachable: false };
        assert_eq!(of(3, 2).without(dead), of(2, 2));
    }
}
