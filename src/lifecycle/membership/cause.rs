//! Why a node takes its place anew, and how many looks in a row must find it.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use crate::manager::peers::FRESH;

/// Why this node has to take its place anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Docker is in no swarm, and nobody has told this node to leave: by hand, or a disk that is
    /// new.
    InNoSwarm,
    /// The managers do not list this node any more; no manager reports that to Docker here.
    Removed,
    /// The charter names the swarm of a later generation.
    Older { generation: u64 },
    /// The swarm knows this node by an address that is not its own.
    Moved,
    /// No manager that Docker knows here listens or has written its row lately, and another one, of which Docker here
    /// will not learn, listens and has a leader.
    Stranded { known: BTreeSet<IpAddr>, listening: IpAddr },
    /// Docker's certificate is refused: it expired while the machine was off, or the CA is another.
    CertificateRefused,
    /// The quorum of this swarm was re-created without this manager.
    Fenced { generation: u64 },
    /// The same swarm goes on as a later generation, and this node with it: nothing is left.
    Renewed { generation: u64 },
    /// This node has claimed to re-create the quorum.
    Recovery { generation: u64 },
}

impl Cause {
    /// Is this node out of the swarm, or does it only take its place in it anew?
    #[must_use]
    pub fn is_out(&self) -> bool {
        !matches!(self, Self::Renewed { .. } | Self::Recovery { .. })
    }

    /// So many looks in a row must find it.
    #[must_use]
    pub(super) fn looks(&self) -> u32 {
        // A network that is cut heals within a minute or two, and until then its tasks may serve.
        if matches!(self, Self::Stranded { .. }) { 8 } else { 2 }
    }

    /// Have both looks found the same? Which of several other managers answers first says nothing.
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
            Self::Removed => f.write_str("the managers have taken this node off their list"),
            Self::Older { generation } => {
                write!(f, "the cluster's swarm is that of generation {generation} now")
            }
            Self::Moved => {
                f.write_str("the swarm knows this node by an address that is not its own")
            }
            Self::Stranded { known, listening } => write!(
                f,
                "{}, none of them has written its row within {FRESH:?}, and the manager at {listening} listens and has a leader",
                nobody_listens(known)
            ),
            Self::CertificateRefused => f.write_str("this node's certificate is refused"),
            Self::Fenced { generation } => write!(
                f,
                "the quorum was re-created without this manager, as generation {generation}"
            ),
            Self::Renewed { generation } => {
                write!(f, "the swarm that this node is in is that of generation {generation} now")
            }
            Self::Recovery { generation } => {
                write!(f, "the quorum is to be re-created here, as generation {generation}")
            }
        }
    }
}

/// The same words for those who wait and for those who leave.
pub(super) fn nobody_listens(known: &BTreeSet<IpAddr>) -> String {
    let known: Vec<String> = known.iter().map(ToString::to_string).collect();
    format!("no manager that Docker knows here listens ({})", known.join(", "))
}

/// What the looks before this one have found.
#[derive(Debug, Default)]
pub(super) struct Suspicion(Option<(Cause, u32)>);

impl Suspicion {
    /// Another look has found `cause`. `true` once enough looks in a row have.
    pub(super) fn confirm(&mut self, cause: &Cause) -> bool {
        let looks = match &self.0 {
            Some((earlier, looks)) if earlier.is_same(cause) => looks + 1,
            _ => 1,
        };
        self.0 = Some((cause.clone(), looks));
        looks >= cause.looks()
    }

    /// A look has found nothing, or could not tell.
    pub(super) fn end(&mut self) {
        self.0 = None;
    }

    /// Has the last look found anything?
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

    /// How many looks take this node out, where all find the same.
    fn looks(cause: &Cause) -> usize {
        let mut suspicion = Suspicion::default();
        (1..100).find(|_| suspicion.confirm(cause)).unwrap()
    }

    #[test]
    fn two_looks_take_a_node_out_and_eight_one_that_may_only_be_cut_off() {
        for cause in [Cause::InNoSwarm, Cause::Removed, Cause::Older { generation: 3 }] {
            assert_eq!(looks(&cause), 2, "{cause}");
        }
        // So many, each 15 s after the other: a network that is cut for a minute or two takes nobody out.
        assert_eq!(looks(&stranded(1, 7)), 8);
    }

    #[test]
    fn a_look_that_finds_something_else_or_nothing_begins_the_count_anew() {
        let mut suspicion = Suspicion::default();
        let mut is_enough = |causes: &[Cause]| causes.iter().map(|it| suspicion.confirm(it)).last();
        let (older, newer) = (Cause::Older { generation: 3 }, Cause::Older { generation: 4 });
        assert_eq!(is_enough(&[older.clone(), newer.clone()]), Some(false));
        assert_eq!(is_enough(&[newer]), Some(true));

        // Another manager that answers first is no news; that Docker knows another one is.
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
