//! What a look for a lost swarm has found, and what that proves. Pure.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use crate::clients::docker::SWARM_PORT;
use crate::clients::ledger::{Member, Traces};

/// A manager writes its row every 60 s: one whose row changed within this time is alive.
pub(super) const ROW_IS_FRESH: Duration = Duration::from_secs(150);

/// What one look has found; there is none of a look that failed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Absence {
    /// The managers that the ledger knows, without this node, by their instances.
    pub managers: BTreeSet<String>,
    /// Those that Auto Scaling lists, terminating ones included.
    pub listed: BTreeSet<String>,
    /// An answer that does not list who asks is about something else.
    pub is_self_listed: bool,
    /// Those that Auto Scaling does not list, and that were in no group by their own rows: its answer
    /// says nothing about them.
    pub ungrouped: BTreeSet<String>,
    /// A member that listens on the managers' port, whatever it says to joiners.
    pub listening: Option<IpAddr>,
    /// Managers whose row is younger than [`ROW_IS_FRESH`].
    pub fresh: BTreeSet<String>,
    /// Keys of rows that cannot be read: whose they are, nobody can tell.
    pub unreadable: BTreeSet<String>,
    /// What the rows say of the swarms that there were.
    pub traces: Traces,
    /// For how long every look has found the same: all gone.
    pub lasted: Duration,
    /// For how long that has to be so.
    pub patience: Duration,
}

impl Absence {
    /// The ledger holds no row of any member: nothing speaks of an earlier swarm.
    #[must_use]
    pub fn is_without_trace(&self) -> bool {
        self.managers.is_empty() && self.unreadable.is_empty() && self.traces.highest == 0
    }

    /// Nobody is left who could be a manager of that swarm.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.is_self_listed && self.listed.is_empty() && !self.is_vetoed_without_auto_scaling()
    }

    /// And it has been so for long enough.
    #[must_use]
    pub fn is_proof(&self) -> bool {
        self.is_complete() && self.fresh.is_empty() && self.lasted >= self.patience
    }

    fn is_vetoed_without_auto_scaling(&self) -> bool {
        self.listening.is_some() || !self.unreadable.is_empty() || !self.ungrouped.is_empty()
    }

    /// What this look means, and what would be needed where it is no evidence. `generation` is that of
    /// the charter; `None` where there is none.
    #[must_use]
    pub fn finding(&self, generation: Option<u64>) -> String {
        let join = |names: &BTreeSet<String>| names.iter().cloned().collect::<Vec<_>>().join(", ");
        let (subject, of) = match generation {
            Some(generation) => (String::new(), format!("of generation {generation}")),
            None => ("the charter is missing, ".to_owned(), "with a row in the ledger".to_owned()),
        };
        let all = self.managers.len();
        let gone = all - self.listed.len();
        let word = format!("{gone} of {all} managers {of} are gone by Auto Scaling's word");
        let obstacle = if !self.unreadable.is_empty() {
            format!(
                "ledger rows cannot be read ({}): repair them, or delete them if nothing needs them",
                join(&self.unreadable)
            )
        } else if self.is_self_listed && !self.listed.is_empty() {
            format!(
                "{word}, still listed: {}; they have to come back, or to be terminated",
                join(&self.listed)
            )
        } else if let Some(address) = self.listening {
            format!("{address} listens on {SWARM_PORT}")
        } else if !self.fresh.is_empty() {
            format!("{} changed the row within {ROW_IS_FRESH:?}", join(&self.fresh))
        } else if !self.is_self_listed {
            "Auto Scaling does not list this instance itself, so its answer proves nothing".into()
        } else if !self.ungrouped.is_empty() {
            format!(
                "{} was in no Auto Scaling group, so nobody says whether it is gone: delete its row in the ledger once it is",
                join(&self.ungrouped)
            )
        } else {
            let next = generation.unwrap_or(0).max(self.traces.highest) + 1;
            return format!(
                "{subject}{word}: generation {next} is founded if that stays so for {:?}",
                self.patience
            );
        };
        format!("no new swarm is founded: {subject}{obstacle}")
    }
}

/// What a node knows of a swarm that it is in itself, and whose members' rows are no trace of
/// another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnMembers {
    pub swarm_id: String,
    /// By its own node list.
    pub nodes: BTreeSet<String>,
}

impl OwnMembers {
    /// `None` where a row names no swarm, and its node is not on the list.
    #[must_use]
    pub fn has(&self, row: &Member) -> Option<bool> {
        match &row.swarm_id {
            Some(swarm_id) => Some(*swarm_id == self.swarm_id),
            None => self.nodes.contains(&row.node_id).then_some(true),
        }
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    pub const PATIENCE: Duration = Duration::from_secs(120);

    pub fn absence(listed: &[&str]) -> Absence {
        Absence {
            managers: ["i-1", "i-2", "i-3"].map(str::to_owned).into(),
            listed: listed.iter().map(|id| (*id).to_owned()).collect(),
            is_self_listed: true,
            lasted: PATIENCE,
            patience: PATIENCE,
            ..Absence::default()
        }
    }

    pub fn traces(highest: u64) -> Traces {
        Traces { highest, ..Traces::default() }
    }

    pub fn set(id: &str) -> BTreeSet<String> {
        [id.to_owned()].into()
    }

    #[test]
    fn one_that_is_listed_listens_writes_or_cannot_be_told_of_proves_nothing() {
        assert!(absence(&[]).is_proof());
        assert!(!absence(&["i-2"]).is_proof());
        assert!(!Absence { listening: Some([10, 0, 0, 1].into()), ..absence(&[]) }.is_proof());
        assert!(!Absence { is_self_listed: false, ..absence(&[]) }.is_proof());
        assert!(!Absence { lasted: PATIENCE - Duration::from_secs(1), ..absence(&[]) }.is_proof());
        assert!(!Absence { fresh: set("i-2"), ..absence(&[]) }.is_proof());
        assert!(!Absence { ungrouped: set("i-2"), ..absence(&[]) }.is_proof());
        let unreadable = set("member#manager#i-4");
        assert!(!Absence { unreadable: unreadable.clone(), ..absence(&[]) }.is_proof());
        assert!(Absence::default().is_without_trace());
        assert!(!Absence { unreadable, ..Absence::default() }.is_without_trace());
        assert!(!Absence { traces: traces(1), ..Absence::default() }.is_without_trace());
        assert!(!Absence::default().is_proof(), "nobody was asked");
    }

    #[test]
    fn what_is_missing_is_said() {
        let said = absence(&["i-2"]).finding(Some(4));
        assert_eq!(
            said,
            "no new swarm is founded: 2 of 3 managers of generation 4 are gone by Auto Scaling's \
             word, still listed: i-2; they have to come back, or to be terminated"
        );
        let founded = absence(&[]).finding(Some(4));
        assert!(founded.contains("generation 5 is founded if that stays so for 120s"), "{founded}");
        let missing = Absence { fresh: set("i-2"), ..absence(&[]) }.finding(None);
        assert_eq!(
            missing,
            "no new swarm is founded: the charter is missing, i-2 changed the row within 150s"
        );
        let highest = Absence { traces: traces(7), ..absence(&[]) }.finding(None);
        assert!(highest.contains("generation 8 is founded"), "{highest}");
    }
}
