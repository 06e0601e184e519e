//! The termination hook: kept alive while the node leaves, completed when it has.

use std::convert::Infallible;
use std::time::Duration;

use tokio::time::Instant;

use super::{Announcer, pause};
use crate::autoscaling::{CompletionAnswer, Hook, HookResult, Transition};

/// A hook that is already gone, or never comes, is asked for this long after the node has left.
const COMPLETION_PATIENCE: Duration = Duration::from_secs(120);

/// The group's hook on `autoscaling:EC2_INSTANCE_TERMINATING`.
#[derive(Clone, Debug)]
pub struct TerminationHook {
    announcer: Announcer,
    group: String,
    hook: Hook,
}

impl Announcer {
    /// Looks for the hook until `deadline`; `None` where the group has none.
    pub async fn find_termination_hook(&self, deadline: Instant) -> Option<TerminationHook> {
        while Instant::now() < deadline {
            match self.find_hook(Transition::Terminating).await {
                Ok(found) => {
                    return found.map(|(group, hook)| TerminationHook {
                        announcer: self.clone(),
                        group,
                        hook,
                    });
                }
                Err(error) => {
                    tracing::warn!("{}", crate::errors::chain(&error));
                    pause(deadline).await;
                }
            }
        }
        None
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
        loop {
            let id = &self.announcer.instance.id;
            match autoscaling.heartbeat(&self.hook.name, &self.group, id).await {
                Ok(answer) => tracing::debug!(hook = self.hook.name, ?answer, "heartbeat"),
                Err(error) => tracing::warn!("{}", crate::errors::chain(&error)),
            }
            tokio::time::sleep(beat).await;
        }
    }

    /// Completes the hook: Auto Scaling may terminate the instance. Asked again while there is no
    /// active action yet: the metadata can be ahead of Auto Scaling.
    pub async fn complete(&self, result: HookResult) {
        let deadline = Instant::now() + COMPLETION_PATIENCE;
        let id = &self.announcer.instance.id;
        let autoscaling = &self.announcer.autoscaling;
        while Instant::now() < deadline {
            match autoscaling.complete(&self.hook.name, &self.group, id, result).await {
                Ok(CompletionAnswer::Completed) => {
                    tracing::info!(hook = self.hook.name, "termination hook: {result:?}");
                    return;
                }
                Ok(CompletionAnswer::NoActiveAction) => {
                    tracing::info!(hook = self.hook.name, "no active lifecycle action yet");
                }
                Err(error) => tracing::warn!("{}", crate::errors::chain(&error)),
            }
            pause(deadline).await;
        }
        tracing::error!(hook = self.hook.name, "not completed within {COMPLETION_PATIENCE:?}");
    }
}
