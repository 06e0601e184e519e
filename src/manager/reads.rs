//! Measures what the duties read from the ledger, in fleets of several sizes in which nothing is under way, and compares
//! it with the table of costs in `docs/deploy.md`.
//!
//! Docker, the ledger and Auto Scaling answer over their wire protocols; the clock is tokio's paused one, so that an hour
//! takes seconds.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use time::OffsetDateTime;

use super::*;
use crate::clients::aws::stub::Stub;
use crate::clients::docker::tests::fake_engine::{FakeEngine, Instead, RELEASES};
use crate::common::labels;

const MANAGERS: usize = 3;
/// Measured time.
const MINUTES: u32 = 10;
const WORKER_TOKEN: &str =
    "SWMTKN-1-00000000000000000000000000000000000000000000000000-1111111111111111111111111";
const MANAGER_TOKEN: &str =
    "SWMTKN-1-00000000000000000000000000000000000000000000000000-2222222222222222222222222";
const DEPLOY: &str = include_str!("../../docs/deploy.md");

/// Node, instance and address: the first ones are managers, and the first of all is the asking one.
fn names(n: usize) -> (String, String, String) {
    let instance = if n == 0 { "i-0abc".to_owned() } else { format!("i-{n:08x}") };
    (format!("n{}", n + 1), instance, format!("10.0.{}.{}", n / 200, n % 200 + 1))
}

/// Docker's list of so many nodes, all Ready and labelled.
fn nodes(number: usize, leader: usize) -> String {
    let node = |n: usize| {
        let (id, instance, address) = names(n);
        let labels = json!({
            labels::INSTANCE: instance, labels::ZONE: "eu-central-1a", labels::GROUP: "workers",
            labels::INSTANCE_TYPE: "t3.small", labels::MARKET: "on-demand", "skep.labels": "",
        });
        let manager = json!({
            "Leader": n == leader, "Reachability": "reachable", "Addr": format!("{address}:2377"),
        });
        let is_manager = n < MANAGERS;
        json!({
            "ID": id, "Version": { "Index": 12 }, "CreatedAt": "2026-11-21T10:00:00Z",
            "Spec": {
                "Labels": labels, "Availability": "active",
                "Role": if is_manager { "manager" } else { "worker" },
            },
            "Status": { "State": "ready", "Addr": address },
            "ManagerStatus": if is_manager { manager } else { Value::Null },
        })
    };
    Value::from((0..number).map(node).collect::<Vec<_>>()).to_string()
}

/// The row of a node, as DynamoDB returns it.
fn member(n: usize) -> Value {
    let (id, instance, address) = names(n);
    let role = if n < MANAGERS { "manager" } else { "worker" };
    let text = |text: &str| json!({ "S": text });
    let now = json!({ "N": OffsetDateTime::now_utc().unix_timestamp().to_string() });
    json!({
        "cluster": text("prod"), "item": text(&format!("member#{role}#{instance}")),
        "schema": { "N": "2" }, "instance_id": text(&instance), "node_id": text(&id),
        "role": text(role), "address": text(&address), "zone": text("eu-central-1a"),
        "group": text("workers"), "generation": { "N": "3" }, "state": text("ready"),
        "swarm_id": text("c1"), "labels": { "M": {} }, "updated_at": now,
        "has_leader": { "BOOL": true },
    })
}

/// What the ledger, the token store and Auto Scaling know.
struct World {
    members: BTreeMap<String, Value>,
    managers: Vec<Value>,
    charter: Value,
    groups: String,
}

impl World {
    fn of(number: usize) -> Self {
        let rows = || (0..number).map(member);
        let by_item = |row: Value| (row["item"]["S"].as_str().unwrap().to_owned(), row);
        Self {
            members: rows().map(by_item).collect(),
            managers: rows().take(MANAGERS).collect(),
            charter: json!({
                "schema": { "N": "2" }, "item": { "S": "charter" }, "phase": { "S": "open" },
                "generation": { "N": "3" }, "founder": { "S": "i-0abc" }, "swarm_id": { "S": "c1" },
                "lease_expires_at": { "N": "0" }, "ca_digest": { "S": "0".repeat(50) },
            }),
            groups: groups(number),
        }
    }

    fn answer(&self, body: &str) -> Option<(u16, String)> {
        if body.contains("Action=DescribeAutoScaling") {
            return Some((200, self.groups.clone()));
        }
        let input: Value = serde_json::from_str(body).ok()?;
        let answer = if let Some(tables) = input["RequestItems"].as_object() {
            let (table, keys) = tables.iter().next()?;
            let keys = keys["Keys"].as_array()?.iter().filter_map(|key| key["item"]["S"].as_str());
            let found: Vec<&Value> = keys.filter_map(|item| self.members.get(item)).collect();
            json!({ "Responses": { table: found }, "UnprocessedKeys": {} })
        } else if input["KeyConditionExpression"].is_string() {
            let found: Vec<&Value> = match body.contains("member$") {
                true => self.managers.iter().chain([&self.charter]).collect(),
                false => vec![],
            };
            json!({ "Count": found.len(), "Items": found })
        } else if let Some(name) = input["Name"].as_str() {
            if name.contains("unlock-key") {
                return Some((400, json!({ "__type": "ParameterNotFound" }).to_string()));
            }
            let token = if name.contains("worker") { WORKER_TOKEN } else { MANAGER_TOKEN };
            json!({ "Parameter": { "Name": name, "Value": token, "Version": 1 }, "Version": 1 })
        } else if input["Key"]["item"]["S"] == "charter" {
            json!({ "Item": self.charter })
        } else {
            json!({})
        };
        Some((200, answer.to_string()))
    }
}

