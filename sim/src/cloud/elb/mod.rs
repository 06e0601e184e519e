//! Elastic Load Balancing: target groups, and network load balancers in front of the instances.
//!
//! [`Elb`] is a pure core like Auto Scaling's, which owns it and registers its instances there. The proxy
//! ([`crate::cloud::Cloud::serve_load_balancers`]) carries the flows and checks the targets with real connections.
//!
//! Guarantees: a new flow goes to a healthy target, and only where none is healthy to any that is registered and not
//! draining; a flow is cut only for the reasons in [`Cut`]; a draining target is deregistered when the deregistration
//! delay has passed.
//!
//! Differences from AWS: all load balancers have one address, so that their listeners need different ports; the source
//! of a target's connections is the proxy, not the client; there is one zone; registrations take no time; passive
//! health checks and the idle timeout of flows are not modelled.

mod admin;
mod api;
mod attributes;
mod balancer;
mod balancers;
mod checks;
mod describe;
mod flows;
mod groups;
mod proxy;
mod requests;
mod specs;
mod target;
mod target_group;

pub use flows::FlowCounts;
pub use specs::{
    HealthCheck, ListenerSpec, LoadBalancerSpec, Matcher, Probe, TargetGroupAttributes,
    TargetGroupSpec,
};
pub use target::{Cut, TargetHealth, TargetState};
pub use target_group::TargetView;

pub(super) use api::handle;
pub(super) use flows::Flows;
pub(super) use groups::{Elb, Outcome};
pub(super) use target_group::TargetKey;
