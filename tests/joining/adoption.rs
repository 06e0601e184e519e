//! A swarm that skep did not found becomes the cluster's: in place, and from outside.

use std::collections::BTreeSet;
use std::sync::Arc;

use anyhow::{Context, ensure};
use bollard::models::SwarmJoinRequest;
use harness::departures::{Leaver, is_listed, running};
use harness::gate::Gate;
use harness::services::task_ids;
use harness::{PATIENCE, secs, swarm};
use serde_json::{Value, json};
use skep_sim::fleet::{Fleet, FleetOptions, Instance, Restart, workload};

const SERVICE: &str = "web";

async fn start() -> anyhow::Result<(Gate, Fleet)> {
    let (gate, options) = Gate::new(true)?;
    let fleet = harness::fleet(FleetOptions { restart: Restart::Never, ..options }).await?;
    Ok((gate, fleet))
}

/// Ends the skep that waits for its start, so that the instance has none: a command can run there, and skep can start
/// later.
async fn without_skep(gate: &Gate, instance: &Arc<Instance>) -> anyhow::Result<()> {
    instance.wait_docker().await?;
    instance.stop_skep().await?;
    gate.open_for(instance)
}

/// `docker swarm join`.
async fn join_by_hand(instance: &Instance, through: &Instance, role: &str) -> anyhow::Result<()> {
    let tokens = through.docker()?.inspect_swarm().await?.join_tokens.context("tokens")?;
    let request = SwarmJoinRequest {
        advertise_addr: Some(instance.address().to_string()),
        listen_addr: Some("0.0.0.0:2377".to_owned()),
        remote_addrs: Some(vec![format!("{}:2377", through.address())]),
        join_token: if role == "manager" { tokens.manager } else { tokens.worker },
        ..Default::default()
    };
    Ok(instance.docker()?.join_swarm(request).await?)
}

async fn adopt(instance: &Instance, arguments: &[&str]) -> anyhow::Result<(i32, String)> {
    let output = instance.skep([&["adopt"], arguments].concat()).await?;
    let said = [output.stdout, output.stderr].concat();
    Ok((output.status.code().context("a code")?, String::from_utf8_lossy(&said).into_owned()))
}

async fn labels(instance: &Instance) -> anyhow::Result<BTreeSet<(String, String)>> {
    let swarm = instance.docker()?.inspect_swarm().await?;
    Ok(swarm.spec.and_then(|spec| spec.labels).unwrap_or_default().into_iter().collect())
}

