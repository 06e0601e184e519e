//! Tests that no node is removed without evidence, for all answers of Docker, the ledger and Auto Scaling.

mod memory;
mod properties;
mod rows;

use super::decide::*;
use super::*;
use crate::clients::aws::autoscaling::GroupInstance;
use crate::clients::docker::RaftView;
use crate::clients::ledger::{Member, fuzz};
use crate::common::instance::{Role, is_instance_id};
use crate::common::labels::{GROUP, INSTANCE};
use crate::common::timing::JOIN_IS_OVER;

const NOW: OffsetDateTime = time::macros::datetime!(2026-11-21 12:00 UTC);
const PATIENCE: Duration = Duration::from_secs(20);
const LONG_AGO: i64 = 600;

/// A node that is Ready has joined after all others.
fn node(id: &str, state: &str, address: u8) -> NodeView {
    let age = if state == "ready" { 0 } else { 3600 };
    NodeView {
        hostname: format!("host-{id}"),
        joined_at: Some(NOW - Duration::from_secs(age)),
        state: state.into(),
        address: Some(format!("10.0.0.{address}")),
        ..NodeView::example(id, Role::Worker)
    }
}

fn manager(id: &str, state: &str, address: u8) -> NodeView {
    let raft = Some(RaftView { is_leader: false, is_reachable: state == "ready" });
    NodeView { role: Role::Manager, raft, ..node(id, state, address) }
}

/// Returns the node with the labels of an instance that is in no group.
fn lone(instance: &str, mut view: NodeView) -> NodeView {
    view.labels.insert(INSTANCE.to_owned(), instance.to_owned());
    view
}

/// Returns the node with the labels of an instance of the group `workers`.
fn grouped(instance: &str, mut view: NodeView) -> NodeView {
    view.labels.insert(GROUP.to_owned(), "workers".to_owned());
    lone(instance, view)
}

/// Returns the row of a node that is configured as a manager.
fn member(instance: &str, node_id: &str, address: u8, age: i64) -> Member {
    serde_json::from_value(serde_json::json!({
        "instance_id": instance, "role": "manager", "node_id": node_id, "zone": "a",
        "address": format!("10.0.0.{address}"), "generation": 1, "state": "ready",
        "group": "managers",
        "updated_at": NOW.unix_timestamp() - age,
    }))
    .unwrap()
}

fn ungrouped(mut row: Member) -> Member {
    row.group = None;
    row
}

