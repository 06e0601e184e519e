//! A lifecycle action, and its limits.

use std::time::Duration;

use super::states::ActionResult;
use crate::cloud::specs::HookSpec;

/// Limits of a lifecycle action: 48 hours or 100 heartbeat timeouts, whichever is shorter.
const LONGEST_ACTION: Duration = Duration::from_secs(48 * 3600);
const HEARTBEATS_PER_ACTION: u32 = 100;

/// A lifecycle action: one hook that holds one instance.
#[derive(Clone, Debug)]
pub(crate) struct Action {
    pub hook: String,
    pub token: String,
    pub(super) timeout: Duration,
    pub(super) default_result: ActionResult,
    pub(super) heartbeat_deadline: Duration,
    global_deadline: Duration,
}

impl Action {
    pub(super) fn start(hook: &HookSpec, token: String, now: Duration) -> Self {
        let timeout = hook.heartbeat_timeout;
        Self {
            hook: hook.name.clone(),
            token,
            timeout,
            default_result: hook.default_result,
            heartbeat_deadline: now + timeout,
            global_deadline: now + global_timeout(timeout),
        }
    }

    pub(super) fn deadline(&self) -> Duration {
        self.heartbeat_deadline.min(self.global_deadline)
    }
}

/// A caller's reference to an action: the hook and, where given, the token.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ActionName<'a> {
    pub hook: &'a str,
    pub token: Option<&'a str>,
}

/// Returns the longest time that heartbeats can keep an action open.
pub(crate) fn global_timeout(heartbeat_timeout: Duration) -> Duration {
    heartbeat_timeout.saturating_mul(HEARTBEATS_PER_ACTION).min(LONGEST_ACTION)
}
