//! Elastic Load Balancing, and the target groups of Auto Scaling groups.

use serde_json::{Value, json};
use skep_sim::cloud::LifecycleState;

use super::bench::{Bench, names, soon};

/// A target group, and a listener that forwards to it.
struct Front {
    bench: Bench,
    target_group: String,
    balancer: String,
    listener: String,
}

impl Front {
    /// Creates everything with the command line. Nothing serves the listener: the targets are never checked.
    async fn start() -> Self {
        let bench = Bench::start().await;
        let create = ["elbv2", "create-target-group", "--name", "web", "--protocol", "TCP"];
        let port = ["--port", "80", "--vpc-id", "vpc-00000000000000001"];
        let created = bench.aws(&[&create[..], &port].concat()).await;
        let target_group = text(&created["TargetGroups"][0]["TargetGroupArn"]);
        let create = ["elbv2", "create-load-balancer", "--name", "front", "--type", "network"];
        let created = bench.aws(&create).await;
        let balancer = text(&created["LoadBalancers"][0]["LoadBalancerArn"]);
        let create = ["elbv2", "create-listener", "--protocol", "TCP", "--port", "8080"];
        let action = format!("Type=forward,TargetGroupArn={target_group}");
        let of = ["--load-balancer-arn", &balancer, "--default-actions", &action];
        let created = bench.aws(&[&create[..], &of].concat()).await;
        let listener = text(&created["Listeners"][0]["ListenerArn"]);
        Self { bench, target_group, balancer, listener }
    }

    /// Runs an operation on the target group.
    async fn on_group(&self, operation: &str, more: &[&str]) -> Value {
        let call = ["elbv2", operation, "--target-group-arn", &self.target_group];
        self.bench.aws(&[&call[..], more].concat()).await
    }

    async fn refused(&self, operation: &str, more: &[&str]) -> String {
        let call = ["elbv2", operation, "--target-group-arn", &self.target_group];
        self.bench.refused(&[&call[..], more].concat()).await
    }

    async fn health(&self, more: &[&str]) -> Vec<Value> {
        let answer = self.on_group("describe-target-health", more).await;
        answer["TargetHealthDescriptions"].as_array().unwrap().clone()
    }

    async fn set(&self, key: &str, value: &str) -> Value {
        let attribute = format!("Key={key},Value={value}");
        self.on_group("modify-target-group-attributes", &["--attributes", &attribute]).await
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}")).to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn target_groups_load_balancers_and_listeners_have_awss_forms_and_defaults() {
    let front = Front::start().await;
    let bench = &front.bench;
    let described = front.bench.aws(&["elbv2", "describe-target-groups", "--names", "web"]).await;
    let prefix = "arn:aws:elasticloadbalancing:eu-central-1:123456789012";
    assert!(front.target_group.starts_with(&format!("{prefix}:targetgroup/web/")));
    assert_eq!(
        described["TargetGroups"][0],
        json!({
            "TargetGroupArn": front.target_group, "TargetGroupName": "web", "Protocol": "TCP",
            "Port": 80, "VpcId": "vpc-00000000000000001", "HealthCheckProtocol": "TCP",
            "HealthCheckPort": "traffic-port", "HealthCheckEnabled": true,
            "HealthCheckIntervalSeconds": 30, "HealthCheckTimeoutSeconds": 10,
            "HealthyThresholdCount": 5, "UnhealthyThresholdCount": 2,
            "LoadBalancerArns": [front.balancer], "TargetType": "instance",
            "IpAddressType": "ipv4",
        })
    );
    let balancers = bench.aws(&["elbv2", "describe-load-balancers", "--names", "front"]).await;
    let balancer = &balancers["LoadBalancers"][0];
    assert!(front.balancer.starts_with(&format!("{prefix}:loadbalancer/net/front/")));
    assert_eq!(
        (&balancer["Type"], &balancer["Scheme"]),
        (&json!("network"), &json!("internet-facing"))
    );
    assert!(text(&balancer["DNSName"]).starts_with("front-"));
    let of_balancer = ["elbv2", "describe-listeners", "--load-balancer-arn", &front.balancer];
    let listeners = bench.aws(&of_balancer).await;
    let listener = &listeners["Listeners"][0];
    assert_eq!((&listener["Port"], &listener["Protocol"]), (&json!(8080), &json!("TCP")));
    assert_eq!(names(listener, "DefaultActions", "TargetGroupArn"), [&front.target_group]);

