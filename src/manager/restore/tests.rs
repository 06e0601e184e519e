//! Tests every rule of a plan, and a restore that stops half-way.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::{Value, json};
use time::OffsetDateTime;

use super::plan::APPROVAL;
use super::*;
use crate::clients::docker::tests::fake_engine::{FakeEngine, Instead, RELEASES};
use crate::common::instance::Role;

fn service(name: &str, more: &Value) -> Value {
    let mut spec = json!({
        "Name": name, "Labels": {}, "Mode": { "Replicated": { "Replicas": 2 } },
        "TaskTemplate": { "ContainerSpec": { "Image": "app:1", "Env": ["PASSWORD=x"] } },
    });
    for (pointer, value) in more.as_object().unwrap() {
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        spec.pointer_mut(parent).unwrap()[key] = value.clone();
    }
    spec
}

fn content(services: Vec<Value>) -> Content {
    Content { services, ..Content::default() }
}

fn empty() -> Present {
    let node = NodeView {
        labels: [("disk".to_owned(), "ssd".to_owned())].into(),
        ..NodeView::example("n1", Role::Worker)
    };
    Present { content: Content::default(), nodes: vec![node] }
}

fn names(plan: &Plan) -> Vec<String> {
    plan.steps.iter().map(|step| format!("{} {}", step.kind(), step.name())).collect()
}

fn texts(notes: &[Note]) -> Vec<String> {
    notes.iter().map(|note| format!("{} {}: {}", note.kind, note.name, note.text)).collect()
}

fn network(name: &str, subnet: &str) -> Value {
    json!({
        "Name": name, "Driver": "overlay", "Scope": "swarm",
        "IPAM": { "Driver": "default", "Config": [{ "Subnet": subnet }] },
    })
}

#[test]
fn networks_and_configs_come_before_the_services() {
    let mut backup = content(vec![service(
        "web",
        &json!({
            "/TaskTemplate/Networks": [{ "Target": "back" }, { "Target": "host" }],
            "/TaskTemplate/ContainerSpec/Configs": [{ "ConfigName": "conf" }],
        }),
    )]);
    backup.networks = vec![network("back", "10.0.1.0/24")];
    backup.configs = vec![json!({ "Name": "conf", "Data": "QQ==" })];
    backup.labels = BTreeMap::from([("team".into(), "a".into()), ("kept".into(), "b".into())]);
    let mut present = empty();
    present.content.labels.insert("kept".into(), "another".into());
    let plan = plan(&backup, &present);
    assert_eq!(names(&plan), ["labels team", "network back", "config conf", "service web"]);
    assert!(!plan.is_incomplete() && plan.remarks.is_empty());
    assert!(plan.steps[1] == Step::Network(backup.networks[0].clone()));
}

#[test]
fn the_ingress_network_is_not_created_and_a_subnet_in_use_is_not_asked_for() {
    let mut ingress = network("ingress", "10.0.0.0/24");
    ingress["Ingress"] = json!(true);
    let mut backup = content(vec![]);
    backup.networks =
        vec![network("a", "10.0.0.128/25"), network("b", "10.0.7.0/24"), ingress.clone()];
    let mut present = empty();
    present.content.networks = vec![ingress];
    let plan = plan(&backup, &present);
    // Docker accepts a subnet that is in use, and such a network never works: one that gets any subnet comes last.
    assert_eq!(names(&plan), ["network b", "network a"]);
    let subnets = |step: &Step| match step {
        Step::Network(spec) => spec["IPAM"]["Config"].clone(),
        _ => Value::Null,
    };
    assert_eq!(subnets(&plan.steps[0]), json!([{ "Subnet": "10.0.7.0/24" }]));
    assert_eq!(subnets(&plan.steps[1]), Value::Null);
    let said = "network a: its subnet is in use by ingress, so it gets another one";
    assert_eq!(texts(&plan.remarks), [said]);
}

