//! Labels: the nodes have the labels from instances and operators, other labels stay, and where configured no task
//! starts before the labels are set.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use anyhow::{Context, ensure};
use bollard::models::{NodeSpec, NodeSpecAvailabilityEnum, ServiceSpecMode, TaskSpecPlacement};
use harness::PATIENCE;
use harness::departures::{options_with, running, standing};
use harness::nodes::{availability, labels};
use harness::secs;
use harness::swarm::{calls, resize};
use skep_sim::cloud::Market;
use skep_sim::fleet::{ClusterSpec, Fleet, Instance, service, workload};
use tokio::time::Instant;

/// Longer than the interval of polling the tags plus that of reading the ledger.
const LONG_ENOUGH: Duration = secs(70);
const GRACE: Duration = secs(1);
const PAUSED: &str = "[swarm]\njoin_availability = \"pause\"\n";

fn tags(tags: &[(&str, &str)]) -> BTreeMap<String, String> {
    tags.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

/// Waits until a node has these labels; `None`: the label must be absent.
async fn labelled(
    fleet: &Fleet,
    instance: &Instance,
    expected: &[(&str, Option<&str>)],
) -> anyhow::Result<()> {
    fleet
        .wait_until(&format!("{expected:?} on {}", instance.id()), PATIENCE, async || {
            let labels = labels(fleet, instance).await?;
            for (key, value) in expected {
                let seen = labels.get(*key).map(String::as_str);
                ensure!(seen == *value, "{key} is {seen:?} among {labels:?}");
            }
            Ok(true)
        })
        .await
}

fn add(key: &str, value: &str) -> impl Fn(&mut NodeSpec) {
    move |spec| {
        spec.labels.get_or_insert_default().insert(key.to_owned(), value.to_owned());
    }
}

/// A service with a task on every node that a constraint allows.
async fn everywhere(fleet: &Fleet, name: &str, constraint: &str) -> anyhow::Result<()> {
    let mut spec = service(name, 1, workload::graceful(), GRACE)?;
    spec.mode =
        Some(ServiceSpecMode { global: Some(HashMap::new()), ..ServiceSpecMode::default() });
    let constraints = Some(vec![constraint.to_owned()]);
    let placement = TaskSpecPlacement { constraints, ..TaskSpecPlacement::default() };
    spec.task_template.get_or_insert_default().placement = Some(placement);
    fleet.manager_docker().await?.create_service(spec, None).await?;
    Ok(())
}

/// The nodes on which a service has, or ever had, a task.
async fn nodes_of(fleet: &Fleet, service: &str) -> anyhow::Result<BTreeSet<String>> {
    let tasks = fleet.tasks_of_service(service).await?;
    Ok(tasks.into_iter().filter_map(|task| task.node_id).filter(|id| !id.is_empty()).collect())
}

#[tokio::test]
async fn tags_and_configuration_are_on_the_nodes_and_are_followed() -> anyhow::Result<()> {
    let spec = ClusterSpec {
        workers_market: Market::Spot,
        tags: tags(&[
            ("skep:label:disk", "ssd"),
            ("skep:label:com.docker.x", "1"),
            ("skep:label:a+b", "2"),
        ]),
        ..ClusterSpec::new("test", 1, 2)
    };
    let options = options_with("[labels]\ndisk = \"hdd\"\ncom.example.tier = \"web\"\n");
    let fleet = standing(options, &spec).await?;
    let instances = fleet.instances();
    for instance in &instances {
        let group = instance.launch().group.clone();
        let is_worker = group == spec.workers_group();
        let view = fleet.cloud().instance(instance.id()).context("no such instance")?;
        let expected = [
            ("skep.instance", Some(instance.id())),
            ("skep.zone", Some(view.zone.as_str())),
            ("skep.market", Some(if is_worker { "spot" } else { "on-demand" })),
            ("skep.group", Some(group.as_str())),
            ("disk", Some("ssd")),
            ("com.example.tier", Some("web")),
            ("skep.labels", Some("com.example.tier,disk")),
            ("com.docker.x", None),
            ("a+b", None),
        ];
        labelled(&fleet, instance, &expected).await?;
        assert!(labels(&fleet, instance).await?["skep.instance-type"].contains('.'));
        let log = instance.log();
        for tag in ["skep:label:com.docker.x", "skep:label:a+b"] {
            let said = log.matches(&format!("no label for tag {tag}: ")).count();
            assert_eq!(said, 1, "{log}");
        }
    }
    let zone = &fleet.cloud().instance(instances[1].id()).context("no such instance")?.zone;
    let mut there = BTreeSet::new();
    for instance in &instances {
        let node = fleet.listed(instance).await?;
        if labels(&fleet, instance).await?["skep.zone"] == *zone {
            there.insert(node.id.context("no id")?);
        }
    }
    assert!(there.len() < instances.len(), "all in one zone: {there:?}");
    everywhere(&fleet, "zoned", &format!("node.labels.skep.zone=={zone}")).await?;
    running(&fleet, "zoned", there.len()).await?;
    assert_eq!(nodes_of(&fleet, "zoned").await?, there);
    everywhere(&fleet, "tiered", "node.labels.com.example.tier==web").await?;
    running(&fleet, "tiered", instances.len()).await?;

    // An operator's labels, one of them with a key that a tag will use, too.
    let worker = fleet.group(&spec.workers_group()).remove(0);
    fleet.operate(&worker, add("mine", "x")).await?;
    fleet.operate(&worker, add("rack", "by hand")).await?;
    let cloud = fleet.cloud();
    cloud.set_tag(worker.id(), "skep:label:rack", "7")?;
    cloud.set_tag(worker.id(), "skep:label:disk", "nvme")?;
    cloud.set_tag(worker.id(), "skep:label:color", "red")?;
    let theirs = [("mine", Some("x")), ("rack", Some("by hand"))];
    labelled(&fleet, &worker, &[("disk", Some("nvme")), ("color", Some("red"))]).await?;
    labelled(&fleet, &worker, &theirs).await?;
    let leader = fleet.leader().await?;
    assert_eq!(leader.log().matches("skep has not set them: rack").count(), 1);

    // Without the tag the configuration's value applies, or the label is removed.
    cloud.remove_tag(worker.id(), "skep:label:disk")?;
    cloud.remove_tag(worker.id(), "skep:label:color")?;
    cloud.remove_tag(worker.id(), "skep:label:rack")?;
    labelled(&fleet, &worker, &[("disk", Some("hdd")), ("color", None)]).await?;
    labelled(&fleet, &worker, &theirs).await?;

    // Metadata that fail, or hide the tags, change nothing.
    let [failing, hiding] = [&instances[0], &worker];
    cloud.imds_knobs(failing.id()).fail_probability(1.0);
    cloud.set_tag(hiding.id(), "skep:label:disk", "nvme")?;
    labelled(&fleet, hiding, &[("disk", Some("nvme"))]).await?;
    cloud.set_metadata_tags(hiding.id(), false)?;
    tokio::time::sleep(LONG_ENOUGH).await;
    assert_eq!(labels(&fleet, failing).await?["disk"], "ssd");
    assert_eq!(labels(&fleet, hiding).await?["disk"], "nvme");
    labelled(&fleet, &worker, &theirs).await?;
    fleet.stop().await
}

#[tokio::test]
async fn tags_that_change_twice_a_second_cost_a_write_in_half_a_minute() -> anyhow::Result<()> {
    const FLAPPING: Duration = secs(65);
    let spec = ClusterSpec::new("test", 1, 1);
    let fleet = standing(options_with(""), &spec).await?;
    let worker = fleet.group(&spec.workers_group()).remove(0);
    labelled(&fleet, &worker, &[("skep.group", Some("test-workers"))]).await?;
    let before = calls(&fleet, &worker, "PutItem").len();
    let end = Instant::now() + FLAPPING;
    let mut changes = 0;
    while Instant::now() < end {
        changes += 1;
        fleet.cloud().set_tag(worker.id(), "skep:label:color", &format!("{changes}"))?;
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let writes = calls(&fleet, &worker, "PutItem").len() - before;
    assert!((1..=3).contains(&writes), "{writes} writes for {changes} changes");
    labelled(&fleet, &worker, &[("color", Some(&changes.to_string()))]).await?;
    fleet.stop().await
}

#[tokio::test]
async fn no_task_lands_before_the_labels() -> anyhow::Result<()> {
    let spec =
        ClusterSpec { tags: tags(&[("skep:label:disk", "hdd")]), ..ClusterSpec::new("test", 1, 0) };
    let fleet = standing(options_with(PAUSED), &spec).await?;
    let manager = fleet.leader().await?;
    labelled(&fleet, &manager, &[("disk", Some("hdd"))]).await?;
    assert_eq!(availability(&fleet, &manager).await?, NodeSpecAvailabilityEnum::ACTIVE);
    // For a moment a node without labels would match the first constraint.
    everywhere(&fleet, "wrong", "node.labels.disk!=hdd").await?;
    everywhere(&fleet, "right", "node.labels.disk==hdd").await?;
    running(&fleet, "right", 1).await?;

    let mut strays = BTreeSet::new();
    let watch = async {
        loop {
            // A busy manager may not answer for a moment; Docker keeps ended tasks.
            strays.extend(nodes_of(&fleet, "wrong").await.unwrap_or_default());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    resize(&fleet, "worker", 2)?;
    tokio::select! {
        there = running(&fleet, "right", 3) => there?,
        never = watch => never,
    }
    strays.extend(nodes_of(&fleet, "wrong").await?);
    assert!(strays.is_empty(), "tasks before the labels: {strays:?}");

    // A pause after that is the operator's, and stays.
    let worker = fleet.group(&spec.workers_group()).remove(0);
    let pause = |spec: &mut NodeSpec| spec.availability = Some(NodeSpecAvailabilityEnum::PAUSE);
    fleet.operate(&worker, pause).await?;
    fleet.cloud().set_tag(worker.id(), "skep:label:disk", "ssd")?;
    labelled(&fleet, &worker, &[("disk", Some("ssd"))]).await?;
    assert_eq!(availability(&fleet, &worker).await?, NodeSpecAvailabilityEnum::PAUSE);
    fleet.stop().await
}

#[tokio::test]
async fn another_manager_labels_when_the_leaders_skep_is_dead() -> anyhow::Result<()> {
    let spec = ClusterSpec::new("test", 3, 0);
    let fleet = standing(options_with(PAUSED), &spec).await?;
    for manager in fleet.instances() {
        labelled(&fleet, &manager, &[("skep.group", Some("test-managers"))]).await?;
    }
    fleet.leader().await?.stop_skep().await?;
    resize(&fleet, "worker", 1)?;
    let worker = harness::swarm::newest(&fleet, "worker", 1).await?;
    let expected = [("skep.group", Some("test-workers")), ("skep.labels", Some(""))];
    labelled(&fleet, &worker, &expected).await?;
    assert_eq!(availability(&fleet, &worker).await?, NodeSpecAvailabilityEnum::ACTIVE);
    fleet.stop().await
}
