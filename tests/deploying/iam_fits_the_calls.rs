//! The template's roles during a whole life of a swarm: no call is refused, and no permission is unused.

use anyhow::{Context, ensure};
use bollard::models::{Node, NodeSpecRoleEnum};
use harness::departures::{Leaver, options_with, row};
use harness::swarm::{self, CLUSTER};
use harness::{PATIENCE, policies, secs};
use skep_sim::cloud::{Market, Transition};
use skep_sim::fleet::{ClusterSpec, Fleet, service, workload};

#[tokio::test]
async fn with_tokens_in_ssm() -> anyhow::Result<()> {
    whole_life("ssm").await
}

#[tokio::test]
async fn with_tokens_in_dynamodb() -> anyhow::Result<()> {
    whole_life("dynamodb").await
}

/// The leader stores, lists, reads and deletes backups, and a worker cannot even list them.
#[tokio::test]
async fn with_backups() -> anyhow::Result<()> {
    const BUCKET: &str = "backups";
    // As the template's test names the key.
    let key = "arn:aws:kms:eu-central-1:123456789012:key/backups";
    let config = format!("[backup]\nto = \"s3://{BUCKET}/skep\"\nkms_key = \"{key}\"\n");
    let fleet = harness::fleet(options_with(&config)).await?;
    policies::enforce(fleet.cloud(), &[CLUSTER], &["ssm-with-backups"])?;
    fleet.cloud().create_bucket(BUCKET, "eu-central-1")?;
    // The leader keeps the newest three of these.
    for day in 1..=4 {
        let key = format!("skep/{CLUSTER}/2020010{day}T000000Z-1-old-aa.json");
        fleet.cloud().put_object(BUCKET, &key, b"{}".to_vec())?;
    }
    fleet.create_cluster(&swarm::cluster(1, 1))?;
    swarm::all_ready(&fleet, 2).await?;
    // A swarm without services stores nothing beside the backups of another one.
    fleet.create_service("web", 1, workload::graceful(), secs(1)).await?;
    fleet
        .wait_until("a backup, and one that is deleted", PATIENCE, async || {
            let objects = fleet.cloud().objects(BUCKET)?;
            Ok(objects.len() == 4 && objects[3].kms_key.as_deref() == Some(key))
        })
        .await?;
    let own = &fleet.cloud().objects(BUCKET)?[3].key;
    let said = fleet.leader().await?.skep(["restore", "--from", own, "--json"]).await?;
    ensure!(said.status.success(), "{said:?}");
    let worker = &fleet.group(&format!("{CLUSTER}-workers"))[0];
    let said = worker.skep(["restore", "--list"]).await?;
    let words = String::from_utf8_lossy(&said.stderr).into_owned();
    ensure!(said.status.code() == Some(1) && words.contains("access denied"), "{said:?}");
    let unused = fleet.cloud().unused_permissions("skep-manager");
    let about_backups: Vec<_> = unused.iter().filter(|it| it.contains("Backups: ")).collect();
    ensure!(about_backups.is_empty(), "unused permissions: {about_backups:#?}");
    fleet.stop().await
}

async fn whole_life(store: &str) -> anyhow::Result<()> {
    // The last manager waits for a replacement until its deadline. Managers lock themselves: their key is in the store.
    let config = format!(
        "[leave]\ndeadline = \"30s\"\n[swarm]\nautolock = true\n[tokens]\nstore = \"{store}\"\n\
         [autoscaling]\nreplace_after = \"75s\"\n[protection]\nenabled = true\nlinger = \"2s\"\n\
         [capacity]\ncloudwatch = true\n"
    );
    let fleet = harness::fleet(options_with(&config)).await?;
    // Permissions for this store only.
    policies::enforce(fleet.cloud(), &[CLUSTER], &[store])?;
    // The launch hooks start when nodes are Ready already: such nodes ask Auto Scaling for their lifecycle state.
    fleet.cloud().set_transition_delay(Transition::Launching, secs(10));
    let spec = ClusterSpec { workers_market: Market::Spot, ..swarm::cluster(3, 4) };
    fleet.create_cluster(&spec)?;
    swarm::whole(&fleet, 3, 4).await?;
    swarm::announced(&fleet).await?;

    a_node_is_protected(&fleet).await?;
    broken_ones_are_replaced(&fleet, &spec).await?;
    workers_leave(&fleet, &spec).await?;
    managers_leave(&fleet, &spec).await?;

    let calls = fleet.cloud().requests();
    let of_nodes = calls.iter().filter(|call| call.instance_id.is_some());
    let is_refused = |code: &String| code.starts_with("AccessDenied");
    let refused: Vec<_> =
        of_nodes.filter(|call| call.code.as_ref().is_some_and(is_refused)).collect();
    ensure!(refused.is_empty(), "refused: {refused:#?}");
    for role in ["skep-manager", "skep-worker"] {
        let unused = fleet.cloud().unused_permissions(role);
        ensure!(unused.is_empty(), "{role} has unused permissions: {unused:#?}");
    }
    fleet.stop().await
}

