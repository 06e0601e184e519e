use serde_json::{Value, json};

use super::*;
use crate::cloud::requests::Service;
use crate::cloud::wire::Params;

const REGION: &str = "eu-central-1";
const TABLE: &str = "arn:aws:dynamodb:eu-central-1:123456789012:table/skep";
const ONE: &str = "arn:aws:ec2:eu-central-1:123456789012:instance/i-1";
const OTHER: &str = "arn:aws:ec2:eu-central-1:123456789012:instance/i-12";

fn policies(statements: Value) -> Result<Policies, PolicyError> {
    Policies::parse(&[json!({ "Version": "2012-10-17", "Statement": statements })])
}

/// Returns policies that differ by action and by partition: both can be read, and only `a#nodes` written.
fn worker() -> Policies {
    policies(json!([
        {
            "Sid": "Read", "Effect": "Allow", "Action": ["dynamodb:GetItem", "dynamodb:Query"],
            "Resource": TABLE, "Condition": {
                "ForAllValues:StringEquals": { "dynamodb:LeadingKeys": ["a", "a#nodes"] },
            },
        },
        {
            "Sid": "Write", "Effect": "Allow", "Action": "dynamodb:PutItem", "Resource": TABLE,
            "Condition": { "ForAllValues:StringEquals": { "dynamodb:LeadingKeys": "a#nodes" } },
        },
        {
            "Effect": "Allow", "Action": "ssm:GetParameter",
            "Resource": "arn:aws:ssm:eu-central-1:123456789012:parameter/skep/a/worker-token/*",
        },
        {
            "Effect": "Allow", "Action": "autoscaling:CompleteLifecycleAction",
            "Resource":
                "arn:aws:autoscaling:eu-central-1:123456789012:autoScalingGroup:*:\
                 autoScalingGroupName/a-workers",
        },
    ]))
    .unwrap()
}

/// Whether an operator's call, which is not signed by an instance, is allowed.
fn allows(policies: &mut Policies, action: &str, input: &Value) -> bool {
    allows_to(None, policies, action, input)
}

/// Whether the call of an instance is allowed.
fn allows_to(instance: Option<&str>, policies: &mut Policies, action: &str, input: &Value) -> bool {
    let asked = match action.split_once(':').unwrap() {
        ("ssm", action) => Asked::ssm(action, input, REGION),
        (_, action) => Asked::dynamodb(action, input, REGION),
    };
    let source_instance = instance.map(str::to_owned);
    policies.judge(&Asked { source_instance, ..asked }).is_ok()
}

#[test]
fn metrics_are_allowed_by_their_namespace() {
    let mut publisher = policies(json!([{
        "Effect": "Allow", "Action": "cloudwatch:PutMetricData", "Resource": "*",
        "Condition": { "StringEquals": { "cloudwatch:namespace": "skep" } },
    }]))
    .unwrap();
    let mut put =
        |action, namespace| publisher.judge(&Asked::cloudwatch(action, namespace, REGION)).is_ok();
    assert!(put("PutMetricData", Some("skep")));
    for (action, namespace) in
        [("PutMetricData", Some("skep2")), ("PutMetricData", None), ("GetMetricData", Some("skep"))]
    {
        assert!(!put(action, namespace), "{action} {namespace:?}");
    }
}

fn key(partition: &str) -> Value {
    json!({ "cluster": { "S": partition }, "item": { "S": "charter" } })
}

#[test]
fn nothing_is_allowed_that_no_statement_allows() {
    let mut none = policies(json!([])).unwrap();
    let get = json!({ "TableName": "skep", "Key": key("a") });
    assert!(!allows(&mut none, "dynamodb:GetItem", &get));
    assert!(allows(&mut worker(), "dynamodb:GetItem", &get));
    assert!(!allows(&mut worker(), "dynamodb:DeleteItem", &get));
    assert!(!allows(&mut worker(), "dynamodb:Scan", &json!({ "TableName": "skep" })));
    let other = json!({ "TableName": "skep2", "Key": key("a") });
    assert!(!allows(&mut worker(), "dynamodb:GetItem", &other));
}

