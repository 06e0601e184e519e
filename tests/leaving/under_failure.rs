//! A service that a departure needs fails meanwhile: the ledger, Docker, the leader. An answer that cannot be known is
//! never taken for a yes or no.

use std::sync::Arc;

use anyhow::{Context, ensure};
use harness::PATIENCE;
use harness::departures::{
    Leaver, departure_state, flusher, hook_results, options_with, running, signal, standing,
};
use harness::quorum::keeping_quorum;
use harness::secs;
use harness::swarm::{self, sh};
use skep_sim::cloud::{ActionResult, Fault, Market, Service};
use skep_sim::fleet::{ClusterSpec, Fleet, Instance, workload};

const IMPATIENT: &str = "[leave]\nmanager_patience = \"3s\"\n";

fn ledger_down(fleet: &Fleet) {
    let fails = Fault { error: 1.0, ..Fault::default() };
    fleet.cloud().faults().set(Service::DynamoDb, None, fails);
}

/// The outage starts with the notice: a short one, which the tasks outlast, and one that lasts longer than the tasks.
#[tokio::test]
async fn a_worker_leaves_while_the_ledger_is_down() -> anyhow::Result<()> {
    let spec = ClusterSpec::new("demo", 1, 2);
    let fleet = standing(options_with(IMPATIENT), &spec).await?;
    fleet.create_service("web", 4, workload::slow_to_stop(8.0), secs(30)).await?;
    running(&fleet, "web", 4).await?;
    let [first, second] = &fleet.group(&spec.workers_group())[..] else {
        anyhow::bail!("two workers")
    };

    let worker = Leaver::of(first).await?;
    assert!(!worker.tasks("start").is_empty(), "the worker has tasks");
    ledger_down(&fleet);
    fleet.cloud().terminate(worker.id(), true)?;
    tokio::time::sleep(secs(5)).await;
    assert_eq!(hook_results(&fleet, first), []);
    fleet.cloud().faults().clear();
    worker.has_left_by_its_hook(&fleet).await?;

    // Its own tasks must all run, so that they end at the same time: no manager drains the node, and the swarm restarts
    // them there.
    running(&fleet, "web", 4).await?;
    leaves_in_an_outage_of_a_minute(&fleet, &Leaver::of(second).await?).await?;
    fleet.stop().await
}

/// Managers: the first leaves in an outage that its tasks outlast, the second, one of two, in an outage of a minute.
/// Docker still demotes them, and refuses a demotion that would lose the quorum.
#[tokio::test]
async fn managers_leave_while_the_ledger_is_down() -> anyhow::Result<()> {
    let spec = ClusterSpec::new("demo", 3, 0);
    let fleet = standing(options_with(IMPATIENT), &spec).await?;
    fleet.create_service("web", 3, workload::slow_to_stop(8.0), secs(30)).await?;
    running(&fleet, "web", 3).await?;
    let leader = fleet.leader().await?;
    let mut followers = fleet.group(&spec.managers_group());
    followers.retain(|one| one.id() != leader.id());
    let [first, survivor] = &followers[..] else { anyhow::bail!("three managers") };
    keeping_quorum(survivor, async {
        let manager = Leaver::of(first).await?;
        assert!(!manager.tasks("start").is_empty(), "the manager has a task");
        ledger_down(&fleet);
        fleet.cloud().terminate(manager.id(), true)?;
        tokio::time::sleep(secs(5)).await;
        assert_eq!(hook_results(&fleet, first), []);
        fleet.cloud().faults().clear();
        manager.has_left_by_its_hook(&fleet).await?;

        leaves_in_an_outage_of_a_minute(&fleet, &Leaver::of(&leader).await?).await
    })
    .await?;
    assert_eq!(fleet.leader().await?.id(), survivor.id());
    assert_eq!(fleet.nodes().await?.len(), 1, "no entry is left behind");
    running(&fleet, "web", 3).await?;
    fleet.stop().await
}

