//! CloudFormation.

use serde_json::json;

use super::bench::{Bench, soon};

#[tokio::test(flavor = "multi_thread")]
async fn signals_complete_a_stack() {
    let bench = Bench::start().await;
    let signal = |id: &'static str| {
        let mut arguments = vec!["cloudformation", "signal-resource", "--stack-name", "demo"];
        arguments.extend(["--logical-resource-id", "Nodes", "--status", "SUCCESS"]);
        arguments.extend(["--unique-id", id]);
        arguments
    };
    bench.aws(&signal("i-1")).await;
    bench.aws(&signal("i-1")).await;
    let describe = ["cloudformation", "describe-stacks", "--stack-name", "demo"];
    let stacks = bench.aws(&describe).await;
    assert_eq!(stacks["Stacks"][0]["StackStatus"], "CREATE_IN_PROGRESS");
    bench.aws(&signal("i-2")).await;
    let stacks = bench.aws(&describe).await;
    assert_eq!(stacks["Stacks"][0]["StackStatus"], "CREATE_COMPLETE");
    let late = bench.refused(&signal("i-3")).await;
    let expected = "is in CREATE_COMPLETE state and cannot be signaled";
    assert!(late.contains("(ValidationError)") && late.contains(expected), "{late}");

    let resource = ["cloudformation", "describe-stack-resource", "--stack-name", "demo"];
    let resource = [&resource[..], &["--logical-resource-id", "Nodes"]].concat();
    let resource = bench.aws(&resource).await;
    assert_eq!(resource["StackResourceDetail"]["PhysicalResourceId"], "nodes");
    let unknown = ["cloudformation", "describe-stacks", "--stack-name", "other"];
    let unknown = bench.refused(&unknown).await;
    assert!(unknown.contains("does not exist"), "{unknown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stack_is_created_with_its_groups_and_deleted_in_reverse() {
    let bench = Bench::start().await;
    let stack = ["cloudformation", "create-stack", "--stack-name", "bees"];
    let of_skep = "Resources:\n  Managers:\n    Type: AWS::AutoScaling::AutoScalingGroup\n";
    let template = ["--template-body", of_skep, "--tags", "Key=owner,Value=me", "--parameters"];
    let parameters = [
        "ParameterKey=ManagerCount,ParameterValue=1",
        "ParameterKey=WorkersMin,ParameterValue=1",
        "ParameterKey=TableName,ParameterValue=bees",
    ];
    let create = [&stack[..], &template, &parameters].concat();
    let id = bench.aws(&create).await["StackId"].as_str().unwrap().to_owned();
    assert!(bench.refused(&create).await.contains("(AlreadyExistsException)"));
    let update = ["cloudformation", "update-stack", "--stack-name", "bees", "--template-body", "x"];
    assert!(bench.refused(&update).await.contains("cannot be updated while in status CREATE_IN"));

    // The workers' group follows when the managers are complete.
    let in_group = |name: &str| {
        let instances = bench.cloud.instances();
        instances.into_iter().filter(|it| it.group == name).map(|it| it.id).collect::<Vec<_>>()
    };
    for (group, logical_id) in [("bees-managers", "Managers"), ("bees-workers", "Workers")] {
        let other = if logical_id == "Managers" { "bees-workers" } else { "none" };
        soon(|| in_group(group).len() == 1).await;
        assert_eq!(in_group(other).len(), 0);
        let instance = &in_group(group)[0];
        let signal = ["cloudformation", "signal-resource", "--stack-name", "bees", "--status"];
        let of = ["SUCCESS", "--logical-resource-id", logical_id, "--unique-id", instance];
        bench.aws(&[&signal[..], &of].concat()).await;
    }
    let complete = || bench.cloud.stack("bees").is_some_and(|it| it.status == "CREATE_COMPLETE");
    soon(complete).await;
    let describe = ["cloudformation", "describe-stacks", "--stack-name"];
    let seen = bench.aws(&[&describe[..], &["bees"]].concat()).await;
    assert_eq!(seen["Stacks"][0]["Outputs"][0]["OutputValue"], "bees");
    assert_eq!(seen["Stacks"][0]["Tags"], json!([{ "Key": "owner", "Value": "me" }]));

    bench.aws(&["cloudformation", "delete-stack", "--stack-name", "bees"]).await;
    for group in ["bees-workers", "bees-managers"] {
        // Each termination hook waits for its completion.
        let left = || bench.cloud.groups().iter().all(|it| it.name != group);
        for hook in ["skep-launch", "skep-terminate"] {
            let complete = ["autoscaling", "complete-lifecycle-action", "--lifecycle-hook-name"];
            for instance in in_group(group) {
                let of = ["--auto-scaling-group-name", group, "--instance-id", &instance];
                let result = [hook, "--lifecycle-action-result", "CONTINUE"];
                bench.try_aws(&[&complete[..], &result, &of].concat()).await.ok();
            }
        }
        if group == "bees-workers" {
            assert_eq!(in_group("bees-managers").len(), 1);
        }
        soon(left).await;
    }
    soon(|| bench.cloud.stack("bees").is_some_and(|it| it.status == "DELETE_COMPLETE")).await;
    assert!(bench.cloud.rows("bees").is_err());
    assert!(bench.refused(&[&describe[..], &["bees"]].concat()).await.contains("does not exist"));
    let gone = bench.aws(&[&describe[..], &[&id]].concat()).await;
    assert_eq!(gone["Stacks"][0]["StackStatus"], "DELETE_COMPLETE");
    // The name is free again; a template that is not skep's creates nothing.
    let other = ["--template-body", "Resources: {}"];
    let again = bench.aws(&[&stack[..], &other].concat()).await;
    assert_ne!(again["StackId"], id.as_str());
    assert!(complete());
}
