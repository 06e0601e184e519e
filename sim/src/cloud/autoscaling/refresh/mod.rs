//! Instance refreshes: they replace the instances of a group, or their root volumes, a few at a time.
//!
//! [`decide`] is pure: it gets a look at the group, and returns the next step. [`drive`] looks, and takes the steps.
//! A rolling refresh terminates an instance, and the group launches another at once; or it lets the group launch
//! instances beyond its desired capacity first, and terminates one when a new one is ready. Terminations run the hooks
//! and deregister from target groups, like all others. Sources:
//!
//! - <https://docs.aws.amazon.com/autoscaling/ec2/userguide/instance-refresh-overview.html>
//! - <https://docs.aws.amazon.com/autoscaling/ec2/userguide/replace-root-volume.html>
//! - <https://docs.aws.amazon.com/autoscaling/ec2/userguide/asg-adding-checkpoints-instance-refresh.html>
//!
//! Where AWS documents nothing, this cloud assumes: a refresh has ended when the instances that it has terminated are
//! gone, as a cancelled one waits for them; the next replacements do not wait for them, because the percentages count
//! no instance that leaves; after a failure, the group scales in what is beyond its desired capacity. One page says
//! that the replacement of root volumes does not support load balancers, another that the instance is deregistered
//! from them: here it is.
//!
//! Not here: rollbacks, alarms, launch templates, instances of a warm pool (they are replaced when they come into
//! service), and a second stop at a checkpoint that is reached again after a scale-out.

mod api;
mod decide;
mod drive;
mod spec;

use std::collections::BTreeSet;
use std::time::Duration;

pub(super) use api::handle;
pub use spec::{OfProtected, OfStandby, RefreshSpec, RefreshStatus, RefreshStrategy, RefreshView};

use super::scaling::Scaling;
use crate::cloud::Cloud;
use crate::cloud::errors::ApiError;
use crate::cloud::events::EventKind;
use crate::cloud::specs::GroupSpec;

/// One instance refresh.
#[derive(Clone, Debug)]
pub(super) struct Refresh {
    id: String,
    pub group: String,
    spec: RefreshSpec,
    /// The time in service until a new instance counts.
    warmup: Duration,
    status: RefreshStatus,
    reason: Option<String>,
    started: Duration,
    ended: Option<Duration>,
    progress: decide::Progress,
    /// The position of the last launch before the start.
    last_old: u64,
    /// The instances whose replacement has begun: they leave, or have a new root volume.
    begun: BTreeSet<String>,
    /// The instances that are new, and were not ready so far.
    unproven: BTreeSet<String>,
    pace: decide::Pace,
    /// The next time at which a step can be due.
    next: Option<Duration>,
}

impl Refresh {
    fn is_active(&self) -> bool {
        self.ended.is_none()
    }

    fn replaces_volumes(&self) -> bool {
        self.spec.strategy == RefreshStrategy::ReplaceRootVolume
    }

    /// Returns the image that an instance of this type must have; `None`: no desired configuration names one.
    fn image(&self, instance_type: &str) -> Option<&String> {
        self.spec.images.get(instance_type)
    }
}

fn active<'a>(refreshes: &'a [Refresh], group: &str) -> Option<&'a Refresh> {
    refreshes.iter().rev().find(|it| it.group == group && it.is_active())
}

/// Returns the image of new instances: that of an active refresh, or the group's.
pub(super) fn image_of_launches(refreshes: &[Refresh], spec: &GroupSpec) -> String {
    let desired = active(refreshes, &spec.name).and_then(|it| it.image(&spec.instance_type));
    desired.unwrap_or(&spec.image_id).clone()
}

impl Scaling {
    /// Starts a refresh; returns its id.
    pub fn start_refresh(
        &mut self,
        name: &str,
        spec: RefreshSpec,
        now: Duration,
    ) -> Result<String, ApiError> {
        let group = self.group(name)?;
        spec.check()?;
        if active(&self.refreshes, name).is_some() {
            return Err(ApiError::new(
                400,
                "InstanceRefreshInProgress",
                "An Instance Refresh is already in progress and blocks the execution of this \
                 Instance Refresh.",
            ));
        }
        let members = self.instances.values().filter(|it| it.group == name);
        spec.check_group(group, members.map(|it| it.instance_type.clone()))?;
        let grace = group.spec.health_check_grace;
        let refresh = Refresh {
            id: self.ids.uuid(),
            group: name.to_owned(),
            warmup: spec.warmup.unwrap_or(grace),
            spec,
            status: RefreshStatus::InProgress,
            reason: None,
            started: now,
            ended: None,
            progress: decide::Progress::default(),
            last_old: self.sequence,
            begun: BTreeSet::new(),
            unproven: BTreeSet::new(),
            pace: decide::Pace::default(),
            next: None,
        };
        let id = refresh.id.clone();
        self.emit(status_event(&refresh));
        self.refreshes.push(refresh);
        self.converge(now);
        Ok(id)
    }

