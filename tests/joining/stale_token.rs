//! The store holds a token that the swarm refuses: the node waits, and joins once the token is corrected. For managers
//! that run and follow a rotation see `tests/keeping/tokens.rs`.

use std::sync::Arc;

use anyhow::{Context, ensure};
use bollard::query_parameters::UpdateSwarmOptionsBuilder;
use harness::gate::Gate;
use harness::swarm::{self, CLUSTER};
use serde_json::json;
use skep_sim::fleet::{Fleet, Instance};

/// An operator ran `docker swarm join-token --rotate` while no manager's skep ran to follow it.
#[tokio::test]
async fn that_was_rotated() -> anyhow::Result<()> {
    let (_gate, fleet) = founded().await?;
    let manager = fleet.leader().await?;
    manager.stop_skep().await?;
    let docker = manager.docker()?;
    let found = docker.inspect_swarm().await?;
    let version = found.version.and_then(|version| version.index).context("no version")?;
    let rotate = UpdateSwarmOptionsBuilder::default()
        .version(i64::try_from(version)?)
        .rotate_worker_token(true)
        .rotate_manager_token(true)
        .build();
    docker.update_swarm(found.spec.context("no spec")?, rotate).await?;

    let mut joiners = Vec::new();
    for (group, size) in [("worker", 1), ("manager", 2)] {
        swarm::resize(&fleet, group, size)?;
        joiners.push(swarm::newest(&fleet, group, size as usize).await?);
    }
    for joiner in &joiners {
        swarm::logged(&fleet, joiner, "the join token was refused").await?;
        still_outside(&fleet, joiner).await?;
    }
    manager.start_skep()?;
    for joiner in &joiners {
        swarm::ready(&fleet, joiner).await?;
        assert_eq!(joiner.exit_codes(), Vec::<i32>::new(), "it never failed");
    }
    swarm::whole(&fleet, 2, 1).await?;
    swarm::announced(&fleet).await?;
    fleet.stop().await
}

/// The token belongs to another swarm: skep does not even call Docker, because the charter names the CA.
#[tokio::test]
async fn of_another_ca() -> anyhow::Result<()> {
    let (gate, fleet) = founded().await?;
    let name = swarm::token_name("worker", 1);
    let right = swarm::parameter(&fleet, &name).await?;
    swarm::put_parameter(&fleet, &name, &of_another(&right)).await?;
    drop(gate);
    let joiner = launch(&fleet).await?;
    swarm::logged(&fleet, &joiner, "waiting for a worker token of the charter's CA").await?;
    still_outside(&fleet, &joiner).await?;
    ensure!(!joiner.log().contains("joining generation"), "Docker was asked: {}", joiner.log());
    swarm::put_parameter(&fleet, &name, &right).await?;
    inside(&fleet, &joiner).await?;
    fleet.stop().await
}

/// Charter and token agree, but the swarm now has another CA: Docker detects it.
#[tokio::test]
async fn and_a_charter_of_another_ca() -> anyhow::Result<()> {
    let (_gate, fleet) = founded().await?;
    let name = swarm::token_name("worker", 1);
    let right = swarm::parameter(&fleet, &name).await?;
    let wrong = of_another(&right);
    swarm::put_parameter(&fleet, &name, &wrong).await?;
    let charter = swarm::rows(&fleet, CLUSTER, "charter").await?.pop().context("no charter")?;
    let mut other = charter.clone();
    other.insert("ca_digest".to_owned(), json!(wrong.split('-').nth(2)));
    swarm::put_row(&fleet, &other).await?;

    let joiner = launch(&fleet).await?;
    swarm::logged(&fleet, &joiner, "the swarm's CA is not the token's").await?;
    still_outside(&fleet, &joiner).await?;
    swarm::put_parameter(&fleet, &name, &right).await?;
    swarm::put_row(&fleet, &charter).await?;
    inside(&fleet, &joiner).await?;
    fleet.stop().await
}

/// A token that is well formed, and of a CA that does not exist.
fn of_another(token: &str) -> String {
    let mut parts: Vec<String> = token.split('-').map(str::to_owned).collect();
    // The last digit: the first ones decide whether it still has 256 bits.
    let other = if parts[2].ends_with('a') { 'b' } else { 'a' };
    parts[2].pop();
    parts[2].push(other);
    parts.join("-")
}

async fn founded() -> anyhow::Result<(Gate, Fleet)> {
    let (gate, options) = Gate::new(false)?;
    let fleet = harness::fleet(options).await?;
    fleet.create_cluster(&swarm::cluster(1, 0))?;
    swarm::all_ready(&fleet, 1).await?;
    let manager = fleet.leader().await?;
    // The manager compares the store with Docker again only minutes later.
    let read = async || Ok(swarm::calls(&fleet, &manager, "GetParameter").len() >= 2);
    fleet.wait_until("the store to be compared", harness::PATIENCE, read).await?;
    Ok((gate, fleet))
}

async fn launch(fleet: &Fleet) -> anyhow::Result<Arc<Instance>> {
    swarm::resize(fleet, "worker", 1)?;
    swarm::newest(fleet, "worker", 1).await
}

async fn still_outside(fleet: &Fleet, joiner: &Instance) -> anyhow::Result<()> {
    ensure!(!joiner.is_ready());
    assert_eq!(fleet.nodes().await?.len(), 1, "no other node is listed");
    assert_eq!(joiner.exit_codes(), Vec::<i32>::new(), "it waits");
    assert_eq!(swarm::said(fleet, joiner.id()), (vec![], vec![]), "nothing is reported yet");
    Ok(())
}

async fn inside(fleet: &Fleet, joiner: &Instance) -> anyhow::Result<()> {
    swarm::ready(fleet, joiner).await?;
    swarm::whole(fleet, 1, 1).await?;
    assert_eq!(joiner.exit_codes(), Vec::<i32>::new(), "it never failed");
    swarm::announced(fleet).await
}
