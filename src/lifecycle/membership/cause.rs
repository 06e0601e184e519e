//! Lists the reasons for which a node must boot again, and counts the observations in a row that find one.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use crate::common::timing::MANAGER_ROW_IS_FRESH;
use crate::lifecycle::boot::Stale;

/// Reason for which this node must boot again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Docker is in no swarm, and this node has no notice: it left by hand, or its disk is new.
    InNoSwarm,
    /// The managers do not list this node any more; no manager reports that to Docker on this host.
    Removed,
    /// The charter names the swarm of a later generation.
    Older {
        /// The charter's generation.
        generation: u64,
    },
    /// The swarm lists this node with an address that is not its own.
    Moved,
    /// No manager that this host's Docker knows listens or has written its row lately. Another one, which this Docker
    /// cannot learn of, listens and has a leader.
    Stranded {
        /// Addresses of the managers that Docker on this host knows.
        known: BTreeSet<IpAddr>,
        /// Address of another manager that listens and has a leader.
        listening: IpAddr,
    },
    /// The managers refuse Docker's certificate: it expired while the machine was off, or the CA is another one.
    CertificateRefused,
    /// The quorum of this swarm was re-created without this manager.
    Fenced {
        /// The charter's generation, under which the quorum was re-created.
        generation: u64,
    },
    /// The same swarm continues as a later generation, and this node in it: the node does not leave.
    Renewed {
        /// The charter's generation.
        generation: u64,
    },
    /// This node has claimed to re-create the quorum.
    Recovery {
        /// The generation of the claim.
        generation: u64,
    },
}

impl Cause {
    /// Whether this node is out of the swarm; if not, it only boots again in the same swarm.
    #[must_use]
    pub fn is_out(&self) -> bool {
        !matches!(self, Self::Renewed { .. } | Self::Recovery { .. })
    }

    /// Returns the number of observations in a row that must find this cause.
    #[must_use]
    pub(super) fn looks(&self) -> u32 {
        // A cut network heals within a minute or two, and until then the node's tasks may serve.
        if matches!(self, Self::Stranded { .. }) { 8 } else { 2 }
    }

    /// Whether both observations found the same cause. It does not matter which of several other managers answers
    /// first.
    #[must_use]
    pub(super) fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Stranded { known, .. }, Self::Stranded { known: others, .. }) => known == others,
            _ => self == other,
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InNoSwarm => f.write_str("Docker is in no swarm any more"),
            Self::Removed => f.write_str(Stale::OffTheList.as_str()),
            Self::Older { generation } => {
                write!(f, "the cluster's swarm now has generation {generation}")
            }
            Self::Moved => f.write_str(Stale::Moved.as_str()),
            Self::Stranded { known, listening } => write!(
                f,
                "{}, none of them has written its row within {MANAGER_ROW_IS_FRESH:?}, and the manager at {listening} listens and has a leader",
                nobody_listens(known)
            ),
            Self::CertificateRefused => f.write_str("this node's certificate is refused"),
            Self::Fenced { generation } => write!(
                f,
                "the quorum was re-created without this manager, as generation {generation}"
            ),
            Self::Renewed { generation } => {
                write!(f, "the swarm of this node now has generation {generation}")
            }
            Self::Recovery { generation } => {
                write!(f, "this node must re-create the quorum, as generation {generation}")
            }
        }
    }
}

/// Returns the same text for a node that waits and for one that leaves.
pub(super) fn nobody_listens(known: &BTreeSet<IpAddr>) -> String {
    let known: Vec<String> = known.iter().map(ToString::to_string).collect();
    format!("no manager that Docker knows here listens ({})", known.join(", "))
}

/// Cause that the observations before this one found, and their number.
#[derive(Debug, Default)]
pub(super) struct Suspicion(Option<(Cause, u32)>);

impl Suspicion {
    /// Counts an observation that found `cause`. Returns `true` once enough observations in a row have found it.
    pub(super) fn confirm(&mut self, cause: &Cause) -> bool {
        let looks = match &self.0 {
            Some((earlier, looks)) if earlier.is_same(cause) => looks + 1,
            _ => 1,
        };
        self.0 = Some((cause.clone(), looks));
        looks >= cause.looks()
    }

    /// Resets the count: an observation found nothing, or could not tell.
    pub(super) fn end(&mut self) {
        self.0 = None;
    }

    /// Whether the last observation found a cause.
    pub(super) fn is_open(&self) -> bool {
        self.0.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stranded(known: u8, listening: u8) -> Cause {
        Cause::Stranded {
            known: [[10, 0, 0, known].into()].into(),
            listening: [10, 0, 0, listening].into(),
        }
    }

    /// Returns the number of observations that take this node out, if all find the same.
    fn looks(cause: &Cause) -> usize {
        let mut suspicion = Suspicion::default();
        (1..100).find(|_| suspicion.confirm(cause)).unwrap()
    }

    #[test]
    fn two_looks_take_a_node_out_and_eight_one_that_may_only_be_cut_off() {
        for cause in [Cause::InNoSwarm, Cause::Removed, Cause::Older { generation: 3 }] {
            assert_eq!(looks(&cause), 2, "{cause}");
        }
        // Eight, 15 s apart: a network that is cut for a minute or two takes no node out.
        assert_eq!(looks(&stranded(1, 7)), 8);
    }

    #[test]
    fn a_look_that_finds_something_else_or_nothing_begins_the_count_anew() {
        let mut suspicion = Suspicion::default();
        let mut is_enough = |causes: &[Cause]| causes.iter().map(|it| suspicion.confirm(it)).last();
        let (older, newer) = (Cause::Older { generation: 3 }, Cause::Older { generation: 4 });
        assert_eq!(is_enough(&[older.clone(), newer.clone()]), Some(false));
        assert_eq!(is_enough(&[newer]), Some(true));

        // It is the same cause if another manager answers first, and a new one if Docker knows another manager.
        let mut seven: Vec<Cause> = (1..8).map(|turn| stranded(1, 7 + turn % 2)).collect();
        assert_eq!(is_enough(&seven), Some(false));
        assert_eq!(is_enough(&[stranded(1, 9)]), Some(true));
        seven.push(stranded(2, 7));
        assert_eq!(is_enough(&seven), Some(false));

        let mut suspicion = Suspicion::default();
        assert!(!suspicion.confirm(&older) && suspicion.is_open());
        suspicion.end();
        assert!(!suspicion.is_open() && !suspicion.confirm(&older));
    }
}