fn survey(answered: &[&str], listed: &[(&str, &str)]) -> Survey {
    let instance = |lifecycle: &str| GroupInstance {
        group: "workers".into(),
        lifecycle_state: lifecycle.into(),
        health: "HEALTHY".into(),
        protected: None,
        settings: None,
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
    managers: Vec<Member>,
    charter: Option<Charter>,
    survey: Survey,
    majority_for: Duration,
}

impl World {
    /// Every node that looks lifeless has done so for [`PATIENCE`].
    fn new(nodes: Vec<NodeView>, managers: Vec<Member>, survey: Survey) -> Self {
        let lifeless = nodes.iter().filter(|node| is_lifeless(node));
        let lifeless_for = lifeless.map(|node| (node.id.clone(), PATIENCE)).collect();
        let (charter, majority_for) = (None, Duration::ZERO);
        Self { nodes, lifeless_for, managers, charter, survey, majority_for }
    }

    fn placed(&self) -> Vec<Placed> {
        placed::placed(&self.nodes, &self.managers)
    }

    fn seen<'a>(&'a self, placed: &'a [Placed]) -> Observed<'a> {
        Observed {
            me: "me",
            nodes: &self.nodes,
            lifeless_for: &self.lifeless_for,
            patience: PATIENCE,
            placed,
            managers: &self.managers,
            charter: self.charter.as_ref(),
            survey: &self.survey,
            majority_for: self.majority_for,
            now: NOW,
        }
    }

    fn acts(&self) -> Vec<(String, Step)> {
        let placed = self.placed();
        let steps = decide(&self.seen(&placed)).steps;
        steps.into_iter().map(|(node, step)| (node.id.clone(), step)).collect()
    }

    /// Returns the steps as `id: step`, in the order of the node list.
    fn steps(&self) -> Vec<String> {
        self.acts().into_iter().map(|(id, step)| format!("{id}: {step:?}")).collect()
    }

    fn verdict(&self, id: &str) -> Option<Verdict> {
        let placed = self.placed();
        decide(&self.seen(&placed)).verdicts.remove(id)
    }

    /// Returns the instances of the rows that go.
    fn orphans(&self) -> Vec<String> {
        let placed = self.placed();
        let orphans = decide(&self.seen(&placed)).orphans;
        orphans.into_iter().map(|row| row.instance_id.clone()).collect()
    }

    /// Returns the instances about which Auto Scaling is asked.
    fn asked(&self, everybody: bool) -> Vec<String> {
        let placed = self.placed();
        ask_about(&self.seen(&placed), everybody).into_iter().map(str::to_owned).collect()
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
        grouped("i-m3", manager("m3", "down", 3)),
        grouped("i-w1", node("w1", "down", 4)),
        grouped("i-w2", node("w2", "down", 5)),
        grouped("i-w3", node("w3", "unknown", 6)),
    ];
    let answered = survey(&["i-m3", "i-w1", "i-w2", "i-w3"], &[("i-w2", "InService")]);
    let world = World::new(nodes, vec![member("i-m3", "m3", 3, 0)], answered);
    assert_eq!(world.steps(), ["m3: Demote", "w1: Remove"]);
    let listed = Verdict::Listed { instance: "i-w2".into(), lifecycle: "InService".into() };
    assert_eq!(world.verdict("w2"), Some(listed));
    assert_eq!(world.verdict("w3"), None, "unknown is not Down");
    assert_eq!(world.verdict("me"), None);
}

/// No worker can write the row of a manager.
#[test]
fn a_manager_is_known_by_its_label_or_by_its_row() {
    let bare = || manager("m3", "down", 3);
    let row = || member("i-m3", "m3", 3, 0);
    let verdict = |m3: NodeView, rows: Vec<Member>| {
        let nodes = vec![me(), manager("m2", "ready", 2), m3];
        World::new(nodes, rows, survey(&["i-m3"], &[])).verdict("m3")
    };
    let gone = Some(Verdict::Gone { instance: "i-m3".into() });
    assert_eq!(verdict(grouped("i-m3", bare()), vec![]), gone);
    assert_eq!(verdict(bare(), vec![row()]), gone);
    assert_eq!(verdict(bare(), vec![]), Some(Verdict::Unplaced));
}

#[test]
fn without_an_answer_nobody_goes() {
    let nodes = vec![me(), grouped("i-w1", node("w1", "down", 4)), node("w2", "ready", 5)];
    let rows = vec![member("i-m9", "nowhere", 9, LONG_AGO)];
    let world = World::new(nodes, rows, Survey::default());
    assert_eq!(world.steps(), [""; 0]);
    assert_eq!(world.verdict("w1"), Some(Verdict::Unproven { instance: "i-w1".into() }));
    assert_eq!(world.orphans(), [""; 0]);
}

/// Managers have not identified it, or its instance was gone before they could.
#[test]
fn a_node_without_a_label_is_left_alone_whatever_auto_scaling_answers() {
    let promoted = Member {
        role: Role::Worker,
        serves_as: Some(Role::Manager),
        ..member("i-w1", "w1", 4, LONG_AGO)
    };
    let other = || grouped("i-w2", node("w2", "ready", 5));
    let answers = [
        Survey::default(),
        survey(&["i-w1", "i-w2"], &[("i-w2", "InService")]),
        survey(&["i-w1"], &[("i-w1", "InService")]),
    ];
    for answer in answers {
        for rows in [vec![], vec![promoted.clone()]] {
            let nodes = vec![me(), node("w1", "down", 4), other()];
            let mut world = World::new(nodes, rows, answer.clone());
            assert_eq!(world.asked(false), [""; 0]);
            for so_long in [PATIENCE, Duration::from_secs(24 * 3600)] {
                world.lifeless_for.insert("w1".into(), so_long);
                assert_eq!(world.steps(), [""; 0]);
                let verdict = world.verdict("w1").unwrap();
                assert_eq!(verdict, Verdict::Unplaced, "{answer:?}");
                assert!(!verdict.is_passing() && verdict.to_string().contains("docker node rm"));
            }
        }
    }
}

/// An operator can write the label, too.
#[test]
fn a_label_that_is_no_instance_id_counts_as_none() {
    for label in ["", " ", "w1", "i-", "i-0abc ", "i-../../etc", "i-01234567890123456789"] {
        for new in [node("new", "ready", 4), node("new", "ready", 5)] {
            let nodes = vec![me(), grouped(label, node("old", "down", 4)), grouped(label, new)];
            let world = World::new(nodes, vec![], survey(&[label], &[]));
            assert_eq!(world.verdict("old"), Some(Verdict::Unplaced), "{label:?}");
            assert_eq!(world.asked(true), [""; 0], "{label:?}");
        }
    }
}

/// Absence from Auto Scaling's answer is no evidence about an instance that was never in a group: such a node is Down
/// at every reboot.
#[test]
fn who_was_never_in_a_group_is_left_alone() {
    let bare = || node("w1", "down", 4);
    let world = |w1: NodeView, rows: Vec<Member>| {
        let nodes = vec![me(), w1, node("w2", "ready", 5)];
        World::new(nodes, rows, survey(&["i-lone", "i-b"], &[]))
    };
    let row = || ungrouped(member("i-lone", "w1", 4, LONG_AGO));
    let labelled = world(lone("i-lone", bare()), vec![]);
    assert_eq!(labelled.steps(), [""; 0]);
    let verdict = labelled.verdict("w1").unwrap();
    assert_eq!(verdict, Verdict::Ungrouped { instance: "i-lone".into() });
    assert!(!verdict.is_passing() && verdict.to_string().contains("docker node rm"));
    assert_eq!(world(bare(), vec![row()]).verdict("w1"), Some(verdict.clone()));
    let twice = [
        world(lone("i-lone", bare()), vec![member("i-b", "w1", 4, 0)]),
        world(grouped("i-b", bare()), vec![row()]),
    ];
    for both in twice {
        assert_eq!(both.verdict("w1"), Some(verdict.clone()), "both must be gone");
    }
    let nowhere = vec![me(), node("w2", "ready", 5)];
    let orphaned = World::new(nowhere, vec![row()], survey(&["i-lone"], &[]));
    assert_eq!(orphaned.orphans(), [""; 0], "too young, and its swarm is unknown");
}

/// One of the two was made by hand.
#[test]
fn of_two_instances_for_one_node_both_must_be_gone() {
    let bare = || node("w1", "down", 4);
    let fake = || member("i-fake", "w1", 9, LONG_AGO);
    let real = || member("i-real", "w1", 4, LONG_AGO);
    let cases = [
        (grouped("i-fake", bare()), vec![real()]),
        (grouped("i-real", bare()), vec![fake()]),
        (bare(), vec![fake(), real()]),
        (bare(), vec![real(), fake()]),
    ];
    for (w1, rows) in cases {
        let nodes = vec![me(), w1, node("w2", "ready", 5)];
        let listed = [("i-real", "InService")];
        let world = World::new(nodes, rows, survey(&["i-fake", "i-real"], &listed));
        assert_eq!(world.steps(), [""; 0]);
        let half = World { survey: survey(&["i-fake"], &[]), ..world };
        assert_eq!(half.verdict("w1"), Some(Verdict::Unproven { instance: "i-real".into() }));
        let both = World { survey: survey(&["i-fake", "i-real"], &[]), ..half };
        assert_eq!(both.steps(), ["w1: Remove"]);
    }
}

#[test]
fn an_entry_whose_address_is_a_live_nodes_goes() {
    let world = |new: NodeView, rows: Vec<Member>| {
        let nodes = vec![me(), node("old", "down", 4), new, node("w", "down", 5)];
        World::new(nodes, rows, Survey::default())
    };
    let new = |state: &str| grouped("i-1", manager("new", state, 4));
    let row = || member("i-1", "new", 4, 0);
    let sure = world(new("ready"), vec![]);
    assert_eq!(sure.steps(), ["old: Remove"]);
    assert_eq!(sure.verdict("old"), Some(Verdict::Superseded { by: "new".into() }));
    assert_eq!(sure.verdict("w"), Some(Verdict::Unplaced));
    for rows in [vec![], vec![row()]] {
        let unsure = world(manager("new", "ready", 4), rows);
        assert_eq!(unsure.steps(), [""; 0], "EC2 has not shown whose address it is");
    }
    for state in ["down", "unknown", "disconnected"] {
        assert_eq!(world(new(state), vec![row()]).steps(), [""; 0], "{state}: it is not alive");
    }
}

/// Its Docker has left and joined again, perhaps at another address: the instance lives, the old entry does not.
#[test]
fn the_old_entry_of_a_host_that_has_joined_again_goes_although_auto_scaling_lists_the_host() {
    let world = |new: NodeView, rows: Vec<Member>, survey: Survey| {
        let old = grouped("i-1", manager("old", "down", 4));
        World::new(vec![me(), old, new, manager("m2", "ready", 2)], rows, survey)
    };
    let in_service = || survey(&["i-1", "i-2"], &[("i-1", "InService"), ("i-2", "InService")]);
    let row = || member("i-1", "new", 14, 0);
    let superseded = Some(Verdict::Superseded { by: "new".into() });
    for address in [4, 14] {
        let new = || grouped("i-1", manager("new", "ready", address));
        for answer in [in_service(), survey(&["i-1"], &[]), Survey::default()] {
            for rows in [vec![], vec![row()]] {
                let world = world(new(), rows, answer.clone());
                assert_eq!(world.verdict("old"), superseded);
                assert_eq!(world.steps(), ["old: Demote"]);
            }
        }
        let mut early = world(new(), vec![row()], in_service());
        early.lifeless_for.insert("old".into(), PATIENCE / 2);
        assert_eq!(early.verdict("old"), Some(Verdict::Settling));
    }
    let listed = Verdict::Listed { instance: "i-1".into(), lifecycle: "InService".into() };
    let others = [
        (grouped("i-2", manager("new", "ready", 14)), "another instance"),
        (manager("new", "ready", 14), "a row is no label"),
        (grouped("i-1", manager("new", "down", 14)), "neither is alive"),
    ];
    for (new, why) in others {
        let world = world(new, vec![row()], in_service());
        assert_eq!(world.verdict("old"), Some(listed.clone()), "{why}");
        assert_eq!(world.steps(), [""; 0], "{why}");
    }
}

/// An entry of a manager that never came up is `unknown`, and a member of raft for ever. Raft has its address from the
/// join, so that managers can identify it all the same.
#[test]
fn what_a_failed_join_left_goes_with_its_instance() {
    let stillborn = NodeView { hostname: String::new(), ..manager("s", "unknown", 7) };
    let identified = grouped("i-s", stillborn.clone());
    let nodes = vec![me(), stillborn, manager("m2", "ready", 2), manager("m3", "ready", 3)];
    let mut world = World::new(nodes, vec![], survey(&["i-s"], &[("i-s", "Pending:Wait")]));
    assert_eq!(world.verdict("s"), Some(Verdict::Unplaced));
    world.nodes[1] = identified;
    assert!(matches!(world.verdict("s"), Some(Verdict::Listed { .. })), "it may still be joining");
    world.survey = survey(&["i-s"], &[]);
    assert_eq!(world.steps(), ["s: Demote"]);
    world.nodes[1].raft = None;
    assert_eq!(world.steps(), ["s: Remove"], "out of raft, for either role");
    world.nodes[1].role = Role::Worker;
    assert_eq!(world.steps(), ["s: Remove"]);
}

/// Its remote manager was gone in the middle of the join: an entry without a name, an address or a label.
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
    world.nodes[1] = node("s", "down", 4);
    world.nodes[1].hostname.clear();
    assert_eq!(world.verdict("s"), Some(Verdict::Unplaced), "it has an address");
    world.nodes[1].address = None;
    world.managers = vec![member("i-s", "s", 4, 0)];
    assert_eq!(world.steps(), [""; 0], "it was Ready once");
    world.managers.clear();
    world.nodes[1] = grouped("i-s", world.nodes[1].clone());
    assert_eq!(world.steps(), [""; 0], "an instance was behind it");
}

