//! Answers Auto Scaling's Describe operations, page by page.

use super::activities::Activity;
use super::group::Group;
use super::instance::Instance;
use super::lifecycle::global_timeout;
use super::scaling::Scaling;
use crate::cloud::clock::{self, Clock};
use crate::cloud::errors::ApiError;
use crate::cloud::wire::Params;
use crate::cloud::xml::Xml;

/// Records on a page: the default, and the largest number that a caller can request.
const PAGE: usize = 50;
const LARGEST_PAGE: usize = 100;
/// The largest page of `DescribeAutoScalingInstances`, and its largest number of ids.
const LARGEST_INSTANCE_PAGE: usize = 50;

/// Returns one page of `all`, and the token of the next. A token is the position where the next page starts.
pub(super) fn page<T>(
    all: Vec<T>,
    params: &Params,
    largest: usize,
) -> Result<(Vec<T>, Option<String>), ApiError> {
    let size = params.parsed("MaxRecords")?.unwrap_or(PAGE);
    if size == 0 || size > largest {
        return Err(ApiError::validation(format!("MaxRecords must be between 1 and {largest}")));
    }
    let start = match params.get("NextToken") {
        None => 0,
        Some(token) => token.parse().ok().filter(|start| *start <= all.len()).ok_or_else(|| {
            ApiError::new(400, "InvalidNextToken", format!("Invalid next token: {token}"))
        })?,
    };
    let next = (start + size < all.len()).then(|| (start + size).to_string());
    Ok((all.into_iter().skip(start).take(size).collect(), next))
}

pub(super) fn groups(
    scaling: &Scaling,
    clock: &Clock,
    params: &Params,
) -> Result<String, ApiError> {
    let names = params.list("AutoScalingGroupNames");
    let wanted: Vec<&Group> = scaling
        .groups()
        .filter(|group| names.is_empty() || names.contains(&group.spec.name))
        .collect();
    let (wanted, next) = page(wanted, params, LARGEST_PAGE)?;
    let include = params.parsed("IncludeInstances")?.unwrap_or(true);
    let mut xml = Xml::default();
    xml.list("AutoScalingGroups", wanted, |xml, group| {
        one_group(xml, scaling, clock, group, include);
    });
    xml.maybe("NextToken", next.as_deref());
    Ok(xml.finish())
}

fn one_group(xml: &mut Xml, scaling: &Scaling, clock: &Clock, group: &Group, include: bool) {
    let spec = &group.spec;
    xml.text("AutoScalingGroupName", &spec.name);
    xml.text("AutoScalingGroupARN", &group.arn(&scaling.region));
    xml.display("MinSize", spec.min);
    xml.display("MaxSize", spec.max);
    xml.display("DesiredCapacity", spec.desired);
    xml.text("DefaultCooldown", "300");
    let zones = if group.zones.is_empty() { &scaling.zones } else { &group.zones };
    xml.open("AvailabilityZones");
    for zone in zones {
        xml.text("member", zone);
    }
    xml.close("AvailabilityZones");
    xml.text("HealthCheckType", "EC2");
    xml.text("HealthCheckGracePeriod", "0");
    let mut members: Vec<&Instance> =
        scaling.instances().filter(|i| include && i.group == spec.name).collect();
    // `DescribeWarmPool` shows the instances of the warm pool.
    members.retain(|i| !i.lifecycle.state().is_warmed());
    members.sort_by_key(|i| i.sequence);
    xml.list("Instances", members, |xml, instance| {
        one_instance(xml, instance, ["Healthy", "Unhealthy"]);
    });
    xml.text("CreatedTime", &clock::iso_millis(clock.date(group.created)));
    xml.list("Tags", &spec.tags, |xml, (key, value)| {
        xml.text("ResourceId", &spec.name);
        xml.text("ResourceType", "auto-scaling-group");
        xml.text("Key", key);
        xml.text("Value", value);
        xml.text("PropagateAtLaunch", "true");
    });
    xml.open("TerminationPolicies");
    xml.text("member", "OldestInstance");
    xml.close("TerminationPolicies");
    xml.text("NewInstancesProtectedFromScaleIn", "false");
}

