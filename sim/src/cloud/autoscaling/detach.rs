//! Detaches instances from their groups, and attaches instances to groups:
//! <https://docs.aws.amazon.com/autoscaling/ec2/userguide/ec2-auto-scaling-detach-attach-instances.html>.
//!
//! No hook runs when an instance is detached. It waits for its deregistration from the target groups, and belongs to EC2
//! alone afterwards: it runs on, and the metadata show `Detached`
//! (<https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/instancedata-data-categories.html>). An instance that is attached
//! starts in `Pending`; AWS does not document whether its launch hooks run. Here they do, which is the stricter
//! assumption.

use std::time::Duration;

use super::activities::{Activity, Status};
use super::api::all_activities;
use super::instance::{Instance, Released};
use super::lifecycle::Event;
use super::scaling::{Outcome, Scaling, not_managed};
use super::states::LifecycleState;
use crate::cloud::clock::Clock;
use crate::cloud::errors::ApiError;
use crate::cloud::requests::Service;
use crate::cloud::wire::Params;
use crate::cloud::{Cloud, State};

/// The most instances of one call.
/// <https://docs.aws.amazon.com/autoscaling/ec2/APIReference/API_DetachInstances.html>
const MOST: usize = 20;
/// The tag that Auto Scaling removes from an instance that is detached:
/// <https://docs.aws.amazon.com/autoscaling/ec2/userguide/ec2-auto-scaling-tagging.html>.
const GROUP_TAG: &str = "aws:autoscaling:groupName";

impl Scaling {
    /// Detaches instances; `decrement` lowers the desired capacity by their number, otherwise they are replaced.
    pub fn detach(
        &mut self,
        group: &str,
        ids: &[String],
        decrement: bool,
        now: Duration,
    ) -> Result<Vec<Activity>, ApiError> {
        self.group(group)?;
        check_number(ids)?;
        for id in ids {
            let instance = self.instance(id).filter(|it| it.group == group);
            let state = instance.ok_or_else(|| not_managed(id))?.lifecycle.state();
            if !matches!(state, LifecycleState::InService | LifecycleState::Standby) {
                return Err(ApiError::validation(format!(
                    "The instance {id} is not in InService or Standby."
                )));
            }
        }
        if decrement {
            self.decrement(group, super::groups::count(ids))?;
        }
        let first = self.activities.len();
        for id in ids {
            let cause = format!("instance {id} was detached in response to a user request.");
            self.record(id, group, format!("Detaching EC2 instance: {id}"), &cause, now);
            if !decrement {
                self.leaves_a_gap(group, id);
            }
            // Not refused: the state was checked.
            let _ = self.step(id, Event::Detach, now);
        }
        let activities = self.activities[first..first + ids.len()].to_vec();
        self.converge(now);
        Ok(activities)
    }

    /// Gives an instance that is detached to EC2.
    pub(super) fn release(&mut self, id: &str, now: Duration) {
        let Some(mut instance) = self.instances.remove(id) else { return };
        self.activities[instance.activity].end(Status::Successful, now);
        self.by_address.remove(&instance.address);
        instance.group.clear();
        instance.tags.remove(GROUP_TAG);
        instance.protected = false;
        self.outcomes.push(Outcome::Released(Released(Box::new(instance))));
    }

    /// Checks that a group can take `count` more instances, each in one of these zones.
    fn check_attachment(&self, name: &str, zones: &[&str], count: u32) -> Result<(), ApiError> {
        let spec = &self.group(name)?.spec;
        self.check_launches(name)?;
        let desired = spec.desired + count;
        if desired > spec.max {
            return Err(ApiError::validation(format!(
                "AutoScalingGroup {name} has min-size={}, max-size={}, and desired-size={}. To \
                 attach {count} more instance, please update the AutoScalingGroup sizes \
                 appropriately.",
                spec.min, spec.max, spec.desired
            )));
        }
        let of_group = self.zones_of(name);
        match zones.iter().find(|zone| !of_group.iter().any(|it| it == *zone)) {
            Some(zone) => Err(ApiError::validation(format!(
                "The availability zone {zone} is not part of AutoScalingGroup {name}."
            ))),
            None => Ok(()),
        }
    }

