//! Drains or pauses a node that stays but must get no new tasks, by the scheduling hold in its row, and gives it its
//! former availability afterwards.
//!
//! An instance that enters Standby is deregistered from its load balancers without a hook: its node is paused first, and
//! drained when `leave.deregistration_delay` is over.
//!
//! Guarantees: an availability that another actor has set is not changed (see [`settle`]), and a departing node is not
//! activated, nor one whose tasks are being [moved](super::moves). A node without skep's labels is left to the duty
//! `labels`, whose first write also sets the availability.

use std::time::Duration;

use tokio::time::Instant;

use super::duty::{Duty, Poll};
use super::error::ManagerError;
use super::moves;
use super::node_edit::{BACKUP, Edit, LEADER, Rhythm, rows_of, with_rows, write};
use super::observe::{Fleet, lately};
use super::placed::{count_instances, instance_of};
use super::traffic;
use crate::clients::docker::{Availability, NodeView, settle};
use crate::clients::ledger::{Member, Traffic};
use crate::common::errors::chain;
use crate::common::held_since::HeldSince;
use crate::common::instance::SchedulingHold;
use crate::common::labels::{AVAILABILITY, Labels, OWNED};

/// Name of this duty.
const NAME: &str = "availability";
/// Time between two reads of the rows of nodes whose availability skep has changed: a node must be active again soon.
const MARKED: Duration = Duration::from_secs(5);
/// Maximum age of the rows: those that the duty `labels` has read in the same moment are used again.
const ROWS_AGE: Duration = Duration::from_secs(1);

/// Sets availabilities for as long as this node is a manager.
pub(super) async fn run(fleet: &Fleet<'_>) {
    let (first, after_failure) = (Duration::ZERO, BACKUP.look);
    Duty { name: NAME, first, after_failure, trouble: None }.run(fleet, poll).await;
}

/// Times of the last reads of the ledger.
#[derive(Default)]
struct Memory {
    /// Of the rows of all nodes.
    all_at: Option<Instant>,
    /// Of those of the nodes that skep has marked.
    marked_at: Option<Instant>,
    /// Instances in Standby that a load balancer may still send requests to.
    deregistering: HeldSince<String>,
}

async fn poll(
    Poll { fleet, memory, complaints }: Poll<'_, Memory>,
) -> Result<Duration, ManagerError> {
    let nodes = fleet.nodes(lately(LEADER.look)).await?;
    let rhythm = Rhythm::of(fleet, &nodes);
    let due = memory.due(&nodes, rhythm, Instant::now());
    if due.is_empty() {
        return Ok(rhythm.look);
    }
    let members = rows_of(fleet, &due, lately(ROWS_AGE)).await?;
    for (view, member) in with_rows(&due, &members) {
        let hold = memory.hold_of(fleet, view, member).await;
        let is_to_be_active = hold.is_none()
            && view.availability != Availability::Active
            && view.labels.contains_key(AVAILABILITY);
        // swarmkit rejects a task at once that does not fit the constraints of its service, if its node is active. While
        // it cannot be told whether a service has such a constraint, the node stays as it is.
        if is_to_be_active {
            let named = moves::is_named(fleet.node, &view.id).await;
            if named.as_ref().copied().unwrap_or(true) {
                complaints.take("reading the services", &member.instance_id, named.map(drop))?;
                continue;
            }
        }
        let decide = |seen: &_, before, _: &_| decide(seen, before, hold);
        let written = write(fleet.node, view, member, decide).await.map(drop);
        complaints.take("setting the availability", &member.instance_id, written)?;
    }
    memory.deregistering.retain(|id| nodes.iter().any(|view| instance_of(view) == Some(id)));
    complaints.retain(|id| nodes.iter().any(|view| instance_of(view) == Some(id)));
    Ok(rhythm.look)
}

impl Memory {
    /// Returns the nodes whose rows must be read now: all; or those whose availability skep has changed, which must be
    /// active again soon.
    fn due(&mut self, nodes: &[NodeView], rhythm: &Rhythm, now: Instant) -> Vec<NodeView> {
        let is_over = |at: Option<Instant>, interval| at.is_none_or(|at| now - at >= interval);
        let is_all = is_over(self.all_at, rhythm.read_interval(count_instances(nodes)));
        if !is_all && !is_over(self.marked_at, MARKED + rhythm.patience) {
            return vec![];
        }
        self.marked_at = Some(now);
        self.all_at = if is_all { Some(now) } else { self.all_at };
        let is_marked = |view: &&NodeView| view.labels.contains_key(AVAILABILITY);
        nodes.iter().filter(|view| is_all || is_marked(view)).cloned().collect()
    }
}

impl Memory {
    /// Returns the hold of a node, by its row; a weaker one while its instance is being deregistered. If it is unknown
    /// whether there is a load balancer, the node waits as if there were one.
    async fn hold_of(
        &mut self,
        fleet: &Fleet<'_>,
        view: &NodeView,
        member: &Member,
    ) -> Option<SchedulingHold> {
        let (id, delay) = (&member.instance_id, fleet.node.settings.leave.deregistration_delay);
        let is_waiting = member.scheduling_hold == Some(SchedulingHold::Standby)
            && view.availability != Availability::Drain;
        if !is_waiting {
            self.deregistering.end(id);
            return member.scheduling_hold;
        }
        let now = Instant::now();
        if now - self.deregistering.begin(id.clone(), now) >= delay {
            return member.scheduling_hold;
        }
        let traffic = traffic::find_out(fleet, id).await;
        let traffic = traffic.inspect_err(|error| tracing::debug!("{}", chain(error)));
        match traffic {
            Ok(Some(Traffic::None)) => member.scheduling_hold,
            // Like a recommendation to replace the instance: it keeps its tasks and gets no new ones.
            _ => Some(SchedulingHold::Rebalance),
        }
    }
}

