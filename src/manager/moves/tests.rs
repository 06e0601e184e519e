//! Tests edits of specs as Docker has them, and the decision about one service.

mod balance;

use std::collections::BTreeSet;

use bollard::models::TaskState::{self, FAILED, PENDING, PREPARING, RUNNING, SHUTDOWN};
use proptest::prelude::*;
use serde_json::{Value, json};
use time::OffsetDateTime;

use super::decide::{Seen, Step, Wait, decide};
use super::spec::{
    self, Edit, FORMER_IMAGE, Kind, OTHER_CREDENTIALS, RECORD, WISH, Wish, obstacle, restored,
};
use super::{is_operators_update, latest, remarks, tried};
use crate::clients::docker::{NodeView, Resources, Service, ServiceTask};
use crate::clients::ledger::{DepartureRow, TurnFor};
use crate::common::fact::Fact;
use crate::common::instance::{Departure, Reason, Role};
use crate::config::Settings;

/// A task of a replica that is to run, unless it has ended.
fn task(slot: usize, node: &str, state: TaskState) -> ServiceTask {
    let is_wanted = matches!(state, RUNNING | PENDING | PREPARING);
    ServiceTask {
        slot: slot.to_string(),
        created_at: OffsetDateTime::UNIX_EPOCH,
        state: Some(state),
        desired: if is_wanted { RUNNING } else { SHUTDOWN },
        error: None,
        node_id: (state != PENDING).then(|| node.to_owned()),
        reserved: Resources::default(),
    }
}

fn set(ids: &[&str]) -> BTreeSet<String> {
    ids.iter().map(|id| (*id).to_owned()).collect()
}

/// A spec with a label and more fields, as a pointer and a value.
fn spec(wish: &str, more: &[(&str, Value)]) -> Value {
    let mut spec = json!({
        "Name": "web",
        "Labels": { WISH: wish },
        "TaskTemplate": { "ContainerSpec": { "Image": "app:1" }, "Placement": {} },
        "Mode": { "Replicated": { "Replicas": 2 } },
        "EndpointSpec": {},
    });
    for (at, value) in more {
        *spec.pointer_mut(at).unwrap() = value.clone();
    }
    spec
}

/// The spec, edited so that its tasks leave these nodes.
fn edited(
    spec: &Value,
    former_image: Option<&str>,
    nodes: &BTreeSet<String>,
    at_once: usize,
    until: i64,
) -> Value {
    let kind = Kind::Leave { at_once };
    spec::edited(spec, former_image, &Edit { kind, nodes, until, balanced: None })
}

fn constraints(spec: &Value) -> Vec<&str> {
    let all = spec["TaskTemplate"]["Placement"]["Constraints"].as_array();
    all.into_iter().flatten().filter_map(Value::as_str).collect()
}

#[test]
fn an_edit_is_one_of_placement_and_update_settings_and_stands_in_the_spec() {
    let constraint = "node.labels.zone==a";
    let placement = json!({ "Constraints": [constraint, "node.id != n2"], "MaxReplicas": 3 });
    let before = spec("start-first", &[("/TaskTemplate/Placement", placement)]);
    let new = edited(&before, Some("app:0"), &set(&["n1", "n2"]), 3, 1000);
    assert_eq!(constraints(&new), [constraint, "node.id != n2", "node.id!=n1"]);
    assert_eq!(new["UpdateConfig"]["Order"], "start-first");
    assert_eq!(new["UpdateConfig"]["FailureAction"], "pause");
    assert_eq!(new["UpdateConfig"]["Parallelism"], 3);
    assert_eq!(new["Labels"][FORMER_IMAGE], "app:0");
    let record = spec::record(&new).unwrap();
    assert_eq!((record.nodes, record.until), (set(&["n1", "n2"]), 1000));
    for same in ["Name", "Mode", "EndpointSpec"] {
        assert_eq!(new[same], before[same]);
    }
    assert_eq!(new["TaskTemplate"]["ContainerSpec"], before["TaskTemplate"]["ContainerSpec"]);

    let more = edited(&new, None, &set(&["n1", "n3"]), 1, 2000);
    assert_eq!(constraints(&more), [constraint, "node.id != n2", "node.id!=n1", "node.id!=n3"]);
    let mut back = restored(&more);
    assert_eq!(back["Labels"][FORMER_IMAGE], "app:0", "for the operator");
    back["Labels"].as_object_mut().unwrap().remove(FORMER_IMAGE);
    assert_eq!(back, before);
}