#[test]
fn leading_keys_are_those_of_every_item_of_a_call() {
    let mut worker = worker();
    let put = |partition: &str| json!({ "TableName": "skep", "Item": key(partition) });
    assert!(allows(&mut worker, "dynamodb:PutItem", &put("a#nodes")));
    for foreign in ["a", "a#managers", "b#nodes", "", "a#nodes2", "A#NODES"] {
        assert!(!allows(&mut worker, "dynamodb:PutItem", &put(foreign)), "{foreign}");
    }

    let transact = |partitions: &[&str]| {
        let puts: Vec<_> = partitions.iter().map(|one| json!({ "Put": put(one) })).collect();
        json!({ "TransactItems": puts })
    };
    assert!(allows(&mut worker, "dynamodb:TransactWriteItems", &transact(&["a#nodes", "a#nodes"])));
    assert!(!allows(&mut worker, "dynamodb:TransactWriteItems", &transact(&["a#nodes", "a"])));
    let deletes = json!({
        "TransactItems": [{ "Delete": { "TableName": "skep", "Key": key("a#nodes") } }],
    });
    assert!(!allows(&mut worker, "dynamodb:TransactWriteItems", &deletes), "needs DeleteItem");
}

#[test]
fn one_foreign_key_refuses_a_whole_batch() {
    let mut batches = policies(json!({
        "Effect": "Allow", "Action": "dynamodb:Batch*",
        "Resource": [TABLE, format!("{TABLE}2")], "Condition": {
            "ForAllValues:StringLike": { "dynamodb:LeadingKeys": "a*" },
        },
    }))
    .unwrap();
    let batch = |other: &str, table: &str| {
        json!({ "RequestItems": {
            "skep": { "Keys": [key("a"), key(other)], "ConsistentRead": true },
            table: { "Keys": [key("a"), key(other)] },
        } })
    };
    let action = "dynamodb:BatchGetItem";
    assert!(allows(&mut batches, action, &batch("a#nodes", "skep2")));
    assert!(!allows(&mut batches, action, &batch("b", "skep2")));
    assert!(!allows(&mut batches, action, &batch("a", "skep3")), "a foreign table");
    let in_second = json!({ "RequestItems": {
        "skep": { "Keys": [key("a")] }, "skep2": { "Keys": [key("a"), key("b")] },
    } });
    assert!(!allows(&mut batches, action, &in_second));
}

#[test]
fn a_query_is_about_its_partition_and_no_other_value() {
    let query = |condition: &str, partition: &str| {
        json!({
            "TableName": "skep", "KeyConditionExpression": condition,
            "ExpressionAttributeNames": { "#c": "cluster", "#i": "item" },
            "ExpressionAttributeValues": { ":c": { "S": partition }, ":p": { "S": "member#" } },
        })
    };
    let mut worker = worker();
    for condition in
        ["#c = :c AND begins_with(#i, :p)", "cluster = :c", "begins_with(#i, :p) AND (#c=:c)"]
    {
        assert!(allows(&mut worker, "dynamodb:Query", &query(condition, "a")), "{condition}");
        assert!(!allows(&mut worker, "dynamodb:Query", &query(condition, "b")), "{condition}");
    }
    // A query is refused when its partition cannot be determined.
    for condition in ["#i = :c", "#c = :missing", "#x = :c"] {
        assert!(!allows(&mut worker, "dynamodb:Query", &query(condition, "a")), "{condition}");
    }
}

#[test]
fn the_partition_of_another_call_is_not_that_of_a_key_condition() {
    let put = json!({
        "TableName": "skep", "Item": key("b#nodes"), "KeyConditionExpression": "cluster = :c",
        "ExpressionAttributeValues": { ":c": { "S": "a#nodes" } },
    });
    assert!(!allows(&mut worker(), "dynamodb:PutItem", &put));
    // Only a name with `#` stands for another one.
    let query = json!({
        "TableName": "skep", "KeyConditionExpression": "item = :own AND cluster = :c",
        "ExpressionAttributeNames": { "item": "cluster" },
        "ExpressionAttributeValues": { ":own": { "S": "a" }, ":c": { "S": "b" } },
    });
    assert!(!allows(&mut worker(), "dynamodb:Query", &query));
    let legacy = json!({
        "TableName": "skep", "KeyConditions": { "cluster": {
            "ComparisonOperator": "EQ", "AttributeValueList": [{ "S": "b" }],
        } },
    });
    assert!(!allows(&mut worker(), "dynamodb:Query", &legacy));
}

/// Returns a policy for the partitions of any call to DynamoDB, with these further conditions.
fn partitions(leading_keys: &str, further: Value) -> Result<Policies, PolicyError> {
    let mut condition = json!({
        "ForAllValues:StringEquals": { "dynamodb:LeadingKeys": leading_keys },
    });
    condition.as_object_mut().unwrap().extend(further.as_object().unwrap().clone());
    policies(json!({
        "Effect": "Allow", "Action": "dynamodb:*", "Resource": "*", "Condition": condition,
    }))
}

