//! The parameter with the worker's token does not exist at first.

use anyhow::{Context, ensure};
use harness::PATIENCE;
use harness::options;
use harness::trouble::{all_ready, aws, first_of, signals};
use skep_sim::fleet::ClusterSpec;

const NAME: &str = "/skep/test/worker-token/1";

#[tokio::test]
async fn a_worker_waits_for_its_token_and_joins_when_it_comes() -> anyhow::Result<()> {
    let fleet = harness::fleet(options()).await?;
    fleet.create_cluster(&ClusterSpec::new("test", 1, 0))?;
    all_ready(&fleet, 1).await?;
    let get = ["ssm", "get-parameter", "--with-decryption", "--name", NAME];
    let parameter = aws(&fleet, &get).await?;
    let token = parameter["Parameter"]["Value"].as_str().context("no token")?;
    aws(&fleet, &["ssm", "delete-parameter", "--name", NAME]).await?;

    fleet.cloud().set_desired("test-workers", 1)?;
    let worker = first_of(&fleet, "test-workers").await?;
    let waits = "waiting for the worker token of generation 1 in the secret store";
    fleet
        .wait_until("the worker to wait", PATIENCE, async || Ok(worker.log().contains(waits)))
        .await?;
    ensure!(signals(&fleet, &worker).is_empty() && !worker.is_ready());
    let put = ["ssm", "put-parameter", "--type", "SecureString", "--name", NAME, "--value", token];
    aws(&fleet, &put).await?;
    all_ready(&fleet, 2).await?;
    ensure!(worker.exits().is_empty());
    fleet.stop().await
}