#[test]
fn more_than_half_of_the_swarm_must_be_gone_twice() {
    let dead = (0..200u8).map(|n| grouped(&format!("i-{n}"), node(&format!("w{n}"), "down", n)));
    let ids: Vec<String> = (0..200).map(|n| format!("i-{n}")).collect();
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    let nodes = std::iter::once(me()).chain(dead).collect();
    let mut world = World::new(nodes, vec![], survey(&ids, &[]));
    let placed = world.placed();
    let first = decide(&world.seen(&placed));
    assert!(first.is_majority && first.steps.is_empty());
    assert!(matches!(first.verdicts["w7"], Verdict::AskAgain { .. }));
    world.majority_for = SECOND_ANSWER_AFTER;
    assert_eq!(world.steps().len(), 200);
}

/// Everybody with a join token can add entries without an instance.
#[test]
fn entries_of_nobody_do_not_make_the_gone_fewer_than_half() {
    let dead = (0..3u8).map(|n| grouped(&format!("i-{n}"), node(&format!("w{n}"), "down", n)));
    let of_nobody = (0..9u8).map(|n| NodeView {
        hostname: String::new(),
        ..node(&format!("x{n}"), "unknown", 100 + n)
    });
    let nodes = std::iter::once(me()).chain(dead).chain(of_nobody).collect();
    let world = World::new(nodes, vec![], survey(&["i-0", "i-1", "i-2"], &[]));
    let placed = world.placed();
    let first = decide(&world.seen(&placed));
    assert!(first.is_majority && first.steps.is_empty());
}

