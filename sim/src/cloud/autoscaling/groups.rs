//! Changes groups and their hooks, and moves instances to standby and back.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use super::activities::{Activity, Status};
use super::group::{Group, TrafficSource};
use super::lifecycle::Event;
use super::scaling::{Scaling, not_managed};
use super::states::LifecycleState;
use super::states::Process;
use crate::cloud::errors::ApiError;
use crate::cloud::events::EventKind;
use crate::cloud::specs::{GroupSpec, HealthCheckType, HookSpec};

/// The most instances that one call protects.
const MOST_PROTECTED: usize = 50;

/// New sizes of a group; `None` leaves a size unchanged.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sizes {
    pub min: Option<u32>,
    pub max: Option<u32>,
    pub desired: Option<u32>,
}

/// New health check settings of a group; `None` leaves a setting unchanged.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct HealthChecks {
    pub of_type: Option<HealthCheckType>,
    pub grace: Option<Duration>,
}

impl Scaling {
    pub fn groups(&self) -> impl Iterator<Item = &Group> {
        self.groups.values()
    }

    pub fn group(&self, name: &str) -> Result<&Group, ApiError> {
        self.groups.get(name).ok_or_else(|| unknown_group(name))
    }

    pub(super) fn group_mut(&mut self, name: &str) -> Result<&mut Group, ApiError> {
        self.groups.get_mut(name).ok_or_else(|| unknown_group(name))
    }

    pub fn create_group(
        &mut self,
        spec: GroupSpec,
        zones: Vec<String>,
        hooks: Vec<HookSpec>,
        stack_id: Option<String>,
        now: Duration,
    ) -> Result<(), ApiError> {
        if self.groups.contains_key(&spec.name) {
            return Err(ApiError::new(
                400,
                "AlreadyExists",
                "AutoScalingGroup by this name already exists - A group with the name already \
                 exists",
            ));
        }
        check_sizes(spec.min, spec.max, spec.desired)?;
        self.check_target_groups(&spec.target_group_arns)?;
        let arns = spec.target_group_arns.iter();
        let sources = arns.map(|arn| TrafficSource { arn: arn.clone(), from_start: true });
        let group = Group {
            sources: sources.collect(),
            spec,
            zones,
            hooks,
            warm_pool: None,
            stack_id,
            created: now,
            to_replace: VecDeque::new(),
            suspended: BTreeSet::new(),
            balancing: BTreeSet::new(),
        };
        self.groups.insert(group.spec.name.clone(), group);
        self.converge(now);
        Ok(())
    }

    pub fn update_group(
        &mut self,
        name: &str,
        sizes: Sizes,
        now: Duration,
    ) -> Result<(), ApiError> {
        let group = self.group_mut(name)?;
        let min = sizes.min.unwrap_or(group.spec.min);
        let max = sizes.max.unwrap_or(group.spec.max);
        // Without a new desired capacity, AWS moves the old one into the new limits.
        let kept = group.spec.desired.clamp(min, max.max(min));
        let desired = sizes.desired.unwrap_or(kept);
        check_sizes(min, max, desired)?;
        (group.spec.min, group.spec.max) = (min, max);
        self.change_desired(name, desired)?;
        self.converge(now);
        Ok(())
    }

    pub fn set_health_checks(
        &mut self,
        name: &str,
        checks: HealthChecks,
        now: Duration,
    ) -> Result<(), ApiError> {
        let spec = &mut self.group_mut(name)?.spec;
        spec.health_check_type = checks.of_type.unwrap_or(spec.health_check_type);
        spec.health_check_grace = checks.grace.unwrap_or(spec.health_check_grace);
        self.replace_unhealthy(now);
        self.touch();
        Ok(())
    }

    pub fn set_desired(&mut self, name: &str, desired: u32, now: Duration) -> Result<(), ApiError> {
        self.group(name)?.check_capacity(desired)?;
        self.change_desired(name, desired)?;
        self.converge(now);
        Ok(())
    }

