//! Implements CloudFormation's operations, by their names on the wire.

use std::time::Duration;

use super::{Entry, Resource, Signal, Stack, Stacks, no_resource};
use crate::cloud::clock::{self, Clock};
use crate::cloud::errors::ApiError;
use crate::cloud::requests::Service;
use crate::cloud::wire::Params;
use crate::cloud::xml::Xml;

/// The largest length of a unique id.
const LONGEST_UNIQUE_ID: usize = 64;

/// Answers one call; returns the content of its result element, `None` where it has none.
pub(crate) fn handle(
    stacks: &mut Stacks,
    clock: &Clock,
    action: &str,
    params: &Params,
    now: Duration,
) -> Result<Option<String>, ApiError> {
    match action {
        "SignalResource" => signal(stacks, params, now).map(|()| None),
        "DescribeStacks" => describe_stacks(stacks, clock, params).map(Some),
        "DescribeStackResource" => describe_resource(stacks, clock, params).map(Some),
        "DescribeStackResources" => describe_resources(stacks, clock, params).map(Some),
        "DescribeStackEvents" => describe_events(stacks, clock, params).map(Some),
        _ => Err(ApiError::unknown_action(Service::CloudFormation, action)),
    }
}

fn signal(stacks: &mut Stacks, params: &Params, now: Duration) -> Result<(), ApiError> {
    let stack = params.required("StackName")?;
    let logical_id = params.required("LogicalResourceId")?;
    let unique_id = params.required("UniqueId")?;
    if unique_id.is_empty() || unique_id.len() > LONGEST_UNIQUE_ID {
        return Err(ApiError::validation(format!(
            "1 validation error detected: Value '{unique_id}' at 'uniqueId' failed to satisfy \
             constraint: Member must have length between 1 and {LONGEST_UNIQUE_ID}"
        )));
    }
    let signal = match params.required("Status")? {
        "SUCCESS" => Signal::Success,
        "FAILURE" => Signal::Failure,
        other => {
            return Err(ApiError::validation(format!(
                "1 validation error detected: Value '{other}' at 'status' failed to satisfy \
                 constraint: Member must satisfy enum value set: [SUCCESS, FAILURE]"
            )));
        }
    };
    stacks.signal(stack, logical_id, unique_id, signal, now)
}

fn describe_stacks(stacks: &Stacks, clock: &Clock, params: &Params) -> Result<String, ApiError> {
    let wanted: Vec<&Stack> = match params.get("StackName") {
        Some(name) => vec![stacks.stack(name)?],
        None => stacks.stacks.values().collect(),
    };
    let mut xml = Xml::default();
    xml.list("Stacks", wanted, |xml, stack| {
        xml.text("StackId", &stack.id);
        xml.text("StackName", &stack.name);
        xml.text("CreationTime", &clock::iso_millis(clock.date(stack.created)));
        xml.text("StackStatus", stack.status.as_str());
        xml.maybe("StackStatusReason", stack.reason.as_deref());
        xml.text("DisableRollback", "true");
        xml.list("Outputs", &stack.outputs, |xml, (key, value)| {
            xml.text("OutputKey", key);
            xml.text("OutputValue", value);
        });
        xml.list("Tags", &stack.tags, |xml, (key, value)| {
            xml.text("Key", key);
            xml.text("Value", value);
        });
    });
    Ok(xml.finish())
}

fn one_resource(xml: &mut Xml, clock: &Clock, stack: &Stack, resource: &Resource, time: &str) {
    xml.text("StackName", &stack.name);
    xml.text("StackId", &stack.id);
    xml.text("LogicalResourceId", &resource.spec.logical_id);
    xml.maybe("PhysicalResourceId", resource.spec.group.as_deref());
    xml.text("ResourceType", resource_type(resource));
    xml.text(time, &clock::iso_millis(clock.date(resource.changed)));
    xml.text("ResourceStatus", resource.status.as_str());
    xml.maybe("ResourceStatusReason", resource.reason.as_deref());
}

fn resource_type(resource: &Resource) -> &'static str {
    match resource.spec.group {
        Some(_) => "AWS::AutoScaling::AutoScalingGroup",
        None => "AWS::EC2::Instance",
    }
}

fn describe_resource(stacks: &Stacks, clock: &Clock, params: &Params) -> Result<String, ApiError> {
    let stack = stacks.stack(params.required("StackName")?)?;
    let logical_id = params.required("LogicalResourceId")?;
    let resource = stack
        .resources
        .iter()
        .find(|resource| resource.spec.logical_id == logical_id)
        .ok_or_else(|| no_resource(&stack.name, logical_id))?;
    let mut xml = Xml::default();
    xml.open("StackResourceDetail");
    one_resource(&mut xml, clock, stack, resource, "LastUpdatedTimestamp");
    xml.close("StackResourceDetail");
    Ok(xml.finish())
}

fn describe_resources(stacks: &Stacks, clock: &Clock, params: &Params) -> Result<String, ApiError> {
    let stack = stacks.stack(params.required("StackName")?)?;
    let logical_id = params.get("LogicalResourceId");
    let wanted = stack
        .resources
        .iter()
        .filter(|resource| logical_id.is_none_or(|id| resource.spec.logical_id == id));
    let mut xml = Xml::default();
    xml.list("StackResources", wanted, |xml, resource| {
        one_resource(xml, clock, stack, resource, "Timestamp");
    });
    Ok(xml.finish())
}

fn describe_events(stacks: &Stacks, clock: &Clock, params: &Params) -> Result<String, ApiError> {
    let stack = stacks.stack(params.required("StackName")?)?;
    let mut xml = Xml::default();
    // Newest first.
    xml.list("StackEvents", stack.history.iter().rev(), |xml, entry| {
        one_event(xml, clock, stack, entry);
    });
    Ok(xml.finish())
}

fn one_event(xml: &mut Xml, clock: &Clock, stack: &Stack, entry: &Entry) {
    let resource = stack
        .resources
        .iter()
        .find(|resource| Some(&resource.spec.logical_id) == entry.logical_id.as_ref());
    xml.text("StackId", &stack.id);
    xml.text("EventId", &entry.id);
    xml.text("StackName", &stack.name);
    xml.text("LogicalResourceId", entry.logical_id.as_ref().unwrap_or(&stack.name));
    xml.text("ResourceType", resource.map_or("AWS::CloudFormation::Stack", resource_type));
    xml.text("Timestamp", &clock::iso_millis(clock.date(entry.at)));
    xml.text("ResourceStatus", entry.status.as_str());
    xml.maybe("ResourceStatusReason", entry.reason.as_deref());
}
