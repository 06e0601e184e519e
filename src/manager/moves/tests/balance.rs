//! Tests which tasks move to nodes that have joined, and what ends that.

use time::Duration;

use super::super::balance::{self, Plan};
use super::super::spec::{BALANCE, Balanced};
use super::super::{balanced, giving, has_settled, is_older};
use super::*;
use crate::clients::docker::Availability;
use crate::common::labels::{AVAILABILITY, OWNED};

const JOIN: OffsetDateTime = OffsetDateTime::UNIX_EPOCH;

/// A node that joined so many seconds after [`JOIN`].
fn node(id: &str, joined: i64, labels: &[(&str, &str)]) -> NodeView {
    NodeView {
        joined_at: Some(JOIN + Duration::seconds(joined)),
        labels: labels
            .iter()
            .chain(&[(OWNED, "")])
            .map(|(key, value)| ((*key).into(), (*value).into()))
            .collect(),
        ..NodeView::example(id, Role::Worker)
    }
}

fn nodes(ids: &[&str]) -> Vec<NodeView> {
    let count = i64::try_from(ids.len()).unwrap();
    // The last one has joined last.
    let joined = |(n, id): (usize, &&str)| node(id, i64::try_from(n).unwrap() + 1 - count, &[]);
    ids.iter().enumerate().map(joined).collect()
}

/// So many running tasks on each node.
fn tasks(placed: &[(&str, usize)]) -> Vec<ServiceTask> {
    let on = placed.iter().flat_map(|(node, count)| std::iter::repeat_n(*node, *count));
    on.enumerate().map(|(slot, node)| task(slot + 1, node, RUNNING)).collect()
}

fn asking(more: &[(&str, Value)]) -> Value {
    let mut spec = spec("start-first", more);
    spec["Labels"] = json!({ BALANCE: "true" });
    spec
}