#[test]
fn rows_of_nobody_go_once_they_are_old() {
    let rows = vec![
        member("i-old", "nowhere", 4, LONG_AGO),
        member("i-fresh", "nowhere", 5, 10),
        member("i-listed", "nowhere", 6, LONG_AGO),
        member("i-unasked", "nowhere", 7, LONG_AGO),
        member("i-here", "m2", 8, LONG_AGO),
    ];
    let answered =
        survey(&["i-old", "i-fresh", "i-listed", "i-here"], &[("i-listed", "Pending:Wait")]);
    let world = World::new(vec![me(), manager("m2", "ready", 8)], rows, answered);
    assert_eq!(world.orphans(), ["i-old"]);
}

#[test]
fn only_the_due_are_asked_about_unless_it_is_the_turn_of_all_managers() {
    let nodes = vec![
        me(),
        grouped("i-1", node("w1", "down", 4)),
        grouped("i-2", node("w2", "down", 5)),
        manager("m3", "down", 6),
        grouped("i-4", node("w4", "ready", 7)),
        grouped("i-5", manager("m5", "ready", 8)),
    ];
    let rows = vec![member("i-3", "m3", 6, 0), member("i-5", "m5", 8, 0), member("i-9", "x", 9, 0)];
    let mut world = World::new(nodes, rows, Survey::default());
    world.lifeless_for.insert("w2".into(), PATIENCE / 2);
    assert_eq!(world.asked(false), ["i-1", "i-3"]);
    assert_eq!(world.asked(true), ["i-1", "i-3", "i-5", "i-9"]);
}

