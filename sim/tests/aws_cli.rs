//! The real `aws` command line uses the cloud: it is an independent client, so these tests check more of the wire
//! protocol than the parts that our own SDK accepts.

use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use skep_sim::cloud::{
    ActionResult, Cloud, CloudOptions, Deny, Fault, GroupSpec, HookSpec, LifecycleState, Service,
    StackResourceSpec, StackSpec, Transition, Who,
};
use skep_sim::machines::{Disturbance, Executed, Launch, Machines};
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio::sync::oneshot;

const REGION: &str = "eu-central-1";

/// Machines that only record their orders.
#[derive(Default)]
struct Noted(Mutex<Vec<String>>);

impl Machines for Noted {
    fn launch(&self, launch: Launch) {
        self.0.lock().unwrap().push(format!("launch {}", launch.instance_id));
    }

    fn stop(&self, instance_id: &str) {
        self.0.lock().unwrap().push(format!("stop {instance_id}"));
    }

    fn start(&self, instance_id: &str) {
        self.0.lock().unwrap().push(format!("start {instance_id}"));
    }

    fn terminate(&self, instance_id: &str) {
        self.0.lock().unwrap().push(format!("terminate {instance_id}"));
    }

    /// The script `deaf` is not received; every other one prints itself, and ends with 3.
    fn execute(&self, _instance_id: &str, script: String) -> Option<oneshot::Receiver<Executed>> {
        let (tell, executed) = oneshot::channel();
        let executed = (script != "deaf").then_some(executed)?;
        tell.send(Executed { code: 3, out: script }).ok()?;
        Some(executed)
    }

    fn disturb(&self, instance_id: &str, what: Disturbance) -> anyhow::Result<()> {
        self.0.lock().unwrap().push(format!("{what:?} {instance_id}"));
        Ok(())
    }
}

struct Bench {
    cloud: Cloud,
    machines: Arc<Noted>,
    endpoint: SocketAddr,
}

impl Bench {
    /// Starts a cloud with one group of two, in a stack that waits for two signals.
    async fn start() -> Self {
        let cloud = Cloud::new(CloudOptions {
            region: REGION.to_owned(),
            zones: vec![format!("{REGION}a"), format!("{REGION}b")],
            subnet: (Ipv4Addr::new(10, 78, 0, 0), 24),
            seed: 7,
        })
        .unwrap();
        let machines = Arc::new(Noted::default());
        cloud.set_machines(machines.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = listener.local_addr().unwrap();
        tokio::spawn(cloud.clone().serve_aws(listener));
        cloud
            .create_stack(StackSpec {
                name: "demo".to_owned(),
                resources: vec![StackResourceSpec {
                    logical_id: "Nodes".to_owned(),
                    group: Some("nodes".to_owned()),
                    signals: 2,
                    timeout: Duration::from_secs(600),
                }],
            })
            .unwrap();
        cloud
            .create_group(GroupSpec {
                name: "nodes".to_owned(),
                min: 1,
                max: 4,
                desired: 2,
                stack: Some(("demo".to_owned(), "Nodes".to_owned())),
                ..GroupSpec::default()
            })
            .unwrap();
        Self { cloud, machines, endpoint }
    }

    /// Runs `aws`; returns its JSON, or its standard error.
    async fn try_aws(&self, arguments: &[&str]) -> Result<Value, String> {
        let program = std::env::var_os("AWS_CLI").unwrap_or_else(|| OsString::from("aws"));
        let output = Command::new(&program)
            .args(arguments)
            .args(["--output", "json"])
            .env("AWS_ENDPOINT_URL", format!("http://{}", self.endpoint))
            .env("AWS_ACCESS_KEY_ID", "AKIAOPERATOR00000000")
            .env("AWS_SECRET_ACCESS_KEY", "not-verified")
            .env_remove("AWS_SESSION_TOKEN")
            .env("AWS_DEFAULT_REGION", REGION)
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .env("AWS_CONFIG_FILE", "/dev/null")
            .env("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
            .env("AWS_MAX_ATTEMPTS", "1")
            // Version 2 would show long answers in a pager.
            .env("AWS_PAGER", "")
            .output()
            .await
            .unwrap_or_else(|error| {
                panic!(
                    "cannot run {}: {error}. This test needs the aws command line: `make setup` \
                     installs it, or set AWS_CLI to its path.",
                    program.to_string_lossy()
                )
            });
        let text = String::from_utf8(output.stdout).unwrap();
        if !output.status.success() {
            return Err(String::from_utf8(output.stderr).unwrap());
        }
        Ok(if text.trim().is_empty() { Value::Null } else { serde_json::from_str(&text).unwrap() })
    }

    async fn aws(&self, arguments: &[&str]) -> Value {
        self.try_aws(arguments).await.unwrap_or_else(|error| panic!("aws {arguments:?}: {error}"))
    }

    async fn refused(&self, arguments: &[&str]) -> String {
        match self.try_aws(arguments).await {
            Ok(answer) => panic!("aws {arguments:?} was not refused: {answer}"),
            Err(error) => error,
        }
    }

    fn oldest(&self) -> String {
        self.cloud.instances()[0].id.clone()
    }
}

fn names<'a>(answer: &'a Value, list: &str, name: &str) -> Vec<&'a str> {
    let items = answer[list].as_array().unwrap_or_else(|| panic!("no {list} in {answer}"));
    items.iter().map(|item| item[name].as_str().unwrap()).collect()
}

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
async fn parameters_are_written_once_and_read() {
    let bench = Bench::start().await;
    let name = ["--name", "/skep/demo/worker-token/1"];
    let put = ["ssm", "put-parameter", "--type", "SecureString", "--value", "hush"];
    let put = [&put[..], &name].concat();
    assert_eq!(bench.aws(&put).await["Version"], 1);
    let again = bench.refused(&put).await;
    assert!(again.contains("(ParameterAlreadyExists)"), "{again}");
    let get = [&["ssm", "get-parameter", "--with-decryption"][..], &name].concat();
    let found = bench.aws(&get).await;
    assert_eq!(found["Parameter"]["Value"], "hush");
    assert_eq!(found["Parameter"]["Type"], "SecureString");
    let unknown = bench.refused(&["ssm", "get-parameter", "--name", "/none"]).await;
    assert!(unknown.contains("(ParameterNotFound)"), "{unknown}");

    let logged = bench.cloud.requests();
    assert_eq!(logged.len(), 4);
    assert_eq!(logged[0].summary, "/skep/demo/worker-token/1");
    assert_eq!(logged[1].code.as_deref(), Some("ParameterAlreadyExists"));
    assert!(!serde_json::to_string(&logged).unwrap().contains("hush"));
}

