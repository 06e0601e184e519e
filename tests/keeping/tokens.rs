//! Join tokens are rotated, by skep and without it, while nodes boot and while the store is down: the store follows,
//! and every booting node joins.

use std::sync::Arc;

use anyhow::{Context, ensure};
use bollard::models::SwarmSpecCaConfig;
use bollard::query_parameters::UpdateSwarmOptionsBuilder;
use harness::PATIENCE;
use harness::departures::options_with;
use harness::secs;
use harness::swarm::{self, CLUSTER};
use serde_json::Value;
use skep_sim::cloud::{Fault, Service};
use skep_sim::fleet::{Fleet, Instance};

/// The leader polls every 10 s; a rotation of the CA takes Docker some time, too.
const FOLLOWED: std::time::Duration = secs(120);
/// Docker's worker token and manager token.
type Tokens = [String; 2];

async fn tokens_of_docker(fleet: &Fleet) -> anyhow::Result<Tokens> {
    let tokens = fleet.manager_docker().await?.inspect_swarm().await?.join_tokens;
    let tokens = tokens.context("no tokens")?;
    Ok([tokens.worker.context("no worker token")?, tokens.manager.context("no manager token")?])
}

async fn tokens_in_store(fleet: &Fleet) -> anyhow::Result<Tokens> {
    let name = |role| swarm::token_name(role, 1);
    Ok([
        swarm::parameter(fleet, &name("worker")).await?,
        swarm::parameter(fleet, &name("manager")).await?,
    ])
}

/// Waits until the store holds Docker's tokens, and both differ from `old`.
async fn is_followed(fleet: &Fleet, old: &Tokens) -> anyhow::Result<Tokens> {
    fleet
        .wait_for("the store to have Docker's new tokens", FOLLOWED, async || {
            let (new, stored) = (tokens_of_docker(fleet).await?, tokens_in_store(fleet).await?);
            let are_new = new.iter().zip(old).all(|(new, old)| new != old);
            Ok((are_new && new == stored).then_some(new))
        })
        .await
}

async fn rotate(instance: &Instance, arguments: &[&str]) -> anyhow::Result<(i32, String)> {
    let output = instance.skep([&["rotate-tokens"], arguments].concat()).await?;
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8(said).context("not UTF-8")?;
    ensure!(!said.contains("SWMTKN") && !said.contains("SWMKEY"), "a secret is shown: {said}");
    Ok((output.status.code().context("killed")?, said))
}

async fn founded(config: &str) -> anyhow::Result<(Fleet, Arc<Instance>)> {
    let fleet = harness::fleet(options_with(config)).await?;
    fleet.create_cluster(&swarm::cluster(1, 0))?;
    swarm::all_ready(&fleet, 1).await?;
    let manager = fleet.leader().await?;
    Ok((fleet, manager))
}

#[tokio::test]
async fn workers_that_boot_meanwhile_all_get_in_and_cannot_rotate_themselves() -> anyhow::Result<()>
{
    let (fleet, manager) = founded("").await?;
    let first = tokens_of_docker(&fleet).await?;
    swarm::resize(&fleet, "worker", 5)?;
    swarm::newest(&fleet, "worker", 5).await?;
    for _ in 0..3 {
        let (code, said) = rotate(&manager, &["--worker", "--json"]).await?;
        ensure!(code == 0, "{code}: {said}");
        let rotated: Value = serde_json::from_str(&said)?;
        assert_eq!(rotated["generation"], 1);
        assert_eq!(rotated["stored_in"], serde_json::json!([swarm::token_name("worker", 1)]));
        // The command has returned, so the store has the token.
        assert_eq!(tokens_of_docker(&fleet).await?, tokens_in_store(&fleet).await?);
    }
    swarm::all_ready(&fleet, 6).await?;
    swarm::whole(&fleet, 1, 5).await?;
    let now = tokens_of_docker(&fleet).await?;
    ensure!(now[0] != first[0], "the worker's token is the old one");
    assert_eq!(now[1], first[1], "the manager's was not to be rotated");

    let worker = fleet.group("test-workers").pop().context("a worker")?;
    let (code, said) = rotate(&worker, &[]).await?;
    assert_eq!(code, 1, "{said}");
    ensure!(said.contains("this node is not a manager"), "{said}");
    ensure!(said.contains(manager.id()), "it does not name the manager: {said}");
    let (code, said) = rotate(&manager, &["--unlock-key"]).await?;
    ensure!(code == 1 && said.contains("autolock is off"), "{code}: {said}");
    assert_eq!(tokens_of_docker(&fleet).await?, now, "a refusal changes nothing");
    fleet.stop().await
}

