//! skep is restarted on a node that is Ready: nothing happens to the node, and nothing is reported twice.

use std::sync::Arc;

use anyhow::ensure;
use harness::PATIENCE;
use harness::departures::restart_skep;
use harness::seen::health;
use harness::swarm;
use nix::sys::signal::Signal;
use skep_sim::cloud::{Fault, Service};
use skep_sim::fleet::{Exit, Fleet, FleetOptions, Instance};

/// systemd's jobs when only the service is restarted.
const SYSTEMCTL: &str = "#!/bin/sh\n\
    [ \"$1\" = list-jobs ] && echo '871 skep.service restart running'\n";

#[tokio::test]
async fn by_systemctl() -> anyhow::Result<()> {
    let fleet = start().await?;
    for instance in fleet.instances() {
        let before = Before::of(&fleet, &instance).await?;
        assert_eq!(instance.stop_skep().await?, Exit::Code(0));
        ensure!(!instance.is_gone() && instance.log().contains("the node stays in the swarm"));
        swarm::whole(&fleet, 2, 1).await?;
        instance.start_skep()?;
        before.still_holds(&fleet, &instance).await?;
    }
    fleet.stop().await
}

/// systemd restarts it by itself.
#[tokio::test]
async fn after_it_was_killed() -> anyhow::Result<()> {
    let fleet = start().await?;
    for instance in fleet.instances() {
        let before = Before::of(&fleet, &instance).await?;
        restart_skep(&fleet, &instance).await?;
        before.still_holds(&fleet, &instance).await?;
    }
    fleet.stop().await
}

/// The machine reboots: Docker takes the node back into the swarm, and skep finds it there.
#[tokio::test]
async fn with_the_whole_machine() -> anyhow::Result<()> {
    let fleet = start().await?;
    let worker = fleet.group("test-workers").pop().expect("a worker");
    let before = Before::of(&fleet, &worker).await?;
    worker.reboot().await?;
    before.still_holds(&fleet, &worker).await?;
    fleet.stop().await
}

/// It had joined but not yet written its row: Docker's own answer is enough to know the swarm.
#[tokio::test]
async fn before_its_row_was_written() -> anyhow::Result<()> {
    let fleet = start().await?;
    let held = Fault { latency_ms: Some((600_000, 600_000)), ..Fault::default() };
    fleet.cloud().faults().set(Service::DynamoDb, Some("PutItem"), held.clone());
    fleet.cloud().faults().set(Service::CloudFormation, None, held.clone());
    fleet.cloud().faults().set(Service::AutoScaling, None, held);
    swarm::resize(&fleet, "worker", 2)?;
    let worker = swarm::newest(&fleet, "worker", 2).await?;
    swarm::ready(&fleet, &worker).await?;
    let before = Before::of(&fleet, &worker).await?;
    ensure!(worker.kill_skep(Signal::SIGKILL));
    fleet.wait_until("its end", PATIENCE, async || Ok(!worker.exit_codes().is_empty())).await?;
    assert_eq!(before.rows, 0, "its row is not written yet");
    fleet.cloud().faults().clear();
    swarm::ready(&fleet, &worker).await?;
    fleet
        .wait_until("its row", PATIENCE, async || Ok(rows_of(&fleet, &worker).await? == 1))
        .await?;
    swarm::whole(&fleet, 2, 2).await?;
    assert_eq!(swarm::place(&worker).await?.node_id, before.node_id, "it did not join twice");
    swarm::announced(&fleet).await?;
    fleet.stop().await
}

