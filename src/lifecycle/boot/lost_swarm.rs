//! Observes whether the swarm of the charter is lost, or without a charter the swarm of the rows, before a manager
//! founds another one.
//!
//! Guarantees: silence is no evidence, nor is an answer of Auto Scaling that failed, is incomplete or does not list the
//! asking instance itself. A swarm counts as lost only when, in every observation for `boot.lost_after`, a complete
//! answer listed none of its managers, no member's port 2377 answered, every row could be read and no manager's row
//! changed; and when none of those rows is younger than [`MANAGER_ROW_IS_FRESH`]. The patience is measured by this process:
//! clocks that differ only lengthen it.
//!
//! Assumes that a manager of a swarm with a quorum writes its row within `boot.lost_after`, so that a manager without a
//! row is not part of a quorum. The charter names the founder, whose row may be missing.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use time::OffsetDateTime;
use tokio::time::Instant;

pub use super::absence::{Absence, OwnMembers};
use crate::clients::docker::first_listening;
use crate::clients::ledger::{Charter, History, Member, MemberRows, Traces};
use crate::common::errors::chain;
use crate::common::timing::MANAGER_ROW_IS_FRESH;
use crate::node::Node;

/// Time between two observations: the whole account shares the request limit of Auto Scaling.
const INTERVAL: Duration = Duration::from_secs(10);
/// The observations of one boot, and since when all of them have found the managers gone.
#[derive(Default)]
pub struct AbsenceTracker {
    /// When the next observation is due; `None` while a manager answers.
    due: Option<Instant>,
    /// The generation whose managers are gone, and since when.
    gone: Option<(u64, Instant)>,
    /// When each manager wrote its row, by the last observation.
    written: BTreeMap<String, OffsetDateTime>,
    finding: String,
}

impl AbsenceTracker {
    /// Starts the observations, because no manager answers. Returns the finding of the last one, for the operator.
    pub fn begin(&mut self) -> &str {
        self.due.get_or_insert_with(Instant::now);
        &self.finding
    }

    /// Returns the finding of the last observation, for the operator; empty if there was none.
    #[must_use]
    pub fn finding(&self) -> &str {
        &self.finding
    }

    /// Stops the observations, because a manager answers.
    pub fn end(&mut self) {
        *self = Self::default();
    }

    /// Restarts the patience after a failure.
    pub fn interrupt(&mut self) {
        self.gone = None;
    }

    /// Observes, if it is due, the rest of the charter's swarm; without a charter, the rest of any swarm but `own`, the
    /// one that this node is in.
    pub async fn look(
        &mut self,
        node: &Node,
        charter: Option<&Charter>,
        own: Option<(&OwnMembers, u64)>,
    ) -> Option<Absence> {
        self.due.filter(|due| *due <= Instant::now())?;
        self.due = Some(Instant::now() + INTERVAL);
        let found = observe(node, charter, own).await;
        self.take(charter.map(|charter| charter.generation), found, Instant::now())
    }

    /// Records the result of an observation under a charter of this `generation`.
    fn take(
        &mut self,
        generation: Option<u64>,
        found: Result<(Absence, BTreeMap<String, OffsetDateTime>), String>,
        now: Instant,
    ) -> Option<Absence> {
        match found {
            Ok((seen, _)) if generation.is_none() && seen.is_without_trace() => {
                // Auto Scaling was not asked, and there is nothing to wait for.
                *self = Self { due: Some(now), ..Self::default() };
                Some(seen)
            }
            Ok((seen, written)) => {
                let seen = self.hold(generation.unwrap_or(0), seen, written, now);
                self.finding = format!("; {}", seen.finding(generation));
                Some(seen)
            }
            Err(problem) => {
                self.interrupt();
                self.finding = format!(
                    "; no new swarm is founded while skep cannot tell which managers are gone: {problem}"
                );
                None
            }
        }
    }