    /// Cancels the active refresh; returns its id. With `waits`, what is under way comes to its end first.
    pub fn cancel_refresh(
        &mut self,
        name: &str,
        waits: bool,
        now: Duration,
    ) -> Result<String, ApiError> {
        self.group(name)?;
        let refreshes = self.refreshes.iter_mut().rev();
        let mut refreshes = refreshes.filter(|it| it.group == name && it.is_active());
        let refresh = refreshes.next().ok_or_else(|| {
            ApiError::new(
                400,
                "ActiveInstanceRefreshNotFound",
                "No in progress or pending Instance Refresh found for Auto Scaling group",
            )
        })?;
        let id = refresh.id.clone();
        refresh.status = RefreshStatus::Cancelling;
        let event = status_event(refresh);
        if !waits {
            refresh.end(RefreshStatus::Cancelled, Some(decide::CANCELLED.to_owned()), now);
        }
        let ended = refresh.ended.is_some().then(|| status_event(refresh));
        self.emit(event);
        ended.into_iter().for_each(|event| self.emit(event));
        self.converge(now);
        Ok(id)
    }

    /// Returns the refreshes of a group, newest first.
    pub(super) fn refreshes_of(&self, name: &str) -> impl Iterator<Item = &Refresh> {
        self.refreshes.iter().rev().filter(move |it| it.group == name)
    }

    /// Returns the number of instances that a group may have beyond its desired capacity, for its refresh.
    pub(super) fn refresh_surge(&self, name: &str) -> usize {
        active(&self.refreshes, name).map_or(0, |it| it.pace.surge)
    }

    pub(super) fn check_no_root_volumes_refreshed(&self, name: &str) -> Result<(), ApiError> {
        if active(&self.refreshes, name).is_some_and(Refresh::replaces_volumes) {
            return Err(ApiError::validation(
                "You can't add a warm pool to an Auto Scaling group that has an active instance \
                 refresh with Replace Root Volume.",
            ));
        }
        Ok(())
    }
}

fn status_event(refresh: &Refresh) -> EventKind {
    EventKind::InstanceRefresh {
        group: refresh.group.clone(),
        refresh: refresh.id.clone(),
        status: refresh.status,
        reason: refresh.reason.clone(),
    }
}

impl Cloud {
    /// Starts an instance refresh of a group; returns its id.
    pub fn start_refresh(&self, group: &str, spec: RefreshSpec) -> Result<String, ApiError> {
        self.change(|state, now| state.scaling.start_refresh(group, spec, now))
    }

    /// Returns a refresh that replaces the root volumes of a group by new ones from the group's own image.
    pub fn root_volumes_of(&self, group: &str) -> Result<RefreshSpec, ApiError> {
        self.change(|state, _| {
            let spec = &state.scaling.group(group)?.spec;
            Ok(RefreshSpec::root_volumes(&spec.instance_type, &spec.image_id))
        })
    }

    /// Cancels a group's active instance refresh; what is under way comes to its end.
    pub fn cancel_refresh(&self, group: &str) -> Result<(), ApiError> {
        self.change(|state, now| state.scaling.cancel_refresh(group, true, now).map(drop))
    }

    /// Returns the newest instance refresh of a group.
    pub fn refresh(&self, group: &str) -> Option<RefreshView> {
        self.change(|state, _| state.scaling.refreshes_of(group).next().map(Refresh::view))
    }

    /// Records the result of an order to replace a root volume. A failure makes the group replace the instance.
    pub fn root_volume_is_replaced(&self, instance_id: &str, replaced: Result<(), String>) {
        self.change(|state, now| state.scaling.root_volume_is_replaced(instance_id, replaced, now));
    }
}

#[cfg(test)]
mod tests;
