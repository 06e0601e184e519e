//! A load balancer stops sending to a node before the node is drained: no request is lost, and a balancer that does not
//! stop in time does not keep the node.

use std::sync::Arc;

use anyhow::{Context, ensure};
use bollard::models::NodeSpecAvailabilityEnum::{ACTIVE, DRAIN, PAUSE};
use harness::PATIENCE;
use harness::departures::{Leaver, departure_state, options_with, row, standing};
use harness::nodes::availability;
use harness::secs;
use harness::seen::{health, status};
use skep_sim::cloud::{
    ClusterBalancer, HealthCheck, HealthCheckType, HookSpec, LifecycleState, Market,
    TargetGroupAttributes, TargetState, Transition,
};
use skep_sim::fleet::{ClusterSpec, Fleet, Instance, TERMINATION_HOOK, on_every_worker, workload};
use skep_sim::witness::client::{self, Counts};
use tokio::sync::oneshot;

const LISTENER: u16 = 80;
const PORT: u16 = 8080;

fn attributes(deregistration: u64) -> TargetGroupAttributes {
    TargetGroupAttributes {
        deregistration_delay: secs(deregistration),
        unhealthy_connection_termination: false,
        ..TargetGroupAttributes::default()
    }
}

/// A load balancer that asks skep's health port, as the template's does, but every second.
pub(super) fn balanced(name: &str, workers: u32, deregistration: u64) -> ClusterSpec {
    let mut balancer = ClusterBalancer::new(&[(LISTENER, PORT)]);
    let check = std::mem::replace(&mut balancer.health_check, HealthCheck::tcp());
    balancer.health_check = check.every(secs(1));
    balancer.attributes = attributes(deregistration);
    ClusterSpec {
        workers_market: Market::Spot,
        load_balancer: Some(balancer),
        ..ClusterSpec::new(name, 1, workers)
    }
}

/// Starts a service on every worker, and waits until the load balancer sends to all of them.
pub(super) async fn serving(fleet: &Fleet, workers: usize) -> anyhow::Result<()> {
    let service = on_every_worker("front", PORT, workload::web(PORT), secs(30))?;
    fleet.create_service_of(service).await?;
    fleet
        .wait_until("healthy targets", PATIENCE, async || {
            let healthy =
                |id: &str| target(fleet, id).is_some_and(|state| state == TargetState::Healthy);
            let all = fleet.instances();
            let serve = |it: &&Arc<Instance>| healthy(it.id());
            let tasks = fleet.tasks_of_service("front").await?;
            let running = tasks.iter().filter(|task| skep_sim::fleet::is_running(task)).count();
            Ok(all.iter().filter(serve).count() == workers && running == workers)
        })
        .await
}

pub(super) fn target(fleet: &Fleet, id: &str) -> Option<TargetState> {
    fleet.cloud().targets().into_iter().find(|it| it.id == id).map(|it| it.health.state)
}

fn lifecycle(fleet: &Fleet, instance: &Instance) -> Option<LifecycleState> {
    fleet.cloud().instance(instance.id()).map(|view| view.lifecycle)
}

#[tokio::test]
async fn no_request_is_lost_by_a_scale_in_nor_by_a_spot_notice() -> anyhow::Result<()> {
    // The deregistration ends when everything was looked at.
    let spec = balanced("demo", 3, 3600);
    let fleet = standing(options_with("[leave]\nlinger = \"15s\"\n"), &spec).await?;
    serving(&fleet, 3).await?;
    let counts = Counts::default();
    let (stop, stopped) = oneshot::channel::<()>();
    let requests = client::run(fleet.listener(LISTENER), counts.clone(), async {
        // Also where the story has failed.
        let _ = stopped.await;
    });
    let story = async {
        fleet.wait_until("answers", PATIENCE, async || Ok(counts.now().answered > 100)).await?;
        let workers = fleet.group(&spec.workers_group());
        scaled_in(&fleet, &Leaver::of(&workers[0]).await?).await?;
        reclaimed(&fleet, &Leaver::of(&workers[1]).await?).await?;
        drop(stop);
        anyhow::Ok(())
    };
    tokio::try_join!(story, fleet.run_inside(requests))?;
    let counts = counts.now();
    ensure!(counts.failed == 0 && counts.answered == counts.sent, "{counts:?}");
    ensure!(counts.long_answered > 0, "{counts:?}");
    fleet.stop().await
}

