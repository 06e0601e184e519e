//! Acts for a node whose own skep does not answer: Auto Scaling waits to terminate its instance, or to replace its root
//! volume, and the ledger has no departure of it, or one that has failed.
//!
//! Guarantees: managers act only for the instance of a node, which Auto Scaling itself has listed as `Terminating:Wait`
//! or `ReplacingRootVolume:Wait` for [`PATIENCE`]; a request of the node itself has priority over the managers' row, which
//! is where no worker can write. Silence counts only while the ledger answers this manager, and [`LEAVE_IS_RECORDED`]
//! beyond an outage; where the node's departure cannot be read, the node may have asked to leave, and no manager acts for
//! it. The hook's result is the truth: CONTINUE once the node's tasks have ended and it is no longer a manager. An
//! instance in a launch hook is left to its own deadline; an instance that was never a member is handled by
//! [`super::orphan_hooks`].

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::Duration;

use time::OffsetDateTime;
use tokio::time::Instant;

use super::duty::{Duty, Poll};
use super::error::ManagerError;
use super::observe::Fleet;
use super::placed::Placed;
use crate::clients::aws::AwsError;
use crate::clients::aws::autoscaling::{GroupInstance, Hook, HookResult, Transition, choose_hook};
use crate::clients::ledger::{DepartureRow, DepartureState, Rows};
use crate::common::held_since::HeldSince;
use crate::common::instance::Role;
use crate::common::timing::LEAVE_IS_RECORDED;
use crate::node::Node;

/// Time without a request after which a node is silent: a living skep sees the notice within seconds and records it in
/// the ledger.
const PATIENCE: Duration = Duration::from_secs(20);
/// Time after which a group that has no hook or did not answer is asked again.
const NEXT_QUESTION: Duration = Duration::from_secs(20);

/// Name of this duty.
const NAME: &str = "stand-ins";
/// Time between two polls of all groups, which are one call: the account shares Auto Scaling's limit.
const INTERVAL: Duration = Duration::from_secs(15);
/// The same while an instance waits, so that its departure begins soon after [`PATIENCE`].
const BUSY_INTERVAL: Duration = Duration::from_secs(5);
/// Factor by which the other managers poll less often, in case the leader's skep is dead.
const BACKUP_FACTOR: u32 = 4;

/// Writes stand-ins for as long as this node is a manager.
pub(super) async fn run(fleet: &Fleet<'_>) {
    let duty = Duty { name: NAME, first: INTERVAL, after_failure: INTERVAL, trouble: None };
    duty.run(fleet, poll).await;
}

/// Polls once. `memory` has the instances that Auto Scaling waits to terminate.
async fn poll(
    Poll { fleet, memory, .. }: Poll<'_, HeldSince<String>>,
) -> Result<Duration, ManagerError> {
    let listed = fleet.groups(Instant::now()).await?;
    let nodes = fleet.nodes(listed.asked_at).await?;
    let placed = fleet.placed(&nodes).await?;
    let now = Instant::now();
    follow(memory, &listed, &placed, &fleet.node.instance.id, now);
    begin(fleet, memory, &placed, now).await?;
    let interval = if is_waiting(memory, now) { BUSY_INTERVAL } else { INTERVAL };
    Ok(interval * if fleet.is_leader(&nodes) { 1 } else { BACKUP_FACTOR })
}

/// State of this manager about the rows that managers have written; by instance id.
#[derive(Default)]
pub struct Memory {
    /// Time of each hook's next heartbeat.
    next_beat: BTreeMap<String, Instant>,
    /// Rows that this manager has seen.
    seen: HeldSince<String>,
}

impl Memory {
    /// Forgets the instances that are no longer known.
    pub fn retain(&mut self, is_known: impl Fn(&str) -> bool) {
        self.next_beat.retain(|id, _| is_known(id));
        self.seen.retain(|id| is_known(id));
    }

    /// Whether a heartbeat is due. The next one is due at the next question, unless this one is recorded.
    fn is_beat_due(&mut self, row: &DepartureRow, now: Instant) -> bool {
        let id = &row.instance_id;
        if row.state >= DepartureState::Left {
            self.next_beat.remove(id);
            return false;
        }
        let is_due = self.next_beat.get(id).is_none_or(|next| now >= *next);
        if is_due {
            self.next_beat.insert(id.clone(), now + NEXT_QUESTION);
        }
        is_due
    }

    /// Whether the node has been silent since managers act for it: managers delete
    /// the row once they have read a request of its own.
    pub fn is_silent(
        &mut self,
        row: &DepartureRow,
        answering_since: Option<Instant>,
        now: Instant,
    ) -> bool {
        if !row.stand_in || row.state.is_over() {
            self.seen.end(&row.instance_id);
            return false;
        }
        let since = self.seen.begin(row.instance_id.clone(), now);
        is_silent(since, PATIENCE, answering_since, now)
    }
}

