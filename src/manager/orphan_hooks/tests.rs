//! Tests with a world in which one instance has no node.

use proptest::prelude::*;
use time::OffsetDateTime;

use super::*;
use crate::clients::aws::autoscaling::tests::{described, list};
use crate::clients::aws::stub::Stub;
use crate::clients::docker::tests::fake_engine::{FakeEngine, RELEASES};
use crate::clients::ledger::DepartureState;
use crate::clients::ledger::fuzz;
use crate::common::instance::{Departure, Reason, Role};
use crate::manager::stand_in::tests::worker;

const NOW: OffsetDateTime = OffsetDateTime::UNIX_EPOCH;
const WAITS: &str = "Terminating:Wait";
/// Time for which the ledger has answered.
const LONG: Duration = Duration::from_secs(3600);

fn view(id: &str, address: &str, state: &str) -> NodeView {
    NodeView {
        state: state.into(),
        address: Some(address.into()),
        ..NodeView::example(id, Role::Worker)
    }
}

fn answer(states: &[(&str, &str)]) -> BTreeMap<String, GroupInstance> {
    let listed = states.iter().map(|(id, state)| {
        let lifecycle_state = (*state).into();
        let (group, health) = ("workers".into(), String::new());
        (
            (*id).to_owned(),
            GroupInstance { group, lifecycle_state, health, protected: None, settings: None },
        )
    });
    listed.collect()
}

/// A world in which `i-dead` has no node, and polls of it.
struct World {
    listed: BTreeMap<String, GroupInstance>,
    placed: Vec<Placed>,
    managers: MemberRows,
    departures: Rows<DepartureRow>,
    nodes: Vec<NodeView>,
    since: HeldSince<String>,
    start: Instant,
    answering_since: Option<Instant>,
}

impl World {
    fn new() -> Self {
        Self {
            listed: answer(&[("i-own", "InService"), ("i-dead", WAITS)]),
            placed: vec![worker("i-own")],
            managers: MemberRows::default(),
            departures: Rows::default(),
            nodes: vec![view("node-of-i-own", "10.0.0.1", "ready")],
            since: HeldSince::default(),
            start: Instant::now() + LONG,
            answering_since: Some(Instant::now()),
        }
    }

    fn look(&mut self, seconds: u64) -> Vec<String> {
        self.judge(seconds).nobody
    }

    fn judge(&mut self, seconds: u64) -> Overdue {
        let Self { listed, placed, managers, departures, nodes, since, start, .. } = self;
        let answering_since = self.answering_since;
        let time = NOW + Duration::from_secs(seconds);
        let seen = Observed { listed, placed, managers, departures, nodes, answering_since, time };
        overdue(&seen, "i-own", since, *start + Duration::from_secs(seconds))
    }
}

#[test]
fn only_who_waits_for_long_in_every_answer_is_released() {
    let mut world = World::new();
    assert!(world.look(0).is_empty() && world.look(119).is_empty());
    assert_eq!(world.look(120), ["i-dead"]);
    world.listed = answer(&[("i-dead", WAITS)]);
    assert!(world.look(150).is_empty(), "another account's answer");
    world.listed = answer(&[("i-own", "InService")]);
    assert!(world.look(180).is_empty(), "it is gone");
    world.listed = answer(&[("i-own", WAITS), ("i-dead", WAITS), ("i-new", "Pending:Wait")]);
    assert!(world.look(210).is_empty(), "its wait starts anew");
    assert_eq!(world.look(330), ["i-dead"], "not this node's, nor a launch hook");
}

