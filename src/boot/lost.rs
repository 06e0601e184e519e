//! Is the swarm of the open charter lost? What a manager looks at that has to join, and finds
//! nobody who answers.
//!
//! Guarantees: silence is no evidence, nor is an answer of Auto Scaling that failed, is incomplete
//! or does not list the asking instance itself. Only when a whole answer lists none of the managers
//! that the ledger knows, and none of them listens, again and again for `boot.lost_after`, is the
//! swarm called lost. Time is this process's own: clocks that differ do no harm.
//!
//! Assumes that a manager of a swarm with a quorum writes its row within `boot.lost_after`, so that
//! one without a row is no part of a quorum. The charter names the founder, whose row may be gone.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use tokio::time::Instant;

use crate::ledger::{Charter, Member};
use crate::node::Node;
use crate::swarm::{SWARM_PORT, first_listening};

/// Between two looks: Auto Scaling's limit is shared by the whole account.
const INTERVAL: Duration = Duration::from_secs(10);

/// What one look has found; there is none of a look that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Absence {
    /// The managers that the ledger knows, without this node, by their instances.
    pub managers: BTreeSet<String>,
    /// Those that Auto Scaling lists, terminating ones included.
    pub listed: BTreeSet<String>,
    /// An answer that does not list who asks is about something else.
    pub is_self_listed: bool,
    /// A manager that listens, whatever it says to joiners.
    pub listening: Option<IpAddr>,
    /// For how long every look has found the same: all gone.
    pub lasted: Duration,
    /// For how long that has to be so.
    pub patience: Duration,
}

impl Absence {
    /// Nobody is left who could be a manager of that swarm.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.is_self_listed && self.listed.is_empty() && self.listening.is_none()
    }

    /// And it has been so for long enough.
    #[must_use]
    pub fn is_proof(&self) -> bool {
        self.is_complete() && self.lasted >= self.patience
    }

    /// What this look means, and what would be needed where it is no evidence.
    fn finding(&self, generation: u64) -> String {
        let all = self.managers.len();
        let gone = all - self.listed.len();
        let word = format!(
            "{gone} of {all} managers of generation {generation} are gone by Auto Scaling's word"
        );
        if !self.is_self_listed {
            "no new swarm is founded: Auto Scaling does not list this instance itself, so its answer proves nothing".into()
        } else if !self.listed.is_empty() {
            let listed: Vec<&str> = self.listed.iter().map(String::as_str).collect();
            format!(
                "no new swarm is founded: {word}, still listed: {}; they have to come back, or to be terminated",
                listed.join(", ")
            )
        } else if let Some(address) = self.listening {
            format!("no new swarm is founded: {word}, but {address} listens on {SWARM_PORT}")
        } else {
            format!(
                "{word}: generation {} is founded if that stays so for {:?}",
                generation + 1,
                self.patience
            )
        }
    }
}

/// The looks of one boot: since when all of them have found the managers gone.
#[derive(Default)]
pub struct Vigil {
    /// When to look again; `None` while some manager answers.
    due: Option<Instant>,
    /// Of which generation, since when.
    gone: Option<(u64, Instant)>,
    finding: String,
}

impl Vigil {
    /// No manager answers: looks are to be made. Returns what the last one has found, for a human.
    pub fn begin(&mut self) -> &str {
        self.due.get_or_insert_with(Instant::now);
        &self.finding
    }

    /// A manager answers.
    pub fn end(&mut self) {
        *self = Self::default();
    }

    /// Something failed: whatever was held up to now begins anew.
    pub fn interrupt(&mut self) {
        self.gone = None;
    }

    /// Looks, where it is due.
    pub async fn look(&mut self, node: &Node, charter: &Charter) -> Option<Absence> {
        self.due.filter(|due| *due <= Instant::now())?;
        self.due = Some(Instant::now() + INTERVAL);
        match observe(node, charter).await {
            Ok(seen) => {
                let seen = self.hold(charter.generation, seen, Instant::now());
                self.finding = format!("; {}", seen.finding(charter.generation));
                Some(seen)
            }
            Err(problem) => {
                self.interrupt();
                self.finding =
                    format!("; no new swarm is founded while nobody says who is gone: {problem}");
                None
            }
        }
    }

