//! Telling CloudFormation and Auto Scaling the truth about this node.
//!
//! Guarantees: success is said after Ready and never before; each signal is remembered only once
//! it has arrived, and is retried until then, ever more seldom and with one log line per reason; a
//! departure's hook is completed only when the node has left or its deadline is there.

mod hooks;
mod marker;
mod warm_pool;

use std::time::Duration;

use tokio::time::Instant;

use crate::autoscaling::{
    AutoScaling, CompletionAnswer, Hook, HookResult, Transition, choose_hook,
};
use crate::aws::{Aws, AwsError};
use crate::cloudformation::{CloudFormation, SignalAnswer, SignalStatus};
use crate::config::Settings;
use crate::instance::{Instance, StackResource};
use crate::retry::Backoff;

pub use hooks::TerminationHook;
use marker::{Marker, Signal};

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
}

impl Announcer {
    #[must_use]
    pub fn new(instance: &Instance, settings: &Settings, aws: &Aws) -> Self {
        Self {
            instance: instance.clone(),
            settings: settings.clone(),
            autoscaling: aws.autoscaling.clone(),
            cloudformation: aws.cloudformation.clone(),
        }
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
            self.until_said(&marker, Signal::CloudFormation, async || {
                self.signal(SignalStatus::Success).await
            }),
            self.until_said(&marker, Signal::LaunchHook, async || {
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
                self.until_said(&marker, Signal::CloudFormation, async || {
                    self.signal(SignalStatus::Failure).await
                }),
                self.until_said(&marker, Signal::LaunchHook, async || {
                    self.complete_launch(HookResult::Abandon).await
                }),
            )
        };
        if tokio::time::timeout(FAILURE_BUDGET, saying).await.is_err() {
            tracing::warn!("the failure could not be said within {FAILURE_BUDGET:?}");
        }
    }

    /// Repeats until it has arrived, and remembers that. `say` answers whether to ask again.
    async fn until_said(
        &self,
        marker: &Marker,
        signal: Signal,
        say: impl AsyncFn() -> Result<Said, AwsError>,
    ) {
        if !marker.is_set(signal).await && repeat(signal, say).await {
            marker.set(signal).await;
        }
    }

    async fn signal(&self, status: SignalStatus) -> Result<Said, AwsError> {
        let settings = &self.settings.cloudformation;
        let configured =
            settings.stack.as_ref().zip(settings.resource.as_ref()).map(|(stack, resource)| {
                StackResource { stack: stack.clone(), logical_id: resource.clone() }
            });
        let Some(resource) = configured.or_else(|| self.instance.stack.clone()) else {
            return Ok(Said::NotNeeded);
        };
        if !settings.signal {
            return Ok(Said::NotNeeded);
        }
        let StackResource { stack, logical_id } = &resource;
        match self.cloudformation.signal(&resource, &self.instance.id, status).await? {
            SignalAnswer::Sent => {
                tracing::info!(stack, "signalled {status:?} to CloudFormation");
                Ok(Said::Arrived)
            }
            SignalAnswer::NotInProgress => {
                tracing::info!(stack, "CloudFormation waits for no signal of this stack");
                Ok(Said::Arrived)
            }
            // Nobody has got it: the next start of skep sends it again.
            answer @ (SignalAnswer::NoSuchStack | SignalAnswer::NoSuchResource) => {
                tracing::warn!(
                    stack,
                    logical_id,
                    ?answer,
                    "{status:?} was not signalled to CloudFormation: it does not know this stack or this resource in it, in this region; check cloudformation.stack and cloudformation.resource, or that the stack still exists"
                );
                Ok(Said::NotNeeded)
            }
        }
    }

    async fn complete_launch(&self, result: HookResult) -> Result<Said, AwsError> {
        let Some((group, hook)) = self.find_hook(Transition::Launching).await? else {
            return Ok(Said::NotNeeded);
        };
        match self.autoscaling.complete(&hook.name, &group, &self.instance.id, result).await? {
            CompletionAnswer::Completed => {
                tracing::info!(hook = hook.name, "launch hook: {result:?}");
                Ok(Said::Arrived)
            }
            CompletionAnswer::NoActiveAction => {
                let seen = self.autoscaling.fetch_instance(&self.instance.id).await?;
                let is_launching =
                    seen.is_some_and(|instance| instance.lifecycle_state.starts_with("Pending"));
                Ok(if is_launching { Said::NotYet } else { Said::NotNeeded })
            }
        }
    }

