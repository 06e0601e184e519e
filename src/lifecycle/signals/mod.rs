//! Reports the results of this node's boot and departure to CloudFormation and Auto Scaling.
//!
//! Guarantees: skep reports success after Ready and never before; it records a signal only once that has arrived, and
//! retries it until then, with growing pauses and one log line per reason; it completes a departure's hook only when
//! the node has left or its deadline has come.

mod marker;
mod termination_hook;
mod warm_pool;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::Instant;

use crate::clients::aws::autoscaling::{
    AutoScaling, CompletionAnswer, Hook, HookResult, Transition, choose_hook,
};
use crate::clients::aws::cloudformation::{CloudFormation, SignalAnswer, SignalStatus};
use crate::clients::aws::{Aws, AwsError};
use crate::common::errors::chain;
use crate::common::fact::Fact;
use crate::common::instance::{Instance, StackResource};
use crate::common::retry::Backoff;
use crate::common::state::StateHandle;
use crate::config::Settings;

use marker::{Marker, Signal};
pub use termination_hook::TerminationHook;

/// Time between two attempts: the whole account shares the request limit of Auto Scaling.
const RETRY_INTERVAL: Duration = Duration::from_secs(5);
/// Number of attempts at that interval: a launch hook starts to wait within seconds, and a node that has failed has
/// [`FAILURE_BUDGET`].
const QUICK_ATTEMPTS: u32 = 6;
/// Later pauses while AWS does not answer, or no stack or hook waits yet: an outage of AWS takes minutes, and a stack
/// or a hook waits for minutes as well.
pub const PASSING: Backoff = Backoff::new(Duration::from_secs(10), Duration::from_secs(60));
/// Later pauses while AWS refuses the signal: the operator must grant a permission first. A thousand nodes then send
/// about three requests a second at most.
const REFUSED: Backoff = Backoff::new(Duration::from_secs(10), Duration::from_secs(300));
/// How long a node that has failed tries to report that before it exits.
const FAILURE_BUDGET: Duration = Duration::from_secs(30);

/// Reports the results of boot and departure. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Announcer {
    instance: Instance,
    settings: Settings,
    autoscaling: AutoScaling,
    cloudformation: CloudFormation,
    /// The termination hook that was found last, and its group.
    known_hook: Arc<Mutex<Option<(String, Hook)>>>,
    /// Shows the trouble that delays the completion of a hook.
    state: StateHandle,
}

impl Announcer {
    /// Returns an announcer for `instance`. Its trouble is not shown until [`Announcer::showing`] sets the state.
    #[must_use]
    pub fn new(instance: &Instance, settings: &Settings, aws: &Aws) -> Self {
        Self {
            instance: instance.clone(),
            settings: settings.clone(),
            autoscaling: aws.autoscaling.clone(),
            cloudformation: aws.cloudformation.clone(),
            known_hook: Arc::default(),
            state: StateHandle::default(),
        }
    }

    /// Returns the same announcer, which shows its trouble in `state`.
    #[must_use]
    pub fn showing(self, state: &StateHandle) -> Self {
        Self { state: state.clone(), ..self }
    }

    /// Returns the same announcer with newer facts about the instance.
    #[must_use]
    pub fn of(&self, instance: Instance) -> Self {
        Self { instance, ..self.clone() }
    }

    /// Reports that this node is Ready: SUCCESS and CONTINUE. Returns once both have arrived.
    pub async fn ready(&self) {
        let marker = Marker::of(&self.settings.state_dir, &self.instance.id);
        tokio::join!(
            self.send_until_accepted(&marker, Signal::CloudFormation, async || {
                self.signal(SignalStatus::Success).await
            }),
            self.send_until_accepted(&marker, Signal::LaunchHook, async || {
                self.complete_launch(HookResult::Continue).await
            }),
        );
    }

    /// Whether all that [`Self::ready`] reports has arrived before.
    pub async fn has_reported(&self) -> bool {
        let marker = Marker::of(&self.settings.state_dir, &self.instance.id);
        marker.is_set(Signal::CloudFormation).await && marker.is_set(Signal::LaunchHook).await
    }

    /// Returns how long the launch hook waits without a heartbeat; `None` without a hook.
    ///
    /// # Errors
    /// When Auto Scaling fails.
    pub async fn launch_timeout(&self) -> Result<Option<Duration>, AwsError> {
        let hook = self.find_hook(Transition::Launching).await?;
        Ok(hook.map(|(_, hook)| hook.heartbeat_timeout))
    }

