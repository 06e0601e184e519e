//! Decides about the protection of one instance. Pure.

use crate::clients::aws::autoscaling::{GroupInstance, LifecycleState};
use crate::common::fact::Fact;

/// The next step for one instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    None,
    /// Record on the node that skep protects the instance, and protect it.
    Protect,
    /// End the protection. The record stays until Auto Scaling shows that it has ended.
    Release,
    /// Delete the record.
    Forget,
}

/// Returns the next step for an instance. `is_busy`: whether its node runs a task that must not be moved; `is_marked`:
/// whether the node has the record. skep does not end a protection without a record. A
/// group whose maximum is 0 protects nothing.
pub fn decide(is_busy: Fact, is_marked: bool, listed: Option<&GroupInstance>) -> Step {
    use LifecycleState::{EnteringStandby, InService, Standby};
    let Some((listed, is_protected)) = listed.and_then(|it| Some((it, it.protected?))) else {
        return Step::None;
    };
    // A group that is being deleted, as CloudFormation does it, would wait for the tasks for ever.
    let is_closing = listed.settings.is_some_and(|settings| settings.max_size == Some(0));
    let is_busy = if is_closing { Fact::No } else { is_busy };
    // Auto Scaling refuses a change in any other state.
    let can_be_changed = matches!(listed.lifecycle_state, InService | EnteringStandby | Standby);
    match (is_busy, is_marked, is_protected) {
        (Fact::Yes, _, false) if listed.lifecycle_state == InService => Step::Protect,
        (Fact::No, true, true) if can_be_changed => Step::Release,
        (Fact::No, true, false) => Step::Forget,
        _ => Step::None,
    }
}