#[test]
fn what_exists_is_left_alone() {
    let mut backup = content(vec![service("same", &json!({})), service("other", &json!({}))]);
    backup.configs = vec![json!({ "Name": "conf", "Data": "QQ==" })];
    backup.networks = vec![network("back", "10.0.1.0/24")];
    let mut present = empty();
    let changed = json!({ "/Mode/Replicated": { "Replicas": 5 } });
    present.content.services = vec![service("same", &json!({})), service("other", &changed)];
    present.content.configs = vec![json!({ "Name": "conf", "Data": "Qg==" })];
    present.content.networks = vec![network("back", "10.0.9.0/24")];
    let plan = plan(&backup, &present);
    assert!(plan.steps.is_empty());
    assert_eq!(
        texts(&plan.existing),
        [
            "network back: exists",
            "config conf: exists, and differs from the backup",
            "service same: exists",
            "service other: exists, and differs from the backup",
        ]
    );
}

#[test]
fn jobs_are_never_started() {
    for mode in ["ReplicatedJob", "GlobalJob"] {
        let backup = content(vec![service("job", &json!({ "/Mode": { mode: {} } }))]);
        let plan = plan(&backup, &empty());
        assert!(plan.steps.is_empty() && plan.is_incomplete());
        assert_eq!(texts(&plan.left_out), ["service job: it is a job, and jobs are never started"]);
    }
}

#[test]
fn a_service_with_data_starts_no_task() {
    let mounts = |types: &[&str]| {
        let mounts: Vec<Value> = types.iter().map(|it| json!({ "Type": it })).collect();
        json!({ "/TaskTemplate/ContainerSpec/Mounts": mounts })
    };
    for kind in ["volume", "bind", "cluster", "npipe", "later"] {
        let backup = content(vec![service("db", &mounts(&["tmpfs", kind]))]);
        let plan = plan(&backup, &empty());
        let [Step::Service(spec)] = &plan.steps[..] else { panic!("{kind}") };
        assert_eq!(spec["Mode"], json!({ "Replicated": { "Replicas": 0 } }), "{kind}");
        assert!(plan.remarks[0].text.contains("with 0 replicas"), "{kind}");
        // Run again, it is neither changed nor said to differ.
        let mut present = empty();
        present.content.services = vec![spec.clone()];
        assert_eq!(texts(&super::plan(&backup, &present).existing), ["service db: exists"]);
    }
    let backup = content(vec![service("web", &mounts(&["tmpfs", "image"]))]);
    let plan = plan(&backup, &empty());
    assert!(plan.steps == [Step::Service(backup.services[0].clone())] && plan.remarks.is_empty());
}

#[test]
fn a_global_service_with_data_waits_for_approval() {
    let more = json!({
        "/Mode": { "Global": {} },
        "/TaskTemplate/ContainerSpec/Mounts": [{ "Type": "volume" }],
        "/TaskTemplate/Placement": { "Constraints": ["node.role==worker"] },
    });
    let plan = plan(&content(vec![service("agent", &more)]), &empty());
    let [Step::Service(spec)] = &plan.steps[..] else { panic!() };
    assert_eq!(spec["Mode"], json!({ "Global": {} }));
    let constraints = &spec["TaskTemplate"]["Placement"]["Constraints"];
    assert_eq!(*constraints, json!(["node.role==worker", APPROVAL]));
    assert_eq!(plan.remarks.len(), 1, "that no node meets the added one is no news");
}

#[test]
fn services_wait_for_their_secrets() {
    let secrets = json!([{ "SecretName": "key" }, { "SecretName": "there" }]);
    let more = json!({ "/TaskTemplate/ContainerSpec/Secrets": secrets });
    let mut backup = content(vec![service("api", &more)]);
    let named = |name: &str| json!({ "Name": name });
    backup.secrets = vec![named("key"), named("there"), named("unused")];
    let mut present = empty();
    present.content.secrets = vec![named("there")];
    let first = plan(&backup, &present);
    assert!(first.steps.is_empty() && first.is_incomplete());
    assert_eq!(first.waiting, [Waiting { service: "api".into(), secrets: vec!["key".into()] }]);
    assert_eq!(first.missing_secrets, ["key", "unused"]);
    present.content.secrets.push(named("key"));
    let second = plan(&backup, &present);
    assert_eq!(names(&second), ["service api"]);
    assert!(second.waiting.is_empty());
}

