//! CloudWatch, and the scaling policies that follow its metrics.

use std::time::Duration;

use serde_json::json;
use skep_sim::cloud::{AlarmState, Deny, Fault, Metric, PolicyPace, Service, Who};

use super::bench::{Bench, names, soon};

/// Tracks `Load` of the group at 50; a new instance counts at once.
const CONFIGURATION: &str = r#"{"TargetValue": 50.0, "CustomizedMetricSpecification": {
    "MetricName": "Load", "Namespace": "skep", "Statistic": "Average",
    "Dimensions": [{"Name": "Group", "Value": "nodes"}]}}"#;

fn load() -> Metric {
    Metric::new("skep", "Load", &[("Group", "nodes")])
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_are_published_and_read() {
    let bench = Bench::start().await;
    let put = ["cloudwatch", "put-metric-data", "--namespace", "skep"];
    let value = ["--metric-name", "Load", "--dimensions", "Group=nodes", "--value"];
    for number in ["20", "-0.5"] {
        bench.aws(&[&put[..], &value, &[number, "--unit", "Percent"]].concat()).await;
    }
    let data = |ago: time::Duration| {
        let at = (bench.cloud.now() - ago).format(&time::format_description::well_known::Rfc3339);
        json!([{ "MetricName": "Nodes", "Values": [1, 3], "Counts": [2, 1], "Timestamp": at.unwrap() }])
            .to_string()
    };
    let old = data(time::Duration::days(15));
    let refused = bench.refused(&[&put[..], &["--metric-data", &old]].concat()).await;
    assert!(refused.contains("(InvalidParameterValue)"), "{refused}");
    let recent = data(time::Duration::hours(1));
    bench.aws(&[&put[..], &["--metric-data", &recent]].concat()).await;
    assert_eq!(bench.cloud.metric(&load()), Some(-0.5));

    let query = r#"[{"Id": "m", "MetricStat": {"Metric": {"Namespace": "skep",
        "MetricName": "Load", "Dimensions": [{"Name": "Group", "Value": "nodes"}]},
        "Period": 3600, "Stat": "Maximum"}}]"#;
    let now = bench.cloud.now();
    let time = |hours: i64| {
        let time = now + time::Duration::hours(hours);
        time.format(&time::format_description::well_known::Rfc3339).unwrap()
    };
    let (from, to) = (time(-2), time(1));
    let get = ["cloudwatch", "get-metric-data", "--start-time", &from, "--end-time", &to];
    let read = bench.aws(&[&get[..], &["--metric-data-queries", query]].concat()).await;
    let result = &read["MetricDataResults"][0];
    assert_eq!((&result["Id"], &result["StatusCode"]), (&json!("m"), &json!("Complete")));
    let values: Vec<f64> =
        result["Values"].as_array().unwrap().iter().map(|it| it.as_f64().unwrap()).collect();
    // The two values are in one hour, or in two.
    assert_eq!(values.iter().copied().fold(f64::MIN, f64::max), 20.0);
    // Version 1 shows times as it gets them, version 2 as text.
    let start = &result["Timestamps"][0];
    let is_whole = start.as_f64().is_some_and(|seconds| seconds % 3600.0 == 0.0);
    assert!(is_whole || start.to_string().contains(":00:00"), "{start}");

    let listed = bench.aws(&["cloudwatch", "list-metrics", "--namespace", "skep"]).await;
    let dimensions = json!([{ "Name": "Group", "Value": "nodes" }]);
    let named = listed["Metrics"].as_array().unwrap().iter().find(|it| it["MetricName"] == "Load");
    assert_eq!(named.unwrap()["Dimensions"], dimensions);

    let logged = bench.cloud.requests();
    let logged = logged.iter().find(|it| it.service == Service::CloudWatch).unwrap();
    assert_eq!((logged.action.as_str(), logged.summary.as_str()), ("PutMetricData", "skep Load"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cloudwatch_refuses_is_refused() {
    let bench = Bench::start().await;
    let put = ["cloudwatch", "put-metric-data", "--metric-name", "Load"];
    let of_aws = [&put[..], &["--namespace", "AWS/EC2", "--value", "1"]].concat();
    assert!(bench.refused(&of_aws).await.contains("(InvalidParameterValue)"));
    let call = [&put[..], &["--namespace", "skep", "--value"]].concat();
    let nan = bench.refused(&[&call[..], &["NaN"]].concat()).await;
    assert!(nan.contains("(InvalidParameterValue)") && nan.contains("Value"), "{nan}");

    let call = [&call[..], &["1"]].concat();
    bench.cloud.deny(Deny::new(Who::Anyone, Service::CloudWatch, "Put*").on("skep"));
    let denied = bench.refused(&call).await;
    assert!(denied.contains("(AccessDenied)") && denied.contains("cloudwatch:PutMetricData"));
    bench.aws(&[&put[..], &["--namespace", "other", "--value", "1"]].concat()).await;
    bench.cloud.allow_all();
    let fault = Fault { throttle: 1.0, times: Some(1), ..Fault::default() };
    bench.cloud.faults().set(Service::CloudWatch, None, fault);
    let throttled = bench.refused(&call).await;
    assert!(throttled.contains("(Throttling)"), "{throttled}");
    bench.aws(&call).await;
    let alarm = ["cloudwatch", "put-metric-alarm", "--alarm-name", "a", "--evaluation-periods"];
    let alarm = [&alarm[..], &["1", "--comparison-operator", "LessThanThreshold"]].concat();
    let unknown = bench.refused(&alarm).await;
    assert!(unknown.contains("(InvalidAction)"), "{unknown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_query_protocol_publishes_too() {
    let bench = Bench::start().await;
    let form = "Action=PutMetricData&Version=2010-08-01&Namespace=skep&\
                MetricData.member.1.MetricName=Load&MetricData.member.1.Value=7.5&\
                MetricData.member.1.Unit=Count&\
                MetricData.member.1.Dimensions.member.1.Name=Group&\
                MetricData.member.1.Dimensions.member.1.Value=nodes";
    let answer = bench.post(form).await;
    assert!(answer.starts_with("<PutMetricDataResponse xmlns=\"http://monitoring."), "{answer}");
    assert_eq!(bench.cloud.metric(&load()), Some(7.5));
    assert_eq!(bench.cloud.metrics()[0].unit, "Count");
    let refused = bench.post(&form.replace("Value=7.5", "Value=inf")).await;
    assert!(refused.contains("<Code>InvalidParameterValue</Code>"), "{refused}");
    let listed = bench.post("Action=ListMetrics&Version=2010-08-01").await;
    assert!(listed.contains("<MetricName>Load</MetricName>"), "{listed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_scales_the_group_by_its_metric() {
    let bench = Bench::start().await;
    let pace = PolicyPace { period: Duration::from_millis(500), high: 2, low: 3 };
    bench.cloud.set_policy_pace(pace);
    let name = ["--auto-scaling-group-name", "nodes", "--policy-name", "load"];
    let put = ["autoscaling", "put-scaling-policy", "--policy-type", "TargetTrackingScaling"];
    let warmup = ["--estimated-instance-warmup", "0"];
    let tracking = ["--target-tracking-configuration", CONFIGURATION];
    let policy = bench.aws(&[&put[..], &name, &warmup, &tracking].concat()).await;
    let alarms = names(&policy, "Alarms", "AlarmName");
    assert!(alarms[0].starts_with("TargetTracking-nodes-AlarmHigh-"), "{alarms:?}");
    let arn = policy["PolicyARN"].as_str().unwrap();
    assert!(arn.ends_with(":autoScalingGroupName/nodes:policyName/load"), "{arn}");

    let describe = ["autoscaling", "describe-policies", "--auto-scaling-group-name", "nodes"];
    let described = bench.aws(&describe).await;
    let shown = &described["ScalingPolicies"][0];
    let mut expected: serde_json::Value = serde_json::from_str(CONFIGURATION).unwrap();
    expected["DisableScaleIn"] = json!(false);
    assert_eq!(shown["TargetTrackingConfiguration"], expected);
    assert_eq!((&shown["PolicyARN"], &shown["EstimatedInstanceWarmup"]), (&json!(arn), &json!(0)));
    let alarms = bench.aws(&["cloudwatch", "describe-alarms"]).await;
    let insufficient = ["INSUFFICIENT_DATA"; 2];
    assert_eq!(names(&alarms, "MetricAlarms", "StateValue"), insufficient);
    assert_eq!(alarms["MetricAlarms"][1]["Threshold"], 45.0);

    let desired = || bench.cloud.groups()[0].desired;
    let steady = async |value: f64, wanted: u32| {
        let cloud = bench.cloud.clone();
        let publisher = tokio::spawn(async move {
            loop {
                cloud.put_metric(&load(), value);
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
        soon(|| desired() == wanted).await;
        let states = bench.cloud.alarm_states("nodes", "load");
        assert!(states.contains(&AlarmState::Alarm), "{states:?}");
        publisher.abort();
    };
    // 2 × 90 / 50 = 3.6, and then 4 × 90 / 50 is more than the maximum of 4.
    steady(90.0, 4).await;
    assert_eq!(bench.cloud.instances().len(), 4);
    steady(5.0, 1).await;
    soon(|| bench.cloud.alarm_states("nodes", "load") == [AlarmState::InsufficientData; 2]).await;
    assert_eq!(desired(), 1);

    let delete = ["autoscaling", "delete-policy"];
    bench.aws(&[&delete[..], &name].concat()).await;
    assert_eq!(bench.aws(&describe).await["ScalingPolicies"], json!([]));
    assert!(bench.refused(&[&delete[..], &name].concat()).await.contains("(ValidationError)"));
}

#[tokio::test(flavor = "multi_thread")]
async fn policies_that_this_cloud_does_not_have_are_refused() {
    let bench = Bench::start().await;
    let put = ["autoscaling", "put-scaling-policy", "--auto-scaling-group-name", "nodes"];
    let put = [&put[..], &["--policy-name", "p"]].concat();
    let step = ["--adjustment-type", "ChangeInCapacity", "--scaling-adjustment", "1"];
    let predefined = r#"{"TargetValue": 50.0, "PredefinedMetricSpecification": {
        "PredefinedMetricType": "ASGAverageCPUUtilization"}}"#;
    let tracking = ["--policy-type", "TargetTrackingScaling", "--target-tracking-configuration"];
    for (more, why) in [
        (step.to_vec(), "SimpleScaling"),
        ([&tracking[..], &[predefined]].concat(), "predefined metrics"),
    ] {
        let refused = bench.refused(&[&put[..], &more].concat()).await;
        assert!(refused.contains("(ValidationError)") && refused.contains(why), "{refused}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_are_suspended_and_resumed() {
    let bench = Bench::start().await;
    let group = ["--auto-scaling-group-name", "nodes"];
    let suspend = ["autoscaling", "suspend-processes"];
    let launches = ["--scaling-processes", "Launch", "AZRebalance"];
    bench.aws(&[&suspend[..], &group, &launches].concat()).await;
    let wrong = ["--scaling-processes", "Sleep"];
    let refused = bench.refused(&[&suspend[..], &group, &wrong].concat()).await;
    assert!(refused.contains("(ValidationError)"), "{refused}");
    let groups = bench.aws(&["autoscaling", "describe-auto-scaling-groups"]).await;
    let suspended = names(&groups["AutoScalingGroups"][0], "SuspendedProcesses", "ProcessName");
    assert_eq!(suspended, ["Launch", "AZRebalance"]);
    bench.cloud.set_desired("nodes", 4).unwrap();
    assert_eq!(bench.cloud.instances().len(), 2);
    bench.aws(&[&["autoscaling", "resume-processes"][..], &group].concat()).await;
    assert_eq!(bench.cloud.instances().len(), 4);

    // An unhealthy instance is marked, and replaced when that is possible again.
    let replaces = ["--scaling-processes", "ReplaceUnhealthy"];
    bench.aws(&[&suspend[..], &group, &replaces].concat()).await;
    let oldest = bench.oldest();
    bench.cloud.set_health(&oldest, false).unwrap();
    assert!(!bench.cloud.instance(&oldest).unwrap().healthy);
    bench.aws(&[&["autoscaling", "resume-processes"][..], &group].concat()).await;
    assert!(bench.cloud.instance(&oldest).is_none());
    assert_eq!(bench.cloud.instances().len(), 4);
}
