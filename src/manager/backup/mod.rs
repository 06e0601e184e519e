//! Stores what Docker's API tells of the swarm in S3, encrypted: on change and at least daily, by the leader alone.
//!
//! Guarantees: nothing is stored that was not read in whole; a backup never replaces another one; of those that are older
//! than `backup.keep`, the newest three stay, and the newest one of each other swarm. No secret's data is stored,
//! because Docker does not tell it. Assumes nothing about earlier polls: what was stored last is read from the keys.

pub(super) mod error;
mod retention;
mod snapshot;
mod store;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use time::OffsetDateTime;
use tokio::time::Instant;

use super::duty::{Duty, Poll};
use super::error::ManagerError;
use super::observe::{Fleet, lately};
use crate::clients::docker::{Swarm, SwarmError};
use crate::clients::ledger::RestorationState;
use crate::common::instance::Membership;

pub use error::{BackupError, FORMAT};
pub use snapshot::{Content, Objects, Snapshot, name, network_spec, service_spec};
pub use store::{Key, Store, newest_of_another};

use retention::outdated;

/// Name of this duty and of its trouble.
pub(super) const NAME: &str = "backup";
/// Time between two looks at the swarm: a change is lost that is younger than this when all managers are lost.
const INTERVAL: Duration = Duration::from_secs(60);
/// Pause before the first look.
const FIRST: Duration = Duration::from_secs(15);
/// Age of the newest backup after which the same content is stored again: a backup is a sign of life, too.
const DAILY: time::Duration = time::Duration::DAY;
/// Time between two lists of the bucket: others may delete objects, and old ones become outdated.
const LIST_EVERY: Duration = Duration::from_secs(3600);
/// Maximum age of the node list that tells the leader.
const LIST_AGE: Duration = Duration::from_secs(10);

/// State that saves calls; it is read again after each change of the leader.
#[derive(Default)]
struct Memory {
    listed: Option<Listed>,
}

#[derive(Clone)]
struct Listed {
    at: Instant,
    newest: Option<Key>,
    /// Whether there is a backup of another swarm.
    has_another: bool,
}

/// Stores backups for as long as this node is a manager.
pub(super) async fn run(fleet: &Fleet<'_>) {
    let trouble = Some("the swarm is not backed up");
    let duty = Duty { name: NAME, first: FIRST, after_failure: INTERVAL, trouble };
    duty.run(fleet, poll).await;
}

async fn poll(Poll { fleet, memory, .. }: Poll<'_, Memory>) -> Result<Duration, ManagerError> {
    let node = fleet.node;
    let Some(store) = Store::of(node) else { return Ok(INTERVAL) };
    if !fleet.is_leader(&fleet.nodes(lately(LIST_AGE)).await?) {
        *memory = Memory::default();
        return Ok(INTERVAL);
    }
    let taken_at = OffsetDateTime::now_utc();
    let content = Content::of(&observe(&node.swarm).await?);
    let digest = content.digest();
    let Listed { newest, has_another, .. } = list(&store, fleet, memory, taken_at).await?;
    store.check_clock()?;
    let Membership { generation, swarm_id, .. } = fleet.membership.clone();
    let is_stored =
        |key: &Key| key.digest == digest && key.swarm_id == swarm_id && taken_at - key.at < DAILY;
    // Those of a swarm into which nothing was restored yet would hide the backup that it waits for.
    if newest.as_ref().is_some_and(is_stored) || (content.services.is_empty() && has_another) {
        return Ok(INTERVAL);
    }
    let restoration = node.ledger.fetch_restoration(generation).await?;
    if restoration.is_some_and(|row| row.state == RestorationState::Begun) {
        return Ok(INTERVAL);
    }
    let (format, cluster) = (FORMAT, node.cluster.clone());
    let snapshot = Snapshot { format, cluster, swarm_id, generation, taken_at, content };
    // A failed write may have succeeded.
    memory.listed = None;
    let key = store.put(&snapshot).await.map_err(ManagerError::from)?;
    tracing::info!(key = key.text, services = snapshot.content.services.len(), "stored a backup");
    memory.listed = Some(Listed { at: Instant::now(), newest: Some(key), has_another });
    Ok(INTERVAL)
}

/// Lists the bucket, at times, and then deletes what is outdated.
async fn list(
    store: &Store,
    fleet: &Fleet<'_>,
    memory: &mut Memory,
    now: OffsetDateTime,
) -> Result<Listed, ManagerError> {
    if let Some(listed) = &memory.listed
        && listed.at.elapsed() < LIST_EVERY
    {
        return Ok(listed.clone());
    }
    let keys = store.list().await?;
    store.check_clock()?;
    let keep = fleet.node.settings.backup.keep;
    for key in outdated(&keys, &fleet.membership.swarm_id, keep, now) {
        store.delete(key).await?;
        tracing::info!(key = key.text, "deleted an outdated backup");
    }
    let has_another = newest_of_another(&keys, &fleet.membership.swarm_id).is_some();
    let listed = Listed { at: Instant::now(), newest: keys.into_iter().next_back(), has_another };
    memory.listed = Some(listed.clone());
    Ok(listed)
}

/// Fetches the objects of the swarm.
///
/// # Errors
/// When Docker does not answer one of the requests: a part is no backup.
pub async fn observe(swarm: &Swarm) -> Result<Objects, SwarmError> {
    let services = swarm.fetch_services().await?;
    let networks = swarm.fetch_swarm_networks().await?;
    let configs = swarm.fetch_configs().await?;
    let secrets = swarm.fetch_secrets().await?;
    let labels = swarm.fetch_swarm_labels().await?;
    let mut network_names: BTreeMap<String, String> = networks
        .iter()
        .filter_map(|it| Some((it["Id"].as_str()?.to_owned(), it["Name"].as_str()?.to_owned())))
        .collect();
    let used: BTreeSet<&str> = services
        .iter()
        .flat_map(|service| {
            let spec = service.spec();
            [&spec["TaskTemplate"]["Networks"], &spec["Networks"]]
        })
        .flat_map(|list| list.as_array().into_iter().flatten())
        .filter_map(|network| network["Target"].as_str())
        .collect();
    // The predefined ones are not in the list.
    for id in used.into_iter().filter(|id| !network_names.contains_key(*id)).collect::<Vec<_>>() {
        if let Some(name) = swarm.fetch_network_name(id).await? {
            network_names.insert(id.to_owned(), name);
        }
    }
    Ok(Objects { services, networks, configs, secrets, labels, network_names })
}
