//! The swarm as a whole and the stores behind it: conditions to wait for, state to read, and ways to damage it.
//!
//! Assumption: the cluster of [`cluster`] in the default table, unless a name says otherwise.

use std::collections::{BTreeMap, BTreeSet};
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::Duration;

use crate::departures::is_identified;
use crate::signed::Signer;
use crate::{PATIENCE, secs};
use anyhow::{Context, bail, ensure};
use bollard::models::{LocalNodeState, Node, NodeState, Reachability, SwarmInfo, SwarmInitRequest};
use serde_json::{Map, Value, json};
use skep_sim::cloud::{ActionResult, Cloud, EventKind, Request};
use skep_sim::fleet::{ClusterSpec, Fleet, FleetOptions, Instance, LAUNCH_HOOK};
use skep_sim::machines::Launch;

/// Name of the cluster and its stack, and prefix of its groups' names.
pub const CLUSTER: &str = "test";
/// The ledger.
pub const TABLE: &str = "skep";

/// The cluster that scenarios launch.
#[must_use]
pub fn cluster(managers: u32, workers: u32) -> ClusterSpec {
    ClusterSpec::new(CLUSTER, managers, workers)
}

/// A fleet with that cluster, in which every node is Ready and has reported it.
///
/// # Errors
/// When this does not happen within [`PATIENCE`].
pub async fn standing(options: FleetOptions, managers: u32, workers: u32) -> anyhow::Result<Fleet> {
    let fleet = crate::fleet(options).await?;
    fleet.create_cluster(&cluster(managers, workers))?;
    all_ready(&fleet, (managers + workers) as usize).await?;
    whole(&fleet, managers as usize, workers as usize).await?;
    announced(&fleet).await?;
    fleet
        .wait_until("all nodes to be identified", PATIENCE, async || {
            Ok(fleet.nodes().await?.iter().all(is_identified))
        })
        .await?;
    Ok(fleet)
}

/// Sets a group's desired capacity.
pub fn resize(fleet: &Fleet, role: &str, desired: u32) -> anyhow::Result<()> {
    Ok(fleet.cloud().set_desired(&format!("{CLUSTER}-{role}s"), desired)?)
}

/// Waits until this many instances exist and each of them is Ready.
pub async fn all_ready(fleet: &Fleet, count: usize) -> anyhow::Result<()> {
    fleet
        .wait_until(&format!("{count} Ready nodes"), PATIENCE, async || {
            let instances = fleet.instances();
            Ok(instances.len() == count && instances.iter().all(|node| node.is_ready()))
        })
        .await
}

/// Waits until one instance is Ready.
pub async fn ready(fleet: &Fleet, instance: &Instance) -> anyhow::Result<()> {
    let what = format!("{} to be Ready", instance.id());
    fleet.wait_until(&what, PATIENCE, async || Ok(instance.is_ready())).await
}

/// The newest instance of a role, once this many of them exist and it is switched on.
pub async fn newest(fleet: &Fleet, role: &str, count: usize) -> anyhow::Result<Arc<Instance>> {
    let group = format!("{CLUSTER}-{role}s");
    fleet
        .wait_for(&format!("{role} number {count}"), PATIENCE, async || {
            let mut instances = fleet.group(&group);
            let newest = if instances.len() == count { instances.pop() } else { None };
            Ok(newest.filter(|instance| instance.is_on()))
        })
        .await
}

/// Waits for a text in skep's log. The test's next step may have to come before skep's: this polls more often than
/// other waits, and calls no service for it.
pub async fn logged(fleet: &Fleet, instance: &Instance, text: &str) -> anyhow::Result<()> {
    const LOOK_EVERY: Duration = Duration::from_millis(20);
    let what = format!("{:?} in the log of {}", text, instance.id());
    fleet
        .wait_until(&what, PATIENCE, async || {
            while !instance.log().contains(text) {
                tokio::time::sleep(LOOK_EVERY).await;
            }
            Ok(true)
        })
        .await
}

