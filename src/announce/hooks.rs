//! The termination hook: kept alive while the node leaves, completed when it has.

use std::convert::Infallible;
use std::sync::PoisonError;
use std::time::Duration;

use tokio::time::Instant;

use super::{Announcer, pause};
use crate::autoscaling::{CompletionAnswer, Hook, HookResult, Transition};
use crate::aws::AwsError;
use crate::fact::Fact;

/// The group's hook on `autoscaling:EC2_INSTANCE_TERMINATING`.
#[derive(Clone, Debug)]
pub struct TerminationHook {
    announcer: Announcer,
    group: String,
    hook: Hook,
}

impl Announcer {
    /// Looks for the hook until `deadline`, and once at least; `None` where the group has none. The one that is
    /// found is known from then on.
    ///
    /// # Errors
    /// When Auto Scaling has not answered by then: whether there is a hook cannot be told.
    pub async fn find_termination_hook(
        &self,
        deadline: Instant,
    ) -> Result<Option<TerminationHook>, AwsError> {
        let mut said = String::new();
        loop {
            let error = match self.find_hook(Transition::Terminating).await {
                Ok(found) => {
                    self.know_termination_hook(found);
                    return Ok(self.known_termination_hook());
                }
                Err(error) => error,
            };
            let why = crate::errors::chain(&error);
            if said != why {
                tracing::warn!("cannot read the termination hook: {why}");
                said = why;
            }
            if Instant::now() >= deadline {
                return Err(error);
            }
            pause(deadline).await;
        }
    }

    /// The hook that was found last, without a question to Auto Scaling.
    #[must_use]
    pub fn known_termination_hook(&self) -> Option<TerminationHook> {
        let known = self.known_hook.lock().unwrap_or_else(PoisonError::into_inner).clone();
        known.map(|(group, hook)| TerminationHook { announcer: self.clone(), group, hook })
    }

    /// Another group may have the instance by now.
    pub fn forget_termination_hook(&self) {
        self.know_termination_hook(None);
    }

    fn know_termination_hook(&self, found: Option<(String, Hook)>) {
        *self.known_hook.lock().unwrap_or_else(PoisonError::into_inner) = found;
    }
}

impl TerminationHook {
    /// The longest that heartbeats can keep the instance: Auto Scaling's global time-out.
    #[must_use]
    pub fn longest(&self) -> Duration {
        self.hook.global_timeout
    }

    /// Sends heartbeats for ever: run it beside the departure.
    pub async fn keep_alive(&self) -> Infallible {
        let beat = self.hook.beat();
        let autoscaling = &self.announcer.autoscaling;
        let mut said = String::new();
        loop {
            let id = &self.announcer.instance.id;
            match autoscaling.heartbeat(&self.hook.name, &self.group, id).await {
                Ok(answer) => {
                    tracing::debug!(hook = self.hook.name, ?answer, "heartbeat");
                    said.clear();
                }
                Err(error) => {
                    let why = crate::errors::chain(&error);
                    if said != why {
                        tracing::warn!("cannot send a heartbeat: {why}");
                        said = why;
                    }
                }
            }
            tokio::time::sleep(beat).await;
        }
    }

    /// Completes the hook: Auto Scaling may terminate the instance. While Auto Scaling says that the instance is
    /// being terminated, it is asked again: the metadata are ahead of it, and deregistration from a load balancer
    /// (300 s by default) comes before the hook's wait.
    pub async fn complete(&self, result: HookResult) {
        let deadline = Instant::now() + self.hook.global_timeout;
        let id = &self.announcer.instance.id;
        let autoscaling = &self.announcer.autoscaling;
        let mut said = String::new();
        while Instant::now() < deadline {
            let answer = match autoscaling.complete(&self.hook.name, &self.group, id, result).await
            {
                Ok(CompletionAnswer::Completed) => {
                    tracing::info!(hook = self.hook.name, "termination hook: {result:?}");
                    return;
                }
                Ok(CompletionAnswer::NoActiveAction) => self.is_still_to_come().await,
                Err(error) => Err(error),
            };
            let news = match answer {
                Ok(Fact::Yes) => "Auto Scaling has not begun to wait for this hook yet".to_owned(),
                Ok(Fact::CannotTell) => {
                    "cannot tell whether Auto Scaling is about to wait for this hook".to_owned()
                }
                Ok(Fact::No) => {
                    tracing::warn!(
                        hook = self.hook.name,
                        "Auto Scaling waits for this hook no more: it was completed elsewhere, or timed out"
                    );
                    return;
                }
                Err(error) => crate::errors::chain(&error),
            };
            if said != news {
                tracing::info!(hook = self.hook.name, "not completed yet: {news}");
                said = news;
            }
            pause(deadline).await;
        }
        tracing::error!(
            hook = self.hook.name,
            "the termination hook was not completed in its time"
        );
    }

    /// Whether Auto Scaling is on its way to the hook's wait. An instance that no group has any more is past it.
    async fn is_still_to_come(&self) -> Result<Fact, AwsError> {
        let seen = self.announcer.autoscaling.fetch_instance(&self.announcer.instance.id).await?;
        Ok(seen.map_or(Fact::No, |it| it.lifecycle_state.comes_to_wait_for_departure()))
    }
}