#[test]
fn a_service_that_lacks_a_network_or_a_config_is_left_out() {
    let lost = json!({ "/TaskTemplate/Networks": [{ "Target": "xyz" }] });
    let gone = json!({ "/TaskTemplate/ContainerSpec/Configs": [{ "ConfigName": "gone" }] });
    let old = json!({ "/Networks": [{ "Target": "old" }] });
    let backup = content(vec![service("a", &lost), service("b", &gone), service("c", &old)]);
    let plan = plan(&backup, &empty());
    assert!(plan.steps.is_empty());
    assert_eq!(
        texts(&plan.left_out),
        [
            "service a: its network xyz is neither in the backup nor here",
            "service b: its config gone is neither in the backup nor here",
            "service c: its network old is neither in the backup nor here",
        ]
    );
}

/// Docker describes networks of other drivers without their options, and a credential spec by a config's id.
#[test]
fn what_docker_does_not_tell_in_whole_is_left_out() {
    let spec = json!({ "/TaskTemplate/ContainerSpec/Privileges": { "CredentialSpec": { "Config": "id" } } });
    let mut backup = content(vec![service("win", &spec)]);
    let driver = |name: &str, driver: &str| json!({ "Name": name, "Driver": driver });
    let mut with_config = driver("from", "macvlan");
    with_config["ConfigFrom"] = json!({ "Network": "parent" });
    backup.networks = vec![with_config, driver("lan", "macvlan")];
    let plan = plan(&backup, &empty());
    assert_eq!(names(&plan), ["network from"]);
    let said = texts(&plan.left_out);
    assert!(said[0].starts_with("network lan: Docker tells no options of the driver macvlan"));
    assert!(said[1].starts_with("service win: it has a credential spec"), "{said:?}");
}

#[test]
fn constraints_that_no_node_meets_are_reported_and_the_service_is_created() {
    let constrained = |constraints: &[&str]| {
        let more = json!({ "/TaskTemplate/Placement": { "Constraints": constraints } });
        plan(&content(vec![service("web", &more)]), &empty())
    };
    for (constraints, said) in [
        (&["node.labels.disk==ssd", "node.role == worker"][..], None),
        (&["node.labels.disk==hdd", "node.role==worker"], Some("node.labels.disk==hdd")),
        (&["node.labels.disk!=ssd"], Some("node.labels.disk!=ssd")),
        (&["node.role==manager", "node.hostname==x"], Some("node.role==manager, node.hostname==x")),
        (&["engine.labels.os==any"], None),
    ] {
        let plan = constrained(constraints);
        assert_eq!(names(&plan), ["service web"]);
        let said = said.map(|it| format!("service web: no node meets its constraint {it}"));
        assert_eq!(texts(&plan.remarks), said.into_iter().collect::<Vec<_>>());
    }
}

#[test]
fn no_word_of_a_plan_quotes_a_spec() {
    let more = json!({ "/TaskTemplate/ContainerSpec/Mounts": [{ "Type": "volume" }] });
    let plan = plan(&content(vec![service("web", &more)]), &empty());
    let said = format!("{:?} {:?}", names(&plan), plan.remarks);
    assert!(said.contains("web") && !said.contains("PASSWORD"));
}

/// Does to a swarm what a plan says.
fn applied(plan: &Plan, mut present: Present) -> Present {
    let content = &mut present.content;
    for step in &plan.steps {
        match step.clone() {
            Step::Labels(labels) => content.labels.extend(labels),
            Step::Network(spec) => content.networks.push(spec),
            Step::Config(spec) => content.configs.push(spec),
            Step::Service(spec) => content.services.push(spec),
        }
    }
    present
}

