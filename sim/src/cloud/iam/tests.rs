use serde_json::{Value, json};

use super::*;
use crate::cloud::requests::Service;
use crate::cloud::wire::Params;

const REGION: &str = "eu-central-1";
const TABLE: &str = "arn:aws:dynamodb:eu-central-1:123456789012:table/skep";

fn policies(statements: Value) -> Result<Policies, PolicyError> {
    Policies::parse(&[json!({ "Version": "2012-10-17", "Statement": statements })])
}

/// Returns policies like a worker's: it can read both partitions, and write `a#nodes`.
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

fn allows(policies: &mut Policies, action: &str, input: &Value) -> bool {
    let asked = match action.split_once(':').unwrap() {
        ("ssm", action) => Asked::ssm(action, input, REGION),
        (_, action) => Asked::dynamodb(action, input, REGION),
    };
    policies.judge(&asked).is_ok()
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

    let mut batches = policies(json!({
        "Effect": "Allow", "Action": "dynamodb:Batch*", "Resource": TABLE, "Condition": {
            "ForAllValues:StringLike": { "dynamodb:LeadingKeys": "a*" },
        },
    }))
    .unwrap();
    let batch =
        |other: &str| json!({ "RequestItems": { "skep": { "Keys": [key("a"), key(other)] } } });
    assert!(allows(&mut batches, "dynamodb:BatchGetItem", &batch("a#nodes")));
    assert!(!allows(&mut batches, "dynamodb:BatchGetItem", &batch("b")));
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
        let asked = Asked::query_protocol(Service::AutoScaling, action, &form, None, REGION);
        worker.judge(&asked)
    };
    assert_eq!(completes("a-workers"), Ok(()));
    let refused = completes("a-managers").unwrap_err();
    assert_eq!(refused.action, "autoscaling:CompleteLifecycleAction");
    assert!(refused.resource.ends_with("/a-managers") && !refused.is_explicit);
    let form = Params::parse(b"InstanceId=i-1&HealthStatus=Unhealthy");
    let set_health = |group| {
        let action = "SetInstanceHealth";
        Asked::query_protocol(Service::AutoScaling, action, &form, group, REGION).resources
    };
    assert!(set_health(Some("a-workers"))[0].ends_with("/a-workers"));
    assert_eq!(set_health(None), ["*"], "an instance of no group");
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
        let found: Vec<_> = texts.into_iter().filter(|text| is_like(pattern, text)).collect();
        assert_eq!(found, expected, "{pattern}");
    }
}
