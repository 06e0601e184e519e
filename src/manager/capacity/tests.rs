//! Tests what the leader finds in Docker's answers, and what it sends.

mod follows;

use bollard::models::TaskState::{self, COMPLETE, FAILED, PENDING, RUNNING, SHUTDOWN};
use serde_json::{Value, json};

use super::look::Group;
use super::send::data;
use super::*;
use crate::clients::aws::autoscaling::GroupSettings;
use crate::clients::aws::stub::Stub;
use crate::clients::docker::tests::fake_engine::{FakeEngine, Instead, RELEASES};
use crate::clients::docker::{Availability, NodeView, Resources, Service, ServiceTask};
use crate::common::capacity::GroupCapacity;
use crate::common::instance::{Membership, Role};
use crate::common::labels::GROUP;
use crate::node::Node;

const NOW: OffsetDateTime = time::macros::datetime!(2026-11-30 12:00 UTC);
const CPU: u64 = 1_000_000_000;
const GIB: u64 = 1 << 30;
const INSUFFICIENT: &str = "no suitable node (insufficient resources on 2 nodes)";

fn amount(cpus: u64, gib: u64) -> Resources {
    Resources { nano_cpus: cpus * CPU, memory_bytes: gib * GIB, ..Resources::default() }
}

/// A worker of this group with 4 CPUs and 8 GiB.
fn node(id: &str, group: &str) -> NodeView {
    let mut view = NodeView::example(id, Role::Worker);
    view.labels.insert(GROUP.to_owned(), group.to_owned());
    NodeView { resources: Some(amount(4, 8)), ..view }
}

/// A service with this mode and constraints; its id is its name.
fn service(name: &str, mode: Value, constraints: &[&str]) -> Service {
    let service = json!({
        "ID": name, "Version": { "Index": 1 }, "UpdatedAt": "2026-11-21T10:00:00Z",
        "Spec": {
            "Name": name, "Mode": mode,
            "TaskTemplate": {
                "Placement": { "Constraints": constraints },
                "Resources": { "Reservations": { "NanoCPUs": CPU, "MemoryBytes": GIB } },
            },
        },
    });
    serde_json::from_value(service).unwrap()
}

fn replicated(name: &str, constraints: &[&str]) -> Service {
    service(name, json!({ "Replicated": { "Replicas": 3 } }), constraints)
}

/// A task that reserves one CPU and one GiB.
fn task(node: &str, state: TaskState) -> ServiceTask {
    ServiceTask {
        slot: "1".into(),
        created_at: NOW - Duration::from_secs(60),
        state: Some(state),
        desired: if matches!(state, RUNNING | PENDING) { RUNNING } else { SHUTDOWN },
        error: None,
        node_id: (!node.is_empty()).then(|| node.to_owned()),
        reserved: amount(1, 1),
    }
}

fn waits(reserved: Resources) -> ServiceTask {
    ServiceTask { error: Some(INSUFFICIENT.into()), reserved, ..task("", PENDING) }
}

fn tasks<const N: usize>(of: [(&str, Vec<ServiceTask>); N]) -> BTreeMap<String, Vec<ServiceTask>> {
    of.into_iter().map(|(name, tasks)| (name.to_owned(), tasks)).collect()
}

/// Looks with what earlier looks have shown of the groups.
fn look_with(
    nodes: &[NodeView],
    services: &[Service],
    tasks: &BTreeMap<String, Vec<ServiceTask>>,
    kinds: &mut Kinds,
) -> Seen {
    kinds.learn(nodes);
    look(Observed { nodes, services, tasks }, kinds, &BTreeSet::new(), NOW)
}

fn looked(
    nodes: &[NodeView],
    services: &[Service],
    tasks: &BTreeMap<String, Vec<ServiceTask>>,
) -> Seen {
    look_with(nodes, services, tasks, &mut Kinds::default())
}