    /// The group of this instance and its hook for a transition.
    async fn find_hook(&self, transition: Transition) -> Result<Option<(String, Hook)>, AwsError> {
        let settings = &self.settings.autoscaling;
        let configured = match transition {
            Transition::Launching => &settings.launch_hook,
            _ => &settings.termination_hook,
        };
        let group = match settings.group.clone().or_else(|| self.instance.group.clone()) {
            Some(group) => group,
            None => match self.autoscaling.fetch_instance(&self.instance.id).await? {
                Some(instance) => instance.group,
                None => return Ok(None),
            },
        };
        let hooks = self.autoscaling.fetch_hooks(&group).await?;
        let hook = choose_hook(hooks, transition, configured.as_deref());
        Ok(hook.map(|hook| (group, hook)))
    }
}

/// What came of saying something.
enum Said {
    Arrived,
    /// Nobody waits for it.
    NotNeeded,
    NotYet,
}

/// Says it until it has arrived (`true`), or nobody waits for it. Why it has not is logged when that
/// changes.
async fn repeat(signal: Signal, say: impl AsyncFn() -> Result<Said, AwsError>) -> bool {
    let mut said = String::new();
    let mut attempt = 0;
    loop {
        let mut backoff = PASSING;
        match say().await {
            Ok(Said::Arrived) => return true,
            Ok(Said::NotNeeded) => return false,
            Ok(Said::NotYet) => tracing::debug!("{signal:?}: not yet"),
            Err(error) => {
                if !error.is_retryable() {
                    backoff = REFUSED;
                }
                let why = crate::errors::chain(&error);
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
mod tests {
    use std::cell::RefCell;

    use super::*;
    use crate::aws::AwsErrorKind;
    use crate::aws::stub::Stub;

    fn refused(kind: AwsErrorKind) -> AwsError {
        AwsError {
            service: "cloudformation",
            operation: "SignalResource",
            resource: "stack prod".into(),
            kind,
            code: None,
            message: String::new(),
        }
    }

    /// The waits between attempts that all end alike, within a day.
    async fn waits(answer: impl Fn() -> Result<Said, AwsError>) -> Vec<Duration> {
        let at = RefCell::new(Vec::new());
        let repeated = repeat(Signal::CloudFormation, async || {
            at.borrow_mut().push(Instant::now());
            answer()
        });
        let day = Duration::from_secs(24 * 3600);
        assert!(tokio::time::timeout(day, repeated).await.is_err(), "it never arrives");
        at.take().windows(2).map(|pair| pair[1] - pair[0]).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_signal_that_is_refused_is_sent_ever_more_seldom() {
        for (kind, cap) in [(AwsErrorKind::AccessDenied, 300), (AwsErrorKind::Failing, 60)] {
            let waits = waits(|| Err(refused(kind))).await;
            let (quick, later) = waits.split_at(QUICK_ATTEMPTS as usize);
            assert!(quick.iter().all(|wait| *wait <= RETRY_INTERVAL * 2), "{quick:?}");
            assert!(later[0] >= Duration::from_secs(10), "{later:?}");
            let cap = Duration::from_secs(cap);
            let tick = Duration::from_millis(2);
            let last = &later[5..];
            assert!(last.iter().all(|wait| *wait >= cap && *wait <= cap * 2 + tick), "{last:?}");
            assert!(last.iter().any(|wait| wait.abs_diff(last[0]) > tick), "no jitter: {last:?}");
        }
        let waits = waits(|| Ok(Said::NotYet)).await;
        assert!(waits.last().is_some_and(|wait| *wait >= Duration::from_secs(60)));
    }

    async fn announcer(stub: &Stub, state_dir: &std::path::Path) -> Announcer {
        let stack = StackResource { stack: "prod".into(), logical_id: "WorkerGroup".into() };
        let instance = Instance { stack: Some(stack), ..Instance::example() };
        let settings = Settings { state_dir: state_dir.to_owned(), ..Settings::default() };
        Announcer::new(&instance, &settings, &stub.aws().await)
    }

    #[tokio::test]
    async fn a_signal_that_nobody_has_got_is_not_marked_as_sent() {
        let (stub, dir) = (Stub::start().await, tempfile::tempdir().unwrap());
        let announcer = announcer(&stub, dir.path()).await;
        let marker = Marker::of(dir.path(), &announcer.instance.id);
        let send = async || {
            let say = async || announcer.signal(SignalStatus::Success).await;
            announcer.until_said(&marker, Signal::CloudFormation, say).await;
            (marker.is_set(Signal::CloudFormation).await, stub.requests().len())
        };
        let unknown = Stub::xml_error("ValidationError", "Stack prod does not exist");
        stub.answer(400, &unknown);
        assert_eq!(send().await, (false, 1), "as in another region than the stack's");
        stub.answer(200, "<SignalResourceResponse/>");
        assert_eq!(send().await, (true, 2), "the next start of skep sends it");
        assert_eq!(send().await, (true, 2), "once");
    }
}