/// Returns the availability of a node that has skep's labels and this hold, with its mark.
fn decide(seen: &Labels, before: Availability, hold: Option<SchedulingHold>) -> Edit {
    let mut labels = seen.clone();
    let after = settle(&mut labels, before, hold.map(wanted));
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
    // An instance in Standby may still receive requests: the next poll of this duty drains its node.
    let hold = member.scheduling_hold.map(|_| Availability::Pause);
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
            (seen, availability) = decide(&seen, availability, hold).unwrap();
            assert_eq!(availability, then);
            assert_eq!(decide(&seen, availability, hold), None, "however often");
        }
    }

    #[test]
    fn a_node_that_joins_paused_and_is_held_is_active_afterwards_all_the_same() {
        let mut seen = labels(&[(OWNED, "")]);
        let row = held(true, Some(SchedulingHold::Rebalance));
        assert_eq!(first(&mut seen, Availability::Pause, &row), Availability::Pause);
        let row = held(true, None);
        assert_eq!(decide(&seen, Availability::Pause, None).unwrap().1, Availability::Active);
        // Drained before its first labels, by a departure that was withdrawn.
        let mut drained = labels(&[(AVAILABILITY, "drain, was pause")]);
        assert_eq!(decide(&drained, Availability::Drain, None), None, "its first labels do it");
        assert_eq!(first(&mut drained, Availability::Drain, &row), Availability::Active);
    }

    #[test]
    fn the_rows_of_held_nodes_are_read_soon_and_the_others_rarely() {
        let node = |id: &str, pairs| NodeView {
            labels: labels(pairs),
            ..NodeView::example(id, Role::Worker)
        };
        let marked = [(OWNED, ""), (AVAILABILITY, "drain, was active")];
        let nodes = [node("marked", &marked), node("other", &marked[..1])];
        let start = Instant::now();
        for (rhythm, soon, late) in [(&LEADER, 5, 45), (&BACKUP, 25, 300)] {
            let mut memory = Memory::default();
            let mut due = |seconds| {
                let due = memory.due(&nodes, rhythm, start + Duration::from_secs(seconds));
                due.into_iter().map(|view| view.id).collect::<Vec<_>>()
            };
            assert_eq!(due(0), ["marked", "other"]);
            assert_eq!(due(soon - 1), [""; 0]);
            assert_eq!(due(soon), ["marked"]);
            assert_eq!(due(late), ["marked", "other"]);
        }
    }

    /// It is unknown whether that node leaves; the other nodes must not wait for it.
    #[tokio::test]
    async fn a_departure_that_cannot_be_read_holds_up_no_other_node() {
        let (engine, stub) = (FakeEngine::start(RELEASES[0]), Stub::start().await);
        let node = Node::example(engine.swarm(), &stub).await;
        const NODES: &str = r#"[
            { "ID": "n0", "Spec": { "Role": "worker", "Availability": "drain", "Labels": {
                "skep.instance": "i-0", "skep.labels": "", "skep.availability": "drain, was active" } } },
            { "ID": "n1", "Spec": { "Role": "manager", "Availability": "pause", "Labels": {
                "skep.instance": "i-1", "skep.labels": "", "skep.availability": "pause, was active" } },
                "ManagerStatus": { "Leader": true, "Reachability": "reachable" } }]"#;
        const OTHER: &str = r#"{ "ID": "n1", "Version": { "Index": 12 },
            "Spec": { "Role": "manager", "Availability": "pause",
                "Labels": { "skep.labels": "", "skep.availability": "pause, was active" } } }"#;
        for (path, answer) in [("/nodes", NODES), ("/nodes/n1", OTHER)] {
            engine.lock().instead.insert(path, Instead::Answer(answer));
        }
        let row = |number: u8| {
            format!(
                r#"{{ "item": {{ "S": "member#worker#i-{number}" }}, "schema": {{ "N": "2" }}, "node_id": {{ "S": "n{number}" }},
                    "instance_id": {{ "S": "i-{number}" }}, "role": {{ "S": "worker" }},
                    "zone": {{ "S": "a" }}, "address": {{ "S": "10.0.0.1" }},
                    "generation": {{ "N": "1" }}, "state": {{ "S": "ready" }},
                    "updated_at": {{ "N": "1" }} }}"#
            )
        };
        let rows = format!(r#"{{ "Responses": {{ "skep": [{}, {}] }} }}"#, row(0), row(1));
        stub.always("member#worker#", &rows);
        stub.always("member$", r#"{ "Items": [] }"#);
        stub.always("departure#stand-in#", "{}");
        stub.always("departure#i-1", "{}");
        stub.always("departure#i-0", r#"{ "Item": { "item": { "S": "departure#i-0" } } }"#);
        let membership = Membership::example();
        let fleet = Fleet::new(&node, &membership);
        let (mut memory, mut complaints) = (Memory::default(), Complaints::default());
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
