//! Tests of the janitor's decisions.

use std::time::Duration;

use proptest::prelude::*;
use time::OffsetDateTime;
use time::macros::datetime;

use super::decide::*;
use super::{size, tell};
use crate::clients::docker::{LocalContainer, LocalImage};
use crate::common::disk::{Disk, DiskSpace};
use crate::config::{Janitor, Settings};

const NOW: OffsetDateTime = datetime!(2026-11-21 12:00 UTC);
const DAY: Duration = Duration::from_secs(24 * 3600);

fn limits(volumes: bool) -> Janitor {
    Janitor { volumes, ..Settings::default().janitor }
}

fn image(id: &str) -> LocalImage {
    let (id, names) = (id.to_owned(), vec![format!("{id}:latest")]);
    LocalImage { id, parent: None, names, bytes: 1, is_kept: false }
}

fn container(image: &str, stopped_at: Option<OffsetDateTime>) -> LocalContainer {
    let (id, image) = (format!("of-{image}"), image.to_owned());
    LocalContainer { name: id.clone(), id, image, stopped_at, is_kept: false }
}

fn seen(images: Vec<LocalImage>, containers: Vec<LocalContainer>) -> Seen {
    Seen { at: NOW, images, containers, volumes: vec!["v".into()] }
}

fn images(plan: &Plan) -> Vec<&str> {
    plan.images.iter().map(|(image, _)| image.id.as_str()).collect()
}

#[test]
fn an_image_goes_when_nothing_has_used_it_for_long() {
    let record = Record::from([("a".into(), NOW - 8 * DAY), ("b".into(), NOW - 6 * DAY)]);
    let seen = seen(vec![image("a"), image("b"), image("new")], vec![]);
    let record = remember(&record, &seen);
    assert_eq!(record["new"], NOW, "a new image counts as used");
    assert_eq!(images(&decide(&seen, &record, &limits(false))), ["a"]);
}

#[test]
fn an_image_of_which_anything_is_left_stays() {
    let old = |id: &str| (id.to_owned(), NOW - 30 * DAY);
    let record = Record::from(["runs", "fresh", "stale", "parent", "child", "kept"].map(old));
    let all = vec![
        image("runs"),
        image("fresh"),
        image("stale"),
        image("parent"),
        LocalImage { parent: Some("parent".into()), ..image("child") },
        LocalImage { is_kept: true, ..image("kept") },
    ];
    let containers = vec![
        container("runs", None),
        container("fresh", Some(NOW - DAY / 2)),
        container("stale", Some(NOW - 20 * DAY)),
    ];
    let seen = seen(all, containers);
    let plan = decide(&seen, &remember(&record, &seen), &limits(false));
    assert_eq!(
        images(&plan),
        ["child", "stale"],
        "an image goes together with its container, and not before its child"
    );
    assert_eq!(plan.containers.len(), 1);
    assert!(plan.volumes.is_empty(), "volumes only where configured");
    assert_eq!(decide(&seen, &record, &limits(true)).volumes, ["v"]);
}

#[test]
fn a_record_that_is_lost_or_ahead_keeps_everything() {
    let seen = seen(vec![image("a")], vec![]);
    let ahead = Record::from([("a".into(), NOW + 400 * DAY)]);
    for record in [Record::new(), ahead] {
        let record = remember(&record, &seen);
        assert_eq!(record["a"], NOW);
        assert!(images(&decide(&seen, &record, &limits(false))).is_empty());
    }
}

#[test]
fn either_space_or_inodes_may_be_short() {
    let disk = |bytes, inodes| Disk {
        bytes: DiskSpace { free: bytes, all: 100 },
        inodes: DiskSpace { free: inodes, all: 100 },
    };
    let is_short = |bytes, inodes| is_short(disk(bytes, inodes), &limits(false));
    assert!(!is_short(50, 50) && is_short(5, 50) && is_short(50, 5));
    let without_inodes = Disk { inodes: DiskSpace { free: 0, all: 0 }, ..disk(50, 0) };
    assert!(
        !super::decide::is_short(without_inodes, &limits(false)),
        "no limit where the file system has no inode count"
    );
    assert_eq!(tell(disk(4, 61)), "4.0 % of its space and 61.0 % of its inodes are free");
    assert_eq!((size(1), size(5 << 20)), ("1 KiB".into(), "5 MiB".into()));
}

prop_compose! {
    fn any_image()(id in 0..6u8, parent in prop::option::of(0..6u8), is_kept in any::<bool>()) -> LocalImage {
        let parent = parent.filter(|parent| *parent < id).map(|parent| parent.to_string());
        LocalImage { parent, is_kept, ..image(&id.to_string()) }
    }
}

prop_compose! {
    fn any_container()(
        image in 0..6u8,
        hours in prop::option::of(0..800u32),
        is_kept in any::<bool>(),
        number in any::<u32>(),
    ) -> LocalContainer {
        let stopped_at = hours.map(|hours| NOW - hours * Duration::from_secs(3600));
        LocalContainer { id: number.to_string(), is_kept, ..container(&image.to_string(), stopped_at) }
    }
}

proptest! {
    /// The plan never has an object that runs, is kept, is young or is still needed. Removing it can free further
    /// images for the next plan, until the plan is empty.
    #[test]
    fn only_what_is_free_and_old_goes_and_it_comes_to_an_end(
        images in prop::collection::vec(any_image(), 0..6),
        containers in prop::collection::vec(any_container(), 0..8),
        hours in prop::collection::vec(prop::option::of(0..800u32), 6),
    ) {
        let limits = limits(true);
        let mut images = images;
        images.sort_by(|a, b| a.id.cmp(&b.id));
        images.dedup_by(|a, b| a.id == b.id);
        let mut seen = seen(images, containers);
        let record: Record = hours.iter().enumerate().filter_map(|(id, hours)| {
            Some((id.to_string(), NOW - (*hours)? * Duration::from_secs(3600)))
        }).collect();
        let record = remember(&record, &seen);
        for _ in 0..=seen.images.len() + 1 {
            let plan = decide(&seen, &record, &limits);
            for (container, _) in &plan.containers {
                prop_assert!(!container.is_kept);
                prop_assert!(container.stopped_at.unwrap() <= NOW - limits.containers_stopped_for);
            }
            seen.containers.retain(|one| plan.containers.iter().all(|(gone, _)| gone.id != one.id));
            for (image, _) in &plan.images {
                prop_assert!(!image.is_kept && record[&image.id] <= NOW - limits.images_unused_for);
                prop_assert!(seen.containers.iter().all(|container| container.image != image.id));
                prop_assert!(seen.images.iter().all(|one| one.parent.as_ref() != Some(&image.id)));
            }
            seen.images.retain(|one| plan.images.iter().all(|(gone, _)| gone.id != one.id));
            seen.volumes.clear();
        }
        prop_assert!(decide(&seen, &record, &limits).is_empty());
    }
}

#[test]
fn what_makes_no_room_on_the_disk_that_is_short_stays() {
    let record = Record::from([("a".into(), NOW - 30 * DAY)]);
    let seen = seen(vec![image("a")], vec![container("b", Some(NOW - 30 * DAY))]);
    let plan = |images, volumes| {
        let plan = decide(&seen, &record, &limits(true)).where_short(Short { images, volumes });
        (plan.images.len(), plan.containers.len(), plan.volumes.len())
    };
    assert_eq!(plan(true, true), (1, 1, 1), "one disk for both");
    assert_eq!(plan(true, false), (1, 1, 0), "the disk of images is short");
    assert_eq!(plan(false, true), (0, 1, 1), "the disk of Docker's root is short");
}
