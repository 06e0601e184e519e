//! Warm pools: instances that are prepared ahead, and kept stopped or running until the group needs them.
//!
//! This cloud does not support hibernation, and refuses requests for it.

use std::time::Duration;

use super::describe::one_instance;
use super::group::WarmPool;
use super::instance::Instance;
use super::lifecycle::{Event, Lifecycle};
use super::page::page;
use super::scaling::Scaling;
use super::states::{LifecycleState, PoolState};
use crate::cloud::Cloud;
use crate::cloud::errors::ApiError;
use crate::cloud::specs::{Market, WarmPoolSpec};
use crate::cloud::wire::Params;
use crate::cloud::xml::Xml;

/// The largest page of `DescribeWarmPool`.
const LARGEST_PAGE: usize = 50;

impl Scaling {
    pub fn put_warm_pool(
        &mut self,
        name: &str,
        spec: WarmPoolSpec,
        now: Duration,
    ) -> Result<(), ApiError> {
        let group = self.group_mut(name)?;
        if group.spec.market == Market::Spot {
            return Err(ApiError::validation(
                "You can't add a warm pool to an Auto Scaling group that requests Spot Instances.",
            ));
        }
        self.check_no_root_volumes_refreshed(name)?;
        let group = self.group_mut(name)?;
        group.warm_pool = Some(WarmPool { spec, is_deleted: false });
        self.converge(now);
        Ok(())
    }

    /// Deletes a warm pool; a forced deletion waits for no hook.
    pub fn delete_warm_pool(
        &mut self,
        name: &str,
        force: bool,
        now: Duration,
    ) -> Result<(), ApiError> {
        let pool = self.group_mut(name)?.warm_pool.as_mut().ok_or_else(|| no_pool(name))?;
        pool.is_deleted = true;
        if force {
            for id in self.pooled(name) {
                self.vanish(&id, now);
            }
        }
        self.converge(now);
        Ok(())
    }

    /// Takes the oldest prepared instance into service; returns whether there was one.
    pub(super) fn take_from_pool(&mut self, group: &str, now: Duration) -> bool {
        let prepared = self
            .pooled(group)
            .into_iter()
            .find(|id| self.instances.get(id).is_some_and(|i| i.lifecycle.state().is_prepared()));
        let Some(id) = prepared else { return false };
        let cause = "an instance was taken from the warm pool in response to a difference \
                     between desired and actual capacity, increasing the capacity.";
        let description = format!("Launching a new EC2 instance from warm pool: {id}");
        self.record(&id, group, description, cause, now);
        // Not refused: the instance is prepared.
        let _ = self.step(&id, Event::TakeIntoService, now);
        true
    }

    /// Returns an excess instance to the pool; `false`: the caller must terminate it.
    pub(super) fn return_to_pool(&mut self, id: &str, cause: &str, now: Duration) -> bool {
        let Some(instance) = self.instances.get(id) else { return false };
        let (group, activity) = (instance.group.clone(), instance.activity);
        let pool = self.groups.get(&group).and_then(|group| group.warm_pool);
        let Some(pool) = pool.filter(|pool| pool.spec.reuse && !pool.is_deleted) else {
            return false;
        };
        if instance.lifecycle.state() != LifecycleState::InService {
            return false;
        }
        self.activities[activity].end_if_open(now);
        let description = format!("Returning EC2 instance to the warm pool: {id}");
        self.record(id, &group, description, cause, now);
        // Not refused: the instance is in service.
        self.step(id, Event::ReturnToPool(pool.spec.state), now).is_ok()
    }

    /// Launches the pool's missing instances, and terminates the excess ones.
    pub(super) fn keep_pool(&mut self, name: &str, now: Duration) {
        let Some((pool, wanted)) = self.groups.get(name).and_then(|group| {
            let pool = group.warm_pool?;
            let prepared = pool.spec.max_prepared.unwrap_or(group.spec.max);
            let wanted = prepared.saturating_sub(group.spec.desired).max(pool.spec.min_size);
            Some((pool, if pool.is_deleted { 0 } else { wanted as usize }))
        }) else {
            return;
        };
        let pooled = self.pooled(name);
        for id in pooled.iter().take(pooled.len().saturating_sub(wanted)) {
            let cause = "an instance was taken out of the warm pool, which is to be smaller.";
            self.begin_termination(id, false, cause, now);
        }
        for _ in pooled.len()..wanted {
            if !self.launch(name, Lifecycle::warmed(pool.spec.state, now), now) {
                break;
            }
        }
        let is_empty =
            !self.instances.values().any(|i| i.group == name && i.lifecycle.state().is_warmed());
        if pool.is_deleted
            && is_empty
            && let Some(group) = self.groups.get_mut(name)
        {
            group.warm_pool = None;
        }
    }