#[test]
fn what_an_operator_has_changed_meanwhile_stays() {
    let settings = json!({ "Parallelism": 1, "Delay": 7, "Order": "stop-first" });
    let mut before = spec("start-first", &[]);
    before["UpdateConfig"] = settings.clone();
    let now = edited(&before, None, &set(&["n1"]), 1, 1000);

    let mut changed = now.clone();
    changed["UpdateConfig"]["Parallelism"] = json!(4);
    changed["UpdateConfig"].as_object_mut().unwrap().remove("Delay");
    changed["TaskTemplate"]["Placement"]["Constraints"] =
        json!(["node.id!=n1", "node.role==worker"]);
    changed["Mode"]["Replicated"]["Replicas"] = json!(9);
    let back = restored(&changed);
    assert_eq!(constraints(&back), ["node.role==worker"]);
    let kept = json!({ "Parallelism": 4, "Delay": 7, "Order": "stop-first" });
    assert_eq!(back["UpdateConfig"], kept, "Docker leaves a zero out");
    assert_eq!(back["Mode"]["Replicated"]["Replicas"], 9);

    let mut by_hand = now;
    by_hand["TaskTemplate"]["Placement"]["Constraints"] = json!(["node.id!=n9"]);
    assert_eq!(constraints(&restored(&by_hand)), ["node.id!=n9"]);
    let deployed = spec("start-first", &[]);
    assert_eq!(restored(&deployed), deployed);
    let mut foreign = deployed;
    foreign["Labels"][RECORD] = json!("{ not ours");
    assert_eq!(restored(&foreign), foreign);
}

proptest! {
    /// Nothing of an edit is left, whatever a spec has.
    #[test]
    fn an_edit_that_is_taken_back_leaves_nothing(
        own in prop::collection::vec("node\\.(id|role) ?(!=|==) ?n[0-4]", 0..4),
        settings in prop::option::of((0u64..3, 0u64..3, prop::sample::select(vec!["stop-first", "start-first"]))),
        nodes in prop::collection::btree_set("n[0-4]", 1..4),
        more in prop::collection::btree_set("n[0-4]", 1..4),
    ) {
        let mut before = spec("start-first", &[]);
        match own.as_slice() {
            [] => {}
            own => before["TaskTemplate"]["Placement"] = json!({ "Constraints": own }),
        }
        if let Some((parallelism, delay, order)) = settings {
            before["UpdateConfig"] =
                json!({ "Parallelism": parallelism, "Delay": delay, "Order": order });
        }
        let once = edited(&before, None, &nodes, 2, 1);
        prop_assert_eq!(&restored(&once), &before);
        let twice = edited(&once, None, &more, 3, 2);
        prop_assert_eq!(&twice, &edited(&before, None, &more, 3, 2), "the last edit counts");
        prop_assert_eq!(restored(&twice), before);
    }
}

