//! Tests which instances are protected, and that only skep's own protection ends.

use serde_json::json;

use super::*;
use crate::clients::aws::autoscaling::{GroupInstance, GroupSettings};
use crate::clients::aws::stub::Stub;
use crate::clients::docker::tests::fake_engine::{FakeEngine, Instead, RELEASES};
use crate::common::instance::{Membership, Role};
use crate::common::labels::INSTANCE;

fn listed(state: &str, protected: Option<bool>) -> GroupInstance {
    GroupInstance {
        group: "workers".into(),
        lifecycle_state: state.into(),
        health: "Healthy".into(),
        protected,
        settings: None,
    }
}

#[test]
fn only_skeps_own_protection_ends_and_nothing_changes_while_it_cannot_tell() {
    let step = |is_busy, is_marked, protected| {
        decide(is_busy, is_marked, Some(&listed("InService", Some(protected))))
    };
    assert_eq!(step(Fact::Yes, false, false), Step::Protect);
    assert_eq!(step(Fact::Yes, true, false), Step::Protect, "a crash came in between");
    assert_eq!(step(Fact::Yes, true, true), Step::None);
    assert_eq!(step(Fact::Yes, false, true), Step::None, "an operator's");
    assert_eq!(step(Fact::No, true, true), Step::Release);
    assert_eq!(step(Fact::No, true, false), Step::Forget, "Auto Scaling shows that it has ended");
    assert_eq!(step(Fact::No, false, true), Step::None, "an operator's");
    for (is_marked, is_protected) in [(true, true), (true, false), (false, true), (false, false)] {
        assert_eq!(step(Fact::CannotTell, is_marked, is_protected), Step::None);
        for is_busy in [Fact::Yes, Fact::No] {
            assert_eq!(decide(is_busy, is_marked, None), Step::None, "it is not listed");
            let unknown = listed("InService", None);
            assert_eq!(decide(is_busy, is_marked, Some(&unknown)), Step::None);
        }
    }
}

