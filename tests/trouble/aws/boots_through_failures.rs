//! Five nodes boot while DynamoDB and SSM fail as on a bad day.

use std::collections::BTreeSet;

use anyhow::{Context, ensure};
use harness::options;
use harness::trouble::{all_ready, row};
use skep_sim::cloud::{Fault, Service};
use skep_sim::fleet::{ClusterSpec, FleetOptions};

#[tokio::test]
async fn failures_of_dynamodb_never_make_a_second_swarm() -> anyhow::Result<()> {
    for seed in [3, 4] {
        let fleet = harness::fleet(FleetOptions { seed, ..options() }).await?;
        let cloud = fleet.cloud();
        let bad_day = Fault {
            throttle: 0.15,
            error: 0.1,
            drop: 0.1,
            lose_answer: 0.15,
            latency_ms: Some((0, 100)),
            ..Fault::default()
        };
        cloud.faults().set(Service::DynamoDb, None, bad_day.clone());
        cloud.faults().set(Service::Ssm, None, bad_day);
        fleet.create_cluster(&ClusterSpec::new("test", 3, 2))?;
        all_ready(&fleet, 5).await.with_context(|| format!("seed {seed}"))?;
        cloud.faults().clear();

        let charter = row(&fleet, "charter")?.context("no charter")?;
        assert_eq!(charter["phase"]["S"], "open", "{charter}");
        let mut swarms = BTreeSet::new();
        for manager in fleet.group("test-managers") {
            let swarm = manager.docker()?.info().await?.swarm.and_then(|it| it.cluster);
            swarms.insert(swarm.and_then(|it| it.id).context("no manager of a swarm")?);
        }
        assert_eq!(swarms.len(), 1, "seed {seed}: {swarms:?}");
        assert_eq!(charter["swarm_id"]["S"].as_str(), swarms.first().map(String::as_str));
        let addresses: BTreeSet<String> = fleet
            .nodes()
            .await?
            .into_iter()
            .filter_map(|node| node.status)
            .filter(|it| it.state.is_some_and(|state| state.to_string() == "ready"))
            .filter_map(|it| it.addr)
            .collect();
        assert_eq!(addresses.len(), 5, "seed {seed}: {addresses:?}");
        for instance in fleet.instances() {
            ensure!(instance.exits().is_empty(), "{}", instance.log());
        }
        let codes: BTreeSet<String> =
            cloud.requests().into_iter().filter_map(|request| request.code).collect();
        for code in ["AnswerLost", "Dropped"] {
            ensure!(codes.contains(code), "seed {seed} never met {code}: {codes:?}");
        }
        fleet.stop().await?;
    }
    Ok(())
}
