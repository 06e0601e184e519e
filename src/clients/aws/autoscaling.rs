//! Reads instances and hooks from EC2 Auto Scaling, and sends heartbeats and results of lifecycle actions.
//!
//! Guarantees:
//! - an instance is missing from a result only when Auto Scaling answered, in full, without it: a failure, an empty
//!   body or a missing page is an error;
//! - "no active lifecycle action" is an answer: the caller must find out whether it is too early or too late;
//! - the instance id identifies an action, so no token is needed.
//!
//! All calls share one unpublished limit per account and region: poll rarely.

mod answers;
mod group_settings;
mod lifecycle;
mod permission_probe;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use aws_config::SdkConfig;
use roxmltree::Node;

use crate::clients::aws::query::{Api, Fields, Query, field, members};
use crate::clients::aws::{AwsError, AwsErrorKind};
use crate::common::instance::is_instance_id;
use crate::telemetry::metrics::metrics;

use answers::{Group, groups, hooks, listed_instances};
pub use group_settings::GroupSettings;
pub use lifecycle::LifecycleState;

const API: Api = Api {
    service: "autoscaling",
    signed_as: "autoscaling",
    endpoint: "AWS_ENDPOINT_URL_AUTO_SCALING",
    version: "2011-01-01",
};
/// AWS's limit of instance ids in one DescribeAutoScalingInstances call, and of one page.
const MAX_IDS: usize = 50;
/// AWS's limit of names in one DescribeAutoScalingGroups call.
const MAX_GROUPS: usize = 50;
/// The tag that names the cluster of a group, as a filter.
const CLUSTER_FILTER: &str = "tag:skep:cluster";
/// Heartbeats per heartbeat time-out: two can be lost before the third is too late.
const BEATS_PER_TIMEOUT: u32 = 3;
/// Shortest time between heartbeats: the account shares Auto Scaling's limit, and hooks in tests have time-outs of
/// seconds.
const SHORTEST_BEAT: Duration = Duration::from_secs(1);

/// Auto Scaling as skep uses it. Cheap to clone.
#[derive(Clone, Debug)]
pub struct AutoScaling(Arc<Query>);

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
        self.0.region()
    }

    pub(super) fn new(config: &SdkConfig) -> Self {
        Self(Arc::new(Query::new(config, API)))
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
            let resource = match chunk {
                [id] => format!("instance {}", id.as_ref()),
                ids => format!("{} instances", ids.len()),
            };
            let ids: Fields = members("InstanceIds", chunk.iter().map(AsRef::as_ref)).collect();
            listed.extend(self.pages(OPERATION, &resource, &ids, listed_instances).await?);
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
        let tagged = vec![
            field("Filters.member.1.Name", CLUSTER_FILTER),
            field("Filters.member.1.Values.member.1", cluster),
        ];
        let mut groups = self.describe(&tagged, &format!("groups of cluster {cluster}")).await?;
        let is_missing = |name: &&&str| groups.iter().all(|group| group.name != **name);
        // Groups from before the tag, or that the operator's configuration names instead.
        let others: Vec<String> =
            names.iter().filter(is_missing).map(|name| (*name).to_owned()).collect();
        // Without names the call would list the whole account: no chunk, no call.
        for names in others.chunks(MAX_GROUPS) {
            let resource = format!("{} groups", names.len());
            let named: Fields = members("AutoScalingGroupNames", names).collect();
            groups.extend(self.describe(&named, &resource).await?);
        }
        Ok(groups.into_iter().flat_map(|group| group.instances).collect())
    }

    /// Returns the groups of all pages.
    async fn describe(&self, which: &Fields, resource: &str) -> Result<Vec<Group>, AwsError> {
        self.pages("DescribeAutoScalingGroups", resource, which, groups).await
    }

    /// Reads all pages of a list.
    async fn pages<T>(
        &self,
        operation: &'static str,
        resource: &str,
        fields: &Fields,
        read: impl Fn(Node<'_, '_>) -> Result<(Vec<T>, Option<String>), String>,
    ) -> Result<Vec<T>, AwsError> {
        let (mut all, mut token) = (Vec::new(), None);
        loop {
            let next = token.map(|token: String| field("NextToken", token));
            let fields = fields.iter().cloned().chain(next).collect();
            let (page, next) = self.0.call(operation, resource, fields, &read).await?;
            all.extend(page);
            if next.is_none() {
                return Ok(all);
            }
            token = next;
        }
    }

    /// Reports an instance as unhealthy: its group terminates and replaces it, by way of its hook. Within the group's
    /// grace period after a launch the report has no effect.
    ///
    /// # Errors
    /// When Auto Scaling did not answer, or refused.
    pub async fn set_unhealthy(&self, instance: &str) -> Result<(), AwsError> {
        let respects = field("ShouldRespectGracePeriod", "true");
        self.set_health(instance, "Unhealthy", Some(respects)).await
    }

    async fn set_health(
        &self,
        instance: &str,
        status: &str,
        more: Option<(String, String)>,
    ) -> Result<(), AwsError> {
        let fields = [field("InstanceId", instance), field("HealthStatus", status)];
        let fields = fields.into_iter().chain(more).collect();
        let resource = format!("instance {instance}");
        self.0.call("SetInstanceHealth", &resource, fields, |_| Ok(())).await
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
        let fields = vec![
            field("AutoScalingGroupName", group),
            field("InstanceIds.member.1", instance),
            field("ProtectedFromScaleIn", is_protected.to_string()),
        ];
        let resource = format!("instance {instance}");
        self.0.call("SetInstanceProtection", &resource, fields, |_| Ok(())).await
    }

    /// Returns the hooks of a group; empty if it has none.
    ///
    /// # Errors
    /// When Auto Scaling did not answer, or refused, as it does for a group that does not exist.
    pub async fn fetch_hooks(&self, group: &str) -> Result<Vec<Hook>, AwsError> {
        let fields = vec![field("AutoScalingGroupName", group)];
        self.0.call("DescribeLifecycleHooks", &format!("group {group}"), fields, hooks).await
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
        let answer =
            self.act("RecordLifecycleActionHeartbeat", (hook, group, instance), None).await;
        let answer = answer.map(|has_action| match has_action {
            true => HeartbeatAnswer::Recorded,
            false => HeartbeatAnswer::NoActiveAction,
        });
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
        let result = field("LifecycleActionResult", result.as_str());
        let action = (hook, group, instance);
        let has_action = self.act("CompleteLifecycleAction", action, Some(result)).await?;
        Ok(match has_action {
            true => CompletionAnswer::Completed,
            false => CompletionAnswer::NoActiveAction,
        })
    }

    /// Makes a call about a hook's action. Returns whether there is one.
    async fn act(
        &self,
        operation: &'static str,
        (hook, group, instance): (&str, &str, &str),
        result: Option<(String, String)>,
    ) -> Result<bool, AwsError> {
        let fields = [
            field("LifecycleHookName", hook),
            field("AutoScalingGroupName", group),
            field("InstanceId", instance),
        ];
        let fields = fields.into_iter().chain(result).collect();
        let resource = format!("hook {hook} of group {group}");
        match self.0.call(operation, &resource, fields, |_| Ok(())).await {
            Ok(()) => Ok(true),
            Err(error) => unless_no_action(error).map(|()| false),
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

#[cfg(test)]
pub(crate) mod tests;
