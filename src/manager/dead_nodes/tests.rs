//! Tests that no node is removed without evidence, for all answers of Docker, the ledger and Auto Scaling.

mod memory;
mod rows;

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::decide::*;
use super::*;
use crate::clients::aws::autoscaling::GroupInstance;
use crate::clients::docker::RaftView;
use crate::clients::ledger::Attempt;
use crate::clients::ledger::fuzz;
use crate::common::instance::Role;
use crate::common::timing::JOIN_IS_OVER;

const NOW: OffsetDateTime = time::macros::datetime!(2026-11-21 12:00 UTC);
const PATIENCE: Duration = Duration::from_secs(20);
const LONG_AGO: i64 = 600;

fn node(id: &str, state: &str, address: u8) -> NodeView {
    NodeView {
        hostname: format!("host-{id}"),
        state: state.into(),
        address: Some(format!("10.0.0.{address}")),
        ..NodeView::example(id, Role::Worker)
    }
}

fn manager(id: &str, state: &str, address: u8) -> NodeView {
    let raft = Some(RaftView { is_leader: false, is_reachable: state == "ready" });
    NodeView { role: Role::Manager, raft, ..node(id, state, address) }
}

fn member(instance: &str, node_id: &str, address: u8, age: i64) -> Member {
    serde_json::from_value(serde_json::json!({
        "instance_id": instance, "role": "worker", "node_id": node_id, "zone": "a",
        "address": format!("10.0.0.{address}"), "generation": 1, "state": "ready",
        "group": "workers",
        "updated_at": NOW.unix_timestamp() - age,
    }))
    .unwrap()
}

fn ungrouped(mut row: Member) -> Member {
    row.group = None;
    row
}

fn attempt(instance: &str, address: u8, age: i64) -> Attempt {
    let at = NOW - time::Duration::seconds(age);
    Attempt::new(instance, Role::Manager, [10, 0, 0, address].into(), at)
}

fn survey(answered: &[&str], listed: &[(&str, &str)]) -> Survey {
    let instance = |lifecycle: &str| GroupInstance {
        group: "workers".into(),
        lifecycle_state: lifecycle.into(),
        health: "HEALTHY".into(),
    };
    Survey {
        answered: answered.iter().map(|id| (*id).to_owned()).collect(),
        listed: listed.iter().map(|(id, state)| ((*id).to_owned(), instance(state))).collect(),
    }
}

#[test]
fn only_a_manager_that_raft_reaches_is_called_down_by_mistake() {
    let reached = |state: &str, is_reachable| {
        let raft = Some(RaftView { is_leader: false, is_reachable });
        is_forgotten(&NodeView { raft, ..manager("node", state, 1) })
    };
    assert!(reached("down", true));
    assert!(!reached("down", false), "it may be dead");
    assert!(!reached("ready", true) && !is_forgotten(&node("node", "down", 1)));
}

/// A world, and the decision about it.
#[derive(Debug)]
struct World {
    nodes: Vec<NodeView>,
    lifeless_for: BTreeMap<String, Duration>,
    members: Vec<Member>,
    attempts: Vec<Attempt>,
    unreadable: BTreeSet<String>,
    charter: Option<Charter>,
    survey: Survey,
    majority_for: Duration,
}

impl World {
    /// Every node that looks lifeless has done so for [`PATIENCE`].
    fn new(nodes: Vec<NodeView>, members: Vec<Member>, survey: Survey) -> Self {
        let lifeless = nodes.iter().filter(|node| is_lifeless(node));
        let lifeless_for = lifeless.map(|node| (node.id.clone(), PATIENCE)).collect();
        Self {
            nodes,
            lifeless_for,
            members,
            attempts: vec![],
            unreadable: BTreeSet::new(),
            charter: None,
            survey,
            majority_for: Duration::ZERO,
        }
    }

    fn seen(&self) -> Observed<'_> {
        Observed {
            me: "me",
            nodes: &self.nodes,
            lifeless_for: &self.lifeless_for,
            patience: PATIENCE,
            members: &self.members,
            attempts: &self.attempts,
            unreadable: &self.unreadable,
            charter: self.charter.as_ref(),
            survey: &self.survey,
            majority_for: self.majority_for,
            now: NOW,
        }
    }

    /// Returns the steps as `id: step`, in the order of the node list.
    fn steps(&self) -> Vec<String> {
        let steps = decide(&self.seen()).steps;
        steps.into_iter().map(|(node, step)| format!("{}: {step:?}", node.id)).collect()
    }

    fn verdict(&self, id: &str) -> Option<Verdict> {
        decide(&self.seen()).verdicts.remove(id)
    }
}

