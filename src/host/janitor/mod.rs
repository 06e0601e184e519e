//! Frees space on Docker's disk when it is short: removes containers that stopped long ago, images unused for long and,
//! where the operator configures it, anonymous volumes without a container.
//!
//! Guarantees: off unless the settings enable it. Removes nothing while there is enough free space, nor while the node
//! joins or leaves. Never removes a running container, anything labelled
//! [`KEEP_LABEL`](crate::clients::docker::KEEP_LABEL), or a named volume. Never forces a removal: Docker can refuse it.
//! Logs every removal. Assumes that removed images can be pulled again.

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

/// Observes and frees Docker's disk at the configured interval; never returns.
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
                        tracing::warn!(
                            "Docker's disk is short and the janitor has nothing to remove: {}",
                            tell(room)
                        );
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

/// Whether the node is serving: a joining node needs its images, and a departing node needs its time.
fn may_tidy(node: &Node) -> bool {
    node.state.now().is_serving()
}

/// Observes Docker's disk once, and frees space where it is short. Returns the free space if it is too little and there
/// is nothing to remove.
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
    tracing::info!("freeing space on Docker's disk ({}): {}", place.display(), tell(before));
    let removed = carry_out(node, &plan, limits).await;
    if let Some(after) = disk(place) {
        tracing::info!(
            "freed space on Docker's disk, {removed} of {} removals done: {}",
            plan.len(),
            tell(after)
        );
    }
    Ok(None)
}

/// Returns the free space at `place`; `None` is "cannot tell", and nothing is removed.
fn disk(place: &Path) -> Option<Disk> {
    Disk::of(place).inspect_err(|error| tracing::warn!("{}: {error}", place.display())).ok()
}

/// Carries out the plan and returns the number of removals; skips each object that Docker refuses to remove.
async fn carry_out(node: &Node, plan: &Plan, limits: &Janitor) -> usize {
    let mut removed = 0;
    let mut note = |done: Result<(), SwarmError>, what: String| match done {
        Ok(()) => {
            removed += 1;
            tracing::info!("removed {what}");
        }
        Err(error) => tracing::info!("could not remove {what}: {error}"),
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
        note(
            node.swarm.remove_volume(volume).await,
            format!("volume {volume}, without a container"),
        );
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
