//! Nodes speak TLS with AWS and check its certificate against the host's authorities: a worker joins and leaves, and one
//! whose host does not have the authority names that.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::ensure;
use harness::departures::{Leaver, departure_state, options_with, running, standing};
use harness::secs;
use harness::swarm;
use harness::trouble::Failure;
use skep_sim::cloud::Service;
use skep_sim::fleet::{CERTIFICATES, ClusterSpec, FleetOptions, Instance, Restart, workload};

#[tokio::test]
async fn a_worker_joins_and_leaves_and_one_without_the_authority_does_not_join()
-> anyhow::Result<()> {
    let spec = ClusterSpec::new("test", 1, 1);
    let is_trusted = Arc::new(AtomicBool::new(true));
    let trusts = Arc::clone(&is_trusted);
    let prepare = move |instance: &Instance| {
        if !trusts.load(Ordering::SeqCst) {
            // The host's own authorities, without the cloud's.
            fs::copy(CERTIFICATES, instance.certificates())?;
            instance.write_config("boot.deadline = \"8s\"")?;
        }
        Ok(())
    };
    let options = FleetOptions {
        tls: true,
        restart: Restart::Never,
        prepare: Some(Arc::new(prepare)),
        ..options_with("")
    };
    let fleet = standing(options, &spec).await?;
    ensure!(fleet.gateway().starts_with("https://"), "{}", fleet.gateway());
    fleet.create_service("web", 2, workload::graceful(), secs(30)).await?;
    running(&fleet, "web", 2).await?;
    let worker = Leaver::of(&fleet.group(&spec.workers_group())[0]).await?;
    fleet.cloud().terminate(worker.id(), true)?;
    worker.has_left_by_its_hook(&fleet).await?;
    assert_eq!(departure_state(&fleet, &worker.instance).as_deref(), Some("removed"));

    is_trusted.store(false, Ordering::SeqCst);
    fleet.cloud().set_desired(&spec.workers_group(), 1)?;
    let stranger = swarm::newest(&fleet, "worker", 1).await?;
    let failure = Failure::of_instance(&fleet, stranger).await?;
    failure.says(1, &["dynamodb:GetItem", "certificate", "UnknownIssuer"])?;
    failure.is_unknown()?;
    failure.has_left_nothing().await?;
    let sent = fleet.cloud().requests().into_iter().find(|call| {
        call.instance_id.as_deref() == Some(failure.instance.id()) && call.service != Service::Imds
    });
    ensure!(sent.is_none(), "{sent:?}");
    fleet.stop().await
}
