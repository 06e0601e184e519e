//! Tells what a group has to do with load balancers.

use aws_sdk_autoscaling::types::AutoScalingGroup;

/// What a group has to do with load balancers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Balancing {
    /// Whether it registers its instances with a target group, a classic load balancer or another traffic source.
    pub has_load_balancer: bool,
    /// Whether it replaces an instance that a load balancer calls unhealthy.
    pub replaces_unhealthy: bool,
}

impl Balancing {
    pub(super) fn of(group: &AutoScalingGroup) -> Self {
        /// Of the comma-separated health check types, the one of load balancers.
        const ELB: &str = "ELB";
        let types = group.health_check_type.as_deref().unwrap_or_default();
        Self {
            has_load_balancer: !group.target_group_arns().is_empty()
                || !group.load_balancer_names().is_empty()
                || !group.traffic_sources().is_empty(),
            replaces_unhealthy: types.split(',').any(|kind| kind.trim() == ELB),
        }
    }
}
