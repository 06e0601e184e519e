//! Reads instances and hooks from EC2 Auto Scaling, and sends heartbeats and results of lifecycle actions.
//!
//! Guarantees:
//! - an instance is missing from a result only when Auto Scaling answered, in full, without it: a failure, an empty
//!   body or a missing page is an error;
//! - "no active lifecycle action" is an answer: the caller must find out whether it is too early or too late;
//! - the instance id identifies an action, so no token is needed.
//!
//! All calls share one unpublished limit per account and region: poll rarely.

mod group_settings;
mod lifecycle;
mod permission_probe;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use aws_sdk_autoscaling::Client;
use aws_sdk_autoscaling::operation::describe_auto_scaling_groups::builders::DescribeAutoScalingGroupsFluentBuilder;
use aws_sdk_autoscaling::types::{
    AutoScalingGroup, AutoScalingInstanceDetails, Filter, LifecycleHook,
};

use crate::clients::aws::{AwsError, AwsErrorKind};
use crate::common::instance::is_instance_id;
use crate::telemetry::metrics::metrics;

pub use group_settings::GroupSettings;
pub use lifecycle::LifecycleState;

const SERVICE: &str = "autoscaling";
/// AWS's limit of instance ids in one DescribeAutoScalingInstances call, and of one page.
const MAX_IDS: usize = 50;
/// AWS's limit of names in one DescribeAutoScalingGroups call.
const MAX_GROUPS: usize = 50;
/// The tag that names the cluster of a group, as a filter.
const CLUSTER_FILTER: &str = "tag:skep:cluster";
/// AWS's default for a hook without a heartbeat time-out.
const DEFAULT_HEARTBEAT: Duration = Duration::from_secs(3600);
/// AWS ends an action after this time, or after 100 heartbeat time-outs, however many heartbeats come.
const LONGEST_ACTION: Duration = Duration::from_secs(48 * 3600);
const HEARTBEATS_PER_ACTION: u32 = 100;
/// Heartbeats per heartbeat time-out: two can be lost before the third is too late.
const BEATS_PER_TIMEOUT: u32 = 3;
/// Shortest time between heartbeats: the account shares Auto Scaling's limit, and hooks in tests have time-outs of
/// seconds.
const SHORTEST_BEAT: Duration = Duration::from_secs(1);

/// Auto Scaling as skep uses it. Cheap to clone.
#[derive(Clone, Debug)]
pub struct AutoScaling {
    client: Client,
}

/// An instance as its group lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupInstance {
    /// Name of the Auto Scaling group.
    pub group: String,
    /// Present state, such as `InService` or `Terminating:Wait`.
    pub lifecycle_state: LifecycleState,
    /// `HEALTHY` or `UNHEALTHY`.
    pub health: String,
    /// Whether scale-in leaves it alone; `None` where the answer does not say so.
    pub protected: Option<bool>,
    /// `None` where the call does not describe the group.
    pub settings: Option<GroupSettings>,
}

/// Auto Scaling's answers about many instances.
#[derive(Clone, Debug, Default)]
pub struct Survey {
    /// The instances with a reliable answer.
    pub answered: BTreeSet<String>,
    /// Those of them that are in a group.
    pub listed: BTreeMap<String, GroupInstance>,
}

impl Survey {
    /// Whether a reliable answer shows that the instance is in no group.
    #[must_use]
    pub fn is_gone(&self, id: &str) -> bool {
        self.answered.contains(id) && !self.listed.contains_key(id)
    }
}

/// The transition at which a hook holds an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transition {
    /// `autoscaling:EC2_INSTANCE_LAUNCHING`
    Launching,
    /// `autoscaling:EC2_INSTANCE_TERMINATING`
    Terminating,
    /// A transition that AWS has added since.
    Other,
}

/// The result of an action. On termination both end the instance; on launch ABANDON replaces it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HookResult {
    /// `CONTINUE`: any other lifecycle hooks can complete.
    Continue,
    /// `ABANDON`: any remaining actions, such as other lifecycle hooks, stop.
    Abandon,
}

impl HookResult {
    /// Returns AWS's word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            HookResult::Continue => "CONTINUE",
            HookResult::Abandon => "ABANDON",
        }
    }
}

/// A lifecycle hook of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hook {
    /// Name of the lifecycle hook, unique in its group.
    pub name: String,
    /// The transition at which it holds instances.
    pub transition: Transition,
    /// Time that an action lasts without a heartbeat.
    pub heartbeat_timeout: Duration,
    /// Time that an action lasts at most, whatever the heartbeats.
    pub global_timeout: Duration,
    /// Result of an action that times out.
    pub default_result: HookResult,
}

