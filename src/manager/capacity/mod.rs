//! Measures the capacity of each Auto Scaling group in tasks: what is reserved, what is available, which nodes are idle,
//! and which tasks wait for a node and why. Auto Scaling knows of none of these.
//!
//! Guarantees: the leader alone measures, so that every value has one source; no value is shown or sent while one of
//! Docker's answers is missing, and a manager that is no longer the leader shows none. Nothing is decided here: a
//! scaling policy of the operator decides by the values.

mod kind;
mod look;
mod needs;
mod reason;
mod send;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use time::OffsetDateTime;
use tokio::time::Instant;

use super::complaints::{Complaints, some_of};
use super::duty::{Duty, Poll};
use super::error::ManagerError;
use super::observe::{Fleet, lately};
use crate::clients::aws::autoscaling::{GroupInstance, LifecycleState};
use crate::telemetry::metrics::metrics;

use kind::Kinds;
use look::{Observed, Seen, look};
use reason::Reason;
use send::Sent;

/// Name of this duty.
const NAME: &str = "capacity";
/// Time between two polls.
const INTERVAL: Duration = Duration::from_secs(15);
/// The pause is at least this many times as long as the poll before it, because the list of tasks can have many megabytes;
/// but not longer than CloudWatch's period.
const PAUSE_FACTOR: u32 = 50;
const LONGEST_PAUSE: Duration = Duration::from_secs(50);
/// Maximum age of Docker's lists.
const LIST_AGE: Duration = Duration::from_secs(5);
/// Maximum age of Auto Scaling's answer about the groups' limits.
const GROUPS_AGE: Duration = Duration::from_secs(60);
/// Name under which failures of Auto Scaling are logged.
const AUTO_SCALING: &str = "Auto Scaling";

/// Measures for as long as this node is a manager.
pub(super) async fn run(fleet: &Fleet<'_>) {
    let _hidden = HideAtTheEnd;
    let duty = Duty { name: NAME, first: INTERVAL, after_failure: INTERVAL, trouble: None };
    duty.run(fleet, poll).await;
}

/// Removes the values from the metrics when the duty ends.
struct HideAtTheEnd;

impl Drop for HideAtTheEnd {
    fn drop(&mut self) {
        metrics().capacity(None);
    }
}

/// State of one manager.
#[derive(Default)]
struct Memory {
    /// What the nodes of each group are or were like, also on a manager that is not the leader yet.
    kinds: Kinds,
    /// Groups with instances that are in service or launch.
    staffed: BTreeSet<String>,
    sent: Sent,
    /// The waiting tasks that were logged last.
    logged: String,
}

async fn poll(
    Poll { fleet, memory, complaints }: Poll<'_, Memory>,
) -> Result<Duration, ManagerError> {
    let began = Instant::now();
    let observed = observe(fleet, memory, complaints).await;
    let Some(seen) = observed.inspect_err(|_| metrics().capacity(None))? else {
        *memory = Memory { kinds: std::mem::take(&mut memory.kinds), ..Memory::default() };
        metrics().capacity(None);
        return Ok(INTERVAL);
    };
    show(&seen);
    memory.log(&seen);
    if fleet.node.settings.capacity.cloudwatch {
        memory.sent.send(&fleet.node.cloudwatch, &seen, &memory.staffed, complaints).await;
    }
    Ok((began.elapsed() * PAUSE_FACTOR).clamp(INTERVAL, LONGEST_PAUSE))
}

/// Measures; `None` on a manager that is not the leader.
async fn observe(
    fleet: &Fleet<'_>,
    memory: &mut Memory,
    complaints: &mut Complaints,
) -> Result<Option<Seen>, ManagerError> {
    let nodes = fleet.nodes(lately(LIST_AGE)).await?;
    memory.kinds.learn(&nodes);
    if !fleet.is_leader(&nodes) {
        return Ok(None);
    }
    let work = fleet.work(lately(LIST_AGE)).await?;
    let observed = Observed { nodes: &nodes, services: &work.services, tasks: &work.tasks };
    let now = OffsetDateTime::now_utc();
    let seen = look(observed, &memory.kinds, &BTreeSet::new(), now);
    memory.staffed.clear();
    let waits = seen.groups.values().any(|group| group.capacity.pending > 0);
    if !waits {
        complaints.retain(|whom| whom == send::CLOUDWATCH);
        return Ok(Some(seen));
    }
    // Only now it matters which groups can grow.
    let listed = match fleet.groups(lately(GROUPS_AGE)).await {
        Ok(listed) => listed,
        Err(error) => {
            complaints.take("reading the limits of the groups", AUTO_SCALING, Err(error))?;
            return Ok(Some(seen));
        }
    };
    memory.staffed = staffed_groups(listed.values());
    let full = full_groups(listed.values());
    let seen = look(observed, &memory.kinds, &full.keys().cloned().collect(), now);
    report_full_groups(&seen, &full, complaints);
    Ok(Some(seen))
}

