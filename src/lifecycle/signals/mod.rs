//! Telling CloudFormation and Auto Scaling the truth about this node.
//!
//! Guarantees: success is said after Ready and never before; each signal is remembered only once
//! it has arrived, and is retried until then, ever more seldom and with one log line per reason; a
//! departure's hook is completed only when the node has left or its deadline is there.

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
use crate::common::fact::Fact;
use crate::common::instance::{Instance, StackResource};
use crate::common::retry::Backoff;
use crate::common::state::StateHandle;
use crate::config::Settings;

use marker::{Marker, Signal};
pub use termination_hook::TerminationHook;

/// Between two attempts: Auto Scaling's limit is shared by the whole account.
const RETRY_INTERVAL: Duration = Duration::from_secs(5);
/// The first attempts come so quickly: a launch hook begins to wait within seconds, and a node that has
/// failed has [`FAILURE_BUDGET`].
const QUICK_ATTEMPTS: u32 = 6;
/// After those, while there is no answer or nobody waits yet: an outage of AWS takes minutes, and a stack
/// or a hook waits for minutes as well.
const PASSING: Backoff = Backoff::new(Duration::from_secs(10), Duration::from_secs(60));
/// After those, where the signal is refused: somebody has to grant a permission first. A thousand nodes
/// ask no more than some three times a second then.
const REFUSED: Backoff = Backoff::new(Duration::from_secs(10), Duration::from_secs(300));
/// A node that has failed says so for this long, then exits all the same.
const FAILURE_BUDGET: Duration = Duration::from_secs(30);

/// Says how boot and departure went. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Announcer {
    instance: Instance,
    settings: Settings,
    autoscaling: AutoScaling,
    cloudformation: CloudFormation,
    /// The termination hook that was found last, and its group.
    known_hook: Arc<Mutex<Option<(String, Hook)>>>,
    /// Where it shows what holds up a departure's hook.
    state: StateHandle,
}

impl Announcer {
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

    /// The same, which shows in `state` what holds it up.
    #[must_use]
    pub fn showing(self, state: &StateHandle) -> Self {
        Self { state: state.clone(), ..self }
    }

    /// The same for what is known of the instance by now.
    #[must_use]
    pub fn of(&self, instance: Instance) -> Self {
        Self { instance, ..self.clone() }
    }

    /// Says that this node is Ready: SUCCESS and CONTINUE. Returns once both have arrived.
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

    /// The launch hook may fire again for this instance.
    pub async fn forget_launch(&self) {
        let marker = Marker::of(&self.settings.state_dir, &self.instance.id);
        marker.clear(Signal::LaunchHook).await;
    }

    /// Says that this node will never be Ready: FAILURE and ABANDON, unless success was said
    /// before. Bounded.
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
            tracing::warn!("the failure could not be said within {FAILURE_BUDGET:?}");
        }
    }

    /// Repeats until it has arrived, and remembers that. `say` answers whether to ask again.
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
                tracing::info!(stack, "CloudFormation waits for no signal of this stack");
                Ok(Delivery::Arrived)
            }
            // Nobody has got it: the next start of skep sends it again.
            answer @ (SignalAnswer::NoSuchStack | SignalAnswer::NoSuchResource) => {
                tracing::warn!(
                    stack,
                    logical_id,
                    ?answer,
                    "{status:?} was not signalled to CloudFormation: it does not know this stack or this resource in it, in this region; check cloudformation.stack and cloudformation.resource, or that the stack still exists"
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

    /// The group that is known here does not wait for this instance: Auto Scaling says which one has it now,
    /// since an instance can be detached from one and attached to another.
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

    /// The group of this instance and its hook for a transition.
    async fn find_hook(&self, transition: Transition) -> Result<Option<(String, Hook)>, AwsError> {
        let known = self.settings.autoscaling.group.as_ref().or(self.instance.group.as_ref());
        let group = match (known, transition) {
            // Whoever is Ready is mostly in the group that has launched it: one call less.
            (Some(group), Transition::Launching) => Some(group.clone()),
            _ => self.find_group(known).await?,
        };
        let Some(group) = group else { return Ok(None) };
        let hook = self.hook_of(&group, transition).await?;
        Ok(hook.map(|hook| (group, hook)))
    }

    /// The group that has this instance now, by Auto Scaling's word; where it has none, the one that is known. An
    /// answer that does not list the instance proves nothing while its termination is under way.
    async fn find_group(&self, known: Option<&String>) -> Result<Option<String>, AwsError> {
        match self.autoscaling.fetch_instance(&self.instance.id).await {
            Ok(Some(instance)) => Ok(Some(instance.group)),
            Ok(None) => Ok(known.cloned()),
            Err(error) => match known {
                Some(group) => {
                    let error = crate::common::errors::chain(&error);
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
        // The name that is configured may be that of an earlier group's hook alone.
        Ok(if is_own { hook } else { hook.or_else(|| choose_hook(hooks, transition, None)) })
    }
}

/// What came of saying something.
#[derive(Debug, PartialEq, Eq)]
enum Delivery {
    Arrived,
    /// Nobody waits for it.
    NotNeeded,
    NotYet,
}

/// Says it until it has arrived (`true`), or nobody waits for it. Why it has not is logged when that
/// changes.
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
                let why = crate::common::errors::chain(&error);
                if said != why {
                    tracing::warn!("retrying, ever more seldom, after: {why}");
                    said = why;
                }
            }
        }
        tokio::time::sleep(wait(backoff, attempt)).await;
        attempt = attempt.saturating_add(1);
    }
}

/// The wait after the attempt of this number, which counts from 0.
fn wait(backoff: Backoff, attempt: u32) -> Duration {
    attempt.checked_sub(QUICK_ATTEMPTS).map_or_else(retry_interval, |retry| backoff.wait(retry))
}

/// With jitter, so that nodes that begin together do not ask together.
fn retry_interval() -> Duration {
    RETRY_INTERVAL.mul_f64(0.75 + 0.5 * fastrand::f64())
}

/// The wait before the next attempt, never beyond `deadline`.
async fn pause(deadline: Instant) {
    tokio::time::sleep_until(deadline.min(Instant::now() + retry_interval())).await;
}

#[cfg(test)]
pub(crate) mod tests;
