//! Implements Elastic Load Balancing's operations, by their names on the wire (version 2015-12-01).

use std::time::Duration;

use super::groups::Elb;
use super::{attributes, describe, requests};
use crate::cloud::errors::ApiError;
use crate::cloud::requests::Service;
use crate::cloud::wire::Params;
use crate::cloud::{Cloud, State};

/// Answers one call; returns the content of its result element.
pub(in crate::cloud) fn handle(
    cloud: &Cloud,
    action: &str,
    form: &Params,
) -> Result<String, ApiError> {
    let clock = &cloud.inner.clock;
    let zones = &cloud.inner.options.zones;
    cloud.change(|state, now| match action {
        "CreateTargetGroup" => {
            let spec = requests::target_group(form)?;
            let arn = state.scaling.balance(|elb| elb.create_group(spec))?;
            let elb = state.scaling.elb();
            Ok(describe::target_groups(elb, &[elb.group(&arn)?], None))
        }
        "DeleteTargetGroup" => {
            let arn = form.required("TargetGroupArn")?;
            state.scaling.balance(|elb| elb.delete_group(arn)).map(|()| String::new())
        }
        "DescribeTargetGroups" => describe::find_target_groups(state.scaling.elb(), form),
        "ModifyTargetGroup" => {
            let arn = form.required("TargetGroupArn")?;
            state.scaling.balance(|elb| modify_health_check(elb, arn, form))?;
            let elb = state.scaling.elb();
            Ok(describe::target_groups(elb, &[elb.group(arn)?], None))
        }
        "DescribeTargetGroupAttributes" => {
            let group = state.scaling.elb().group(form.required("TargetGroupArn")?)?;
            Ok(describe::attributes(&group.spec.attributes))
        }
        "ModifyTargetGroupAttributes" => modify_attributes(state, form, now),
        "RegisterTargets" => register(state, form, now).map(|()| String::new()),
        "DeregisterTargets" => deregister(state, form, now).map(|()| String::new()),
        "DescribeTargetHealth" => describe::target_health(state.scaling.elb(), form),
        "CreateLoadBalancer" => {
            only_network(form)?;
            let (name, scheme) = (requests::name(form)?, form.get("Scheme"));
            let scheme = scheme.unwrap_or("internet-facing");
            let arn = state.scaling.balance(|elb| elb.create_balancer(name, scheme, now))?;
            let elb = state.scaling.elb();
            Ok(describe::balancers(elb, clock, zones, &[elb.balancer(&arn)?], None))
        }
        "DeleteLoadBalancer" => {
            let arn = form.required("LoadBalancerArn")?;
            state.scaling.balance(|elb| elb.delete_balancer(arn, now));
            Ok(String::new())
        }
        "DescribeLoadBalancers" => {
            describe::find_balancers(state.scaling.elb(), clock, zones, form)
        }
        "CreateListener" => {
            let balancer = form.required("LoadBalancerArn")?;
            requests::only(form, "Protocol", "TCP")?;
            let (port, target_group) = (requests::port(form)?, forwarded(form)?);
            let create = |elb: &mut Elb| elb.create_listener(balancer, port, &target_group, now);
            let arn = state.scaling.balance(create)?;
            let created = state.scaling.elb().listeners.get(&arn);
            Ok(describe::listeners(&created.into_iter().collect::<Vec<_>>(), None))
        }
        "DeleteListener" => {
            let arn = form.required("ListenerArn")?;
            state.scaling.balance(|elb| elb.delete_listener(arn, now)).map(|()| String::new())
        }
        "DescribeListeners" => describe::find_listeners(state.scaling.elb(), form),
        _ => Err(ApiError::unknown_action(Service::ElasticLoadBalancing, action)),
    })
}

fn only_network(form: &Params) -> Result<(), ApiError> {
    // Without a type, AWS creates an application load balancer.
    if form.get("Type") == Some("network") {
        return Ok(());
    }
    Err(ApiError::validation("This cloud has load balancers of the type network only"))
}

/// Returns the target group that a listener's only action forwards to.
fn forwarded(form: &Params) -> Result<String, ApiError> {
    let refused = || {
        let message =
            "This cloud has listeners with one action, which forwards to one target group";
        ApiError::new(400, "InvalidLoadBalancerAction", message)
    };
    let actions = form.structures("DefaultActions");
    let [action] = actions.as_slice() else { return Err(refused()) };
    if action.required("Type")? != "forward" {
        return Err(refused());
    }
    let configured = action.structures("ForwardConfig.TargetGroups");
    let arn = match (action.get("TargetGroupArn"), configured.as_slice()) {
        (Some(arn), _) => Some(arn),
        (None, [one]) => one.get("TargetGroupArn"),
        _ => None,
    };
    arn.map(str::to_owned).ok_or_else(refused)
}

fn modify_health_check(elb: &mut Elb, arn: &str, form: &Params) -> Result<(), ApiError> {
    let group = elb.group_mut(arn)?;
    group.spec.health_check = requests::health_check(form, Some(&group.spec.health_check))?;
    elb.touch();
    Ok(())
}

fn modify_attributes(state: &mut State, form: &Params, now: Duration) -> Result<String, ApiError> {
    let arn = form.required("TargetGroupArn")?;
    let requested = form.structures("Attributes");
    let pairs =
        requested.iter().filter_map(|it| Some((it.get("Key")?, it.get("Value").unwrap_or(""))));
    let old = state.scaling.elb().group(arn)?.spec.attributes;
    let new = attributes::modified(old, pairs)?;
    state.scaling.balance(|elb| elb.set_attributes(arn, new, now))?;
    Ok(describe::attributes(&new))
}

/// Registers all targets, or none.
fn register(state: &mut State, form: &Params, now: Duration) -> Result<(), ApiError> {
    let arn = form.required("TargetGroupArn")?;
    state.scaling.elb().group(arn)?;
    let mut targets = Vec::new();
    for wanted in requests::targets(form)? {
        let address = requests::address(state, &wanted.id)?;
        targets.push((wanted, address));
    }
    state.scaling.balance(|elb| {
        targets
            .iter()
            .try_for_each(|(it, address)| elb.register(arn, &it.id, it.port, *address, now))
    })
}

fn deregister(state: &mut State, form: &Params, now: Duration) -> Result<(), ApiError> {
    let arn = form.required("TargetGroupArn")?;
    let targets = requests::targets(form)?;
    state.scaling.balance(|elb| {
        elb.group(arn)?;
        targets.iter().try_for_each(|it| elb.deregister(arn, &it.id, it.port, now))
    })
}