/// The outage starts with the notice, and lasts longer than the tasks: the node is out of the swarm, and its machine is
/// held until the node can notify the managers.
async fn leaves_in_an_outage_of_a_minute(fleet: &Fleet, leaver: &Leaver) -> anyhow::Result<()> {
    assert!(!leaver.tasks("start").is_empty(), "{} has tasks", leaver.id());
    ledger_down(fleet);
    let since = tokio::time::Instant::now();
    fleet.cloud().terminate(leaver.id(), true)?;
    leaver.is_out(fleet).await?;
    leaver.lost_no_grace(fleet)?;
    tokio::time::sleep_until(since + secs(60)).await;
    assert_eq!(hook_results(fleet, &leaver.instance), []);
    fleet.cloud().faults().clear();
    leaver.has_left_by_its_hook(fleet).await
}

#[tokio::test]
async fn a_worker_leaves_although_the_ledger_stays_down() -> anyhow::Result<()> {
    let spec = ClusterSpec::new("demo", 1, 2);
    leaves_although_the_ledger_stays_down(&spec, &spec.workers_group()).await
}

/// It is out of raft by then, and the other manager leads alone.
#[tokio::test]
async fn a_manager_leaves_although_the_ledger_stays_down() -> anyhow::Result<()> {
    let spec = ClusterSpec::new("demo", 2, 0);
    leaves_although_the_ledger_stays_down(&spec, &spec.managers_group()).await
}

/// The outage outlasts the departure: the machine is not held for ever, and its entry is removed once it is gone.
async fn leaves_although_the_ledger_stays_down(
    spec: &ClusterSpec,
    group: &str,
) -> anyhow::Result<()> {
    let config = format!("{IMPATIENT}deadline = \"60s\"\n");
    let fleet = standing(options_with(&config), spec).await?;
    fleet.create_service("web", 4, workload::slow_to_stop(5.0), secs(20)).await?;
    running(&fleet, "web", 4).await?;
    let leaver = Leaver::of(&fleet.group(group)[0]).await?;
    assert!(!leaver.tasks("start").is_empty(), "it has tasks");
    ledger_down(&fleet);
    fleet.cloud().terminate(leaver.id(), true)?;
    leaver.hook_is_completed(&fleet).await?;
    leaver.lost_no_grace(&fleet)?;
    assert!(
        leaver.instance.log().contains("no manager has confirmed"),
        "{}",
        leaver.instance.log()
    );
    let nodes =
        fleet.wait_for("the node list", PATIENCE, async || Ok(Some(fleet.nodes().await?))).await?;
    let mut raft = nodes.iter().filter(|node| node.manager_status.is_some());
    ensure!(raft.all(|node| node.id.as_ref() != Some(&leaver.node_id)), "in raft: {nodes:?}");
    fleet.cloud().faults().clear();
    leaver.is_off_the_list(&fleet).await?;
    fleet.stop().await
}

/// skep is restarted during the outage, so that it cannot identify its swarm: it takes only the safe steps on its host,
/// does not leave the swarm, and does not report that it has left.
#[tokio::test]
async fn a_worker_whose_skep_is_restarted_while_the_ledger_is_down_stays() -> anyhow::Result<()> {
    let spec = ClusterSpec::new("demo", 1, 1);
    let config = format!("{IMPATIENT}deadline = \"60s\"\n");
    let fleet = standing(options_with(&config), &spec).await?;
    fleet.create_service("web", 4, workload::slow_to_stop(5.0), secs(20)).await?;
    running(&fleet, "web", 4).await?;
    let worker = Leaver::of(&fleet.group(&spec.workers_group())[0]).await?;
    assert!(!worker.tasks("start").is_empty(), "the worker has tasks");
    ledger_down(&fleet);
    signal(&worker.instance, "SIGKILL")?;
    fleet.cloud().terminate(worker.id(), true)?;
    let log = || worker.instance.log();
    fleet
        .wait_until("a task to be stopped", secs(45), async || Ok(!worker.tasks("die").is_empty()))
        .await?;
    assert_eq!(hook_results(&fleet, &worker.instance), [], "{}", log());
    fleet
        .wait_until("its hook to be completed", PATIENCE, async || {
            Ok(!hook_results(&fleet, &worker.instance).is_empty())
        })
        .await?;
    assert_eq!(hook_results(&fleet, &worker.instance), [ActionResult::Abandon], "{}", log());
    // No manager could drain it: the swarm has replaced the first tasks by new ones on the node.
    let first = &worker.tasks("die")[0];
    assert_eq!(first.exit_code, Some(0), "it had its grace: {first:?}");
    assert!(!log().contains("leaving the swarm"), "{}", log());
    fleet.stop().await
}

