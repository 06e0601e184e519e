//! Implements Auto Scaling's operations, by their names on the wire.

use std::collections::BTreeMap;
use std::time::Duration;

use super::action::ActionName;
use super::activities::Activity;
use super::describe;
use super::groups::Sizes;
use super::scaling::Scaling;
use super::states::{ActionResult, Transition};
use super::{policies_api, processes, rebalance, refresh, retention, traffic_api, warm_pool};
use crate::cloud::clock::Clock;
use crate::cloud::errors::ApiError;
use crate::cloud::requests::Service;
use crate::cloud::specs::{GroupSpec, HookSpec};
use crate::cloud::wire::Params;
use crate::cloud::xml::Xml;

/// Heartbeat timeouts that the API accepts for a hook, in seconds.
const HEARTBEAT_TIMEOUTS: std::ops::RangeInclusive<u64> = 30..=7200;

/// Answers one call; returns the content of its result element, `None` where it has none.
pub(crate) fn handle(
    scaling: &mut Scaling,
    clock: &Clock,
    action: &str,
    params: &Params,
    now: Duration,
) -> Result<Option<String>, ApiError> {
    let empty = || Some(String::new());
    match action {
        "CreateAutoScalingGroup" => create_group(scaling, params, now).map(|()| None),
        "UpdateAutoScalingGroup" => update_group(scaling, params, now).map(|()| None),
        "DeleteAutoScalingGroup" => {
            let force = params.parsed("ForceDelete")?.unwrap_or(false);
            let name = params.required("AutoScalingGroupName")?;
            scaling.delete_group(name, force, now).map(|()| None)
        }
        "DescribeAutoScalingGroups" => describe::groups(scaling, clock, params).map(Some),
        "DescribeAutoScalingInstances" => describe::instances(scaling, params).map(Some),
        "DescribeLifecycleHooks" => describe::hooks(scaling, params).map(Some),
        "DescribeScalingActivities" => describe::activities(scaling, clock, params).map(Some),
        "SetDesiredCapacity" => {
            let name = params.required("AutoScalingGroupName")?;
            let desired = required_number(params, "DesiredCapacity")?;
            scaling.set_desired(name, desired, now).map(|()| None)
        }
        "TerminateInstanceInAutoScalingGroup" => {
            let id = params.required("InstanceId")?;
            params.required("ShouldDecrementDesiredCapacity")?;
            let decrement = params.parsed("ShouldDecrementDesiredCapacity")?.unwrap_or(false);
            let cause = "instance was taken out of service in response to a user request.";
            let activity = scaling.terminate(id, decrement, cause, now)?.clone();
            Ok(Some(one_activity(clock, &activity)))
        }
        "SetInstanceHealth" => {
            let id = params.required("InstanceId")?;
            let healthy = match params.required("HealthStatus")? {
                "Healthy" => true,
                "Unhealthy" => false,
                other => {
                    return Err(ApiError::validation(format!(
                        "Invalid health status: {other}. Valid values are Healthy and Unhealthy."
                    )));
                }
            };
            scaling.set_health(id, healthy, now).map(|()| None)
        }
        "SetInstanceProtection" => {
            let group = params.required("AutoScalingGroupName")?;
            params.required("ProtectedFromScaleIn")?;
            let protected = params.parsed("ProtectedFromScaleIn")?.unwrap_or(false);
            let ids = params.list("InstanceIds");
            scaling.set_protection(group, &ids, protected, now).map(|()| empty())
        }
        "PutLifecycleHook" => {
            let group = params.required("AutoScalingGroupName")?;
            let name = params.required("LifecycleHookName")?;
            let old = scaling.group(group)?.hooks.iter().find(|h| h.name == name).cloned();
            scaling.put_hook(hook(params, group, old)?).map(|()| empty())
        }
        "DeleteLifecycleHook" => {
            let group = params.required("AutoScalingGroupName")?;
            let name = params.required("LifecycleHookName")?;
            scaling.delete_hook(group, name).map(|()| empty())
        }
        "RecordLifecycleActionHeartbeat" => {
            let (group, name) = action_name(params)?;
            let id = params.get("InstanceId");
            scaling.heartbeat(group, id, name, now).map(|()| empty())
        }
        "CompleteLifecycleAction" => {
            let (group, name) = action_name(params)?;
            let text = params.required("LifecycleActionResult")?;
            let result = ActionResult::parse(text).ok_or_else(|| {
                ApiError::validation(format!(
                    "Lifecycle Action Result must be CONTINUE or ABANDON, not {text}"
                ))
            })?;
            let id = params.get("InstanceId");
            scaling.complete(group, id, name, result, now).map(|()| empty())
        }
        "PutWarmPool" => warm_pool::put(scaling, params, now).map(|()| empty()),
        "DescribeWarmPool" => warm_pool::describe(scaling, params).map(Some),
        "DeleteWarmPool" => warm_pool::delete(scaling, params, now).map(|()| empty()),
        "EnterStandby" => {
            let name = params.required("AutoScalingGroupName")?;
            params.required("ShouldDecrementDesiredCapacity")?;
            let decrement = params.parsed("ShouldDecrementDesiredCapacity")?.unwrap_or(false);
            let ids = params.list("InstanceIds");
            let activities = scaling.enter_standby(name, &ids, decrement, now)?;
            Ok(Some(all_activities(clock, &activities)))
        }
        "ExitStandby" => {
            let name = params.required("AutoScalingGroupName")?;
            let activities = scaling.exit_standby(name, &params.list("InstanceIds"), now)?;
            Ok(Some(all_activities(clock, &activities)))
        }
        _ => {
            let answer = traffic_api::handle(scaling, action, params, now)
                .or_else(|| refresh::handle(scaling, clock, action, params, now))
                .map(|answer| answer.map(Some))
                .or_else(|| policies_api::handle(scaling, action, params, now))
                .or_else(|| Some(processes::handle(scaling, action, params, now)?.map(|()| None)));
            answer.unwrap_or_else(|| Err(ApiError::unknown_action(Service::AutoScaling, action)))
        }
    }
}

