//! Acts for a node whose own skep does not answer: Auto Scaling waits to terminate its instance, or to replace its root
//! volume, and the ledger has no departure of it, or one that has failed.
//!
//! Guarantees: managers act only for a member's instance, which Auto Scaling itself has listed as `Terminating:Wait` or
//! `ReplacingRootVolume:Wait` for [`PATIENCE`]; a row that the node writes replaces the managers' row. Silence counts
//! only while the ledger answers this manager, and [`LEAVE_IS_RECORDED`] beyond an outage; where the node's
//! departure cannot be read, the node may have asked to leave, and no manager acts for it. The hook's result is the
//! truth: CONTINUE once the node's tasks have ended and it is no longer a manager. An instance in a launch hook is left
//! to its own deadline; an instance that was never a member is handled by [`super::orphan_hooks`].

use std::collections::BTreeMap;
use std::time::Duration;

use time::OffsetDateTime;
use tokio::time::Instant;

use super::error::ManagerError;
use super::observe::Fleet;
use crate::clients::aws::AwsError;
use crate::clients::aws::autoscaling::{Hook, HookResult, Survey, Transition, choose_hook};
use crate::clients::ledger::{DepartureRow, DepartureState, Member, Rows};
use crate::common::held_since::HeldSince;
use crate::common::timing::LEAVE_IS_RECORDED;
use crate::node::Node;

/// Time without a request after which a node is silent: a living skep sees the notice within seconds and records it in
/// the ledger.
const PATIENCE: Duration = Duration::from_secs(20);
/// Time after which a group that has no hook or did not answer is asked again.
const NEXT_QUESTION: Duration = Duration::from_secs(20);

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

    /// Whether the node has been silent since managers act for it: its own request would have replaced the row.
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

/// Takes in an answer. Instances that it does not cover stay as they were.
pub fn follow(
    since: &mut HeldSince<String>,
    survey: &Survey,
    members: &[Member],
    own: &str,
    now: Instant,
) {
    let is_member = |id: &String| members.iter().any(|member| member.instance_id == *id);
    since.retain(is_member);
    for id in survey.answered.iter().filter(|id| *id != own && is_member(id)) {
        match survey.listed.get(id) {
            Some(instance) if instance.lifecycle_state.waits_for_departure() => {
                since.begin(id.clone(), now);
            }
            _ => since.end(id),
        }
    }
}

/// Whether [`PATIENCE`] has not passed yet for one of them.
#[must_use]
pub fn is_waiting(since: &HeldSince<String>, now: Instant) -> bool {
    since.iter().any(|(_, since)| now - since < PATIENCE)
}

/// Returns the members for which managers must stand in.
fn overdue<'a>(
    since: &HeldSince<String>,
    members: &'a [Member],
    departures: &Rows<DepartureRow>,
    answering_since: Option<Instant>,
    now: Instant,
) -> Vec<&'a Member> {
    let is_due = |member: &&Member| {
        let waits_since = since.since(&member.instance_id);
        waits_since.is_some_and(|since| is_silent(since, PATIENCE, answering_since, now))
            && !departures.hides(&member.instance_id)
            && departures
                .rows
                .iter()
                .all(|row| row.node_id != member.node_id || row.state == DepartureState::Failed)
    };
    members.iter().filter(is_due).collect()
}

/// Writes a departure on behalf of each overdue member.
pub async fn begin(
    fleet: &Fleet<'_>,
    since: &HeldSince<String>,
    members: &[Member],
    now: Instant,
) -> Result<(), ManagerError> {
    let node = fleet.node;
    let answering_since = node.ledger.answering_since();
    if overdue(since, members, &Rows::default(), answering_since, now).is_empty() {
        return Ok(());
    }
    let departures = fleet.departures(Instant::now()).await?;
    let mut failed = None;
    for member in overdue(since, members, &departures, answering_since, now) {
        let longest = node.settings.leave.deadline;
        let row = DepartureRow::stand_in(member, OffsetDateTime::now_utc(), longest);
        match node.ledger.stand_in_for(&row).await {
            Ok(true) => tracing::warn!(
                instance = member.instance_id,
                node = member.node_id,
                "Auto Scaling waits to terminate this instance and its skep does not answer; managers carry out its departure"
            ),
            Ok(false) => {}
            // The other members are still tried.
            Err(error) => failed = Some(error),
        }
    }
    failed.map_or(Ok(()), |error| Err(error.into()))
}

