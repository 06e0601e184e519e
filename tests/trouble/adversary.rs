//! A client with exactly the permissions of a worker: whatever it writes, nothing happens to any node but its own.
//!
//! Excluded by name, because IAM cannot narrow it to one instance (SECURITY.md): completing and heartbeating the lifecycle
//! hooks of the own group, and signalling the own stack.

use std::collections::BTreeMap;

use anyhow::{Context, ensure};
use harness::departures::{Leaver, hook_results, is_listed, node_id};
use harness::signed::Signer;
use harness::swarm::{self, CLUSTER, TABLE};
use harness::{PATIENCE, policies, secs};
use serde_json::{Value, json};
use skep_sim::cloud::{ActionResult, EventKind};
use skep_sim::fleet::{Fleet, Instance};

/// Every duty of every manager has polled several times by then.
const LONG_ENOUGH: std::time::Duration = secs(150);

/// What an attacker knows of a victim: everybody may read the managers' rows, and ids are no secrets.
struct Victim {
    instance: String,
    node: String,
    role: &'static str,
}

impl Victim {
    async fn of(instance: &Instance, role: &'static str) -> anyhow::Result<Self> {
        Ok(Self { instance: instance.id().to_owned(), node: node_id(instance).await?, role })
    }
}

/// What must stay as it is: of each instance its node, and of each node its role, availability and labels.
async fn state(fleet: &Fleet, but: &str) -> anyhow::Result<BTreeMap<String, String>> {
    let mut seen = BTreeMap::new();
    for instance in fleet.instances().iter().filter(|it| it.id() != but) {
        let node = fleet.listed(instance).await?;
        let spec = node.spec.clone().unwrap_or_default();
        let labels: BTreeMap<_, _> = spec.labels.unwrap_or_default().into_iter().collect();
        let view = fleet.cloud().instance(instance.id()).context("it is gone")?;
        let state = format!(
            "{:?} {:?} {:?} {:?} {labels:?} {:?} {} {:?} {:?}",
            node.id,
            node.status.and_then(|status| status.state),
            spec.role,
            spec.availability,
            view.lifecycle.as_str(),
            view.healthy,
            instance.skep_running(),
            instance.exit_codes()
        );
        seen.insert(instance.id().to_owned(), state);
    }
    Ok(seen)
}

/// The kinds of rows, with a content that skep itself would write about this victim.
fn kinds(victim: &Victim, now: i64) -> Vec<(String, Value)> {
    let Victim { instance, node, role } = victim;
    let text = |text: &str| json!({ "S": text });
    let number = |number: i64| json!({ "N": number.to_string() });
    let departure = |state: &str, stand_in: bool| {
        json!({
            "instance_id": text(instance), "node_id": text(node), "role": text(role),
            "reason": text("lifecycle"), "state": text(state), "boot_id": text("forged"),
            "requested_at": number(now), "deadline": number(now + 600),
            "expires_at": number(now + 3600), "stand_in": { "BOOL": stand_in },
            "ended": { "BOOL": true }, "demoted": { "BOOL": true },
        })
    };
    let own = json!({ "tier": text("forged") });
    let reserved = json!({ "tier": text("forged"), "skep.zone": text("forged") });
    let member = |state: &str, role: &str, labels: &Value| {
        json!({
            "instance_id": text(instance), "node_id": text(node), "role": text(role),
            "serves_as": text("manager"), "address": text("10.78.0.200"), "zone": text("a"),
            "group": text("test-workers"), "generation": number(9), "state": text(state),
            "labels": { "M": labels },
            "scheduling_hold": text("standby"), "has_leader": { "BOOL": true },
            "replace_because": text("forged"), "replace_asked_at": number(now),
            "updated_at": number(now),
        })
    };
    let request = json!({
        "instance_id": text(instance), "node_id": text(node), "because": text("forged"),
        "at": number(now), "expires_at": number(now + 600), "is_out": { "BOOL": true },
    });
    let attempt = json!({
        "instance_id": text(instance), "role": text(role), "address": text("10.78.0.200"),
        "at": number(now), "expires_at": number(now + 3600),
    });
    let lease = json!({
        "node_id": text(node), "taken_by": text(instance), "expires_at": number(now + 60),
    });
    let charter = json!({
        "phase": text("closed"), "generation": number(9), "founder": text(instance),
        "lease_expires_at": number(0), "swarm_id": text("forged"),
    });
    let mut kinds = vec![
        ("charter".to_owned(), charter),
        (
            "history".to_owned(),
            json!({ "generation": number(1 << 50), "swarm_id": text("forged") }),
        ),
        ("lease#demotion".to_owned(), lease.clone()),
        ("lease#replacement#test-workers".to_owned(), lease),
        (format!("demotion-request#{instance}"), request),
        (format!("attempt#{instance}"), attempt),
        (format!("departure#stand-in#{instance}"), departure("drained", true)),
        ("token#worker#1".to_owned(), json!({ "token": text("SWMTKN-1-forged") })),
    ];
    for state in ["requested", "draining", "drained", "left", "removed", "failed"] {
        kinds.push((format!("departure#{instance}"), departure(state, false)));
    }
    kinds.push((format!("departure#{instance}"), departure("left", true)));
    for role in ["manager", "worker"] {
        for state in ["ready", "leaving", "removed"] {
            for labels in [&own, &reserved] {
                kinds.push((format!("member#{role}#{instance}"), member(state, role, labels)));
            }
        }
    }
    kinds
}

