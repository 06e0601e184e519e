//! Tests which instances are protected, and that only skep's own protection ends.

use serde_json::json;

use super::*;
use crate::clients::aws::autoscaling::GroupInstance;
use crate::clients::aws::stub::Stub;
use crate::clients::docker::tests::fake_engine::{FakeEngine, RELEASES};
use crate::common::instance::Role;
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
fn jobs_and_what_is_labelled_so_keep_their_nodes() {
    let keeps = |spec: Value| {
        let service = json!({
            "ID": "s1", "Version": { "Index": 1 }, "UpdatedAt": "2026-11-21T10:00:00Z", "Spec": spec,
        });
        keeps_nodes(&serde_json::from_value::<Service>(service).unwrap())
    };
    assert!(keeps(json!({ "Mode": { "ReplicatedJob": {} } })));
    assert!(keeps(json!({ "Mode": { "GlobalJob": {} } })));
    let replicated = json!({ "Replicated": {} });
    assert!(!keeps(json!({ "Mode": replicated })));
    for (value, expected) in [("true", true), ("false", false), ("yes", false)] {
        let labels = json!({ WISH: value });
        assert_eq!(keeps(json!({ "Mode": replicated, "Labels": labels })), expected, "{value}");
        let container = json!({ "ContainerSpec": { "Labels": labels } });
        assert_eq!(keeps(json!({ "Mode": replicated, "TaskTemplate": container })), expected);
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