#[test]
fn what_is_reserved_and_what_is_idle_is_counted_for_each_group() {
    let drained = NodeView { availability: Availability::Drain, ..node("d", "workers") };
    let down = NodeView { state: "down".into(), ..node("e", "workers") };
    let mut nodes = vec![node("a", "workers"), node("b", "workers"), node("c", "gpu")];
    nodes.extend([drained, down, NodeView::example("m", Role::Manager)]);
    let services = [replicated("web", &[]), service("agent", json!({ "Global": {} }), &[])];
    let all = tasks([
        (
            "web",
            vec![task("a", RUNNING), task("a", RUNNING), task("b", FAILED), task("d", RUNNING)],
        ),
        ("agent", vec![task("a", RUNNING), task("b", RUNNING), task("c", RUNNING)]),
    ]);
    let seen = looked(&nodes, &services, &all);
    assert_eq!(seen.groups.keys().collect::<Vec<_>>(), ["gpu", "workers"], "no group, no capacity");
    let workers = seen.groups["workers"].capacity;
    assert_eq!((workers.nodes, workers.idle, workers.needed), (2, 1, 1));
    assert_eq!((workers.cpus_reserved, workers.cpus_available), (4.0, 4.0));
    assert_eq!((workers.memory_reserved, workers.memory_available), (4 * GIB, 12 * GIB));
    assert_eq!(seen.groups["gpu"].capacity.idle, 1, "a global service runs everywhere");
    let gone = looked(&nodes, &[], &tasks([("removed", vec![task("c", RUNNING)])]));
    assert_eq!(gone.groups["gpu"].capacity.idle, 0, "it ends soon, but it runs");
}

#[test]
fn a_task_that_ends_still_has_its_reservation() {
    let ending = ServiceTask { desired: SHUTDOWN, ..task("a", RUNNING) };
    let all = tasks([("web", vec![ending, task("a", COMPLETE)])]);
    let workers =
        looked(&[node("a", "workers")], &[replicated("web", &[])], &all).groups["workers"].capacity;
    assert_eq!((workers.idle, workers.cpus_reserved), (0, 1.0));
}

#[test]
fn pending_tasks_need_new_nodes_of_the_group_that_can_run_them() {
    let nodes =
        [node("a", "workers"), NodeView { resources: Some(amount(16, 64)), ..node("c", "big") }];
    let need = |constraints: &[&str], waiting: Vec<ServiceTask>| {
        let all =
            tasks([("web", waiting), ("other", vec![task("a", RUNNING), task("c", RUNNING)])]);
        let services = [replicated("web", constraints), replicated("other", &[])];
        let seen = looked(&nodes, &services, &all);
        let of = |name: &str| {
            let capacity = seen.groups.get(name).map(|group| group.capacity);
            capacity.map_or((0, 0), |it| (it.pending, it.needed))
        };
        assert!(seen.pending.values().sum::<usize>() > 0);
        (of("workers"), of("big"), of("new"))
    };
    let three = || vec![waits(amount(2, 1)); 3];
    assert_eq!(need(&[], three()), ((3, 3), (0, 1), (0, 0)), "the smallest nodes that fit");
    assert_eq!(need(&["node.labels.skep.group == big"], three()), ((0, 1), (3, 2), (0, 0)));
    assert_eq!(need(&["node.labels.skep.group==new"], three()), ((0, 1), (0, 1), (3, 1)));
    assert_eq!(need(&[], vec![waits(amount(8, 1))]), ((0, 1), (1, 2), (0, 0)), "only a big one");
    assert_eq!(need(&[], vec![waits(amount(99, 1))]), ((0, 1), (0, 1), (0, 0)), "no node ever");
    for constraint in ["node.id == a", "node.hostname==a", "node.role==manager", "node.labels.x==y"]
    {
        assert_eq!(need(&[constraint], three()), ((0, 1), (0, 1), (0, 0)), "{constraint}");
    }
    assert_eq!(need(&["node.id != a"], three()), ((3, 3), (0, 1), (0, 0)));
    assert_eq!(
        need(&["node.labels.skep.group==BIG"], three()),
        ((0, 1), (3, 2), (0, 0)),
        "no case"
    );
    assert_eq!(need(&["engine.labels.gpu==true"], three()), ((0, 1), (0, 1), (0, 0)), "unknown");
    let alien =
        ServiceTask { error: Some("missing plugin on 2 nodes".into()), ..waits(amount(1, 1)) };
    assert_eq!(need(&[], vec![alien]), ((0, 1), (0, 1), (0, 0)), "a new node has the same plugins");
}

