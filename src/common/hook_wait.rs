//! The wait of Auto Scaling's termination hook, as this node has seen it last.

/// Whether Auto Scaling waits for this node. Deregistration from load balancers comes before the wait of the hook, so a
/// wait means that deregistration is over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HookWait {
    /// The node does not know a hook yet, or Auto Scaling has not answered.
    #[default]
    Unknown,
    /// The instance is being terminated, and its hook does not wait yet.
    StillToCome,
    /// The hook waits.
    Waits,
    /// The wait is over: the hook was completed elsewhere, or timed out.
    Over,
    /// The group has no termination hook.
    NoHook,
}