/// `docker swarm join-token --rotate`, then `docker swarm ca --rotate`.
#[tokio::test]
async fn what_an_operator_rotates_in_docker_is_followed_and_another_ca_too() -> anyhow::Result<()> {
    let (fleet, _) = founded("").await?;
    let first = tokens_of_docker(&fleet).await?;
    update_swarm(&fleet, true).await?;
    let second = is_followed(&fleet, &first).await?;

    let before = swarm::charter(&fleet).await?.context("no charter")?;
    update_swarm(&fleet, false).await?;
    let third = is_followed(&fleet, &second).await?;
    let digest = third[0].split('-').nth(2).map(str::to_owned);
    ensure!(digest != before.ca_digest, "the CA is the old one");
    fleet
        .wait_until("the charter to name the new CA", FOLLOWED, async || {
            let charter = swarm::charter(&fleet).await?.context("no charter")?;
            Ok(charter == swarm::Charter { ca_digest: digest.clone(), ..before.clone() })
        })
        .await?;
    swarm::resize(&fleet, "worker", 1)?;
    swarm::resize(&fleet, "manager", 2)?;
    swarm::all_ready(&fleet, 3).await?;
    swarm::whole(&fleet, 2, 1).await?;
    fleet.stop().await
}

/// The nodes that wait for tokens must join before their launch hooks time out.
#[tokio::test]
async fn what_is_deleted_from_the_store_is_put_back() -> anyhow::Result<()> {
    let (fleet, _) = founded("").await?;
    let first = tokens_of_docker(&fleet).await?;
    fleet
        .wait_until("the store to match Docker", FOLLOWED, async || {
            Ok(tokens_in_store(&fleet).await? == first)
        })
        .await?;
    for role in ["worker", "manager"] {
        let name = swarm::token_name(role, 1);
        ensure!(fleet.cloud().delete_parameter(&name), "there is no {name}");
    }
    swarm::resize(&fleet, "worker", 1)?;
    swarm::resize(&fleet, "manager", 2)?;
    // The leader compares every two minutes, and a launch hook waits for fifteen.
    fleet
        .wait_until("the tokens in the store again", secs(180), async || {
            Ok(tokens_in_store(&fleet).await? == first)
        })
        .await?;
    swarm::all_ready(&fleet, 3).await?;
    swarm::whole(&fleet, 2, 1).await?;
    fleet.stop().await
}

#[tokio::test]
async fn a_store_that_is_down_gets_them_once_it_is_up() -> anyhow::Result<()> {
    let (fleet, manager) = founded("").await?;
    let first = tokens_of_docker(&fleet).await?;
    let faults = fleet.cloud().faults();
    faults.set(Service::Ssm, Some("PutParameter"), Fault { error: 1.0, ..Fault::default() });
    let (code, said) = rotate(&manager, &[]).await?;
    assert_eq!(code, 1, "{said}");
    for word in ["skep keeps trying", "PutParameter"] {
        ensure!(said.contains(word), "{word} is missing: {said}");
    }
    assert_eq!(tokens_in_store(&fleet).await?, first);
    fleet
        .wait_until("status to show the trouble", PATIENCE, async || {
            Ok(status(&manager).await?["node"]["trouble"]
                .as_str()
                .is_some_and(|trouble| trouble.contains("PutParameter")))
        })
        .await?;
    // It boots with the previous token, which the swarm refuses.
    swarm::resize(&fleet, "worker", 1)?;
    let worker = swarm::newest(&fleet, "worker", 1).await?;
    swarm::logged(&fleet, &worker, "the join token was refused").await?;

    faults.clear();
    is_followed(&fleet, &first).await?;
    swarm::ready(&fleet, &worker).await?;
    fleet
        .wait_until("the trouble to be over", PATIENCE, async || {
            Ok(status(&manager).await?["node"]["trouble"].is_null())
        })
        .await?;
    swarm::whole(&fleet, 1, 1).await?;
    ensure!(worker.exit_codes().is_empty(), "it never failed");
    fleet.stop().await
}

#[tokio::test]
async fn an_interval_rotates_both_and_is_written_down() -> anyhow::Result<()> {
    let (fleet, _) = founded("[tokens]\nrotate_every = \"1m\"\n").await?;
    let first = tokens_of_docker(&fleet).await?;
    ensure!(swarm::rows(&fleet, CLUSTER, "token-rotation").await?.is_empty(), "too early");
    is_followed(&fleet, &first).await?;
    fleet
        .wait_until("the rotation to be recorded", PATIENCE, async || {
            let row = swarm::rows(&fleet, CLUSTER, "token-rotation").await?.pop();
            Ok(row.is_some_and(|row| row["generation"] == 1 && row["rotated_at"].is_u64()))
        })
        .await?;
    fleet.stop().await
}

async fn status(instance: &Instance) -> anyhow::Result<Value> {
    let output = instance.skep(["status", "--json"]).await?;
    serde_json::from_slice(&output.stdout).context("no status")
}

/// As an operator, with Docker's own tools: new tokens, or another root CA.
async fn update_swarm(fleet: &Fleet, are_tokens: bool) -> anyhow::Result<()> {
    let docker = fleet.manager_docker().await?;
    let found = docker.inspect_swarm().await?;
    let version = found.version.and_then(|version| version.index).context("no version")?;
    let options = UpdateSwarmOptionsBuilder::default()
        .version(i64::try_from(version)?)
        .rotate_worker_token(are_tokens)
        .rotate_manager_token(are_tokens);
    let mut spec = found.spec.context("no spec")?;
    if !are_tokens {
        let ca = spec.ca_config.get_or_insert_with(SwarmSpecCaConfig::default);
        ca.force_rotate = Some(ca.force_rotate.unwrap_or_default() + 1);
    }
    Ok(docker.update_swarm(spec, options.build()).await?)
}
