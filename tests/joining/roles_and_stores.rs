//! Managers and workers join, with either token store and either kind of tags, over private addresses only, and each
//! role reads only its own token.

use std::collections::BTreeMap;

use anyhow::ensure;
use harness::swarm::{self, CLUSTER, TABLE};
use skep_sim::cloud::{ActionResult, Transition, Who};
use skep_sim::cloud::{Deny, GroupSpec, HookSpec, Service, StackResourceSpec, StackSpec};
use skep_sim::fleet::{Fleet, FleetOptions, LAUNCH_HOOK};

/// All calls that a boot may make to AWS.
const ASKED: [&str; 13] = [
    "BatchGetItem",
    "CompleteLifecycleAction",
    "DeleteItem",
    "DescribeAutoScalingGroups",
    "DescribeAutoScalingInstances",
    "DescribeInstances",
    "DescribeLifecycleHooks",
    "GetItem",
    "GetParameter",
    "PutItem",
    "PutParameter",
    "Query",
    "SignalResource",
];

#[tokio::test]
async fn with_tokens_in_ssm() -> anyhow::Result<()> {
    let fleet = harness::fleet(harness::options()).await?;
    // The same denial as in the policy of a worker's role.
    let worker = Who::Role("skep-worker".to_owned());
    let deny = Deny::new(worker.clone(), Service::Ssm, "*").on("*/manager-token/*");
    fleet.cloud().deny(deny);
    fleet.cloud().deny(Deny::new(worker, Service::Ssm, "Put*"));
    fleet.create_cluster(&swarm::cluster(3, 2))?;
    joined(&fleet).await?;
    for instance in fleet.group("test-workers") {
        let read = swarm::calls(&fleet, &instance, "GetParameter");
        ensure!(!read.is_empty());
        for call in read {
            assert_eq!(call.summary, swarm::token_name("worker", 1));
        }
    }
    let mut parameters = fleet.cloud().parameter_names();
    parameters.sort();
    assert_eq!(parameters, [swarm::token_name("manager", 1), swarm::token_name("worker", 1)]);
    fleet.stop().await
}

#[tokio::test]
async fn with_tokens_in_dynamodb() -> anyhow::Result<()> {
    let config = Some("[tokens]\nstore = \"dynamodb\"\n".to_owned());
    let fleet = harness::fleet(FleetOptions { config, ..harness::options() }).await?;
    // The effect of `dynamodb:LeadingKeys` in the policy of a worker's role; and no node needs SSM.
    let managers = format!("{TABLE}/{CLUSTER}#managers");
    let worker = Who::Role("skep-worker".to_owned());
    fleet.cloud().deny(Deny::new(worker, Service::DynamoDb, "*").on(&managers));
    fleet.cloud().deny(Deny::new(Who::Anyone, Service::Ssm, "*"));
    fleet.create_cluster(&swarm::cluster(3, 2))?;
    joined(&fleet).await?;
    ensure!(fleet.cloud().requests().iter().all(|call| call.service != Service::Ssm));
    let rows = swarm::rows(&fleet, &format!("{CLUSTER}#managers"), "token#").await?;
    let items: Vec<_> = rows.iter().filter_map(|row| row["item"].as_str()).collect();
    assert_eq!(items, ["token#manager#1"]);
    let rows = swarm::rows(&fleet, CLUSTER, "token#").await?;
    let items: Vec<_> = rows.iter().filter_map(|row| row["item"].as_str()).collect();
    assert_eq!(items, ["token#worker#1"]);
    fleet.stop().await
}

/// Only the tags of Docker for AWS define the roles here.
#[tokio::test]
async fn with_the_tags_of_docker_for_aws() -> anyhow::Result<()> {
    let fleet = harness::fleet(harness::options()).await?;
    let cloud = fleet.cloud();
    cloud.create_table(TABLE)?;
    let stack = "arn:aws:cloudformation:eu-central-1:123456789012:stack/legacy/7b3e11";
    let resource = |logical_id: &str, signals| StackResourceSpec {
        logical_id: logical_id.to_owned(),
        group: None,
        signals,
        timeout: harness::secs(900),
    };
    let resources = vec![resource("One", 2), resource("Other", 1)];
    cloud.create_stack(StackSpec { name: CLUSTER.to_owned(), resources })?;
    for (name, logical_id, role, desired) in
        [("first", "One", "manager", 2), ("second", "Other", "worker", 1)]
    {
        let tags = [("swarm-node-type", role), ("swarm-stack-id", stack)];
        let group = GroupSpec {
            name: name.to_owned(),
            max: 9,
            desired,
            tags: tags.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
            stack: Some((CLUSTER.to_owned(), logical_id.to_owned())),
            ..GroupSpec::default()
        };
        let hook = HookSpec::new(name, LAUNCH_HOOK, Transition::Launching)
            .timeout(harness::secs(300), ActionResult::Abandon);
        cloud.create_group_with_hooks(group, vec![hook])?;
    }
    swarm::all_ready(&fleet, 3).await?;
    let roles: BTreeMap<_, _> = fleet
        .instances()
        .into_iter()
        .map(|instance| {
            let is_manager = instance.log().contains("cluster=\"legacy\" role=manager");
            let is_worker = instance.log().contains("cluster=\"legacy\" role=worker");
            (instance.launch().group.clone(), (is_manager, is_worker))
        })
        .collect();
    assert_eq!(roles["first"], (true, false));
    assert_eq!(roles["second"], (false, true));
    let nodes = fleet.nodes().await?;
    let managers = nodes.iter().filter(|node| node.manager_status.is_some()).count();
    assert_eq!((nodes.len(), managers), (3, 2), "{}", swarm::summary(&nodes));
    assert_eq!(swarm::rows(&fleet, "legacy", "charter").await?.len(), 1);
    swarm::announced(&fleet).await?;
    fleet.stop().await
}

async fn joined(fleet: &Fleet) -> anyhow::Result<()> {
    swarm::all_ready(fleet, 5).await?;
    // This compares every address in the node list with the instance's private one.
    swarm::whole(fleet, 3, 2).await?;
    swarm::announced(fleet).await?;
    for instance in fleet.instances() {
        let group = &instance.launch().group;
        let is_listed_as_manager = fleet.nodes().await?.into_iter().any(|node| {
            let addr = node.status.and_then(|status| status.addr);
            addr == Some(instance.address().to_string()) && node.manager_status.is_some()
        });
        assert_eq!(is_listed_as_manager, group == "test-managers", "{group}");
    }
    let workers: Vec<_> =
        fleet.group("test-workers").iter().map(|instance| instance.id().to_owned()).collect();
    for call in fleet.cloud().requests() {
        let text = format!("{} {}", call.action, call.summary);
        if call.service == Service::Imds {
            ensure!(!call.action.contains("public"), "asked for a public address: {text}");
            continue;
        }
        ensure!(!call.summary.contains("public"), "{text}");
        let Some(id) = &call.instance_id else { continue };
        ensure!(ASKED.contains(&call.action.as_str()), "{id} asked for {text}");
        if workers.contains(id) {
            let is_managers = text.contains("manager-token") || text.contains("#managers");
            ensure!(!is_managers, "a worker went for the manager's token: {text}");
            ensure!(!call.action.starts_with("PutParameter"), "a worker stored a token: {text}");
            let is_of_managers = ["BatchGetItem", "DescribeInstances"].contains(&&*call.action);
            ensure!(!is_of_managers, "a worker asked about other nodes: {text}");
        }
        let code = call.code.unwrap_or_default();
        ensure!(!code.starts_with("AccessDenied"), "{id} was refused {text}");
    }
    Ok(())
}