/// Whether a skep that had something to report at `since` is silent beyond doubt: it would have reported it within
/// `patience`, as far as the ledger answered. An outage that this manager has seen counts as one for every node.
pub(super) fn is_silent(
    since: Instant,
    patience: Duration,
    answering_since: Option<Instant>,
    now: Instant,
) -> bool {
    now - since >= patience
        && answering_since.is_some_and(|answering| now - answering >= LEAVE_IS_RECORDED)
}

/// Takes in Auto Scaling's answer about the cluster's groups.
fn follow(
    since: &mut HeldSince<String>,
    listed: &BTreeMap<String, GroupInstance>,
    placed: &[Placed],
    own: &str,
    now: Instant,
) {
    // An answer without the asking instance is about another account or region.
    if !listed.contains_key(own) {
        return;
    }
    let is_member = |id: &str| placed.iter().any(|it| it.instance_id == id);
    let waits = |(id, it): &(&String, &GroupInstance)| {
        *id != own && is_member(id) && it.lifecycle_state.waits_for_departure()
    };
    since.observe(listed.iter().filter(waits).map(|(id, _)| id.clone()), now);
}

/// Whether [`PATIENCE`] has not passed yet for one of them.
fn is_waiting(since: &HeldSince<String>, now: Instant) -> bool {
    since.iter().any(|(_, since)| now - since < PATIENCE)
}

/// Returns the nodes for which managers must stand in.
fn overdue<'a>(
    since: &HeldSince<String>,
    placed: &'a [Placed],
    departures: &Rows<DepartureRow>,
    answering_since: Option<Instant>,
    now: Instant,
) -> Vec<&'a Placed> {
    // Only a departure of the instance itself counts: the node in a worker's row is a claim.
    let is_its = |row: &DepartureRow, it: &Placed| {
        row.instance_id == it.instance_id && row.node_id == it.node_id
    };
    let is_due = |it: &&Placed| {
        let waits_since = since.since(&it.instance_id);
        waits_since.is_some_and(|since| is_silent(since, PATIENCE, answering_since, now))
            && !departures.hides(&it.instance_id)
            && departures
                .rows
                .iter()
                .all(|row| !is_its(row, it) || row.state == DepartureState::Failed)
    };
    placed.iter().filter(is_due).collect()
}

/// Writes a departure on behalf of each overdue node.
async fn begin(
    fleet: &Fleet<'_>,
    since: &HeldSince<String>,
    placed: &[Placed],
    now: Instant,
) -> Result<(), ManagerError> {
    let node = fleet.node;
    let answering_since = node.ledger.answering_since();
    let due = overdue(since, placed, &Rows::default(), answering_since, now);
    if due.is_empty() {
        return Ok(());
    }
    let mut departures = fleet.departures(Instant::now()).await?.copy();
    let workers = due.iter().filter(|it| it.role == Role::Worker).map(|it| &it.instance_id);
    departures.extend(node.ledger.fetch_workers_departures(workers).await?);
    let mut failed = None;
    for it in overdue(since, placed, &departures, answering_since, now) {
        let longest = node.settings.leave.deadline;
        let Placed { instance_id, node_id, role, group } = it;
        let mut row =
            DepartureRow::stand_in(instance_id, node_id, *role, OffsetDateTime::now_utc(), longest);
        row.group.clone_from(group);
        match node.ledger.stand_in_for(&row).await {
            Ok(true) => tracing::warn!(
                instance = instance_id,
                node = node_id,
                "Auto Scaling waits to terminate this instance and its skep does not answer; managers carry out its departure"
            ),
            Ok(false) => {}
            // The other nodes are still tried.
            Err(error) => failed = Some(error),
        }
    }
    failed.map_or(Ok(()), |error| Err(error.into()))
}

/// Keeps the hook open with a heartbeat every third of its timeout.
pub async fn keep_alive(
    node: &Node,
    row: &DepartureRow,
    memory: &RefCell<Memory>,
) -> Result<(), ManagerError> {
    if !memory.borrow_mut().is_beat_due(row, Instant::now()) {
        return Ok(());
    }
    if let Some((group, hook)) = find_hook(node, &row.instance_id).await? {
        node.autoscaling.heartbeat(&hook.name, &group, &row.instance_id).await?;
        let next = Instant::now() + hook.beat();
        memory.borrow_mut().next_beat.insert(row.instance_id.clone(), next);
    }
    Ok(())
}