#[test]
fn what_cannot_run_twice_or_elsewhere_is_refused() {
    let nodes = [NodeView::example("n1", Role::Worker), NodeView::example("n2", Role::Worker)];
    let nodes: Vec<&NodeView> = nodes.iter().collect();
    let tasks = [task(1, "n1", RUNNING), task(2, "n2", RUNNING)];
    let why = |spec: &Value, wish| {
        obstacle(spec, wish, &tasks, &set(&["n1"]), &nodes).unwrap_or_default()
    };
    let usual = Wish::StartFirst;
    assert_eq!(why(&spec("start-first", &[]), usual), "");
    let mut no_placement = spec("start-first", &[]);
    no_placement["TaskTemplate"].as_object_mut().unwrap().remove("Placement");
    assert!(why(&no_placement, usual).contains("without a placement"));
    for (at, value, expected) in [
        ("/Mode", json!({ "Global": {} }), "global service"),
        ("/Mode", json!({ "ReplicatedJob": {} }), "a job"),
        ("/TaskTemplate/Placement", json!({ "MaxReplicas": 1 }), "max-replicas-per-node"),
        ("/TaskTemplate/Placement", json!({ "MaxReplicas": 2 }), ""),
        ("/TaskTemplate/Placement", json!({ "Constraints": ["node.id == n1"] }), "constraints"),
        ("/TaskTemplate/Placement", json!({ "Constraints": ["node.role==Worker"] }), ""),
        ("/TaskTemplate/Placement", json!({ "Constraints": ["node.role!=worker"] }), "constraints"),
        ("/TaskTemplate/Placement", json!({ "Constraints": ["node.labels.a==b"] }), "constraints"),
        ("/TaskTemplate/Placement", json!({ "Constraints": ["node.labels.a!=b"] }), ""),
        ("/TaskTemplate/Placement", json!({ "Constraints": ["node.platform.os==x"] }), ""),
        (
            "/EndpointSpec",
            json!({ "Ports": [{ "PublishMode": "host", "PublishedPort": 80 }] }),
            "host mode",
        ),
        ("/EndpointSpec", json!({ "Ports": [{ "PublishMode": "ingress" }] }), ""),
    ] {
        let found = why(&spec("start-first", &[(at, value.clone())]), usual);
        assert_eq!(found.is_empty(), expected.is_empty(), "{value}: {found}");
        assert!(found.contains(expected), "{value}: {found}");
    }
    let mut mounts = spec("start-first", &[]);
    for (kind, is_shared) in [("volume", true), ("bind", true), ("cluster", true), ("tmpfs", false)]
    {
        mounts["TaskTemplate"]["ContainerSpec"]["Mounts"] = json!([{ "Type": kind }]);
        assert_eq!(why(&mounts, usual).contains("volumes"), is_shared, "{kind}");
        assert_eq!(why(&mounts, Wish::SharedVolumes), "", "{kind}");
    }
}

/// The step for a service with tasks on `n1` and `n2`, of which `n1` leaves.
fn step(spec: &Value, state: Option<&str>, tasks: &[ServiceTask], failed: &[&str]) -> Step {
    step_with(spec, state, tasks, |seen| decide(&Seen { failed: &set(failed), ..seen.clone() }))
}

