//! A stack that is complete, and no stack at all.

use anyhow::ensure;
use harness::PATIENCE;
use harness::trouble::{all_ready, first_of, launch_results, signals};
use harness::{options, secs};
use skep_sim::cloud::{ActionResult, GroupSpec, HookSpec, Service, Transition};
use skep_sim::fleet::{ClusterSpec, LAUNCH_HOOK};

#[tokio::test]
async fn a_stack_that_does_not_wait_or_is_not_there_is_no_trouble() -> anyhow::Result<()> {
    let fleet = harness::fleet(options()).await?;
    let cloud = fleet.cloud();
    // Complete from the start: it does not wait for a worker.
    fleet.create_cluster(&ClusterSpec::new("test", 1, 0))?;
    all_ready(&fleet, 1).await?;
    fleet
        .wait_until("the stack", PATIENCE, async || {
            Ok(cloud.stack("test").is_some_and(|stack| stack.status == "CREATE_COMPLETE"))
        })
        .await?;
    cloud.set_desired("test-workers", 1)?;
    let tags = [("skep:cluster", "test"), ("skep:role", "worker")];
    let group = GroupSpec {
        name: "stackless".to_owned(),
        max: 1,
        desired: 1,
        tags: tags.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
        ..GroupSpec::default()
    };
    let hook = HookSpec::new("stackless", LAUNCH_HOOK, Transition::Launching);
    cloud.create_group_with_hooks(group, vec![hook.timeout(secs(600), ActionResult::Abandon)])?;
    all_ready(&fleet, 3).await?;

    let late = first_of(&fleet, "test-workers").await?;
    let stackless = first_of(&fleet, "stackless").await?;
    for node in [&late, &stackless] {
        fleet
            .wait_until("CONTINUE", PATIENCE, async || {
                Ok(launch_results(&fleet, node) == [ActionResult::Continue])
            })
            .await?;
    }
    // Time in which it would repeat the report.
    tokio::time::sleep(secs(8)).await;
    let signalled = |id: &str| {
        let is_it = |it: &skep_sim::cloud::Request| {
            it.service == Service::CloudFormation && it.instance_id.as_deref() == Some(id)
        };
        cloud.requests().into_iter().filter(is_it).count()
    };
    assert_eq!(signalled(late.id()), 1, "reported once, for any answer");
    assert_eq!(signalled(stackless.id()), 0);
    ensure!(signals(&fleet, &stackless).is_empty());
    for node in [&late, &stackless] {
        let log = node.log();
        ensure!(!log.contains(" ERROR ") && !log.contains(" WARN "), "{log}");
    }
    fleet.stop().await
}
