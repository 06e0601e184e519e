//! The operations on a group's traffic sources, and its health check settings. Only target groups are supported.

use std::time::Duration;

use super::group::{Group, TrafficSource};
use super::groups::HealthChecks;
use super::page::page;
use super::scaling::Scaling;
use crate::cloud::errors::ApiError;
use crate::cloud::specs::HealthCheckType;
use crate::cloud::wire::Params;
use crate::cloud::xml::Xml;

/// The largest page of the operations that describe traffic sources.
const LARGEST_PAGE: usize = 100;
/// The type of a traffic source that is a target group.
const TARGET_GROUP: &str = "elbv2";

/// Answers one call; `None`: it is none of these operations.
pub(super) fn handle(
    scaling: &mut Scaling,
    action: &str,
    params: &Params,
    now: Duration,
) -> Option<Result<String, ApiError>> {
    let change = |arns: Result<Vec<String>, ApiError>, attaches: bool, scaling: &mut Scaling| {
        let name = params.required("AutoScalingGroupName")?;
        match attaches {
            true => scaling.attach_target_groups(name, &arns?, now)?,
            false => scaling.detach_target_groups(name, &arns?, now)?,
        }
        Ok(String::new())
    };
    Some(match action {
        "AttachLoadBalancerTargetGroups" => {
            change(Ok(params.list("TargetGroupARNs")), true, scaling)
        }
        "DetachLoadBalancerTargetGroups" => {
            change(Ok(params.list("TargetGroupARNs")), false, scaling)
        }
        "AttachTrafficSources" => change(traffic_sources(params), true, scaling),
        "DetachTrafficSources" => change(traffic_sources(params), false, scaling),
        "DescribeLoadBalancerTargetGroups" => describe(scaling, params, |xml, source, state| {
            xml.text("LoadBalancerTargetGroupARN", &source.arn);
            xml.text("State", state);
        }),
        "DescribeTrafficSources" => describe(scaling, params, |xml, source, state| {
            xml.text("TrafficSource", &source.arn);
            xml.text("State", state);
            xml.text("Identifier", &source.arn);
            xml.text("Type", TARGET_GROUP);
        }),
        _ => return None,
    })
}

/// Returns the ARNs of the target groups in a request that creates a group.
pub(super) fn target_group_arns(params: &Params) -> Result<Vec<String>, ApiError> {
    let mut arns = params.list("TargetGroupARNs");
    arns.extend(traffic_sources(params)?);
    Ok(arns)
}

fn traffic_sources(params: &Params) -> Result<Vec<String>, ApiError> {
    let source = |source: &Params| match source.get("Type") {
        None | Some(TARGET_GROUP) => source.required("Identifier").map(str::to_owned),
        Some(other) => Err(ApiError::validation(format!(
            "This cloud has traffic sources of the type {TARGET_GROUP} only, not {other}"
        ))),
    };
    params.structures("TrafficSources").iter().map(source).collect()
}

pub(super) fn health_checks(params: &Params) -> Result<HealthChecks, ApiError> {
    let of_type = match params.get("HealthCheckType") {
        None => None,
        Some(text) => Some(HealthCheckType::parse(text).ok_or_else(|| {
            ApiError::validation(format!("Health check type must be EC2 or ELB here, not {text}"))
        })?),
    };
    let grace = params.parsed("HealthCheckGracePeriod")?.map(Duration::from_secs);
    Ok(HealthChecks { of_type, grace })
}

fn describe(
    scaling: &Scaling,
    params: &Params,
    show: impl Fn(&mut Xml, &TrafficSource, &str),
) -> Result<String, ApiError> {
    let group = scaling.group(params.required("AutoScalingGroupName")?)?;
    let (sources, next) = page(group.sources.iter().collect(), params, LARGEST_PAGE)?;
    let mut xml = Xml::default();
    let list = if params.get("Action") == Some("DescribeTrafficSources") {
        "TrafficSources"
    } else {
        "LoadBalancerTargetGroups"
    };
    xml.list(list, sources, |xml, source| {
        let checks = group.spec.health_check_type == HealthCheckType::Elb;
        let state = if checks && scaling.is_serving(source) { "InService" } else { "Added" };
        show(xml, source, state);
    });
    xml.maybe("NextToken", next.as_deref());
    Ok(xml.finish())
}

/// Writes what the description of a group shows of its target groups.
pub(super) fn of_group(xml: &mut Xml, group: &Group) {
    xml.open("TargetGroupARNs");
    for source in &group.sources {
        xml.text("member", &source.arn);
    }
    xml.close("TargetGroupARNs");
    xml.list("TrafficSources", &group.sources, |xml, source| {
        xml.text("Identifier", &source.arn);
        xml.text("Type", TARGET_GROUP);
    });
    xml.text("HealthCheckType", group.spec.health_check_type.as_str());
    xml.display("HealthCheckGracePeriod", group.spec.health_check_grace.as_secs());
}