/// Auto Scaling deregisters the node first: it keeps its task, and answers 200.
async fn scaled_in(fleet: &Fleet, worker: &Leaver) -> anyhow::Result<()> {
    fleet.cloud().terminate(worker.id(), true)?;
    fleet
        .wait_until("a paused node", PATIENCE, async || {
            Ok(availability(fleet, &worker.instance).await? == PAUSE)
        })
        .await?;
    let state = lifecycle(fleet, &worker.instance);
    ensure!(state == Some(LifecycleState::Terminating), "{state:?}");
    ensure!(target(fleet, worker.id()) == Some(TargetState::Draining), "it is not deregistered");
    ensure!(health(&worker.instance).await?.0 == 200, "503 lets a balancer cut requests");
    ensure!(worker.tasks("die").is_empty(), "drained before its traffic had ended");
    let waiting = "waiting for the load balancer: Auto Scaling deregisters this node";
    fleet
        .wait_until("its status", PATIENCE, async || {
            Ok(status(&worker.instance).await?["node"]["doing"] == waiting)
        })
        .await?;
    ensure!(worker.tasks("die").is_empty(), "drained before its traffic had ended");
    fleet.cloud().set_target_group_attributes(&format!("demo-{LISTENER}"), attributes(0))?;
    worker.has_left_by_its_hook(fleet).await
}

/// Nobody deregisters the node: it answers 503, and keeps its task until the balancer has seen that.
async fn reclaimed(fleet: &Fleet, worker: &Leaver) -> anyhow::Result<()> {
    fleet.cloud().spot_notice(worker.id(), "terminate", secs(90))?;
    fleet
        .wait_until("503", PATIENCE, async || Ok(health(&worker.instance).await?.0 == 503))
        .await?;
    ensure!(worker.tasks("die").is_empty(), "drained at once");
    fleet
        .wait_until("an unhealthy target", PATIENCE, async || {
            use TargetState::{Unhealthy, UnhealthyDraining};
            Ok(matches!(target(fleet, worker.id()), Some(Unhealthy | UnhealthyDraining)))
        })
        .await?;
    ensure!(worker.tasks("die").is_empty(), "drained before the balancer had seen the 503");
    worker.has_left(fleet).await
}

/// The deregistration takes an hour, and the departure has 40 s.
#[tokio::test]
async fn a_deregistration_that_takes_too_long_is_not_waited_for() -> anyhow::Result<()> {
    let spec = balanced("demo", 1, 3600);
    let fleet = standing(options_with("[leave]\ndeadline = \"40s\"\n"), &spec).await?;
    serving(&fleet, 1).await?;
    let worker = Leaver::of(&fleet.group(&spec.workers_group())[0]).await?;
    fleet.cloud().terminate(worker.id(), true)?;
    worker.has_left(&fleet).await?;
    let log = worker.instance.log();
    let why = "requests may be lost: this node is drained without waiting for the load balancer: \
               Auto Scaling deregisters this node: its share of the deadline is over";
    ensure!(log.matches(why).count() == 1, "{log}");
    let departure = row(&fleet, &format!("departure#{}", worker.id()))?.context("a departure")?;
    ensure!(departure["traffic"] == "balanced", "{departure:?}");
    ensure!(lifecycle(&fleet, &worker.instance) == Some(LifecycleState::Terminating));
    fleet.stop().await
}

/// The target group has a health check of its own: on the port of the service, which answers until it is drained.
#[tokio::test]
async fn a_balancer_that_does_not_ask_for_this_nodes_health_is_named() -> anyhow::Result<()> {
    let mut spec = balanced("demo", 1, 8);
    let balancer = spec.load_balancer.as_mut().context("a balancer")?;
    balancer.health_check = HealthCheck::tcp().every(secs(5));
    let fleet = standing(options_with("[leave]\nlinger = \"3s\"\n"), &spec).await?;
    serving(&fleet, 1).await?;
    let worker = Leaver::of(&fleet.group(&spec.workers_group())[0]).await?;
    fleet.cloud().spot_notice(worker.id(), "terminate", secs(90))?;
    worker.has_left(&fleet).await?;
    let log = worker.instance.log();
    let why = "requests may be lost: this node is drained without waiting for the load balancer to \
               stop sending: none has asked for this node's health since it answers with 503";
    ensure!(log.matches(why).count() == 1, "{log}");
    fleet.stop().await
}

