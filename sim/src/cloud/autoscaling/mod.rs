//! Auto Scaling: groups, desired capacity, hooks and the lives of instances.
//!
//! [`Scaling`] is a pure core: it gets events and the time as arguments, and returns the resulting orders and events
//! from [`Scaling::take_outcomes`]. It owns the target groups, in which it registers its instances. Guarantees: a group
//! converges to its desired capacity, spread over its zones; instances that leave or are on standby do not count; a termination hook starts
//! only when the instance is deregistered from the target groups of its group.

mod action;
mod activities;
mod api;
mod capacity;
mod describe;
mod detach;
mod group;
mod groups;
mod instance;
mod lifecycle;
mod page;
mod policies;
mod policies_api;
mod policy;
mod processes;
mod rebalance;
mod refresh;
mod retention;
mod scaling;
mod states;
mod traffic;
mod traffic_api;
mod warm_pool;

pub use lifecycle::Timing;
pub use policy::{AlarmState, PolicyPace, PolicySpec};
pub use refresh::{
    OfProtected, OfStandby, RefreshSpec, RefreshStatus, RefreshStrategy, RefreshView,
};
pub use states::{ActionResult, LifecycleState, PoolState, Process, Transition};

pub(super) use action::ActionName;
pub(super) use api::handle;
pub(super) use detach::{attaches, handle_attachments};
pub(super) use group::Group;
pub(super) use instance::{Credentials, Instance, ScheduledEvent, SpotNotice};
pub(super) use lifecycle::Lifecycle;
pub(super) use policy::Alarm;
pub(super) use scaling::{Outcome, Scaling};