#[test]
fn auto_scaling_refuses_a_change_on_the_way_in_and_out() {
    for (state, protect, release) in [
        ("Pending:Wait", Step::None, Step::None),
        ("Standby", Step::None, Step::Release),
        ("EnteringStandby", Step::None, Step::Release),
        ("Terminating:Wait", Step::None, Step::None),
        ("a state of tomorrow", Step::None, Step::None),
    ] {
        assert_eq!(decide(Fact::Yes, false, Some(&listed(state, Some(false)))), protect);
        assert_eq!(decide(Fact::No, true, Some(&listed(state, Some(true)))), release, "{state}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_is_busy_for_a_while_longer_and_a_new_leader_does_not_know_it_yet() {
    let linger = Duration::from_secs(60);
    let view = NodeView::example("n1", Role::Worker);
    let nodes = [view.clone()];
    let mut memory = Memory::default();
    memory.observe(&nodes, BTreeSet::new());
    assert_eq!(memory.is_busy(&view, linger), Fact::CannotTell);
    memory.observe(&nodes, ["n1".to_owned()].into());
    assert_eq!(memory.is_busy(&view, linger), Fact::Yes);
    tokio::time::advance(Duration::from_secs(59)).await;
    memory.observe(&nodes, BTreeSet::new());
    assert_eq!(memory.is_busy(&view, linger), Fact::Yes);
    tokio::time::advance(Duration::from_secs(2)).await;
    memory.observe(&nodes, BTreeSet::new());
    assert_eq!(memory.is_busy(&view, linger), Fact::No);
    memory.observe(&nodes, ["n1".to_owned()].into());
    let drained = NodeView { availability: Availability::Drain, ..view.clone() };
    assert_eq!(memory.is_busy(&drained, linger), Fact::No, "it leaves, or must have no tasks");
    let down = NodeView { state: "down".into(), ..view.clone() };
    assert_eq!(memory.is_busy(&down, linger), Fact::CannotTell);
    memory.observe(&[], BTreeSet::new());
    assert!(memory.busy_at.is_empty());
}

#[tokio::test(start_paused = true)]
async fn auto_scaling_is_asked_when_something_may_have_to_change() {
    let view = NodeView::example("n1", Role::Worker);
    let mut memory = Memory::default();
    for (is_busy, is_marked, is_due) in [
        (Fact::Yes, false, true),
        (Fact::Yes, true, true),
        (Fact::No, true, true),
        (Fact::No, false, false),
        (Fact::CannotTell, true, false),
    ] {
        assert_eq!(memory.is_due(&view, is_busy, is_marked), is_due, "{is_busy:?} {is_marked}");
    }
    memory.be_quiet(&view, Fact::Yes, CONFIRMED_FOR, None);
    assert!(!memory.is_due(&view, Fact::Yes, true));
    assert!(memory.is_due(&view, Fact::No, true), "it has become idle");
    tokio::time::advance(CONFIRMED_FOR).await;
    memory.observe(std::slice::from_ref(&view), BTreeSet::new());
    assert!(memory.is_due(&view, Fact::Yes, true));
}

#[test]
fn a_group_that_is_being_deleted_protects_nothing() {
    let settings =
        GroupSettings { max_size: Some(0), has_load_balancer: false, replaces_unhealthy: false };
    let listed = |protected| GroupInstance {
        settings: Some(settings),
        ..listed("InService", Some(protected))
    };
    assert_eq!(decide(Fact::Yes, true, Some(&listed(true))), Step::Release);
    assert_eq!(decide(Fact::Yes, false, Some(&listed(false))), Step::None);
    assert_eq!(decide(Fact::Yes, false, Some(&listed(true))), Step::None, "an operator's");
}

/// Docker runs a task of a service with this mode on the node n2.
async fn busy_with(mode: serde_json::Value, all_tasks: bool) -> BTreeSet<String> {
    let (engine, stub) = (FakeEngine::start(RELEASES[0]), Stub::start().await);
    let services = json!([{
        "ID": "s1", "Version": { "Index": 1 }, "UpdatedAt": "2026-11-21T10:00:00Z",
        "Spec": { "Name": "web", "Mode": mode, "TaskTemplate": {} },
    }]);
    let tasks = json!([{
        "ID": "t1", "ServiceID": "s1", "NodeID": "n2", "Slot": 1, "DesiredState": "running",
        "CreatedAt": "2026-11-21T10:00:00Z", "Status": { "State": "running" },
    }]);
    for (path, answer) in [("/tasks", tasks), ("/services", services)] {
        engine.lock().instead.insert(path, Instead::Answer(answer.to_string().leak()));
    }
    let mut node = Node::example(engine.swarm(), &stub).await;
    node.settings.protection.all_tasks = all_tasks;
    let membership = Membership::example();
    busy_nodes(&Fleet::new(&node, &membership)).await.unwrap()
}

#[tokio::test]
async fn all_tasks_but_those_of_global_services_keep_their_nodes_where_the_settings_say_so() {
    let (replicated, global) =
        (json!({ "Replicated": { "Replicas": 1 } }), json!({ "Global": {} }));
    let n2 = BTreeSet::from(["n2".to_owned()]);
    assert_eq!(busy_with(replicated.clone(), true).await, n2);
    assert_eq!(busy_with(replicated, false).await, BTreeSet::new());
    assert_eq!(busy_with(global, true).await, BTreeSet::new(), "it is on every node");
    for all_tasks in [true, false] {
        assert_eq!(busy_with(json!({ "GlobalJob": {} }), all_tasks).await, n2, "a job");
    }
}

/// Its entry must go in any case, but not while the protection may still end.
#[tokio::test]
async fn a_node_that_is_taken_off_the_list_leaves_no_protection_behind() {
    let (engine, stub) = (FakeEngine::start(RELEASES[0]), Stub::start().await);
    let node = Node::example(engine.swarm(), &stub).await;
    let mut view = NodeView::example("n1", Role::Worker);
    for (key, value) in [(INSTANCE, "i-0abc"), (GROUP, "workers")] {
        view.labels.insert(key.into(), value.into());
    }
    release(&node, &view).await.unwrap();
    assert_eq!(stub.requests(), [""; 0], "it is not skep's");
    view.labels.insert(PROTECTED.into(), "true".into());
    for (code, answer, is_over) in [
        (200, "<SetInstanceProtectionResponse/>".to_owned(), true),
        (400, Stub::xml_error("ValidationError", "The instance i-0abc is not in InService"), true),
        (403, Stub::xml_error("AccessDenied", "no"), true),
        (500, Stub::xml_error("InternalFailure", "later"), false),
    ] {
        stub.answer(code, &answer);
        assert_eq!(release(&node, &view).await.is_ok(), is_over, "{code}");
        let request = stub.last_request();
        assert!(request.contains("InstanceIds.member.1=i-0abc"), "{request}");
        assert!(request.contains("ProtectedFromScaleIn=false"), "{request}");
    }
}