    let in_use = front.refused("delete-target-group", &[]).await;
    assert!(in_use.contains("(ResourceInUse)"), "{in_use}");
    bench.aws(&["elbv2", "delete-listener", "--listener-arn", &front.listener]).await;
    let delete = ["elbv2", "delete-load-balancer", "--load-balancer-arn", &front.balancer];
    bench.aws(&delete).await;
    front.on_group("delete-target-group", &[]).await;
    let gone = front.refused("describe-target-health", &[]).await;
    assert!(gone.contains("(TargetGroupNotFound)"), "{gone}");
    let gone = bench.refused(&of_balancer).await;
    assert!(gone.contains("(LoadBalancerNotFound)"), "{gone}");
}

#[tokio::test(flavor = "multi_thread")]
async fn health_checks_are_set_and_changed() {
    let front = Front::start().await;
    let checks = ["--health-check-protocol", "HTTP", "--health-check-port", "44554"];
    let more = ["--health-check-path", "/up", "--healthy-threshold-count", "2"];
    let changed = front.on_group("modify-target-group", &[&checks[..], &more].concat()).await;
    let group = &changed["TargetGroups"][0];
    for (key, value) in [
        ("HealthCheckProtocol", json!("HTTP")),
        ("HealthCheckPort", json!("44554")),
        ("HealthCheckPath", json!("/up")),
        ("HealthyThresholdCount", json!(2)),
        ("UnhealthyThresholdCount", json!(2)),
        ("Matcher", json!({ "HttpCode": "200-399" })),
    ] {
        assert_eq!(group[key], value, "{key}");
    }
    let create = ["elbv2", "create-target-group", "--name", "other", "--protocol", "TCP"];
    let port = ["--port", "80", "--vpc-id", "vpc-1", "--health-check-interval-seconds", "5"];
    let refused = front.bench.refused(&[&create[..], &port].concat()).await;
    assert!(refused.contains("(ValidationError)") && refused.contains("timeout"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn targets_are_registered_described_and_drained() {
    let front = Front::start().await;
    let id = front.bench.oldest();
    let target = format!("Id={id}");
    let targets = ["--targets", &target];
    let [unknown] = &front.health(&targets).await[..] else { panic!("not one target") };
    assert_eq!(unknown["TargetHealth"]["State"], "unused");
    assert_eq!(unknown["TargetHealth"]["Reason"], "Target.NotRegistered");
    assert!(front.health(&[]).await.is_empty());

    front.on_group("register-targets", &targets).await;
    assert_eq!(
        front.health(&[]).await,
        [json!({
            "Target": { "Id": id, "Port": 80 },
            "HealthCheckPort": "80",
            "TargetHealth": {
                "State": "initial",
                "Reason": "Elb.RegistrationInProgress",
                "Description": "Target registration is in progress",
            },
        })]
    );
    let bad = ["--targets", "Id=i-0aaaaaaaaaaaaaaaa"];
    let refused = front.refused("register-targets", &bad).await;
    assert!(refused.contains("(InvalidTarget)"), "{refused}");

    front.on_group("deregister-targets", &targets).await;
    let [draining] = &front.health(&[]).await[..] else { panic!("not one target") };
    assert_eq!(draining["TargetHealth"]["State"], "draining");
    assert_eq!(draining["TargetHealth"]["Reason"], "Target.DeregistrationInProgress");
    // The delay holds for a target that is draining, too.
    front.set("deregistration_delay.timeout_seconds", "0").await;
    assert!(front.health(&[]).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn attributes_have_awss_defaults_and_are_checked() {
    let front = Front::start().await;
    let described = front.on_group("describe-target-group-attributes", &[]).await;
    let values = |answer: &Value| {
        let pairs = names(answer, "Attributes", "Key").into_iter().map(str::to_owned);
        let values = names(answer, "Attributes", "Value").into_iter().map(str::to_owned);
        pairs.zip(values).collect::<Vec<_>>()
    };
    let delay = "deregistration_delay.timeout_seconds";
    let interval = "target_health_state.unhealthy.draining_interval_seconds";
    let expected = [
        (delay, "300"),
        ("deregistration_delay.connection_termination.enabled", "false"),
        ("target_health_state.unhealthy.connection_termination.enabled", "true"),
        (interval, "0"),
    ];
    let expected = expected.map(|(key, value)| (key.to_owned(), value.to_owned()));
    assert_eq!(values(&described), expected);
    let changed = front.set(delay, "5").await;
    assert_eq!(values(&changed)[0].1, "5");
    for (key, value, code) in [
        (delay, "3601", "(ValidationError)"),
        ("no.such.key", "1", "(ValidationError)"),
        (interval, "9", "(InvalidConfigurationRequest)"),
    ] {
        let attribute = format!("Key={key},Value={value}");
        let more = ["--attributes", &attribute];
        let refused = front.refused("modify-target-group-attributes", &more).await;
        assert!(refused.contains(code), "{refused}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_registers_its_instances_and_its_hooks_wait_for_the_deregistration() {
    let front = Front::start().await;
    let bench = &front.bench;
    let create = ["autoscaling", "create-auto-scaling-group", "--auto-scaling-group-name", "web"];
    let size = ["--min-size", "0", "--max-size", "2", "--desired-capacity", "1"];
    let behind = ["--target-group-arns", &front.target_group, "--health-check-type", "ELB"];
    let grace = ["--health-check-grace-period", "120"];
    let zone = ["--availability-zones", "eu-central-1a"];
    let hook = "LifecycleHookName=drain,LifecycleTransition=autoscaling:EC2_INSTANCE_TERMINATING";
    let hooks = ["--lifecycle-hook-specification-list", hook];
    bench.aws(&[&create[..], &size, &behind, &grace, &zone, &hooks].concat()).await;

    let describe = ["autoscaling", "describe-auto-scaling-groups", "--auto-scaling-group-names"];
    let described = bench.aws(&[&describe[..], &["web"]].concat()).await;
    let group = &described["AutoScalingGroups"][0];
    assert_eq!(group["TargetGroupARNs"], json!([front.target_group]));
    let source = json!({ "Identifier": front.target_group, "Type": "elbv2" });
    assert_eq!(group["TrafficSources"], json!([source]));
    assert_eq!(group["HealthCheckType"], "ELB");
    assert_eq!(group["HealthCheckGracePeriod"], 120);
    let id = text(&group["Instances"][0]["InstanceId"]);
    assert_eq!(front.health(&[]).await[0]["Target"]["Id"], id.as_str());

    let terminate = ["autoscaling", "terminate-instance-in-auto-scaling-group", "--instance-id"];
    let shrink = ["--should-decrement-desired-capacity"];
    let activity = bench.aws(&[&terminate[..], &[&id], &shrink].concat()).await;
    assert_eq!(activity["Activity"]["StatusCode"], "WaitingForELBConnectionDraining");
    assert_eq!(front.health(&[]).await[0]["TargetHealth"]["State"], "draining");
    let lifecycle = || bench.cloud.instance(&id).map(|it| it.lifecycle);
    assert_eq!(lifecycle(), Some(LifecycleState::Terminating));
    let heartbeat = ["autoscaling", "record-lifecycle-action-heartbeat", "--instance-id", &id];
    let hook = ["--auto-scaling-group-name", "web", "--lifecycle-hook-name", "drain"];
    let heartbeat = [&heartbeat[..], &hook].concat();
    let refused = bench.refused(&heartbeat).await;
    assert!(refused.contains("No active Lifecycle Action found"), "{refused}");

    front.set("deregistration_delay.timeout_seconds", "0").await;
    soon(|| lifecycle() == Some(LifecycleState::TerminatingWait)).await;
    bench.aws(&heartbeat).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn target_groups_are_attached_and_detached() {
    let front = Front::start().await;
    let bench = &front.bench;
    let of_group = ["--auto-scaling-group-name", "nodes"];
    let call = async |operation: &str, more: &[&str]| {
        bench.aws(&[&["autoscaling", operation][..], &of_group, more].concat()).await
    };
    let source = format!("Identifier={},Type=elbv2", front.target_group);
    let sources = ["--traffic-sources", &source];
    call("attach-traffic-sources", &sources).await;
    assert_eq!(front.health(&[]).await.len(), 2);
    let described = call("describe-traffic-sources", &[]).await;
    assert_eq!(names(&described, "TrafficSources", "Identifier"), [&front.target_group]);
    assert_eq!(names(&described, "TrafficSources", "State"), ["Added"]);
    let described = call("describe-load-balancer-target-groups", &[]).await;
    let arns = names(&described, "LoadBalancerTargetGroups", "LoadBalancerTargetGroupARN");
    assert_eq!(arns, [&front.target_group]);
    call("detach-load-balancer-target-groups", &["--target-group-arns", &front.target_group]).await;
    let states = front.health(&[]).await;
    assert!(states.iter().all(|it| it["TargetHealth"]["State"] == "draining"), "{states:?}");
    let attach = ["autoscaling", "attach-load-balancer-target-groups"];
    let unknown = ["--target-group-arns", "arn:aws:elasticloadbalancing:x"];
    let refused = bench.refused(&[&attach[..], &of_group, &unknown].concat()).await;
    assert!(refused.contains("may not be valid"), "{refused}");
}
