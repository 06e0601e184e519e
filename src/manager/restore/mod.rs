//! Restores a swarm from a backup: by itself, once, after managers have founded the next swarm ([`run`]), or for
//! `skep restore`.
//!
//! Guarantees of the duty: it begins only in a generation that was founded, while its swarm has no service, and once in a
//! generation, which a conditional write in the ledger decides. Another leader continues after a crash. Once everything
//! was tried, only what waits or was refused is created, so that what an operator removes stays removed; after a day,
//! nothing more is done. It never changes or deletes anything ([`plan`], [`apply`]).

mod apply;
mod plan;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::time::Duration;

use time::OffsetDateTime;
use tokio::time::Instant;

use super::backup::{Content, Key, Snapshot, Store, newest_of_another, observe};
use super::duty::{Duty, Poll};
use super::error::ManagerError;
use super::observe::{Fleet, lately};
use crate::clients::docker::{NodeView, Swarm, SwarmError};
use crate::clients::ledger::{Charter, CharterPhase, Restoration, RestorationState};

pub use apply::{Done, apply};
pub use plan::{Note, Plan, Present, Step, Waiting, plan};

/// Name of this duty and of its trouble.
pub(super) const NAME: &str = "restore";
/// Time between two looks while something is to be done: the longest wait of a service whose secret was created.
const INTERVAL: Duration = Duration::from_secs(15);
/// The same once nothing is left to do in this generation.
const IDLE: Duration = Duration::from_secs(300);
/// Age of a founding, and of a restoration, from which on nothing more is done.
const GIVE_UP_AFTER: time::Duration = time::Duration::DAY;
/// Time for which no node must have joined before tasks start: the first manager would get all of them.
const SETTLED_AFTER: time::Duration = time::Duration::seconds(60);
/// Longest wait for that, since the founding.
const SETTLED_AT_LATEST: time::Duration = time::Duration::minutes(10);
/// Objects that are recorded as waiting at most: a row has a limit.
const MOST_PENDING: usize = 400;

/// State that saves calls.
#[derive(Default)]
struct Memory {
    /// The backup that is being restored, and its key.
    backup: Option<(String, Snapshot)>,
    /// The notes that were logged.
    logged: BTreeSet<String>,
}

/// Fetches what a plan is compared with.
///
/// # Errors
/// When Docker does not answer.
pub async fn present(swarm: &Swarm) -> Result<Present, SwarmError> {
    let content = Content::of(&observe(swarm).await?);
    Ok(Present { content, nodes: swarm.fetch_nodes().await? })
}

/// Returns the row after a plan was carried out: what waits, or was refused, is tried again.
#[must_use]
pub fn after(plan: &Plan, refused: &BTreeSet<String>, row: &Restoration) -> Restoration {
    let is_short = |object: &String| object.len() <= Restoration::LONGEST_OBJECT;
    let waiting = plan.waiting.iter().map(Waiting::object);
    let left = waiting.chain(refused.iter().cloned());
    let state = match plan.waiting.is_empty() && refused.is_empty() {
        true => RestorationState::Done,
        false => RestorationState::Waiting,
    };
    let pending = left.filter(is_short).take(MOST_PENDING).collect();
    Restoration { state, pending, ..row.clone() }
}

/// Restores, where this is due, for as long as this node is a manager.
pub(super) async fn run(fleet: &Fleet<'_>) {
    let trouble = Some("the swarm is not restored");
    let duty = Duty { name: NAME, first: INTERVAL, after_failure: INTERVAL, trouble };
    duty.run(fleet, poll).await;
}

