//! Reads Auto Scaling's answers. A list that is missing is an error: AWS sends an empty one where there is nothing.

use std::time::Duration;

use roxmltree::Node;

use super::{GroupInstance, GroupSettings, Hook, HookResult, Transition};
use crate::clients::aws::query::{child, list, text};

/// AWS's default for a hook without a heartbeat time-out.
const DEFAULT_HEARTBEAT: Duration = Duration::from_secs(3600);
/// AWS ends an action after this time, or after 100 heartbeat time-outs, however many heartbeats come.
const LONGEST_ACTION: Duration = Duration::from_secs(48 * 3600);
const HEARTBEATS_PER_ACTION: u32 = 100;

/// A group with its instances, by id.
pub struct Group {
    pub name: String,
    pub instances: Vec<(String, GroupInstance)>,
}

/// A page, and the token of the next one.
type Page<T> = (Vec<T>, Option<String>);

/// Reads a page of `DescribeAutoScalingInstances`.
pub fn listed_instances(root: Node<'_, '_>) -> Result<Page<(String, GroupInstance)>, String> {
    let result = child(root, "DescribeAutoScalingInstancesResult").ok_or(NO_RESULT)?;
    let instances = list(result, "AutoScalingInstances").ok_or("the answer has no instances")?;
    let instance = |node| instance(node, text(node, "AutoScalingGroupName")?, None);
    Ok((instances.filter_map(instance).collect(), next(result)))
}

/// Reads a page of `DescribeAutoScalingGroups`. A missing instance proves nothing, and neither does a missing list.
pub fn groups(root: Node<'_, '_>) -> Result<Page<Group>, String> {
    let result = child(root, "DescribeAutoScalingGroupsResult").ok_or(NO_RESULT)?;
    let groups = list(result, "AutoScalingGroups").into_iter().flatten();
    let group = |group| {
        let name = text(group, "AutoScalingGroupName").unwrap_or_default();
        let settings = Some(GroupSettings::of(group));
        let instances = list(group, "Instances").into_iter().flatten();
        let instances = instances.filter_map(|node| instance(node, name.clone(), settings));
        Group { instances: instances.collect(), name }
    };
    Ok((groups.map(group).collect(), next(result)))
}

/// Reads the answer to `DescribeLifecycleHooks`.
pub fn hooks(root: Node<'_, '_>) -> Result<Vec<Hook>, String> {
    let result = child(root, "DescribeLifecycleHooksResult").ok_or(NO_RESULT)?;
    let hooks = list(result, "LifecycleHooks").ok_or("the answer has no hooks")?;
    Ok(hooks.filter_map(hook).collect())
}

const NO_RESULT: &str = "the answer has no result";

fn next(result: Node<'_, '_>) -> Option<String> {
    text(result, "NextToken").filter(|token| !token.is_empty())
}

fn instance(
    node: Node<'_, '_>,
    group: String,
    settings: Option<GroupSettings>,
) -> Option<(String, GroupInstance)> {
    let instance = GroupInstance {
        group,
        lifecycle_state: text(node, "LifecycleState").unwrap_or_default().as_str().into(),
        health: text(node, "HealthStatus").unwrap_or_default(),
        protected: text(node, "ProtectedFromScaleIn").and_then(|text| text.parse().ok()),
        settings,
    };
    Some((text(node, "InstanceId")?, instance))
}

fn hook(hook: Node<'_, '_>) -> Option<Hook> {
    let seconds = |name| {
        let seconds = text(hook, name)?.parse::<u64>().ok()?;
        Some(Duration::from_secs(seconds)).filter(|time| !time.is_zero())
    };
    let heartbeat_timeout = seconds("HeartbeatTimeout").unwrap_or(DEFAULT_HEARTBEAT);
    Some(Hook {
        name: text(hook, "LifecycleHookName")?,
        transition: match text(hook, "LifecycleTransition").as_deref() {
            Some("autoscaling:EC2_INSTANCE_LAUNCHING") => Transition::Launching,
            Some("autoscaling:EC2_INSTANCE_TERMINATING") => Transition::Terminating,
            _ => Transition::Other,
        },
        heartbeat_timeout,
        global_timeout: seconds("GlobalTimeout")
            .unwrap_or(LONGEST_ACTION.min(heartbeat_timeout * HEARTBEATS_PER_ACTION)),
        // AWS's own default is ABANDON.
        default_result: match text(hook, "DefaultResult").as_deref() {
            Some("CONTINUE") => HookResult::Continue,
            _ => HookResult::Abandon,
        },
    })
}