impl Hook {
    /// Returns the time between two heartbeats.
    #[must_use]
    pub fn beat(&self) -> Duration {
        (self.heartbeat_timeout / BEATS_PER_TIMEOUT).max(SHORTEST_BEAT)
    }
}

/// Auto Scaling's answer to a heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeartbeatAnswer {
    /// The action lasts another heartbeat time-out.
    Recorded,
    /// There is no action: not yet, or not any more.
    NoActiveAction,
}

/// Auto Scaling's answer to the completion of an action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CompletionAnswer {
    /// Auto Scaling has accepted the result; the action is over.
    Completed,
    /// There is no action: not yet, or not any more.
    NoActiveAction,
}

impl AutoScaling {
    #[cfg(test)]
    pub(crate) fn region(&self) -> Option<String> {
        self.client.config().region().map(ToString::to_string)
    }

    #[must_use]
    pub(super) fn new(client: Client) -> Self {
        Self { client }
    }

    /// Returns one instance; `None` if it is in no group.
    ///
    /// # Errors
    /// When Auto Scaling did not answer, or refused.
    pub async fn fetch_instance(&self, id: &str) -> Result<Option<GroupInstance>, AwsError> {
        Ok(self.fetch_listed(&[id]).await?.remove(id))
    }

    /// Returns those of `ids` that are in a group. An id that is missing from the result is in no group.
    ///
    /// # Errors
    /// When any part of the answer did not come: the rest proves nothing.
    pub async fn fetch_listed<S: AsRef<str>>(
        &self,
        ids: &[S],
    ) -> Result<BTreeMap<String, GroupInstance>, AwsError> {
        const OPERATION: &str = "DescribeAutoScalingInstances";
        let mut listed = BTreeMap::new();
        // Without ids the call would list the whole account: no chunk, no call.
        for chunk in ids.chunks(MAX_IDS) {
            let ids: Vec<String> = chunk.iter().map(|id| id.as_ref().to_owned()).collect();
            let resource = match ids.as_slice() {
                [id] => format!("instance {id}"),
                ids => format!("{} instances", ids.len()),
            };
            let mut page = None;
            loop {
                let answer = self
                    .client
                    .describe_auto_scaling_instances()
                    .set_instance_ids(Some(ids.clone()))
                    .set_next_token(page)
                    .send()
                    .await
                    .map_err(|error| AwsError::new(SERVICE, OPERATION, &resource, error))?;
                // AWS sends an empty list where there is none; a missing list is not an answer.
                let instances = answer
                    .auto_scaling_instances
                    .ok_or_else(|| AwsError::malformed(SERVICE, OPERATION, &resource))?;
                listed.extend(instances.into_iter().filter_map(group_instance));
                page = answer.next_token.filter(|token| !token.is_empty());
                if page.is_none() {
                    break;
                }
            }
        }
        Ok(listed)
    }

    /// Returns which of `ids` are in a group, by reliable answers: every call also asks about `own`, the asking
    /// instance, and an answer without it proves nothing about the others.
    ///
    /// # Errors
    /// As for [`Self::fetch_listed`].
    pub async fn survey(&self, own: &str, ids: &BTreeSet<&str>) -> Result<Survey, AwsError> {
        let others: Vec<&str> =
            ids.iter().copied().filter(|id| *id != own && is_instance_id(id)).collect();
        let mut survey = Survey::default();
        for chunk in others.chunks(MAX_IDS - 1) {
            let mut asked = chunk.to_vec();
            asked.push(own);
            let listed = self.fetch_listed(&asked).await?;
            if listed.contains_key(own) {
                survey.answered.extend(asked.into_iter().map(str::to_owned));
                survey.listed.extend(listed);
            }
        }
        Ok(survey)
    }

    /// Returns all instances of the groups with the tag `skep:cluster` and this value, and of those with these names,
    /// without warm pools. A missing instance proves nothing: a group that does not exist has none, and neither has an
    /// empty answer.
    ///
    /// # Errors
    /// When Auto Scaling did not answer, or refused.
    pub async fn fetch_groups(
        &self,
        cluster: &str,
        names: &BTreeSet<&str>,
    ) -> Result<BTreeMap<String, GroupInstance>, AwsError> {
        let tagged = Filter::builder().name(CLUSTER_FILTER).values(cluster).build();
        let call = self.client.describe_auto_scaling_groups().filters(tagged);
        let mut groups = describe(call, &format!("groups of cluster {cluster}")).await?;
        let is_missing = |name: &&&str| {
            groups.iter().all(|group| group.auto_scaling_group_name.as_deref() != Some(**name))
        };
        // Groups from before the tag, or that the operator's configuration names instead.
        let others: Vec<String> =
            names.iter().filter(is_missing).map(|name| (*name).to_owned()).collect();
        // Without names the call would list the whole account: no chunk, no call.
        for names in others.chunks(MAX_GROUPS) {
            let resource = format!("{} groups", names.len());
            let call = self.client.describe_auto_scaling_groups();
            let call = call.set_auto_scaling_group_names(Some(names.to_vec()));
            groups.extend(describe(call, &resource).await?);
        }
        Ok(groups.into_iter().flat_map(instances).collect())
    }