    /// Forgets that the launch hook was completed: it may fire again for this instance.
    pub async fn forget_launch(&self) {
        let marker = Marker::of(&self.settings.state_dir, &self.instance.id);
        marker.clear(Signal::LaunchHook).await;
    }

    /// Reports that this node will never be Ready: FAILURE and ABANDON, unless success was reported before. Takes 30 s
    /// at most.
    pub async fn failed(&self) {
        let marker = Marker::of(&self.settings.state_dir, &self.instance.id);
        let saying = async {
            tokio::join!(
                self.send_until_accepted(&marker, Signal::CloudFormation, async || {
                    self.signal(SignalStatus::Failure).await
                }),
                self.send_until_accepted(&marker, Signal::LaunchHook, async || {
                    self.complete_launch(HookResult::Abandon).await
                }),
            )
        };
        if tokio::time::timeout(FAILURE_BUDGET, saying).await.is_err() {
            tracing::warn!(
                "could not report the failure to CloudFormation and the launch hook within {FAILURE_BUDGET:?}"
            );
        }
    }

    /// Sends the signal until it has arrived, and records that. `say` makes one attempt.
    async fn send_until_accepted(
        &self,
        marker: &Marker,
        signal: Signal,
        say: impl AsyncFn() -> Result<Delivery, AwsError>,
    ) {
        if !marker.is_set(signal).await && repeat(signal, say).await {
            marker.set(signal).await;
        }
    }

    async fn signal(&self, status: SignalStatus) -> Result<Delivery, AwsError> {
        let settings = &self.settings.cloudformation;
        let configured =
            settings.stack.as_ref().zip(settings.resource.as_ref()).map(|(stack, resource)| {
                StackResource { stack: stack.clone(), logical_id: resource.clone() }
            });
        let Some(resource) = configured.or_else(|| self.instance.stack.clone()) else {
            return Ok(Delivery::NotNeeded);
        };
        if !settings.signal {
            return Ok(Delivery::NotNeeded);
        }
        let StackResource { stack, logical_id } = &resource;
        match self.cloudformation.signal(&resource, &self.instance.id, status).await? {
            SignalAnswer::Sent => {
                tracing::info!(stack, "signalled {status:?} to CloudFormation");
                Ok(Delivery::Arrived)
            }
            SignalAnswer::NotInProgress => {
                tracing::info!(stack, "CloudFormation does not wait for a signal of this stack");
                Ok(Delivery::Arrived)
            }
            // No stack has received it: the next start of skep sends it again.
            answer @ (SignalAnswer::NoSuchStack | SignalAnswer::NoSuchResource) => {
                tracing::warn!(
                    stack,
                    logical_id,
                    ?answer,
                    "could not signal {status:?} to CloudFormation: in this region it has no such stack, or no such resource in that stack; check cloudformation.stack and cloudformation.resource, or that the stack still exists"
                );
                Ok(Delivery::NotNeeded)
            }
        }
    }

    async fn complete_launch(&self, result: HookResult) -> Result<Delivery, AwsError> {
        let Some((group, hook)) = self.find_hook(Transition::Launching).await? else {
            return Ok(Delivery::NotNeeded);
        };
        match self.complete_launch_of(&group, &hook, result).await? {
            CompletionAnswer::Completed => Ok(Delivery::Arrived),
            CompletionAnswer::NoActiveAction => {
                self.complete_launch_elsewhere(&group, result).await
            }
        }
    }

    async fn complete_launch_of(
        &self,
        group: &str,
        hook: &Hook,
        result: HookResult,
    ) -> Result<CompletionAnswer, AwsError> {
        let id = &self.instance.id;
        let answer = self.autoscaling.complete(&hook.name, group, id, result).await?;
        if answer == CompletionAnswer::Completed {
            tracing::info!(group, hook = hook.name, "launch hook: {result:?}");
        }
        Ok(answer)
    }

    /// Completes the launch hook of the group that has this instance now, by the answer of Auto Scaling, after the
    /// known group did not wait for it: an instance can be detached from one group and attached to another.
    async fn complete_launch_elsewhere(
        &self,
        known: &str,
        result: HookResult,
    ) -> Result<Delivery, AwsError> {
        let seen = self.autoscaling.fetch_instance(&self.instance.id).await?;
        let Some(seen) = seen.filter(|it| it.lifecycle_state.is_launching() != Fact::No) else {
            return Ok(Delivery::NotNeeded);
        };
        if seen.group == known {
            return Ok(Delivery::NotYet);
        }
        let Some(hook) = self.hook_of(&seen.group, Transition::Launching).await? else {
            return Ok(Delivery::NotNeeded);
        };
        Ok(match self.complete_launch_of(&seen.group, &hook, result).await? {
            CompletionAnswer::Completed => Delivery::Arrived,
            CompletionAnswer::NoActiveAction => Delivery::NotYet,
        })
    }

