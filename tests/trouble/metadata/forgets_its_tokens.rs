//! 401 for a token that was valid a moment ago.

use anyhow::{Context, ensure};
use harness::PATIENCE;
use harness::options;
use harness::trouble::{all_ready, first_of};
use skep_sim::cloud::{Request, Service};
use skep_sim::fleet::ClusterSpec;

#[tokio::test]
async fn a_refused_token_is_renewed_once_and_the_next_notice_is_seen() -> anyhow::Result<()> {
    let fleet = harness::fleet(options()).await?;
    fleet.create_cluster(&ClusterSpec::new("test", 1, 1))?;
    all_ready(&fleet, 2).await?;
    let worker = first_of(&fleet, "test-workers").await?;
    let cloud = fleet.cloud();
    cloud.clear_requests();
    cloud.imds_knobs(worker.id()).invalidate_tokens();

    let of_skep = || -> Vec<Request> {
        let is_it = |it: &Request| {
            it.service == Service::Imds && it.instance_id.as_deref() == Some(worker.id())
        };
        cloud.requests().into_iter().filter(is_it).collect()
    };
    fleet
        .wait_until("polls with a new token", PATIENCE, async || {
            let requests = of_skep();
            let renewed = requests.iter().rposition(|it| it.action.starts_with("PUT "));
            Ok(renewed.is_some_and(|at| requests.len() > at + 6))
        })
        .await?;
    let requests = of_skep();
    let refused = requests.iter().position(|it| it.status == 401).context("no 401")?;
    let renewals = requests.iter().filter(|it| it.action == "PUT /latest/api/token").count();
    // The SDK's credentials provider has its own token.
    ensure!((1..=2).contains(&renewals), "{renewals} renewals: {requests:?}");
    let late = requests.iter().skip(refused + 4).filter(|it| it.status == 401).count();
    ensure!(late <= 1, "refused again and again: {requests:?}");
    ensure!(
        worker.is_ready()
            && !worker.log().contains("cannot poll the instance metadata for notices")
    );

    cloud.set_desired("test-workers", 0)?;
    fleet.wait_until("the worker to go", PATIENCE, async || Ok(worker.is_gone())).await?;
    ensure!(worker.log().contains("the departure has ended: left"), "{}", worker.log());
    fleet.stop().await
}
