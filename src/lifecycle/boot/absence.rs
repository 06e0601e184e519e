//! Evaluates an observation of a swarm that may be lost: the managers that are gone, and whether that is proof. Pure.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use crate::clients::docker::SWARM_PORT;
use crate::clients::ledger::{Member, Traces};
use crate::common::timing::MANAGER_ROW_IS_FRESH;

/// Result of one observation; a failed observation has none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Absence {
    /// Instance ids of the managers in the ledger, without this node.
    pub managers: BTreeSet<String>,
    /// The managers that Auto Scaling lists, terminating ones included.
    pub listed: BTreeSet<String>,
    /// Whether Auto Scaling's answer lists this instance; an answer that does not is about something else.
    pub is_self_listed: bool,
    /// The managers that Auto Scaling does not list, and that were in no group by their own rows: its answer proves
    /// nothing about them.
    pub ungrouped: BTreeSet<String>,
    /// A member that listens on the managers' port, even if it refuses joins.
    pub listening: Option<IpAddr>,
    /// Managers whose row is younger than [`MANAGER_ROW_IS_FRESH`].
    pub fresh: BTreeSet<String>,
    /// Keys of rows that cannot be read; their writers are unknown.
    pub unreadable: BTreeSet<String>,
    /// The traces of earlier swarms in the rows.
    pub traces: Traces,
    /// How long every observation has found all managers gone.
    pub lasted: Duration,
    /// How long that must last.
    pub patience: Duration,
}

impl Absence {
    /// Whether the ledger holds no row of any manager and no history, so that nothing indicates an earlier swarm.
    #[must_use]
    pub fn is_without_trace(&self) -> bool {
        self.managers.is_empty() && self.unreadable.is_empty() && self.traces.highest == 0
    }

    /// Whether no node is left that could be a manager of that swarm.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.is_self_listed && self.listed.is_empty() && !self.is_vetoed_without_auto_scaling()
    }

    /// Whether the absence is complete and has lasted long enough.
    #[must_use]
    pub fn is_proof(&self) -> bool {
        self.is_complete() && self.fresh.is_empty() && self.lasted >= self.patience
    }

    fn is_vetoed_without_auto_scaling(&self) -> bool {
        self.listening.is_some() || !self.unreadable.is_empty() || !self.ungrouped.is_empty()
    }

    /// Describes the result, and the remedy where it is no proof. `generation` is that of the charter; `None` when
    /// there is no charter.
    #[must_use]
    pub fn finding(&self, generation: Option<u64>) -> String {
        let join = |names: &BTreeSet<String>| names.iter().cloned().collect::<Vec<_>>().join(", ");
        let (subject, of) = match generation {
            Some(generation) => (String::new(), format!("of generation {generation}")),
            None => ("the charter is missing, ".to_owned(), "with a row in the ledger".to_owned()),
        };
        let all = self.managers.len();
        let gone = all - self.listed.len();
        let word = format!("{gone} of {all} managers {of} are gone according to Auto Scaling");
        let obstacle = if !self.unreadable.is_empty() {
            format!(
                "ledger rows cannot be read ({}): repair them, or delete them if nothing needs them",
                join(&self.unreadable)
            )
        } else if self.is_self_listed && !self.listed.is_empty() {
            format!("{word}, still listed: {}; recover or terminate them", join(&self.listed))
        } else if let Some(address) = self.listening {
            format!("{address} listens on port {SWARM_PORT}")
        } else if !self.fresh.is_empty() {
            format!("{} wrote a row within the last {MANAGER_ROW_IS_FRESH:?}", join(&self.fresh))
        } else if !self.is_self_listed {
            "Auto Scaling does not list this instance itself, so its answer proves nothing".into()
        } else if !self.ungrouped.is_empty() {
            format!(
                "{} was in no Auto Scaling group, so Auto Scaling cannot confirm that it is gone: delete its row in the ledger once it is",
                join(&self.ungrouped)
            )
        } else {
            let next = generation.unwrap_or(0).max(self.traces.highest) + 1;
            return format!(
                "{subject}{word}: generation {next} is founded if that lasts for {:?}",
                self.patience
            );
        };
        format!("no new swarm is founded: {subject}{obstacle}")
    }
}

/// The members of the swarm that this node is in; their rows are no trace of another swarm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnMembers {
    /// Docker's id of the swarm.
    pub swarm_id: String,
    /// Node ids from its node list.
    pub nodes: BTreeSet<String>,
}

impl OwnMembers {
    /// Whether `row` is of this swarm; `None` if it names no swarm and its node is not on the list.
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
        assert!(!Absence::default().is_proof(), "no observation was made");
    }

    #[test]
    fn what_is_missing_is_said() {
        let said = absence(&["i-2"]).finding(Some(4));
        assert_eq!(
            said,
            "no new swarm is founded: 2 of 3 managers of generation 4 are gone according to \
             Auto Scaling, still listed: i-2; recover or terminate them"
        );
        let founded = absence(&[]).finding(Some(4));
        assert!(founded.contains("generation 5 is founded if that lasts for 120s"), "{founded}");
        let missing = Absence { fresh: set("i-2"), ..absence(&[]) }.finding(None);
        assert_eq!(
            missing,
            "no new swarm is founded: the charter is missing, i-2 wrote a row within the last 150s"
        );
        let highest = Absence { traces: traces(7), ..absence(&[]) }.finding(None);
        assert!(highest.contains("generation 8 is founded"), "{highest}");
    }
}
