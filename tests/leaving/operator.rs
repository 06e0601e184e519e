//! `skep leave`: the operator removes a node from the swarm, and the machine stays.

use anyhow::{Context, ensure};
use harness::PATIENCE;
use harness::departures::{Leaver, departure_state, options_with, row, running, signal, standing};
use harness::nodes::all_active;
use harness::quorum::cut_apart;
use harness::secs;
use harness::seen::status_text;
use harness::terminal::widest;
use serde_json::Value;
use skep_sim::cloud::{Fault, Service};
use skep_sim::fleet::{ClusterSpec, Instance, workload};

#[tokio::test]
async fn the_node_leaves_and_the_machine_stays() -> anyhow::Result<()> {
    let spec = ClusterSpec::new("demo", 1, 2);
    let fleet = standing(options_with(""), &spec).await?;
    fleet.create_service("web", 6, workload::slow_to_stop(3.0), secs(20)).await?;
    running(&fleet, "web", 6).await?;
    let workers = fleet.group(&spec.workers_group());
    let (worker, seen) = (Leaver::of(&workers[0]).await?, Leaver::of(&workers[1]).await?);
    assert!(!worker.tasks("start").is_empty(), "the worker has tasks");

    let asked = worker.instance.skep(["leave", "--deadline", "5m", "--no-wait"]).await?;
    assert!(asked.status.success(), "{asked:?}");
    assert!(String::from_utf8_lossy(&asked.stdout).contains("leaving"), "{asked:?}");
    // A second request changes nothing; this one waits, and in a pipe it prints one line per change.
    let said = worker.instance.skep(["leave"]).await?;
    assert!(said.status.success(), "{said:?}");
    let text = String::from_utf8(said.stdout)?;
    ensure!(text.starts_with("This node is already leaving: "), "{text}");
    ensure!(text.ends_with("\nleft, and off the node list\n") && !text.contains('\x1b'), "{text}");
    ensure!(text.contains(" leaving: waiting for "), "{text}");

    worker.has_left(&fleet).await?;
    worker.skep_has_ended_well(&fleet).await?;
    let departure = row(&fleet, &format!("departure#{}", worker.id()))?.expect("a departure");
    assert_eq!(departure["reason"], "operator");
    let seconds = departure["deadline"].as_i64().zip(departure["requested_at"].as_i64());
    assert_eq!(seconds.map(|(deadline, asked)| deadline - asked), Some(300));
    assert!(worker.instance.is_on());
    running(&fleet, "web", 6).await?;

    let nobody = worker.instance.skep(["leave"]).await?;
    assert!(!nobody.status.success(), "no skep runs any more: {nobody:?}");

    the_fleet_is_watched(&fleet.group(&spec.managers_group())[0]).await?;
    on_a_narrow_terminal(&seen).await?;
    seen.has_left(&fleet).await?;
    its_story_is_kept(&seen).await?;
    fleet.stop().await
}

/// The node leaves, and systemd is asked to power the machine off, once, after the departure; not if nobody confirms it.
#[tokio::test]
async fn the_machine_is_powered_off_after_the_node_has_left() -> anyhow::Result<()> {
    let spec = ClusterSpec::new("demo", 1, 1);
    let fleet = standing(options_with(""), &spec).await?;
    let worker = Leaver::of(&fleet.group(&spec.workers_group())[0]).await?;
    let orders = worker.instance.dir().join("orders");
    let program = format!(
        "#!/bin/sh\ncase \"$*\" in *poweroff) echo \"$*\" >> {} ;; esac\n",
        orders.display()
    );
    worker.instance.write_program("systemctl", &program)?;
    let asked = worker.instance.skep_on_terminal(80, "leave --terminate").await?;
    let text = String::from_utf8(asked.stdout)?;
    ensure!(asked.status.code() == Some(3) && text.contains("Type terminate to confirm"), "{text}");
    ensure!(!orders.exists(), "nobody has confirmed");
    let said = worker.instance.skep(["leave", "--terminate", "--deadline", "1m"]).await?;
    ensure!(said.status.success(), "{said:?}");
    let told = String::from_utf8(said.stderr)?;
    let group = spec.workers_group();
    ensure!(told.contains(&format!("is powered off, and Auto Scaling group {group}")), "{told}");
    ensure!(told.contains(&format!("{} powers off, and", worker.id())), "{told}");
    worker.has_left(&fleet).await?;
    let orders = std::fs::read_to_string(orders)?;
    ensure!(orders == "--no-ask-password poweroff\n", "{orders}");
    fleet.stop().await
}

/// The table is redrawn until the operator ends it.
async fn the_fleet_is_watched(manager: &Instance) -> anyhow::Result<()> {
    // The terminal's `exec` applies only to the first command of the line: the watch runs in the background.
    let drawn = manager.skep_on_terminal(40, "status --watch & sleep 7; kill $!").await?;
    let drawn = String::from_utf8(drawn.stdout)?;
    let looks = drawn.matches("quorum: 1 manager").count();
    ensure!(looks >= 2 && drawn.contains("A\r\x1b[J"), "{looks} looks: {drawn}");
    ensure!(widest(&drawn) <= 40, "{} columns: {drawn}", widest(&drawn));
    Ok(())
}

