//! Answers Elastic Load Balancing's Describe operations, page by page.

use super::attributes;
use super::balancer::{Listener, LoadBalancer};
use super::balancers::{unknown_balancer, unknown_listener};
use super::groups::Elb;
use super::requests;
use super::specs::{Probe, TargetGroupAttributes};
use super::target_group::{TargetGroup, TargetKey};
use crate::cloud::clock::{self, Clock};
use crate::cloud::ec2::VPC;
use crate::cloud::errors::ApiError;
use crate::cloud::wire::Params;
use crate::cloud::xml::Xml;

/// The largest page, and the default.
const LARGEST_PAGE: usize = 400;

/// Returns one page of `all`, and the marker of the next: the position where that one starts.
fn page<T>(all: Vec<T>, form: &Params) -> Result<(Vec<T>, Option<String>), ApiError> {
    let size = form.parsed("PageSize")?.unwrap_or(LARGEST_PAGE);
    if size == 0 || size > LARGEST_PAGE {
        let message = format!("PageSize must be between 1 and {LARGEST_PAGE}");
        return Err(ApiError::validation(message));
    }
    let start = match form.get("Marker") {
        None => 0,
        Some(marker) => marker
            .parse()
            .ok()
            .filter(|start| *start <= all.len())
            .ok_or_else(|| ApiError::validation(format!("Invalid marker: {marker}")))?,
    };
    let next = (start + size < all.len()).then(|| (start + size).to_string());
    Ok((all.into_iter().skip(start).take(size).collect(), next))
}

pub(super) fn find_target_groups(elb: &Elb, form: &Params) -> Result<String, ApiError> {
    let (arns, names) = (form.list("TargetGroupArns"), form.list("Names"));
    let groups = elb.groups.values();
    let mut wanted: Vec<&TargetGroup> = groups
        .filter(|it| arns.is_empty() || arns.contains(&it.arn))
        .filter(|it| names.is_empty() || names.contains(&it.spec.name))
        .collect();
    if wanted.len() < arns.len().max(names.len()) {
        let message = "One or more target groups not found";
        return Err(ApiError::new(400, "TargetGroupNotFound", message));
    }
    if let Some(balancer) = form.get("LoadBalancerArn") {
        elb.balancer(balancer)?;
        wanted.retain(|it| elb.balancers_of(&it.arn).iter().any(|arn| arn == balancer));
    }
    let (wanted, next) = page(wanted, form)?;
    Ok(target_groups(elb, &wanted, next))
}

pub(super) fn target_groups(elb: &Elb, groups: &[&TargetGroup], next: Option<String>) -> String {
    let mut xml = Xml::default();
    xml.list("TargetGroups", groups, |xml, group| {
        let check = &group.spec.health_check;
        xml.text("TargetGroupArn", &group.arn);
        xml.text("TargetGroupName", &group.spec.name);
        xml.text("Protocol", "TCP");
        xml.display("Port", group.spec.port);
        xml.text("VpcId", VPC);
        xml.text("HealthCheckProtocol", check.probe.as_str());
        let port = check.port.map(|port| port.to_string());
        xml.text("HealthCheckPort", port.as_deref().unwrap_or("traffic-port"));
        xml.text("HealthCheckEnabled", "true");
        // Whole seconds, as in AWS's API model; only this cloud has shorter times.
        xml.display("HealthCheckIntervalSeconds", check.interval.as_secs().max(1));
        xml.display("HealthCheckTimeoutSeconds", check.timeout.as_secs().max(1));
        xml.display("HealthyThresholdCount", check.healthy_threshold);
        xml.display("UnhealthyThresholdCount", check.unhealthy_threshold);
        if check.probe == Probe::Http {
            xml.text("HealthCheckPath", &check.path);
            xml.open("Matcher");
            xml.display("HttpCode", &check.matcher);
            xml.close("Matcher");
        }
        xml.open("LoadBalancerArns");
        for arn in elb.balancers_of(&group.arn) {
            xml.text("member", &arn);
        }
        xml.close("LoadBalancerArns");
        xml.text("TargetType", "instance");
        xml.text("IpAddressType", "ipv4");
    });
    xml.maybe("NextMarker", next.as_deref());
    xml.finish()
}

pub(super) fn attributes(attributes: &TargetGroupAttributes) -> String {
    let mut xml = Xml::default();
    xml.list("Attributes", attributes::list(attributes), |xml, (key, value)| {
        xml.text("Key", key);
        xml.text("Value", &value);
    });
    xml.finish()
}

