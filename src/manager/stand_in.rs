//! Acting for a node whose own skep says nothing: Auto Scaling waits to terminate its instance, or to replace its
//! root volume, and no departure is in the ledger, or one that has failed.
//!
//! Guarantees: only a member's instance, by Auto Scaling's own word (`Terminating:Wait`,
//! `ReplacingRootVolume:Wait`) for [`PATIENCE`]; what the node says of itself takes the place of what is said for it. The hook's result is
//! the truth: CONTINUE once the node's tasks have ended and it is no manager any more. An instance in a
//! launch hook is left to its own deadline; one that never was a member is [`super::never_joined`]'s.

use std::collections::BTreeMap;
use std::time::Duration;

use time::OffsetDateTime;
use tokio::time::Instant;

use super::act::CareError;
use crate::autoscaling::{Hook, HookResult, Survey, Transition, choose_hook};
use crate::aws::AwsError;
use crate::ledger::{DepartureRow, DepartureState, Member};
use crate::node::Node;

/// A skep that lives sees the notice within seconds and says so in the ledger.
const PATIENCE: Duration = Duration::from_secs(20);
/// Where the group has no hook or did not answer, it is asked again after this.
const NEXT_QUESTION: Duration = Duration::from_secs(20);

/// Since when Auto Scaling has been waiting to terminate each instance.
pub type WaitingSince = BTreeMap<String, Instant>;
/// When each instance's hook is to get its next heartbeat.
pub type NextBeat = BTreeMap<String, Instant>;

/// Takes in what an answer says; what it is silent about stays as it was.
pub fn follow(
    since: &mut WaitingSince,
    survey: &Survey,
    members: &[Member],
    own: &str,
    now: Instant,
) {
    let is_member = |id: &String| members.iter().any(|member| member.instance_id == *id);
    since.retain(|id, _| is_member(id));
    for id in survey.answered.iter().filter(|id| *id != own && is_member(id)) {
        match survey.listed.get(id) {
            Some(instance) if instance.lifecycle_state.waits_for_departure() => {
                since.entry(id.clone()).or_insert(now);
            }
            _ => drop(since.remove(id)),
        }
    }
}

/// Whether the patience with one of them is still running.
#[must_use]
pub fn is_waiting(since: &WaitingSince, now: Instant) -> bool {
    since.values().any(|since| now - *since < PATIENCE)
}

/// Those for whom somebody has to stand in.
fn overdue<'a>(
    since: &WaitingSince,
    members: &'a [Member],
    departures: &[DepartureRow],
    now: Instant,
) -> Vec<&'a Member> {
    let is_due = |member: &&Member| {
        since.get(&member.instance_id).is_some_and(|since| now - *since >= PATIENCE)
            && departures
                .iter()
                .all(|row| row.node_id != member.node_id || row.state == DepartureState::Failed)
    };
    members.iter().filter(is_due).collect()
}

/// Writes a departure on behalf of each that is overdue.
pub async fn begin(
    node: &Node,
    since: &WaitingSince,
    members: &[Member],
    now: Instant,
) -> Result<(), CareError> {
    if overdue(since, members, &[], now).is_empty() {
        return Ok(());
    }
    let departures = node.ledger.fetch_departures().await?;
    for member in overdue(since, members, &departures, now) {
        let longest = node.settings.leave.deadline;
        let row = DepartureRow::stand_in(member, OffsetDateTime::now_utc(), longest);
        if node.ledger.stand_in_for(&row).await? {
            tracing::warn!(
                instance = member.instance_id,
                node = member.node_id,
                "Auto Scaling waits to terminate it and its skep says nothing: standing in for it"
            );
        }
    }
    Ok(())
}