/// Contents that skep would never write, one attribute changed in each.
fn spoiled(row: &Value, victim: &Victim) -> Vec<Value> {
    let values = [
        json!({ "S": "../services/web" }),
        json!({ "S": "\u{1b}[2J\u{7}" }),
        json!({ "S": "x".repeat(100_000) }),
        json!({ "S": "" }),
        json!({ "S": victim.node }),
        json!({ "S": victim.instance }),
        json!({ "S": "not a swarm manager" }),
        json!({ "N": "253402300799" }),
        json!({ "N": "-1" }),
        json!({ "N": "99999999999999999999999999999999999999" }),
        json!({ "BOOL": true }),
        json!({ "NULL": true }),
        json!({ "L": [{ "S": "x" }] }),
    ];
    let names: Vec<String> =
        row.as_object().into_iter().flat_map(|it| it.keys().cloned()).collect();
    let mut all = vec![];
    for (n, name) in names.iter().enumerate() {
        // Each attribute gets some of the values, each value comes at some attribute.
        for value in values.iter().skip(n % 3).step_by(3) {
            let mut row = row.clone();
            row[name] = value.clone();
            all.push(row);
        }
    }
    all
}

/// Counts the writes that were accepted, by partition.
#[derive(Default)]
struct Written {
    accepted: BTreeMap<String, u32>,
    refused: u32,
}

impl Written {
    fn count(&mut self, partition: &str, (status, body): (u16, String)) -> anyhow::Result<()> {
        match status {
            200 => *self.accepted.entry(partition.to_owned()).or_default() += 1,
            _ if body.contains("AccessDenied") => self.refused += 1,
            // Such as an empty key, or a number that DynamoDB does not store.
            _ => ensure!(body.contains("ValidationException"), "{status} {body}"),
        }
        Ok(())
    }
}