#[tokio::test]
async fn managers_that_are_cut_off_from_each_other_keep_their_quorum() -> anyhow::Result<()> {
    two_of_three_go_while_cut_off(async |fleet, spec| {
        Ok(fleet.cloud().set_desired(&spec.managers_group(), 1)?)
    })
    .await
}

#[tokio::test]
async fn managers_that_get_spot_notices_while_cut_off_keep_their_quorum() -> anyhow::Result<()> {
    two_of_three_go_while_cut_off(async |fleet, spec| {
        for manager in &fleet.group(&spec.managers_group())[..2] {
            fleet.cloud().spot_notice(manager.id(), "terminate", secs(600))?;
        }
        Ok(())
    })
    .await
}

/// No manager reaches another: none may leave before there is a leader again, and in the end the remaining one leads.
async fn two_of_three_go_while_cut_off(
    go: impl AsyncFn(&Fleet, &ClusterSpec) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let spec = ClusterSpec { managers_market: Market::Spot, ..ClusterSpec::new("demo", 3, 1) };
    let fleet = standing(options_with(&format!("{IMPATIENT}deadline = \"10m\"\n")), &spec).await?;
    let managers = fleet.group(&spec.managers_group());
    for manager in &managers {
        manager.isolate(true)?;
    }
    fleet.wait_until("no leader", PATIENCE, async || Ok(fleet.leader().await.is_err())).await?;
    go(&fleet, &spec).await?;
    tokio::time::sleep(secs(30)).await;
    for manager in &managers {
        let is_member = swarm::place(manager).await?.node_id.is_some_and(|id| !id.is_empty());
        ensure!(is_member, "{} is out of the swarm\n{}", manager.id(), fleet.report());
        ensure!(
            hook_results(&fleet, manager).is_empty(),
            "{} has completed its hook while it is in raft\n{}",
            manager.id(),
            fleet.report()
        );
    }
    for manager in &managers {
        manager.isolate(false)?;
    }
    fleet
        .wait_until("two to have left, and one to lead", PATIENCE, async || {
            let left =
                |one: &&Arc<Instance>| departure_state(&fleet, one).as_deref() == Some("removed");
            let nodes = fleet.nodes().await?;
            let raft = nodes.iter().filter(|node| node.manager_status.is_some()).count();
            Ok((managers.iter().filter(left).count(), raft) == (2, 1)
                && fleet.leader().await.is_ok())
        })
        .await?;
    for manager in &managers {
        let results = hook_results(&fleet, manager);
        ensure!(results.is_empty() || results == [ActionResult::Continue], "{results:?}");
    }
    fleet.stop().await
}

/// The last manager of a lost quorum holds its machine until its deadline, so that `skep recover` has a survivor, and
/// does not report that it has left.
#[tokio::test]
async fn the_survivor_of_a_lost_quorum_is_scaled_in() -> anyhow::Result<()> {
    let spec = ClusterSpec::new("demo", 3, 0);
    let fleet = standing(options_with("[leave]\ndeadline = \"75s\"\n"), &spec).await?;
    let managers = fleet.group(&spec.managers_group());
    let [survivor, others @ ..] = &managers[..] else { anyhow::bail!("three managers") };
    for manager in others {
        fleet.cloud().crash(manager.id())?;
    }
    fleet.wait_until("no leader", PATIENCE, async || Ok(fleet.leader().await.is_err())).await?;
    fleet.cloud().terminate(survivor.id(), false)?;
    tokio::time::sleep(secs(45)).await;
    assert_eq!(hook_results(&fleet, survivor), [], "{}", fleet.report());
    assert!(swarm::place(survivor).await?.control_available.unwrap_or_default(), "it is a manager");
    fleet
        .wait_until("its hook to be completed", PATIENCE, async || {
            Ok(!hook_results(&fleet, survivor).is_empty())
        })
        .await?;
    assert_eq!(hook_results(&fleet, survivor), [ActionResult::Abandon]);
    fleet.stop().await
}

