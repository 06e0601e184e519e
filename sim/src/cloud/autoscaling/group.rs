//! One group: its sizes, hooks, tags and warm pool.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use super::states::Process;
use crate::cloud::errors::ApiError;
use crate::cloud::specs::{GroupSpec, HookSpec, WarmPoolSpec};

#[derive(Clone, Debug)]
pub(crate) struct Group {
    pub spec: GroupSpec,
    /// The group's own zones; empty: all zones of the cloud.
    pub zones: Vec<String>,
    pub hooks: Vec<HookSpec>,
    /// The target groups in which the instances in service are registered.
    pub sources: Vec<TrafficSource>,
    pub warm_pool: Option<WarmPool>,
    /// The id of the stack that created the group, for the tags.
    pub stack_id: Option<String>,
    pub created: Duration,
    /// Instances that the next launches replace, oldest first; the events name both instances.
    pub to_replace: VecDeque<String>,
    pub suspended: BTreeSet<Process>,
    /// Instances that were launched to balance the zones, and do not count before they are in service.
    pub balancing: BTreeSet<String>,
}

impl Group {
    pub fn arn(&self, region: &str) -> String {
        let name = &self.spec.name;
        format!(
            "arn:aws:autoscaling:{region}:{}:autoScalingGroup:*:autoScalingGroupName/{name}",
            crate::cloud::ACCOUNT
        )
    }

    /// Returns the tags of an instance: those of the group, and the one that Auto Scaling adds.
    pub fn instance_tags(&self) -> BTreeMap<String, String> {
        let mut tags = self.tags();
        tags.insert("aws:autoscaling:groupName".to_owned(), self.spec.name.clone());
        tags
    }

    /// Returns the tags of the group, with those that CloudFormation adds.
    pub fn tags(&self) -> BTreeMap<String, String> {
        let mut tags = self.spec.tags.clone();
        let mut add = |key: &str, value: &str| tags.insert(key.to_owned(), value.to_owned());
        if let Some((stack, logical_id)) = &self.spec.stack {
            add("aws:cloudformation:stack-name", stack);
            add("aws:cloudformation:logical-id", logical_id);
        }
        if let Some(stack_id) = &self.stack_id {
            add("aws:cloudformation:stack-id", stack_id);
        }
        tags
    }

    pub(super) fn check_capacity(&self, desired: u32) -> Result<(), ApiError> {
        let (min, max) = (self.spec.min, self.spec.max);
        if desired < min {
            return Err(ApiError::validation(format!(
                "New SetDesiredCapacity value {desired} is below min value {min} for the \
                 AutoScalingGroup."
            )));
        }
        if desired > max {
            return Err(ApiError::validation(format!(
                "New SetDesiredCapacity value {desired} is above max value {max} for the \
                 AutoScalingGroup."
            )));
        }
        Ok(())
    }
}

/// A target group that is attached to a group.
#[derive(Clone, Debug)]
pub(crate) struct TrafficSource {
    pub arn: String,
    /// Whether it was attached when the group was created.
    pub from_start: bool,
}

/// The warm pool of a group.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WarmPool {
    pub(super) spec: WarmPoolSpec,
    /// A deleted pool is removed with its last instance.
    pub(super) is_deleted: bool,
}
