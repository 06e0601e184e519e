//! A worker is detached from its group, serves on, is attached to another group of the cluster, and is scaled in there.

use std::sync::Arc;

use anyhow::ensure;
use bollard::models::NodeSpecAvailabilityEnum::ACTIVE;
use harness::PATIENCE;
use harness::departures::{Leaver, departure_state, events_of, options_with, standing};
use harness::nodes::{availability, labels};
use harness::seen::{health, status};
use serde_json::json;
use skep_sim::cloud::{ActionResult, EventKind, GroupSpec, HookSpec, LifecycleState, Transition};
use skep_sim::fleet::{Fleet, Instance, LAUNCH_HOOK, TERMINATION_HOOK};

use super::load_balancer::{balanced, serving, target};

const OTHER: &str = "demo-other";

#[tokio::test]
async fn a_detached_worker_serves_on_and_leaves_by_the_hook_of_its_next_group() -> anyhow::Result<()>
{
    let spec = balanced("demo", 2, 3);
    let fleet = standing(options_with(""), &spec).await?;
    serving(&fleet, 2).await?;
    create_other(&fleet)?;
    let worker = Leaver::of(&fleet.group(&spec.workers_group())[0]).await?;

    fleet.cloud().detach(worker.id(), true)?;
    fleet
        .wait_until("the node to show that it is detached", PATIENCE, async || {
            Ok(status(&worker.instance).await?["node"]["is_detached"] == true)
        })
        .await?;
    fleet
        .wait_until("the end of the deregistration", PATIENCE, async || {
            Ok(fleet.cloud().instance(worker.id()).is_none())
        })
        .await?;
    ensure!(target(&fleet, worker.id()).is_none(), "it is still a target");
    stays(&fleet, &worker).await?;

    // The instance keeps the role of its first group, which may use the hooks of that group only.
    fleet.cloud().attach(OTHER, worker.id())?;
    let refused = "autoscaling:CompleteLifecycleAction on hook skep-launch of group demo-other: \
                   access denied";
    fleet
        .wait_until("the refusal in its log", PATIENCE, async || {
            Ok(worker.instance.log().contains(refused))
        })
        .await?;
    ensure!(lifecycle(&fleet, &worker.instance) == Some(LifecycleState::PendingWait));
    allow_hooks_of_other(&fleet)?;
    fleet
        .wait_until("the next group's launch hook", PATIENCE, async || {
            Ok(lifecycle(&fleet, &worker.instance) == Some(LifecycleState::InService))
        })
        .await?;
    fleet
        .wait_until("the label of its group", PATIENCE, async || {
            let group = labels(&fleet, &worker.instance).await?.get("skep.group").cloned();
            Ok(group.as_deref() == Some(OTHER))
        })
        .await?;
    ensure!(status(&worker.instance).await?["node"]["is_detached"] == false);
    let completed = events_of(&fleet, &worker.instance).into_iter().filter(|kind| {
        matches!(kind, EventKind::HookCompleted { hook, result: ActionResult::Continue, .. }
            if hook == LAUNCH_HOOK)
    });
    ensure!(completed.count() == 2, "the launch hooks of both groups");
    stays(&fleet, &worker).await?;

    fleet.cloud().set_desired(OTHER, 0)?;
    worker.has_left_by_its_hook(&fleet).await?;
    for action in ["RecordLifecycleActionHeartbeat", "CompleteLifecycleAction"] {
        let calls = fleet.cloud().requests().into_iter().filter(|call| {
            call.action == action
                && call.instance_id.as_deref() == Some(worker.id())
                && call.summary.contains(TERMINATION_HOOK)
        });
        let accepted: Vec<_> = calls.filter(|call| call.status == 200).collect();
        ensure!(!accepted.is_empty(), "no {action}");
        ensure!(accepted.iter().all(|call| call.summary.contains(OTHER)), "{accepted:?}");
    }
    ensure!(fleet.nodes().await?.len() == 2, "no entry is left behind");
    fleet.stop().await
}

/// The node is a member with its task, and nothing wants to replace it.
async fn stays(fleet: &Fleet, worker: &Leaver) -> anyhow::Result<()> {
    ensure!(worker.instance.is_ready() && worker.instance.exit_codes().is_empty());
    ensure!(health(&worker.instance).await?.0 == 200, "no reason for a replacement");
    ensure!(availability(fleet, &worker.instance).await? == ACTIVE);
    ensure!(departure_state(fleet, &worker.instance).is_none(), "it leaves");
    ensure!(worker.tasks("die").is_empty(), "it keeps its task");
    Ok(())
}

fn lifecycle(fleet: &Fleet, instance: &Arc<Instance>) -> Option<LifecycleState> {
    fleet.cloud().instance(instance.id()).map(|view| view.lifecycle)
}

/// Creates an empty group of the cluster with hooks.
fn create_other(fleet: &Fleet) -> anyhow::Result<()> {
    let tags = [("skep:cluster", "demo"), ("skep:role", "worker")];
    let group = GroupSpec {
        name: OTHER.to_owned(),
        max: 1,
        tags: tags.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
        role_name: Some("skep-worker".to_owned()),
        ..GroupSpec::default()
    };
    let hooks = [
        HookSpec::new(OTHER, LAUNCH_HOOK, Transition::Launching),
        HookSpec::new(OTHER, TERMINATION_HOOK, Transition::Terminating),
    ];
    Ok(fleet.cloud().create_group_with_hooks(group, hooks.to_vec())?)
}

fn allow_hooks_of_other(fleet: &Fleet) -> anyhow::Result<()> {
    let actions =
        ["autoscaling:RecordLifecycleActionHeartbeat", "autoscaling:CompleteLifecycleAction"];
    let group = "arn:aws:autoscaling:*:*:autoScalingGroup:*:autoScalingGroupName";
    let policy = json!({ "Version": "2012-10-17", "Statement": {
        "Effect": "Allow", "Action": actions, "Resource": format!("{group}/{OTHER}"),
    }});
    Ok(fleet.cloud().attach_role_policy("skep-worker", &policy)?)
}
