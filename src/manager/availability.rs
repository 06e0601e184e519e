//! Drains or pauses a node that stays but must get no new tasks, by the scheduling hold in its row, and gives it its
//! former availability afterwards.
//!
//! Guarantees: an availability that another actor has set is not changed (see [`settle`]), and a departing node is not
//! activated. A node without skep's labels is left to the duty `labels`, whose first write also sets the availability.

use std::time::Duration;

use tokio::time::Instant;

use super::duty::{Duty, Poll};
use super::error::ManagerError;
use super::node_edit::{BACKUP, Edit, LEADER, Rhythm, with_rows, write};
use super::observe::{Fleet, lately};
use crate::clients::docker::{Availability, NodeView, settle};
use crate::clients::ledger::Member;
use crate::common::instance::SchedulingHold;
use crate::common::labels::{AVAILABILITY, Labels, OWNED};

/// Name of this duty.
const NAME: &str = "availability";
/// Time between two reads of the ledger while there is a node whose availability skep has changed: the node must be
/// active again soon.
const MARKED: Duration = Duration::from_secs(5);
/// Maximum age of the rows: those that the duty `labels` has read in the same moment are used again.
const ROWS_AGE: Duration = Duration::from_secs(1);

/// Sets availabilities for as long as this node is a manager.
pub(super) async fn run(fleet: &Fleet<'_>) {
    let (first, after_failure) = (Duration::ZERO, BACKUP.look);
    Duty { name: NAME, first, after_failure, trouble: None }.run(fleet, poll).await;
}

/// Polls once. `memory` is the time of the last read of the ledger.
async fn poll(
    Poll { fleet, memory, complaints }: Poll<'_, Option<Instant>>,
) -> Result<Duration, ManagerError> {
    let nodes = fleet.nodes(lately(LEADER.look)).await?;
    let rhythm = Rhythm::of(fleet, &nodes);
    let interval = read_interval(&nodes, rhythm);
    if memory.is_some_and(|read_at| read_at.elapsed() < interval) {
        return Ok(rhythm.look);
    }
    let members = fleet.members(nodes.asked_at.max(lately(ROWS_AGE))).await?;
    *memory = Some(members.asked_at);
    for (view, member) in with_rows(&nodes, &members.rows) {
        let written = write(fleet.node, view, member, decide).await.map(drop);
        complaints.take("setting the availability", &member.instance_id, written)?;
    }
    complaints.retain(|id| members.rows.iter().any(|row| row.instance_id == id));
    Ok(rhythm.look)
}

/// Returns the time between two reads of the ledger.
fn read_interval(nodes: &[NodeView], rhythm: &Rhythm) -> Duration {
    let is_marked = nodes.iter().any(|view| view.labels.contains_key(AVAILABILITY));
    if is_marked { MARKED + rhythm.patience } else { rhythm.read }
}

/// Returns the availability of a node that has skep's labels, with its mark.
fn decide(seen: &Labels, before: Availability, member: &Member) -> Edit {
    let mut labels = seen.clone();
    let after = settle(&mut labels, before, member.scheduling_hold.map(wanted));
    let is_new = labels != *seen || after != before;
    (is_new && seen.contains_key(OWNED)).then_some((labels, after))
}

/// Returns the availability that a node gets with its first labels, and updates its mark: a node that joined paused is
/// activated, now or once its hold is over.
pub(super) fn first(labels: &mut Labels, before: Availability, member: &Member) -> Availability {
    let activated = |availability| {
        let is_due = member.joined_paused && availability == Availability::Pause;
        if is_due { Availability::Active } else { availability }
    };
    let hold = member.scheduling_hold.map(wanted);
    let after = settle(labels, activated(before), hold);
    if hold.is_none() { activated(after) } else { after }
}

/// Returns the availability of a node that stays and has this scheduling hold.
fn wanted(scheduling_hold: SchedulingHold) -> Availability {
    match scheduling_hold {
        SchedulingHold::Rebalance => Availability::Pause,
        SchedulingHold::Standby => Availability::Drain,
    }
}

#[cfg(test)]
mod tests {
    use time::OffsetDateTime;

    use super::*;
    use crate::clients::aws::stub::Stub;
    use crate::clients::docker::tests::fake_engine::{FakeEngine, Instead, RELEASES};
    use crate::clients::ledger::MemberState;
    use crate::common::instance::{Instance, Membership, Role};
    use crate::manager::complaints::Complaints;
    use crate::node::Node;