    /// Attaches running instances to a group, and raises its desired capacity by their number. They get its tags.
    fn attach(
        &mut self,
        group: &str,
        instances: Vec<Instance>,
        now: Duration,
    ) -> Result<(), ApiError> {
        let count = u32::try_from(instances.len()).unwrap_or(u32::MAX);
        let desired = self.group(group)?.spec.desired + count;
        self.change_desired(group, desired)?;
        for mut instance in instances {
            let id = instance.id.clone();
            self.sequence += 1;
            instance.group = group.to_owned();
            instance.sequence = self.sequence;
            instance.healthy = true;
            instance.tags.extend(self.group(group)?.instance_tags());
            self.by_address.insert(instance.address, id.clone());
            self.instances.insert(id.clone(), instance);
            let cause = "an instance was attached in response to a user request.";
            let description = format!("Attaching an existing EC2 instance: {id}");
            self.record(&id, group, description, cause, now);
            // Never refused.
            let _ = self.step(&id, Event::Attach, now);
        }
        self.converge(now);
        Ok(())
    }
}

fn check_number(ids: &[String]) -> Result<(), ApiError> {
    if ids.is_empty() || ids.len() > MOST {
        let message = format!("The number of instance ids must be between 1 and {MOST}");
        return Err(ApiError::validation(message));
    }
    super::groups::check_different(ids)
}

impl State {
    /// Attaches instances of EC2 that run and belong to no group; all of them or none.
    fn attach(&mut self, group: &str, ids: &[String], now: Duration) -> Result<(), ApiError> {
        check_number(ids)?;
        let mut zones = vec![];
        for id in ids {
            if let Some(instance) = self.scaling.instance(id) {
                return Err(ApiError::validation(format!(
                    "Instance {id} is already part of AutoScalingGroup:{}, please detach it first",
                    instance.group
                )));
            }
            let found = self.ec2.running_at(id).and(self.ec2.instance(id));
            let instance = found.ok_or_else(|| {
                ApiError::validation(format!("Invalid Instance ID(s): [{id}] specified"))
            })?;
            zones.push(instance.zone.as_str());
        }
        self.scaling.check_attachment(group, &zones, super::groups::count(ids))?;
        let instances = ids.iter().filter_map(|id| self.ec2.give_up(id)).collect();
        self.scaling.attach(group, instances, now)
    }
}

/// Whether a call is one of this module.
pub(in crate::cloud) fn attaches(service: Service, action: &str) -> bool {
    service == Service::AutoScaling && matches!(action, "AttachInstances" | "DetachInstances")
}

/// Answers one call; returns the content of its result element, `None` where it has none.
pub(in crate::cloud) fn handle_attachments(
    state: &mut State,
    clock: &Clock,
    action: &str,
    params: &Params,
    now: Duration,
) -> Result<Option<String>, ApiError> {
    let group = params.required("AutoScalingGroupName")?;
    let ids = params.list("InstanceIds");
    if action == "AttachInstances" {
        return state.attach(group, &ids, now).map(|()| None);
    }
    params.required("ShouldDecrementDesiredCapacity")?;
    let decrement = params.parsed("ShouldDecrementDesiredCapacity")?.unwrap_or(false);
    let activities = state.scaling.detach(group, &ids, decrement, now)?;
    Ok(Some(all_activities(clock, &activities)))
}

impl Cloud {
    /// Detaches an instance from its group; without `decrement`, the group replaces it. It runs on, but this cloud's
    /// functions for instances of groups do not find it until it is attached again.
    pub fn detach(&self, instance_id: &str, decrement: bool) -> Result<(), ApiError> {
        self.change(|state, now| {
            let group = state.scaling.instance_mut(instance_id)?.group.clone();
            let ids = [instance_id.to_owned()];
            state.scaling.detach(&group, &ids, decrement, now).map(|_| ())
        })
    }

    /// Attaches an instance that no group has, and raises the desired capacity of the group by one.
    pub fn attach(&self, group: &str, instance_id: &str) -> Result<(), ApiError> {
        self.change(|state, now| state.attach(group, &[instance_id.to_owned()], now))
    }
}

#[cfg(test)]
#[path = "detach_tests.rs"]
mod tests;
