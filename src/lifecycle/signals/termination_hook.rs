//! Keeps the termination hook alive with heartbeats while the node leaves, and completes it afterwards.

use std::convert::Infallible;
use std::sync::PoisonError;
use std::time::Duration;

use tokio::time::Instant;

use super::{Announcer, pause, retry_interval};
use crate::clients::aws::AwsError;
use crate::clients::aws::autoscaling::{
    CompletionAnswer, HeartbeatAnswer, Hook, HookResult, LifecycleState, Transition,
};
use crate::common::errors::chain;
use crate::common::fact::Fact;
use crate::common::hook_wait::HookWait;
use crate::common::state::Phase;

/// Name under which the hook reports trouble.
const HOOK: &str = "termination hook";

/// The group's hook on `autoscaling:EC2_INSTANCE_TERMINATING`.
#[derive(Clone, Debug)]
pub struct TerminationHook {
    announcer: Announcer,
    group: String,
    hook: Hook,
}

impl Announcer {
    /// Reads the hook, with retries until `deadline` and once at least; returns `None` if the group has none. Remembers
    /// the hook that it found.
    ///
    /// # Errors
    /// When Auto Scaling has not answered by then: skep cannot tell whether there is a hook.
    pub async fn find_termination_hook(
        &self,
        deadline: Instant,
    ) -> Result<Option<TerminationHook>, AwsError> {
        loop {
            let error = match self.find_hook(Transition::Terminating).await {
                Ok(found) => {
                    self.show_trouble(None);
                    self.know_termination_hook(found);
                    return Ok(self.known_termination_hook());
                }
                Err(error) => error,
            };
            self.show_trouble(Some(("cannot be read", &error)));
            if Instant::now() >= deadline {
                return Err(error);
            }
            pause(deadline).await;
        }
    }

    /// Returns the hook that was found last, without a request to Auto Scaling.
    #[must_use]
    pub fn known_termination_hook(&self) -> Option<TerminationHook> {
        let known = self.known_hook.lock().unwrap_or_else(PoisonError::into_inner).clone();
        known.map(|(group, hook)| TerminationHook { announcer: self.clone(), group, hook })
    }

    /// Forgets the hook: another group may have the instance by now.
    pub fn forget_termination_hook(&self) {
        self.know_termination_hook(None);
        self.show_trouble(None);
        self.see_hook(HookWait::Unknown);
    }

    /// Records whether Auto Scaling waits for the termination hook.
    pub fn see_hook(&self, wait: HookWait) {
        self.state.update(|state| state.hook_wait = wait);
    }

    /// Shows the failed operation on the hook and the error as trouble; the log has each text once.
    fn show_trouble(&self, trouble: Option<(&str, &AwsError)>) {
        let text =
            trouble.map(|(what, error)| format!("the termination hook {what}: {}", chain(error)));
        self.state.trouble(HOOK, text);
    }

    fn know_termination_hook(&self, found: Option<(String, Hook)>) {
        *self.known_hook.lock().unwrap_or_else(PoisonError::into_inner) = found;
    }
}

/// Returns the wait of a hook that does not accept heartbeats, by the state of its instance. While another hook waits,
/// deregistration is over, too.
fn wait_of(state: &LifecycleState) -> HookWait {
    use LifecycleState as S;
    match state.comes_to_wait_for_departure() {
        _ if state.waits_for_departure() => HookWait::Waits,
        _ if matches!(state, S::WarmedPendingWait | S::WarmedTerminatingWait) => HookWait::Waits,
        Fact::Yes => HookWait::StillToCome,
        Fact::No => HookWait::Over,
        Fact::CannotTell => HookWait::Unknown,
    }
}

impl TerminationHook {
    /// Returns the longest time for which heartbeats can keep the instance: the global timeout of Auto Scaling.
    #[must_use]
    pub fn longest(&self) -> Duration {
        self.hook.global_timeout
    }

    /// Sends heartbeats forever; the caller runs it beside the departure. Records in the node's state whether Auto Scaling
    /// waits for the hook: until it does, heartbeats are refused, and deregistration from load balancers is under way.
    pub async fn keep_alive(&self) -> Infallible {
        let beat = self.hook.beat();
        loop {
            let wait = self.beat().await;
            let next = match &wait {
                Ok(HookWait::Waits) => beat,
                // The departure waits for the hook.
                Ok(_) | Err(_) => beat.min(retry_interval()),
            };
            let why = wait.as_ref().err().map(|error| ("does not accept heartbeats", error));
            self.announcer.show_trouble(why);
            if let Ok(wait) = wait {
                self.announcer.see_hook(wait);
            }
            tokio::time::sleep(next).await;
        }
    }

