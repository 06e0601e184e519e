//! Decides which containers, images and volumes the janitor removes. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use time::OffsetDateTime;

use crate::clients::docker::{LocalContainer, LocalImage};
use crate::common::disk::Disk;
use crate::config::Janitor;

/// The time when each image was last observed in use, or first observed, by id. Docker does not record it.
pub type Record = BTreeMap<String, OffsetDateTime>;

/// One observation of Docker's disk.
#[derive(Clone, Debug)]
pub struct Seen {
    pub at: OffsetDateTime,
    pub images: Vec<LocalImage>,
    pub containers: Vec<LocalContainer>,
    /// Anonymous volumes that no container has.
    pub volumes: Vec<String>,
}

/// The objects to remove, in this order: an image is free only after its containers are removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// With the time since they stopped.
    pub containers: Vec<(LocalContainer, Duration)>,
    /// With the time since they were last in use; longest first.
    pub images: Vec<(LocalImage, Duration)>,
    pub volumes: Vec<String>,
}

/// The disks that are short. Where Docker uses two, removing from the other one frees no space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Short {
    /// The disk of images and of the files that containers have written.
    pub images: bool,
    /// The disk of volumes and of containers' logs.
    pub volumes: bool,
}

impl Plan {
    /// Keeps the part of the plan that frees space on a short disk. Containers are on both disks.
    #[must_use]
    pub fn where_short(mut self, short: Short) -> Self {
        if !short.images {
            self.images.clear();
        }
        if !short.volumes {
            self.volumes.clear();
        }
        self
    }

    /// Returns the number of objects.
    #[must_use]
    pub fn len(&self) -> usize {
        self.containers.len() + self.images.len() + self.volumes.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Whether less is free than the operator wants.
#[must_use]
pub fn is_short(disk: Disk, limits: &Janitor) -> bool {
    disk.bytes.share() < limits.free_space || disk.inodes.share() < limits.free_inodes
}

/// Returns the record after another observation. An image without an entry and without containers counts as in use now,
/// also after the record was lost.
#[must_use]
pub fn remember(record: &Record, seen: &Seen) -> Record {
    let used_at = |image: &LocalImage| {
        let own = seen.containers.iter().filter(|container| container.image == image.id);
        let by_containers = own.map(|container| container.stopped_at.unwrap_or(seen.at)).max();
        let before = record.get(&image.id).copied();
        // A clock that was ahead has recorded times that are still in the future.
        before.max(by_containers).unwrap_or(seen.at).min(seen.at)
    };
    seen.images.iter().map(|image| (image.id.clone(), used_at(image))).collect()
}

/// Returns everything beyond the limits, whether the disk is short or not.
#[must_use]
pub fn decide(seen: &Seen, record: &Record, limits: &Janitor) -> Plan {
    let age = |since: OffsetDateTime| Duration::try_from(seen.at - since).unwrap_or_default();
    let mut plan = Plan::default();
    let mut stay = BTreeSet::new();
    for container in &seen.containers {
        let stopped_for = container.stopped_at.map(age).filter(|_| !container.is_kept);
        match stopped_for.filter(|age| *age >= limits.containers_stopped_for) {
            Some(stopped_for) => plan.containers.push((container.clone(), stopped_for)),
            None => drop(stay.insert(container.image.as_str())),
        }
    }
    // An image cannot be removed before the images that were made from it.
    stay.extend(seen.images.iter().filter_map(|image| image.parent.as_deref()));
    for image in &seen.images {
        let unused_for = age(record.get(&image.id).copied().unwrap_or(seen.at));
        let is_free = !image.is_kept && !stay.contains(image.id.as_str());
        if is_free && unused_for >= limits.images_unused_for {
            plan.images.push((image.clone(), unused_for));
        }
    }
    plan.images.sort_by_key(|(_, unused_for)| std::cmp::Reverse(*unused_for));
    if limits.volumes {
        plan.volumes.clone_from(&seen.volumes);
    }
    plan
}