    pub(super) fn change_desired(&mut self, name: &str, to: u32) -> Result<(), ApiError> {
        let group = self.group_mut(name)?;
        let from = std::mem::replace(&mut group.spec.desired, to);
        if to < from {
            // A smaller group does not replace the instances that have left.
            group.to_replace.clear();
        }
        if from != to {
            self.emit(EventKind::DesiredCapacity { group: name.to_owned(), from, to });
        }
        Ok(())
    }

    /// Lowers the desired capacity by `by`; refuses a result below the minimum.
    pub(super) fn decrement(&mut self, name: &str, by: u32) -> Result<(), ApiError> {
        let spec = &self.group(name)?.spec;
        let desired = spec.desired.saturating_sub(by);
        if desired < spec.min || spec.desired < by {
            return Err(ApiError::validation(format!(
                "Currently, desiredSize equals minSize ({}). Terminating instance without \
                 replacement will violate group's min size constraint. Either set \
                 shouldDecrementDesiredCapacity flag to false or lower group's min size.",
                spec.min
            )));
        }
        self.change_desired(name, desired)
    }

    pub fn delete_group(&mut self, name: &str, force: bool, now: Duration) -> Result<(), ApiError> {
        self.group(name)?;
        self.check_none_retained(name)?;
        let members: Vec<String> =
            self.instances.values().filter(|i| i.group == name).map(|i| i.id.clone()).collect();
        if !members.is_empty() && !force {
            return Err(ApiError::new(
                400,
                "ResourceInUse",
                "You cannot delete an AutoScalingGroup while there are instances or pending Spot \
                 instance request(s) still in the group.",
            ));
        }
        // Forced deletion waits for no hook; without the group, no instance is replaced.
        self.groups.remove(name);
        self.delete_policies_of(name);
        self.refreshes.retain(|refresh| refresh.group != name);
        for id in members {
            self.vanish(&id, now);
        }
        Ok(())
    }

    /// Adds or replaces a hook, for transitions that start from now on.
    pub fn put_hook(&mut self, hook: HookSpec) -> Result<(), ApiError> {
        let hooks = &mut self.group_mut(&hook.group)?.hooks;
        match hooks.iter_mut().find(|old| old.name == hook.name) {
            Some(old) => *old = hook,
            None => hooks.push(hook),
        }
        Ok(())
    }

    pub fn delete_hook(&mut self, group: &str, name: &str) -> Result<(), ApiError> {
        let hooks = &mut self.group_mut(group)?.hooks;
        let before = hooks.len();
        hooks.retain(|hook| hook.name != name);
        if hooks.len() == before {
            return Err(ApiError::validation(format!(
                "No Lifecycle Hook found with name {name} for AutoScalingGroup {group}"
            )));
        }
        Ok(())
    }

    /// Moves instances to standby; `decrement` lowers the desired capacity by their number.
    pub fn enter_standby(
        &mut self,
        group: &str,
        ids: &[String],
        decrement: bool,
        now: Duration,
    ) -> Result<Vec<Activity>, ApiError> {
        self.check_members(group, ids, LifecycleState::InService)?;
        if decrement {
            self.decrement(group, count(ids))?;
        }
        let description = "Moving EC2 instance to Standby";
        Ok(self.move_all(group, ids, Event::EnterStandby, description, now))
    }

    /// Moves instances back from standby, and raises the desired capacity by their number.
    pub fn exit_standby(
        &mut self,
        group: &str,
        ids: &[String],
        now: Duration,
    ) -> Result<Vec<Activity>, ApiError> {
        self.check_members(group, ids, LifecycleState::Standby)?;
        self.check_launches(group)?;
        let desired = self.group(group)?.spec.desired + count(ids);
        self.group(group)?.check_capacity(desired)?;
        self.change_desired(group, desired)?;
        let description = "Moving EC2 instance out of Standby";
        Ok(self.move_all(group, ids, Event::ExitStandby, description, now))
    }