async fn poll(
    Poll { fleet, memory, complaints }: Poll<'_, Memory>,
) -> Result<Duration, ManagerError> {
    let generation = fleet.membership.generation;
    let Some(store) = Store::of(fleet.node) else { return Ok(IDLE) };
    let nodes = fleet.nodes(lately(INTERVAL)).await?;
    if !fleet.is_leader(&nodes) {
        *memory = Memory::default();
        fleet.node.state.trouble(NAME, None);
        return Ok(INTERVAL);
    }
    let now = OffsetDateTime::now_utc();
    let row = match fleet.node.ledger.fetch_restoration(generation).await? {
        Some(row) => row,
        None => {
            let charter = fleet.charter(lately(INTERVAL)).await?;
            match due(charter.as_ref(), &fleet.membership.swarm_id, generation, &nodes, now) {
                Due::Never => return Ok(IDLE),
                Due::Later => return Ok(INTERVAL),
                Due::Now => {}
            }
            match begin(fleet, &store, now).await? {
                Some(row) => row,
                // The next poll reads what another manager has begun.
                None => return Ok(INTERVAL),
            }
        }
    };
    let trouble = match (row.state, &row.backup) {
        (RestorationState::Begun | RestorationState::Waiting, Some(key)) => {
            if is_too_old(&row, now) {
                end(fleet, &row).await?;
                None
            } else {
                carry_on(fleet, &store, memory, &row, key).await?
            }
        }
        _ => None,
    };
    let pause = if trouble.is_none() { IDLE } else { INTERVAL };
    if let Some(trouble) = &trouble {
        complaints.record(trouble.clone());
    }
    fleet.node.state.trouble(NAME, trouble);
    Ok(pause)
}

/// Whether nothing more is done for a restoration, whatever is left: what an operator has removed since must not come
/// back.
fn is_too_old(row: &Restoration, now: OffsetDateTime) -> bool {
    now - row.begun_at >= GIVE_UP_AFTER
}

async fn end(fleet: &Fleet<'_>, row: &Restoration) -> Result<(), ManagerError> {
    let next = Restoration { state: RestorationState::Done, ..row.clone() };
    if fleet.node.ledger.record_restoration(Some(row), &next).await? {
        let left = row.pending.iter().cloned().collect::<Vec<_>>().join(", ");
        tracing::warn!(left, "the restore has ended after a day; `skep restore` does the rest");
    }
    Ok(())
}

/// Whether a restoration begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Due {
    Now,
    /// Nodes still join, or the charter is not open yet.
    Later,
    /// Not in this generation.
    Never,
}

fn due(
    charter: Option<&Charter>,
    swarm_id: &str,
    generation: u64,
    nodes: &[NodeView],
    now: OffsetDateTime,
) -> Due {
    let is_open = |charter: &&Charter| {
        charter.phase == CharterPhase::Open
            && charter.generation == generation
            && charter.swarm_id.as_deref() == Some(swarm_id)
    };
    let Some(charter) = charter.filter(is_open) else { return Due::Later };
    let Some(founded_at) = charter.founded_at else { return Due::Never };
    // A quorum that was re-created has kept its services, and an adopted swarm has those that its operator wants.
    let is_founded = charter.recovers.is_none() && charter.adopts.is_none();
    if !is_founded || now - founded_at >= GIVE_UP_AFTER {
        return Due::Never;
    }
    let newest = nodes.iter().filter_map(|node| node.joined_at).max();
    let is_settled = newest.is_some_and(|at| now - at >= SETTLED_AFTER);
    if is_settled || now - founded_at >= SETTLED_AT_LATEST { Due::Now } else { Due::Later }
}