/// Waits until skep does not run any more on an instance, and returns its exit code.
pub async fn ended(fleet: &Fleet, instance: &Instance) -> anyhow::Result<i32> {
    let what = format!("skep to end on {}", instance.id());
    fleet
        .wait_for(&what, PATIENCE, async || {
            Ok(instance.exit_codes().last().copied().filter(|_| !instance.skep_running()))
        })
        .await
}

/// Waits until the node list is exactly these instances: managers that raft reaches, and workers, all ready and active,
/// each at its private address, each a member according to its own Docker, and all in the charter's swarm. Returns the
/// list.
pub async fn whole(fleet: &Fleet, managers: usize, workers: usize) -> anyhow::Result<Vec<Node>> {
    let what = format!("one swarm of {managers} managers and {workers} workers");
    fleet
        .wait_for(&what, PATIENCE, async || {
            let nodes = fleet.nodes().await?;
            check_whole(fleet, &nodes, managers, workers).await.map(|()| Some(nodes))
        })
        .await
}

async fn check_whole(
    fleet: &Fleet,
    nodes: &[Node],
    managers: usize,
    workers: usize,
) -> anyhow::Result<()> {
    let summary = summary(nodes);
    ensure!(nodes.len() == managers + workers, "{summary}");
    let are_managers = nodes.iter().filter(|node| node.manager_status.is_some());
    ensure!(are_managers.count() == managers, "{summary}");
    let is_well = |node: &Node| {
        let state = node.status.as_ref().and_then(|status| status.state);
        let raft = node.manager_status.as_ref().and_then(|raft| raft.reachability);
        let availability = node.spec.as_ref().and_then(|spec| spec.availability);
        state == Some(NodeState::READY)
            && raft.is_none_or(|raft| raft == Reachability::REACHABLE)
            && availability.is_some_and(|it| it.to_string() == "active")
    };
    ensure!(nodes.iter().all(is_well), "{summary}");

    let charter = charter(fleet).await?.context("there is no charter")?;
    ensure!(charter.phase == "open", "{charter:?}");
    let mut instances = fleet.instances();
    instances.retain(|instance| fleet.cloud().instance(instance.id()).is_some());
    ensure!(instances.len() == nodes.len(), "{} instances: {summary}", instances.len());
    for instance in &instances {
        let own = place(instance).await?;
        let address = instance.address().to_string();
        ensure!(own.local_node_state == Some(LocalNodeState::ACTIVE), "{address}: {own:?}");
        ensure!(own.error.as_deref().unwrap_or_default().is_empty(), "{address}: {own:?}");
        ensure!(own.node_addr.as_deref() == Some(&*address), "{address}: {own:?}");
        // A manager reports the swarm's id; for a worker, its node id is in the list.
        if let Some(swarm) = own.cluster.and_then(|cluster| cluster.id) {
            ensure!(charter.swarm_id.as_ref() == Some(&swarm), "{address} is in {swarm}");
        }
        let listed = nodes.iter().find(|node| node.id == own.node_id).context("not listed")?;
        let seen_at = listed.status.as_ref().and_then(|status| status.addr.as_deref());
        ensure!(seen_at == Some(&address), "{address} is listed at {seen_at:?}");
        let raft_at = listed.manager_status.as_ref().and_then(|raft| raft.addr.clone());
        let expected = format!("{address}:2377");
        ensure!(raft_at.is_none_or(|raft_at| raft_at == expected), "{summary}");
    }
    Ok(())
}

/// The node list in short, for errors.
#[must_use]
pub fn summary(nodes: &[Node]) -> String {
    let line = |node: &Node| {
        let status = node.status.clone().unwrap_or_default();
        let raft = node.manager_status.as_ref().and_then(|raft| raft.reachability);
        let availability = node.spec.as_ref().and_then(|spec| spec.availability);
        let (addr, state) = (status.addr.unwrap_or_default(), status.state);
        format!("{addr} {state:?} {availability:?} raft {raft:?}")
    };
    nodes.iter().map(line).collect::<Vec<_>>().join("; ")
}

