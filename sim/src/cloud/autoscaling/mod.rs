//! Auto Scaling: groups, desired capacity, hooks and the lives of instances.
//!
//! [`Scaling`] is a pure core: it is told what happens and what time it is, and leaves what must
//! be done outside in [`Scaling::take_outcomes`]. It guarantees that a group converges to its
//! desired capacity, instances on their way out or on standby not counted.

mod activities;
mod api;
mod capacity;
mod describe;
mod group;
mod groups;
mod instance;
mod lifecycle;
mod scaling;
mod states;
mod warm_pool;

pub use lifecycle::Timing;
pub use states::{ActionResult, LifecycleState, PoolState, Transition};

pub(super) use api::handle;
pub(super) use group::Group;
pub(super) use instance::{Credentials, Instance, ScheduledEvent, SpotNotice};
pub(super) use lifecycle::Lifecycle;
pub(super) use scaling::{Outcome, Scaling};