/// The same, decided by `judge`, which may change what is seen.
fn step_with(
    spec: &Value,
    state: Option<&str>,
    tasks: &[ServiceTask],
    judge: impl Fn(&Seen<'_>) -> Step,
) -> Step {
    let nodes = [NodeView::example("n2", Role::Worker), NodeView::example("n3", Role::Worker)];
    judge(&Seen {
        spec,
        has_other_credentials: false,
        unfinished_update: state,
        is_operators_update: false,
        tasks,
        leaving: &set(&["n1"]),
        paused: &set(&["n1"]),
        failed: &set(&[]),
        nodes: &nodes.iter().collect::<Vec<_>>(),
        is_known: true,
        is_quiet: Fact::No,
        giving: None,
        now: 0,
    })
}

#[test]
fn a_service_is_edited_waited_for_and_restored() {
    let on = |node: &str, state: TaskState| vec![task(1, node, state), task(2, "n2", RUNNING)];
    let (here, gone) = (on("n1", RUNNING), on("n3", RUNNING));
    let plain = spec("start-first", &[]);
    assert_eq!(step(&plain, None, &here, &[]), Step::Move(set(&["n1"])));
    assert_eq!(step(&plain, None, &gone, &[]), Step::None);
    assert_eq!(step(&plain, None, &on("n1", SHUTDOWN), &[]), Step::None, "it is stopping");
    assert_eq!(step(&plain, None, &on("n1", FAILED), &[]), Step::None);
    let waits = |wait| Step::Wait(wait, set(&["n1"]));
    assert_eq!(step(&plain, Some("updating"), &here, &[]), waits(Wait::OwnUpdate));
    let mut pulls = here.clone();
    pulls.push(task(3, "n2", PREPARING));
    assert_eq!(step(&plain, None, &pulls, &[]), waits(Wait::Pulling));
    for state in ["paused", "rollback_paused"] {
        let refused = step(&plain, Some(state), &here, &[]);
        assert!(matches!(&refused, Step::Refuse(why) if why.contains(state)), "{refused:?}");
    }

    let now = edited(&plain, None, &set(&["n1"]), 1, 1000);
    let mut both = here.clone();
    both.push(task(1, "n3", PENDING));
    for state in [None, Some("updating")] {
        assert_eq!(step(&now, state, &both, &[]), waits(Wait::Moving));
    }
    for state in ["paused", "rollback_paused"] {
        assert_eq!(step(&now, Some(state), &both, &[]), Step::GiveUp);
    }
    assert_eq!(step(&plain, None, &both, &["n1"]), Step::None);
    for state in [None, Some("updating"), Some("rollback_started")] {
        assert_eq!(step(&now, state, &gone, &[]), Step::Restore);
    }
    let other = edited(&plain, None, &set(&["n9"]), 1, 1000);
    assert_eq!(step(&other, Some("updating"), &here, &[]), Step::Move(set(&["n1"])), "one update");

    let mut no_more = now.clone();
    no_more["Labels"].as_object_mut().unwrap().remove(WISH);
    assert_eq!(step(&no_more, None, &here, &[]), Step::Restore);
    let mut unknown = plain;
    unknown["Labels"][WISH] = json!("slowly");
    assert!(matches!(step(&unknown, None, &here, &[]), Step::Refuse(why) if why.contains(WISH)));
    let mut unknown = now;
    unknown["Labels"][WISH] = json!("slowly");
    assert_eq!(step(&unknown, None, &here, &[]), Step::Restore);
}

#[test]
fn what_is_not_known_or_not_ready_changes_nothing() {
    let here = [task(1, "n1", RUNNING), task(2, "n2", RUNNING)];
    let gone = [task(1, "n3", RUNNING), task(2, "n2", RUNNING)];
    let plain = spec("start-first", &[]);
    let now = edited(&plain, None, &set(&["n1"]), 1, 1000);
    let all = set(&["n1"]);
    let decide_if = |spec, state, tasks: &[ServiceTask], change: fn(&mut Seen<'_>)| {
        step_with(spec, state, tasks, |seen| {
            let mut seen = seen.clone();
            change(&mut seen);
            decide(&seen)
        })
    };
    // Departures that could not be read.
    assert_eq!(decide_if(&now, None, &gone, |seen| seen.is_known = false), Step::None);
    let late = decide_if(&now, None, &gone, |seen| (seen.is_known, seen.now) = (false, 1000));
    assert_eq!(late, Step::Restore);
    // On an active node, swarmkit would end the task at once.
    let active =
        step_with(&plain, None, &here, |seen| decide(&Seen { paused: &set(&[]), ..seen.clone() }));
    assert_eq!(active, Step::Wait(Wait::Moving, all.clone()));
    let credentials = decide_if(&plain, None, &here, |seen| seen.has_other_credentials = true);
    assert!(matches!(credentials, Step::Refuse(why) if why.contains("credentials")));

    // A replacement that does not run yet: no update may choose between the two.
    let both = [here.as_slice(), &[task(1, "n3", TaskState::PREPARING)]].concat();
    let other = edited(&plain, None, &set(&["n1", "n9"]), 1, 1000);
    let two = |seen: &Seen<'_>| {
        let leaving = set(&["n1", "n2"]);
        decide(&Seen { leaving: &leaving, paused: &leaving, ..seen.clone() })
    };
    let waits = Step::Wait(Wait::Moving, set(&["n1", "n2"]));
    assert_eq!(step_with(&other, Some("updating"), &both, two), waits);
    let withdrawn = |seen: &Seen<'_>| decide(&Seen { leaving: &set(&[]), ..seen.clone() });
    assert_eq!(step_with(&now, Some("updating"), &both, withdrawn), Step::None);
    let runs = [here.as_slice(), &[task(1, "n3", RUNNING)]].concat();
    assert_eq!(step_with(&now, Some("updating"), &runs, withdrawn), Step::Restore);

    // An operator's update under the edit.
    for (tasks, expected) in
        [(here.as_slice(), Step::Wait(Wait::OwnUpdate, all)), (gone.as_slice(), Step::None)]
    {
        let step = decide_if(&now, Some("updating"), tasks, |it| it.is_operators_update = true);
        assert_eq!(step, expected);
    }
    let paused = decide_if(&now, Some("paused"), &here, |seen| seen.is_operators_update = true);
    assert!(matches!(paused, Step::Refuse(why) if why.contains("paused")));
}