    /// Returns the group of this instance and its hook for a transition.
    async fn find_hook(&self, transition: Transition) -> Result<Option<(String, Hook)>, AwsError> {
        let known = self.settings.autoscaling.group.as_ref().or(self.instance.group.as_ref());
        let group = match (known, transition) {
            // A Ready node is usually in the group that launched it: this saves one call.
            (Some(group), Transition::Launching) => Some(group.clone()),
            _ => self.find_group(known).await?,
        };
        let Some(group) = group else { return Ok(None) };
        let hook = self.hook_of(&group, transition).await?;
        Ok(hook.map(|hook| (group, hook)))
    }

    /// Returns the group that has this instance now, by the answer of Auto Scaling; otherwise the known group. An
    /// answer that does not list the instance proves nothing while its termination is under way.
    async fn find_group(&self, known: Option<&String>) -> Result<Option<String>, AwsError> {
        match self.autoscaling.fetch_instance(&self.instance.id).await {
            Ok(Some(instance)) => Ok(Some(instance.group)),
            Ok(None) => Ok(known.cloned()),
            Err(error) => match known {
                Some(group) => {
                    let error = chain(&error);
                    tracing::warn!(group, "cannot tell which group has this instance now: {error}");
                    Ok(Some(group.clone()))
                }
                None => Err(error),
            },
        }
    }

    async fn hook_of(&self, group: &str, transition: Transition) -> Result<Option<Hook>, AwsError> {
        let settings = &self.settings.autoscaling;
        let configured = match transition {
            Transition::Launching => &settings.launch_hook,
            _ => &settings.termination_hook,
        };
        let hooks = self.autoscaling.fetch_hooks(group).await?;
        let is_own = settings.group.as_deref().or(self.instance.group.as_deref()) == Some(group);
        let hook = choose_hook(hooks.clone(), transition, configured.as_deref());
        // The configured name may belong only to a hook of an earlier group.
        Ok(if is_own { hook } else { hook.or_else(|| choose_hook(hooks, transition, None)) })
    }
}

/// The result of one attempt to send a signal.
#[derive(Debug, PartialEq, Eq)]
enum Delivery {
    Arrived,
    /// Nothing waits for it.
    NotNeeded,
    NotYet,
}

/// Sends a signal until it has arrived (`true`), or nothing waits for it (`false`). Logs the reason of a failed attempt
/// when it changes.
async fn repeat(signal: Signal, say: impl AsyncFn() -> Result<Delivery, AwsError>) -> bool {
    let mut said = String::new();
    let mut attempt = 0;
    loop {
        let mut backoff = PASSING;
        match say().await {
            Ok(Delivery::Arrived) => return true,
            Ok(Delivery::NotNeeded) => return false,
            Ok(Delivery::NotYet) => tracing::debug!("{signal:?}: not yet"),
            Err(error) => {
                if !error.is_retryable() {
                    backoff = REFUSED;
                }
                let why = chain(&error);
                if said != why {
                    tracing::warn!("retrying with growing pauses after: {why}");
                    said = why;
                }
            }
        }
        tokio::time::sleep(wait(backoff, attempt)).await;
        attempt = attempt.saturating_add(1);
    }
}

/// Returns the pause after attempt number `attempt` to send a signal, counted from 0, with jitter. `backoff` has the
/// pauses after the quick attempts.
#[must_use]
pub fn wait(backoff: Backoff, attempt: u32) -> Duration {
    attempt.checked_sub(QUICK_ATTEMPTS).map_or_else(retry_interval, |retry| backoff.wait(retry))
}

/// Returns the interval with jitter, so that nodes that start together do not send together.
#[must_use]
pub fn retry_interval() -> Duration {
    RETRY_INTERVAL.mul_f64(0.75 + 0.5 * fastrand::f64())
}

/// Pauses before the next attempt, never beyond `deadline`.
async fn pause(deadline: Instant) {
    tokio::time::sleep_until(deadline.min(Instant::now() + retry_interval())).await;
}

#[cfg(test)]
pub(crate) mod tests;
