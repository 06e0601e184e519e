//! Tests that a node gets the label of the instance that has its address, by EC2's answer alone.

use super::*;
use crate::clients::aws::ec2::tests::{answer, described};
use crate::clients::aws::stub::Stub;
use crate::clients::docker::tests::fake_engine::{FakeEngine, Instead, RELEASES};
use crate::common::instance::{Membership, Role};
use crate::node::Node;

fn view(id: &str, address: &str, instance: Option<&str>) -> NodeView {
    let mut view =
        NodeView { address: Some(address.into()), ..NodeView::example(id, Role::Worker) };
    view.labels.extend(instance.map(|it| (INSTANCE.to_owned(), it.to_owned())));
    view
}

#[test]
fn ec2_is_asked_about_a_new_node_once_a_minute_and_by_the_others_later() {
    let start = Instant::now();
    let at = |seconds| start + Duration::from_secs(seconds);
    let nodes = [
        view("known", "10.0.0.1", Some("i-1")),
        view("new", "10.0.0.2", None),
        NodeView { address: None, ..view("nowhere", "", None) },
        view("leader", "0.0.0.0", None),
        NodeView { state: "down".into(), ..view("gone", "10.0.0.3", None) },
        view("through another host", "10.0.0.1", None),
    ];
    let mut memory = Memory::default();
    let mut due = |patience, seconds| {
        let due = memory.due(&nodes, Duration::from_secs(patience), at(seconds));
        let ids: Vec<String> = due.iter().map(|(view, _)| view.id.clone()).collect();
        memory.asked.extend(ids.iter().map(|id| (id.clone(), at(seconds))));
        ids
    };
    assert_eq!(due(20, 0), [""; 0], "the leader's turn");
    assert_eq!(due(20, 20), ["new"]);
    assert_eq!(due(0, 79), [""; 0]);
    assert_eq!(due(0, 80), ["new"]);
}

#[test]
fn an_instance_that_was_attached_to_another_group_is_noticed() {
    let in_group = |group: &str| {
        let mut view = view("w", "10.0.0.2", Some("i-w"));
        view.labels.insert(GROUP.to_owned(), group.to_owned());
        [view]
    };
    let instance = GroupInstance {
        group: "blue".into(),
        lifecycle_state: "InService".into(),
        health: "HEALTHY".into(),
        protected: None,
        settings: None,
    };
    let listed = [("i-w".to_owned(), instance)].into();
    assert_eq!(moved(&in_group("blue"), &listed).count(), 0);
    let nodes = in_group("green");
    assert_eq!(moved(&nodes, &listed).map(|(_, group)| group).collect::<Vec<_>>(), ["blue"]);
    assert_eq!(moved(&nodes, &BTreeMap::new()).count(), 0, "it is in no group now");
}

#[tokio::test]
async fn the_label_is_that_of_the_one_instance_at_the_nodes_address() {
    const NODES: &str = r#"[
        { "ID": "n1", "Spec": { "Role": "manager" }, "Status": { "Addr": "10.0.0.2" },
            "ManagerStatus": { "Leader": true, "Reachability": "reachable" } },
        { "ID": "n3", "Spec": { "Role": "worker" }, "Status": { "Addr": "10.0.0.3" } },
        { "ID": "n4", "Spec": { "Role": "worker" }, "Status": { "Addr": "10.0.0.4" } }]"#;
    let (engine, stub) = (FakeEngine::start(RELEASES[0]), Stub::start().await);
    let node = Node::example(engine.swarm(), &stub).await;
    const ONE: &str =
        r#"{ "ID": "n1", "Version": { "Index": 12 }, "Spec": { "Role": "manager" } }"#;
    for (path, answer) in [("/nodes", NODES), ("/nodes/n1", ONE)] {
        engine.lock().instead.insert(path, Instead::Answer(answer));
    }
    let tag =
        "<tagSet><item><key>aws:autoscaling:groupName</key><value>workers</value></item></tagSet>";
    let listed = [
        described("i-0abc", "vpc-1", &["10.0.0.1"], ""),
        described("i-2", "vpc-1", &["10.0.0.2"], tag),
        // Nobody is at 10.0.0.3, and two have 10.0.0.4.
        described("i-4", "vpc-1", &["10.0.0.4"], ""),
        described("i-5", "vpc-1", &["10.0.0.4"], ""),
    ];
    stub.always("DescribeInstances", &answer(&listed, ""));
    let membership = Membership::example();
    let fleet = Fleet::new(&node, &membership);
    let (mut memory, mut complaints) = (Memory::default(), Complaints::default());
    let mut look = async || {
        let polled = Poll { fleet: &fleet, memory: &mut memory, complaints: &mut complaints };
        poll(polled).await.unwrap();
    };
    look().await;
    assert_eq!(engine.lock().done, ["POST /nodes/n1/update"]);
    let labels = engine.last("POST /nodes/n1/update").body["Labels"].clone();
    for (key, value) in [
        (INSTANCE, "i-2"),
        (GROUP, "workers"),
        (labels::ZONE, "eu-central-1a"),
        (labels::INSTANCE_TYPE, "t3.small"),
        (labels::MARKET, "on-demand"),
    ] {
        assert_eq!(labels[key], value, "{labels}");
    }
    look().await;
    assert_eq!(engine.lock().done.len(), 1, "the others are not asked about again at once");
    assert_eq!(stub.requests().len(), 1);
}

/// A thousand nodes that join at once must not keep the duty in one poll for a minute.
#[tokio::test]
async fn nodes_that_join_at_once_are_identified_some_at_a_time_without_a_pause() {
    let (engine, stub) = (FakeEngine::start(RELEASES[0]), Stub::start().await);
    let node = Node::example(engine.swarm(), &stub).await;
    let member = |n: usize| {
        let (id, address) = (format!("n{n}"), format!("10.9.0.{n}"));
        serde_json::json!({
            "ID": id, "Version": { "Index": 1 }, "Spec": { "Role": "worker" },
            "Status": { "State": "ready", "Addr": address },
        })
    };
    let own = serde_json::json!({
        "ID": "n1", "Version": { "Index": 1 }, "Spec": { "Role": "manager", "Labels": { INSTANCE: "i-0abc" } },
        "Status": { "State": "ready", "Addr": "10.0.1.7" },
        "ManagerStatus": { "Leader": true, "Reachability": "reachable" },
    });
    let nodes: Vec<_> = (2..62).map(member).chain([own]).collect();
    let list = serde_json::Value::from(nodes).to_string().leak();
    engine.lock().instead.insert("/nodes", Instead::Answer(list));
    let own = node.instance.private_address.to_string();
    stub.compute(move |_| Some((200, answer(&[described("i-0abc", "vpc-1", &[&own], "")], ""))));
    let membership = Membership::example();
    let fleet = Fleet::new(&node, &membership);
    let (mut memory, mut complaints) = (Memory::default(), Complaints::default());
    let mut pauses = vec![];
    for _ in 0..2 {
        let with = Poll { fleet: &fleet, memory: &mut memory, complaints: &mut complaints };
        pauses.push(poll(with).await.unwrap());
    }
    assert_eq!(pauses, [Duration::ZERO, LEADER.look]);
    let asked = stub.requests();
    let addresses = |request: &String| request.matches("Filter.1.Value.").count();
    assert_eq!(asked.iter().map(addresses).collect::<Vec<_>>(), [AT_ONCE + 1, 60 - AT_ONCE + 1]);
}