#[test]
fn for_all_values_admits_a_call_without_keys_unless_null_guards_it() {
    let null = |value: &str| json!({ "Null": { "dynamodb:LeadingKeys": value } });
    let get = json!({ "TableName": "skep", "Key": key("a") });
    let keyless = [
        ("dynamodb:Scan", json!({ "TableName": "skep" })),
        ("dynamodb:DescribeTable", json!({ "TableName": "skep" })),
        ("dynamodb:ListTables", json!({})),
    ];
    let mut open = partitions("a", json!({})).unwrap();
    let mut guarded = partitions("a", null("false")).unwrap();
    let mut reversed = partitions("a", null("true")).unwrap();
    for (action, input) in keyless {
        assert!(allows(&mut open, action, &input), "{action}");
        assert!(!allows(&mut guarded, action, &input), "{action}");
        assert!(allows(&mut reversed, action, &input), "{action}");
    }
    assert!(allows(&mut guarded, "dynamodb:GetItem", &get));
    assert!(!allows(&mut reversed, "dynamodb:GetItem", &get));

    let of_instances = json!({ "Null": { "ec2:SourceInstanceARN": "false" } });
    let mut of_instances = partitions("a", of_instances).unwrap();
    assert!(allows_to(Some(ONE), &mut of_instances, "dynamodb:GetItem", &get));
    assert!(!allows(&mut of_instances, "dynamodb:GetItem", &get));
    let region = json!({ "Null": { "aws:RequestedRegion": "true" } });
    let mut without_region = partitions("a", region).unwrap();
    assert!(!allows(&mut without_region, "dynamodb:GetItem", &get), "every call has a region");
}

#[test]
fn the_source_instance_is_a_condition_for_its_instance_alone() {
    let get = json!({ "TableName": "skep", "Key": key("a") });
    let admits = |operator: &str, value: &str, instance: Option<&str>| {
        let condition = json!({ operator: { "ec2:SourceInstanceARN": value } });
        let mut policies = partitions("a", condition).unwrap();
        allows_to(instance, &mut policies, "dynamodb:GetItem", &get)
    };
    for operator in ["ArnEquals", "ArnLike", "StringEquals", "StringLike"] {
        assert!(admits(operator, ONE, Some(ONE)), "{operator}");
        assert!(!admits(operator, ONE, Some(OTHER)), "{operator}");
        assert!(!admits(operator, ONE, None), "{operator}");
        // Only `StringEquals` takes a wildcard for itself.
        let likes = admits(operator, &ONE.replace("i-1", "*"), Some(OTHER));
        assert_eq!(likes, operator != "StringEquals", "{operator}");
    }
    assert!(admits("ArnEquals", "arn:aws:ec2:*:*:instance/i-?", Some(ONE)));
    // In an ARN, a wildcard stands for one part at most; in other text, it does not.
    let short = "arn:*:instance/i-1";
    assert!(admits("StringLike", short, Some(ONE)));
    assert!(partitions("a", json!({ "ArnLike": { "ec2:SourceInstanceARN": short } })).is_err());
    assert!(!admits("ArnLike", "arn:*:*:*:*:*:instance/i-1", Some(ONE)));
}

#[test]
fn the_variable_binds_a_partition_to_its_instance() {
    let mut own = partitions("prod#${ec2:SourceInstanceARN}", json!({})).unwrap();
    let mut get = |partition: &str, instance: Option<&str>| {
        let get = json!({ "TableName": "skep", "Key": key(partition) });
        allows_to(instance, &mut own, "dynamodb:GetItem", &get)
    };
    assert!(get(&format!("prod#{ONE}"), Some(ONE)));
    assert!(!get(&format!("prod#{ONE}"), Some(OTHER)));
    assert!(!get(&format!("prod#{OTHER}"), Some(ONE)));
    assert!(!get(&format!("test#{ONE}"), Some(ONE)));
    for partition in ["prod#", "prod#${ec2:SourceInstanceARN}", "prod#*", ""] {
        assert!(!get(partition, Some(ONE)), "{partition}");
        assert!(!get(partition, None), "{partition}: the variable has no value");
    }
    // A batch is refused when one of its keys belongs to another instance.
    let batch = |other: &str| {
        let keys = [ONE, other].map(|instance| key(&format!("prod#{instance}")));
        json!({ "RequestItems": { "skep": { "Keys": keys } } })
    };
    assert!(allows_to(Some(ONE), &mut own, "dynamodb:BatchGetItem", &batch(ONE)));
    assert!(!allows_to(Some(ONE), &mut own, "dynamodb:BatchGetItem", &batch(OTHER)));
}

