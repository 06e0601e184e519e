//! Tests the calls of an instance, with the credentials from its metadata.

use serde_json::{Value, json};

use super::*;

const TABLE: &str = "skep";

fn key(partition: &str, item: &str) -> Value {
    json!({ "cluster": { "S": partition }, "item": { "S": item } })
}

fn batch(keys: &[Value]) -> Value {
    json!({ "RequestItems": { TABLE: { "Keys": keys, "ConsistentRead": true } } })
}

struct Caller {
    bench: Bench,
    credentials: Value,
}

impl Caller {
    async fn start() -> Self {
        let bench = Bench::start().await;
        bench.cloud.create_table(TABLE).unwrap();
        let credentials = bench.credentials().await;
        Self { bench, credentials }
    }

    async fn dynamodb(&self, action: &str, input: &Value) -> Result<Value, String> {
        let request = self.bench.signed(&self.credentials, &input.to_string());
        let target = format!("DynamoDB_20120810.{action}");
        let request = request.header("content-type", "application/x-amz-json-1.0");
        let response = request.header("x-amz-target", target).send().await.unwrap();
        let is_success = response.status().is_success();
        let answer: Value = response.json().await.unwrap();
        if is_success { Ok(answer) } else { Err(answer["__type"].as_str().unwrap().to_owned()) }
    }

    async fn ec2(&self, action: &str) -> (StatusCode, String) {
        self.query(&format!("Action={action}&Version=2016-11-15")).await
    }

    async fn query(&self, body: &str) -> (StatusCode, String) {
        let response = self.bench.signed(&self.credentials, body).send().await.unwrap();
        (response.status(), response.text().await.unwrap())
    }

    fn allow(&self, statement: &Value) {
        let document = json!({ "Version": "2012-10-17", "Statement": statement });
        self.bench.cloud.set_role_policies("worker", &[document]).unwrap();
    }

    /// Puts rows of about this many bytes.
    fn put(&self, rows: &[(&str, usize)]) {
        for (item, size) in rows {
            let mut row = key("a", item);
            row["value"] = json!({ "S": "x".repeat(*size) });
            self.bench.cloud.put_row(TABLE, &row).unwrap();
        }
    }

    fn last(&self) -> Request {
        self.bench.cloud.requests().pop().unwrap()
    }
}

#[tokio::test]
async fn an_instance_builds_its_arn_from_the_metadata_and_has_a_partition_of_its_own() {
    let caller = Caller::start().await;
    let token = caller.bench.token("60").await.text().await.unwrap();
    let partition = caller.bench.read(&token, "services/partition").await;
    let url = format!("http://{}/latest/dynamic/instance-identity/document", caller.bench.imds);
    let document = caller.bench.client.get(url).header(TOKEN, &token).send().await.unwrap();
    let document: Value = document.json().await.unwrap();
    let [region, account, id] =
        ["region", "accountId", "instanceId"].map(|name| document[name].as_str().unwrap());
    let own = format!("prod#arn:{partition}:ec2:{region}:{account}:instance/{id}");

    caller.allow(&json!({
        "Effect": "Allow", "Action": "dynamodb:*", "Resource": "*", "Condition": {
            "ForAllValues:StringEquals": {
                "dynamodb:LeadingKeys": "prod#${ec2:SourceInstanceARN}",
            },
            "Null": { "dynamodb:LeadingKeys": "false" },
        },
    }));
    let put = |partition: &str| json!({ "TableName": TABLE, "Item": key(partition, "member") });
    caller.dynamodb("PutItem", &put(&own)).await.unwrap();
    for foreign in ["prod".to_owned(), format!("{own}0"), own.replace(id, "i-0")] {
        let refused = caller.dynamodb("PutItem", &put(&foreign)).await.unwrap_err();
        assert!(refused.ends_with("#AccessDeniedException"), "{foreign}: {refused}");
    }
    let keys = [key(&own, "member"), key("prod", "charter")];
    assert!(caller.dynamodb("BatchGetItem", &batch(&keys)).await.is_err());
    assert!(caller.dynamodb("BatchGetItem", &batch(&keys[..1])).await.is_ok());
    assert!(caller.dynamodb("Scan", &json!({ "TableName": TABLE })).await.is_err());
    assert!(caller.dynamodb("ListTables", &json!({})).await.is_err());
}