    /// Returns the instances in the pool and those that enter it, oldest first.
    fn pooled(&self, group: &str) -> Vec<String> {
        let mut pooled: Vec<&Instance> = self
            .instances
            .values()
            .filter(|i| i.group == group)
            .filter(|i| i.lifecycle.state().is_warmed() && !i.lifecycle.state().is_leaving())
            .collect();
        pooled.sort_by_key(|i| i.sequence);
        pooled.into_iter().map(|i| i.id.clone()).collect()
    }
}

/// `PutWarmPool`.
pub(super) fn put(scaling: &mut Scaling, params: &Params, now: Duration) -> Result<(), ApiError> {
    let state = match params.get("PoolState") {
        None => PoolState::default(),
        Some(text) => PoolState::parse(text).ok_or_else(|| {
            ApiError::validation(format!("PoolState must be Stopped or Running here, not {text}"))
        })?,
    };
    // -1 stands for the group's maximum.
    let max_prepared = params.parsed::<i64>("MaxGroupPreparedCapacity")?;
    let spec = WarmPoolSpec {
        min_size: params.parsed("MinSize")?.unwrap_or(0),
        max_prepared: max_prepared.and_then(|n| u32::try_from(n).ok()),
        state,
        reuse: params.parsed("InstanceReusePolicy.ReuseOnScaleIn")?.unwrap_or(false),
    };
    scaling.put_warm_pool(params.required("AutoScalingGroupName")?, spec, now)
}

/// `DeleteWarmPool`.
pub(super) fn delete(
    scaling: &mut Scaling,
    params: &Params,
    now: Duration,
) -> Result<(), ApiError> {
    let force = params.parsed("ForceDelete")?.unwrap_or(false);
    scaling.delete_warm_pool(params.required("AutoScalingGroupName")?, force, now)
}

/// `DescribeWarmPool`.
pub(super) fn describe(scaling: &Scaling, params: &Params) -> Result<String, ApiError> {
    let group = scaling.group(params.required("AutoScalingGroupName")?)?;
    let mut xml = Xml::default();
    let Some(pool) = &group.warm_pool else {
        xml.list("Instances", [(); 0], |_, ()| {});
        return Ok(xml.finish());
    };
    xml.open("WarmPoolConfiguration");
    xml.display("MinSize", pool.spec.min_size);
    if let Some(prepared) = pool.spec.max_prepared {
        xml.display("MaxGroupPreparedCapacity", prepared);
    }
    xml.text("PoolState", pool.spec.state.as_str());
    if pool.spec.reuse {
        xml.open("InstanceReusePolicy");
        xml.display("ReuseOnScaleIn", true);
        xml.close("InstanceReusePolicy");
    }
    xml.maybe("Status", pool.is_deleted.then_some("PendingDelete"));
    xml.close("WarmPoolConfiguration");
    let mut members: Vec<&Instance> = scaling
        .instances()
        .filter(|i| i.group == group.spec.name && i.lifecycle.state().is_warmed())
        .collect();
    members.sort_by_key(|i| i.sequence);
    let (members, next) = page(members, params, LARGEST_PAGE)?;
    xml.list("Instances", members, |xml, instance| {
        one_instance(xml, instance, ["Healthy", "Unhealthy"]);
    });
    xml.maybe("NextToken", next.as_deref());
    Ok(xml.finish())
}

fn no_pool(group: &str) -> ApiError {
    ApiError::validation(format!("No warm pool found for AutoScalingGroup {group}"))
}

impl Cloud {
    /// Adds a warm pool to a group, or changes the present one.
    pub fn put_warm_pool(&self, group: &str, spec: WarmPoolSpec) -> Result<(), ApiError> {
        self.change(|state, now| state.scaling.put_warm_pool(group, spec, now))
    }
}

#[cfg(test)]
#[path = "warm_pool_tests.rs"]
mod tests;
