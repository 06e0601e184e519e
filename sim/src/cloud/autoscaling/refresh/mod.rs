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
mod calls;
mod decide;
mod drive;
mod spec;

use std::collections::BTreeSet;
use std::time::Duration;

pub(super) use api::handle;
pub use spec::{OfProtected, OfStandby, RefreshSpec, RefreshStatus, RefreshStrategy, RefreshView};

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

/// Returns the position after which launches are those of an active refresh.
pub(super) fn launches_after(refreshes: &[Refresh], group: &str) -> Option<u64> {
    active(refreshes, group).map(|it| it.last_old)
}

/// Returns the image of new instances: that of an active refresh, or the group's.
pub(super) fn image_of_launches(refreshes: &[Refresh], spec: &GroupSpec) -> String {
    let desired = active(refreshes, &spec.name).and_then(|it| it.image(&spec.instance_type));
    desired.unwrap_or(&spec.image_id).clone()
}

fn status_event(refresh: &Refresh) -> EventKind {
    EventKind::InstanceRefresh {
        group: refresh.group.clone(),
        refresh: refresh.id.clone(),
        status: refresh.status,
        reason: refresh.reason.clone(),
    }
}

#[cfg(test)]
mod tests;