fn any_service() -> impl Strategy<Value = Value> {
    let mode = prop::sample::select(vec![
        json!({ "Replicated": { "Replicas": 3 } }),
        json!({ "Global": {} }),
        json!({ "ReplicatedJob": {} }),
        json!({ "GlobalJob": {} }),
    ]);
    let mounts = prop::sample::select(vec![json!([]), json!([{ "Type": "volume" }])]);
    let used = |names: &'static [&'static str]| prop::sample::subsequence(names, 0..=names.len());
    (
        "[a-d]",
        mode,
        mounts,
        used(&["n1", "n2", "host"]),
        used(&["c1", "c2"]),
        used(&["s1", "s2"]),
        prop::sample::select(vec![Value::Null, json!({ "Constraints": ["node.role==manager"] })]),
    )
        .prop_map(|(name, mode, mounts, networks, configs, secrets, placement)| {
            let list = |key: &str, names: &[&str]| {
                names.iter().map(|name| json!({ key: name })).collect::<Vec<_>>()
            };
            service(
                &name,
                &json!({
                    "/Mode": mode,
                    "/TaskTemplate/Placement": placement,
                    "/TaskTemplate/Networks": list("Target", &networks),
                    "/TaskTemplate/ContainerSpec/Mounts": mounts,
                    "/TaskTemplate/ContainerSpec/Configs": list("ConfigName", &configs),
                    "/TaskTemplate/ContainerSpec/Secrets": list("SecretName", &secrets),
                }),
            )
        })
}

fn any_content() -> impl Strategy<Value = Content> {
    let named = |names: &'static [&'static str]| {
        prop::sample::subsequence(names, 0..=names.len()).prop_map(|names| {
            names.into_iter().map(|name| json!({ "Name": name })).collect::<Vec<_>>()
        })
    };
    let networks = prop::sample::subsequence(vec!["n1", "n2"], 0..=2)
        .prop_map(|names| names.into_iter().map(|it| network(it, "10.0.1.0/24")).collect());
    let services = prop::collection::btree_map("[a-d]", any_service(), 0..4);
    (services, networks, named(&["c1", "c2"]), named(&["s1", "s2"])).prop_map(
        |(services, networks, configs, secrets): (_, Vec<Value>, _, _)| {
            let services = services.into_iter().map(|(name, mut spec)| {
                spec["Name"] = json!(name);
                spec
            });
            let services = services.collect();
            Content { services, networks, configs, secrets, labels: BTreeMap::new() }
        },
    )
}

proptest! {
    /// A swarm gets nothing more by a second restore, and nothing at all by that of its own backup.
    #[test]
    fn a_restore_is_done_once(backup in any_content(), there in any_content()) {
        let own = Present { content: there.clone(), nodes: vec![] };
        prop_assert!(plan(&there, &own).steps.is_empty());
        let first = plan(&backup, &own);
        let after = applied(&first, own);
        let second = plan(&backup, &after);
        prop_assert!(second.steps.is_empty(), "{:?}", names(&second));
        prop_assert_eq!(&first.waiting, &second.waiting);
        // Once the secrets exist, nothing waits.
        let mut with_secrets = after;
        with_secrets.content.secrets.clone_from(&vec![json!({ "Name": "s1" }), json!({ "Name": "s2" })]);
        let third = plan(&backup, &with_secrets);
        prop_assert_eq!(third.steps.len(), second.waiting.len());
        prop_assert!(plan(&backup, &applied(&third, with_secrets)).steps.is_empty());
    }

    /// Whatever the backup holds, no task of a job and none with data is started.
    #[test]
    fn nothing_is_started_that_must_not_be(backup in any_content()) {
        for step in plan(&backup, &empty()).steps {
            let Step::Service(spec) = step else { continue };
            prop_assert!(spec["Mode"]["ReplicatedJob"].is_null() && spec["Mode"]["GlobalJob"].is_null());
            let has_data = spec["TaskTemplate"]["ContainerSpec"]["Mounts"] != json!([]);
            let constraints = &spec["TaskTemplate"]["Placement"]["Constraints"];
            let is_approved = constraints.as_array().is_some_and(|all| all.contains(&json!(APPROVAL)));
            let has_tasks = spec["Mode"]["Replicated"]["Replicas"] != json!(0) && !is_approved;
            prop_assert!(has_tasks != has_data, "{spec}");
        }
    }
}