#[test]
fn a_second_node_for_which_there_is_no_room_does_not_end_the_move_of_the_first() {
    let placement = json!({ "MaxReplicas": 1 });
    let plain = spec("start-first", &[("/TaskTemplate/Placement", placement)]);
    let now = edited(&plain, None, &set(&["n1"]), 1, 1000);
    let nodes = [NodeView::example("n3", Role::Worker)];
    let nodes: Vec<&NodeView> = nodes.iter().collect();
    let tasks = [task(1, "n1", RUNNING), task(1, "n3", RUNNING), task(2, "n2", RUNNING)];
    let leaving = set(&["n1", "n2"]);
    let step = step_with(&now, Some("updating"), &tasks, |seen| {
        decide(&Seen { leaving: &leaving, paused: &leaving, nodes: &nodes, ..seen.clone() })
    });
    assert_eq!(step, Step::Wait(Wait::Moving, set(&["n1"])));
    let why = obstacle(&plain, Wish::StartFirst, &tasks[..2], &set(&["n1"]), &nodes);
    assert_eq!(why, None, "its replacement has taken the place");
}

#[test]
fn another_manager_lets_nodes_wait_and_edits_nothing() {
    let all = set(&["n1"]);
    let waits = Step::Wait(Wait::Moving, all.clone());
    for (own, of_another) in [
        (Step::Move(all.clone()), waits.clone()),
        (Step::GiveUp, waits.clone()),
        (Step::Restore, Step::None),
        (waits.clone(), waits),
        (Step::Refuse("it is a job".into()), Step::Refuse("it is a job".into())),
    ] {
        assert_eq!(own.of_another(&all), of_another);
    }
}

/// A service, as Docker lists it.
fn service(spec: Value, previous: Option<Value>) -> Service {
    let service = json!({
        "ID": "s1", "Version": { "Index": 1 }, "UpdatedAt": "2026-11-21T10:00:00Z",
        "Spec": spec, "PreviousSpec": previous,
    });
    serde_json::from_value(service).unwrap()
}

#[test]
fn the_last_edit_says_what_was_tried_and_an_operators_change_ends_that() {
    let now = OffsetDateTime::now_utc().unix_timestamp();
    let plain = spec("start-first", &[]);
    let nodes = set(&["n1"]);
    let edit = |until| edited(&plain, None, &nodes, 1, until);
    assert_eq!(tried(&service(plain.clone(), Some(edit(now + 60)))), nodes);
    assert_eq!(tried(&service(plain.clone(), Some(edit(now - 90)))), set(&[]), "long ago");
    assert_eq!(tried(&service(edit(now + 60), Some(plain.clone()))), set(&[]), "it is tried now");
    assert_eq!(tried(&service(plain.clone(), None)), set(&[]));
    let mut other = plain.clone();
    other["TaskTemplate"]["ContainerSpec"]["Image"] = json!("app:2");
    assert_eq!(tried(&service(other.clone(), Some(edit(now + 60)))), set(&[]), "deployed since");
    assert!(is_operators_update(&service(other, Some(edit(now)))));
    assert!(!is_operators_update(&service(edit(now), Some(plain))));
}