#[tokio::test]
async fn a_role_needs_a_permission_for_every_action_of_ec2() {
    let caller = Caller::start().await;
    let allow = |action: &str| {
        caller.allow(&json!({ "Effect": "Allow", "Action": action, "Resource": "*" }));
    };
    allow("autoscaling:*");
    for action in ["DescribeInstances", "DescribeRegions", "TerminateInstances"] {
        let (status, answer) = caller.ec2(action).await;
        assert_eq!(status, StatusCode::FORBIDDEN, "{action}");
        assert!(answer.contains("<Code>UnauthorizedOperation</Code>"), "{answer}");
    }
    allow("ec2:DescribeInstances");
    let (status, answer) = caller.ec2("DescribeInstances").await;
    assert!(status.is_success() && answer.contains(&caller.bench.id), "{answer}");
    assert_eq!(caller.ec2("DescribeRegions").await.0, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn a_role_needs_a_permission_for_the_target_group_that_it_changes() {
    let caller = Caller::start().await;
    let create =
        |name: &str| caller.bench.cloud.create_target_group(TargetGroupSpec::new(name, 80));
    let (own, foreign) = (create("own").unwrap(), create("foreign").unwrap());
    caller.allow(&json!([
        { "Effect": "Allow", "Action": "elasticloadbalancing:Describe*", "Resource": "*" },
        { "Effect": "Allow", "Action": "elasticloadbalancing:*Targets", "Resource": own },
    ]));
    let call = async |action: &str, arn: &str| {
        let query = [("Action", action), ("Version", "2015-12-01"), ("TargetGroupArn", arn)];
        let query = form_urlencoded::Serializer::new(String::new()).extend_pairs(query).finish();
        caller.query(&format!("{query}&Targets.member.1.Id={}", caller.bench.id)).await
    };
    assert_eq!(call("RegisterTargets", &own).await.0, StatusCode::OK);
    assert_eq!(call("DescribeTargetHealth", &foreign).await.0, StatusCode::OK);
    for (action, arn) in [("DeregisterTargets", &foreign), ("DeleteTargetGroup", &own)] {
        let (status, answer) = call(action, arn).await;
        assert_eq!(status, StatusCode::FORBIDDEN, "{action}");
        assert!(answer.contains("<Code>AccessDenied</Code>"), "{answer}");
    }
    assert_eq!(caller.bench.cloud.targets().len(), 1);
}

#[tokio::test]
async fn a_batch_is_read_up_to_its_limits() {
    let caller = Caller::start().await;
    caller.put(&[("0", 10), ("99", 10)]);
    let keys: Vec<_> = (0..=100).map(|item| key("a", &item.to_string())).collect();
    let answer = caller.dynamodb("BatchGetItem", &batch(&keys[..100])).await.unwrap();
    assert_eq!(answer["Responses"][TABLE].as_array().unwrap().len(), 2);
    assert_eq!(answer["UnprocessedKeys"], json!({}));
    assert!(answer.get("ConsumedCapacity").is_none(), "nobody asked for it");
    let twice = [keys[0].clone(), keys[1].clone(), keys[0].clone()];
    for refused in [&keys[..], &twice] {
        let refused = caller.dynamodb("BatchGetItem", &batch(refused)).await.unwrap_err();
        assert!(refused.ends_with("#ValidationException"), "{refused}");
    }
}

#[tokio::test]
async fn a_batch_that_leaves_keys_unprocessed_can_be_read_to_its_end() {
    let caller = Caller::start().await;
    caller.put(&[("1", 10), ("2", 10), ("3", 10)]);
    let fault = Fault { unprocessed: 1.0, ..Fault::default() };
    caller.bench.cloud.faults().set(Service::DynamoDb, Some("BatchGetItem"), fault);
    let mut request = batch(&["1", "2", "3"].map(|item| key("a", item)));
    let (mut items, mut calls) = (vec![], 0);
    while request["RequestItems"] != json!({}) {
        let mut answer = caller.dynamodb("BatchGetItem", &request).await.unwrap();
        let found = answer["Responses"][TABLE].as_array().unwrap();
        assert!(!found.is_empty(), "every call processes a key");
        items.extend(found.iter().map(|item| item["item"]["S"].as_str().unwrap().to_owned()));
        request["RequestItems"] = answer["UnprocessedKeys"].take();
        calls += 1;
    }
    items.sort();
    assert_eq!(items, ["1", "2", "3"]);
    assert!(calls > 1);
}

#[tokio::test]
async fn the_log_has_the_read_units_of_each_call() {
    let caller = Caller::start().await;
    caller.put(&[("small", 100), ("large", 5000)]);
    let get = |consistent: bool, item: &str| json!({ "TableName": TABLE, "Key": key("a", item), "ConsistentRead": consistent });
    let query = |consistent: bool, partition: &str| {
        json!({
            "TableName": TABLE, "KeyConditionExpression": "#c = :c",
            "ExpressionAttributeNames": { "#c": "cluster", "#i": "item" },
            "ExpressionAttributeValues": { ":c": { "S": partition } },
            "ConsistentRead": consistent, "ProjectionExpression": "#i",
        })
    };
    let keys = ["small", "large", "none"].map(|item| key("a", item));
    let mut relaxed = batch(&keys);
    relaxed["RequestItems"][TABLE]["ConsistentRead"] = false.into();
    let put = json!({ "TableName": TABLE, "Item": key("a", "new") });
    for (action, input, units) in [
        ("GetItem", get(true, "small"), 1.0),
        ("GetItem", get(false, "small"), 0.5),
        ("GetItem", get(true, "large"), 2.0),
        ("GetItem", get(true, "none"), 1.0),
        ("BatchGetItem", batch(&keys), 4.0),
        ("BatchGetItem", relaxed, 2.0),
        ("Query", query(true, "a"), 2.0),
        ("Query", query(false, "a"), 1.0),
        ("Query", query(true, "b"), 1.0),
        ("PutItem", put, 0.0),
    ] {
        caller.dynamodb(action, &input).await.unwrap();
        let last = caller.last();
        assert_eq!((last.action.as_str(), last.read_units), (action, units), "{input}");
    }
}