fn required_number(params: &Params, name: &str) -> Result<u32, ApiError> {
    params.required(name)?;
    params.parsed(name).map(Option::unwrap_or_default)
}

fn create_group(scaling: &mut Scaling, params: &Params, now: Duration) -> Result<(), ApiError> {
    let name = params.required("AutoScalingGroupName")?.to_owned();
    let min = required_number(params, "MinSize")?;
    let max = required_number(params, "MaxSize")?;
    let propagated = |tag: &Params| tag.get("PropagateAtLaunch") != Some("false");
    let tags: BTreeMap<String, String> = params
        .structures("Tags")
        .iter()
        .filter(|tag| propagated(tag))
        .filter_map(|tag| {
            let value = tag.get("Value").unwrap_or_default();
            Some((tag.get("Key")?.to_owned(), value.to_owned()))
        })
        .collect();
    let hooks = params
        .structures("LifecycleHookSpecificationList")
        .iter()
        .map(|specification| hook(specification, &name, None))
        .collect::<Result<Vec<_>, _>>()?;
    let defaults = GroupSpec::default();
    let checks = traffic_api::health_checks(params)?;
    let spec = GroupSpec {
        min,
        max,
        desired: params.parsed("DesiredCapacity")?.unwrap_or(min),
        tags,
        name,
        target_group_arns: traffic_api::target_group_arns(params)?,
        health_check_type: checks.of_type.unwrap_or_default(),
        health_check_grace: checks.grace.unwrap_or(defaults.health_check_grace),
        retain_abandoned: retention::policy(params)?.unwrap_or_default(),
        ..defaults
    };
    scaling.create_group(spec, params.list("AvailabilityZones"), hooks, None, now)
}

fn update_group(scaling: &mut Scaling, params: &Params, now: Duration) -> Result<(), ApiError> {
    let sizes = Sizes {
        min: params.parsed("MinSize")?,
        max: params.parsed("MaxSize")?,
        desired: params.parsed("DesiredCapacity")?,
    };
    let name = params.required("AutoScalingGroupName")?;
    let checks = traffic_api::health_checks(params)?;
    let retains = retention::policy(params)?;
    scaling.check_zones(&params.list("AvailabilityZones"))?;
    scaling.update_group(name, sizes, now)?;
    if let Some(retains) = retains {
        scaling.set_retention(name, retains)?;
    }
    rebalance::update(scaling, name, params, now)?;
    scaling.set_health_checks(name, checks, now)
}

/// Returns the requested hook; an update keeps the old values of missing parameters.
fn hook(params: &Params, group: &str, old: Option<HookSpec>) -> Result<HookSpec, ApiError> {
    let name = params.required("LifecycleHookName")?;
    let transition = match params.get("LifecycleTransition") {
        Some(text) => Some(Transition::parse(text).ok_or_else(|| {
            ApiError::validation(format!("Invalid Lifecycle Transition: {text}"))
        })?),
        None => None,
    };
    let mut hook = match (old, transition) {
        (Some(old), transition) => {
            HookSpec { transition: transition.unwrap_or(old.transition), ..old }
        }
        (None, Some(transition)) => HookSpec::new(group, name, transition),
        (None, None) => {
            return Err(ApiError::validation(
                "You must specify a lifecycle transition when creating a lifecycle hook.",
            ));
        }
    };
    if let Some(seconds) = params.parsed::<u64>("HeartbeatTimeout")? {
        if !HEARTBEAT_TIMEOUTS.contains(&seconds) {
            return Err(ApiError::validation(format!(
                "Heartbeat Timeout must be between {} and {} seconds",
                HEARTBEAT_TIMEOUTS.start(),
                HEARTBEAT_TIMEOUTS.end()
            )));
        }
        hook.heartbeat_timeout = Duration::from_secs(seconds);
    }
    if let Some(text) = params.get("DefaultResult") {
        hook.default_result = ActionResult::parse(text).ok_or_else(|| {
            ApiError::validation("Default Result must be CONTINUE or ABANDON".to_owned())
        })?;
    }
    if let Some(metadata) = params.get("NotificationMetadata") {
        hook.notification_metadata = Some(metadata.to_owned());
    }
    Ok(hook)
}

fn action_name(params: &Params) -> Result<(&str, ActionName<'_>), ApiError> {
    let name = ActionName {
        hook: params.required("LifecycleHookName")?,
        token: params.get("LifecycleActionToken"),
    };
    Ok((params.required("AutoScalingGroupName")?, name))
}

fn one_activity(clock: &Clock, activity: &Activity) -> String {
    let mut xml = Xml::default();
    xml.open("Activity");
    describe::activity(&mut xml, clock, activity);
    xml.close("Activity");
    xml.finish()
}

pub(super) fn all_activities(clock: &Clock, activities: &[Activity]) -> String {
    let mut xml = Xml::default();
    xml.list("Activities", activities, |xml, activity| {
        describe::activity(xml, clock, activity);
    });
    xml.finish()
}