/// For every reason of a departure: skep ends with the departure, and Auto Scaling's hook comes later.
#[test]
fn an_instance_that_has_left_earlier_for_any_reason_is_released_soon() {
    use DepartureState::{Drained, Failed, Left, Removed};
    for reason in [
        Reason::Operator,
        Reason::Spot,
        Reason::Maintenance,
        Reason::Rebalance,
        Reason::Shutdown,
        Reason::Lifecycle,
    ] {
        let look = |state, ended, waits: &str| {
            let notice = Departure { reason, noticed_at: NOW, deadline: NOW };
            let mut row = DepartureRow::request("i-dead", "it", Role::Worker, &notice, "boot");
            (row.state, row.ended) = (state, ended);
            let mut world = World::new();
            world.departures.rows.push(row);
            world.listed = answer(&[("i-own", "InService"), ("i-dead", waits)]);
            world.look(0);
            (world.look(19), world.look(20), world.look(120))
        };
        let (none, released) = (Vec::<String>::new(), vec!["i-dead".to_owned()]);
        for state in [Removed, Failed] {
            let ended = look(state, true, WAITS);
            assert_eq!(ended, (none.clone(), released.clone(), released.clone()), "{reason}");
            let silent = look(state, false, WAITS);
            assert_eq!(silent, (none.clone(), none.clone(), released.clone()), "{reason}");
        }
        let replaced = look(Removed, true, "ReplacingRootVolume:Wait");
        assert_eq!(replaced.1, released, "{reason}");
        for (state, waits) in [
            (Drained, WAITS),
            (Left, WAITS),
            (Removed, "Terminating:Retained"),
            (Removed, "Terminating:Proceed"),
            (Removed, "Terminating:Somehow"),
        ] {
            assert_eq!(look(state, true, waits), (none.clone(), none.clone(), none.clone()));
        }
    }
}

#[test]
fn whoever_may_be_somebody_is_left_to_the_hook() {
    let look = |change: &dyn Fn(&mut World)| {
        let mut world = World::new();
        change(&mut world);
        world.look(0);
        world.look(600)
    };
    assert_eq!(look(&|_| {}), ["i-dead"]);
    assert!(look(&|it| it.placed.push(worker("i-dead"))).is_empty(), "it is a node");
    let notice = Departure { reason: Reason::Lifecycle, noticed_at: NOW, deadline: NOW };
    let asked = DepartureRow::request("i-dead", "", Role::Worker, &notice, "boot");
    assert!(
        look(&|it| it.departures.rows.push(asked.clone())).is_empty(),
        "its skep has asked to leave"
    );
    let with_state = |state| {
        let mut row = asked.clone();
        row.state = state;
        row
    };
    for state in [DepartureState::Draining, DepartureState::Drained, DepartureState::Left] {
        let row = with_state(state);
        assert!(
            look(&|it| it.departures.rows.push(row.clone())).is_empty(),
            "{state:?}: under way"
        );
    }
    let removed = with_state(DepartureState::Removed);
    assert_eq!(look(&|it| it.departures.rows.push(removed.clone())), ["i-dead"], "it left earlier");
    let mut back = removed.clone();
    back.node_id = "node-of-i-own".into();
    let is_back = |it: &mut World| it.departures.rows.push(back.clone());
    assert!(look(&is_back).is_empty(), "the swarm lists that node again");
    let is_unknown = |it: &mut World| it.nodes.push(view("new", "10.0.0.8", "ready"));
    assert!(look(&is_unknown).is_empty(), "a node whose instance is unknown");
    let is_old = |it: &mut World| it.nodes.push(view("old", "10.0.0.8", "down"));
    assert_eq!(look(&is_old), ["i-dead"], "the entry of an earlier node");
}

/// Such as a node that was joined by hand on a machine outside the VPC: that state lasts.
#[test]
fn a_node_whose_instance_is_unknown_holds_up_nobody_who_has_left() {
    let mut world = World::new();
    world.listed = answer(&[("i-own", "InService"), ("i-dead", WAITS), ("i-left", WAITS)]);
    world.nodes.push(view("by-hand", "10.0.0.8", "ready"));
    let notice = Departure { reason: Reason::Operator, noticed_at: NOW, deadline: NOW };
    let mut row = DepartureRow::request("i-left", "former", Role::Worker, &notice, "boot");
    (row.state, row.ended) = (DepartureState::Removed, true);
    world.departures.rows.push(row);
    world.look(0);
    assert_eq!(world.look(20), ["i-left"]);
    let later = world.judge(120);
    assert_eq!(later.nobody, ["i-left"]);
    assert_eq!(later.maybe, Some(("by-hand".to_owned(), vec!["i-dead".to_owned()])));
    let words = later.held().unwrap();
    assert!(words.contains("i-dead") && words.contains("node by-hand"), "{words}");
    world.nodes.pop();
    let explained = world.judge(130);
    assert_eq!((explained.nobody.len(), explained.held()), (2, None));
}