    /// Restarts the patience unless the absence is complete, and on any change of a manager's row, whatever the clocks
    /// show: that manager is alive.
    fn hold(
        &mut self,
        generation: u64,
        seen: Absence,
        written: BTreeMap<String, OffsetDateTime>,
        now: Instant,
    ) -> Absence {
        let is_unchanged = self.written == written;
        self.written = written;
        self.gone = seen.is_complete().then_some(match self.gone {
            Some((of, since)) if of == generation && is_unchanged => (of, since),
            _ => (generation, now),
        });
        Absence { lasted: self.gone.map_or(Duration::ZERO, |(_, since)| now - since), ..seen }
    }
}

async fn observe(
    node: &Node,
    charter: Option<&Charter>,
    own: Option<(&OwnMembers, u64)>,
) -> Result<(Absence, BTreeMap<String, OffsetDateTime>), String> {
    let me = node.instance.id.as_str();
    let all = node.ledger.survey_managers().await;
    let mut all = all.map_err(|error| chain(&error))?;
    if let Some((own, generation)) = own {
        all.rows.retain(|row| is_rival(row, own, generation));
    }
    let mut seen = of_rows(charter, &all, me, OffsetDateTime::now_utc());
    if charter.is_none() {
        let history = node.ledger.fetch_history().await.map_err(|error| chain(&error))?;
        seen.traces = recall(seen.traces, history, own);
    }
    let written =
        managers_of(&all.rows, me).map(|row| (row.instance_id.clone(), row.updated_at)).collect();
    if charter.is_none() && seen.is_without_trace() {
        return Ok((seen, written));
    }
    // The addresses of every member, of any generation and role: a node that listens counts more than the ledger.
    let addresses: Vec<IpAddr> =
        all.rows.iter().filter(|row| row.instance_id != me).map(|row| row.address).collect();
    let ids: Vec<&str> = seen.managers.iter().map(String::as_str).chain([me]).collect();
    // If the rows alone exclude a lost swarm, no request is spent on the limit that the account shares.
    let is_asked = charter.is_some() || seen.fresh.is_empty() && seen.unreadable.is_empty();
    let (listed, listening) = tokio::join!(
        async {
            if is_asked { node.autoscaling.fetch_listed(&ids).await } else { Ok(BTreeMap::new()) }
        },
        first_listening(&addresses)
    );
    let listed = listed.map_err(|error| chain(&error))?;
    let is_listed = |id: &String| listed.contains_key(id);
    seen.is_self_listed = listed.contains_key(me);
    seen.ungrouped = ungrouped(&all.rows, me, node.instance.group.is_some())
        .filter(|id| seen.managers.contains(id) && !is_listed(id))
        .collect();
    seen.listed = seen.managers.iter().filter(|id| is_listed(id)).cloned().collect();
    seen.listening = listening;
    seen.patience = node.settings.boot.lost_after;
    Ok((seen, written))
}

/// Whether the row is of another swarm than this node's own, and not of an earlier generation: the ledger then does not
/// show which of the two is the cluster's.
pub(super) fn is_rival(row: &Member, own: &OwnMembers, generation: u64) -> bool {
    match own.has(row) {
        Some(true) => false,
        Some(false) => row.generation >= generation,
        None => row.generation > generation,
    }
}

/// Adds the cluster's history to what the rows show: on a node that is in the swarm `own`, with its generation, only if
/// another swarm was published since.
pub(super) fn recall(
    traces: Traces,
    history: Option<History>,
    own: Option<(&OwnMembers, u64)>,
) -> Traces {
    let Some(history) = history else { return traces };
    let Some((own, generation)) = own else { return history.added_to(traces) };
    if history.swarm_id == own.swarm_id || history.generation < generation {
        return traces;
    }
    let mut traces = history.added_to(traces);
    traces.swarms.remove(&own.swarm_id);
    traces
}

fn managers_of<'a>(rows: &'a [Member], me: &'a str) -> impl Iterator<Item = &'a Member> {
    rows.iter().filter(move |row| row.is_manager() && row.instance_id != me)
}