fn me() -> NodeView {
    manager("me", "ready", 1)
}

#[test]
fn the_dead_go_and_a_manager_is_demoted_first() {
    let nodes = vec![
        me(),
        manager("m2", "ready", 2),
        manager("m3", "down", 3),
        node("w1", "down", 4),
        node("w2", "down", 5),
        node("w3", "unknown", 6),
    ];
    let members = ["m3", "w1", "w2", "w3"].iter().zip(3..);
    let members = members.map(|(id, n)| member(&format!("i-{id}"), id, n, 0)).collect();
    let answered = survey(&["i-m3", "i-w1", "i-w2", "i-w3"], &[("i-w2", "InService")]);
    let world = World::new(nodes, members, answered);
    assert_eq!(world.steps(), ["m3: Demote", "w1: Remove"]);
    let listed = Verdict::Listed { instance: "i-w2".into(), lifecycle: "InService".into() };
    assert_eq!(world.verdict("w2"), Some(listed));
    assert_eq!(world.verdict("w3"), None, "unknown is not Down");
    assert_eq!(world.verdict("me"), None);
}

#[test]
fn without_an_answer_nobody_goes() {
    let nodes = vec![me(), node("w1", "down", 4), node("w2", "ready", 5)];
    let world = World::new(nodes, vec![member("i-w1", "w1", 4, LONG_AGO)], Survey::default());
    assert_eq!(world.steps(), [""; 0]);
    assert_eq!(world.verdict("w1"), Some(Verdict::Unproven { instance: "i-w1".into() }));
    assert!(decide(&world.seen()).orphans.is_empty());
}

/// Absence from Auto Scaling's answer is no evidence about an instance that was never in a group: such a node is Down
/// at every reboot.
#[test]
fn who_was_never_in_a_group_is_left_alone() {
    let lone = || ungrouped(member("i-lone", "w1", 4, LONG_AGO));
    let nodes = vec![me(), node("w1", "down", 4), node("w2", "ready", 5)];
    let world = World::new(nodes, vec![lone()], survey(&["i-lone"], &[]));
    assert_eq!(world.steps(), [""; 0]);
    let verdict = world.verdict("w1").unwrap();
    assert_eq!(verdict, Verdict::Ungrouped { instance: "i-lone".into() });
    assert!(!verdict.is_passing() && verdict.to_string().contains("docker node rm"));
    for twice in [[lone(), member("i-b", "w1", 4, 0)], [member("i-b", "w1", 4, 0), lone()]] {
        let both = World::new(world.nodes.clone(), twice.into(), survey(&["i-lone", "i-b"], &[]));
        assert_eq!(both.verdict("w1"), Some(verdict.clone()), "both must be gone");
    }
    let nowhere = vec![me(), node("w2", "ready", 5)];
    let orphaned = World::new(nowhere, vec![lone()], survey(&["i-lone"], &[]));
    assert!(decide(&orphaned.seen()).orphans.is_empty(), "too young, and its swarm is unknown");
}

/// One of the two rows was made by hand.
#[test]
fn of_two_rows_for_one_node_both_must_be_gone() {
    let nodes = vec![me(), node("w1", "down", 4), node("w2", "ready", 5)];
    let rows = vec![member("i-fake", "w1", 9, LONG_AGO), member("i-real", "w1", 4, LONG_AGO)];
    let listed = [("i-real", "InService")];
    let world = World::new(nodes, rows, survey(&["i-fake", "i-real"], &listed));
    assert_eq!(world.steps(), [""; 0]);
    let half = World { survey: survey(&["i-fake"], &[]), ..world };
    assert_eq!(half.verdict("w1"), Some(Verdict::Unproven { instance: "i-real".into() }));
    let both = World { survey: survey(&["i-fake", "i-real"], &[]), ..half };
    assert_eq!(both.steps(), ["w1: Remove"]);
}

#[test]
fn an_entry_whose_address_is_a_live_nodes_goes() {
    let nodes = vec![me(), node("old", "down", 4), node("new", "ready", 4), node("w", "down", 5)];
    let world = World::new(nodes, vec![member("i-1", "new", 4, 0)], Survey::default());
    assert_eq!(world.steps(), ["old: Remove"]);
    assert_eq!(world.verdict("w"), Some(Verdict::Unplaced));
    let unsure = World { members: vec![], ..world };
    assert_eq!(unsure.steps(), [""; 0], "a live node without a row may be the entry's own host");
}