/// The swarm state that an instance's own Docker reports.
pub async fn place(instance: &Instance) -> anyhow::Result<SwarmInfo> {
    let info = instance.docker()?.info().await?;
    info.swarm.context("Docker says nothing of a swarm")
}

/// Demotes a manager, as an operator does, and waits until it is out of raft.
pub async fn demote(docker: &bollard::Docker, node: &str) -> anyhow::Result<()> {
    use bollard::models::NodeSpecRoleEnum;
    use bollard::query_parameters::UpdateNodeOptionsBuilder;
    let begin = tokio::time::Instant::now();
    loop {
        let seen = docker.inspect_node(node).await?;
        if seen.manager_status.is_none() {
            break;
        }
        ensure!(begin.elapsed() < PATIENCE, "it stays a manager");
        let mut spec = seen.spec.context("no spec")?;
        spec.role = Some(NodeSpecRoleEnum::WORKER);
        let version = seen.version.and_then(|it| it.index).context("no version")?;
        let options = UpdateNodeOptionsBuilder::default().version(i64::try_from(version)?).build();
        // Docker refuses this when a manager's skep has labelled the node in between.
        docker.update_node(node, spec, options).await.ok();
        tokio::time::sleep(secs(1)).await;
    }
    Ok(())
}

/// The id of the swarm that a manager is in.
pub async fn swarm_of(instance: &Instance) -> anyhow::Result<Option<String>> {
    let id = place(instance).await?.cluster.and_then(|cluster| cluster.id);
    Ok(id.filter(|id| !id.is_empty()))
}