#[test]
fn an_operator_learns_why_a_service_is_not_moved_and_where_a_rollback_leads() {
    let nodes = [NodeView::example("n1", Role::Worker)];
    let mut settings = Settings::default();
    let remark =
        |service: Service, settings: &Settings| remarks(&[service], &nodes, settings).pop();
    let mut plain = spec("start-first", &[]);
    plain["Labels"] = json!({});
    assert_eq!(remark(service(plain, None), &settings), None, "it asks for nothing");
    let asks = spec("start-first", &[]);
    let fine = remark(service(asks.clone(), None), &settings).unwrap();
    assert!(fine.1.is_ok_and(|fine| fine.contains("are moved") && !fine.contains("rollback")));
    let unknown = remark(service(spec("slowly", &[]), None), &settings).unwrap();
    assert!(unknown.1.is_err_and(|why| why.contains(WISH)));
    let global = spec("start-first", &[("/Mode", json!({ "Global": {} }))]);
    let global = remark(service(global, None), &settings).unwrap();
    assert!(global.1.is_err_and(|why| why.contains("global service")));
    let hidden = remark(service(asks.clone(), Some(asks.clone())), &settings).unwrap();
    assert_eq!(hidden.1, Err(OTHER_CREDENTIALS.to_owned()));

    let during = edited(&asks, Some("app:0"), &set(&["n1"]), 1, 0);
    let moved = remark(service(restored(&during), Some(during)), &settings).unwrap();
    assert_eq!(moved.0, "web");
    assert!(moved.1.is_ok_and(|fine| fine.contains("rollback") && fine.ends_with("was app:0")));

    let balance = |more: &[(&str, Value)]| {
        let mut spec = spec("start-first", more);
        spec["Labels"] = json!({ spec::BALANCE: "true" });
        spec
    };
    let nodes = ["n1", "n2"].map(|id| NodeView::example(id, Role::Worker));
    let of = |spec| remarks(&[service(spec, None)], &nodes, &settings).pop().unwrap().1;
    assert!(of(balance(&[])).is_ok_and(|fine| fine.contains("nodes that join")));
    let mut unknown = balance(&[]);
    unknown["Labels"][spec::BALANCE] = json!("yes");
    assert!(of(unknown).is_err_and(|why| why.contains(spec::BALANCE)));
    // Two replicas on two nodes.
    let host = json!({ "Ports": [{ "PublishMode": "host", "PublishedPort": 80 }] });
    let full = of(balance(&[("/EndpointSpec", host)]));
    assert!(full.is_err_and(|why| why.contains("host mode leave no other node")));
    let most = json!({ "MaxReplicas": 2 });
    assert!(of(balance(&[("/TaskTemplate/Placement", most)])).is_ok());

    let image = "123456789012.dkr.ecr.eu-central-1.amazonaws.com/app:1";
    let image = json!({ "Image": image });
    let ecr = spec("start-first", &[("/TaskTemplate/ContainerSpec", image)]);
    assert!(remark(service(ecr.clone(), None), &settings).unwrap().1.is_ok());
    settings.registry.ecr = true;
    assert!(remark(service(ecr, None), &settings).unwrap().1.is_err());
}

#[test]
fn a_node_waits_for_half_of_its_draining_and_with_a_spot_notice_for_little() {
    let settings = Settings::default();
    let start = OffsetDateTime::UNIX_EPOCH;
    let row = |reason, seconds| {
        let deadline = start + std::time::Duration::from_secs(seconds);
        let departure = Departure { reason, noticed_at: start, deadline };
        DepartureRow::request("i-1", "n1", Role::Worker, &departure, "boot")
    };
    let waits = |row: &DepartureRow| (latest(row, start, &settings) - start).whole_seconds();
    assert_eq!(waits(&row(Reason::Lifecycle, 1800)), 630);
    assert_eq!(waits(&row(Reason::Spot, 120)), 12);
    assert_eq!(waits(&row(Reason::Shutdown, 80)), 8);
    let mut told = row(Reason::Lifecycle, 1800);
    (told.turn_by, told.turn_for) =
        (Some(start + std::time::Duration::from_secs(99)), TurnFor::OwnTasks);
    assert_eq!(waits(&told), 99, "another manager has seen it before");
    told.turn_for = TurnFor::Others;
    assert_eq!(waits(&told), 630, "that was its turn");
}
