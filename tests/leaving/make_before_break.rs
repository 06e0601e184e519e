//! A service with the label `skep.drain` has its new tasks before the old ones on nodes that leave are stopped, and its
//! spec is the operator's again afterwards.

use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, ensure};
use bollard::models::{
    HealthConfig,
    NodeSpecAvailabilityEnum::{ACTIVE, PAUSE},
    ServiceSpec, ServiceSpecUpdateConfig, ServiceSpecUpdateConfigOrderEnum as Order,
};
use bollard::query_parameters::UpdateServiceOptionsBuilder;
use harness::departures::{Leaver, node_id, options_with, restart_skep, running, signal, standing};
use harness::nodes::availability;
use harness::seen::status;
use harness::services::{
    fewest_during, inspect, is_restored, record, running_by_node, spec_of, task_ids,
};
use harness::{PATIENCE, secs};
use skep_sim::cloud::Market;
use skep_sim::fleet::{ClusterSpec, Fleet, FleetOptions, Restart, start_first, workload};

const SERVICE: &str = "web";
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A service that asks for it, and whose own updates stop a task first. A new task runs only after some seconds.
fn labelled(replicas: u32, command: Vec<String>) -> anyhow::Result<ServiceSpec> {
    let mut spec = start_first(SERVICE, replicas, command, secs(30))?;
    let template = spec.task_template.get_or_insert_default();
    let interval = Some(i64::try_from(secs(2).as_nanos())?);
    template.container_spec.get_or_insert_default().health_check = Some(HealthConfig {
        test: Some(vec!["CMD".to_owned(), "true".to_owned()]),
        interval,
        ..Default::default()
    });
    spec.update_config = Some(ServiceSpecUpdateConfig {
        parallelism: Some(1),
        delay: interval,
        order: Some(Order::STOP_FIRST),
        ..Default::default()
    });
    Ok(spec)
}

/// Waits until the spec is edited.
async fn edited(fleet: &Fleet) -> anyhow::Result<()> {
    let is_edited = async || Ok(record(fleet, SERVICE).await?.is_some());
    fleet.wait_until("an edited spec", PATIENCE, is_edited).await
}

/// The workers that have tasks, the fullest first.
async fn occupied(fleet: &Fleet, spec: &ClusterSpec) -> anyhow::Result<Vec<Leaver>> {
    let running = running_by_node(fleet, SERVICE).await?;
    let mut all = vec![];
    for worker in fleet.group(&spec.workers_group()) {
        let count = running.get(&node_id(&worker).await?).copied().unwrap_or_default();
        all.push((count, Leaver::of(&worker).await?));
    }
    all.sort_by_key(|(count, _)| std::cmp::Reverse(*count));
    Ok(all.into_iter().filter(|(count, _)| *count > 0).map(|(_, leaver)| leaver).collect())
}

#[tokio::test]
async fn a_service_of_one_replica_never_has_none() -> anyhow::Result<()> {
    // Any of the managers drains nodes.
    let spec = ClusterSpec::new("demo", 3, 2);
    let fleet = standing(options_with(""), &spec).await?;
    fleet.create_service_of(labelled(1, workload::slow_to_stop(2.0))?).await?;
    running(&fleet, SERVICE, 1).await?;
    let before = spec_of(&fleet, SERVICE).await?;
    let leaver = occupied(&fleet, &spec).await?.remove(0);
    let fewest = fewest_during(&fleet, SERVICE, async {
        fleet.cloud().terminate(leaver.id(), true)?;
        leaver.has_left_by_its_hook(&fleet).await?;
        is_restored(&fleet, SERVICE, &before).await
    })
    .await?;
    ensure!(fewest == 1, "{fewest}\n{}", fleet.report());
    let log = fleet.leader().await?.log();
    for line in ["moving its tasks, new ones first", "its spec is the operator's again"] {
        ensure!(log.matches(line).count() == 1, "{line} is not once in {log}");
    }
    fleet.stop().await
}

/// Another manager moves it, after a while.
#[tokio::test]
async fn the_leaders_skep_is_dead() -> anyhow::Result<()> {
    let spec = ClusterSpec::new("demo", 3, 2);
    let options = FleetOptions { restart: Restart::Never, ..options_with("") };
    let fleet = standing(options, &spec).await?;
    fleet.create_service_of(labelled(1, workload::slow_to_stop(1.0))?).await?;
    running(&fleet, SERVICE, 1).await?;
    let before = spec_of(&fleet, SERVICE).await?;
    let leaver = occupied(&fleet, &spec).await?.remove(0);
    let leader = fleet.leader().await?;
    signal(&leader, "SIGKILL")?;
    let fewest = fewest_during(&fleet, SERVICE, async {
        fleet.cloud().terminate(leaver.id(), true)?;
        leaver.has_left_by_its_hook(&fleet).await?;
        is_restored(&fleet, SERVICE, &before).await
    })
    .await?;
    ensure!(fewest == 1, "{fewest}\n{}", fleet.report());
    ensure!(fleet.leader().await?.id() == leader.id() && !leader.skep_running());
    fleet.stop().await
}