/// Every swarm that each instance's Docker managed while `work` ran.
pub async fn swarms_during<T>(
    fleet: &Fleet,
    work: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<(T, BTreeMap<String, BTreeSet<String>>)> {
    let mut seen = BTreeMap::<String, BTreeSet<String>>::new();
    let look = async {
        loop {
            for instance in fleet.instances() {
                // Docker does not answer when it is stopped, waits for a leader, or is a worker's.
                let look = async { anyhow::Ok(instance.docker()?.inspect_swarm().await?.id) };
                if let Ok(Ok(Some(swarm))) = tokio::time::timeout(secs(1), look).await {
                    seen.entry(instance.id().to_owned()).or_default().insert(swarm);
                }
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    let done = tokio::select! {
        done = work => done?,
        () = look => bail!("polling never ends"),
    };
    Ok((done, seen))
}

/// Waits until the stack is complete, and every instance has sent one signal, SUCCESS, and has completed its launch
/// hook once, with CONTINUE.
pub async fn announced(fleet: &Fleet) -> anyhow::Result<()> {
    fleet
        .wait_until("complete stack and hooks", PATIENCE, async || {
            let stack = fleet.cloud().stack(CLUSTER).context("there is no stack")?;
            ensure!(stack.status == "CREATE_COMPLETE", "{stack:?}");
            for instance in fleet.instances() {
                if fleet.cloud().instance(instance.id()).is_none() {
                    continue;
                }
                let (signals, hooks) = said(fleet, instance.id());
                let id = instance.id();
                ensure!(signals == ["SUCCESS"], "{id}: signals {signals:?}");
                ensure!(hooks == [ActionResult::Continue], "{id}: hooks {hooks:?}");
            }
            Ok(true)
        })
        .await
}

/// Every status that an instance has sent to CloudFormation, whether CloudFormation waited for it or not, and every
/// result of its launch hook.
#[must_use]
pub fn said(fleet: &Fleet, instance_id: &str) -> (Vec<String>, Vec<ActionResult>) {
    said_to(fleet.cloud(), instance_id)
}

/// [`said`], for a cloud.
#[must_use]
pub fn said_to(cloud: &Cloud, instance_id: &str) -> (Vec<String>, Vec<ActionResult>) {
    let unique_id = format!("UniqueId={instance_id}");
    let status = |call: &Request| {
        let mut parts = call.summary.split(' ');
        parts.find_map(|part| part.strip_prefix("Status=")).map(str::to_owned)
    };
    let requests = cloud.requests();
    let signals = requests.iter().filter(|call| {
        call.action == "SignalResource" && call.summary.split(' ').any(|part| part == unique_id)
    });
    let mut hooks = vec![];
    for event in cloud.events_since(0) {
        match event.kind {
            EventKind::HookCompleted { instance_id: id, hook, result }
                if id == instance_id && hook == LAUNCH_HOOK =>
            {
                hooks.push(result);
            }
            _ => {}
        }
    }
    (signals.filter_map(status).collect(), hooks)
}

/// Waits until a node has reported its failure: FAILURE and ABANDON, nothing else.
pub async fn gave_up(fleet: &Fleet, instance: &Instance) -> anyhow::Result<()> {
    let what = format!("FAILURE and ABANDON of {}", instance.id());
    fleet
        .wait_until(&what, PATIENCE, async || {
            let (signals, hooks) = said(fleet, instance.id());
            ensure!(signals == ["FAILURE"], "signals {signals:?}");
            ensure!(hooks == [ActionResult::Abandon], "hooks {hooks:?}");
            Ok(true)
        })
        .await
}

/// A machine that the cloud does not know, and that is the manager of its own swarm.
pub async fn another_swarm(fleet: &Fleet) -> anyhow::Result<Arc<Instance>> {
    let other = fleet.launch(Launch {
        instance_id: "i-0ffffffffffffffff".to_owned(),
        private_address: [10, 78, 0, 99].into(),
        zone: "eu-central-1a".to_owned(),
        group: "foreign".to_owned(),
        image_id: String::new(),
        tags: BTreeMap::new(),
    })?;
    found_by_hand(&other).await?;
    Ok(other)
}

/// `docker swarm init` on an instance; returns the swarm's id.
pub async fn found_by_hand(instance: &Instance) -> anyhow::Result<String> {
    let what = SwarmInitRequest {
        advertise_addr: Some(instance.address().to_string()),
        listen_addr: Some("0.0.0.0:2377".to_owned()),
        ..Default::default()
    };
    let fresh = secs(60);
    let begin = tokio::time::Instant::now();
    // A machine that was just launched is not switched on yet.
    while !instance.is_on() && begin.elapsed() < fresh {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    instance.wait_docker().await?.init_swarm(what).await?;
    swarm_of(instance).await?.context("it has founded no swarm")
}

/// The calls of one instance whose action is `action`.
#[must_use]
pub fn calls(fleet: &Fleet, instance: &Instance, action: &str) -> Vec<Request> {
    let mut calls = fleet.cloud().requests();
    calls
        .retain(|call| call.instance_id.as_deref() == Some(instance.id()) && call.action == action);
    calls
}

/// Runs a command on the instance's own system to its end.
pub async fn sh(instance: &Instance, script: &str) -> anyhow::Result<Output> {
    let output = instance.run(shell(script)).await?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{script}: {}: {}", output.status, error.trim());
    Ok(output)
}

/// Starts a command on the instance that runs until the instance ends.
pub fn sh_in_background(instance: &Arc<Instance>, script: &str) {
    let (instance, command) = (Arc::clone(instance), shell(script));
    tokio::spawn(async move { instance.run(command).await });
}

fn shell(script: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", script]);
    command
}

/// The charter, as stored in the ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Charter {
    pub phase: String,
    pub generation: u64,
    pub founder: String,
    pub swarm_id: Option<String>,
    pub ca_digest: Option<String>,
}

/// The charter, if a manager has claimed. Read with a Query, so that a held GetItem does not delay the test.
pub async fn charter(fleet: &Fleet) -> anyhow::Result<Option<Charter>> {
    let Some(row) = rows(fleet, CLUSTER, "charter").await?.pop() else { return Ok(None) };
    let text = |name: &str| row.get(name)?.as_str().map(str::to_owned);
    Ok(Some(Charter {
        phase: text("phase").context("no phase")?,
        generation: row.get("generation").and_then(Value::as_u64).context("no generation")?,
        founder: text("founder").context("no founder")?,
        swarm_id: text("swarm_id"),
        ca_digest: text("ca_digest"),
    }))
}

/// The rows of a partition of the ledger whose sort key begins with `prefix`, as plain JSON.
pub async fn rows(
    fleet: &Fleet,
    partition: &str,
    prefix: &str,
) -> anyhow::Result<Vec<Map<String, Value>>> {
    let input = json!({
        "TableName": TABLE, "ConsistentRead": true,
        "KeyConditionExpression": "#c = :c AND begins_with(#i, :p)",
        "ExpressionAttributeNames": { "#c": "cluster", "#i": "item" },
        "ExpressionAttributeValues": { ":c": { "S": partition }, ":p": { "S": prefix } },
    });
    let output = call(fleet, "DynamoDB_20120810.Query", &input).await?;
    let items = output["Items"].as_array().context("a Query without Items")?;
    items.iter().map(plain).collect()
}

/// The rows that workers have written about themselves, each in a partition of its own, whose sort key begins with
/// `prefix`, as plain JSON.
pub fn workers_rows(fleet: &Fleet, prefix: &str) -> anyhow::Result<Vec<Map<String, Value>>> {
    let begins = |row: &Value, name: &str, with: &str| {
        row[name]["S"].as_str().is_some_and(|text| text.starts_with(with))
    };
    let partitions = fleet.cloud().workers_partition(CLUSTER, "");
    let mut rows = fleet.cloud().rows(TABLE)?;
    rows.retain(|row| begins(row, "cluster", &partitions) && begins(row, "item", prefix));
    rows.iter().map(plain).collect()
}

/// Puts a whole row into the ledger; an existing one is overwritten.
pub async fn put_row(fleet: &Fleet, row: &Map<String, Value>) -> anyhow::Result<()> {
    let typed = |value: &Value| match value {
        Value::String(text) => json!({ "S": text }),
        Value::Bool(flag) => json!({ "BOOL": flag }),
        // As `plain` has left it: the values inside have their types already.
        Value::Object(typed) => json!({ "M": typed }),
        other => json!({ "N": other.to_string() }),
    };
    let item: Map<_, _> = row.iter().map(|(name, value)| (name.clone(), typed(value))).collect();
    let input = json!({ "TableName": TABLE, "Item": item });
    call(fleet, "DynamoDB_20120810.PutItem", &input).await.map(drop)
}

fn plain(item: &Value) -> anyhow::Result<Map<String, Value>> {
    let item = item.as_object().context("an item that is no object")?;
    let value = |typed: &Value| -> anyhow::Result<Value> {
        let (kind, value) = typed.as_object().and_then(|it| it.iter().next()).context("no type")?;
        match (kind.as_str(), value.as_str()) {
            ("N", Some(number)) => Ok(serde_json::from_str(number)?),
            _ => Ok(value.clone()),
        }
    };
    item.iter().map(|(name, typed)| Ok((name.clone(), value(typed)?))).collect()
}

/// The name of a token's parameter.
#[must_use]
pub fn token_name(role: &str, generation: u64) -> String {
    format!("/skep/{CLUSTER}/{role}-token/{generation}")
}

/// The value of a parameter.
pub async fn parameter(fleet: &Fleet, name: &str) -> anyhow::Result<String> {
    let input = json!({ "Name": name, "WithDecryption": true });
    let output = call(fleet, "AmazonSSM.GetParameter", &input).await?;
    Ok(output["Parameter"]["Value"].as_str().context("a parameter without a value")?.to_owned())
}

/// Stores a parameter over the present one, as an operator does.
pub async fn put_parameter(fleet: &Fleet, name: &str, value: &str) -> anyhow::Result<()> {
    let input = json!({ "Name": name, "Value": value, "Type": "SecureString", "Overwrite": true });
    call(fleet, "AmazonSSM.PutParameter", &input).await.map(drop)
}

/// One call of an operator to an AWS service that speaks JSON. `target` is the `X-Amz-Target`.
pub async fn call(fleet: &Fleet, target: &str, input: &Value) -> anyhow::Result<Value> {
    let (status, body) = Signer::operator().json(fleet, target, input).await?;
    ensure!(status == 200, "{target}: {status}: {body}");
    Ok(serde_json::from_str(&body)?)
}