#[tokio::test]
async fn a_swarm_made_by_hand_is_adopted_in_place_without_a_restart_of_any_task()
-> anyhow::Result<()> {
    let (gate, fleet) = start().await?;
    fleet.create_cluster(&swarm::cluster(3, 2))?;
    swarm::newest(&fleet, "manager", 3).await?;
    swarm::newest(&fleet, "worker", 2).await?;
    let managers = fleet.group("test-managers");
    let workers = fleet.group("test-workers");
    for instance in managers.iter().chain(&workers) {
        without_skep(&gate, instance).await?;
    }
    let first = &managers[0];
    let id = swarm::found_by_hand(first).await?;
    for manager in &managers[1..] {
        join_by_hand(manager, first, "manager").await?;
    }
    for worker in &workers {
        join_by_hand(worker, first, "worker").await?;
    }
    fleet.create_service(SERVICE, 6, workload::graceful(), secs(10)).await?;
    running(&fleet, SERVICE, 6).await?;
    let before: BTreeSet<String> = task_ids(&fleet, SERVICE, &[]).await?.into_iter().collect();

    let (code, said) = adopt(&workers[0], &["--yes"]).await?;
    assert_eq!(code, 3, "{said}");
    ensure!(said.contains("not a manager of its swarm"), "{said}");
    // Without a terminal nobody can confirm; the plan is shown, and nothing is written.
    let (code, said) = adopt(&managers[1], &[]).await?;
    assert_eq!(code, 3, "{said}");
    for word in ["What is done", "skep.generation=1", "nobody is demoted", "--yes", workers[1].id()]
    {
        ensure!(said.contains(word), "{word} is missing: {said}");
    }
    ensure!(swarm::charter(&fleet).await?.is_none() && labels(first).await?.is_empty());
    let output = managers[1].skep(["adopt", "--json"]).await?;
    let plan: Value = serde_json::from_slice(&output.stdout)?;
    assert_eq!((&plan["refusal"], &plan["conflicts"]), (&Value::Null, &json!([])));

    let (code, said) = adopt(first, &["--yes"]).await?;
    assert_eq!(code, 0, "{said}");
    let charter = swarm::charter(&fleet).await?.context("a charter")?;
    assert_eq!((charter.phase.as_str(), charter.generation), ("open", 1));
    assert_eq!((charter.founder.as_str(), charter.swarm_id), (first.id(), Some(id)));
    let of = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    let wanted =
        [of("skep.adopted", "true"), of("skep.cluster", "test"), of("skep.generation", "1")];
    assert_eq!(labels(first).await?, wanted.into());
    let (code, said) = adopt(&managers[1], &["--yes"]).await?;
    assert_eq!(code, 3, "{said}");
    ensure!(said.contains("the cluster's already, as generation 1"), "{said}");

    for instance in managers.iter().chain(&workers) {
        instance.start_skep()?;
    }
    swarm::all_ready(&fleet, 5).await?;
    swarm::whole(&fleet, 3, 2).await?;
    let after: BTreeSet<String> = task_ids(&fleet, SERVICE, &[]).await?.into_iter().collect();
    assert_eq!(after, before, "a task was restarted");

    // The group scales now.
    gate.open();
    swarm::resize(&fleet, "worker", 3)?;
    swarm::all_ready(&fleet, 6).await?;
    swarm::whole(&fleet, 3, 3).await?;
    let leaver = Leaver::of(&workers[0]).await?;
    fleet.cloud().terminate(workers[0].id(), true)?;
    leaver.has_left_by_its_hook(&fleet).await?;
    running(&fleet, SERVICE, 6).await?;
    fleet.stop().await
}

/// The command dies after its claim: the next one goes on, under the same generation.
#[tokio::test]
async fn an_adoption_that_fails_leaves_nothing_and_one_that_is_killed_goes_on() -> anyhow::Result<()>
{
    use skep_sim::cloud::{Fault, Service};
    let (gate, fleet) = start().await?;
    fleet.create_cluster(&swarm::cluster(1, 0))?;
    let manager = swarm::newest(&fleet, "manager", 1).await?;
    without_skep(&gate, &manager).await?;
    swarm::found_by_hand(&manager).await?;
    let faults = fleet.cloud().faults();
    faults.set(Service::Ssm, Some("PutParameter"), Fault { error: 1.0, ..Fault::default() });
    let (code, said) = adopt(&manager, &["--yes"]).await?;
    assert_eq!(code, 1, "{said}");
    ensure!(said.contains("taken back") && said.contains("PutParameter"), "{said}");
    let claim = &swarm::rows(&fleet, swarm::CLUSTER, "charter").await?[0];
    assert_eq!((&claim["phase"], &claim["lease_expires_at"]), (&json!("founding"), &json!(0)));
    ensure!(labels(&manager).await?.is_empty(), "the labels are left");
    ensure!(swarm::rows(&fleet, swarm::CLUSTER, "member#").await?.is_empty(), "a row is left");

    // It hangs in the middle, and is killed.
    let slow = Fault { latency_ms: Some((60_000, 60_000)), ..Fault::default() };
    faults.set(Service::Ssm, Some("PutParameter"), slow);
    let hanging = {
        let manager = Arc::clone(&manager);
        tokio::spawn(async move { manager.skep(["adopt", "--yes"]).await })
    };
    fleet
        .wait_until("the claim", PATIENCE, async || Ok(swarm::charter(&fleet).await?.is_some()))
        .await?;
    fleet
        .wait_until("the labels", PATIENCE, async || Ok(!labels(&manager).await?.is_empty()))
        .await?;
    swarm::sh(&manager, "pkill -KILL -f '[s]kep adopt'").await?;
    let _ = hanging.await?;
    faults.clear();
    let claim = swarm::charter(&fleet).await?.context("a claim")?;
    assert_eq!(claim.phase, "founding");
    let (code, said) = adopt(&manager, &["--yes"]).await?;
    assert_eq!(code, 0, "{said}");
    let charter = swarm::charter(&fleet).await?.context("a charter")?;
    assert_eq!((charter.phase.as_str(), charter.generation), ("open", claim.generation));
    manager.start_skep()?;
    swarm::all_ready(&fleet, 1).await?;
    swarm::whole(&fleet, 1, 0).await?;
    fleet.stop().await
}