/// Completes the hook, so that Auto Scaling continues with the instance.
pub async fn release(node: &Node, instance: &str, result: HookResult) -> Result<(), ManagerError> {
    if let Some((group, hook)) = find_hook(node, instance).await? {
        let answer = node.autoscaling.complete(&hook.name, &group, instance, result).await?;
        tracing::info!(
            instance,
            hook = hook.name,
            ?answer,
            "sent the result of the termination hook on behalf of the instance: {}",
            result.as_str()
        );
    }
    Ok(())
}

/// Returns the group of an instance that is still listed, and its hook; by Auto Scaling's own answer, since a row may
/// lack the group.
async fn find_hook(node: &Node, instance: &str) -> Result<Option<(String, Hook)>, AwsError> {
    let Some(seen) = node.autoscaling.fetch_instance(instance).await? else { return Ok(None) };
    let hooks = node.autoscaling.fetch_hooks(&seen.group).await?;
    let configured = node.settings.autoscaling.termination_hook.as_deref();
    // The configured name may be that of this node's own group alone.
    let hook = choose_hook(hooks.clone(), Transition::Terminating, configured)
        .or_else(|| choose_hook(hooks, Transition::Terminating, None));
    Ok(hook.map(|hook| (seen.group, hook)))
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::clients::ledger::fuzz;
    use crate::common::instance::{Departure, Reason};

    const NOW: OffsetDateTime = OffsetDateTime::UNIX_EPOCH;
    const WAITS: &str = "Terminating:Wait";

    /// Returns a worker that is the node `node-of-<instance>`.
    pub(in crate::manager) fn worker(instance: &str) -> Placed {
        Placed {
            instance_id: instance.to_owned(),
            node_id: format!("node-of-{instance}"),
            role: Role::Worker,
            group: Some("workers".to_owned()),
        }
    }

    fn answer(states: &[(&str, &str)]) -> BTreeMap<String, GroupInstance> {
        let listed = states.iter().map(|(id, state)| {
            let lifecycle_state = (*state).into();
            let (group, health) = (String::new(), String::new());
            (
                (*id).to_owned(),
                GroupInstance { group, lifecycle_state, health, protected: None, settings: None },
            )
        });
        listed.collect()
    }

    fn stand_in() -> DepartureRow {
        DepartureRow::stand_in("i-1", "node-of-i-1", Role::Worker, NOW, PATIENCE)
    }

    fn ids(placed: Vec<&Placed>) -> Vec<&str> {
        placed.into_iter().map(|it| it.instance_id.as_str()).collect()
    }

    /// Returns the nodes for which managers must stand in, if the ledger has answered all the time.
    fn overdue_ids<'a>(
        since: &HeldSince<String>,
        placed: &'a [Placed],
        departures: &[DepartureRow],
        now: Instant,
    ) -> Vec<&'a str> {
        let departures = Rows { rows: departures.to_vec(), ..Rows::default() };
        let answering = Some(now - LEAVE_IS_RECORDED);
        ids(overdue(since, placed, &departures, answering, now))
    }

    #[test]
    fn only_who_waits_for_long_and_says_nothing_gets_a_stand_in() {
        let placed = ["i-own", "i-dead", "i-back", "i-new"].map(worker);
        let (mut since, start) = (HeldSince::default(), Instant::now() + LEAVE_IS_RECORDED);
        let at = |seconds| start + Duration::from_secs(seconds);
        let states = [
            ("i-own", WAITS),
            ("i-dead", WAITS),
            ("i-back", WAITS),
            ("i-new", "Pending:Wait"),
            ("i-stranger", WAITS),
        ];
        follow(&mut since, &answer(&states), &placed, "i-own", at(0));
        assert_eq!(since.iter().map(|(id, _)| id).collect::<Vec<_>>(), ["i-back", "i-dead"]);
        follow(&mut since, &BTreeMap::new(), &placed, "i-own", at(10));
        assert_eq!(since.iter().count(), 2, "an empty answer changes nothing");
        assert!(is_waiting(&since, at(19)) && !is_waiting(&since, at(20)));
        assert!(overdue_ids(&since, &placed, &[], at(19)).is_empty());
        let states = [("i-own", "InService"), ("i-dead", WAITS), ("i-back", "InService")];
        follow(&mut since, &answer(&states), &placed, "i-own", at(20));
        assert_eq!(overdue_ids(&since, &placed, &[], at(20)), ["i-dead"]);

        let notice = Departure { reason: Reason::Lifecycle, noticed_at: NOW, deadline: NOW };
        let asked =
            |node: &str| DepartureRow::request("i-dead", node, Role::Worker, &notice, "boot");
        let another = [asked("an earlier node")];
        assert_eq!(overdue_ids(&since, &placed, &another, at(20)), ["i-dead"]);
        let mut forged = [asked("node-of-i-dead")];
        forged[0].instance_id = "i-back".to_owned();
        assert_eq!(overdue_ids(&since, &placed, &forged, at(20)), ["i-dead"], "another's claim");
        let mut own = [asked("node-of-i-dead")];
        assert!(overdue_ids(&since, &placed, &own, at(20)).is_empty());
        own[0].state = DepartureState::Failed;
        let failed = overdue_ids(&since, &placed, &own, at(20));
        assert_eq!(failed, ["i-dead"], "its departure has failed");
    }

    /// A node that cannot write is silent as well: its skep may be alive.
    #[test]
    fn silence_during_an_outage_and_soon_after_it_says_nothing() {
        let (placed, start) = ([worker("i-1")], Instant::now());
        let mut since = HeldSince::default();
        since.begin("i-1".to_owned(), start);
        let at = |seconds| start + Duration::from_secs(seconds);
        let is_due = |answering_since, now| {
            let none = Rows::default();
            !overdue(&since, &placed, &none, answering_since, now).is_empty()
        };
        assert!(!is_due(None, at(600)), "the outage lasts");
        let over = Some(at(300));
        assert!(!is_due(over, at(344)), "the node may be about to try again");
        assert!(is_due(over, at(345)));
    }

    #[test]
    fn nobody_acts_for_a_node_whose_departure_cannot_be_read() {
        let (placed, now) = (["i-1", "i-2"].map(worker), Instant::now() + LEAVE_IS_RECORDED);
        let mut since = HeldSince::default();
        since.observe(placed.iter().map(|it| it.instance_id.clone()), now - PATIENCE);
        let unreadable = ["departure#i-1".to_owned()].into();
        let departures = Rows { unreadable, ..Rows::default() };
        let answering = Some(now - LEAVE_IS_RECORDED);
        assert_eq!(ids(overdue(&since, &placed, &departures, answering, now)), ["i-2"]);
    }

    #[test]
    fn a_node_is_silent_from_when_managers_act_for_it_until_it_speaks() {
        let start = Instant::now() + LEAVE_IS_RECORDED;
        let answering = Some(start - LEAVE_IS_RECORDED);
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut row = stand_in();
        let mut memory = Memory::default();
        let mut is_silent =
            |row: &DepartureRow, answering, seconds| memory.is_silent(row, answering, at(seconds));
        assert!(!is_silent(&row, answering, 0) && !is_silent(&row, answering, 19));
        assert!(is_silent(&row, answering, 20));
        assert!(!is_silent(&row, Some(at(0)), 44), "the ledger was out of reach");
        assert!(is_silent(&row, Some(at(0)), 45));
        row.stand_in = false;
        assert!(!is_silent(&row, answering, 60), "it has asked to leave");
        row.stand_in = true;
        assert!(!is_silent(&row, answering, 70) && is_silent(&row, answering, 90));
    }

    #[test]
    fn a_heartbeat_is_due_at_once_and_then_only_when_its_time_has_come() {
        let (mut row, mut memory, start) = (stand_in(), Memory::default(), Instant::now());
        assert!(memory.is_beat_due(&row, start) && !memory.is_beat_due(&row, start));
        assert!(memory.is_beat_due(&row, start + NEXT_QUESTION));
        row.state = DepartureState::Left;
        assert!(!memory.is_beat_due(&row, start + 3 * NEXT_QUESTION));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1_000))]

        /// Rows with any readable content.
        #[test]
        fn no_row_that_can_be_read_ends_a_look(departures in fuzz::departures()) {
            check_rows(&departures);
        }
    }

    /// Checks that managers act neither for this one nor for a node whose departure cannot be read. Returns the number of
    /// nodes for which they act.
    pub(in crate::manager) fn check_rows(departures: &Rows<DepartureRow>) -> usize {
        let (mut since, start) = (HeldSince::default(), Instant::now() + LEAVE_IS_RECORDED);
        let placed = ["i-0", "i-1", "i-own"].map(worker);
        let states = answer(&[("i-0", WAITS), ("i-1", WAITS), ("i-own", WAITS)]);
        follow(&mut since, &states, &placed, "i-own", start);
        let answering = Some(start - LEAVE_IS_RECORDED);
        let overdue = overdue(&since, &placed, departures, answering, start + PATIENCE);
        for it in &overdue {
            assert!(it.instance_id != "i-own" && !departures.hides(&it.instance_id));
        }
        overdue.len()
    }
}