/// Whoever has the token of the workers can add such entries at any time.
#[test]
fn an_entry_that_is_younger_than_the_wait_holds_up_nobody() {
    for (joined, released) in [(60, vec![]), (61, vec!["i-dead"])] {
        let mut world = World::new();
        world.look(0);
        let joined_at = Some(NOW + Duration::from_secs(joined));
        world.nodes.push(NodeView { joined_at, ..view("entry", "10.0.0.8", "ready") });
        assert_eq!(world.look(120), released, "joined after {joined} s");
    }
}

#[test]
fn an_instance_whose_row_cannot_be_read_may_be_a_manager_or_about_to_leave() {
    let spoil = |world: &mut World, key: &str| {
        let keys = [key.to_owned()].into();
        match key.split('#').next() {
            Some("member") => world.managers.unreadable = keys,
            Some("departure") => world.departures.unreadable = keys,
            _ => world.departures.unanswered = [key.replace("unanswered", "departure")].into(),
        }
    };
    for kind in ["member#manager", "departure", "unanswered"] {
        let mut world = World::new();
        spoil(&mut world, &format!("{kind}#i-dead"));
        world.nodes.push(view("its-node", "10.0.0.8", "down"));
        world.look(0);
        let due = world.judge(600);
        assert!(due.nobody.is_empty());
        assert_eq!(due.unreadable, ["i-dead"]);
        let words = due.held().unwrap();
        assert!(words.contains("i-dead") && words.contains("cannot be read"), "{words}");
        spoil(&mut world, &format!("{kind}#i-deadly"));
        assert_eq!(world.look(610), ["i-dead"], "that row is another instance's");
    }
}

/// Its skep may be alive and wait for the ledger.
#[test]
fn nobody_is_silent_while_the_ledger_does_not_answer() {
    let mut world = World::new();
    world.look(0);
    world.answering_since = None;
    assert!(world.look(600).is_empty());
    world.answering_since = Some(world.start + Duration::from_secs(700));
    assert!(world.look(744).is_empty());
    assert_eq!(world.look(745), ["i-dead"]);
}

#[tokio::test]
async fn a_hook_that_cannot_be_completed_holds_up_no_other() {
    let (engine, stub) = (FakeEngine::start(RELEASES[0]), Stub::start().await);
    let node = Node::example(engine.swarm(), &stub).await;
    let denied = Stub::xml_error("AccessDenied", "not this group's");
    stub.answer(403, &denied);
    stub.answer(200, &described(&list(&[("i-2", WAITS)]), ""));
    stub.answer(403, &denied);
    stub.answer(403, &denied);
    let instances = ["i-1", "i-2", "i-3"].map(str::to_owned);
    let refused = release(&node, &instances, &mut Complaints::default()).await;
    let asked = stub.requests();
    assert_eq!(asked.len(), 4, "each is tried: {asked:?}");
    assert_eq!(refused.values().flatten().count(), 3);
    let words = Overdue { refused, ..Overdue::default() }.held().unwrap();
    assert!(words.contains("termination hook of i-1") && words.contains("i-3"), "{words}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    /// Rows with any readable content.
    #[test]
    fn no_row_that_can_be_read_ends_a_look(
        managers in fuzz::members(),
        departures in fuzz::departures(),
        nodes in fuzz::nodes(),
    ) {
        check_rows(managers, departures, nodes);
    }
}

/// Checks that no instance is released that is a node, or that may be one. Returns the number of released ones.
pub(in crate::manager) fn check_rows(
    managers: MemberRows,
    departures: Rows<DepartureRow>,
    nodes: Vec<NodeView>,
) -> usize {
    let placed = placed(&nodes, &managers.rows);
    let listed = answer(&[("i-own", "InService"), ("i-0", WAITS), ("i-1", WAITS)]);
    let mut world = World { listed, placed, managers, departures, nodes, ..World::new() };
    world.judge(0);
    let overdue = world.judge(600);
    let is_held = overdue.maybe.is_some() || !overdue.unreadable.is_empty();
    assert_eq!(overdue.held().is_some(), is_held);
    let is_node = |id: &String| world.placed.iter().any(|it| it.instance_id == *id);
    let is_hidden = |id: &String| world.departures.hides(id) || world.managers.hides(id);
    assert!(!overdue.nobody.iter().any(|id| is_node(id) || is_hidden(id)));
    overdue.nobody.len()
}