/// Begins a restoration, or records that there is none in this generation. `None` if another manager was first.
async fn begin(
    fleet: &Fleet<'_>,
    store: &Store,
    now: OffsetDateTime,
) -> Result<Option<Restoration>, ManagerError> {
    let generation = fleet.membership.generation;
    let services = fleet.node.swarm.fetch_services().await?;
    let keys = store.list().await?;
    let key = newest_of_another(&keys, &fleet.membership.swarm_id);
    let backup = key.filter(|_| services.is_empty()).map(|key| key.text.clone());
    let state = match backup {
        Some(_) => RestorationState::Begun,
        None => RestorationState::Skipped,
    };
    let by = fleet.node.instance.id.clone();
    let pending = BTreeSet::new();
    let row = Restoration { generation, state, backup, by, begun_at: now, pending };
    if !fleet.node.ledger.record_restoration(None, &row).await? {
        return Ok(None);
    }
    match (&row.backup, key) {
        (Some(key), _) => tracing::warn!(key, generation, "restoring the swarm from a backup"),
        (None, Some(_)) => tracing::warn!(
            generation,
            "the swarm is not restored from a backup, because it has services already; `skep restore` shows what is missing"
        ),
        (None, None) => tracing::info!(
            generation,
            "the swarm is not restored: {} has no backup of another swarm",
            store.place()
        ),
    }
    Ok(Some(row))
}

/// Creates what is missing. Returns what an operator must do, if something waits.
async fn carry_on(
    fleet: &Fleet<'_>,
    store: &Store,
    memory: &mut Memory,
    row: &Restoration,
    key: &str,
) -> Result<Option<String>, ManagerError> {
    let node = fleet.node;
    let snapshot = match memory.backup.take() {
        Some((known, snapshot)) if known == key => snapshot,
        _ => store.get(key).await?,
    };
    let began = Instant::now();
    let mut plan = plan(&snapshot.content, &present(&node.swarm).await?);
    memory.backup = Some((key.to_owned(), snapshot));
    if row.state == RestorationState::Waiting {
        plan.keep(&row.pending);
    }
    let (mut created, mut refused, mut reasons) = (0_usize, BTreeSet::new(), vec![]);
    apply(&node.swarm, &plan, |step, done| match done {
        Done::Created => {
            created += 1;
            tracing::info!("restored the {}", step.object());
        }
        Done::Existed => {}
        Done::Refused(why) => {
            refused.insert(step.object());
            reasons.push(format!("{}: {why}", step.object()));
        }
    })
    .await?;
    for note in plan.left_out.iter().chain(&plan.remarks) {
        let line = format!("the {}: {}", note.object(), note.text);
        if memory.logged.insert(line.clone()) {
            tracing::warn!("{line}");
        }
    }
    let next = after(&plan, &refused, row);
    if next != *row && !node.ledger.record_restoration(Some(row), &next).await? {
        return Ok(Some("the row was changed meanwhile; it is read again".into()));
    }
    if next.state == RestorationState::Done {
        tracing::warn!(created, took = ?began.elapsed(), "the swarm is restored from {key}");
        return Ok(None);
    }
    let waiting = plan.waiting.iter().map(|waiting| {
        format!("service {} waits for the secret {}", waiting.service, waiting.secrets.join(", "))
    });
    let words: Vec<String> = waiting.chain(reasons).collect();
    Ok(Some(format!("the swarm is not restored in whole: {}", words.join("; "))))
}

impl Plan {
    /// Leaves only these objects: everything else was created before, and an operator may have removed it since.
    fn keep(&mut self, pending: &BTreeSet<String>) {
        self.steps.retain(|step| pending.contains(&step.object()));
        self.waiting.retain(|waiting| pending.contains(&waiting.object()));
        self.left_out.clear();
        self.remarks.retain(|note| pending.contains(&note.object()));
    }
}

/// Chooses from the backups the one that `skep restore` restores: the one that this generation is being restored from, so
/// that it can be run again; for a swarm without services the newest of another swarm; else the newest.
#[must_use]
pub fn choose<'a>(
    keys: &'a [Key],
    recorded: Option<&Restoration>,
    swarm_id: &str,
    has_services: bool,
) -> Option<&'a Key> {
    let recorded = recorded.and_then(|row| row.backup.as_deref());
    let same = keys.iter().find(|key| Some(&*key.text) == recorded);
    let former = newest_of_another(keys, swarm_id).filter(|_| !has_services);
    same.or(former).or(keys.last())
}