#[tokio::test(flavor = "multi_thread")]
async fn items_are_written_under_a_condition_and_queried() {
    let bench = Bench::start().await;
    bench.cloud.create_table("skep").unwrap();
    let item = r#"{"cluster":{"S":"demo"},"item":{"S":"charter"},"phase":{"S":"founding"}}"#;
    let put = [
        "dynamodb",
        "put-item",
        "--table-name",
        "skep",
        "--item",
        item,
        "--condition-expression",
        "attribute_not_exists(#c)",
        "--expression-attribute-names",
        // `cluster` is a reserved word, which DynamoDB refuses in an expression.
        r##"{"#c":"cluster"}"##,
    ];
    bench.aws(&put).await;
    let again = bench.refused(&put).await;
    assert!(again.contains("(ConditionalCheckFailedException)"), "{again}");
    let query = [
        "dynamodb",
        "query",
        "--table-name",
        "skep",
        "--key-condition-expression",
        "#c = :c",
        "--expression-attribute-names",
        r##"{"#c":"cluster"}"##,
        "--expression-attribute-values",
        r#"{":c":{"S":"demo"}}"#,
    ];
    let found = bench.aws(&query).await;
    assert_eq!(found["Count"], 1);
    assert_eq!(found["Items"][0]["phase"]["S"], "founding");
    let last = bench.cloud.requests().pop().unwrap();
    assert_eq!((last.service, last.status), (Service::DynamoDb, 200));
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

/// Waits until the work in the background has got that far.
async fn soon(is_so: impl Fn() -> bool) {
    for _ in 0..600 {
        if is_so() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("not within a minute");
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_run_on_instances_that_receive_them() {
    let bench = Bench::start().await;
    let instance = bench.oldest();
    let send = |id: &str, script: &str| {
        let input = json!({
            "DocumentName": "AWS-RunShellScript",
            "InstanceIds": [id],
            "Parameters": { "commands": [script] },
        });
        input.to_string()
    };
    let call = ["ssm", "send-command", "--cli-input-json"];
    for (id, script) in [("i-0aaaaaaaaaaaaaaaa", "true"), (&instance, "deaf")] {
        let refused = bench.refused(&[&call[..], &[&send(id, script)]].concat()).await;
        assert!(refused.contains("(InvalidInstanceId)"), "{refused}");
    }
    let sent = bench.aws(&[&call[..], &[&send(&instance, "echo hello")]].concat()).await;
    let command = sent["Command"]["CommandId"].as_str().unwrap();
    let get = ["ssm", "get-command-invocation", "--command-id", command, "--instance-id"];
    assert!(
        bench
            .refused(&[&get[..], &["i-0aaaaaaaaaaaaaaaa"]].concat())
            .await
            .contains("(InvocationDoesNotExist)")
    );
    let seen = bench.aws(&[&get[..], &[&instance]].concat()).await;
    assert_eq!((&seen["Status"], &seen["ResponseCode"]), (&json!("Failed"), &json!(3)));
    assert_eq!(seen["StandardOutputContent"], "echo hello");
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_denials_and_a_wrong_clock_reach_the_caller_as_errors() {
    let bench = Bench::start().await;
    let describe = ["autoscaling", "describe-auto-scaling-groups"];
    let get = ["ssm", "get-parameter", "--name", "/a"];
    let throttle = Fault { throttle: 1.0, ..Fault::default() };
    bench.cloud.faults().set(None, None, throttle);
    assert!(bench.refused(&describe).await.contains("(Throttling)"));
    assert!(bench.refused(&get).await.contains("(ThrottlingException)"));
    bench.cloud.faults().clear();

    bench.cloud.deny(Deny::new(Who::Anyone, None, "*"));
    assert!(bench.refused(&describe).await.contains("(AccessDenied)"));
    assert!(bench.refused(&get).await.contains("(AccessDeniedException)"));
    bench.cloud.allow_all();

    bench.cloud.set_clock_offset(time::Duration::minutes(10));
    let late = bench.refused(&describe).await;
    assert!(late.contains("(SignatureDoesNotMatch)") && late.contains("5 min."), "{late}");
    let late = bench.refused(&get).await;
    assert!(late.contains("(InvalidSignatureException)"), "{late}");
}