/// Runs a task that must not be scaled in, for a while.
async fn a_node_is_protected(fleet: &Fleet) -> anyhow::Result<()> {
    let mut spec = service("keep", 1, workload::graceful(), secs(5))?;
    spec.labels = Some([("skep.protect".to_owned(), "true".to_owned())].into());
    fleet.create_service_of(spec).await?;
    let protected = || fleet.cloud().instances().iter().filter(|it| it.protected).count();
    fleet.wait_until("a protected instance", secs(180), async || Ok(protected() == 1)).await?;
    fleet.manager_docker().await?.delete_service("keep").await?;
    fleet.wait_until("no protected instance", secs(180), async || Ok(protected() == 0)).await
}

/// Breaks Docker for good on a worker and a manager, and waits for their replacements.
async fn broken_ones_are_replaced(fleet: &Fleet, spec: &ClusterSpec) -> anyhow::Result<()> {
    let leader = fleet.leader().await?;
    let managers = fleet.group(&spec.managers_group());
    let manager = managers.iter().find(|one| one.id() != leader.id()).context("three managers")?;
    let broken = [manager, &fleet.group(&spec.workers_group())[0]];
    for node in broken {
        node.kill_dockerd().await?;
    }
    fleet
        .wait_until("both to be replaced", secs(420), async || {
            let are_gone = broken.iter().all(|it| fleet.cloud().instance(it.id()).is_none());
            Ok(are_gone && swarm::whole(fleet, 3, 4).await.is_ok())
        })
        .await
}

/// Workers leave by scale-in, by a spot notice, by the operator's command, and with a dead skep.
async fn workers_leave(fleet: &Fleet, spec: &ClusterSpec) -> anyhow::Result<()> {
    let workers = fleet.group(&spec.workers_group());
    let [scaled_in, spot, by_hand, dead] = workers.as_slice() else {
        anyhow::bail!("four workers")
    };
    let (scaled_in, spot, by_hand) =
        (Leaver::of(scaled_in).await?, Leaver::of(spot).await?, Leaver::of(by_hand).await?);
    let dead = Leaver::of(dead).await?;
    dead.instance.stop_skep().await?;
    fleet.cloud().terminate(dead.id(), true)?;
    fleet.cloud().terminate(scaled_in.id(), true)?;
    scaled_in.has_left_by_its_hook(fleet).await?;
    fleet.cloud().spot_notice(spot.id(), "terminate", secs(45))?;
    spot.has_left(fleet).await?;
    let said = by_hand.instance.skep(["leave"]).await?;
    ensure!(said.status.success(), "{said:?}");
    by_hand.has_left(fleet).await?;
    dead.has_left_by_its_hook(fleet).await
}

/// The leader leaves and is replaced; then all but one leave one after the other; the last one leaves by the operator's
/// command.
async fn managers_leave(fleet: &Fleet, spec: &ClusterSpec) -> anyhow::Result<()> {
    let leader = Leaver::of(&fleet.leader().await?).await?;
    fleet.cloud().terminate(leader.id(), false)?;
    leader.has_left_by_its_hook(fleet).await?;
    managers(fleet, 3).await?;
    for count in [2, 1] {
        fleet.cloud().set_desired(&spec.managers_group(), count)?;
        managers(fleet, count as usize).await?;
    }
    let last = Leaver::of(&fleet.leader().await?).await?;
    let said = last.instance.skep(["status"]).await?;
    ensure!(said.status.success(), "{said:?}");
    let said = last.instance.skep(["leave", "--no-wait"]).await?;
    ensure!(said.status.success(), "{said:?}");
    last.skep_has_ended_well(fleet).await?;
    let charter = row(fleet, "charter")?.context("a charter")?;
    ensure!(charter["phase"] == "closed", "{charter:?}");
    Ok(())
}

/// Waits until the swarm has this many managers, each of them Ready and in service, and no entry of a failed join: a
/// last manager does not leave beside one, because another manager may be joining, and managers remove it after 90 s.
async fn managers(fleet: &Fleet, count: usize) -> anyhow::Result<()> {
    let group = format!("{CLUSTER}-managers");
    fleet
        .wait_until(&format!("{count} managers"), secs(180), async || {
            let nodes = fleet.nodes().await?;
            let listed = nodes.iter().filter(|node| node.manager_status.is_some()).count();
            let role = |node: &Node| node.spec.as_ref().and_then(|spec| spec.role);
            let meant =
                nodes.iter().filter(|node| role(node) == Some(NodeSpecRoleEnum::MANAGER)).count();
            let instances = fleet.group(&group);
            let ready = instances.iter().filter(|instance| instance.is_ready()).count();
            Ok([meant, listed, instances.len(), ready] == [count; 4])
        })
        .await
}