/// Keeps the hook open with a heartbeat every third of its timeout.
pub async fn keep_alive(
    node: &Node,
    row: &DepartureRow,
    memory: &mut Memory,
) -> Result<(), ManagerError> {
    let next_beat = &mut memory.next_beat;
    if row.state >= DepartureState::Left {
        next_beat.remove(&row.instance_id);
        return Ok(());
    }
    let now = Instant::now();
    if next_beat.get(&row.instance_id).is_some_and(|next| now < *next) {
        return Ok(());
    }
    next_beat.insert(row.instance_id.clone(), now + NEXT_QUESTION);
    if let Some((group, hook)) = find_hook(node, &row.instance_id).await? {
        node.autoscaling.heartbeat(&hook.name, &group, &row.instance_id).await?;
        next_beat.insert(row.instance_id.clone(), now + hook.beat());
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
    use crate::clients::aws::autoscaling::GroupInstance;
    use crate::clients::ledger::fuzz;
    use crate::common::instance::{Departure, Reason, Role};

    const NOW: OffsetDateTime = OffsetDateTime::UNIX_EPOCH;
    const WAITS: &str = "Terminating:Wait";

    pub(in crate::manager) fn member(instance: &str) -> Member {
        serde_json::from_value(serde_json::json!({
            "instance_id": instance, "role": "worker", "node_id": format!("node-of-{instance}"),
            "zone": "a", "address": "10.0.0.1", "generation": 1, "state": "ready",
            "updated_at": 0, "expires_at": 0,
        }))
        .unwrap()
    }

    fn answer(states: &[(&str, &str)]) -> Survey {
        let listed = states.iter().map(|(id, state)| {
            let lifecycle_state = (*state).into();
            let (group, health) = (String::new(), String::new());
            ((*id).to_owned(), GroupInstance { group, lifecycle_state, health })
        });
        let answered = states.iter().map(|(id, _)| (*id).to_owned()).collect();
        Survey { answered, listed: listed.collect() }
    }

    fn ids(members: Vec<&Member>) -> Vec<&str> {
        members.into_iter().map(|member| member.instance_id.as_str()).collect()
    }

    /// Returns the members for which managers must stand in, if the ledger has answered all the time.
    fn overdue_ids<'a>(
        since: &HeldSince<String>,
        members: &'a [Member],
        departures: &[DepartureRow],
        now: Instant,
    ) -> Vec<&'a str> {
        let departures = Rows { rows: departures.to_vec(), ..Rows::default() };
        let answering = Some(now - LEAVE_IS_RECORDED);
        ids(overdue(since, members, &departures, answering, now))
    }

    #[test]
    fn only_who_waits_for_long_and_says_nothing_gets_a_stand_in() {
        let members = ["i-own", "i-dead", "i-back", "i-new"].map(member);
        let (mut since, start) = (HeldSince::default(), Instant::now() + LEAVE_IS_RECORDED);
        let at = |seconds| start + Duration::from_secs(seconds);
        let states = [
            ("i-own", WAITS),
            ("i-dead", WAITS),
            ("i-back", WAITS),
            ("i-new", "Pending:Wait"),
            ("i-stranger", WAITS),
        ];
        follow(&mut since, &answer(&states), &members, "i-own", at(0));
        assert_eq!(since.iter().map(|(id, _)| id).collect::<Vec<_>>(), ["i-back", "i-dead"]);
        follow(&mut since, &Survey::default(), &members, "i-own", at(10));
        assert_eq!(since.iter().count(), 2, "an empty answer changes nothing");
        assert!(is_waiting(&since, at(19)) && !is_waiting(&since, at(20)));
        assert!(overdue_ids(&since, &members, &[], at(19)).is_empty());
        let states = [("i-dead", WAITS), ("i-back", "InService")];
        follow(&mut since, &answer(&states), &members, "i-own", at(20));
        assert_eq!(overdue_ids(&since, &members, &[], at(20)), ["i-dead"]);

        let notice = Departure { reason: Reason::Lifecycle, noticed_at: NOW, deadline: NOW };
        let asked =
            |node: &str| DepartureRow::request("i-dead", node, Role::Worker, &notice, "boot");
        let another = [asked("an earlier node")];
        assert_eq!(overdue_ids(&since, &members, &another, at(20)), ["i-dead"]);
        let mut own = [asked("node-of-i-dead")];
        assert!(overdue_ids(&since, &members, &own, at(20)).is_empty());
        own[0].state = DepartureState::Failed;
        let failed = overdue_ids(&since, &members, &own, at(20));
        assert_eq!(failed, ["i-dead"], "its departure has failed");
    }

    /// A node that cannot write is silent as well: its skep may be alive.
    #[test]
    fn silence_during_an_outage_and_soon_after_it_says_nothing() {
        let (members, start) = ([member("i-1")], Instant::now());
        let mut since = HeldSince::default();
        since.begin("i-1".to_owned(), start);
        let at = |seconds| start + Duration::from_secs(seconds);
        let is_due = |answering_since, now| {
            let none = Rows::default();
            !overdue(&since, &members, &none, answering_since, now).is_empty()
        };
        assert!(!is_due(None, at(600)), "the outage lasts");
        let over = Some(at(300));
        assert!(!is_due(over, at(344)), "the node may be about to try again");
        assert!(is_due(over, at(345)));
    }

    #[test]
    fn nobody_acts_for_a_node_whose_departure_cannot_be_read() {
        let (members, now) = (["i-1", "i-2"].map(member), Instant::now() + LEAVE_IS_RECORDED);
        let mut since = HeldSince::default();
        since.observe(members.iter().map(|row| row.instance_id.clone()), now - PATIENCE);
        let unreadable = ["departure#i-1".to_owned()].into();
        let departures = Rows { unreadable, ..Rows::default() };
        let answering = Some(now - LEAVE_IS_RECORDED);
        assert_eq!(ids(overdue(&since, &members, &departures, answering, now)), ["i-2"]);
    }

    #[test]
    fn a_node_is_silent_from_when_managers_act_for_it_until_it_speaks() {
        let start = Instant::now() + LEAVE_IS_RECORDED;
        let answering = Some(start - LEAVE_IS_RECORDED);
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut row = DepartureRow::stand_in(&member("i-1"), NOW, PATIENCE);
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

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1_000))]

        /// Rows with any readable content.
        #[test]
        fn no_row_that_can_be_read_ends_a_look(
            members in fuzz::members(),
            departures in fuzz::departures(),
        ) {
            let (mut since, start) = (HeldSince::default(), Instant::now() + LEAVE_IS_RECORDED);
            let states = answer(&[("i-0", WAITS), ("i-1", WAITS), ("i-own", WAITS)]);
            follow(&mut since, &states, &members.rows, "i-own", start);
            let answering = Some(start - LEAVE_IS_RECORDED);
            for member in overdue(&since, &members.rows, &departures, answering, start + PATIENCE) {
                let row = DepartureRow::stand_in(member, fuzz::NOW, PATIENCE);
                prop_assert!(row.stand_in && member.instance_id != "i-own");
                prop_assert!(!departures.hides(&member.instance_id));
            }
        }
    }
}