/// Nothing can be installed on the old nodes: a new manager joins them, adopts the swarm, and they retire.
#[tokio::test]
async fn a_swarm_is_adopted_from_outside_and_its_old_nodes_retire() -> anyhow::Result<()> {
    let (gate, fleet) = start().await?;
    let old = swarm::another_swarm(&fleet).await?;
    let docker = old.docker()?;
    fleet.create_cluster(&swarm::cluster(1, 0))?;
    let manager = swarm::newest(&fleet, "manager", 1).await?;
    without_skep(&gate, &manager).await?;
    let old_address = old.address().to_string();
    let join = async |token: &str, address: &str| {
        std::fs::write(manager.dir().join("token"), token)?;
        let file = manager.dir().join("token").display().to_string();
        let joining = ["--join", "--manager", address, "--token-file", &file, "--yes"];
        adopt(&manager, &joining).await
    };
    let tokens = docker.inspect_swarm().await?.join_tokens.context("tokens")?;
    let [of_managers, of_workers] = [tokens.manager, tokens.worker].map(Option::unwrap_or_default);
    let place = async || anyhow::Ok(swarm::place(&manager).await?.node_id.unwrap_or_default());
    for (token, address, words) in [
        ("SWMTKN-1-nonsense", old_address.as_str(), "holds no join token"),
        (&of_managers, "3.120.1.1", "not a private address"),
        (&of_managers, "10.78.0.77", "nothing answers at 10.78.0.77:2377"),
        (
            &of_managers.replace(&of_managers[70..], &"x".repeat(of_managers.len() - 70)),
            &old_address,
            "refuses the token",
        ),
        (&of_workers, &old_address, "the token is that of workers"),
    ] {
        let (code, said) = join(token, address).await?;
        ensure!(code != 0 && said.contains(words), "{code}: {said}");
        ensure!(!said.contains(&of_managers[60..]), "a secret is shown");
        fleet
            .wait_until("Docker to be in no swarm", PATIENCE, async || {
                Ok(place().await?.is_empty())
            })
            .await?;
    }
    ensure!(swarm::charter(&fleet).await?.is_none(), "nothing was written");

    let (code, said) = join(&of_managers, &old_address).await?;
    assert_eq!(code, 0, "{said}");
    ensure!(said.contains("EC2 lists no instance"), "the old node is not identified: {said}");
    let charter = swarm::charter(&fleet).await?.context("a charter")?;
    assert_eq!((charter.phase.as_str(), charter.swarm_id), ("open", swarm::swarm_of(&old).await?));
    let ends = manager.exits().len();
    manager.start_skep()?;
    swarm::ready(&fleet, &manager).await?;

    // The operator retires the old manager.
    let gone = swarm::place(&old).await?.node_id.context("an id")?;
    swarm::demote(&manager.docker()?, &gone).await?;
    fleet
        .wait_until("the old manager to be a worker", PATIENCE, async || {
            Ok(swarm::place(&old).await?.control_available == Some(false))
        })
        .await?;
    docker.leave_swarm(None).await?;
    gate.open();
    swarm::resize(&fleet, "manager", 2)?;
    let second = swarm::newest(&fleet, "manager", 2).await?;
    swarm::ready(&fleet, &second).await?;
    // It is Down, and was in no group: removing it is the operator's.
    tokio::time::sleep(secs(20)).await;
    ensure!(is_listed(&fleet, &gone).await?, "a node outside any group was removed");
    ensure!(manager.exits().len() == ends, "{}", manager.log());
    fleet.stop().await
}