/// Writes the elements that both descriptions of an instance share.
pub(super) fn one_instance(xml: &mut Xml, instance: &Instance, [healthy, unhealthy]: [&str; 2]) {
    xml.text("InstanceId", &instance.id);
    xml.text("InstanceType", &instance.instance_type);
    xml.text("AvailabilityZone", &instance.zone);
    xml.text("LifecycleState", instance.lifecycle.state().as_str());
    xml.text("ProtectedFromScaleIn", "false");
    xml.text("HealthStatus", if instance.healthy { healthy } else { unhealthy });
}

pub(super) fn instances(scaling: &Scaling, params: &Params) -> Result<String, ApiError> {
    let ids = params.list("InstanceIds");
    if ids.len() > LARGEST_INSTANCE_PAGE {
        return Err(ApiError::validation(format!(
            "The number of instance ids that may be passed in is limited to \
             {LARGEST_INSTANCE_PAGE}"
        )));
    }
    let wanted: Vec<&Instance> =
        scaling.instances().filter(|i| ids.is_empty() || ids.contains(&i.id)).collect();
    let (wanted, next) = page(wanted, params, LARGEST_INSTANCE_PAGE)?;
    let mut xml = Xml::default();
    xml.list("AutoScalingInstances", wanted, |xml, instance| {
        xml.text("AutoScalingGroupName", &instance.group);
        // Only this operation writes the health in capitals.
        one_instance(xml, instance, ["HEALTHY", "UNHEALTHY"]);
    });
    xml.maybe("NextToken", next.as_deref());
    Ok(xml.finish())
}

pub(super) fn hooks(scaling: &Scaling, params: &Params) -> Result<String, ApiError> {
    let group = scaling.group(params.required("AutoScalingGroupName")?)?;
    let names = params.list("LifecycleHookNames");
    let wanted = group.hooks.iter().filter(|hook| names.is_empty() || names.contains(&hook.name));
    let mut xml = Xml::default();
    xml.list("LifecycleHooks", wanted, |xml, hook| {
        xml.text("LifecycleHookName", &hook.name);
        xml.text("AutoScalingGroupName", &hook.group);
        xml.text("LifecycleTransition", hook.transition.as_str());
        xml.maybe("NotificationMetadata", hook.notification_metadata.as_deref());
        // Whole seconds, as in AWS's API model; only this cloud has shorter timeouts.
        let timeout = hook.heartbeat_timeout;
        xml.display("HeartbeatTimeout", timeout.as_secs().max(1));
        xml.display("GlobalTimeout", global_timeout(timeout).as_secs().max(1));
        xml.text("DefaultResult", hook.default_result.as_str());
    });
    Ok(xml.finish())
}

pub(super) fn activities(
    scaling: &Scaling,
    clock: &Clock,
    params: &Params,
) -> Result<String, ApiError> {
    let group = params.get("AutoScalingGroupName");
    let ids = params.list("ActivityIds");
    let wanted: Vec<&Activity> = scaling
        .activities
        .iter()
        .rev()
        .filter(|a| group.is_none_or(|group| a.group == group))
        .filter(|a| ids.is_empty() || ids.contains(&a.id))
        .collect();
    let (wanted, next) = page(wanted, params, LARGEST_PAGE)?;
    let mut xml = Xml::default();
    xml.list("Activities", wanted, |xml, a| activity(xml, clock, a));
    xml.maybe("NextToken", next.as_deref());
    Ok(xml.finish())
}

pub(super) fn activity(xml: &mut Xml, clock: &Clock, activity: &Activity) {
    let date = |moment| clock::iso_millis(clock.date(moment));
    let started = date(activity.started);
    xml.text("ActivityId", &activity.id);
    xml.text("AutoScalingGroupName", &activity.group);
    xml.text("Description", &activity.description);
    xml.text("Cause", &format!("At {started} {}", activity.cause));
    xml.text("StartTime", &started);
    xml.maybe("EndTime", activity.ended.map(date).as_deref());
    xml.text("StatusCode", activity.status.as_str());
    xml.display("Progress", activity.status.progress());
}