/// Checks that a node that is Ready stays, and that Auto Scaling is asked about instance ids alone. Returns the number of
/// nodes to remove.
pub(in crate::manager) fn check_rows(
    members: Vec<Member>,
    charter: Option<Charter>,
    nodes: Vec<NodeView>,
    is_answered: bool,
) -> usize {
    let survey = if is_answered { survey(&["i-0", "i-1", "i-2"], &[]) } else { Survey::default() };
    let managers = members.into_iter().filter(|row| row.role == Role::Manager).collect();
    let world = World { charter, ..World::new(nodes, managers, survey) };
    let placed = world.placed();
    let seen = Observed { me: "node-0", now: fuzz::NOW, ..world.seen(&placed) };
    let asked = ask_about(&seen, true);
    assert!(asked.len() <= world.managers.len() + world.nodes.len());
    assert!(asked.iter().all(|id| is_instance_id(id)), "{asked:?}");
    let _ = needs_charter("node-0", &world.managers, fuzz::NOW);
    let decision = decide(&seen);
    for (view, _) in &decision.steps {
        assert!(!view.is_ready(), "{view:?}");
    }
    let is_gone = |it: &Verdict| matches!(it, Verdict::Gone { .. });
    assert!(is_answered || !decision.verdicts.values().any(is_gone));
    decision.steps.len()
}