#[test]
fn it_begins_in_a_founded_generation_once_nodes_have_joined() {
    let now = OffsetDateTime::UNIX_EPOCH + time::Duration::days(20_000);
    let ago = |seconds: i64| now - time::Duration::seconds(seconds);
    let charter = |founded: i64| Charter {
        phase: CharterPhase::Open,
        generation: 2,
        founder: "i-1".into(),
        lease_expires_at: now,
        swarm_id: Some("s2".into()),
        ca_digest: None,
        founded_at: Some(ago(founded)),
        former: vec![],
        recovers: None,
        adopts: None,
    };
    let of = |charter: Option<&Charter>, joined: i64| {
        let joined_at = Some(ago(joined));
        let node = NodeView { joined_at, ..NodeView::example("n1", Role::Manager) };
        due(charter, "s2", 2, &[node], now)
    };
    assert_eq!(of(Some(&charter(70)), 60), Due::Now);
    assert_eq!(of(Some(&charter(70)), 59), Due::Later);
    assert_eq!(of(Some(&charter(600)), 1), Due::Now, "it does not wait for ever");
    assert_eq!(of(None, 60), Due::Later);
    for other in [
        Charter { phase: CharterPhase::Founding, ..charter(70) },
        Charter { generation: 3, ..charter(70) },
        Charter { swarm_id: Some("s1".into()), ..charter(70) },
    ] {
        assert_eq!(of(Some(&other), 60), Due::Later);
    }
    let recovered = Charter { recovers: Some("s2".into()), ..charter(70) };
    let adopted = Charter { adopts: Some("s2".into()), ..charter(70) };
    let unknown = Charter { founded_at: None, ..charter(70) };
    for other in [recovered, adopted, unknown, charter(86_400)] {
        assert_eq!(of(Some(&other), 600), Due::Never);
    }
}

fn day(n: i64) -> OffsetDateTime {
    OffsetDateTime::UNIX_EPOCH + time::Duration::days(20_000 + n)
}

fn restoration(backup: &str) -> Restoration {
    Restoration {
        generation: 3,
        state: RestorationState::Waiting,
        backup: Some(backup.to_owned()),
        by: "i-1".into(),
        begun_at: day(3),
        pending: BTreeSet::new(),
    }
}

/// What an operator has removed since must not come back, whoever leads the swarm by then.
#[test]
fn after_a_day_nothing_more_is_restored() {
    assert!(!is_too_old(&restoration("k"), day(4) - time::Duration::SECOND));
    assert!(is_too_old(&restoration("k"), day(4)));
}

#[test]
fn an_operator_gets_the_backup_of_the_swarm_that_was_lost() {
    let keys = [(0, 1), (1, 2), (2, 2), (3, 3)].map(|(n, of)| Key::example(day(n), of));
    let chosen = |recorded: Option<&Restoration>, has_services| {
        choose(&keys, recorded, "s3", has_services)
            .and_then(|key| keys.iter().position(|it| it == key))
    };
    assert_eq!(chosen(None, false), Some(2), "that of this swarm has no services yet");
    assert_eq!(chosen(None, true), Some(3));
    assert_eq!(chosen(Some(&restoration(&keys[1].text)), true), Some(1), "the restore continues");
    assert_eq!(chosen(Some(&restoration("deleted")), false), Some(2));
    assert_eq!(choose(&[], None, "s3", false), None);
}

const CONFIGS: &str = r#"[{ "ID": "id-c", "Spec": { "Name": "conf" } }]"#;
const SECRETS: &str = r#"[{ "ID": "id-s", "Spec": { "Name": "key" } }]"#;

fn whole_plan() -> Plan {
    let more = json!({
        "/TaskTemplate/ContainerSpec/Configs": [{ "ConfigName": "conf" }],
        "/TaskTemplate/ContainerSpec/Secrets": [{ "SecretName": "key" }],
    });
    let steps = vec![
        Step::Network(network("back", "10.0.1.0/24")),
        Step::Config(json!({ "Name": "conf", "Data": "QQ==" })),
        Step::Service(service("web", &more)),
        Step::Service(service("api", &json!({}))),
    ];
    Plan { steps, ..Plan::default() }
}

