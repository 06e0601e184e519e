//! The quorum is lost and one manager has survived: it re-creates the quorum on the operator's command, and on nothing
//! else.

use std::process::Output;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, ensure};
use harness::PATIENCE;
use harness::departures::{self, node_id, signal};
use harness::secs;
use harness::seen::{from_health_port, status, status_text};
use harness::swarm::{self, CLUSTER, Charter};
use serde_json::{Value, json};
use skep_sim::cloud::{Fault, Service};
use skep_sim::fleet::{Fleet, Instance, workload};

/// Exit code of `skep recover` when it has changed nothing.
const NOTHING_DONE: i32 = 3;

fn managers(fleet: &Fleet) -> Vec<Arc<Instance>> {
    fleet.group(&format!("{CLUSTER}-managers"))
}

async fn charter(fleet: &Fleet) -> anyhow::Result<Charter> {
    swarm::charter(fleet).await?.context("a charter")
}

/// Returns the plan as JSON, and changes nothing.
async fn plan(instance: &Instance) -> anyhow::Result<(i32, Value)> {
    let output = instance.skep(["recover", "--json"]).await?;
    let code = output.status.code().context("it has ended")?;
    let plan = serde_json::from_slice(&output.stdout);
    Ok((code, plan.with_context(|| format!("{output:?}"))?))
}

/// Waits until the survivor sees that the quorum is lost: a leader's own reads are stale for some seconds.
async fn lost(fleet: &Fleet, survivor: &Instance) -> anyhow::Result<Value> {
    fleet
        .wait_for("a quorum that is seen to be lost", PATIENCE, async || {
            let (code, plan) = plan(survivor).await?;
            println!("plan ({code}): {}", plan["refusal"]);
            Ok((code == 0).then_some(plan))
        })
        .await
}

fn text(output: &Output) -> String {
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    String::from_utf8_lossy(&text).into_owned()
}

/// Waits until every node is well, in the charter's own swarm and generation, and nothing of other nodes remains.
async fn whole(fleet: &Fleet, managers: usize, workers: usize) -> anyhow::Result<()> {
    fleet
        .wait_until("every node to be in it", PATIENCE, async || {
            swarm::whole(fleet, managers, workers).await?;
            let generation = charter(fleet).await?.generation;
            let rows = departures::ledger(fleet)?;
            let mut members = rows
                .iter()
                .filter(|row| row["item"].as_str().is_some_and(|item| item.starts_with("member#")));
            ensure!(members.clone().count() == managers + workers, "{rows:?}");
            Ok(members.all(|row| row["generation"] == generation && row["state"] == "ready"))
        })
        .await
}

/// Every view of the operator shows the same: since when the quorum is lost, and the remedy. No node is ready while no
/// manager confirms it.
async fn the_loss_is_one_state_everywhere(
    fleet: &Fleet,
    survivor: &Instance,
) -> anyhow::Result<()> {
    let seen = fleet
        .wait_for("a quorum that is called lost", PATIENCE, async || {
            let seen = status(survivor).await?;
            Ok((!seen["node"]["quorum_lost_since"].is_null()).then_some(seen))
        })
        .await?;
    let health = from_health_port(survivor, "/").await?;
    ensure!(health.contains(" 200 "), "{health}");
    let (_, health) = health.split_once("\r\n\r\n").context("a body")?;
    let health: Value = serde_json::from_str(health)?;
    let sentence = health["quorum"].as_str().with_context(|| health.to_string())?;
    ensure!(sentence.starts_with("the quorum is lost since "), "{sentence}");
    ensure!(sentence.contains("`skep recover`"), "{sentence}");
    let trouble = seen["node"]["trouble"].as_str().context("a trouble")?;
    ensure!(trouble.contains(sentence), "{trouble}");
    ensure!(status_text(survivor).await?.contains(sentence), "{sentence}");
    let members = seen["fleet"]["members"].as_array().context("members")?;
    ensure!(members.iter().all(|it| it["docker_state"] == "unknown"), "{members:#?}");
    let metrics = from_health_port(survivor, "/metrics").await?;
    for series in ["skep_in_trouble{", "skep_quorum_margin{", "skep_quorum_lost_timestamp_seconds{"]
    {
        ensure!(metrics.contains(series), "{series} is not in {metrics}");
    }
    let log = survivor.log();
    ensure!(log.matches(sentence).count() == 1, "once in {log}");
    ensure!(!log.contains("does not have a leader"), "Docker's raw error is not logged: {log}");
    Ok(())
}