fn plan_with(
    spec: &Value,
    nodes: &[NodeView],
    tasks: &[ServiceTask],
    change: impl Fn(&mut balance::Seen<'_>),
) -> Result<Option<Plan>, String> {
    let nodes: Vec<&NodeView> = nodes.iter().collect();
    let mut seen = balance::Seen {
        spec,
        balanced: None,
        updated_at: JOIN - Duration::HOUR,
        has_other_credentials: false,
        is_being_updated: false,
        tasks,
        nodes: &nodes,
    };
    change(&mut seen);
    balance::plan(&seen)
}

/// The node that gives up tasks, and how many it keeps.
fn gives(spec: &Value, nodes: &[NodeView], placed: &[(&str, usize)]) -> Option<(String, usize)> {
    let plan = plan_with(spec, nodes, &tasks(placed), |_| ()).unwrap()?;
    Some((plan.node, plan.keep))
}

#[test]
fn the_fullest_node_gives_up_what_is_above_an_even_share() {
    let (all, asks) = (nodes(&["n1", "n2", "n3"]), asking(&[]));
    for (placed, expected) in [
        ([3, 3, 0], Some(("n2", 2))),
        ([3, 2, 1], Some(("n1", 2))),
        ([6, 0, 0], Some(("n1", 2))),
        ([2, 2, 0], Some(("n2", 1))),
        ([2, 1, 1], None),
        ([1, 1, 0], None),
        ([0, 0, 0], None),
    ] {
        let placed = [("n1", placed[0]), ("n2", placed[1]), ("n3", placed[2])];
        let expected = expected.map(|(node, keep)| (node.to_owned(), keep));
        assert_eq!(gives(&asks, &all, &placed), expected, "{placed:?}");
    }
    assert_eq!(gives(&asks, &all[..1], &[("n1", 6)]), None, "no other node");
}

#[test]
fn it_is_done_for_a_service_that_asks_and_can_be_moved() {
    let all = nodes(&["n1", "n2", "n3"]);
    let placed = [("n1", 4), ("n2", 0), ("n3", 0)];
    for (value, is_moved) in [(None, false), (Some("false"), false), (Some("true"), true)] {
        let mut asks = asking(&[]);
        asks["Labels"] = value.map_or(Value::Null, |value| json!({ BALANCE: value }));
        assert_eq!(gives(&asks, &all, &placed).is_some(), is_moved, "{value:?}");
    }
    let running = tasks(&placed);
    let refused = |spec: &Value| plan_with(spec, &all, &running, |_| ()).unwrap_err();
    let mut unknown = asking(&[]);
    unknown["Labels"][BALANCE] = json!("yes");
    assert!(refused(&unknown).contains(BALANCE));
    let mut volumes = asking(&[]);
    volumes["TaskTemplate"]["ContainerSpec"]["Mounts"] = json!([{ "Type": "volume" }]);
    assert!(refused(&volumes).contains("volumes"));
    volumes["Labels"][WISH] = json!("start-first,shared-volumes");
    assert!(gives(&volumes, &all, &placed).is_some());
    let credentials =
        plan_with(&asking(&[]), &all, &running, |seen| seen.has_other_credentials = true);
    assert_eq!(credentials, Err(OTHER_CREDENTIALS.to_owned()));

    let updated = plan_with(&asking(&[]), &all, &running, |seen| seen.is_being_updated = true);
    assert_eq!(updated, Ok(None));
    for state in [PENDING, PREPARING] {
        let mut starting = running.clone();
        starting.push(task(9, "n2", state));
        assert_eq!(plan_with(&asking(&[]), &all, &starting, |_| ()), Ok(None), "{state:?}");
    }
    let constraint = json!({ "Constraints": ["node.id!=n2", "node.id!=n3"] });
    assert_eq!(gives(&asking(&[("/TaskTemplate/Placement", constraint)]), &all, &placed), None);
}

#[test]
fn a_node_gives_up_tasks_only_if_skep_activates_it_afterwards() {
    let placed = [("n1", 4), ("n2", 3), ("n3", 0)];
    let of = |change: fn(&mut NodeView)| {
        let mut all = nodes(&["n1", "n2", "n3"]);
        change(&mut all[0]);
        gives(&asking(&[]), &all, &placed).map(|(node, _)| node)
    };
    assert_eq!(of(|_| ()), Some("n1".to_owned()));
    let next = Some("n2".to_owned());
    assert_eq!(of(|node| drop(node.labels.remove(OWNED))), next, "not labelled yet");
    let mark = |node: &mut NodeView| {
        node.labels.insert(AVAILABILITY.into(), "pause, was active".into());
    };
    assert_eq!(of(mark), next, "an operator has activated it");
}

#[test]
fn a_node_of_another_platform_or_one_that_managers_cannot_judge_gets_no_tasks() {
    let platforms = json!({ "Platforms": [{ "Architecture": "amd64", "OS": "linux" }] });
    let asks = asking(&[("/TaskTemplate/Placement", platforms)]);
    let placed = [("n1", 4), ("n2", 4), ("n3", 0)];
    let with = |platform: Option<&str>| {
        let mut all = nodes(&["n1", "n2", "n3"]);
        for node in &mut all {
            node.platform = Some(("linux".into(), "x86_64".into()));
        }
        all[2].platform = platform.map(|it| ("linux".into(), it.into()));
        gives(&asks, &all, &placed)
    };
    assert!(with(Some("x86_64")).is_some() && with(Some("amd64")).is_some());
    assert_eq!(with(Some("aarch64")), None);
    assert_eq!(with(None), None, "cannot tell");
    for constraint in ["node.platform.arch==amd64", "engine.labels.gpu==true", "what is this"] {
        let placement = json!({ "Constraints": [constraint] });
        let spec = asking(&[("/TaskTemplate/Placement", placement)]);
        let refused = plan_with(&spec, &nodes(&["n1", "n2"]), &tasks(&[("n1", 4)]), |_| ());
        assert!(refused.is_err_and(|why| why.contains(constraint)), "{constraint}");
    }
}

#[test]
fn a_limit_counts_what_the_node_gives_up_and_not_what_it_keeps() {
    let most = |most: u64| asking(&[("/TaskTemplate/Placement", json!({ "MaxReplicas": most }))]);
    let all = nodes(&["n1", "n2", "n3", "n4"]);
    let placed = [("n1", 4), ("n2", 4), ("n3", 4), ("n4", 1)];
    assert_eq!(gives(&most(4), &all, &placed), Some(("n3".into(), 3)));
}

#[test]
fn nodes_are_compared_within_what_the_placement_preferences_spread_over() {
    let zone = |zone| [("zone", zone)];
    let all = [
        node("a1", -9, &zone("a")),
        node("b1", -9, &zone("b")),
        node("b2", -9, &zone("b")),
        node("b3", 0, &zone("b")),
    ];
    let preference =
        |by: &str| json!({ "Preferences": [{ "Spread": { "SpreadDescriptor": by } }] });
    let spread = asking(&[("/TaskTemplate/Placement", preference("node.labels.zone"))]);
    let even = [("a1", 3), ("b1", 1), ("b2", 1), ("b3", 1)];
    assert_eq!(gives(&spread, &all, &even), None, "half of them belong into zone a");
    assert_eq!(gives(&asking(&[]), &all, &even), Some(("a1".into(), 2)));
    let uneven = [("a1", 4), ("b1", 3), ("b2", 1), ("b3", 0)];
    assert_eq!(gives(&spread, &all, &uneven), Some(("b1".into(), 2)));
    let engine = asking(&[("/TaskTemplate/Placement", preference("engine.labels.rack"))]);
    let refused = plan_with(&engine, &all, &tasks(&uneven), |_| ());
    assert!(refused.is_err_and(|why| why.contains("engine.labels.rack")));
}

#[test]
fn each_join_is_used_once_by_each_node() {
    let (all, asks) = (nodes(&["n1", "n2", "n3"]), asking(&[]));
    let running = tasks(&[("n1", 4), ("n2", 4), ("n3", 0)]);
    let after = |join: i64, gave: &[&str]| {
        let last = Balanced { join, nodes: set(gave), has_failed: false };
        let plan = plan_with(&asks, &all, &running, |seen| {
            (seen.balanced, seen.updated_at) = (Some(last.clone()), JOIN + Duration::HOUR);
        });
        plan.unwrap().map(|plan| (plan.node, plan.balanced))
    };
    let join = JOIN.unix_timestamp();
    let next = |node: &str, gave| {
        Some((node.to_owned(), Balanced { join, nodes: set(gave), has_failed: false }))
    };
    assert_eq!(after(join, &["n2"]), next("n1", &["n1", "n2"]));
    assert_eq!(after(join, &["n1", "n2"]), None);
    assert_eq!(after(join - 1, &["n1", "n2"]), next("n2", &["n2"]), "another node has joined");
    assert_eq!(after(join + 1, &[]), None, "the one that had joined last has left");
    let failed = Balanced { join, nodes: set(&["n2"]), has_failed: true };
    let plan = plan_with(&asks, &all, &running, |seen| seen.balanced = Some(failed.clone()));
    assert_eq!(plan, Ok(None), "its tasks do not start there");
    for (seconds, is_due) in [(-1, true), (0, false), (1, false)] {
        let updated_at = JOIN + Duration::seconds(seconds);
        let plan = plan_with(&asks, &all, &running, |seen| seen.updated_at = updated_at);
        assert_eq!(plan.unwrap().is_some(), is_due, "updated {seconds} s after the join");
    }
}

/// A record for balance of `n1`, which keeps one task, as it stands in the spec.
fn edit(kind: Kind) -> Value {
    let balanced = Some(Balanced { join: 7, nodes: set(&["n1", "n9"]), has_failed: false });
    let nodes = set(&["n1"]);
    let edit = Edit { kind, nodes: &nodes, until: 1000, balanced };
    spec::edited(&asking(&[]), None, &edit)
}

const ANNOUNCED: Kind = Kind::Announce { keep: 1 };
const GIVING: Kind = Kind::Balance { surplus: 1, keep: 1 };
const GIVEN: Kind = Kind::Given { keep: 1 };

#[test]
fn what_is_announced_or_given_concerns_no_task_and_nothing_of_an_edit_is_left() {
    let plain = asking(&[]);
    for kind in [ANNOUNCED, GIVEN] {
        let bare = edit(kind);
        for same in ["TaskTemplate", "UpdateConfig", "Mode", "EndpointSpec"] {
            assert_eq!(bare[same], plain[same], "{kind:?}: {same}");
        }
        assert_eq!(restored(&bare), plain);
    }
    let giving = edit(GIVING);
    assert_eq!(constraints(&giving), ["node.id!=n1"]);
    assert_eq!(giving["UpdateConfig"]["Parallelism"], 1);
    assert_eq!(giving["UpdateConfig"]["Delay"], 3_600_000_000_000_i64, "the others stay");
    assert_eq!(giving["UpdateConfig"]["Order"], "start-first");
    let state = |spec: &Value| spec::record(spec).map(|it| (it.is_bare(), it.has_given));
    assert_eq!(state(&edit(ANNOUNCED)), Some((true, false)));
    assert_eq!(state(&giving), Some((false, false)));
    assert_eq!(state(&edit(GIVEN)), Some((true, true)));
    assert_eq!(restored(&giving), plain);
    let nodes = set(&["n2"]);
    assert_eq!(restored(&edited(&giving, None, &nodes, 1, 0)), plain, "a node leaves meanwhile");
}

const PAUSED: Option<(Availability, bool)> = Some((Availability::Pause, true));
const ACTIVE: Option<(Availability, bool)> = Some((Availability::Active, false));

/// The step for `n1` with these tasks, of which it keeps one.
fn next_of(spec: &Value, tasks: &[ServiceTask], change: impl Fn(&mut Seen<'_>)) -> Step {
    let none = set(&[]);
    step_with(spec, None, tasks, |seen| {
        let is_quiet = Fact::Yes;
        let mut seen =
            Seen { leaving: &none, paused: &none, is_quiet, giving: PAUSED, ..seen.clone() };
        change(&mut seen);
        decide(&seen)
    })
}

/// The same with two tasks.
fn next(spec: &Value, change: impl Fn(&mut Seen<'_>)) -> Step {
    next_of(spec, &[task(1, "n1", RUNNING), task(2, "n1", RUNNING)], change)
}

#[test]
fn a_node_is_paused_gives_up_its_surplus_and_the_edit_is_taken_back_in_two_steps() {
    let (announced, giving, given) = (edit(ANNOUNCED), edit(GIVING), edit(GIVEN));
    assert_eq!(next(&announced, |seen| seen.giving = ACTIVE), Step::Pause("n1".into()));
    assert_eq!(next(&announced, |_| ()), Step::Give);
    assert_eq!(next(&giving, |_| ()), Step::None);
    let moved = [task(1, "n1", RUNNING), task(2, "n2", RUNNING)];
    assert_eq!(next_of(&giving, &moved, |_| ()), Step::Given);
    assert_eq!(next_of(&given, &moved, |_| ()), Step::Restore);
    assert_eq!(next(&given, |_| ()), Step::Restore, "it has failed");
    assert_eq!(next_of(&announced, &moved, |_| ()), Step::Restore, "nothing is to be done");

    let is_over = |seen: &mut Seen<'_>| seen.now = 1000;
    assert_eq!(next(&giving, is_over), Step::GiveUp);
    assert_eq!(next(&announced, is_over), Step::Restore);
    assert_eq!(next(&giving, |seen| seen.unfinished_update = Some("paused")), Step::GiveUp);
}

#[test]
fn no_update_comes_between_two_tasks_of_a_replica() {
    let starting = |node| task(2, node, TaskState::PREPARING);
    let two = [task(1, "n1", RUNNING), task(2, "n1", RUNNING)];
    let elsewhere = [task(1, "n2", RUNNING), task(2, "n3", RUNNING)];
    for tasks in [&two, &elsewhere] {
        let between = [tasks.as_slice(), &[starting("n2")]].concat();
        for kind in [ANNOUNCED, GIVING, GIVEN] {
            for is_quiet in [Fact::Yes, Fact::No, Fact::CannotTell] {
                let step = next_of(&edit(kind), &between, |seen| {
                    (seen.is_quiet, seen.now) = (is_quiet, 1000);
                });
                assert_eq!(step, Step::None, "{kind:?} {is_quiet:?}");
            }
        }
    }
    let between = [two.as_slice(), &[starting("n2")]].concat();
    let late = |seen: &mut Seen<'_>| seen.now = 2200;
    assert_eq!(next_of(&edit(GIVING), &between, late), Step::GiveUp, "the edit lasts an hour");
    assert_eq!(next_of(&edit(ANNOUNCED), &between, late), Step::None);
    // These lose against the one that runs.
    let mut ready = starting("n2");
    ready.desired = TaskState::READY;
    for harmless in [ready, task(2, "", PENDING)] {
        let tasks = [two.as_slice(), &[harmless]].concat();
        assert_eq!(next_of(&edit(GIVING), &tasks, |seen| seen.is_quiet = Fact::No), Step::Given);
    }
}

#[test]
fn what_an_operator_does_to_the_node_or_the_service_ends_it() {
    let (announced, giving) = (edit(ANNOUNCED), edit(GIVING));
    use Availability::{Active, Drain, Pause};
    // Whether skep has changed the availability. swarmkit would reject the tasks of an active node.
    for of in [None, Some((Drain, false)), Some((Active, true)), Some((Active, false))] {
        for is_quiet in [Fact::Yes, Fact::CannotTell] {
            let step = next(&giving, |seen| (seen.giving, seen.is_quiet) = (of, is_quiet));
            assert_eq!(step, Step::Given, "{of:?}");
        }
    }
    for of in [None, Some((Drain, false)), Some((Active, true)), Some((Pause, false))] {
        assert_eq!(next(&announced, |seen| seen.giving = of), Step::Restore, "{of:?}");
    }
    for (spec, end) in [(announced, Step::Restore), (giving, Step::Given)] {
        let mut no_more = spec.clone();
        no_more["Labels"].as_object_mut().unwrap().remove(BALANCE);
        assert_eq!(next(&no_more, |_| ()), end, "the label is gone");
    }
    let changed = |change: fn(&mut Seen<'_>)| next(&edit(ANNOUNCED), change);
    assert_eq!(changed(|seen| seen.has_other_credentials = true), Step::Restore);
    assert_eq!(changed(|seen| seen.is_operators_update = true), Step::Restore);
    let mut volume = edit(ANNOUNCED);
    volume["TaskTemplate"]["ContainerSpec"]["Mounts"] = json!([{ "Type": "volume" }]);
    assert_eq!(next(&volume, |_| ()), Step::Restore);
}

#[test]
fn a_departure_and_an_operators_update_come_first() {
    let leaving = set(&["n1"]);
    for (kind, end) in [(ANNOUNCED, Step::Restore), (GIVING, Step::Given)] {
        let spec = edit(kind);
        assert_eq!(next(&spec, |seen| seen.is_quiet = Fact::No), end);
        assert_eq!(next(&spec, |seen| seen.is_quiet = Fact::CannotTell), Step::None);
        let with = |spec: &Value, paused: &BTreeSet<String>, more: &[ServiceTask]| {
            let two = [task(1, "n1", RUNNING), task(2, "n1", RUNNING)];
            step_with(spec, None, &[two.as_slice(), more].concat(), |seen| {
                let seen = Seen { leaving: &leaving, paused, giving: PAUSED, ..seen.clone() };
                decide(&seen)
            })
        };
        let starting = task(2, "n2", TaskState::PREPARING);
        assert_eq!(with(&spec, &leaving, &[]), end, "its drain ends them first");
        let step = with(&spec, &leaving, std::slice::from_ref(&starting));
        assert_eq!(step, Step::None, "it does not wait for a service that does not ask for it");
        let mut both = spec.clone();
        both["Labels"][WISH] = json!("start-first");
        assert_eq!(with(&both, &leaving, &[]), Step::Move(leaving.clone()), "in one update");
        let waits = Step::Wait(Wait::Moving, leaving.clone());
        assert_eq!(with(&both, &set(&[]), &[]), waits);
        assert_eq!(with(&both, &leaving, &[starting]), waits);

        let update = |state: &'static str| {
            next(&spec, |seen| {
                (seen.unfinished_update, seen.is_operators_update) = (Some(state), true);
            })
        };
        // A bare record need not be taken back during the update.
        let during = if kind == ANNOUNCED { Step::None } else { Step::Given };
        assert_eq!(update("updating"), during);
        assert!(matches!(update("paused"), Step::Uneven(why) if why.contains("paused")));
    }
}

#[test]
fn the_last_edit_says_which_nodes_have_given_up_tasks() {
    let plain = asking(&[]);
    let of = |spec: Value, previous| balanced(&service(spec, previous)).map(|it| it.nodes);
    let both = Some(set(&["n1", "n9"]));
    assert_eq!(of(edit(GIVING), None), both);
    assert_eq!(of(plain.clone(), Some(edit(GIVEN))), both);
    assert_eq!(of(plain.clone(), Some(plain.clone())), None);
    let mut other = plain.clone();
    other["TaskTemplate"]["ContainerSpec"]["Image"] = json!("app:2");
    assert_eq!(of(other, Some(edit(GIVEN))), None, "deployed since");
    // Taken back in time, or not before its node could not be paused for five minutes.
    let mut taken_back = service(plain, Some(edit(ANNOUNCED)));
    for (at, expected) in [(999, set(&["n9"])), (1000, set(&["n1", "n9"]))] {
        taken_back.updated_at = OffsetDateTime::from_unix_timestamp(at).unwrap();
        assert_eq!(balanced(&taken_back).map(|it| it.nodes), Some(expected), "{at}");
    }
    let now = OffsetDateTime::now_utc().unix_timestamp();
    let nodes = set(&["n1"]);
    let edit = Edit { kind: GIVEN, nodes: &nodes, until: now, balanced: None };
    let after = service(asking(&[]), Some(spec::edited(&asking(&[]), None, &edit)));
    assert_eq!(tried(&after), set(&[]), "it was no departure");
}

#[test]
fn tasks_move_once_nothing_has_changed_for_a_while() {
    let now = OffsetDateTime::now_utc();
    let at = |seconds| now - Duration::seconds(seconds);
    let settle = std::time::Duration::from_secs(60);
    assert!(is_older(at(90), settle) && !is_older(at(30), settle));
    let joined = |seconds| NodeView { joined_at: Some(at(seconds)), ..node("n1", 0, &[]) };
    let settled = |spec, node| has_settled(&[&service(spec, None)], &[&node], settle);
    assert!(settled(asking(&[]), joined(90)) && !settled(asking(&[]), joined(30)));
    assert!(!settled(edit(ANNOUNCED), joined(90)), "one at a time");
    assert_eq!(giving("n1", &[node("n1", 0, &[])]), ACTIVE);
    let down = NodeView { state: "down".into(), ..node("n1", 0, &[]) };
    assert_eq!(giving("n1", &[down]), None);
}
