//! Tells what a group's settings mean for its instances.

use roxmltree::Node;

use crate::clients::aws::query::{list, text};

/// The settings of a group that matter for its instances.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupSettings {
    /// The most instances that scaling gives it; `None` where the answer has no such number.
    pub max_size: Option<u32>,
    /// Whether it registers its instances with a target group, a classic load balancer or another traffic source.
    pub has_load_balancer: bool,
    /// Whether it replaces an instance that a load balancer calls unhealthy.
    pub replaces_unhealthy: bool,
}

impl GroupSettings {
    pub(super) fn of(group: Node<'_, '_>) -> Self {
        /// Of the comma-separated health check types, the one of load balancers.
        const ELB: &str = "ELB";
        let types = text(group, "HealthCheckType").unwrap_or_default();
        let has_any = |name| list(group, name).is_some_and(|mut list| list.next().is_some());
        Self {
            max_size: text(group, "MaxSize").and_then(|size| size.parse().ok()),
            has_load_balancer: ["TargetGroupARNs", "LoadBalancerNames", "TrafficSources"]
                .into_iter()
                .any(has_any),
            replaces_unhealthy: types.split(',').any(|kind| kind.trim() == ELB),
        }
    }
}
