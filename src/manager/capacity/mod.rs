//! Measures the capacity of each Auto Scaling group in tasks: what is reserved, what is available, which nodes are idle,
//! and which tasks wait for a node and why. Auto Scaling knows of none of these.
//!
//! Guarantees: the leader alone measures, so that every value has one source; no value is shown or sent while one of
//! Docker's answers is missing, and a manager that is no longer the leader shows none. Nothing is decided here: a
//! scaling policy of the operator decides by the values.

mod look;
mod needs;
mod reason;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::Duration;

use time::OffsetDateTime;
use tokio::time::Instant;

use super::complaints::{Complaints, some_of};
use super::duty::{Duty, Poll};
use super::error::ManagerError;
use super::observe::{Fleet, lately};
use crate::clients::aws::AwsError;
use crate::clients::aws::autoscaling::GroupInstance;
use crate::clients::aws::cloudwatch::Datum;
use crate::common::capacity::GroupCapacity;
use crate::telemetry::metrics::metrics;

use look::{Group, Seen, Sizes, look};
use reason::Reason;

/// Name of this duty.
const NAME: &str = "capacity";
/// Time between two polls.
const INTERVAL: Duration = Duration::from_secs(15);
/// A poll may take this part of the time: the list of tasks can have many megabytes.
const POLLS_SHARE: u32 = 100;
/// Maximum age of the node list.
const LIST_AGE: Duration = Duration::from_secs(5);
/// Maximum age of Auto Scaling's answer about the groups' limits.
const GROUPS_AGE: Duration = Duration::from_secs(60);
/// What complaints about CloudWatch are about, beside the groups.
const CLOUDWATCH: &str = "CloudWatch";
/// Time after which unchanged values are sent again: CloudWatch's period.
const SENT_AGAIN_AFTER: Duration = Duration::from_secs(60);

/// Measures for as long as this node is a manager.
pub(super) async fn run(fleet: &Fleet<'_>) {
    let _hidden = HideAtTheEnd;
    let duty = Duty { name: NAME, first: INTERVAL, after_failure: INTERVAL, trouble: None };
    duty.run(fleet, poll).await;
}

/// Shows no values any more when the duty ends, whatever ends it.
struct HideAtTheEnd;

impl Drop for HideAtTheEnd {
    fn drop(&mut self) {
        metrics().capacity(None);
    }
}

/// State that saves calls and log lines.
#[derive(Default)]
struct Memory {
    sizes: Sizes,
    /// The values that were sent last, and when.
    sent: Option<(Instant, Vec<Datum>)>,
    /// The waiting tasks that were logged last.
    logged: String,
}

async fn poll(
    Poll { fleet, memory, complaints }: Poll<'_, Memory>,
) -> Result<Duration, ManagerError> {
    let began = Instant::now();
    let observed = observe(fleet, &mut memory.sizes).await;
    let Some(seen) = observed.inspect_err(|_| metrics().capacity(None))? else {
        *memory = Memory::default();
        metrics().capacity(None);
        return Ok(INTERVAL);
    };
    let pause = INTERVAL.max(began.elapsed() * POLLS_SHARE);
    show(&seen);
    memory.log(&seen);
    if fleet.node.settings.capacity.cloudwatch {
        report_sending(send(fleet, memory, data(&seen)).await, complaints);
    }
    report_full_groups(fleet, &seen, complaints).await?;
    Ok(pause)
}

/// Logs once why CloudWatch does not get the values: they are shown all the same.
fn report_sending(sent: Result<(), AwsError>, complaints: &mut Complaints) {
    let Err(error) = sent else { return complaints.retain(|whom| whom != CLOUDWATCH) };
    let complaint = format!("cannot send the capacity to CloudWatch: {error}");
    if complaints.is_news(CLOUDWATCH, &complaint) {
        tracing::warn!("{complaint}");
    }
    complaints.record(complaint);
}