/// All instances are in service; both actions list them.
fn groups(number: usize) -> String {
    let member = |n: usize| {
        format!(
            "<member><InstanceId>{}</InstanceId><AutoScalingGroupName>workers</AutoScalingGroupName>
             <LifecycleState>InService</LifecycleState><HealthStatus>Healthy</HealthStatus>
             <AvailabilityZone>eu-central-1a</AvailabilityZone>
             <ProtectedFromScaleIn>false</ProtectedFromScaleIn></member>",
            names(n).1
        )
    };
    let members: String = (0..number).map(member).collect();
    let group = format!(
        "<AutoScalingGroups><member><AutoScalingGroupName>workers</AutoScalingGroupName>
         <MinSize>0</MinSize><MaxSize>9</MaxSize><DesiredCapacity>9</DesiredCapacity>
         <DefaultCooldown>0</DefaultCooldown><AvailabilityZones/><HealthCheckType>EC2</HealthCheckType>
         <CreatedTime>2026-11-21T10:00:00Z</CreatedTime><Instances>{members}</Instances></member></AutoScalingGroups>"
    );
    let result =
        |action: &str, content: &str| format!("<{action}Result>{content}</{action}Result>");
    format!(
        "<Response>{}{}</Response>",
        result("DescribeAutoScalingGroups", &group),
        result(
            "DescribeAutoScalingInstances",
            &format!("<AutoScalingInstances>{members}</AutoScalingInstances>")
        )
    )
}

/// Returns the read units of an hour of one manager's duties. A consistent read of a row of up to 4 KB is one unit, also
/// if there is no row; so is the query of the few rows of managers.
async fn units_an_hour(workers: usize, is_leader: bool) -> usize {
    let number = MANAGERS + workers;
    let (engine, stub) = (FakeEngine::start(RELEASES[0]), Stub::start().await);
    let world = World::of(number);
    stub.compute(move |body| world.answer(body));
    let list = nodes(number, usize::from(!is_leader)).leak();
    let tokens = json!({ "Worker": WORKER_TOKEN, "Manager": MANAGER_TOKEN });
    let labels = json!({ "skep.cluster": "prod", "skep.generation": "3" });
    let swarm = json!({
        "ID": "c1", "Version": { "Index": 1 }, "Spec": { "Labels": labels }, "JoinTokens": tokens,
    });
    let swarm: &'static str = swarm.to_string().leak();
    for (path, answer) in
        [("/nodes", &*list), ("/swarm", swarm), ("/swarm/unlockkey", r#"{ "UnlockKey": "" }"#)]
    {
        engine.lock().instead.insert(path, Instead::Answer(answer));
    }
    let node = Node::example(engine.swarm(), &stub).await;
    let membership = Membership {
        node_id: "n1".into(),
        swarm_id: "c1".into(),
        generation: 3,
        ..Membership::example()
    };
    let fleet = Fleet::new(&node, &membership);
    let mut running = duties(&fleet, Scope::All);
    tokio::time::pause();
    let all = tokio::time::timeout(Duration::from_secs(60) * MINUTES, running.next()).await;
    tokio::time::resume();
    assert!(all.is_err(), "a duty has ended");
    assert_eq!(node.state.now().trouble, None, "nothing is under way");
    let requests = stub.requests();
    let units = |body: &String| {
        let input = serde_json::from_str::<Value>(body).unwrap_or_default();
        match input["RequestItems"].as_object() {
            Some(tables) => {
                tables.values().filter_map(|it| it["Keys"].as_array()).map(Vec::len).sum()
            }
            None if input["KeyConditionExpression"].is_string() => 1,
            None => usize::from(input["Key"].is_object() && input["UpdateExpression"].is_null()),
        }
    };
    requests.iter().map(units).sum::<usize>() * 60 / MINUTES as usize
}

/// Returns the numbers of a line of the table, by their size.
fn documented(line: &str) -> Vec<usize> {
    let found = DEPLOY.lines().find(|it| it.starts_with(line)).expect("the line is there");
    let cells = found.trim_matches('|').split('|').skip(2);
    cells.map(|cell| cell.trim().replace(',', "").parse().unwrap()).collect()
}

#[tokio::test]
async fn an_idle_fleet_costs_what_the_documents_say() {
    let mut wrong = vec![];
    for (line, is_leader) in [
        ("| measured: the duties of the leader |", true),
        ("| measured: the duties of each other manager |", false),
    ] {
        for (workers, documented) in [5, 50, 500].into_iter().zip(documented(line)) {
            let units = units_an_hour(workers, is_leader).await;
            let is_near = units.abs_diff(documented) * 20 < documented;
            if !is_near {
                wrong.push(format!("{line} {workers} workers: {units}, documented: {documented}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