/// Writes every kind of row with every kind of content into every partition.
async fn write_everything(
    fleet: &Fleet,
    attacker: &Signer,
    partitions: &[String],
    victims: &[Victim],
    claims: &[Victim],
    written: &mut Written,
) -> anyhow::Result<()> {
    let now = time::OffsetDateTime::now_utc().unix_timestamp();
    let everywhere = victims.iter().flat_map(|it| partitions.iter().map(move |p| (it, p)));
    let at_home = claims.iter().map(|it| (it, &partitions[0]));
    for (victim, partition) in everywhere.chain(at_home) {
        for (item, row) in kinds(victim, now) {
            let contents = [vec![row.clone()], spoiled(&row, victim)].concat();
            // Every content where it may be accepted; elsewhere one of each kind.
            let is_own = partition == &partitions[0];
            for mut row in contents.into_iter().take(if is_own { usize::MAX } else { 1 }) {
                row["cluster"] = json!({ "S": partition });
                row["item"] = json!({ "S": item });
                row["schema"] = json!({ "N": "2" });
                let put = json!({ "TableName": TABLE, "Item": row });
                let put = attacker.json(fleet, "DynamoDB_20120810.PutItem", &put).await?;
                written.count(partition, put)?;
            }
            if !is_own {
                let key = json!({ "cluster": { "S": partition }, "item": { "S": item } });
                let delete = json!({ "TableName": TABLE, "Key": key });
                let update = json!({
                    "TableName": TABLE, "Key": key, "UpdateExpression": "SET #s = :s",
                    "ExpressionAttributeNames": { "#s": "state" },
                    "ExpressionAttributeValues": { ":s": { "S": "left" } },
                });
                let batch =
                    json!({ "RequestItems": { TABLE: [{ "PutRequest": { "Item": row } }] } });
                for (operation, input) in
                    [("DeleteItem", delete), ("UpdateItem", update), ("BatchWriteItem", batch)]
                {
                    let target = format!("DynamoDB_20120810.{operation}");
                    written.count(partition, attacker.json(fleet, &target, &input).await?)?;
                }
            }
        }
    }
    Ok(())
}

/// Ends with an error alone.
async fn write_forever(
    fleet: &Fleet,
    attacker: &Signer,
    partitions: &[String],
    victims: &[Victim],
    claims: &[Victim],
) -> anyhow::Result<()> {
    let mut written = Written::default();
    loop {
        write_everything(fleet, attacker, partitions, victims, claims, &mut written).await?;
    }
}

/// The calls of other services that concern other nodes.
async fn call_everything(
    fleet: &Fleet,
    attacker: &Signer,
    victims: &[Victim],
) -> anyhow::Result<()> {
    let mut forms = vec![];
    for Victim { instance, .. } in victims {
        for call in [
            format!("Action=SetInstanceHealth&InstanceId={instance}&HealthStatus=Unhealthy"),
            format!(
                "Action=TerminateInstanceInAutoScalingGroup&InstanceId={instance}&ShouldDecrementDesiredCapacity=true"
            ),
            format!(
                "Action=CompleteLifecycleAction&AutoScalingGroupName=test-managers&LifecycleHookName=skep-terminate&LifecycleActionResult=ABANDON&InstanceId={instance}"
            ),
        ] {
            forms.push(("autoscaling", format!("{call}&Version=2011-01-01")));
        }
        forms.push((
            "ec2",
            format!("Action=TerminateInstances&InstanceId.1={instance}&Version=2016-11-15"),
        ));
    }
    for (service, form) in forms {
        let (status, body) = attacker.form(fleet, service, &form).await?;
        let is_refused = body.contains("AccessDenied") || body.contains("UnauthorizedOperation");
        ensure!(status != 200 && is_refused, "{form}: {status} {body}");
    }
    for (target, name) in [
        ("AmazonSSM.GetParameter", "manager-token"),
        ("AmazonSSM.PutParameter", "worker-token"),
        ("AmazonSSM.PutParameter", "manager-token"),
    ] {
        let name = format!("/skep/{CLUSTER}/{name}/1");
        let input =
            json!({ "Name": name, "Value": "forged", "Overwrite": true, "Type": "SecureString" });
        let (status, body) = attacker.json(fleet, target, &input).await?;
        ensure!(status != 200 && body.contains("AccessDenied"), "{target} {name}: {status} {body}");
    }
    for (operation, input) in [
        ("Scan", json!({ "TableName": TABLE })),
        ("ListTables", json!({})),
        ("DeleteTable", json!({ "TableName": TABLE })),
    ] {
        let target = format!("DynamoDB_20120810.{operation}");
        let (status, body) = attacker.json(fleet, &target, &input).await?;
        ensure!(status != 200 && body.contains("AccessDenied"), "{operation}: {status} {body}");
    }
    Ok(())
}