/// What the leader needs of a group for one waiting task of a service with this constraint.
fn needed(nodes: &[NodeView], constraint: &str, busy: &[&str], full: &[&str]) -> (usize, usize) {
    let running = busy.iter().map(|id| task(id, RUNNING));
    let all = tasks([("web", vec![waits(amount(2, 2))]), ("other", running.collect())]);
    let services = [replicated("web", &[constraint]), replicated("other", &[])];
    let mut kinds = Kinds::default();
    kinds.learn(nodes);
    let full = full.iter().map(|name| (*name).to_owned()).collect();
    let seen = look(Observed { nodes, services: &services, tasks: &all }, &kinds, &full, NOW);
    let of = |name: &str| seen.groups.get(name).map_or(0, |group| group.capacity.needed);
    (of("workers"), of("big"))
}

#[test]
fn a_group_at_its_maximum_leaves_the_tasks_to_another_one() {
    let big = NodeView { resources: Some(amount(16, 64)), ..node("c", "big") };
    let nodes = [node("a", "workers"), big];
    assert_eq!(needed(&nodes, "node.role==worker", &["a", "c"], &[]), (2, 1));
    assert_eq!(needed(&nodes, "node.role==worker", &["a", "c"], &["workers"]), (1, 2));
    let both = &["workers", "big"];
    assert_eq!(needed(&nodes, "node.role==worker", &["a", "c"], both), (2, 1), "both are full");
}

#[test]
fn only_an_idle_node_that_could_run_the_task_shows_that_another_one_would_not_help() {
    let in_zone = |id: &str, zone: &str| {
        let mut view = node(id, "workers");
        view.labels.insert("skep.zone".into(), zone.into());
        view
    };
    let (a, b) = ("node.labels.skep.zone==a", "node.labels.skep.zone==b");
    let nodes = [in_zone("1", "a"), in_zone("2", "b")];
    assert_eq!(needed(&nodes, a, &["1"], &[]).0, 3, "the idle node is in another zone");
    assert_eq!(needed(&nodes, b, &["1"], &[]).0, 2, "Docker leaves it there for another reason");
    // One for each zone, at most.
    let nodes: Vec<_> = ["1", "2", "3", "4", "5"]
        .iter()
        .zip(["a", "b", "b", "b", "b"])
        .map(|(id, zone)| in_zone(id, zone))
        .collect();
    assert_eq!(needed(&nodes, a, &["1"], &[]).0, 4, "two of four are too many");
}

#[test]
fn a_group_that_has_no_nodes_any_more_grows_for_tasks_that_its_nodes_could_run() {
    let mut kinds = Kinds::default();
    let mut need = |nodes: &[NodeView], constraint: &str, reserved: Resources| {
        let all = tasks([("web", vec![waits(reserved)])]);
        let seen = look_with(nodes, &[replicated("web", &[constraint])], &all, &mut kinds);
        seen.groups.get("workers").map_or(0, |group| group.capacity.needed)
    };
    let (anywhere, there) = ("node.role==worker", "node.labels.skep.group==workers");
    assert_eq!(need(&[], anywhere, amount(1, 1)), 0, "no group was ever seen");
    assert_eq!(need(&[], there, amount(1, 1)), 1, "its nodes show their size");
    need(&[node("a", "workers")], anywhere, amount(1, 1));
    assert_eq!(need(&[], anywhere, amount(1, 1)), 1);
    assert_eq!(need(&[], there, amount(1, 1)), 1);
    assert_eq!(need(&[], there, amount(99, 1)), 0, "no node of it is so large");
    assert_eq!(need(&[], "node.labels.disk==ssd", amount(1, 1)), 0, "none has had that");
}

#[test]
fn global_services_take_their_part_of_each_new_node() {
    let services = [replicated("web", &[]), service("agent", json!({ "Global": {} }), &[])];
    let waiting = vec![waits(amount(4, 1))];
    let of = |services: &[Service]| {
        let all = tasks([("web", waiting.clone()), ("agent", vec![])]);
        looked(&[node("a", "workers")], services, &all).groups["workers"].capacity.needed
    };
    assert_eq!(of(&services[..1]), 1);
    assert_eq!(of(&services), 0, "3 of 4 CPUs are left for others");
}