/// A block is redrawn in place: the present step, the time, and the tasks by their names.
async fn on_a_narrow_terminal(leaver: &Leaver) -> anyhow::Result<()> {
    let bad = leaver.instance.skep(["leave", "--reason", "two\nlines"]).await?;
    ensure!(bad.status.code() == Some(2), "{bad:?}");
    let asked = leaver.instance.skep_on_terminal(40, "leave").await?;
    let text = String::from_utf8(asked.stdout)?;
    ensure!(asked.status.code() == Some(3), "nobody has confirmed: {text}");
    ensure!(text.contains("Type leave to confirm") && text.contains("nothing was done"), "{text}");
    let order = "leave --yes --deadline 1m --reason 'a new kernel'";
    let drawn = leaver.instance.skep_on_terminal(40, order).await?;
    ensure!(drawn.status.success(), "{drawn:?}");
    let drawn = String::from_utf8(drawn.stdout)?;
    for part in ["\x1b[", "why      a new kernel", "to drain (-)", "left:", "  web.", "[#"] {
        ensure!(drawn.contains(part), "no {part:?}: {drawn}");
    }
    let (_, after) = drawn.split_once("left, and off the node list").context("no end")?;
    ensure!(after.contains("InService") && after.contains("systemctl start skep"), "{after}");
    ensure!(widest(&drawn) <= 60, "the first line is the terminal's to wrap: {drawn}");
    let block = drawn.split_once("view alone.").context("no first line")?.1;
    ensure!(widest(block) <= 40, "{} columns: {block}", widest(block));
    Ok(())
}

/// skep has ended, and its event log can still be read: in one line each, and for scripts.
async fn its_story_is_kept(leaver: &Leaver) -> anyhow::Result<()> {
    let told = leaver.instance.skep(["events"]).await?;
    let text = String::from_utf8(told.stdout)?;
    let steps = [
        "node: this node",
        "phase=ready",
        "the operator takes this node out: a new kernel",
        "notices: this node must leave",
        "flushing the logs",
        "phase=left",
    ];
    let at: Vec<Option<usize>> = steps.iter().map(|step| text.find(step)).collect();
    ensure!(at.iter().all(Option::is_some) && at.is_sorted(), "{at:?}: {text}");
    let told = leaver.instance.skep(["events", "--json", "--since", "1h"]).await?;
    let events: Vec<Value> = String::from_utf8(told.stdout)?
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()?;
    let end = events.iter().rfind(|event| event["fields"]["phase"] == "left").context("no end")?;
    ensure!(end["fields"]["outcome"] == "left", "{end}");
    let last = events.last().context("no events")?;
    ensure!(last["level"] == "INFO" && last["at"].is_string(), "{last}");
    Ok(())
}

/// The ledger refuses the record that two departures have failed: one skep keeps trying; the other one is killed, and
/// the next one finds a departure whose deadline has passed. Managers without a leader cannot demote a node.
#[tokio::test]
async fn a_failure_that_the_ledger_did_not_take_is_recorded_later() -> anyhow::Result<()> {
    let spec = ClusterSpec::new("demo", 3, 0);
    let fleet = standing(options_with(""), &spec).await?;
    let managers = fleet.group(&spec.managers_group());
    let leavers = [&managers[0], &managers[1]];
    cut_apart(&fleet, &managers).await?;
    for leaver in leavers {
        let asked = leaver.skep(["leave", "--deadline", "20s", "--no-wait"]).await?;
        ensure!(asked.status.success(), "{asked:?}");
    }
    let state = |leaver: &Instance| departure_state(&fleet, leaver);
    fleet
        .wait_until("both to have asked", PATIENCE, async || {
            Ok(leavers.iter().all(|leaver| state(leaver).is_some()))
        })
        .await?;
    let fails = Fault { error: 1.0, ..Fault::default() };
    fleet.cloud().faults().set(Service::DynamoDb, None, fails);
    for leaver in leavers {
        let what = "the end of the failed departure cannot be written";
        fleet
            .wait_until(what, PATIENCE, async || Ok(status_text(leaver).await?.contains(what)))
            .await?;
        ensure!(state(leaver).as_deref() != Some("failed"));
    }
    signal(leavers[1], "SIGKILL")?;
    tokio::time::sleep(secs(10)).await;
    fleet.cloud().faults().clear();
    fleet
        .wait_until("both to be recorded as failed", PATIENCE, async || {
            Ok(leavers.iter().all(|leaver| state(leaver).as_deref() == Some("failed")))
        })
        .await?;
    for one in &managers {
        one.isolate(false)?;
    }
    fleet
        .wait_until("all to serve again", PATIENCE, async || {
            let are_back = managers.iter().all(|one| one.is_ready() && one.skep_running());
            Ok(are_back && all_active(&fleet, 3).await?)
        })
        .await?;
    assert_eq!(leavers[0].exit_codes(), Vec::<i32>::new(), "{}", leavers[0].log());
    assert_eq!(leavers[1].exit_codes(), [137], "{}", leavers[1].log());
    fleet.stop().await
}