    /// Reports an instance as unhealthy: its group terminates and replaces it, by way of its hook. Within the group's
    /// grace period after a launch the report has no effect.
    ///
    /// # Errors
    /// When Auto Scaling did not answer, or refused.
    pub async fn set_unhealthy(&self, instance: &str) -> Result<(), AwsError> {
        let call = self.client.set_instance_health().instance_id(instance);
        let call = call.health_status("Unhealthy").should_respect_grace_period(true);
        let resource = format!("instance {instance}");
        let answer = call.send().await;
        answer.map_err(|error| AwsError::new(SERVICE, "SetInstanceHealth", &resource, error))?;
        Ok(())
    }

    /// Sets whether scale-in leaves an instance of a group alone.
    ///
    /// # Errors
    /// When Auto Scaling did not answer, or refused, as it does when the instance is on its way into or out of service.
    pub async fn set_protection(
        &self,
        group: &str,
        instance: &str,
        is_protected: bool,
    ) -> Result<(), AwsError> {
        let call = self.client.set_instance_protection().auto_scaling_group_name(group);
        let call = call.instance_ids(instance).protected_from_scale_in(is_protected);
        let resource = format!("instance {instance}");
        let answer = call.send().await;
        answer
            .map_err(|error| AwsError::new(SERVICE, "SetInstanceProtection", &resource, error))?;
        Ok(())
    }

    /// Returns the hooks of a group; empty if it has none.
    ///
    /// # Errors
    /// When Auto Scaling did not answer, or refused, as it does for a group that does not exist.
    pub async fn fetch_hooks(&self, group: &str) -> Result<Vec<Hook>, AwsError> {
        const OPERATION: &str = "DescribeLifecycleHooks";
        let resource = format!("group {group}");
        let answer = self
            .client
            .describe_lifecycle_hooks()
            .auto_scaling_group_name(group)
            .send()
            .await
            .map_err(|error| AwsError::new(SERVICE, OPERATION, &resource, error))?;
        let hooks = answer
            .lifecycle_hooks
            .ok_or_else(|| AwsError::malformed(SERVICE, OPERATION, &resource))?;
        Ok(hooks.into_iter().filter_map(hook).collect())
    }

    /// Makes a hook's action on `instance` last another heartbeat time-out.
    ///
    /// # Errors
    /// When Auto Scaling did not answer, or refused for a reason other than a missing action.
    pub async fn heartbeat(
        &self,
        hook: &str,
        group: &str,
        instance: &str,
    ) -> Result<HeartbeatAnswer, AwsError> {
        let answer = self
            .client
            .record_lifecycle_action_heartbeat()
            .lifecycle_hook_name(hook)
            .auto_scaling_group_name(group)
            .instance_id(instance)
            .send()
            .await;
        let resource = format!("hook {hook} of group {group}");
        let answer = match answer {
            Ok(_) => Ok(HeartbeatAnswer::Recorded),
            Err(error) => unless_no_action(AwsError::new(
                SERVICE,
                "RecordLifecycleActionHeartbeat",
                &resource,
                error,
            ))
            .map(|()| HeartbeatAnswer::NoActiveAction),
        };
        metrics().heartbeat(match &answer {
            Ok(HeartbeatAnswer::Recorded) => "recorded",
            Ok(HeartbeatAnswer::NoActiveAction) => "no_active_action",
            Err(_) => "failed",
        });
        answer
    }

    /// Completes a hook's action on `instance`: Auto Scaling continues with the instance.
    ///
    /// # Errors
    /// When Auto Scaling did not answer, or refused for a reason other than a missing action.
    pub async fn complete(
        &self,
        hook: &str,
        group: &str,
        instance: &str,
        result: HookResult,
    ) -> Result<CompletionAnswer, AwsError> {
        let answer = self
            .client
            .complete_lifecycle_action()
            .lifecycle_hook_name(hook)
            .auto_scaling_group_name(group)
            .instance_id(instance)
            .lifecycle_action_result(result.as_str())
            .send()
            .await;
        let resource = format!("hook {hook} of group {group}");
        match answer {
            Ok(_) => Ok(CompletionAnswer::Completed),
            Err(error) => {
                let error = AwsError::new(SERVICE, "CompleteLifecycleAction", &resource, error);
                unless_no_action(error).map(|()| CompletionAnswer::NoActiveAction)
            }
        }
    }
}