#[tokio::test]
async fn a_survivor_re_creates_it_when_told_and_all_come_back() -> anyhow::Result<()> {
    let fleet = swarm::standing(harness::options(), 3, 2).await?;
    let old = charter(&fleet).await?;
    let workers = fleet.group(&format!("{CLUSTER}-workers"));
    let nodes = [node_id(&workers[0]).await?, node_id(&workers[1]).await?];
    fleet.create_service("web", 6, workload::graceful(), secs(10)).await?;
    departures::running(&fleet, "web", 6).await?;
    let [survivor, others @ ..] = &managers(&fleet)[..] else { anyhow::bail!("managers") };
    let refused = survivor.skep(["recover", "--yes"]).await?;
    assert_eq!(refused.status.code(), Some(NOTHING_DONE), "{}", text(&refused));
    ensure!(text(&refused).contains("its quorum is not lost"), "{}", text(&refused));
    let on_worker = workers[0].skep(["recover", "--yes"]).await?;
    assert_eq!(on_worker.status.code(), Some(NOTHING_DONE), "{}", text(&on_worker));

    for manager in others {
        fleet.cloud().crash(manager.id())?;
    }
    let seen = lost(&fleet, survivor).await?;
    assert_eq!(seen["managers"].as_array().map(Vec::len), Some(2), "{seen:#}");
    ensure!(seen["managers"][0]["auto_scaling"] == "gone", "{seen:#}");
    the_loss_is_one_state_everywhere(&fleet, survivor).await?;
    let unasked = survivor.skep(["recover"]).await?;
    assert_eq!(unasked.status.code(), Some(NOTHING_DONE));
    println!("{}", text(&unasked));
    let tasks = "those on a worker go on if it reconnects within about 15 s";
    for words in ["What it costs", "--yes", "the tasks on this node are started anew", tasks] {
        ensure!(text(&unasked).contains(words), "{words}: {}", text(&unasked));
    }
    assert_eq!(charter(&fleet).await?, old, "nothing was changed");

    let begin = Instant::now();
    let done = survivor.skep(["recover", "--yes"]).await?;
    println!("{}", text(&done));
    assert_eq!(done.status.code(), Some(0), "{}", text(&done));
    println!("recovered after {:.1} s", begin.elapsed().as_secs_f64());
    let next = charter(&fleet).await?;
    assert_eq!((next.generation, &*next.phase, &*next.founder), (2, "open", survivor.id()));
    assert_eq!((&next.swarm_id, &next.ca_digest), (&old.swarm_id, &old.ca_digest));
    whole(&fleet, 3, 2).await?;
    println!("whole after {:.1} s", begin.elapsed().as_secs_f64());
    departures::running(&fleet, "web", 6).await?;
    for (worker, node) in workers.iter().zip(nodes) {
        assert_eq!(node_id(worker).await?, node, "the same node");
        // The tasks keep running, unless Docker has waited for the worker in vain for 15 s: the worker retries every 0
        // to 8 s, with any of the managers that it knows, including the dead ones.
        let killed = worker.deaths().iter().filter(|death| death.exit_code != Some(0)).count();
        assert_eq!(killed, 0, "a task has lost its grace");
        assert_eq!(swarm::said(&fleet, worker.id()).0, ["SUCCESS"], "nothing is reported twice");
    }
    assert_eq!(survivor.exit_codes(), Vec::<i32>::new(), "the same process");
    assert_eq!(charter(&fleet).await?, next);
    fleet.stop().await
}

/// One manager is gone and one is cut off, so it is in no quorum either. When it comes back, it has another history of
/// the same swarm.
#[tokio::test]
async fn one_that_was_cut_off_is_fenced_and_joins_anew() -> anyhow::Result<()> {
    let fleet = swarm::standing(harness::options(), 3, 1).await?;
    let old = charter(&fleet).await?;
    let three = managers(&fleet);
    let [survivor, cut_off, dead] = &three[..] else { anyhow::bail!("three managers") };
    let before = node_id(cut_off).await?;
    cut_off.isolate(true)?;
    fleet.cloud().crash(dead.id())?;
    let seen = lost(&fleet, survivor).await?;
    let costs = seen["costs"].to_string();
    ensure!(costs.contains(&format!("{} may be alive", cut_off.id())), "{costs}");
    let done = survivor.skep(["recover", "--yes"]).await?;
    assert_eq!(done.status.code(), Some(0), "{}", text(&done));
    cut_off.isolate(false)?;
    let begin = Instant::now();
    whole(&fleet, 3, 1).await?;
    println!("whole {:.1} s after it was back", begin.elapsed().as_secs_f64());
    let next = charter(&fleet).await?;
    assert_eq!((next.generation, &next.swarm_id), (2, &old.swarm_id));
    assert_ne!(node_id(cut_off).await?, before, "it has joined again");
    ensure!(cut_off.log().contains("this manager is fenced out"), "{}", cut_off.log());
    assert_eq!(cut_off.exit_codes(), Vec::<i32>::new(), "the same process");
    fleet.stop().await
}