/// Shows the targets that a call names, registered or not; without any, all that are registered.
pub(super) fn target_health(elb: &Elb, form: &Params) -> Result<String, ApiError> {
    let group = elb.group(form.required("TargetGroupArn")?)?;
    let named = requests::targets(form)?.into_iter().map(|wanted| {
        let port = wanted.port.unwrap_or(group.spec.port);
        TargetKey { id: wanted.id, port }
    });
    let mut keys: Vec<TargetKey> = named.collect();
    if keys.is_empty() {
        keys = group.members.keys().cloned().collect();
    }
    let mut xml = Xml::default();
    xml.list("TargetHealthDescriptions", keys, |xml, key| {
        xml.open("Target");
        xml.text("Id", &key.id);
        xml.display("Port", key.port);
        xml.close("Target");
        xml.display("HealthCheckPort", group.spec.health_check.port.unwrap_or(key.port));
        let health = group.health(&key);
        xml.open("TargetHealth");
        xml.text("State", health.state.as_str());
        xml.maybe("Reason", health.reason.as_deref());
        xml.maybe("Description", health.description.as_deref());
        xml.close("TargetHealth");
    });
    Ok(xml.finish())
}

pub(super) fn find_balancers(
    elb: &Elb,
    clock: &Clock,
    zones: &[String],
    form: &Params,
) -> Result<String, ApiError> {
    let (arns, names) = (form.list("LoadBalancerArns"), form.list("Names"));
    let balancers = elb.balancers.values();
    let wanted: Vec<&LoadBalancer> = balancers
        .filter(|it| arns.is_empty() || arns.contains(&it.arn))
        .filter(|it| names.is_empty() || names.contains(&it.name))
        .collect();
    if wanted.len() < arns.len().max(names.len()) {
        return Err(unknown_balancer());
    }
    let (wanted, next) = page(wanted, form)?;
    Ok(self::balancers(elb, clock, zones, &wanted, next))
}

pub(super) fn balancers(
    elb: &Elb,
    clock: &Clock,
    zones: &[String],
    balancers: &[&LoadBalancer],
    next: Option<String>,
) -> String {
    let address = elb.address.map(|address| address.to_string());
    let mut xml = Xml::default();
    xml.list("LoadBalancers", balancers, |xml, balancer| {
        let LoadBalancer { name, id, .. } = balancer;
        xml.text("LoadBalancerArn", &balancer.arn);
        xml.text("DNSName", &format!("{name}-{id}.elb.{}.amazonaws.com", elb.region));
        xml.text("CreatedTime", &clock::iso_millis(clock.date(balancer.created)));
        xml.text("LoadBalancerName", name);
        xml.text("Scheme", &balancer.scheme);
        xml.text("VpcId", VPC);
        xml.open("State");
        xml.text("Code", if address.is_some() { "active" } else { "provisioning" });
        xml.close("State");
        xml.text("Type", "network");
        xml.list("AvailabilityZones", zones, |xml, zone| {
            xml.text("ZoneName", zone);
            xml.list("LoadBalancerAddresses", &address, |xml, address| {
                xml.text("PrivateIPv4Address", address);
            });
        });
        xml.text("IpAddressType", "ipv4");
    });
    xml.maybe("NextMarker", next.as_deref());
    xml.finish()
}

pub(super) fn find_listeners(elb: &Elb, form: &Params) -> Result<String, ApiError> {
    let (balancer, arns) = (form.get("LoadBalancerArn"), form.list("ListenerArns"));
    if balancer.is_none() && arns.is_empty() {
        return Err(ApiError::validation(
            "You must specify either listener ARNs or a load balancer",
        ));
    }
    if let Some(arn) = balancer {
        elb.balancer(arn)?;
    }
    let listeners = elb.listeners.values();
    let wanted: Vec<&Listener> = listeners
        .filter(|it| arns.is_empty() || arns.contains(&it.arn))
        .filter(|it| balancer.is_none_or(|arn| it.balancer == arn))
        .collect();
    if wanted.len() < arns.len() {
        return Err(unknown_listener());
    }
    let (wanted, next) = page(wanted, form)?;
    Ok(self::listeners(&wanted, next))
}

pub(super) fn listeners(listeners: &[&Listener], next: Option<String>) -> String {
    let mut xml = Xml::default();
    xml.list("Listeners", listeners, |xml, listener| {
        xml.text("ListenerArn", &listener.arn);
        xml.text("LoadBalancerArn", &listener.balancer);
        xml.display("Port", listener.port);
        xml.text("Protocol", "TCP");
        xml.list("DefaultActions", [listener], |xml, listener| {
            xml.text("Type", "forward");
            xml.text("TargetGroupArn", &listener.target_group);
        });
    });
    xml.maybe("NextMarker", next.as_deref());
    xml.finish()
}