/// The group replaces what the balancer finds unhealthy, and the notice is cancelled.
#[tokio::test]
async fn a_notice_that_is_cancelled_does_not_cost_the_node() -> anyhow::Result<()> {
    let mut spec = balanced("demo", 2, 8);
    let balancer = spec.load_balancer.as_mut().context("a balancer")?;
    balancer.health_check_type = HealthCheckType::Elb;
    balancer.health_check_grace = secs(0);
    let fleet = standing(options_with(""), &spec).await?;
    serving(&fleet, 2).await?;
    let workers = fleet.group(&spec.workers_group());
    let worker = Leaver::of(&workers[0]).await?;
    fleet.cloud().spot_notice(worker.id(), "terminate", secs(300))?;
    let drained = || departure_state(&fleet, &worker.instance).is_some_and(|it| it == "drained");
    fleet.wait_until("a drained node", PATIENCE, async || Ok(drained())).await?;
    ensure!(target(&fleet, worker.id()) == Some(TargetState::Healthy), "the group replaces it");
    fleet.cloud().clear_spot_notice(worker.id())?;
    fleet
        .wait_until("an active node", PATIENCE, async || {
            Ok(availability(&fleet, &worker.instance).await? == ACTIVE)
        })
        .await?;
    ensure!(health(&worker.instance).await?.0 == 200);
    let now: Vec<_> =
        fleet.group(&spec.workers_group()).iter().map(|it| it.id().to_owned()).collect();
    ensure!(now == workers.iter().map(|it| it.id()).collect::<Vec<_>>(), "replaced: {now:?}");
    fleet.stop().await
}

/// Another program has a hook, too, and completes ours as well.
#[tokio::test]
async fn two_hooks_and_ours_is_completed_elsewhere() -> anyhow::Result<()> {
    let spec = balanced("demo", 1, 3600);
    let fleet = standing(options_with(""), &spec).await?;
    let group = spec.workers_group();
    let other = HookSpec::new(&group, "backup", Transition::Terminating);
    fleet.cloud().put_hook(other)?;
    serving(&fleet, 1).await?;
    let worker = Leaver::of(&fleet.group(&group)[0]).await?;
    fleet.cloud().terminate(worker.id(), true)?;
    fleet
        .wait_until("a paused node", PATIENCE, async || {
            Ok(availability(&fleet, &worker.instance).await? == PAUSE)
        })
        .await?;
    fleet.cloud().set_target_group_attributes(&format!("demo-{LISTENER}"), attributes(0))?;
    let waits = || lifecycle(&fleet, &worker.instance) == Some(LifecycleState::TerminatingWait);
    fleet.wait_until("a hook that waits", PATIENCE, async || Ok(waits())).await?;
    fleet.cloud().complete_hook(worker.id(), TERMINATION_HOOK)?;
    // The other hook waits: the node has all its time.
    worker.is_off_the_list(&fleet).await?;
    ensure!(waits(), "{:?}", lifecycle(&fleet, &worker.instance));
    fleet.stop().await
}

/// No hook shows when an instance in Standby is deregistered.
#[tokio::test]
async fn a_node_in_standby_keeps_its_tasks_for_the_deregistration_delay() -> anyhow::Result<()> {
    let spec = balanced("demo", 2, 8);
    let config = "[leave]\nderegistration_delay = \"8s\"\n";
    let fleet = standing(options_with(config), &spec).await?;
    serving(&fleet, 2).await?;
    let worker = Leaver::of(&fleet.group(&spec.workers_group())[0]).await?;
    fleet.cloud().standby(worker.id(), true)?;
    for (wanted, what) in [(PAUSE, "a pause"), (DRAIN, "a drain")] {
        fleet
            .wait_until(what, PATIENCE, async || {
                let now = availability(&fleet, &worker.instance).await?;
                ensure!(wanted == DRAIN || now != DRAIN, "drained at once");
                Ok(now == wanted)
            })
            .await?;
        ensure!(wanted == DRAIN || worker.tasks("die").is_empty(), "a pause stops no task");
    }
    fleet.cloud().exit_standby(worker.id())?;
    fleet
        .wait_until("an active node", PATIENCE, async || {
            Ok(availability(&fleet, &worker.instance).await? == ACTIVE)
        })
        .await?;
    fleet.stop().await
}
