//! Tries permissions with calls that have no effect: on a hook that no group has, and with a health that no instance
//! has.

use super::{AutoScaling, HookResult, unless_no_action};
use crate::clients::aws::{AwsError, AwsErrorKind};

/// No hook has this name.
const NO_HOOK: &str = "skep-doctor-holds-nothing";
/// Auto Scaling accepts Healthy and Unhealthy.
const NO_HEALTH: &str = "Undiagnosed";
/// An instance that no group has.
const NO_INSTANCE: &str = "i-00000000000000000";

impl AutoScaling {
    /// Tries to send a heartbeat.
    ///
    /// # Errors
    /// When Auto Scaling did not answer, or denied the call.
    pub async fn try_heartbeat(&self, group: &str, instance: &str) -> Result<(), AwsError> {
        unless_invalid(self.heartbeat(NO_HOOK, group, instance).await.map(drop))
    }

    /// Tries to complete an action.
    ///
    /// # Errors
    /// As for [`Self::try_heartbeat`].
    pub async fn try_complete(&self, group: &str, instance: &str) -> Result<(), AwsError> {
        let tried = self.complete(NO_HOOK, group, instance, HookResult::Continue).await;
        unless_invalid(tried.map(drop))
    }

    /// Tries to report an instance's health.
    ///
    /// # Errors
    /// As for [`Self::try_heartbeat`].
    pub async fn try_set_health(&self, instance: &str) -> Result<(), AwsError> {
        unless_invalid(self.set_health(instance, NO_HEALTH, None).await)
    }

    /// Tries to protect an instance of this group that does not exist.
    ///
    /// # Errors
    /// As for [`Self::try_heartbeat`].
    pub async fn try_set_protection(&self, group: &str) -> Result<(), AwsError> {
        unless_invalid(self.set_protection(group, NO_INSTANCE, false).await)
    }
}

/// Treats a validation error as a success: Auto Scaling did not deny the call.
fn unless_invalid(tried: Result<(), AwsError>) -> Result<(), AwsError> {
    match tried.or_else(unless_no_action) {
        Err(error) if error.kind == AwsErrorKind::Validation => Ok(()),
        tried => tried,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clients::aws::stub::Stub;

    #[tokio::test]
    async fn what_makes_no_sense_is_permitted_and_what_is_denied_is_not() {
        let stub = Stub::start().await;
        let autoscaling = stub.aws().await.autoscaling;
        stub.answer(400, &Stub::xml_error("ValidationError", "No active Lifecycle Action found"));
        autoscaling.try_heartbeat("workers", "i-0abc").await.unwrap();
        stub.answer(400, &Stub::xml_error("ValidationError", "No such hook"));
        autoscaling.try_complete("workers", "i-0abc").await.unwrap();
        assert!(stub.last_request().contains(NO_HOOK));
        stub.answer(400, &Stub::xml_error("ValidationError", "Invalid health status"));
        autoscaling.try_set_health("i-0abc").await.unwrap();
        assert!(!stub.last_request().contains("ealthy"), "{}", stub.last_request());
        stub.answer(403, &Stub::xml_error("AccessDenied", "no"));
        let error = autoscaling.try_set_health("i-0abc").await.unwrap_err();
        assert_eq!(error.kind, AwsErrorKind::AccessDenied);
    }
}
