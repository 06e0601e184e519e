//! Instance refreshes, and the instances that a group retains.

use std::time::Duration;

use serde_json::{Value, json};
use skep_sim::cloud::{ActionResult, HookSpec, LifecycleState, RefreshStatus, Transition};

use super::bench::{Bench, names, soon};

const GROUP: [&str; 2] = ["--auto-scaling-group-name", "nodes"];
const START: [&str; 2] = ["autoscaling", "start-instance-refresh"];
const IMAGE: &str = "ami-00000000000000002";

fn ids(bench: &Bench) -> Vec<String> {
    bench.cloud.instances().into_iter().map(|it| it.id).collect()
}

fn hook(bench: &Bench, name: &str, transition: Transition) {
    let hook = HookSpec::new("nodes", name, transition);
    bench.cloud.put_hook(hook.timeout(Duration::from_secs(600), ActionResult::Abandon)).unwrap();
}

async fn complete(bench: &Bench, id: &str, hook: &str, result: &str) {
    let complete = ["autoscaling", "complete-lifecycle-action", "--lifecycle-hook-name", hook];
    let how = ["--instance-id", id, "--lifecycle-action-result", result];
    bench.aws(&[&complete[..], &GROUP, &how].concat()).await;
}

/// Returns the newest refresh, as the command line shows it.
async fn newest(bench: &Bench) -> Value {
    let describe = ["autoscaling", "describe-instance-refreshes"];
    bench.aws(&[&describe[..], &GROUP].concat()).await["InstanceRefreshes"][0].clone()
}

