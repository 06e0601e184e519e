//! Errors, silence and dropped connections in the first seconds.

use std::time::Duration;

use anyhow::ensure;
use harness::trouble::{all_ready, create_group, first_of, fleet_prepared};
use harness::{options, secs};
use skep_sim::cloud::{Fault, Request, Service};
use skep_sim::fleet::ClusterSpec;

/// Longer than skep waits for one answer.
const SILENCE: Duration = Duration::from_millis(1500);

#[tokio::test]
async fn nodes_boot_once_the_metadata_does() -> anyhow::Result<()> {
    let fleet = fleet_prepared(options(), |cloud, instance| {
        let knobs = cloud.imds_knobs(instance.id());
        match instance.launch().group.as_str() {
            "failing-workers" => knobs.fail_next(25),
            "silent-workers" => knobs.latency(SILENCE),
            "dropping-workers" => knobs.drop_connections(true),
            _ => &knobs,
        };
        Ok(())
    })
    .await?;
    let cloud = fleet.cloud();
    // A share of 503s for every node.
    cloud.faults().set(Service::Imds, None, Fault { throttle: 0.2, ..Fault::default() });
    fleet.create_cluster(&ClusterSpec::new("test", 1, 0))?;
    for name in ["failing-workers", "silent-workers", "dropping-workers"] {
        let tags = [("skep:cluster", "test"), ("skep:role", "worker")];
        create_group(&fleet, name, &tags)?;
    }
    let silent = first_of(&fleet, "silent-workers").await?;
    let dropping = first_of(&fleet, "dropping-workers").await?;
    let asked = |id: &str, status: u16| {
        let is_it = |it: &Request| {
            it.service == Service::Imds
                && it.instance_id.as_deref() == Some(id)
                && it.status == status
        };
        cloud.requests().into_iter().filter(is_it).count()
    };
    // A request whose sender has stopped waiting is in no log: the other node's requests must prove it for both.
    fleet
        .wait_until("a few failed attempts", secs(60), async || {
            Ok(silent.skep_running() && asked(dropping.id(), 0) > 5)
        })
        .await?;
    ensure!(!silent.is_ready() && !dropping.is_ready());
    cloud.imds_knobs(silent.id()).reset();
    cloud.imds_knobs(dropping.id()).reset();

    all_ready(&fleet, 4).await?;
    let failing = first_of(&fleet, "failing-workers").await?;
    ensure!(asked(failing.id(), 500) == 25, "the failures did occur");
    ensure!(cloud.requests().iter().any(|it| it.service == Service::Imds && it.status == 503));
    for instance in fleet.instances() {
        ensure!(instance.exits().is_empty(), "{} ended: {}", instance.id(), instance.log());
    }
    fleet.stop().await
}