/// Returns the facts that the rows alone show.
pub(super) fn of_rows(
    charter: Option<&Charter>,
    all: &MemberRows,
    me: &str,
    now: OffsetDateTime,
) -> Absence {
    let is_fresh = |row: &&Member| now - row.updated_at < MANAGER_ROW_IS_FRESH;
    let fresh = managers_of(&all.rows, me).filter(is_fresh);
    Absence {
        managers: known(charter, &all.rows, me),
        fresh: fresh.map(|row| row.instance_id.clone()).collect(),
        unreadable: all.unreadable.clone(),
        traces: Traces {
            highest: all.rows.iter().map(|row| row.generation).max().unwrap_or(0),
            swarms: all.rows.iter().filter_map(|row| row.swarm_id.clone()).collect(),
        },
        ..Absence::default()
    }
}

/// Returns the managers that were in no group when they wrote their rows. If this instance's own metadata name no group
/// either, the metadata show no tags, and such a row proves nothing.
fn ungrouped<'a>(
    rows: &'a [Member],
    me: &'a str,
    do_tags_show: bool,
) -> impl Iterator<Item = String> + 'a {
    managers_of(rows, me)
        .filter(move |row| do_tags_show && row.group.is_none())
        .map(|row| row.instance_id.clone())
}

/// Returns the managers with a row of the charter's generation, promoted workers included, and the founder; without a
/// charter those with any row. Leaves out this node's own row: this node is in no swarm, or in another one.
fn known(charter: Option<&Charter>, rows: &[Member], me: &str) -> BTreeSet<String> {
    // While the quorum of a swarm is being re-created, the managers' rows still have earlier generations.
    let is_of = |row: &&Member| {
        charter.is_none_or(|it| row.generation == it.generation || it.is_recovery())
    };
    let of_generation = managers_of(rows, me).filter(is_of);
    let mut known: BTreeSet<String> = of_generation.map(|row| row.instance_id.clone()).collect();
    known.extend(charter.map(|charter| charter.founder.clone()).filter(|founder| founder != me));
    known
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clients::aws::autoscaling::tests::{described, list};
    use crate::clients::aws::stub::Stub;
    use crate::clients::docker::Swarm;
    use crate::clients::ledger::MemberState;
    use crate::common::instance::Role;
    use crate::lifecycle::boot::absence::tests::{PATIENCE, absence, set, traces};
    use crate::lifecycle::boot::tests::world::row;

    fn manager(id: &str, generation: u64, age: u64) -> Member {
        let mut row = row(&format!("node-{id}"), generation, MemberState::Ready);
        row.instance_id = id.into();
        row.role = Role::Manager;
        row.group = Some("managers".into());
        row.updated_at = now() - Duration::from_secs(age);
        row
    }

    fn now() -> OffsetDateTime {
        OffsetDateTime::UNIX_EPOCH + Duration::from_secs(1_000_000)
    }

    #[test]
    fn rows_say_who_was_a_manager_who_is_alive_and_what_cannot_be_read() {
        let charter = Charter::claim(None, &traces(1), "i-founder", now(), PATIENCE);
        let mut promoted = manager("i-promoted", 2, 200);
        (promoted.role, promoted.serves_as) = (Role::Worker, Some(Role::Manager));
        let mut worker = manager("i-worker", 2, 10);
        (worker.role, worker.serves_as) = (Role::Worker, Some(Role::Worker));
        let rows = vec![
            manager("i-me", 2, 10),
            manager("i-old", 1, 10),
            manager("i-silent", 2, 150),
            promoted,
            worker,
        ];
        let unreadable = set("member#manager#i-odd");
        let all = MemberRows { rows, unreadable: unreadable.clone(), ..MemberRows::default() };
        let names = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect::<BTreeSet<_>>();
        let seen = of_rows(Some(&charter), &all, "i-me", now());
        assert_eq!(seen.managers, names(&["i-founder", "i-promoted", "i-silent"]));
        assert_eq!(seen.fresh, names(&["i-old"]), "of any generation");
        assert_eq!((seen.unreadable, seen.traces.highest), (unreadable, 2));
        let without = of_rows(None, &all, "i-me", now());
        assert_eq!(without.managers, names(&["i-old", "i-promoted", "i-silent"]));
        let ahead = MemberRows { rows: vec![manager("i-1", 1, 0)], ..MemberRows::default() };
        let slow = now() - Duration::from_secs(600);
        assert_eq!(of_rows(None, &ahead, "i-me", slow).fresh, names(&["i-1"]), "a slow clock");
    }

    /// Such an answer is about another account, region or group.
    #[tokio::test]
    async fn an_answer_that_does_not_list_who_asks_proves_nothing() {
        let stub = Stub::start().await;
        let node = Node::example(Swarm::new("unix:///nowhere".to_owned()), &stub).await;
        let charter = Charter::claim(None, &traces(1), "i-founder", now(), PATIENCE);
        let is_complete = async |instances: &[(&str, &str)]| {
            stub.answer(200, r#"{"Items": [], "Count": 0}"#);
            stub.answer(200, &described(&list(instances), ""));
            observe(&node, Some(&charter), None).await.unwrap().0.is_complete()
        };
        assert!(!is_complete(&[]).await);
        assert!(is_complete(&[(&node.instance.id, "Pending:Wait")]).await);
        assert!(
            !is_complete(&[(&node.instance.id, "Pending:Wait"), ("i-founder", "InService")]).await
        );
    }

    #[test]
    fn a_row_without_a_group_counts_only_where_metadata_show_tags() {
        let mut detached = manager("i-1", 1, 600);
        detached.group = None;
        let rows = [detached, manager("i-2", 1, 600)];
        let of = |do_tags_show| ungrouped(&rows, "i-me", do_tags_show).collect::<Vec<_>>();
        assert_eq!(of(true), ["i-1"]);
        assert!(of(false).is_empty());
    }

    #[test]
    fn only_rows_of_another_swarm_and_no_earlier_generation_speak_against_ones_own() {
        let own = OwnMembers { swarm_id: "own".into(), nodes: set("node-i-1") };
        let of = |swarm_id: Option<&str>, id: &str, generation| {
            let mut row = manager(id, generation, 10);
            row.swarm_id = swarm_id.map(str::to_owned);
            is_rival(&row, &own, 2)
        };
        assert!(!of(Some("own"), "i-2", 3));
        assert!(!of(Some("other"), "i-2", 1), "a later claim replaced it");
        assert!(of(Some("other"), "i-2", 2), "the same generation twice");
        assert!(of(Some("other"), "i-2", 3));
        assert!(!of(None, "i-1", 3), "on the list");
        assert!(!of(None, "i-2", 2), "of an earlier skep");
        assert!(of(None, "i-2", 3));
    }

    #[test]
    fn every_look_must_find_the_same() {
        let mut absence_tracker = AbsenceTracker::default();
        let start = Instant::now();
        let rows =
            |seconds| BTreeMap::from([("i-1".to_owned(), now() + Duration::from_secs(seconds))]);
        let at =
            |absence_tracker: &mut AbsenceTracker, seconds, generation, listed: &[&str], row| {
                let now = start + Duration::from_secs(seconds);
                let found = Ok((absence(listed), rows(row)));
                absence_tracker
                    .take(Some(generation), found, now)
                    .expect("the observation has succeeded")
                    .lasted
                    .as_secs()
            };
        assert_eq!(at(&mut absence_tracker, 0, 1, &[], 0), 0);
        assert_eq!(at(&mut absence_tracker, 100, 1, &[], 0), 100);
        assert_eq!(at(&mut absence_tracker, 110, 1, &["i-3"], 0), 0, "one manager is back");
        assert_eq!(at(&mut absence_tracker, 120, 1, &[], 0), 0);
        assert_eq!(at(&mut absence_tracker, 180, 1, &[], 0), 60);
        let failed = Err("Auto Scaling does not answer".to_owned());
        assert_eq!(absence_tracker.take(Some(1), failed, start + Duration::from_secs(185)), None);
        assert_eq!(at(&mut absence_tracker, 190, 1, &[], 0), 0, "an observation failed");
        assert_eq!(at(&mut absence_tracker, 200, 1, &[], 0), 10);
        assert_eq!(at(&mut absence_tracker, 210, 1, &[], 60), 0, "a row was written");
        assert_eq!(
            at(&mut absence_tracker, 220, 2, &[], 60),
            0,
            "another swarm was founded meanwhile"
        );
    }
}
