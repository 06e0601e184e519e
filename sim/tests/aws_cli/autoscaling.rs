//! Auto Scaling, and EC2's list of its instances.

use std::time::Duration;

use serde_json::{Value, json};
use skep_sim::cloud::{ActionResult, HookSpec, LifecycleState, Transition};

use super::bench::{Bench, names};

#[tokio::test(flavor = "multi_thread")]
async fn groups_and_instances_are_described() {
    let bench = Bench::start().await;
    let groups = bench.aws(&["autoscaling", "describe-auto-scaling-groups"]).await;
    let group = &groups["AutoScalingGroups"][0];
    assert_eq!(group["AutoScalingGroupName"], "nodes");
    assert_eq!(group["DesiredCapacity"], 2);
    assert_eq!(names(group, "Instances", "LifecycleState"), ["InService"; 2]);
    assert_eq!(names(group, "Instances", "HealthStatus"), ["Healthy"; 2]);
    assert!(group["CreatedTime"].as_str().unwrap().starts_with("20"));

    let mut known: Vec<_> = bench.cloud.instances().into_iter().map(|i| i.id).collect();
    known.sort();
    // Two pages of one instance each, which the command line joins.
    let paged = ["autoscaling", "describe-auto-scaling-instances", "--page-size", "1"];
    let all = bench.aws(&paged).await;
    assert_eq!(names(&all, "AutoScalingInstances", "InstanceId"), known);
    let ask = ["autoscaling", "describe-auto-scaling-instances", "--instance-ids"];
    let one = bench.aws(&[&ask[..], &[&known[0]]].concat()).await;
    assert_eq!(names(&one, "AutoScalingInstances", "InstanceId"), [&known[0]]);
    assert_eq!(one["AutoScalingInstances"][0]["AutoScalingGroupName"], "nodes");
    let none = bench.aws(&[&ask[..], &["i-0aaaaaaaaaaaaaaaa"]].concat()).await;
    assert_eq!(none["AutoScalingInstances"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_warm_pool_is_filled_drawn_from_and_deleted() {
    let bench = Bench::start().await;
    let group = ["--auto-scaling-group-name", "nodes"];
    let put = ["autoscaling", "put-warm-pool", "--max-group-prepared-capacity", "3"];
    bench.aws(&[&put[..], &group].concat()).await;
    let hibernated = ["--pool-state", "Hibernated"];
    let refused = bench.refused(&[&put[..], &group, &hibernated].concat()).await;
    assert!(refused.contains("(ValidationError)"), "{refused}");

    let describe = [&["autoscaling", "describe-warm-pool"][..], &group].concat();
    let pool = bench.aws(&describe).await;
    let configuration =
        json!({ "MinSize": 0, "MaxGroupPreparedCapacity": 3, "PoolState": "Stopped" });
    assert_eq!(pool["WarmPoolConfiguration"], configuration);
    assert_eq!(names(&pool, "Instances", "LifecycleState"), ["Warmed:Stopped"]);
    let id = pool["Instances"][0]["InstanceId"].as_str().unwrap().to_owned();

    let desired = ["autoscaling", "set-desired-capacity", "--desired-capacity", "3"];
    bench.aws(&[&desired[..], &group].concat()).await;
    assert_eq!(bench.cloud.instance(&id).unwrap().lifecycle, LifecycleState::InService);
    let delete = ["autoscaling", "delete-warm-pool"];
    bench.aws(&[&delete[..], &group].concat()).await;
    let none = bench.aws(&describe).await;
    assert_eq!((&none["Instances"], &none["WarmPoolConfiguration"]), (&json!([]), &Value::Null));
    let told = bench.machines.0.lock().unwrap().clone();
    assert_eq!(told[2..], ["launch", "stop", "start"].map(|order| format!("{order} {id}")));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_stands_by_and_comes_back() {
    let bench = Bench::start().await;
    let id = bench.oldest();
    let who = ["--auto-scaling-group-name", "nodes", "--instance-ids", &id];
    let lifecycle = || bench.cloud.instance(&id).unwrap().lifecycle;
    let enter = ["autoscaling", "enter-standby", "--should-decrement-desired-capacity"];
    let moved = bench.aws(&[&enter[..], &who].concat()).await;
    assert_eq!(moved["Activities"][0]["AutoScalingGroupName"], "nodes");
    assert_eq!(lifecycle(), LifecycleState::Standby);
    let exit = ["autoscaling", "exit-standby"];
    bench.aws(&[&exit[..], &who].concat()).await;
    assert_eq!(lifecycle(), LifecycleState::InService);
    let refused = bench.refused(&[&exit[..], &who].concat()).await;
    assert!(refused.contains("(ValidationError)"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_termination_waits_for_its_hook() {
    let bench = Bench::start().await;
    let hook = ["--auto-scaling-group-name", "nodes", "--lifecycle-hook-name", "drain"];
    let put = ["autoscaling", "put-lifecycle-hook"];
    let transition = ["--lifecycle-transition", "autoscaling:EC2_INSTANCE_TERMINATING"];
    let timeout = ["--heartbeat-timeout", "300", "--default-result", "CONTINUE"];
    bench.aws(&[&put[..], &hook, &transition, &timeout].concat()).await;
    let short = ["--heartbeat-timeout", "29"];
    let refused = bench.refused(&[&put[..], &hook, &transition, &short].concat()).await;
    assert!(refused.contains("(ValidationError)"), "{refused}");

    let describe = ["autoscaling", "describe-lifecycle-hooks", "--auto-scaling-group-name"];
    let hooks = bench.aws(&[&describe[..], &["nodes"]].concat()).await;
    assert_eq!(
        hooks["LifecycleHooks"][0],
        json!({
            "LifecycleHookName": "drain", "AutoScalingGroupName": "nodes",
            "LifecycleTransition": "autoscaling:EC2_INSTANCE_TERMINATING",
            "HeartbeatTimeout": 300, "GlobalTimeout": 30000, "DefaultResult": "CONTINUE",
        })
    );

    let victim = bench.oldest();
    let on_victim = ["--instance-id", &victim];
    let complete =
        ["autoscaling", "complete-lifecycle-action", "--lifecycle-action-result", "CONTINUE"];
    let complete = [&complete[..], &hook, &on_victim].concat();
    let early = bench.refused(&complete).await;
    let expected = format!("No active Lifecycle Action found with instance ID {victim}");
    assert!(early.contains("(ValidationError)") && early.contains(&expected), "{early}");

    let terminate = [
        "autoscaling",
        "terminate-instance-in-auto-scaling-group",
        "--should-decrement-desired-capacity",
    ];
    let activity = bench.aws(&[&terminate[..], &on_victim].concat()).await;
    assert_eq!(activity["Activity"]["StatusCode"], "MidLifecycleAction");
    let waiting = bench.cloud.instance(&victim).unwrap();
    assert_eq!(waiting.lifecycle, LifecycleState::TerminatingWait);

    let heartbeat = ["autoscaling", "record-lifecycle-action-heartbeat"];
    bench.aws(&[&heartbeat[..], &hook, &on_victim].concat()).await;
    bench.aws(&complete).await;
    assert_eq!(bench.cloud.instance(&victim).map(|i| i.id), None);
    let orders = bench.machines.0.lock().unwrap().clone();
    assert_eq!(orders.last(), Some(&format!("terminate {victim}")));
    assert_eq!(bench.cloud.groups()[0].desired, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_launch_waits_for_its_hook_and_an_abandoned_one_is_replaced() {
    let bench = Bench::start().await;
    let hook = HookSpec::new("nodes", "ready", Transition::Launching);
    bench.cloud.put_hook(hook.timeout(Duration::from_secs(600), ActionResult::Abandon)).unwrap();
    let set = ["autoscaling", "set-desired-capacity", "--auto-scaling-group-name", "nodes"];
    bench.aws(&[&set[..], &["--desired-capacity", "3"]].concat()).await;
    let launched = bench.cloud.instances()[2].clone();
    assert_eq!(launched.lifecycle, LifecycleState::PendingWait);
    assert_eq!(launched.waiting_hooks, ["ready"]);

    let complete = [
        "autoscaling",
        "complete-lifecycle-action",
        "--auto-scaling-group-name",
        "nodes",
        "--lifecycle-hook-name",
        "ready",
    ];
    let abandon = ["--instance-id", &launched.id, "--lifecycle-action-result", "ABANDON"];
    bench.aws(&[&complete[..], &abandon].concat()).await;
    assert!(bench.cloud.instance(&launched.id).is_none());
    let replacement = bench.cloud.instances()[2].clone();
    assert_eq!(replacement.lifecycle, LifecycleState::PendingWait);
    let go_on = ["--instance-id", &replacement.id, "--lifecycle-action-result", "CONTINUE"];
    bench.aws(&[&complete[..], &go_on].concat()).await;
    let replacement = bench.cloud.instance(&replacement.id).unwrap();
    assert_eq!(replacement.lifecycle, LifecycleState::InService);

    let refused = bench.refused(&[&set[..], &["--desired-capacity", "9"]].concat()).await;
    assert!(refused.contains("above max value 4"), "{refused}");
    let activities = bench.aws(&["autoscaling", "describe-scaling-activities"]).await;
    let codes = names(&activities, "Activities", "StatusCode");
    assert!(codes.contains(&"Cancelled") && codes.contains(&"Successful"), "{codes:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_and_instances_are_found_by_filters() {
    let bench = Bench::start().await;
    let by_tag = |value: &str| format!("Name=tag:aws:cloudformation:stack-name,Values={value}");
    for (value, found) in [("demo", &["nodes"][..]), ("other", &[])] {
        let filter = by_tag(value);
        let describe = ["autoscaling", "describe-auto-scaling-groups", "--filters", &filter];
        let groups = bench.aws(&describe).await;
        assert_eq!(names(&groups, "AutoScalingGroups", "AutoScalingGroupName"), found);
    }
    let view = &bench.cloud.instances()[0];
    let by_address =
        format!("Name=network-interface.addresses.private-ip-address,Values={}", view.address);
    // The command line follows the tokens of the pages.
    let describe = ["ec2", "describe-instances", "--page-size", "5", "--filters", &by_address];
    let found = bench.aws(&describe).await;
    let instances = &found["Reservations"][0]["Instances"];
    assert_eq!(names(&found["Reservations"][0], "Instances", "InstanceId"), [&view.id]);
    let address = &instances[0]["NetworkInterfaces"][0]["PrivateIpAddresses"][0];
    assert_eq!(address["PrivateIpAddress"], view.address.to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_is_detached_and_attached_to_another_group() {
    let bench = Bench::start().await;
    let id = bench.oldest();
    let create = ["autoscaling", "create-auto-scaling-group", "--auto-scaling-group-name", "other"];
    let sizes = ["--min-size", "0", "--max-size", "1", "--tags", "Key=owner,Value=other"];
    bench.aws(&[&create[..], &sizes].concat()).await;
    let which = ["--instance-ids", &id, "--auto-scaling-group-name"];
    let attach = [&["autoscaling", "attach-instances"][..], &which].concat();
    let early = bench.refused(&[&attach[..], &["other"]].concat()).await;
    assert!(early.contains("(ValidationError)") && early.contains("detach it first"), "{early}");

    let detach = [&["autoscaling", "detach-instances"][..], &which, &["nodes"]].concat();
    let decrement = ["--should-decrement-desired-capacity"];
    let answer = bench.aws(&[&detach[..], &decrement].concat()).await;
    let cause = answer["Activities"][0]["Cause"].as_str().unwrap();
    let expected = format!("instance {id} was detached in response to a user request.");
    assert!(cause.ends_with(&expected), "{cause}");
    let ask = ["autoscaling", "describe-auto-scaling-instances", "--instance-ids", &id];
    assert_eq!(bench.aws(&ask).await["AutoScalingInstances"], json!([]));
    let describe = ["ec2", "describe-instances", "--instance-ids", &id];
    let described = bench.aws(&describe).await;
    let shown = &described["Reservations"][0]["Instances"][0];
    assert_eq!(shown["State"]["Name"], "running");
    let tags = names(shown, "Tags", "Key");
    assert!(!tags.contains(&"aws:autoscaling:groupName"), "{tags:?}");
    assert_eq!(bench.cloud.groups()[0].desired, 1);

    bench.aws(&[&attach[..], &["other"]].concat()).await;
    let attached = bench.aws(&ask).await;
    let attached = &attached["AutoScalingInstances"][0];
    assert_eq!(
        (&attached["AutoScalingGroupName"], &attached["LifecycleState"]),
        (&json!("other"), &json!("InService"))
    );
    let view = bench.cloud.instance(&id).unwrap();
    assert_eq!(view.tags["aws:autoscaling:groupName"], "other");
    assert_eq!(view.tags["owner"], "other");
    let other = bench.oldest();
    bench.cloud.detach(&other, false).unwrap();
    let full = bench.cloud.attach("other", &other).unwrap_err();
    assert!(full.message.contains("max-size=1"), "{full}");

    // EC2 ends what no group has.
    bench.aws(&["ec2", "terminate-instances", "--instance-ids", &other]).await;
    let orders = bench.machines.0.lock().unwrap().clone();
    assert_eq!(orders.last(), Some(&format!("terminate {other}")));
    assert_eq!(orders.iter().filter(|order| order.contains(&id)).count(), 1, "only its launch");
    let gone = bench.cloud.attach("nodes", &other).unwrap_err();
    assert!(gone.message.contains("Invalid Instance ID"), "{gone}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_the_zones_moves_the_instances() {
    let bench = Bench::start().await;
    let hook = HookSpec::new("nodes", "ready", Transition::Launching);
    bench.cloud.put_hook(hook).unwrap();
    let update = ["autoscaling", "update-auto-scaling-group", "--auto-scaling-group-name", "nodes"];
    let zones = ["--availability-zones", "eu-central-1b"];
    bench.aws(&[&update[..], &zones].concat()).await;
    let [old, kept, new] = &bench.cloud.instances()[..] else { panic!("two and a new one") };
    assert_eq!((&old.zone[..], &kept.zone[..]), ("eu-central-1a", "eu-central-1b"));
    assert_eq!((&new.zone[..], new.lifecycle), ("eu-central-1b", LifecycleState::PendingWait));
    bench.cloud.complete_hook(&new.id, "ready").unwrap();
    assert!(bench.cloud.instance(&old.id).is_none());
    assert_eq!(bench.cloud.instances().len(), 2);
    let wrong = ["--availability-zones", "eu-central-1z"];
    let refused = bench.refused(&[&update[..], &wrong].concat()).await;
    assert!(refused.contains("(ValidationError)"), "{refused}");
    let asked =
        ["autoscaling", "describe-scaling-activities", "--auto-scaling-group-name", "nodes"];
    let activities = bench.aws(&asked).await;
    let causes = names(&activities, "Activities", "Cause");
    let has = |text: &str| causes.iter().any(|cause| cause.contains(text));
    assert!(has("to aid in balancing the group's zones"), "{causes:?}");
}
