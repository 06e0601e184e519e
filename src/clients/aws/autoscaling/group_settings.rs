//! Tells what a group's settings mean for its instances.

use aws_sdk_autoscaling::types::AutoScalingGroup;

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
    pub(super) fn of(group: &AutoScalingGroup) -> Self {
        /// Of the comma-separated health check types, the one of load balancers.
        const ELB: &str = "ELB";
        let types = group.health_check_type.as_deref().unwrap_or_default();
        Self {
            max_size: group.max_size.and_then(|size| size.try_into().ok()),
            has_load_balancer: !group.target_group_arns().is_empty()
                || !group.load_balancer_names().is_empty()
                || !group.traffic_sources().is_empty(),
            replaces_unhealthy: types.split(',').any(|kind| kind.trim() == ELB),
        }
    }
}
