//! Properties that hold for every world of nodes, rows and answers.

use proptest::prelude::*;

use super::*;

/// A label that an operator wrote and that names no instance.
const BY_HAND: &str = "the old one";

/// Returns the instance that the node's label names.
fn label(view: &NodeView) -> Option<&String> {
    view.labels.get(INSTANCE).filter(|label| *label != BY_HAND)
}

fn any_node() -> impl Strategy<Value = NodeView> {
    let states = prop::sample::select(vec!["ready", "down", "unknown", "disconnected"]);
    let raft = prop::option::of((any::<bool>(), any::<bool>()));
    let flags = (any::<bool>(), any::<bool>(), any::<bool>());
    let labels = prop::option::of((0u8..7, any::<bool>()));
    (0u8..8, states, 0u8..5, flags, raft, labels).prop_map(
        |(id, state, address, (is_named, is_placed, is_manager), raft, labels)| {
            let raft = raft.map(|(is_leader, is_reachable)| RaftView { is_leader, is_reachable });
            let mut view = node(&format!("n{id}"), state, address);
            view.role = if is_manager { Role::Manager } else { Role::Worker };
            if !is_named {
                view.hostname.clear();
            }
            if !is_placed {
                view.address = None;
            }
            view.raft = raft;
            match labels {
                None => view,
                Some((6, _)) => grouped(BY_HAND, view),
                Some((n, true)) => grouped(&format!("i-{n}"), view),
                Some((n, false)) => lone(&format!("i-{n}"), view),
            }
        },
    )
}

fn any_world() -> impl Strategy<Value = World> {
    let nodes = prop::collection::vec(any_node(), 0..8);
    let rows = prop::collection::vec((0u8..6, 0u8..8, 0u8..5, 0i64..300, any::<bool>()), 0..6);
    let answers = prop::collection::vec(0u8..3, 6);
    let times = prop::collection::vec(0u64..120, 8);
    (nodes, rows, answers, times, 0u64..60).prop_map(
        |(mut nodes, rows, answers, times, majority_for)| {
            nodes.sort_by(|a, b| a.id.cmp(&b.id));
            nodes.dedup_by(|a, b| a.id == b.id);
            nodes.push(me());
            let row = |(i, n, a, age, has_group): (_, _, _, _, bool)| {
                let row = member(&format!("i-{i}"), &format!("n{n}"), a, age);
                if has_group { row } else { ungrouped(row) }
            };
            let mut result =
                World::new(nodes, rows.into_iter().map(row).collect(), Survey::default());
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
            result
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    /// The evidence, defined a second time in other words.
    #[test]
    fn nobody_goes_without_evidence(world in any_world()) {
        let placed = world.placed();
        let seen = world.seen(&placed);
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
            let has_live_successor = world.nodes.iter().any(|other| {
                let is_there = view.address.is_some() && other.address == view.address;
                other.state == "ready" && other.id != view.id && label(other).is_some()
                    && (is_there || label(other) == label(view))
            });
            if has_live_successor {
                continue;
            }
            let rows: Vec<_> = world.managers.iter().filter(|row| row.node_id == view.id).collect();
            // The row of the same instance says more than the label.
            let label = label(view).filter(|id| rows.iter().all(|row| row.instance_id != **id));
            if label.is_some() || !rows.is_empty() {
                let had_group = |row: &Member| {
                    let is_grouped = |view: &NodeView| view.labels.contains_key(GROUP);
                    let mut others = world.nodes.iter();
                    let id = row.instance_id.as_str();
                    row.group.is_some()
                        || others.find(|view| placed::instance_of(view) == Some(id)).is_some_and(is_grouped)
                };
                prop_assert!(rows.iter().all(|row| gone(&row.instance_id) && had_group(row)));
                prop_assert!(label.is_none_or(|id| gone(id) && view.labels.contains_key(GROUP)));
                by_auto_scaling += 1;
                continue;
            }
            prop_assert!(view.hostname.is_empty() && view.address.is_none() && view.raft.is_none());
            prop_assert!(world.lifeless_for[&view.id] >= JOIN_IS_OVER);
        }
        if 2 * by_auto_scaling > world.nodes.len() {
            prop_assert!(world.majority_for >= SECOND_ANSWER_AFTER);
        }
        for row in &decision.orphans {
            prop_assert!(row.group.is_some(), "no row of this world names a swarm");
            prop_assert!(gone(&row.instance_id) && row.updated_at + Duration::from_secs(120) < NOW);
            prop_assert!(world.nodes.iter().all(|view| view.id != row.node_id));
        }
    }

    /// Removal ends: after enough polls with the same answers no step is left.
    #[test]
    fn it_comes_to_an_end(world in any_world()) {
        let mut world = World { majority_for: SECOND_ANSWER_AFTER, ..world };
        for _ in 0..20 {
            let steps = world.acts();
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
        prop_assert!(false, "{:?}", world.acts());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    /// Rows and labels with any readable content.
    #[test]
    fn no_row_that_can_be_read_ends_a_look(
        members in fuzz::members(),
        labels in prop::collection::vec(prop::option::of((fuzz::text(), any::<bool>())), 4),
        charter in prop::option::of(fuzz::charter()),
        nodes in fuzz::nodes(),
        is_answered in any::<bool>(),
    ) {
        let labelled = nodes.into_iter().zip(labels).map(|(view, label)| match label {
            None => view,
            Some((label, true)) => grouped(&label, view),
            Some((label, false)) => lone(&label, view),
        });
        check_rows(members.rows, charter, labelled.collect(), is_answered);
    }
}