/// Measures; `None` on a manager that is not the leader.
async fn observe(fleet: &Fleet<'_>, sizes: &mut Sizes) -> Result<Option<Seen>, ManagerError> {
    let nodes = fleet.nodes(lately(LIST_AGE)).await?;
    if !fleet.is_leader(&nodes) {
        return Ok(None);
    }
    let swarm = &fleet.node.swarm;
    let (services, tasks) =
        tokio::try_join!(swarm.fetch_services(), swarm.fetch_tasks_by_service())?;
    Ok(Some(look(&nodes, &services, &tasks, sizes, OffsetDateTime::now_utc())))
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

/// Returns the services whose tasks wait, and why; without their numbers, which change more often.
fn waiting(seen: &Seen) -> String {
    let one = |(service, reason): &(String, Reason)| format!("{service} ({})", reason.as_str());
    some_of(&seen.pending.keys().map(one).collect::<Vec<_>>())
}

/// Logs each group that needs more nodes than its maximum allows, once until it does not.
async fn report_full_groups(
    fleet: &Fleet<'_>,
    seen: &Seen,
    complaints: &mut Complaints,
) -> Result<(), ManagerError> {
    let is_short = |group: &&Group| group.capacity.needed > group.capacity.nodes;
    let short: BTreeMap<&String, &Group> =
        seen.groups.iter().filter(|(_, group)| is_short(group)).collect();
    complaints.retain(|name| name == CLOUDWATCH || short.keys().any(|it| *it == name));
    if short.is_empty() {
        return Ok(());
    }
    let listed = fleet.groups(lately(GROUPS_AGE)).await?;
    for (name, Group { capacity, .. }) in short {
        let of_group = listed.values().filter(|it| it.group == *name);
        let Some(maximum) = is_full(of_group) else { continue };
        let missing = capacity.needed - capacity.nodes;
        let complaint = format!("it has its maximum of {maximum} instances");
        if complaints.is_news(name, &complaint) {
            tracing::warn!(
                group = name,
                "{} tasks wait for {missing} more nodes of this group, but {complaint}; raise its maximum",
                capacity.pending
            );
        }
    }
    Ok(())
}

/// Returns the maximum of a group that has so many instances; `None` if it has fewer, or its maximum is unknown.
fn is_full<'a>(of_group: impl Iterator<Item = &'a GroupInstance>) -> Option<u32> {
    let (mut maximum, mut instances) = (None, 0);
    for instance in of_group {
        maximum = maximum.or(instance.settings.and_then(|settings| settings.max_size));
        instances += u32::from(!instance.lifecycle_state.is_terminating());
    }
    maximum.filter(|maximum| instances >= *maximum)
}

/// Returns the values for CloudWatch: of the groups whose number of nodes is for tasks to choose.
fn data(seen: &Seen) -> Vec<Datum> {
    let groups = seen.groups.iter().filter(|(_, group)| !group.is_of_managers);
    groups.flat_map(|(name, group)| data_of(name, &group.capacity)).collect()
}

fn data_of(group: &str, capacity: &GroupCapacity) -> impl Iterator<Item = Datum> {
    const COUNT: &str = "Count";
    const PERCENT: &str = "Percent";
    let values = [
        ("NodesNeeded", PERCENT, Some(capacity.needed_percent())),
        ("Nodes", COUNT, Some(capacity.nodes as f64)),
        ("NodesIdle", COUNT, Some(capacity.idle as f64)),
        ("TasksPending", COUNT, Some(capacity.pending as f64)),
        ("CPUReserved", PERCENT, capacity.cpu_percent()),
        ("MemoryReserved", PERCENT, capacity.memory_percent()),
    ];
    let group = group.to_owned();
    values.into_iter().filter_map(move |(name, unit, value)| {
        Some(Datum { name, unit, value: value?, group: group.clone() })
    })
}

/// Sends values that have changed, or were sent a while ago.
async fn send(fleet: &Fleet<'_>, memory: &mut Memory, data: Vec<Datum>) -> Result<(), AwsError> {
    let is_recent = |(at, sent): &(Instant, Vec<Datum>)| {
        *sent == data && at.elapsed() + INTERVAL / 2 < SENT_AGAIN_AFTER
    };
    if memory.sent.as_ref().is_some_and(is_recent) {
        return Ok(());
    }
    let at = Instant::now();
    fleet.node.cloudwatch.put(&data).await?;
    memory.sent = Some((at, data));
    Ok(())
}