/// An entry of a manager that never came up is `unknown`, and a member of raft for ever.
#[test]
fn what_a_failed_join_left_goes_with_its_instance() {
    let stillborn = NodeView { hostname: String::new(), ..manager("s", "unknown", 7) };
    let nodes = vec![me(), stillborn, manager("m2", "ready", 2), manager("m3", "ready", 3)];
    let mut world = World::new(nodes, vec![], survey(&["i-s"], &[("i-s", "Pending:Wait")]));
    assert_eq!(world.verdict("s"), Some(Verdict::Unplaced));
    world.attempts = vec![attempt("i-s", 7, LONG_AGO)];
    assert!(matches!(world.verdict("s"), Some(Verdict::Listed { .. })), "it may still be joining");
    world.survey = survey(&["i-s"], &[]);
    assert_eq!(world.steps(), ["s: Demote"]);
    for item in ["member#manager#i-9", "attempt#i-9"] {
        world.unreadable = [item.to_owned()].into();
        let hidden = world.verdict("s").unwrap();
        assert_eq!(hidden, Verdict::Hidden { item: item.to_owned() }, "its address was used again");
        assert!(world.steps().is_empty() && !hidden.is_passing());
    }
    world.unreadable.clear();
    assert!(decide(&world.seen()).spent.is_empty(), "the attempt still explains the entry");
    world.nodes[1].raft = None;
    assert_eq!(world.steps(), ["s: Remove"], "out of raft, for either role");
    world.nodes[1].role = Role::Worker;
    assert_eq!(world.steps(), ["s: Remove"]);
    world.nodes.remove(1);
    assert_eq!(decide(&world.seen()).spent, [&attempt("i-s", 7, LONG_AGO)]);
}

/// Its remote manager was gone in the middle of the join: an entry without a name, an address or a row.
#[test]
fn what_no_host_was_ever_behind_goes_once_its_join_is_over() {
    let nameless = NodeView { hostname: String::new(), address: None, ..node("s", "down", 0) };
    let mut world = World::new(vec![me(), nameless], vec![], Survey::default());
    assert_eq!(world.verdict("s"), Some(Verdict::Settling), "its join may still be under way");
    world.lifeless_for.insert("s".into(), JOIN_IS_OVER);
    assert_eq!(world.steps(), ["s: Remove"]);
    world.nodes[1].state = "unknown".into();
    assert_eq!(world.steps(), ["s: Remove"]);
    world.nodes[1].raft = Some(RaftView { is_leader: false, is_reachable: false });
    assert_eq!(world.verdict("s"), Some(Verdict::Unplaced), "a member of raft got further");
    world.nodes[1] = NodeView { address: None, ..node("s", "down", 0) };
    assert_eq!(world.verdict("s"), Some(Verdict::Unplaced), "it has a host");
    world.nodes[1].hostname.clear();
    world.members = vec![member("i-s", "s", 4, 0)];
    assert_eq!(world.steps(), [""; 0], "it was Ready once");
}

#[test]
fn more_than_half_of_the_swarm_must_be_gone_twice() {
    let dead = || (0..200u8).map(|n| node(&format!("w{n}"), "down", n));
    let rows = || (0..200u8).map(|n| member(&format!("i-{n}"), &format!("w{n}"), n, 0));
    let ids: Vec<String> = (0..200).map(|n| format!("i-{n}")).collect();
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    let nodes = std::iter::once(me()).chain(dead()).collect();
    let mut world = World::new(nodes, rows().collect(), survey(&ids, &[]));
    let first = decide(&world.seen());
    assert!(first.is_majority && first.steps.is_empty());
    assert!(matches!(first.verdicts["w7"], Verdict::AskAgain { .. }));
    world.majority_for = SECOND_ANSWER_AFTER;
    assert_eq!(world.steps().len(), 200);
}

#[test]
fn rows_of_nobody_go_once_they_are_old() {
    let rows = vec![
        member("i-old", "nowhere", 4, LONG_AGO),
        member("i-fresh", "nowhere", 5, 10),
        member("i-listed", "nowhere", 6, LONG_AGO),
        member("i-unasked", "nowhere", 7, LONG_AGO),
        member("i-here", "w1", 8, LONG_AGO),
    ];
    let answered =
        survey(&["i-old", "i-fresh", "i-listed", "i-here"], &[("i-listed", "Pending:Wait")]);
    let world = World::new(vec![me(), node("w1", "ready", 8)], rows, answered);
    let seen = world.seen();
    let orphans = decide(&seen).orphans;
    assert_eq!(orphans.iter().map(|row| &*row.instance_id).collect::<Vec<_>>(), ["i-old"]);
}

