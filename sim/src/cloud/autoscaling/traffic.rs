//! Target groups of Auto Scaling groups: registers instances that enter service, deregisters those that leave it, and
//! replaces those that a target group reports as unhealthy.
//!
//! An instance in standby is deregistered without a wait: AWS documents none.

use std::time::Duration;

use super::activities::Status;
use super::group::{Group, TrafficSource};
use super::instance::Instance;
use super::scaling::{Outcome, Scaling};
use super::states::LifecycleState;
use super::states::Process;
use crate::cloud::elb::{Elb, TargetKey};
use crate::cloud::errors::ApiError;
use crate::cloud::events::EventKind;
use crate::cloud::specs::HealthCheckType;

impl Scaling {
    pub fn elb(&self) -> &Elb {
        &self.elb
    }

    /// Changes the load balancers, and adds the events and orders that follow.
    pub fn balance<T>(&mut self, change: impl FnOnce(&mut Elb) -> T) -> T {
        let result = change(&mut self.elb);
        self.outcomes.extend(self.elb.take_outcomes().into_iter().map(Outcome::Balanced));
        result
    }

    /// Refuses ARNs that are not those of target groups.
    pub(super) fn check_target_groups(&self, arns: &[String]) -> Result<(), ApiError> {
        if arns.iter().all(|arn| self.elb.group(arn).is_ok()) {
            return Ok(());
        }
        Err(ApiError::validation(
            "Provided Target Groups may not be valid. Please ensure they exist and try again.",
        ))
    }

    /// Attaches target groups to a group; its instances in service are registered at once.
    pub fn attach_target_groups(
        &mut self,
        name: &str,
        arns: &[String],
        now: Duration,
    ) -> Result<(), ApiError> {
        self.check_target_groups(arns)?;
        let sources = &mut self.group_mut(name)?.sources;
        for arn in arns {
            if !sources.iter().any(|source| source.arn == *arn) {
                sources.push(TrafficSource { arn: arn.clone(), from_start: false });
            }
        }
        for id in self.in_service(name) {
            self.register(&id, now);
        }
        Ok(())
    }

    /// Detaches target groups from a group; its instances are deregistered from them.
    pub fn detach_target_groups(
        &mut self,
        name: &str,
        arns: &[String],
        now: Duration,
    ) -> Result<(), ApiError> {
        let sources = &mut self.group_mut(name)?.sources;
        if !arns.iter().all(|arn| sources.iter().any(|source| source.arn == *arn)) {
            return Err(ApiError::validation(
                "Trying to remove Target Groups that are not part of the group",
            ));
        }
        sources.retain(|source| !arns.contains(&source.arn));
        for id in self.in_service(name) {
            for arn in arns {
                // Refused for a target group that was deleted: it has no targets.
                let _ = self.balance(|elb| elb.deregister(arn, &id, None, now));
            }
        }
        // An instance that leaves no longer waits for them.
        self.tick(now);
        Ok(())
    }

    /// Registers or deregisters an instance that has changed its state.
    pub(super) fn direct_traffic(&mut self, id: &str, to: LifecycleState, now: Duration) {
        match to {
            LifecycleState::InService => {
                let group = self.instances.get(id).and_then(|it| self.groups.get(&it.group));
                if !group.is_some_and(|group| group.is_suspended(Process::AddToLoadBalancer)) {
                    self.register(id, now);
                }
            }
            _ if to.is_terminated() => self.balance(|elb| elb.forget(id)),
            _ if to.leaves_service() => {
                for arn in self.target_groups(id) {
                    // Refused for a target group that was deleted: it has no targets.
                    let _ = self.balance(|elb| elb.deregister(&arn, id, None, now));
                }
            }
            _ => {}
        }
    }

    fn register(&mut self, id: &str, now: Duration) {
        let Some(instance) = self.instances.get(id) else { return };
        let address = instance.address;
        for arn in self.target_groups(id) {
            if let Err(error) = self.balance(|elb| elb.register(&arn, id, None, address, now)) {
                tracing::warn!(%error, arn, id, "cannot register an instance");
            }
        }
    }