    /// Anything but a complete absence starts the patience anew.
    fn hold(&mut self, generation: u64, seen: Absence, now: Instant) -> Absence {
        self.gone = seen.is_complete().then_some(match self.gone {
            Some((of, since)) if of == generation => (of, since),
            _ => (generation, now),
        });
        Absence { lasted: self.gone.map_or(Duration::ZERO, |(_, since)| now - since), ..seen }
    }
}

async fn observe(node: &Node, charter: &Charter) -> Result<Absence, String> {
    let me = node.instance.id.as_str();
    let rows = node.ledger.fetch_managers().await;
    let rows = rows.map_err(|error| crate::errors::chain(&error))?;
    let managers = known(charter, &rows, me);
    // Rows of other generations, too: whoever listens may know more than the ledger.
    let addresses: Vec<IpAddr> =
        rows.iter().filter(|row| row.instance_id != me).map(|row| row.address).collect();
    let ids: Vec<&str> = managers.iter().map(String::as_str).chain([me]).collect();
    let (listed, listening) =
        tokio::join!(node.autoscaling.fetch_listed(&ids), first_listening(&addresses));
    let listed = listed.map_err(|error| crate::errors::chain(&error))?;
    Ok(Absence {
        listed: managers.iter().filter(|id| listed.contains_key(*id)).cloned().collect(),
        managers,
        is_self_listed: listed.contains_key(me),
        listening,
        lasted: Duration::ZERO,
        patience: node.settings.boot.lost_after,
    })
}

/// Those who have a row of that generation, and the founder. This node is in no swarm: what it was
/// before says nothing.
fn known(charter: &Charter, rows: &[Member], me: &str) -> BTreeSet<String> {
    // Of a swarm whose quorum was to be re-created, the managers' rows are of earlier generations.
    let is_of = |row: &&Member| row.generation == charter.generation || charter.is_recovery();
    let of_generation = rows.iter().filter(is_of);
    let mut known: BTreeSet<String> = of_generation.map(|row| row.instance_id.clone()).collect();
    known.insert(charter.founder.clone());
    known.remove(me);
    known
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(120);

    fn absence(listed: &[&str]) -> Absence {
        Absence {
            managers: ["i-1", "i-2", "i-3"].map(str::to_owned).into(),
            listed: listed.iter().map(|id| (*id).to_owned()).collect(),
            is_self_listed: true,
            listening: None,
            lasted: PATIENCE,
            patience: PATIENCE,
        }
    }

    #[test]
    fn one_that_is_listed_or_listens_and_an_answer_without_who_asks_prove_nothing() {
        assert!(absence(&[]).is_proof());
        assert!(!absence(&["i-2"]).is_proof());
        assert!(!Absence { listening: Some([10, 0, 0, 1].into()), ..absence(&[]) }.is_proof());
        assert!(!Absence { is_self_listed: false, ..absence(&[]) }.is_proof());
        assert!(!Absence { lasted: PATIENCE - INTERVAL, ..absence(&[]) }.is_proof());
    }

    #[test]
    fn every_look_must_find_the_same() {
        let mut vigil = Vigil::default();
        let start = Instant::now();
        let at = |vigil: &mut Vigil, seconds, generation, listed: &[&str]| {
            let now = start + Duration::from_secs(seconds);
            vigil.hold(generation, absence(listed), now).lasted.as_secs()
        };
        assert_eq!(at(&mut vigil, 0, 1, &[]), 0);
        assert_eq!(at(&mut vigil, 100, 1, &[]), 100);
        assert_eq!(at(&mut vigil, 110, 1, &["i-3"]), 0, "one is back");
        assert_eq!(at(&mut vigil, 120, 1, &[]), 0);
        assert_eq!(at(&mut vigil, 180, 1, &[]), 60);
        vigil.interrupt();
        assert_eq!(at(&mut vigil, 190, 1, &[]), 0, "a look has failed in between");
        assert_eq!(at(&mut vigil, 200, 2, &[]), 0, "another swarm was founded meanwhile");
    }

    #[test]
    fn what_is_missing_is_said() {
        let said = absence(&["i-2"]).finding(4);
        assert_eq!(
            said,
            "no new swarm is founded: 2 of 3 managers of generation 4 are gone by Auto Scaling's \
             word, still listed: i-2; they have to come back, or to be terminated"
        );
        assert!(
            absence(&[]).finding(4).contains("generation 5 is founded if that stays so for 120s")
        );
    }
}
