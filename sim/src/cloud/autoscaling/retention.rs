//! The instance lifecycle policy of a group: whether it retains the instances whose termination hook was abandoned.
//!
//! A retained instance does not count for the desired capacity, and stays until it is terminated by
//! `TerminateInstanceInAutoScalingGroup`:
//! <https://docs.aws.amazon.com/autoscaling/ec2/userguide/manage-retained-instances.html>. AWS does not document what
//! deleting its group does; here the group is not deleted before.

use super::group::Group;
use super::scaling::Scaling;
use super::states::LifecycleState;
use crate::cloud::errors::ApiError;
use crate::cloud::wire::Params;
use crate::cloud::xml::Xml;

/// The only trigger: <https://docs.aws.amazon.com/autoscaling/ec2/APIReference/API_RetentionTriggers.html>
const TRIGGER: &str = "InstanceLifecyclePolicy.RetentionTriggers.TerminateHookAbandon";
const RETAIN: &str = "retain";
const TERMINATE: &str = "terminate";

impl Scaling {
    /// Sets the policy; retained instances stay as they are.
    pub fn set_retention(&mut self, name: &str, retains: bool) -> Result<(), ApiError> {
        self.group_mut(name)?.spec.retain_abandoned = retains;
        Ok(())
    }

    pub(super) fn check_none_retained(&self, name: &str) -> Result<(), ApiError> {
        let is_retained = |state: LifecycleState| state.is_retained();
        let mut members = self.instances.values().filter(|it| it.group == name);
        if members.any(|it| is_retained(it.lifecycle.state())) {
            return Err(ApiError::new(
                400,
                "ResourceInUse",
                "You cannot delete an AutoScalingGroup while there are retained instances in the \
                 group.",
            ));
        }
        Ok(())
    }
}

/// Reads the policy of a call; `None`: the call has none.
pub(super) fn policy(params: &Params) -> Result<Option<bool>, ApiError> {
    match params.get(TRIGGER) {
        None => Ok(None),
        Some(RETAIN) => Ok(Some(true)),
        Some(TERMINATE) => Ok(Some(false)),
        Some(other) => Err(ApiError::validation(format!(
            "TerminateHookAbandon must be {RETAIN} or {TERMINATE}, not {other}"
        ))),
    }
}

pub(super) fn of_group(xml: &mut Xml, group: &Group) {
    let action = if group.spec.retain_abandoned { RETAIN } else { TERMINATE };
    xml.open("InstanceLifecyclePolicy");
    xml.open("RetentionTriggers");
    xml.text("TerminateHookAbandon", action);
    xml.close("RetentionTriggers");
    xml.close("InstanceLifecyclePolicy");
}

#[cfg(test)]
#[path = "retention_tests.rs"]
mod tests;