/// skep dies in the middle of a recovery and continues; no other manager founds or recovers meanwhile.
#[tokio::test]
async fn it_goes_on_after_a_crash_and_nobody_comes_in_between() -> anyhow::Result<()> {
    let fleet = swarm::standing(harness::options(), 3, 1).await?;
    let old = charter(&fleet).await?;
    let [survivor, others @ ..] = &managers(&fleet)[..] else { anyhow::bail!("managers") };
    for manager in others {
        fleet.cloud().crash(manager.id())?;
    }
    lost(&fleet, survivor).await?;

    // A row that skep cannot read may belong to a manager that is alive.
    let key = format!("member#manager#{}", others[0].id());
    let row = swarm::rows(&fleet, CLUSTER, &key).await?.pop().context("its row")?;
    let mut odd = row.clone();
    odd.insert("state".into(), json!("as a newer skep writes it"));
    swarm::put_row(&fleet, &odd).await?;
    let (code, refused) = plan(survivor).await?;
    assert_eq!(code, NOTHING_DONE);
    ensure!(refused["refusal"].as_str().is_some_and(|it| it.contains(&key)), "{refused:#}");
    swarm::put_row(&fleet, &row).await?;

    // The charter shows that another manager recovers.
    let mut row = swarm::rows(&fleet, CLUSTER, "charter").await?.pop().context("a charter")?;
    let open = row.clone();
    let later = time::OffsetDateTime::now_utc().unix_timestamp() + 3600;
    for (name, value) in [
        ("phase", json!("founding")),
        ("generation", json!(2)),
        ("founder", json!("i-0123456789abcdef0")),
        ("lease_expires_at", json!(later)),
        ("recovers", json!(old.swarm_id)),
    ] {
        row.insert(name.into(), value);
    }
    row.remove("swarm_id");
    row.remove("ca_digest");
    swarm::put_row(&fleet, &row).await?;
    let (code, plan) = plan(survivor).await?;
    assert_eq!(code, NOTHING_DONE);
    let says = "another recovery runs, on i-0123456789abcdef0";
    ensure!(plan["refusal"].as_str().is_some_and(|it| it.contains(says)), "{plan:#}");
    swarm::put_row(&fleet, &open).await?;

    // skep dies between Docker's step and the ledger's, while the ledger cannot be written.
    let faults = fleet.cloud().faults();
    let begun = survivor.skep(["recover", "--yes"]);
    let killed = async {
        swarm::logged(&fleet, survivor, "re-creating the quorum on this node alone").await?;
        let fails = Fault { error: 1.0, ..Fault::default() };
        faults.set(Service::DynamoDb, Some("PutItem"), fails);
        swarm::logged(&fleet, survivor, "this node is the only manager of the swarm now").await?;
        swarm::logged(&fleet, survivor, "retrying after").await?;
        signal(survivor, "SIGKILL")?;
        assert_eq!(charter(&fleet).await?.phase, "founding", "it was killed in the middle");
        faults.clear();
        anyhow::Ok(())
    };
    let (begun, killed) = tokio::join!(begun, killed);
    killed?;
    let begun = begun?;
    assert_eq!(begun.status.code(), Some(0), "it follows to the end: {}", text(&begun));
    whole(&fleet, 3, 1).await?;
    let next = charter(&fleet).await?;
    assert_eq!((next.generation, next.founder.as_str()), (2, survivor.id()));
    assert_eq!(next.swarm_id, old.swarm_id);
    fleet.stop().await
}

/// Docker would shut the survivor's node down, and could not start it again.
#[tokio::test]
async fn a_locked_swarm_is_left_alone_and_comes_back_with_another_manager() -> anyhow::Result<()> {
    let options = departures::options_with("[swarm]\nautolock = true\n");
    let fleet = swarm::standing(options, 2, 0).await?;
    let old = charter(&fleet).await?;
    let [survivor, stopped] = &managers(&fleet)[..] else { anyhow::bail!("two managers") };
    stopped.stop_dockerd().await?;
    let why = "a refusal because of the lock";
    fleet
        .wait_until(why, PATIENCE, async || {
            let refused = survivor.skep(["recover", "--yes"]).await?;
            assert_eq!(refused.status.code(), Some(NOTHING_DONE), "{}", text(&refused));
            Ok(text(&refused).contains("lock themselves (autolock)"))
        })
        .await?;
    assert_eq!(charter(&fleet).await?, old, "nothing was claimed");
    stopped.start_dockerd()?;
    swarm::logged(&fleet, stopped, "unlocked this manager with the key in").await?;
    swarm::whole(&fleet, 2, 0).await?;
    fleet.stop().await
}