fn show(seen: &Seen) {
    let mut pending: BTreeMap<&'static str, usize> =
        Reason::ALL.iter().map(|reason| (reason.as_str(), 0)).collect();
    for ((_, reason), tasks) in &seen.pending {
        *pending.entry(reason.as_str()).or_default() += tasks;
    }
    let groups = seen.groups.iter().map(|(name, group)| (name.as_str(), group.capacity));
    metrics().capacity(Some((groups.collect(), pending)));
}

impl Memory {
    /// Logs which tasks wait for a node, once until that changes.
    fn log(&mut self, seen: &Seen) {
        let waiting = waiting(seen);
        if waiting == self.logged {
            return;
        }
        if waiting.is_empty() {
            tracing::info!("resolved: no task waits for a node any more");
        } else {
            tracing::info!("tasks wait for a node: {waiting}");
        }
        self.logged = waiting;
    }
}

/// Returns the services whose tasks wait, and why; without the numbers of tasks, which change more often.
fn waiting(seen: &Seen) -> String {
    let one = |(service, reason): &(String, Reason)| format!("{service} ({})", reason.as_str());
    some_of(&seen.pending.keys().map(one).collect::<Vec<_>>())
}

/// Logs each group that needs more nodes than its maximum allows, once until it does not.
fn report_full_groups(seen: &Seen, full: &BTreeMap<String, u32>, complaints: &mut Complaints) {
    let is_short = |name: &str| {
        let capacity = seen.groups.get(name).map(|group| group.capacity);
        capacity.is_some_and(|it| it.pending > 0 && it.needed > it.nodes)
    };
    complaints.retain(|whom| whom == send::CLOUDWATCH || full.contains_key(whom) && is_short(whom));
    for (name, maximum) in full.iter().filter(|(name, _)| is_short(name)) {
        let complaint = format!("the group has its maximum of {maximum} instances");
        if complaints.is_news(name, &complaint) {
            let capacity = seen.groups[name].capacity;
            tracing::warn!(
                group = name,
                waiting = capacity.pending,
                missing = capacity.needed - capacity.nodes,
                "tasks wait for more nodes, but {complaint}; raise it"
            );
        }
    }
}

/// Returns the groups that have their maximum of instances, with that number. Retained instances do not count.
fn full_groups<'a>(listed: impl Iterator<Item = &'a GroupInstance>) -> BTreeMap<String, u32> {
    let mut groups: BTreeMap<&str, (Option<u32>, u32)> = BTreeMap::new();
    for instance in listed {
        let (maximum, instances) = groups.entry(&instance.group).or_default();
        *maximum = maximum.or(instance.settings.and_then(|settings| settings.max_size));
        let state = &instance.lifecycle_state;
        *instances += u32::from(!state.is_terminating() && !state.is_retained());
    }
    let full = groups.into_iter().filter_map(|(name, (maximum, instances))| {
        let maximum = maximum.filter(|maximum| instances >= *maximum)?;
        Some((name.to_owned(), maximum))
    });
    full.collect()
}

/// Returns the groups with an instance that is in service or launches.
fn staffed_groups<'a>(listed: impl Iterator<Item = &'a GroupInstance>) -> BTreeSet<String> {
    let is_staff = |it: &&GroupInstance| {
        it.lifecycle_state == LifecycleState::InService
            || it.lifecycle_state.is_launching().is_yes()
    };
    listed.filter(is_staff).map(|it| it.group.clone()).collect()
}
