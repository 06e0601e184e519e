//! Makes room on Docker's disk when it gets short: containers that stopped long ago, images that
//! nothing has used for long, and, where the operator wants it, anonymous volumes of nobody.
//!
//! Guarantees: off unless the settings want it; nothing goes while there is room, nor while the node
//! is on its way in or out; nothing that runs, nothing labelled [`KEEP_LABEL`](crate::clients::docker::KEEP_LABEL),
//! no volume with a name of somebody's choice. Docker has the last word on each: it is never forced.
//! Whatever goes is logged. Assumes that what is removed can be pulled again.

mod decide;
mod record;
#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::path::Path;
use std::time::Duration;

use time::OffsetDateTime;

use crate::clients::docker::SwarmError;
use crate::common::disk::Disk;
use crate::config::Janitor;
use crate::node::Node;
use decide::{Plan, Record, Seen, Short};

/// Looks again and again; never returns.
pub async fn keep_tidy(node: &Node) -> Infallible {
    let limits = &node.settings.janitor;
    let state_dir = &node.settings.state_dir;
    let mut record = record::load(state_dir);
    let mut was_helpless = false;
    loop {
        if may_tidy(node) {
            match look(node, &mut record).await {
                Ok(helpless) => {
                    if let Some(room) = helpless.filter(|_| !was_helpless) {
                        tracing::warn!("nothing may be removed from Docker's disk: {}", tell(room));
                    }
                    was_helpless = helpless.is_some();
                }
                Err(error) => tracing::warn!("{error}"),
            }
            if let Err(error) = record::save(state_dir, &record) {
                tracing::warn!("{}: {error}", state_dir.display());
            }
        }
        tokio::time::sleep(limits.every).await;
    }
}

/// A node on its way in needs its images, and one on its way out its time.
fn may_tidy(node: &Node) -> bool {
    node.state.now().is_serving()
}

/// One look, and what follows from it. What is left where that is too little, and nothing to be done
/// about it.
async fn look(node: &Node, record: &mut Record) -> Result<Option<Disk>, SwarmError> {
    let limits = &node.settings.janitor;
    let (images, containers, volumes, engine) = tokio::try_join!(
        node.swarm.fetch_images(),
        node.swarm.fetch_all_containers(),
        node.swarm.fetch_lost_volumes(),
        node.swarm.fetch_engine(),
    )?;
    let seen = Seen { at: OffsetDateTime::now_utc(), images, containers, volumes };
    *record = decide::remember(record, &seen);
    let Some(root) = engine.root_dir else { return Ok(None) };
    let images = engine.image_dir.unwrap_or_else(|| root.clone());
    let is_short = |disk: &Disk| decide::is_short(*disk, limits);
    let (of_images, of_volumes) = (disk(&images).filter(is_short), disk(&root).filter(is_short));
    let short = Short { images: of_images.is_some(), volumes: of_volumes.is_some() };
    let place = if short.images { &images } else { &root };
    let Some(before) = of_images.or(of_volumes) else { return Ok(None) };
    let plan = decide::decide(&seen, record, limits).where_short(short);
    if plan.is_empty() {
        return Ok(Some(before));
    }
    tracing::info!("making room on Docker's disk ({}): {}", place.display(), tell(before));
    let removed = carry_out(node, &plan, limits).await;
    if let Some(after) = disk(place) {
        tracing::info!("made room, with {removed} of {} removed: {}", plan.len(), tell(after));
    }
    Ok(None)
}

/// `None` where it cannot be told: nothing is removed then.
fn disk(place: &Path) -> Option<Disk> {
    Disk::of(place).inspect_err(|error| tracing::warn!("{}: {error}", place.display())).ok()
}

/// How much of it is done; what Docker refuses stays.
async fn carry_out(node: &Node, plan: &Plan, limits: &Janitor) -> usize {
    let mut removed = 0;
    let mut note = |done: Result<(), SwarmError>, what: String| match done {
        Ok(()) => {
            removed += 1;
            tracing::info!("removed {what}");
        }
        Err(error) => tracing::info!("{what} stays: {error}"),
    };
    for (container, stopped_for) in &plan.containers {
        if !may_tidy(node) {
            break;
        }
        let done = node.swarm.remove_container(&container.id, limits.volumes).await;
        note(done, format!("container {}, stopped for {}", container.name, span(*stopped_for)));
    }
    for (image, unused_for) in &plan.images {
        if !may_tidy(node) {
            break;
        }
        let done = node.swarm.remove_image(image).await;
        let (size, unused_for) = (size(image.bytes), span(*unused_for));
        note(done, format!("image {} of {size}, unused for {unused_for}", image.name()));
    }
    for volume in &plan.volumes {
        if !may_tidy(node) {
            break;
        }
        note(node.swarm.remove_volume(volume).await, format!("volume {volume}, of no container"));
    }
    removed
}

/// `4.1 % of its space and 61.0 % of its inodes are free`
fn tell(disk: Disk) -> String {
    let percent = |share: f64| share * 100.0;
    let (space, inodes) = (percent(disk.bytes.share()), percent(disk.inodes.share()));
    format!("{space:.1} % of its space and {inodes:.1} % of its inodes are free")
}

fn span(time: Duration) -> String {
    humantime::format_duration(Duration::from_secs(time.as_secs())).to_string()
}

fn size(bytes: u64) -> String {
    const MIB: u64 = 1 << 20;
    match bytes {
        0..MIB => format!("{} KiB", bytes.div_ceil(1 << 10)),
        _ => format!("{} MiB", bytes / MIB),
    }
}