/// AWS is away, then the swarm's leader as well: this must not make a load balancer have the node replaced.
#[tokio::test]
async fn while_neither_aws_nor_the_swarm_answers() -> anyhow::Result<()> {
    let fleet = start().await?;
    let instances = fleet.instances();
    fleet.cloud().faults().set(Service::DynamoDb, None, Fault { error: 1.0, ..Fault::default() });
    for instance in &instances {
        ensure!(instance.kill_skep(Signal::SIGKILL));
        stays_healthy(&fleet, instance).await?;
    }
    let (lost, kept) = instances.split_first().expect("nodes");
    lost.isolate(true)?;
    for instance in kept {
        ensure!(instance.kill_skep(Signal::SIGKILL));
        stays_healthy(&fleet, instance).await?;
    }
    lost.isolate(false)?;
    fleet.cloud().faults().clear();
    swarm::all_ready(&fleet, 3).await?;
    swarm::whole(&fleet, 2, 1).await?;
    fleet.stop().await
}

/// The new skep is not Ready, but answers 200 for as long as a load balancer may poll.
async fn stays_healthy(fleet: &Fleet, instance: &Instance) -> anyhow::Result<()> {
    // In the first moments nothing listens.
    fleet
        .wait_until("200 on the way to Ready", PATIENCE, async || is_healthy(instance).await)
        .await?;
    for _ in 0..10 {
        tokio::time::sleep(harness::secs(1)).await;
        ensure!(is_healthy(instance).await?, "{:?}", health(instance).await);
    }
    Ok(())
}

async fn is_healthy(instance: &Instance) -> anyhow::Result<bool> {
    let seen = health(instance).await.ok();
    Ok(seen.is_some_and(|(code, _, phase)| (code, phase.as_str()) == (200, "booting")))
}

async fn start() -> anyhow::Result<Fleet> {
    let prepare = |instance: &Instance| instance.write_program("systemctl", SYSTEMCTL);
    let options = FleetOptions { prepare: Some(Arc::new(prepare)), ..harness::options() };
    let fleet = harness::fleet(options).await?;
    fleet.create_cluster(&swarm::cluster(2, 1))?;
    swarm::all_ready(&fleet, 3).await?;
    swarm::whole(&fleet, 2, 1).await?;
    swarm::announced(&fleet).await?;
    Ok(fleet)
}

async fn rows_of(fleet: &Fleet, instance: &Instance) -> anyhow::Result<usize> {
    let mut rows = swarm::rows(fleet, swarm::CLUSTER, "member#").await?;
    rows.extend(swarm::workers_rows(fleet, "member#")?);
    let is_its = |id: &serde_json::Value| id.as_str() == Some(instance.id());
    Ok(rows.iter().filter(|row| row.get("instance_id").is_some_and(is_its)).count())
}

/// Facts that a restart must not change.
struct Before {
    node_id: Option<String>,
    nodes: usize,
    joins: usize,
    ready_said: usize,
    rows: usize,
}

impl Before {
    async fn of(fleet: &Fleet, instance: &Instance) -> anyhow::Result<Before> {
        Ok(Before {
            node_id: swarm::place(instance).await?.node_id,
            nodes: fleet.nodes().await?.len(),
            joins: joins_of(instance),
            ready_said: times_ready(instance),
            rows: rows_of(fleet, instance).await?,
        })
    }

    async fn still_holds(&self, fleet: &Fleet, instance: &Instance) -> anyhow::Result<()> {
        fleet
            .wait_until("READY again", PATIENCE, async || {
                Ok(times_ready(instance) > self.ready_said && instance.is_ready())
            })
            .await?;
        swarm::whole(fleet, 2, 1).await?;
        assert_eq!(fleet.nodes().await?.len(), self.nodes);
        assert_eq!(swarm::place(instance).await?.node_id, self.node_id, "it is the same node");
        assert_eq!(joins_of(instance), self.joins, "it did not join again");
        // By then a repeated signal would have been sent.
        tokio::time::sleep(harness::secs(2)).await;
        let completed = swarm::calls(fleet, instance, "CompleteLifecycleAction").len();
        assert_eq!(completed, 1, "the launch hook is completed once");
        swarm::announced(fleet).await
    }
}

fn joins_of(instance: &Instance) -> usize {
    instance.log().matches("joining generation").count()
}

fn times_ready(instance: &Instance) -> usize {
    let all = instance.notifications();
    all.iter().filter(|heard| heard.get("READY") == Some("1")).count()
}