fn ready_engine() -> FakeEngine {
    let engine = FakeEngine::start(RELEASES[3]);
    let mut lock = engine.lock();
    lock.instead.insert("/configs", Instead::Answer(CONFIGS));
    lock.instead.insert("/secrets", Instead::Answer(SECRETS));
    for path in ["/networks/create", "/configs/create", "/services/create"] {
        lock.instead.insert(path, Instead::Answer(r#"{ "ID": "new" }"#));
    }
    drop(lock);
    engine
}

#[test]
fn what_waits_or_was_refused_is_tried_again_and_nothing_else() {
    let more = json!({ "/TaskTemplate/ContainerSpec/Secrets": [{ "SecretName": "key" }] });
    let mut backup = content(vec![service("api", &more), service("web", &json!({}))]);
    backup.networks = vec![network("back", "10.0.1.0/24"), network("front", "10.0.2.0/24")];
    let mut plan = plan(&backup, &empty());
    let row = restoration("k");
    let next = after(&plan, &["network back".to_owned()].into(), &row);
    assert_eq!(next.state, RestorationState::Waiting);
    assert!(next.pending.iter().eq(["network back", "service api"]));
    let long = ["x".repeat(200)].into();
    assert_eq!(after(&Plan::default(), &long, &row).state, RestorationState::Waiting);
    assert_eq!(after(&Plan::default(), &BTreeSet::new(), &row).state, RestorationState::Done);
    plan.keep(&next.pending);
    assert_eq!((names(&plan), plan.waiting.len()), (vec!["network back".into()], 1));
}

#[tokio::test]
async fn services_get_the_ids_of_this_swarm() {
    let engine = ready_engine();
    let mut done = vec![];
    let report = |step: &Step, what: &Done| done.push((step.name(), what.clone()));
    assert_eq!(apply(&engine.swarm(), &whole_plan(), report).await.unwrap(), 0);
    assert_eq!(done.len(), 4);
    let bodies: Vec<Value> = {
        let lock = engine.lock();
        let created = lock.asked.iter().filter(|asked| asked.what == "POST /services/create");
        created.map(|asked| asked.body.clone()).collect()
    };
    let container = &bodies[0]["TaskTemplate"]["ContainerSpec"];
    assert_eq!(container["Configs"][0]["ConfigID"], "id-c");
    assert_eq!(container["Secrets"][0]["SecretID"], "id-s");
    assert_eq!(bodies[1], service("api", &json!({})), "nothing is added to another one");
}

#[tokio::test]
async fn what_exists_by_now_is_no_failure_and_a_refusal_stops_no_other() {
    let engine = ready_engine();
    let exists = "network with name back already exists";
    engine.lock().instead.insert("/networks/create", Instead::Refusal(409, exists));
    let refusal = Instead::Refusal(400, "port '80' is already in use by service 'x'");
    engine.lock().instead.insert("/configs/create", refusal);
    let mut done = vec![];
    let report = |_: &Step, what: &Done| done.push(what.clone());
    assert_eq!(apply(&engine.swarm(), &whole_plan(), report).await.unwrap(), 1);
    assert_eq!(done[0], Done::Existed);
    assert!(matches!(&done[1], Done::Refused(why) if why.contains("port '80'")), "{done:?}");
    assert_eq!(done[2..], [Done::Created, Done::Created]);
    let quotes = Instead::Refusal(400, "invalid: expanding env \"PASSWORD={{.X}}\"");
    engine.lock().instead.insert("/services/create", quotes);
    apply(&engine.swarm(), &whole_plan(), |_, what| done.push(what.clone())).await.unwrap();
    assert!(!format!("{done:?}").contains("PASSWORD"), "{done:?}");
}

#[tokio::test]
async fn a_restore_without_a_leader_stops_and_does_nothing_else() {
    let engine = ready_engine();
    let gone = "rpc error: The swarm does not have a leader.";
    engine.lock().instead.insert("/configs/create", Instead::Refusal(503, gone));
    let mut done = 0;
    let result = apply(&engine.swarm(), &whole_plan(), |_, _| done += 1).await;
    assert!(result.is_err() && done == 1);
    let asked = engine.lock().asked.iter().any(|asked| asked.what.contains("services/create"));
    assert!(!asked);
    engine.lock().instead.insert("/configs/create", Instead::Answer("{}"));
    assert_eq!(apply(&engine.swarm(), &whole_plan(), |_, _| ()).await.unwrap(), 0);
}