    /// Sends one heartbeat. A refusal means that the wait is still to come, or is over: Auto Scaling says which.
    async fn beat(&self) -> Result<HookWait, AwsError> {
        let Announcer { autoscaling, instance, .. } = &self.announcer;
        let answer = autoscaling.heartbeat(&self.hook.name, &self.group, &instance.id).await?;
        tracing::debug!(hook = self.hook.name, ?answer, "heartbeat");
        if answer == HeartbeatAnswer::Recorded {
            return Ok(HookWait::Waits);
        }
        let seen = autoscaling.fetch_instance(&instance.id).await?;
        // An answer without the instance proves nothing.
        Ok(seen.map_or(HookWait::Unknown, |it| wait_of(&it.lifecycle_state)))
    }

    /// Completes the hook, so that Auto Scaling can terminate the instance. Retries while Auto Scaling reports that the
    /// instance is being terminated: the metadata are ahead of it, and deregistration from a load balancer (300 s by
    /// default) comes before the wait of the hook.
    pub async fn complete(&self, result: HookResult) {
        let deadline = Instant::now() + self.hook.global_timeout;
        let id = &self.announcer.instance.id;
        let autoscaling = &self.announcer.autoscaling;
        while Instant::now() < deadline {
            let answer = match autoscaling.complete(&self.hook.name, &self.group, id, result).await
            {
                Ok(CompletionAnswer::Completed) => {
                    self.announcer.show_trouble(None);
                    tracing::info!(hook = self.hook.name, "termination hook: {result:?}");
                    return;
                }
                Ok(CompletionAnswer::NoActiveAction) => self.is_still_to_come().await,
                Err(error) => Err(error),
            };
            let why = answer.as_ref().err().map(|error| ("is not completed yet", error));
            self.announcer.show_trouble(why);
            let waiting = match answer {
                Ok(Fact::Yes) => "Auto Scaling does not wait for it yet",
                Ok(Fact::CannotTell) => "cannot tell whether Auto Scaling waits for it",
                Ok(Fact::No) => {
                    tracing::warn!(
                        hook = self.hook.name,
                        "Auto Scaling no longer waits for this hook: it was completed elsewhere, or timed out"
                    );
                    return;
                }
                Err(_) => "Auto Scaling has not confirmed it",
            };
            let doing = format!("completing the termination hook: {waiting}");
            self.announcer.state.enter(Phase::Leaving, doing);
            pause(deadline).await;
        }
        tracing::warn!(
            hook = self.hook.name,
            "the termination hook was not completed before its global timeout"
        );
    }

    /// Whether the wait of the hook is still to come. An instance that is in no group any more is past it.
    async fn is_still_to_come(&self) -> Result<Fact, AwsError> {
        let seen = self.announcer.autoscaling.fetch_instance(&self.announcer.instance.id).await?;
        Ok(seen.map_or(Fact::No, |it| it.lifecycle_state.comes_to_wait_for_departure()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clients::aws::stub::Stub;
    use crate::common::instance::Instance;
    use crate::config::Settings;
    use crate::lifecycle::signals::tests::{hooks, listed, no_action};

    const RECORDED: &str = "<RecordLifecycleActionHeartbeatResponse \
         xmlns=\"http://autoscaling.amazonaws.com/doc/2011-01-01/\">\
         <RecordLifecycleActionHeartbeatResult/></RecordLifecycleActionHeartbeatResponse>";

    /// A refusal means "not yet" only while Auto Scaling says so.
    #[tokio::test]
    async fn deregistration_is_over_once_a_heartbeat_is_accepted_or_a_hook_waits() {
        let stub = Stub::start().await;
        stub.answer(200, &listed("workers", "Terminating"));
        stub.answer(200, &hooks("skep-terminate", "TERMINATING"));
        let settings = Settings::default();
        let announcer = Announcer::new(&Instance::example(), &settings, &stub.aws().await);
        let hook = announcer.find_termination_hook(Instant::now()).await.unwrap().unwrap();
        for (state, wait) in [
            ("Terminating", HookWait::StillToCome),
            ("Terminating:Wait", HookWait::Waits),
            ("Warmed:Pending:Wait", HookWait::Waits),
            ("Terminating:Proceed", HookWait::Over),
            ("Terminating:Someday", HookWait::Unknown),
        ] {
            stub.answer(400, &no_action());
            stub.answer(200, &listed("workers", state));
            assert_eq!(hook.beat().await.unwrap(), wait, "{state}");
        }
        stub.answer(200, RECORDED);
        assert_eq!(hook.beat().await.unwrap(), HookWait::Waits);
        stub.answer(403, &Stub::xml_error("AccessDenied", "no heartbeat"));
        assert!(hook.beat().await.is_err(), "no answer changes nothing");
    }
}
