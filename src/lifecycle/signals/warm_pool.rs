//! The launch hook of an instance that is prepared for a warm pool: it fires before the instance enters the pool, and
//! again when the instance enters service.

use super::marker::Signal;
use super::{Announcer, Delivery, repeat};
use crate::clients::aws::AwsError;
use crate::clients::aws::autoscaling::{CompletionAnswer, HookResult, LifecycleState, Transition};

impl Announcer {
    /// Whether Auto Scaling has the instance in a warm pool; for a start at which the metadata do not show it. Outside
    /// a group it sends no request.
    ///
    /// # Errors
    /// When Auto Scaling did not answer, or refused: skep cannot tell.
    pub async fn is_in_warm_pool(&self) -> Result<bool, AwsError> {
        if self.settings.autoscaling.group.is_none() && self.instance.group.is_none() {
            return Ok(false);
        }
        let found = self.autoscaling.fetch_instance(&self.instance.id).await?;
        Ok(found.is_some_and(|instance| instance.lifecycle_state.is_pooled()))
    }

    /// Lets the instance into the pool: sends CONTINUE, and nothing to CloudFormation. Returns once it has arrived.
    /// Forgets an earlier completion and records none: the hook fires again.
    pub async fn warmed(&self) {
        self.forget_launch().await;
        repeat(Signal::LaunchHook, async || self.enter_pool().await).await;
    }

    /// Completes the hook that holds the instance before the pool, only while Auto Scaling reports the instance as on
    /// its way into the pool: the launch hook also holds an instance that enters service, and must then wait for Ready.
    /// The termination hook holds an instance that returns from the group.
    pub(super) async fn enter_pool(&self) -> Result<Delivery, AwsError> {
        let seen = self.autoscaling.fetch_instance(&self.instance.id).await?;
        let lifecycle_state = seen.map(|instance| instance.lifecycle_state);
        match lifecycle_state {
            Some(LifecycleState::WarmedPendingWait) => {}
            Some(LifecycleState::WarmedPending | LifecycleState::Unknown(_)) | None => {
                return Ok(Delivery::NotYet);
            }
            Some(_) => return Ok(Delivery::NotNeeded),
        }
        let launch = self.complete_into_pool(Transition::Launching).await?;
        if launch == Delivery::Arrived {
            return Ok(launch);
        }
        let termination = self.complete_into_pool(Transition::Terminating).await?;
        Ok(if termination == Delivery::NotNeeded { launch } else { termination })
    }

    async fn complete_into_pool(&self, transition: Transition) -> Result<Delivery, AwsError> {
        let Some((group, hook)) = self.find_hook(transition).await? else {
            return Ok(Delivery::NotNeeded);
        };
        let id = &self.instance.id;
        match self.autoscaling.complete(&hook.name, &group, id, HookResult::Continue).await? {
            CompletionAnswer::Completed => {
                tracing::info!(
                    hook = hook.name,
                    ?transition,
                    "completed the hook: the instance enters the warm pool"
                );
                Ok(Delivery::Arrived)
            }
            CompletionAnswer::NoActiveAction => Ok(Delivery::NotYet),
        }
    }
}