#[test]
fn only_the_due_are_asked_about_unless_it_is_everybodys_turn() {
    let nodes = vec![me(), node("w1", "down", 4), node("w2", "down", 5), node("w3", "down", 6)];
    let rows = vec![member("i-1", "w1", 4, 0), member("i-2", "w2", 5, 0), member("i-9", "x", 9, 0)];
    let mut world = World::new(nodes, rows, Survey::default());
    world.attempts = vec![attempt("i-3", 6, 0), attempt("i-4", 7, 0)];
    world.lifeless_for.insert("w2".into(), PATIENCE / 2);
    let ask = |everybody| ask_about(&world.seen(), everybody).into_iter().collect::<Vec<_>>();
    assert_eq!(ask(false), ["i-1", "i-3"]);
    assert_eq!(ask(true), ["i-1", "i-2", "i-3", "i-4", "i-9"]);
}

fn any_node() -> impl Strategy<Value = NodeView> {
    let states = prop::sample::select(vec!["ready", "down", "unknown", "disconnected"]);
    let raft = prop::option::of((any::<bool>(), any::<bool>()));
    let flags = (any::<bool>(), any::<bool>(), any::<bool>());
    (0u8..8, states, 0u8..5, flags, raft).prop_map(
        |(id, state, address, (is_named, is_placed, is_manager), raft)| {
            let raft = raft.map(|(is_leader, is_reachable)| RaftView { is_leader, is_reachable });
            let mut view = node(&format!("n{id}"), state, address);
            view.role = if is_manager { Role::Manager } else { Role::Worker };
            if !is_named {
                view.hostname.clear();
            }
            if !is_placed {
                view.address = None;
            }
            NodeView { raft, ..view }
        },
    )
}

