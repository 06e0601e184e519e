//! Managers that boot in the same second found one swarm, and no node ever sees another.

use std::collections::BTreeSet;

use harness::swarm::{self, CLUSTER};
use skep_sim::cloud::{Fault, Service};

const MANAGERS: usize = 5;

#[tokio::test]
async fn five_managers_found_one_swarm() -> anyhow::Result<()> {
    race(Fault::default()).await.map(drop)
}

/// All claims are sent before the first is answered, so that the ledger alone decides.
#[tokio::test]
async fn five_managers_that_claim_at_once_found_one_swarm() -> anyhow::Result<()> {
    let refused = race(Fault { latency_ms: Some((1500, 2500)), ..Fault::default() }).await?;
    assert!(refused > 0, "no claim was refused: this was no race");
    Ok(())
}

/// A manager must not take its own write, whose answer was lost, for another manager's.
#[tokio::test]
async fn five_managers_on_a_bad_network_found_one_swarm() -> anyhow::Result<()> {
    let fault =
        Fault { lose_answer: 0.3, drop: 0.1, latency_ms: Some((0, 1000)), ..Fault::default() };
    race(fault).await.map(drop)
}

/// One round, with every write to the ledger under `fault`; returns how many claims were refused.
async fn race(fault: Fault) -> anyhow::Result<usize> {
    let fleet = harness::fleet(harness::options()).await?;
    fleet.cloud().faults().set(Service::DynamoDb, Some("PutItem"), fault);
    let ((), seen) = swarm::swarms_during(&fleet, async {
        fleet.create_cluster(&swarm::cluster(MANAGERS as u32, 0))?;
        swarm::all_ready(&fleet, MANAGERS).await?;
        swarm::whole(&fleet, MANAGERS, 0).await?;
        swarm::announced(&fleet).await
    })
    .await?;

    let charter = swarm::charter(&fleet).await?.expect("a charter");
    assert_eq!(charter.generation, 1, "one claim was enough");
    let all: BTreeSet<String> = seen.into_values().flatten().collect();
    let expected: BTreeSet<String> = charter.swarm_id.clone().into_iter().collect();
    assert_eq!(all, expected, "no Docker was ever in another swarm");

    let mut tokens = fleet.cloud().parameter_names();
    tokens.sort();
    assert_eq!(tokens, [swarm::token_name("manager", 1), swarm::token_name("worker", 1)]);
    for instance in fleet.instances() {
        let founds = instance.log().contains("founding the swarm");
        let said_so = instance.log().contains("the swarm is open");
        let is_founder = instance.id() == charter.founder;
        assert!(is_founder || !(founds || said_so), "{} founded too", instance.id());
        assert_eq!(instance.exit_codes(), Vec::<i32>::new(), "{} never failed", instance.id());
    }
    let key = format!("key={CLUSTER}/charter");
    let refused = fleet.cloud().requests().into_iter().filter(|call| {
        call.code.as_deref() == Some("ConditionalCheckFailedException")
            && call.summary.contains(&key)
    });
    let refused = refused.count();
    fleet.stop().await?;
    Ok(refused)
}