#[test]
fn only_tasks_that_docker_could_not_place_for_a_while_wait() {
    let waiting = |change: fn(&mut ServiceTask)| {
        let mut task = waits(amount(1, 1));
        change(&mut task);
        looked(&[], &[replicated("web", &[])], &tasks([("web", vec![task])])).pending
    };
    let one = BTreeMap::from([(("web".to_owned(), Reason::Resources), 1)]);
    assert_eq!(waiting(|_| {}), one);
    assert!(waiting(|task| task.created_at = NOW - Duration::from_secs(5)).is_empty());
    assert!(waiting(|task| task.error = None).is_empty(), "not looked at yet");
    assert!(waiting(|task| task.state = Some(TaskState::PREPARING)).is_empty(), "it has a node");
    assert!(waiting(|task| task.desired = SHUTDOWN).is_empty(), "it is not wanted");
}

#[test]
fn a_task_of_a_global_service_waits_for_its_own_node() {
    let pending = ServiceTask { node_id: Some("a".into()), ..waits(amount(9, 9)) };
    let services = [service("agent", json!({ "Global": {} }), &[])];
    let seen = looked(&[node("a", "workers")], &services, &tasks([("agent", vec![pending])]));
    assert_eq!(seen.pending.len(), 1);
    assert_eq!(seen.groups["workers"].capacity.needed, 0, "it would have one on each new node");
}

#[test]
fn values_are_sent_of_groups_of_workers_alone_and_only_those_that_are_known() {
    let mut manager = NodeView::example("m", Role::Manager);
    manager.labels.insert(GROUP.to_owned(), "managers".into());
    let bare = NodeView { resources: None, ..node("a", "workers") };
    let seen = looked(&[manager, bare], &[], &BTreeMap::new());
    let sent = data(&seen, &BTreeSet::new());
    let sent: Vec<_> = sent.iter().map(|it| (it.group.as_str(), it.name, it.value)).collect();
    assert_eq!(
        sent,
        [
            ("workers", "NodesNeeded", 0.0),
            ("workers", "Nodes", 1.0),
            ("workers", "NodesIdle", 1.0),
            ("workers", "TasksPending", 0.0),
        ]
    );
}

fn instance(group: &str, state: &str, max_size: Option<u32>) -> GroupInstance {
    GroupInstance {
        group: group.into(),
        lifecycle_state: state.into(),
        health: "HEALTHY".into(),
        protected: None,
        settings: Some(GroupSettings {
            max_size,
            has_load_balancer: false,
            replaces_unhealthy: false,
        }),
    }
}

#[test]
fn a_group_is_full_when_it_has_its_maximum() {
    let full = |states: &[&str], max_size| {
        let all: Vec<_> = states.iter().map(|state| instance("workers", state, max_size)).collect();
        full_groups(all.iter()).get("workers").copied()
    };
    assert_eq!(full(&["InService", "Pending:Wait"], Some(2)), Some(2), "one is on its way");
    assert_eq!(full(&["InService", "Terminating:Wait"], Some(2)), None, "one will be replaced");
    assert_eq!(full(&["InService", "Terminating:Retained"], Some(2)), None, "it does not count");
    assert_eq!(full(&["InService"], Some(2)), None);
    assert_eq!(full(&["InService"], None), None, "unknown");
    assert_eq!(full(&[], Some(0)), None, "nothing is known of it");
}

#[test]
fn a_group_whose_only_node_is_replaced_asks_for_no_other() {
    let capacity = GroupCapacity { needed: 1, pending: 1, ..Default::default() };
    let group = Group { capacity, is_of_managers: false };
    let seen = Seen { groups: [("workers".to_owned(), group)].into(), ..Seen::default() };
    let percent = |states: &[&str]| {
        let all: Vec<_> = states.iter().map(|state| instance("workers", state, None)).collect();
        let data = data(&seen, &staffed_groups(all.iter()));
        data.iter().find(|it| it.name == "NodesNeeded").map(|it| it.value)
    };
    assert_eq!(percent(&["Terminating:Wait", "Pending"]), None, "the next node is on its way");
    assert_eq!(percent(&["InService"]), None, "it is drained");
    assert_eq!(percent(&["Terminating:Wait"]), Some(200.0));
}