/// Returns the hook of a transition: the configured one, the only one, or the one whose name begins with `skep`.
#[must_use]
pub fn choose_hook(
    mut hooks: Vec<Hook>,
    transition: Transition,
    configured: Option<&str>,
) -> Option<Hook> {
    hooks.retain(|hook| hook.transition == transition);
    if let Some(name) = configured {
        return hooks.into_iter().find(|hook| hook.name == name);
    }
    if hooks.len() < 2 {
        return hooks.pop();
    }
    let ours = hooks.into_iter().find(|hook| hook.name.starts_with("skep"));
    if ours.is_none() {
        tracing::error!(
            "the group has several {transition:?} hooks, and no name begins with skep; set autoscaling.launch_hook and autoscaling.termination_hook"
        );
    }
    ours
}

/// Treats `ValidationError: No active Lifecycle Action found with instance ID i-…` as an answer.
fn unless_no_action(error: AwsError) -> Result<(), AwsError> {
    let is_answer = error.kind == AwsErrorKind::Validation
        && error.message.to_ascii_lowercase().contains("no active lifecycle action");
    if is_answer { Ok(()) } else { Err(error) }
}

/// Returns the instances of a group, by id.
fn instances(group: AutoScalingGroup) -> impl Iterator<Item = (String, GroupInstance)> {
    let settings = Some(GroupSettings::of(&group));
    let name = group.auto_scaling_group_name.unwrap_or_default();
    group.instances.into_iter().flatten().filter_map(move |instance| {
        let state = instance
            .lifecycle_state
            .as_ref()
            .map(aws_sdk_autoscaling::types::LifecycleState::as_str);
        let it = GroupInstance {
            group: name.clone(),
            lifecycle_state: state.unwrap_or_default().into(),
            health: instance.health_status.unwrap_or_default(),
            protected: instance.protected_from_scale_in,
            settings,
        };
        Some((instance.instance_id?, it))
    })
}

/// Returns the groups of all pages.
async fn describe(
    call: DescribeAutoScalingGroupsFluentBuilder,
    resource: &str,
) -> Result<Vec<AutoScalingGroup>, AwsError> {
    let (mut groups, mut pages) = (Vec::new(), call.into_paginator().send());
    while let Some(page) = pages.next().await {
        let page = page.map_err(|error| {
            AwsError::new(SERVICE, "DescribeAutoScalingGroups", resource, error)
        })?;
        groups.extend(page.auto_scaling_groups.unwrap_or_default());
    }
    Ok(groups)
}

fn group_instance(details: AutoScalingInstanceDetails) -> Option<(String, GroupInstance)> {
    let instance = GroupInstance {
        group: details.auto_scaling_group_name?,
        lifecycle_state: details.lifecycle_state.unwrap_or_default().as_str().into(),
        health: details.health_status.unwrap_or_default(),
        protected: details.protected_from_scale_in,
        settings: None,
    };
    Some((details.instance_id?, instance))
}

fn hook(hook: LifecycleHook) -> Option<Hook> {
    let seconds = |n: Option<i32>| {
        n.and_then(|n| u64::try_from(n).ok()).filter(|n| *n > 0).map(Duration::from_secs)
    };
    let heartbeat_timeout = seconds(hook.heartbeat_timeout).unwrap_or(DEFAULT_HEARTBEAT);
    Some(Hook {
        name: hook.lifecycle_hook_name?,
        transition: match hook.lifecycle_transition.as_deref() {
            Some("autoscaling:EC2_INSTANCE_LAUNCHING") => Transition::Launching,
            Some("autoscaling:EC2_INSTANCE_TERMINATING") => Transition::Terminating,
            _ => Transition::Other,
        },
        heartbeat_timeout,
        global_timeout: seconds(hook.global_timeout)
            .unwrap_or(LONGEST_ACTION.min(heartbeat_timeout * HEARTBEATS_PER_ACTION)),
        // AWS's own default is ABANDON.
        default_result: match hook.default_result.as_deref() {
            Some("CONTINUE") => HookResult::Continue,
            _ => HookResult::Abandon,
        },
    })
}

#[cfg(test)]
pub(crate) mod tests;