#[tokio::test]
async fn a_workers_role_can_do_nothing_to_any_other_node() -> anyhow::Result<()> {
    let fleet = harness::fleet(harness::options()).await?;
    policies::enforce(fleet.cloud(), &[CLUSTER], &["ssm"])?;
    fleet.create_cluster(&swarm::cluster(3, 3))?;
    swarm::whole(&fleet, 3, 3).await?;
    swarm::announced(&fleet).await?;
    let workers = fleet.group("test-workers");
    let (own, others) = workers.split_first().context("three workers")?;
    let mut victims = vec![];
    for manager in fleet.group("test-managers") {
        victims.push(Victim::of(&manager, "manager").await?);
    }
    for worker in others {
        victims.push(Victim::of(worker, "worker").await?);
    }
    // Rows under the attacker's own keys that claim the node of another, or its own.
    let own_node = node_id(own).await?;
    let nodes = victims.iter().map(|it| (it.node.clone(), it.role)).chain([(own_node, "worker")]);
    let claim = |(node, role)| Victim { instance: own.id().to_owned(), node, role };
    let claims: Vec<Victim> = nodes.map(claim).collect();
    let partition = |id: &str| fleet.cloud().workers_partition(CLUSTER, id);
    let mut partitions = vec![partition(own.id())];
    partitions.extend(victims.iter().map(|it| partition(&it.instance)));
    partitions.extend([CLUSTER, "test#managers", "test#nodes"].map(str::to_owned));
    partitions.extend([partition("*"), partition(""), partition(own.id()).to_uppercase()]);
    // All nodes are labelled, so nothing that follows is skep's own doing.
    fleet
        .wait_until("all labels", PATIENCE, async || {
            let nodes = fleet.nodes().await?;
            let mut specs = nodes.iter().filter_map(|it| it.spec.as_ref()?.labels.as_ref());
            Ok(nodes.len() == 6 && specs.all(|labels| labels.contains_key("skep.labels")))
        })
        .await?;
    let before = (state(&fleet, own.id()).await?, swarm::charter(&fleet).await?);
    let events = fleet.cloud().events_since(0).len();

    let attacker = Signer::of(own).await?;
    let mut written = Written::default();
    let begin = tokio::time::Instant::now();
    call_everything(&fleet, &attacker, &victims).await?;
    while begin.elapsed() < LONG_ENOUGH {
        write_everything(&fleet, &attacker, &partitions, &victims, &claims, &mut written).await?;
    }
    assert_eq!(written.accepted.keys().collect::<Vec<_>>(), [&partitions[0]], "its own alone");
    ensure!(written.accepted[&partitions[0]] > 1_000 && written.refused > 1_000);

    let after = (state(&fleet, own.id()).await?, swarm::charter(&fleet).await?);
    assert_eq!(before, after);
    for event in fleet.cloud().events_since(events) {
        let of_another = match &event.kind {
            EventKind::LifecycleChanged { instance_id, .. }
            | EventKind::HookCompleted { instance_id, .. }
            | EventKind::Heartbeat { instance_id, .. } => instance_id != own.id(),
            _ => false,
        };
        ensure!(!of_another, "{event:?}");
    }
    for manager in fleet.group("test-managers") {
        let log = manager.log();
        let lines = log.matches("skipping unreadable ledger row").count();
        ensure!(lines <= 8, "{lines} lines about rows on {}", manager.id());
        ensure!(!log.contains('\u{7}') && !log.contains("panicked"), "{log}");
    }
    // The fleet carries on: a victim leaves in good order while the writes continue.
    let leaver = Leaver::of(&others[0]).await?;
    fleet.cloud().terminate(leaver.id(), true)?;
    let left = fleet.wait_until("a victim to leave in good order", PATIENCE, async || {
        let results = hook_results(&fleet, &leaver.instance);
        Ok(results == [ActionResult::Continue] && !is_listed(&fleet, &leaver.node_id).await?)
    });
    tokio::select! {
        left = left => left?,
        wrote = write_forever(&fleet, &attacker, &partitions[..1], &victims, &claims) => wrote?,
    }
    fleet.stop().await
}
