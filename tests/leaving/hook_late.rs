//! The metadata announces the termination before Auto Scaling has started its lifecycle action: skep completes the hook
//! as soon as there is one.

use std::time::Duration;

use harness::departures::{Leaver, options_with, standing};
use harness::secs;
use skep_sim::cloud::{Service, Transition};
use skep_sim::fleet::ClusterSpec;

#[tokio::test]
async fn completing_it_is_tried_until_there_is_an_action() -> anyhow::Result<()> {
    begins_late(secs(15)).await
}

/// As long as a load balancer can take to deregister an instance.
#[tokio::test]
async fn a_deregistration_of_minutes_comes_first() -> anyhow::Result<()> {
    begins_late(secs(300)).await
}

async fn begins_late(delay: Duration) -> anyhow::Result<()> {
    let spec = ClusterSpec::new("demo", 1, 1);
    let fleet = standing(options_with(""), &spec).await?;
    let worker = Leaver::of(&fleet.group(&spec.workers_group())[0]).await?;
    fleet.cloud().set_transition_delay(Transition::Terminating, delay);

    fleet.cloud().clear_requests();
    fleet.cloud().terminate(worker.id(), true)?;
    worker.has_left_by_its_hook(&fleet).await?;
    let requests = fleet.cloud().requests();
    let completions: Vec<u16> = requests
        .iter()
        .filter(|request| request.service == Service::AutoScaling)
        .filter(|request| request.action == "CompleteLifecycleAction")
        .map(|request| request.status)
        .collect();
    assert!(completions.len() > 1, "{completions:?}");
    let (last, refused) = completions.split_last().expect("more than one");
    assert_eq!(*last, 200);
    assert!(refused.iter().all(|status| *status == 400), "{completions:?}");
    assert!(worker.instance.log().contains("Auto Scaling does not wait for it yet"));
    fleet.stop().await
}