/// Keeps the hook open, a heartbeat every third of its time-out.
pub async fn keep_alive(
    node: &Node,
    row: &DepartureRow,
    next_beat: &mut NextBeat,
) -> Result<(), CareError> {
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

/// Completes the hook: Auto Scaling goes on with the instance.
pub async fn release(node: &Node, instance: &str, result: HookResult) -> Result<(), CareError> {
    if let Some((group, hook)) = find_hook(node, instance).await? {
        let answer = node.autoscaling.complete(&hook.name, &group, instance, result).await?;
        tracing::warn!(
            instance,
            hook = hook.name,
            ?answer,
            "termination hook on its behalf: {}",
            result.as_str()
        );
    }
    Ok(())
}

/// The group of an instance that is still listed, and its hook; by Auto Scaling's own word, since a row
/// may not know the group.
async fn find_hook(node: &Node, instance: &str) -> Result<Option<(String, Hook)>, AwsError> {
    let Some(seen) = node.autoscaling.fetch_instance(instance).await? else { return Ok(None) };
    let hooks = node.autoscaling.fetch_hooks(&seen.group).await?;
    let configured = node.settings.autoscaling.termination_hook.as_deref();
    // The name that is configured here may be that of this node's own group alone.
    let hook = choose_hook(hooks.clone(), Transition::Terminating, configured)
        .or_else(|| choose_hook(hooks, Transition::Terminating, None));
    Ok(hook.map(|hook| (seen.group, hook)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::autoscaling::GroupInstance;
    use crate::fuzz;
    use crate::instance::{Departure, Reason, Role};

    const NOW: OffsetDateTime = OffsetDateTime::UNIX_EPOCH;
    const WAITS: &str = "Terminating:Wait";

    fn member(instance: &str) -> Member {
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

    #[test]
    fn only_who_waits_for_long_and_says_nothing_gets_a_stand_in() {
        let members = ["i-own", "i-dead", "i-back", "i-new"].map(member);
        let (mut since, start) = (WaitingSince::new(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        let states = [
            ("i-own", WAITS),
            ("i-dead", WAITS),
            ("i-back", WAITS),
            ("i-new", "Pending:Wait"),
            ("i-stranger", WAITS),
        ];
        follow(&mut since, &answer(&states), &members, "i-own", at(0));
        assert_eq!(since.keys().collect::<Vec<_>>(), ["i-back", "i-dead"]);
        follow(&mut since, &Survey::default(), &members, "i-own", at(10));
        assert_eq!(since.len(), 2, "no answer changes nothing");
        assert!(is_waiting(&since, at(19)) && !is_waiting(&since, at(20)));
        assert!(overdue(&since, &members, &[], at(19)).is_empty());
        let states = [("i-dead", WAITS), ("i-back", "InService")];
        follow(&mut since, &answer(&states), &members, "i-own", at(20));
        assert_eq!(ids(overdue(&since, &members, &[], at(20))), ["i-dead"]);

        let notice = Departure { reason: Reason::Lifecycle, noticed_at: NOW, deadline: NOW };
        let asked =
            |node: &str| DepartureRow::request("i-dead", node, Role::Worker, &notice, "boot");
        let another = [asked("an earlier node")];
        assert_eq!(ids(overdue(&since, &members, &another, at(20))), ["i-dead"]);
        let mut own = [asked("node-of-i-dead")];
        assert!(overdue(&since, &members, &own, at(20)).is_empty());
        own[0].state = DepartureState::Failed;
        assert_eq!(
            ids(overdue(&since, &members, &own, at(20))),
            ["i-dead"],
            "it has ended too late"
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1_000))]

        /// Rows of any content that can be read.
        #[test]
        fn no_row_that_can_be_read_ends_a_look(
            members in fuzz::members(),
            departures in fuzz::departures(),
        ) {
            let (mut since, start) = (WaitingSince::new(), Instant::now());
            let states = answer(&[("i-0", WAITS), ("i-1", WAITS), ("i-own", WAITS)]);
            follow(&mut since, &states, &members.rows, "i-own", start);
            for member in overdue(&since, &members.rows, &departures, start + PATIENCE) {
                let row = DepartureRow::stand_in(member, fuzz::NOW, PATIENCE);
                prop_assert!(row.stand_in && member.instance_id != "i-own");
            }
        }
    }
}