    /// Sets whether scale-in leaves these instances alone; all of them or none:
    /// <https://docs.aws.amazon.com/autoscaling/ec2/APIReference/API_SetInstanceProtection.html>
    pub fn set_protection(
        &mut self,
        group: &str,
        ids: &[String],
        protected: bool,
        now: Duration,
    ) -> Result<(), ApiError> {
        self.group(group)?;
        if ids.is_empty() || ids.len() > MOST_PROTECTED {
            return Err(ApiError::validation(format!(
                "The number of instance ids must be between 1 and {MOST_PROTECTED}"
            )));
        }
        use LifecycleState::{EnteringStandby, InService, Standby};
        for id in ids {
            let instance = self.instance(id).filter(|it| it.group == group);
            let state = instance.ok_or_else(|| not_managed(id))?.lifecycle.state();
            if !matches!(state, InService | EnteringStandby | Standby) {
                return Err(ApiError::validation(format!(
                    "The instance {id} is not in InService or EnteringStandby or Standby."
                )));
            }
        }
        for id in ids {
            self.instance_mut(id)?.protected = protected;
        }
        self.converge(now);
        Ok(())
    }

    /// Refuses a change that brings instances into a group while its launches are suspended.
    pub(super) fn check_launches(&self, group: &str) -> Result<(), ApiError> {
        if self.group(group)?.is_suspended(Process::Launch) {
            return Err(ApiError::validation(format!(
                "The Launch process of AutoScalingGroup {group} is suspended"
            )));
        }
        Ok(())
    }

    /// Checks that all of `ids` are in `group` and in `state`.
    fn check_members(
        &self,
        group: &str,
        ids: &[String],
        state: LifecycleState,
    ) -> Result<(), ApiError> {
        self.group(group)?;
        check_different(ids)?;
        ids.iter().try_for_each(|id| match self.instance(id) {
            Some(instance) if instance.group != group => Err(not_managed(id)),
            Some(instance) if instance.lifecycle.state() == state => Ok(()),
            Some(_) => Err(ApiError::validation(format!("The instance {id} is not in {state}."))),
            None => Err(not_managed(id)),
        })
    }

    fn move_all(
        &mut self,
        group: &str,
        ids: &[String],
        event: Event<'_>,
        description: &str,
        now: Duration,
    ) -> Vec<Activity> {
        let first = self.activities.len();
        for id in ids {
            // Not refused: `check_members` has checked the state.
            let _ = self.step(id, event, now);
            let cause = "instances were moved in response to a user request.";
            self.record(id, group, format!("{description}: {id}"), cause, now);
        }
        for activity in &mut self.activities[first..] {
            activity.end(Status::Successful, now);
        }
        let moved = self.activities[first..].to_vec();
        self.converge(now);
        moved
    }
}

pub(super) fn count(ids: &[String]) -> u32 {
    u32::try_from(ids.len()).unwrap_or(u32::MAX)
}

/// Refuses an instance that is named twice: it would count twice for the desired capacity.
pub(super) fn check_different(ids: &[String]) -> Result<(), ApiError> {
    if ids.iter().collect::<BTreeSet<_>>().len() < ids.len() {
        return Err(ApiError::validation("The instance ids must be different"));
    }
    Ok(())
}

fn check_sizes(min: u32, max: u32, desired: u32) -> Result<(), ApiError> {
    if min > max {
        return Err(ApiError::validation("Max bound must be greater than or equal to min bound"));
    }
    if desired < min || desired > max {
        return Err(ApiError::validation(format!(
            "Desired capacity:{desired} must be between the specified min size:{min} and max \
             size:{max}"
        )));
    }
    Ok(())
}

fn unknown_group(name: &str) -> ApiError {
    ApiError::validation(format!(
        "AutoScalingGroup name not found - AutoScalingGroup '{name}' not found"
    ))
}

#[cfg(test)]
#[path = "groups_tests.rs"]
mod tests;