#[test]
fn the_value_of_the_variable_is_literal_and_the_text_around_it_is_not() {
    let pattern = Pattern::wild("*#${ec2:SourceInstanceARN}#?").unwrap();
    assert!(pattern.fits("prod#i-*#1", Some("i-*")));
    assert!(!pattern.fits("prod#i-1#1", Some("i-*")), "its star is no wildcard");
    assert!(!pattern.fits("prod#i-*#12", Some("i-*")));
    assert!(!pattern.fits("prod##1", None));
    let literal = Pattern::literal("*#${EC2:sourceInstanceArn}").unwrap();
    assert!(literal.fits("*#i-1", Some("i-1")) && !literal.fits("prod#i-1", Some("i-1")));
}

#[test]
fn the_variable_is_resolved_in_resources() {
    let mut own = policies(json!({
        "Effect": "Allow", "Action": "ssm:GetParameter",
        "Resource": "arn:aws:ssm:*:*:parameter/skep/${ec2:SourceInstanceARN}/*",
    }))
    .unwrap();
    let name = json!({ "Name": "/skep/i-1/token" });
    assert!(allows_to(Some("i-1"), &mut own, "ssm:GetParameter", &name));
    assert!(!allows_to(Some("i-2"), &mut own, "ssm:GetParameter", &name));
    assert!(!allows(&mut own, "ssm:GetParameter", &name));
}

#[test]
fn parameters_and_groups_are_known_by_their_arns() {
    let mut worker = worker();
    let name = |name: &str| json!({ "Name": name });
    assert!(allows(&mut worker, "ssm:GetParameter", &name("/skep/a/worker-token/1")));
    assert!(allows(&mut worker, "ssm:GetParameter", &name("/skep/a/worker-token/1:3")));
    for other in ["/skep/a/manager-token/1", "/skep/b/worker-token/1", "skep"] {
        assert!(!allows(&mut worker, "ssm:GetParameter", &name(other)), "{other}");
    }
    let mut completes = |group: &str| {
        let form = Params::parse(format!("AutoScalingGroupName={group}").as_bytes());
        let action = "CompleteLifecycleAction";
        let named = group_of(action, &form, None);
        worker.judge(&Asked::query_protocol(Service::AutoScaling, action, &form, named, REGION))
    };
    assert_eq!(completes("a-workers"), Ok(()));
    let refused = completes("a-managers").unwrap_err();
    assert_eq!(refused.action, "autoscaling:CompleteLifecycleAction");
    assert!(refused.resource.ends_with("/a-managers") && !refused.is_explicit);
    let form = Params::parse(b"InstanceId=i-1&AutoScalingGroupName=a-managers");
    let set_health = |group| {
        let action = "SetInstanceHealth";
        let group = group_of(action, &form, group);
        Asked::query_protocol(Service::AutoScaling, action, &form, group, REGION).resources
    };
    assert!(set_health(Some("a-workers"))[0].ends_with("/a-workers"));
    assert_eq!(set_health(None), ["*"], "an instance of no group");
}

#[test]
fn a_resource_tag_is_that_of_the_group() {
    let mut manager = policies(json!({
        "Effect": "Allow", "Action": "autoscaling:SetInstanceHealth",
        "Resource": "arn:aws:autoscaling:*:*:autoScalingGroup:*:autoScalingGroupName/*",
        "Condition": { "StringEquals": { "aws:ResourceTag/skep:cluster": "a" } },
    }))
    .unwrap();
    let mut sets_health = |tags: &[(&str, &str)]| {
        let (action, form) = ("SetInstanceHealth", Params::parse(b"InstanceId=i-1"));
        let asked = Asked::query_protocol(Service::AutoScaling, action, &form, Some("gpu"), REGION);
        let tags = tags.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        manager.judge(&Asked { resource_tags: tags.collect(), ..asked }).is_ok()
    };
    assert!(sets_health(&[("skep:role", "worker"), ("skep:cluster", "a")]));
    assert!(!sets_health(&[("skep:cluster", "b")]), "another cluster's");
    assert!(!sets_health(&[("skep:role", "a")]), "without the tag");
    assert!(!sets_health(&[]));
}