/// Docker with this leader, one worker, and one task that waits.
fn world(engine: &FakeEngine, leader: &str) {
    let view = |id: &str, role: &str, manager: Value| {
        json!({
            "ID": id, "Version": { "Index": 12 }, "CreatedAt": "2026-11-21T10:00:00Z",
            "Spec": {
                "Role": role, "Availability": "active",
                "Labels": { GROUP: format!("prod-{role}s"), "skep.instance": "i-0abc" },
            },
            "Status": { "State": "ready", "Addr": "10.0.0.1" },
            "Description": { "Resources": { "NanoCPUs": 4 * CPU, "MemoryBytes": 8 * GIB } },
            "ManagerStatus": manager,
        })
    };
    let manager = |id: &str| json!({ "Leader": id == leader, "Reachability": "reachable" });
    let nodes = json!([
        view("n1", "manager", manager("n1")),
        view("n2", "manager", manager("n2")),
        view("n3", "worker", Value::Null),
    ]);
    let waiting = json!([{
        "ID": "t1", "ServiceID": "s1", "NodeID": "", "Slot": 1, "DesiredState": "running",
        "CreatedAt": "2026-11-21T10:00:00Z",
        "Spec": { "Resources": { "Reservations": { "NanoCPUs": CPU } } },
        "Status": { "State": "pending", "Err": INSUFFICIENT },
    }]);
    let services = json!([{
        "ID": "s1", "Version": { "Index": 1 }, "UpdatedAt": "2026-11-21T10:00:00Z",
        "Spec": { "Name": "web", "Mode": { "Replicated": { "Replicas": 1 } }, "TaskTemplate": {} },
    }]);
    for (path, answer) in [("/nodes", nodes), ("/tasks", waiting), ("/services", services)] {
        engine.lock().instead.insert(path, Instead::Answer(answer.to_string().leak()));
    }
}

#[tokio::test]
async fn the_leader_sends_when_something_has_changed_and_otherwise_every_minute() {
    let (engine, stub) = (FakeEngine::start(RELEASES[0]), Stub::start().await);
    let mut node = Node::example(engine.swarm(), &stub).await;
    let membership = Membership { node_id: "n1".into(), ..Membership::example() };
    let sent = || stub.requests().iter().filter(|it| it.contains("PutMetricData")).count();
    const PUT: &str = "<PutMetricDataResponse/>";
    // Auto Scaling lists no group; the ledger has no rows.
    const GROUPS: &str = "<DescribeAutoScalingGroupsResponse><DescribeAutoScalingGroupsResult>
        <AutoScalingGroups/></DescribeAutoScalingGroupsResult></DescribeAutoScalingGroupsResponse>";
    stub.compute(|body| {
        let answer = match body {
            body if body.contains("PutMetricData") => PUT,
            body if body.contains("DescribeAutoScalingGroups") => GROUPS,
            _ => r#"{ "Count": 0, "Items": [] }"#,
        };
        Some((200, answer.to_owned()))
    });
    let mut memory = Memory::default();
    let mut complaints = Complaints::default();
    let mut poll_once = async |node: &Node, leader: &str| {
        world(&engine, leader);
        let fleet = Fleet::new(node, &membership);
        let with = Poll { fleet: &fleet, memory: &mut memory, complaints: &mut complaints };
        poll(with).await
    };
    poll_once(&node, "n1").await.unwrap();
    assert_eq!(sent(), 0, "it is not wanted");
    node.settings.capacity.cloudwatch = true;
    poll_once(&node, "n2").await.unwrap();
    assert_eq!(sent(), 0, "another one is the leader");
    poll_once(&node, "n1").await.unwrap();
    poll_once(&node, "n1").await.unwrap();
    assert_eq!(sent(), 1, "nothing has changed");
    let requests = stub.requests();
    let request = requests.iter().rfind(|it| it.contains("PutMetricData")).unwrap();
    assert!(
        request.contains("Value=prod-workers") && !request.contains("prod-managers"),
        "{request}"
    );
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(60)).await;
    tokio::time::resume();
    poll_once(&node, "n1").await.unwrap();
    assert_eq!(sent(), 2);
    engine.lock().instead.insert("/tasks", Instead::Refusal(500, "busy"));
    let fleet = Fleet::new(&node, &membership);
    let (mut memory, mut complaints) = (Memory::default(), Complaints::default());
    let with = Poll { fleet: &fleet, memory: &mut memory, complaints: &mut complaints };
    assert!(poll(with).await.is_err());
    assert_eq!(sent(), 2, "nothing is sent that is not known");
}
