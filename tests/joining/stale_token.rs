//! The store holds a token that the swarm does not take: the node waits, and comes in once it is
//! mended.

use std::sync::Arc;

use anyhow::{Context, ensure};
use bollard::query_parameters::UpdateSwarmOptionsBuilder;
use harness::swarm::{self, CLUSTER, Gate};
use serde_json::json;
use skep_sim::fleet::{Fleet, Instance};

/// Somebody ran `docker swarm join-token --rotate`.
#[tokio::test]
async fn that_was_rotated() -> anyhow::Result<()> {
    for role in ["worker", "manager"] {
        let fleet = founded().await?.1;
        let docker = fleet.manager_docker().await?;
        let found = docker.inspect_swarm().await?;
        let version = found.version.and_then(|version| version.index).context("no version")?;
        let rotate = UpdateSwarmOptionsBuilder::default()
            .version(i64::try_from(version)?)
            .rotate_worker_token(true)
            .rotate_manager_token(true)
            .build();
        docker.update_swarm(found.spec.context("no spec")?, rotate).await?;
        let joiner = launch(&fleet, role).await?;
        swarm::logged(&fleet, &joiner, "the join token was refused").await?;
        still_outside(&fleet, &joiner).await?;

        let tokens = docker.inspect_swarm().await?.join_tokens.context("no tokens")?;
        let fresh = if role == "worker" { tokens.worker } else { tokens.manager };
        let name = swarm::token_name(role, 1);
        swarm::put_parameter(&fleet, &name, &fresh.context("no token")?).await?;
        inside(&fleet, &joiner, role).await?;
        fleet.stop().await?;
    }
    Ok(())
}

/// The token is of another swarm: Docker is not even asked, since the charter names the CA.
#[tokio::test]
async fn of_another_ca() -> anyhow::Result<()> {
    let (gate, fleet) = founded().await?;
    let name = swarm::token_name("worker", 1);
    let right = swarm::parameter(&fleet, &name).await?;
    swarm::put_parameter(&fleet, &name, &of_another(&right)).await?;
    drop(gate);
    let joiner = launch(&fleet, "worker").await?;
    swarm::logged(&fleet, &joiner, "waiting for a worker token of the charter's CA").await?;
    still_outside(&fleet, &joiner).await?;
    ensure!(!joiner.log().contains("joining generation"), "Docker was asked: {}", joiner.log());
    swarm::put_parameter(&fleet, &name, &right).await?;
    inside(&fleet, &joiner, "worker").await?;
    fleet.stop().await
}

/// Charter and token agree, but the swarm has another CA by now: Docker finds out.
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

    let joiner = launch(&fleet, "worker").await?;
    swarm::logged(&fleet, &joiner, "the swarm's CA is not the token's").await?;
    still_outside(&fleet, &joiner).await?;
    swarm::put_parameter(&fleet, &name, &right).await?;
    swarm::put_row(&fleet, &charter).await?;
    inside(&fleet, &joiner, "worker").await?;
    fleet.stop().await
}

/// A token that is well formed, and of a CA that nobody has.
fn of_another(token: &str) -> String {
    let mut parts: Vec<String> = token.split('-').map(str::to_owned).collect();
    // The last digit: the first ones decide whether it is still 256 bits.
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
    Ok((gate, fleet))
}

async fn launch(fleet: &Fleet, role: &str) -> anyhow::Result<Arc<Instance>> {
    let count = if role == "manager" { 2 } else { 1 };
    swarm::resize(fleet, role, count)?;
    swarm::newest(fleet, role, count as usize).await
}

async fn still_outside(fleet: &Fleet, joiner: &Instance) -> anyhow::Result<()> {
    ensure!(!joiner.is_ready());
    assert_eq!(fleet.nodes().await?.len(), 1, "nobody else is listed");
    assert_eq!(joiner.exit_codes(), Vec::<i32>::new(), "it waits");
    assert_eq!(swarm::said(fleet, joiner.id()), (vec![], vec![]), "nothing is said yet");
    Ok(())
}

async fn inside(fleet: &Fleet, joiner: &Instance, role: &str) -> anyhow::Result<()> {
    swarm::ready(fleet, joiner).await?;
    let (managers, workers) = if role == "manager" { (2, 0) } else { (1, 1) };
    swarm::whole(fleet, managers, workers).await?;
    assert_eq!(joiner.exit_codes(), Vec::<i32>::new(), "it never failed");
    swarm::announced(fleet).await
}