#[test]
fn what_no_call_has_needed_is_told() {
    let mut worker = worker();
    let table = json!({ "TableName": "skep", "Key": key("a") });
    assert!(allows(&mut worker, "dynamodb:GetItem", &table));
    assert!(!allows(&mut worker, "dynamodb:PutItem", &table));
    let unused = worker.unused();
    assert!(unused.contains(&format!("Read: dynamodb:Query on {TABLE}")), "{unused:?}");
    assert!(unused.contains(&format!("Write: dynamodb:PutItem on {TABLE}")), "{unused:?}");
    assert_eq!(unused.len(), 4, "{unused:?}");
}

#[test]
fn a_deny_wins_over_any_number_of_allows() {
    let mut denied = policies(json!([
        { "Effect": "Allow", "Action": "*", "Resource": "*" },
        { "Effect": "Deny", "Action": "SSM:get*", "Resource": "*/manager-token/?" },
    ]))
    .unwrap();
    let asked = |name: &str| Asked::ssm("GetParameter", &json!({ "Name": name }), REGION);
    assert!(denied.judge(&asked("/skep/a/manager-token/1")).unwrap_err().is_explicit);
    assert!(denied.judge(&asked("/skep/a/manager-token/12")).is_ok());
}

#[test]
fn what_cannot_be_enforced_is_not_loaded() {
    let allow = |more: Value| {
        let mut statement = json!({ "Effect": "Allow", "Action": "a:b", "Resource": "*" });
        statement.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        policies(statement)
    };
    assert!(allow(json!({})).is_ok());
    for refused in [
        json!({ "NotAction": "c:d" }),
        json!({ "Principal": "*" }),
        json!({ "Effect": "allow" }),
        json!({ "Resource": "arn:aws:ssm:*:*:parameter/${aws:username}" }),
        json!({ "Resource": "${ec2:SourceInstanceARN}" }),
        json!({ "Resource": "arn:aws:ec2:${ec2:SourceInstanceARN}:1:instance/i-1" }),
        json!({ "Resource": "arn:aws:ssm:*:*:parameter/${ec2:SourceInstanceARN, 'none'}" }),
        json!({ "Condition": { "ForAllValues:StringLike": { "dynamodb:LeadingKeys": "${*}" } } }),
        json!({ "Condition": { "StringEquals": { "ec2:SourceInstanceARN": "${aws:userid}" } } }),
        json!({ "Condition": { "ForAllValues:ArnLike": { "ec2:SourceInstanceARN": "*" } } }),
        json!({ "Condition": { "ArnNotEquals": { "ec2:SourceInstanceARN": ONE } } }),
        json!({ "Condition": { "ArnEquals": { "aws:RequestedRegion": ONE } } }),
        json!({ "Condition": { "Null": { "dynamodb:LeadingKeys": "no" } } }),
        json!({ "Condition": { "Null": { "dynamodb:LeadingKeys": ["true", "false"] } } }),
        json!({ "Condition": { "Null": { "dynamodb:Attributes": "false" } } }),
        json!({ "Condition": { "StringNotEquals": { "dynamodb:LeadingKeys": "a" } } }),
        json!({ "Condition": { "StringEquals": { "dynamodb:LeadingKeys": "a" } } }),
        json!({ "Condition": { "ForAllValues:StringEquals": { "dynamodb:Attributes": "a" } } }),
        json!({ "Condition": { "ForAllValues:StringEquals": { "dynamodb:LeadingKeys": 1 } } }),
    ] {
        assert!(allow(refused.clone()).is_err(), "{refused}");
    }
    let old = json!({ "Version": "2008-10-17", "Statement": [] });
    assert!(Policies::parse(&[old]).is_err());
}

#[test]
fn stars_and_question_marks() {
    let texts = ["", "a", "ab", "abc", "aab", "b*"];
    for (pattern, expected) in [
        ("", &[""][..]),
        ("*", &texts[..]),
        ("**", &texts[..]),
        ("a?", &["ab"]),
        ("?b", &["ab"]),
        ("a*b", &["ab", "aab"]),
        ("*b*", &["ab", "abc", "aab", "b*"]),
        ("b*", &["b*"]),
    ] {
        let wild = Pattern::wild(pattern).unwrap();
        let found: Vec<_> = texts.into_iter().filter(|text| wild.fits(text, None)).collect();
        assert_eq!(found, expected, "{pattern}");
    }
}