    /// Returns the time from which an instance is in none of its group's target groups; [`Duration::MAX`] while it is
    /// in service.
    pub(super) fn deregistered(&self, instance: &Instance) -> Duration {
        let Some(group) = self.groups.get(&instance.group) else { return Duration::ZERO };
        let is_registered = instance.lifecycle.state() == LifecycleState::InService;
        let ends = group.sources.iter().filter_map(|source| {
            let target_group = self.elb.group(&source.arn).ok()?;
            let key = TargetKey { id: instance.id.clone(), port: target_group.spec.port };
            let member = target_group.members.get(&key)?;
            // A target that an operator has registered again is not draining, and holds nothing up.
            let end = target_group.deregistered_at(member);
            if is_registered { Some(Duration::MAX) } else { end }
        });
        ends.max().unwrap_or_default()
    }

    /// Shows in the activities that an instance waits for the end of its deregistration.
    pub(super) fn show_draining(&mut self, id: &str, now: Duration) {
        let Some(instance) = self.instances.get(id) else { return };
        if instance.lifecycle.state().leaves_service() && self.deregistered(instance) > now {
            self.activities[instance.activity].status = Status::WaitingForConnectionDraining;
        }
    }

    /// Replaces the instances in service that a target group reports as unhealthy, in groups whose health check type is ELB,
    /// after the grace period.
    pub fn replace_unhealthy(&mut self, now: Duration) {
        let overdue: Vec<String> = self
            .instances
            .values()
            .filter(|instance| self.unhealthy_from(instance).is_some_and(|from| from <= now))
            .map(|instance| instance.id.clone())
            .collect();
        if overdue.is_empty() {
            return;
        }
        for instance_id in overdue {
            if let Some(instance) = self.instances.get_mut(&instance_id) {
                instance.healthy = false;
            }
            self.emit(EventKind::Unhealthy { instance_id: instance_id.clone() });
            let group = self.instances.get(&instance_id).and_then(|it| self.groups.get(&it.group));
            if group.is_some_and(Group::replaces_unhealthy) {
                let cause = "an instance was taken out of service in response to an ELB system \
                             health check failure.";
                self.begin_termination(&instance_id, true, cause, now);
            }
        }
        self.converge(now);
    }

    /// Returns the time from which the group replaces an instance that a target group reports as unhealthy.
    pub(super) fn unhealthy_from(&self, instance: &Instance) -> Option<Duration> {
        let group = self.groups.get(&instance.group)?;
        let spec = &group.spec;
        if spec.health_check_type != HealthCheckType::Elb
            || group.is_suspended(Process::HealthCheck)
            || !instance.healthy
            || instance.lifecycle.state() != LifecycleState::InService
        {
            return None;
        }
        let mut sources = group.sources.iter().filter(|source| self.is_serving(source));
        let is_unhealthy = sources.any(|source| {
            let Ok(target_group) = self.elb.group(&source.arn) else { return false };
            let mut members = target_group.members.iter().filter(|(key, _)| key.id == instance.id);
            members.any(|(_, member)| member.target.state().is_unhealthy())
        });
        is_unhealthy.then(|| instance.lifecycle.since() + spec.health_check_grace)
    }

    /// Whether the health checks of a target group count for Auto Scaling: it was attached from the start, or has had
    /// a healthy target.
    /// <https://docs.aws.amazon.com/autoscaling/ec2/userguide/load-balancer-status.html>
    pub(super) fn is_serving(&self, source: &TrafficSource) -> bool {
        source.from_start || self.elb.group(&source.arn).is_ok_and(|group| group.was_healthy)
    }

    fn target_groups(&self, id: &str) -> Vec<String> {
        let group = self.instances.get(id).and_then(|it| self.groups.get(&it.group));
        let sources = group.map(|group| group.sources.as_slice()).unwrap_or_default();
        sources.iter().map(|source| source.arn.clone()).collect()
    }

    fn in_service(&self, group: &str) -> Vec<String> {
        let members = self.instances.values().filter(|it| it.group == group);
        let members = members.filter(|it| it.lifecycle.state() == LifecycleState::InService);
        members.map(|it| it.id.clone()).collect()
    }
}

#[cfg(test)]
#[path = "traffic_tests.rs"]
mod tests;