fn any_world() -> impl Strategy<Value = World> {
    let nodes = prop::collection::vec(any_node(), 0..8);
    let rows = prop::collection::vec((0u8..6, 0u8..8, 0u8..5, 0i64..300, any::<bool>()), 0..8);
    let attempts = prop::collection::vec((0u8..6, 0u8..5, 0i64..300), 0..4);
    let answers = prop::collection::vec(0u8..3, 6);
    let times = prop::collection::vec(0u64..120, 8);
    let is_hidden = prop::bool::weighted(0.2);
    (nodes, rows, attempts, answers, times, 0u64..60, is_hidden).prop_map(
        |(mut nodes, rows, attempts, answers, times, majority_for, is_hidden)| {
            nodes.sort_by(|a, b| a.id.cmp(&b.id));
            nodes.dedup_by(|a, b| a.id == b.id);
            nodes.push(me());
            let row = |(i, n, a, age, has_group): (_, _, _, _, bool)| {
                let row = member(&format!("i-{i}"), &format!("n{n}"), a, age);
                if has_group { row } else { ungrouped(row) }
            };
            let mut result =
                World::new(nodes, rows.into_iter().map(row).collect(), Survey::default());
            result.attempts = attempts
                .into_iter()
                .map(|(i, a, age)| attempt(&format!("i-{i}"), a, age))
                .collect();
            let ids: Vec<String> = (0..6).map(|n| format!("i-{n}")).collect();
            let of = |wanted: fn(u8) -> bool| {
                let of = ids.iter().zip(&answers).filter(move |(_, answer)| wanted(**answer));
                of.map(|(id, _)| id.as_str()).collect::<Vec<_>>()
            };
            let listed: Vec<_> = of(|it| it == 2).into_iter().map(|id| (id, "InService")).collect();
            result.survey = survey(&of(|it| it > 0), &listed);
            let times = times.into_iter().map(Duration::from_secs);
            result.lifeless_for =
                (0..8).zip(times).map(|(n, time)| (format!("n{n}"), time)).collect();
            result.majority_for = Duration::from_secs(majority_for);
            result.unreadable.extend(is_hidden.then(|| "attempt#i-odd".to_owned()));
            result
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    /// The evidence, defined a second time in other words.
    #[test]
    fn nobody_goes_without_evidence(world in any_world()) {
        let seen = world.seen();
        let decision = decide(&seen);
        let gone = |id: &str| {
            world.survey.answered.contains(id) && !world.survey.listed.contains_key(id)
        };
        let mut by_auto_scaling = 0;
        for (view, step) in &decision.steps {
            let never_up = view.state == "unknown" && view.hostname.is_empty();
            prop_assert!(view.id != "me");
            prop_assert!(view.state == "down" || never_up, "{view:?}");
            prop_assert!(world.lifeless_for[&view.id] >= PATIENCE);
            prop_assert_eq!(*step == Step::Demote, view.raft.is_some());
            let rows: Vec<_> = world.members.iter().filter(|row| row.node_id == view.id).collect();
            if !rows.is_empty() {
                prop_assert!(view.state == "down" && rows.iter().all(|row| gone(&row.instance_id)));
                prop_assert!(rows.iter().all(|row| row.group.is_some()));
                by_auto_scaling += 1;
                continue;
            }
            if view.address.is_none() {
                prop_assert!(view.hostname.is_empty() && view.raft.is_none());
                prop_assert!(world.lifeless_for[&view.id] >= JOIN_IS_OVER);
                continue;
            }
            let has_live_owner = world.nodes.iter().any(|other| {
                other.state == "ready" && other.id != view.id && other.address == view.address
                    && world.members.iter().any(|row| row.node_id == other.id)
            });
            if !has_live_owner {
                let is_here = |it: &&Attempt| Some(it.address.to_string()) == view.address;
                let attempts: Vec<_> = world.attempts.iter().filter(is_here).collect();
                prop_assert!(!attempts.is_empty());
                prop_assert!(attempts.iter().all(|it| gone(&it.instance_id)));
                prop_assert!(world.unreadable.is_empty(), "its own row may be one of them");
                by_auto_scaling += 1;
            }
        }
        if 2 * by_auto_scaling > world.nodes.len() {
            prop_assert!(world.majority_for >= SECOND_ANSWER_AFTER);
        }
        for row in &decision.orphans {
            prop_assert!(row.group.is_some(), "no row of this world names a swarm");
            prop_assert!(gone(&row.instance_id) && row.updated_at + Duration::from_secs(120) < NOW);
            prop_assert!(world.nodes.iter().all(|view| view.id != row.node_id));
        }
        for spent in &decision.spent {
            let is_member = world.members.iter().any(|row| row.instance_id == spent.instance_id);
            prop_assert!(gone(&spent.instance_id) || is_member);
        }
    }

    /// Removal ends: after enough polls with the same answers no step is left.
    #[test]
    fn it_comes_to_an_end(world in any_world()) {
        let mut world = World { majority_for: SECOND_ANSWER_AFTER, ..world };
        for _ in 0..20 {
            let steps: Vec<(String, Step)> = decide(&world.seen())
                .steps.into_iter().map(|(view, step)| (view.id.clone(), step)).collect();
            if steps.is_empty() {
                return Ok(());
            }
            for (id, step) in steps {
                match step {
                    Step::Remove => world.nodes.retain(|view| view.id != id),
                    Step::Demote => for view in world.nodes.iter_mut().filter(|view| view.id == id) {
                        (view.role, view.raft) = (Role::Worker, None);
                    }
                }
            }
        }
        prop_assert!(false, "{:?}", decide(&world.seen()).steps);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    /// Rows with any readable content: a node that is Ready stays, and nothing panics.
    #[test]
    fn no_row_that_can_be_read_ends_a_look(
        members in fuzz::members(),
        attempts in fuzz::attempts(),
        charter in prop::option::of(fuzz::charter()),
        nodes in fuzz::nodes(),
        is_answered in any::<bool>(),
    ) {
        let survey = if is_answered { survey(&["i-0", "i-1", "i-2"], &[]) } else { Survey::default() };
        let unreadable = &members.unreadable | &attempts.unreadable;
        let world = World {
            attempts: attempts.rows,
            unreadable,
            charter,
            ..World::new(nodes, members.rows, survey)
        };
        let seen = Observed { me: "node-0", now: fuzz::NOW, ..world.seen() };
        let asked = ask_about(&seen, true);
        prop_assert!(asked.len() <= world.members.len() + world.attempts.len());
        let _ = needs_charter("node-0", &world.members, fuzz::NOW);
        let decision = decide(&seen);
        for (view, _) in decision.steps {
            prop_assert!(!view.is_ready(), "{view:?}");
        }
        let is_gone = |it: &Verdict| matches!(it, Verdict::Gone { .. });
        prop_assert!(is_answered || !decision.verdicts.values().any(is_gone));
    }
}