/// The manager's skep is killed again and again meanwhile.
#[tokio::test]
async fn several_nodes_at_once_while_the_managers_skep_crashes() -> anyhow::Result<()> {
    let spec = ClusterSpec::new("demo", 1, 4);
    let fleet = standing(options_with(""), &spec).await?;
    fleet.create_service_of(labelled(6, workload::slow_to_stop(1.0))?).await?;
    running(&fleet, SERVICE, 6).await?;
    let before = spec_of(&fleet, SERVICE).await?;
    let leavers: Vec<Leaver> = occupied(&fleet, &spec).await?.into_iter().take(2).collect();
    let leaving: Vec<&str> = leavers.iter().map(|it| it.node_id.as_str()).collect();
    let stay: Vec<String> = task_ids(&fleet, SERVICE, &leaving).await?;
    let both = Mutex::new(false);
    let manager = fleet.leader().await?;
    let watch = async {
        loop {
            if let Ok(Some(record)) = record(&fleet, SERVICE).await {
                let is_both = leavers.iter().all(|leaver| record.contains(&leaver.node_id));
                *both.lock().unwrap() |= is_both;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    let crashes = async {
        loop {
            if let Ok(Some(_)) = record(&fleet, SERVICE).await {
                restart_skep(&fleet, &manager).await?;
            }
            tokio::time::sleep(LOOK_EVERY * 7).await;
        }
    };
    let fewest = fewest_during(&fleet, SERVICE, async {
        // It sees both at the same time.
        signal(&manager, "SIGSTOP")?;
        for leaver in &leavers {
            fleet.cloud().terminate(leaver.id(), true)?;
        }
        for leaver in &leavers {
            asks(&fleet, leaver).await?;
        }
        signal(&manager, "SIGCONT")?;
        let left = async {
            for leaver in &leavers {
                leaver.has_left_by_its_hook(&fleet).await?;
            }
            is_restored(&fleet, SERVICE, &before).await
        };
        tokio::select! {
            left = left => left,
            crash = crashes => crash,
            () = watch => unreachable!(),
        }
    })
    .await?;
    ensure!(fewest >= 6, "{fewest}\n{}", fleet.report());
    ensure!(both.into_inner().unwrap(), "not in one update\n{}", fleet.report());
    let now = task_ids(&fleet, SERVICE, &[]).await?;
    ensure!(stay.iter().all(|id| now.contains(id)), "others were moved, too: {stay:?}, {now:?}");
    fleet.stop().await
}

/// Waits until a node waits for a manager.
async fn asks(fleet: &Fleet, leaver: &Leaver) -> anyhow::Result<()> {
    let doing = "waiting for a manager to drain this node";
    fleet
        .wait_until(&format!("{} to ask", leaver.id()), PATIENCE, async || {
            Ok(status(&leaver.instance).await?["node"]["doing"] == doing)
        })
        .await
}

/// Its tasks run on one node only, which no constraint shows.
#[tokio::test]
async fn a_service_that_does_not_start_elsewhere_keeps_no_node() -> anyhow::Result<()> {
    let spec = ClusterSpec::new("demo", 3, 3);
    let fleet = standing(options_with(""), &spec).await?;
    let leaver = Leaver::of(&fleet.group(&spec.workers_group())[0]).await?;
    let only_there = workload::slow_to_stop(1.0).pop().context("a script")?;
    let script = format!("[ \"$NODE\" = {} ] || exit 1; {only_there}", leaver.node_id);
    let mut web = labelled(1, ["sh", "-c", &script].map(str::to_owned).to_vec())?;
    let template = web.task_template.get_or_insert_default();
    let container = template.container_spec.get_or_insert_default();
    container.env = Some(vec!["NODE={{.Node.ID}}".to_owned()]);
    // It starts there, and nowhere else.
    let others: Vec<_> = fleet.group(&spec.workers_group()).into_iter().skip(1).collect();
    let set = async |availability| {
        for other in &others {
            fleet.operate(other, |spec| spec.availability = Some(availability)).await?;
        }
        anyhow::Ok(())
    };
    set(PAUSE).await?;
    fleet.create_service_of(web).await?;
    running(&fleet, SERVICE, 1).await?;
    set(ACTIVE).await?;
    let before = spec_of(&fleet, SERVICE).await?;

    fleet.cloud().terminate(leaver.id(), true)?;
    edited(&fleet).await?;
    leaver.has_left_by_its_hook(&fleet).await?;
    is_restored(&fleet, SERVICE, &before).await?;
    let log = fleet.leader().await?.log();
    ensure!(log.matches("its tasks do not start on other nodes").count() == 1, "{log}");
    fleet.stop().await
}

/// An operator's changes win, and the departures end.
#[tokio::test]
async fn an_operator_scales_deploys_and_removes_it_meanwhile() -> anyhow::Result<()> {
    let spec = ClusterSpec::new("demo", 1, 4);
    let fleet = standing(options_with(""), &spec).await?;
    fleet.create_service_of(labelled(3, workload::slow_to_stop(1.0))?).await?;
    running(&fleet, SERVICE, 3).await?;

    let mut wanted = spec_of(&fleet, SERVICE).await?;
    let leaver = occupied(&fleet, &spec).await?.remove(0);
    fleet.cloud().terminate(leaver.id(), true)?;
    edited(&fleet).await?;
    let scale = |spec: &mut ServiceSpec| {
        let replicated = spec.mode.as_mut().and_then(|mode| mode.replicated.as_mut());
        replicated.expect("a replicated service").replicas = Some(4);
    };
    fleet.update_service(SERVICE, scale).await?;
    scale(&mut wanted);
    leaver.has_left_by_its_hook(&fleet).await?;
    is_restored(&fleet, SERVICE, &wanted).await?;
    running(&fleet, SERVICE, 4).await?;

    let leaver = occupied(&fleet, &spec).await?.remove(0);
    fleet.cloud().terminate(leaver.id(), true)?;
    edited(&fleet).await?;
    let deployed = {
        let mut deployed = wanted;
        let template = deployed.task_template.get_or_insert_default();
        template.container_spec.get_or_insert_default().env = Some(vec!["A=b".to_owned()]);
        deployed
    };
    fleet.update_service(SERVICE, |spec| *spec = deployed.clone()).await?;
    leaver.has_left_by_its_hook(&fleet).await?;
    is_restored(&fleet, SERVICE, &deployed).await?;
    running(&fleet, SERVICE, 4).await?;

    let leaver = occupied(&fleet, &spec).await?.remove(0);
    fleet.cloud().terminate(leaver.id(), true)?;
    edited(&fleet).await?;
    fleet.manager_docker().await?.delete_service(SERVICE).await?;
    leaver.has_left_by_its_hook(&fleet).await?;
    fleet.stop().await
}

/// `docker service rollback` leads back to an edited spec, and a node that stays after all leaves nothing behind.
#[tokio::test]
async fn a_rollback_and_a_notice_that_is_cancelled_leave_nothing_behind() -> anyhow::Result<()> {
    let spec = ClusterSpec { workers_market: Market::Spot, ..ClusterSpec::new("demo", 1, 2) };
    let fleet = standing(options_with(""), &spec).await?;
    fleet.create_service_of(labelled(1, workload::slow_to_stop(1.0))?).await?;
    running(&fleet, SERVICE, 1).await?;
    let before = spec_of(&fleet, SERVICE).await?;
    let stays = occupied(&fleet, &spec).await?.remove(0);
    let fewest = fewest_during(&fleet, SERVICE, async {
        fleet.cloud().spot_notice(stays.id(), "terminate", secs(300))?;
        edited(&fleet).await?;
        fleet.cloud().clear_spot_notice(stays.id())?;
        is_restored(&fleet, SERVICE, &before).await?;
        fleet
            .wait_until("an active node", PATIENCE, async || {
                Ok(availability(&fleet, &stays.instance).await? == ACTIVE)
            })
            .await
    })
    .await?;
    ensure!(fewest == 1, "{fewest}\n{}", fleet.report());

    let docker = fleet.manager_docker().await?;
    let seen = inspect(&fleet, SERVICE).await?;
    let version = seen.version.and_then(|it| it.index).context("a version")?.try_into()?;
    let rollback = UpdateServiceOptionsBuilder::default().version(version).rollback("previous");
    let spec = seen.spec.context("a spec")?;
    docker.update_service(SERVICE, spec, rollback.build(), None).await?;
    ensure!(record(&fleet, SERVICE).await?.is_some(), "the edited spec is the previous one");
    is_restored(&fleet, SERVICE, &before).await?;
    fleet.stop().await
}
