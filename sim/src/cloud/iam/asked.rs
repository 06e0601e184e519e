//! The input of an IAM decision on a call: actions, resources, and values for conditions.

use std::collections::BTreeMap;
use std::fmt::Display;

use serde_json::Value;

use crate::cloud::requests::Service;
use crate::cloud::wire::Params;
use crate::cloud::{ACCOUNT, dynamodb, ssm};

/// The name of the table's partition key.
const PARTITION_KEY: &str = "cluster";
/// The operations of Auto Scaling that name an instance only: they ignore the name of a group.
const OF_AN_INSTANCE: [&str; 2] = ["SetInstanceHealth", "TerminateInstanceInAutoScalingGroup"];
/// Stands for the partition of a query that cannot be determined: no policy names it.
const UNKNOWN: &str = "";

#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::cloud) struct Asked {
    /// Such as `dynamodb:PutItem`; a transaction needs one per item, by the item's kind.
    pub actions: Vec<String>,
    /// ARNs, or `*` where the action has no resource.
    pub resources: Vec<String>,
    /// The partition keys that a call to DynamoDB names.
    pub leading_keys: Vec<String>,
    pub region: String,
    /// The namespace of the metrics that a call to CloudWatch publishes.
    pub namespace: Option<String>,
    /// The tags of the Auto Scaling group that the call is about.
    pub resource_tags: BTreeMap<String, String>,
    /// The values of other condition keys, by their names in lower case.
    pub values: BTreeMap<&'static str, String>,
    /// The ARN of the instance whose credentials sign the call.
    pub source_instance: Option<String>,
}

impl Asked {
    fn new(
        service: impl Display,
        actions: &[&str],
        mut resources: Vec<String>,
        region: &str,
    ) -> Self {
        if resources.is_empty() {
            resources.push("*".to_owned());
        }
        let actions = actions.iter().map(|action| format!("{service}:{action}")).collect();
        let region = region.to_owned();
        Self {
            actions,
            resources,
            leading_keys: vec![],
            region,
            namespace: None,
            resource_tags: BTreeMap::new(),
            values: BTreeMap::new(),
            source_instance: None,
        }
    }

    pub fn ssm(action: &str, input: &Value, region: &str) -> Self {
        let arn = |name: &String| {
            let slash = if name.starts_with('/') { "" } else { "/" };
            // The ARN does not contain the version.
            let name = name.split(':').next().unwrap_or_default();
            format!("arn:aws:ssm:{region}:{ACCOUNT}:parameter{slash}{name}")
        };
        let parameters = ssm::names(input).iter().map(arn).collect();
        Self::new(Service::Ssm, &[action], parameters, region)
    }

    /// ECR's only operation here issues a token, and has no resource.
    pub fn ecr(action: &str, region: &str) -> Self {
        Self::new(Service::Ecr, &[action], vec![], region)
    }

    /// `PutMetricData` has no resource, and a condition key:
    /// <https://docs.aws.amazon.com/service-authorization/latest/reference/list_amazoncloudwatch.html>
    pub fn cloudwatch(action: &str, namespace: Option<&str>, region: &str) -> Self {
        let namespace = namespace.filter(|_| action == "PutMetricData").map(str::to_owned);
        Self { namespace, ..Self::new(Service::CloudWatch, &[action], vec![], region) }
    }

    /// `action`: the permission, which has another name than some operations.
    pub fn s3(
        action: &str,
        resource: &str,
        mut values: BTreeMap<&'static str, String>,
        region: &str,
    ) -> Self {
        values.insert("s3:resourceaccount", ACCOUNT.to_owned());
        Self { values, ..Self::new(Service::S3, &[action], vec![resource.to_owned()], region) }
    }

    /// The permission for a key that S3 uses in the name of its caller.
    pub fn kms_of_s3(action: &str, key: &str, region: &str) -> Self {
        let service = format!("s3.{region}.amazonaws.com");
        let values = BTreeMap::from([("kms:viaservice", service)]);
        Self { values, ..Self::new("kms", &[action], vec![key.to_owned()], region) }
    }

    pub fn dynamodb(action: &str, input: &Value, region: &str) -> Self {
        let actions = if action.starts_with("Transact") { transacted(input) } else { vec![action] };
        let (mut tables, mut leading_keys) = (vec![], vec![]);
        for resource in dynamodb::resources(input) {
            match resource.split_once('/') {
                None => {
                    tables.push(format!("arn:aws:dynamodb:{region}:{ACCOUNT}:table/{resource}"));
                }
                Some((_, key)) => leading_keys.push(key.to_owned()),
            }
        }
        // Other calls can have a key condition, too: they ignore it.
        if action == "Query" {
            leading_keys = vec![queried(input).unwrap_or(UNKNOWN).to_owned()];
        }
        Self { leading_keys, ..Self::new(Service::DynamoDb, &actions, tables, region) }
    }

    /// `group`: as `group_of` returns it.
    pub fn query_protocol(
        service: Service,
        action: &str,
        form: &Params,
        group: Option<&str>,
        region: &str,
    ) -> Self {
        let resource = match service {
            // Auto Scaling's Describe actions have no resource.
            Service::AutoScaling if !action.starts_with("Describe") => group.map(|name| {
                format!(
                    "arn:aws:autoscaling:{region}:{ACCOUNT}:autoScalingGroup:any:\
                     autoScalingGroupName/{name}"
                )
            }),
            Service::CloudFormation => form.get("StackName").map(|name| {
                if name.starts_with("arn:") {
                    name.to_owned()
                } else {
                    format!("arn:aws:cloudformation:{region}:{ACCOUNT}:stack/{name}/any")
                }
            }),
            // Elastic Load Balancing's Describe actions have no resource, and nor does the creation of a resource here.
            Service::ElasticLoadBalancing if !action.starts_with("Describe") => {
                let names = ["TargetGroupArn", "ListenerArn", "LoadBalancerArn"];
                names.iter().find_map(|name| form.get(name).map(str::to_owned))
            }
            _ => None,
        };
        Self::new(service, &[action], resource.into_iter().collect(), region)
    }
}

/// Returns the name of the group that a call to Auto Scaling is about: the named one, or that of the named instance.
pub(in crate::cloud) fn group_of<'a>(
    action: &str,
    form: &'a Params,
    of_instance: Option<&'a str>,
) -> Option<&'a str> {
    let named = form.get("AutoScalingGroupName");
    named.filter(|_| !OF_AN_INSTANCE.contains(&action)).or(of_instance)
}

/// Returns the actions that a transaction's items need; a transaction has no action of its own.
fn transacted(input: &Value) -> Vec<&str> {
    let items = input["TransactItems"].as_array().into_iter().flatten();
    items
        .filter_map(|item| item.as_object()?.keys().next())
        .map(|kind| match kind.as_str() {
            "Get" => "GetItem",
            "Put" => "PutItem",
            "Update" => "UpdateItem",
            "Delete" => "DeleteItem",
            _ => "ConditionCheckItem",
        })
        .collect()
}

/// Returns the partition that a query's key condition names.
fn queried(input: &Value) -> Option<&str> {
    let condition = input["KeyConditionExpression"].as_str()?;
    let mut terms = condition.split(" AND ").map(|term| term.trim_matches([' ', '(', ')']));
    let value = terms.find_map(|term| {
        let (name, value) = term.split_once('=')?;
        let name = name.trim();
        let name = match name.starts_with('#') {
            true => input["ExpressionAttributeNames"][name].as_str()?,
            false => name,
        };
        (name == PARTITION_KEY).then_some(value.trim())
    })?;
    input["ExpressionAttributeValues"][value]["S"].as_str()
}