    fn held(joined_paused: bool, hold: Option<SchedulingHold>) -> Member {
        let (instance, membership) = (Instance::example(), Membership::example());
        let now = OffsetDateTime::UNIX_EPOCH;
        let mut row = Member::new(&instance, &membership, Role::Worker, MemberState::Ready, now);
        (row.scheduling_hold, row.joined_paused) = (hold, joined_paused);
        row
    }

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect()
    }

    #[test]
    fn a_held_node_is_drained_once_and_active_again_once() {
        let (mut seen, mut availability) = (labels(&[(OWNED, "")]), Availability::Active);
        for (hold, then) in [
            (Some(SchedulingHold::Rebalance), Availability::Pause),
            (Some(SchedulingHold::Standby), Availability::Drain),
            (Some(SchedulingHold::Rebalance), Availability::Pause),
            (None, Availability::Active),
        ] {
            let row = held(false, hold);
            (seen, availability) = decide(&seen, availability, &row).unwrap();
            assert_eq!(availability, then);
            assert_eq!(decide(&seen, availability, &row), None, "however often");
        }
    }

    #[test]
    fn a_node_that_joins_paused_and_is_held_is_active_afterwards_all_the_same() {
        let mut seen = labels(&[(OWNED, "")]);
        let row = held(true, Some(SchedulingHold::Rebalance));
        assert_eq!(first(&mut seen, Availability::Pause, &row), Availability::Pause);
        let row = held(true, None);
        assert_eq!(decide(&seen, Availability::Pause, &row).unwrap().1, Availability::Active);
        // Drained before its first labels, by a departure that was withdrawn.
        let mut drained = labels(&[(AVAILABILITY, "drain, was pause")]);
        assert_eq!(decide(&drained, Availability::Drain, &row), None, "its first labels do it");
        assert_eq!(first(&mut drained, Availability::Drain, &row), Availability::Active);
    }

    #[test]
    fn the_ledger_is_read_soon_while_a_node_is_held() {
        let node = |labels| NodeView { labels, ..NodeView::example("n1", Role::Worker) };
        let nodes = |pairs: &[(&str, &str)]| [node(labels(pairs))];
        let marked = [(OWNED, ""), (AVAILABILITY, "drain, was active")];
        assert_eq!(read_interval(&nodes(&marked), &LEADER), MARKED);
        assert_eq!(read_interval(&nodes(&marked), &BACKUP), MARKED + BACKUP.patience);
        assert_eq!(read_interval(&nodes(&marked[..1]), &BACKUP), BACKUP.read);
    }

    /// It is unknown whether that node leaves; the other nodes must not wait for it.
    #[tokio::test]
    async fn a_departure_that_cannot_be_read_holds_up_no_other_node() {
        let (engine, stub) = (FakeEngine::start(RELEASES[0]), Stub::start().await);
        let node = Node::example(engine.swarm(), &stub).await;
        const NODES: &str = r#"[
            { "ID": "n0", "Spec": { "Role": "worker", "Availability": "drain",
                "Labels": { "skep.labels": "", "skep.availability": "drain, was active" } } },
            { "ID": "n1", "Spec": { "Role": "manager", "Availability": "pause",
                "Labels": { "skep.labels": "", "skep.availability": "pause, was active" } },
                "ManagerStatus": { "Leader": true, "Reachability": "reachable" } }]"#;
        const OTHER: &str = r#"{ "ID": "n1", "Version": { "Index": 12 },
            "Spec": { "Role": "manager", "Availability": "pause",
                "Labels": { "skep.labels": "", "skep.availability": "pause, was active" } } }"#;
        for (path, answer) in [("/nodes", NODES), ("/nodes/n1", OTHER)] {
            engine.lock().instead.insert(path, Instead::Answer(answer));
        }
        let row = |number: u8| {
            format!(
                r#"{{ "item": {{ "S": "member#worker#i-{number}" }}, "node_id": {{ "S": "n{number}" }},
                    "instance_id": {{ "S": "i-{number}" }}, "role": {{ "S": "worker" }},
                    "zone": {{ "S": "a" }}, "address": {{ "S": "10.0.0.1" }},
                    "generation": {{ "N": "1" }}, "state": {{ "S": "ready" }},
                    "updated_at": {{ "N": "1" }} }}"#
            )
        };
        stub.always("member#worker#", &format!(r#"{{ "Items": [{}, {}] }}"#, row(0), row(1)));
        stub.always("member#manager#", r#"{ "Items": [] }"#);
        stub.always("departure#i-1", "{}");
        stub.always("departure#i-0", r#"{ "Item": { "item": { "S": "departure#i-0" } } }"#);
        let membership = Membership::example();
        let fleet = Fleet::new(&node, &membership);
        let (mut memory, mut complaints) = (None, Complaints::default());
        poll(Poll { fleet: &fleet, memory: &mut memory, complaints: &mut complaints })
            .await
            .unwrap();
        let failure = complaints.end_poll().unwrap();
        assert!(failure.contains("i-0"), "{failure}");
        assert!(stub.requests().iter().any(|request| request.contains("departure#i-0")));
        assert_eq!(engine.lock().done, ["POST /nodes/n1/update"]);
        assert_eq!(engine.last("POST /nodes/n1/update").body["Availability"], "active");
    }
}