fn in_state(bench: &Bench, state: LifecycleState) -> Vec<String> {
    let mut instances = bench.cloud.instances();
    instances.retain(|it| it.lifecycle == state);
    instances.into_iter().map(|it| it.id).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_is_refreshed_and_one_refresh_is_cancelled() {
    let bench = Bench::start().await;
    let cancel = ["autoscaling", "cancel-instance-refresh"];
    let none = bench.refused(&[&cancel[..], &GROUP].concat()).await;
    assert!(none.contains("(ActiveInstanceRefreshNotFound)"), "{none}");

    let old = ids(&bench);
    hook(&bench, "ready", Transition::Launching);
    let now = ["--preferences", r#"{"InstanceWarmup":0,"MinHealthyPercentage":50}"#];
    let started = bench.aws(&[&START[..], &GROUP, &now].concat()).await;
    let second = bench.refused(&[&START[..], &GROUP].concat()).await;
    assert!(second.contains("(InstanceRefreshInProgress)"), "{second}");
    for _ in &old {
        let new = in_state(&bench, LifecycleState::PendingWait);
        assert_eq!(new.len(), 1, "one at a time");
        complete(&bench, &new[0], "ready", "CONTINUE").await;
    }
    let refresh = newest(&bench).await;
    assert_eq!(refresh["InstanceRefreshId"], started["InstanceRefreshId"]);
    assert_eq!(refresh["Status"], "Successful");
    let shown = (&refresh["PercentageComplete"], &refresh["InstancesToUpdate"]);
    assert_eq!(shown, (&json!(100), &json!(0)));
    assert!(refresh["StartTime"].is_string() && refresh["EndTime"].is_string(), "{refresh}");
    let preferences = json!({
        "MinHealthyPercentage": 50, "MaxHealthyPercentage": 100, "InstanceWarmup": 0,
        "SkipMatching": false, "AutoRollback": false, "ScaleInProtectedInstances": "Wait",
        "StandbyInstances": "Wait", "BakeTime": 0,
    });
    assert_eq!((&refresh["Preferences"], &refresh["Strategy"]), (&preferences, &json!("Rolling")));
    let new = ids(&bench);
    assert!(new.len() == 2 && new.iter().all(|id| !old.contains(id)));

    let first = ["--preferences", r#"{"MinHealthyPercentage":100,"MaxHealthyPercentage":100}"#];
    bench.aws(&[&START[..], &GROUP, &first].concat()).await;
    let third = in_state(&bench, LifecycleState::PendingWait);
    assert_eq!((ids(&bench).len(), third.len()), (3, 1));
    bench.aws(&[&cancel[..], &GROUP].concat()).await;
    assert_eq!(newest(&bench).await["Status"], "Cancelling");
    complete(&bench, &third[0], "ready", "CONTINUE").await;
    let refresh = newest(&bench).await;
    assert_eq!(refresh["Status"], "Cancelled");
    assert_eq!(refresh["StatusReason"], "Cancelled due to user request.");
    assert_eq!(ids(&bench), [new[1].clone(), third[0].clone()]);

    for wrong in [
        r#"{"MaxHealthyPercentage":110}"#,
        r#"{"CheckpointDelay":60}"#,
        r#"{"MinHealthyPercentage":50,"MaxHealthyPercentage":160}"#,
        r#"{"CheckpointPercentages":[50,20]}"#,
    ] {
        let refused =
            bench.refused(&[&START[..], &GROUP, &["--preferences", wrong]].concat()).await;
        assert!(refused.contains("(ValidationError)"), "{wrong}: {refused}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn root_volumes_are_replaced_in_place() {
    let bench = Bench::start().await;
    hook(&bench, "ready", Transition::Launching);
    hook(&bench, "drain", Transition::Terminating);
    let volumes = ["--strategy", "ReplaceRootVolume", "--preferences", r#"{"InstanceWarmup":0}"#];
    let without = bench.refused(&[&START[..], &GROUP, &volumes].concat()).await;
    assert!(without.contains("mixed instances policy"), "{without}");
    let configuration = |version: &str| {
        json!({ "MixedInstancesPolicy": { "LaunchTemplate": {
            "LaunchTemplateSpecification": { "LaunchTemplateName": "nodes", "Version": version },
            "Overrides": [{ "InstanceType": "t3.medium", "ImageId": IMAGE }],
        } } })
        .to_string()
    };
    let latest = ["--desired-configuration", &configuration("$Latest")];
    let refused = bench.refused(&[&START[..], &GROUP, &volumes, &latest].concat()).await;
    assert!(refused.contains("$Latest"), "{refused}");

    let old = ids(&bench);
    let first = ["--desired-configuration", &configuration("1")];
    bench.aws(&[&START[..], &GROUP, &volumes, &first].concat()).await;
    for id in &old {
        let describe = ["autoscaling", "describe-auto-scaling-instances", "--instance-ids", id];
        let shown = bench.aws(&describe).await;
        let states = names(&shown, "AutoScalingInstances", "LifecycleState");
        assert_eq!(states, ["ReplacingRootVolume:Wait"]);
        complete(&bench, id, "drain", "CONTINUE").await;
        let order = format!("new volume {id} {IMAGE}");
        soon(|| bench.machines.0.lock().unwrap().contains(&order)).await;
        assert_eq!(
            in_state(&bench, LifecycleState::ReplacingRootVolumeProceed),
            std::slice::from_ref(id)
        );
        bench.cloud.root_volume_is_replaced(id, Ok(()));
        complete(&bench, id, "ready", "CONTINUE").await;
    }
    let refresh = newest(&bench).await;
    let shown = (&refresh["Status"], &refresh["Strategy"]);
    assert_eq!(shown, (&json!("Successful"), &json!("ReplaceRootVolume")));
    assert_eq!(in_state(&bench, LifecycleState::InService), old);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_abandoned_instance_is_retained() {
    let bench = Bench::start().await;
    hook(&bench, "drain", Transition::Terminating);
    let policy = |action: &str| {
        json!({ "RetentionTriggers": { "TerminateHookAbandon": action } }).to_string()
    };
    let update = ["autoscaling", "update-auto-scaling-group", "--instance-lifecycle-policy"];
    bench.aws(&[&update[..], &[&policy("retain")], &GROUP].concat()).await;
    let groups = bench.aws(&["autoscaling", "describe-auto-scaling-groups"]).await;
    let shown = groups["AutoScalingGroups"][0]["InstanceLifecyclePolicy"].to_string();
    assert_eq!(shown, policy("retain"));

    let id = bench.oldest();
    let terminate = |decrement: &'static str| {
        let terminate = ["autoscaling", "terminate-instance-in-auto-scaling-group"];
        [&terminate[..], &["--instance-id", &bench.oldest(), decrement]].concat().join(" ")
    };
    let words = terminate("--no-should-decrement-desired-capacity");
    let terminated: Vec<&str> = words.split(' ').collect();
    bench.aws(&terminated).await;
    complete(&bench, &id, "drain", "ABANDON").await;
    assert_eq!(in_state(&bench, LifecycleState::TerminatingRetained), std::slice::from_ref(&id));
    assert_eq!(in_state(&bench, LifecycleState::InService).len(), 2);
    let activities = bench.aws(&["autoscaling", "describe-scaling-activities"]).await;
    let of_it = activities["Activities"].as_array().unwrap().iter();
    let ending = format!("Terminating EC2 instance: {id}");
    let of_it: Vec<_> = of_it.filter(|it| it["Description"] == ending.as_str()).collect();
    assert_eq!(of_it[0]["StatusCode"], "Cancelled");

    let words = terminate("--should-decrement-desired-capacity");
    let refused = bench.refused(&words.split(' ').collect::<Vec<_>>()).await;
    assert!(refused.contains("(ValidationError)"), "{refused}");
    bench.aws(&terminated).await;
    complete(&bench, &id, "drain", "CONTINUE").await;
    assert!(bench.cloud.instance(&id).is_none());
    assert_eq!(bench.cloud.groups()[0].desired, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_local_clouds_own_command_starts_and_cancels() {
    let bench = Bench::start().await;
    hook(&bench, "ready", Transition::Launching);
    assert!(!bench.skep_sim(&["refresh", "nodes", "--cancel"]).await, "there is none");
    assert!(bench.skep_sim(&["refresh", "nodes", "--min-healthy", "100"]).await);
    let third = in_state(&bench, LifecycleState::PendingWait);
    assert_eq!(third.len(), 1);
    assert!(bench.skep_sim(&["refresh", "nodes", "--cancel"]).await);
    bench.cloud.complete_hook(&third[0], "ready").unwrap();
    assert_eq!(bench.cloud.refresh("nodes").unwrap().status, RefreshStatus::Cancelled);
    assert!(bench.skep_sim(&["refresh", "nodes", "--root-volumes"]).await);
    assert_eq!(in_state(&bench, LifecycleState::ReplacingRootVolumeProceed).len(), 1);
}