/// Its part of the swarm would end with its machine: the operator re-creates the quorum there first. Meanwhile its
/// departure waits, and then ends normally.
#[tokio::test]
async fn the_survivor_of_a_lost_quorum_re_creates_it_on_its_way_out() -> anyhow::Result<()> {
    let spec = swarm::cluster(3, 1);
    let fleet = standing(options_with(""), &spec).await?;
    fleet.create_service("web", 2, workload::graceful(), secs(10)).await?;
    running(&fleet, "web", 2).await?;
    let before = swarm::charter(&fleet).await?.context("a charter")?;
    let managers = fleet.group(&spec.managers_group());
    let [survivor, others @ ..] = &managers[..] else { anyhow::bail!("three managers") };
    let survivor = Leaver::of(survivor).await?;
    for manager in others {
        fleet.cloud().crash(manager.id())?;
    }
    fleet.wait_until("no leader", PATIENCE, async || Ok(fleet.leader().await.is_err())).await?;
    fleet.cloud().terminate(survivor.id(), false)?;
    fleet
        .wait_until("the departure to be in the ledger", PATIENCE, async || {
            Ok(departure_state(&fleet, &survivor.instance).is_some())
        })
        .await?;

    let done = survivor.instance.skep(["recover", "--yes"]).await?;
    let said = [done.stdout, done.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    let said = said.concat();
    assert_eq!(done.status.code(), Some(0), "{said}");
    ensure!(said.contains("this node is leaving, by "), "{said}");
    survivor.has_left_by_its_hook(&fleet).await?;
    swarm::whole(&fleet, 3, 1).await?;
    let after = swarm::charter(&fleet).await?.context("a charter")?;
    assert_eq!((after.generation, &after.swarm_id), (2, &before.swarm_id), "the same swarm");
    running(&fleet, "web", 2).await?;
    fleet.stop().await
}

/// dockerd hangs when the notice comes: skep still asks the managers, and no manager takes it for dead.
#[tokio::test]
async fn docker_hangs_when_the_notice_comes() -> anyhow::Result<()> {
    let (fleet, worker) =
        without_docker(async |worker| sh(worker, "pkill -STOP -x dockerd").await.map(drop)).await?;
    sh(&worker.instance, "pkill -CONT -x dockerd").await?;
    worker.has_left_by_its_hook(&fleet).await?;
    fleet.stop().await
}

#[tokio::test]
async fn docker_is_dead_when_the_notice_comes() -> anyhow::Result<()> {
    let (fleet, worker) =
        without_docker(async |worker| worker.kill_dockerd().await.map(drop)).await?;
    worker.instance.start_dockerd()?;
    // Docker has ended the tasks when it started, and has no record of their grace.
    worker.hook_is_completed(&fleet).await?;
    fleet.stop().await
}

/// A worker whose Docker does not answer gets its notice, and runs longer than a manager waits for a silent skep.
async fn without_docker(
    stop: impl AsyncFn(&Arc<Instance>) -> anyhow::Result<()>,
) -> anyhow::Result<(Fleet, Leaver)> {
    let spec = ClusterSpec::new("demo", 1, 1);
    let fleet = standing(options_with(""), &spec).await?;
    fleet.create_service("web", 2, workload::slow_to_stop(2.0), secs(30)).await?;
    running(&fleet, "web", 2).await?;
    let worker = Leaver::of(&fleet.group(&spec.workers_group())[0]).await?;
    stop(&worker.instance).await?;
    fleet.cloud().terminate(worker.id(), true)?;
    fleet
        .wait_until("the departure to be in the ledger", PATIENCE, async || {
            Ok(departure_state(&fleet, &worker.instance).is_some())
        })
        .await?;
    tokio::time::sleep(secs(40)).await;
    assert_eq!(hook_results(&fleet, &worker.instance), []);
    Ok((fleet, worker))
}

/// Docker does not answer a stop: flushing and leaving still have their time, and tasks that were not stopped make the
/// departure a failure.
#[tokio::test]
async fn tasks_that_docker_cannot_stop_take_no_time_from_the_rest() -> anyhow::Result<()> {
    let spec = ClusterSpec::new("demo", 1, 1);
    let fleet = standing(options_with("[leave]\ndeadline = \"90s\"\n"), &spec).await?;
    fleet.create_service("web", 2, workload::graceful(), secs(10)).await?;
    running(&fleet, "web", 2).await?;
    let worker = Leaver::of(&fleet.group(&spec.workers_group())[0]).await?;
    assert!(!worker.tasks("start").is_empty(), "the worker has tasks");
    let told = worker.instance.dir().join("told");
    let script = format!("#!/bin/sh\necho flushed >>{}\n", told.display());
    flusher(&worker.instance, "10-told", &script)?;
    sh(&worker.instance, "pkill -STOP -x containerd-shim").await?;
    fleet.cloud().terminate(worker.id(), true)?;
    fleet
        .wait_until("its hook to be completed", PATIENCE, async || {
            Ok(!hook_results(&fleet, &worker.instance).is_empty())
        })
        .await?;
    assert_eq!(std::fs::read_to_string(&told)?, "flushed\n");
    // Docker's first leave waits for the tasks in vain; a second one succeeds, if there is time for it.
    let log = worker.instance.log();
    let has_left = log.contains("the departure has ended: left");
    let expected = if has_left { ActionResult::Continue } else { ActionResult::Abandon };
    assert_eq!(hook_results(&fleet, &worker.instance), [expected], "{log}");
    ensure!(log.contains("leaving the swarm"), "{log}");
    ensure!(log.contains("this task was killed without its grace"), "{log}");
    worker.is_off_the_list(&fleet).await?;
    fleet.stop().await
}

/// Together the scripts take longer than the timeout of any call to Docker.
#[tokio::test]
async fn flushing_that_takes_a_minute_runs_once_and_to_its_end() -> anyhow::Result<()> {
    let spec = ClusterSpec::new("demo", 1, 1);
    let fleet = standing(options_with("[flush]\ntimeout = \"90s\"\n"), &spec).await?;
    let worker = Leaver::of(&fleet.group(&spec.workers_group())[0]).await?;
    let told = worker.instance.dir().join("told");
    for name in ["10-first", "20-second"] {
        let script = format!(
            "#!/bin/sh\necho {name} begins >>{told}\nsleep 35\necho {name} ends >>{told}\n",
            told = told.display()
        );
        flusher(&worker.instance, name, &script)?;
    }
    fleet.cloud().terminate(worker.id(), true)?;
    worker.has_left_by_its_hook(&fleet).await?;
    assert_eq!(
        std::fs::read_to_string(&told)?,
        "10-first begins\n10-first ends\n20-second begins\n20-second ends\n"
    );
    fleet.stop().await
}

/// Too little time for the tasks: skep counts and reports the killed ones, and the command fails.
#[tokio::test]
async fn tasks_that_are_killed_are_no_success() -> anyhow::Result<()> {
    let spec = ClusterSpec::new("demo", 1, 1);
    let fleet = standing(options_with(""), &spec).await?;
    fleet.create_service("web", 2, workload::slow_to_stop(30.0), secs(60)).await?;
    running(&fleet, "web", 2).await?;
    let worker = Leaver::of(&fleet.group(&spec.workers_group())[0]).await?;
    let tasks = worker.tasks("start").len();
    assert!(tasks > 0, "the worker has tasks");
    let said = worker.instance.skep(["leave", "--deadline", "12s"]).await?;
    let text = String::from_utf8(said.stdout)?;
    ensure!(!said.status.success(), "{text}");
    ensure!(text.contains("killed without"), "{text}");
    let log = worker.instance.log();
    let named = log.lines().filter(|line| line.contains("this task was killed")).count();
    assert_eq!(named, tasks, "{log}");
    worker.is_off_the_list(&fleet).await?;
    fleet.stop().await
}
