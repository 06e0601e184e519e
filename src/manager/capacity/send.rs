//! Sends the capacity of the groups of workers to CloudWatch.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::Instant;

use super::INTERVAL;
use super::look::Seen;
use crate::clients::aws::cloudwatch::{CloudWatch, Datum};
use crate::common::capacity::GroupCapacity;
use crate::manager::complaints::Complaints;

/// Name under which failures of CloudWatch are logged.
pub const CLOUDWATCH: &str = "CloudWatch";
/// Time after which unchanged values are sent again: CloudWatch's period.
const SENT_AGAIN_AFTER: Duration = Duration::from_secs(60);

/// The values that CloudWatch has accepted last, and when they were sent.
#[derive(Default)]
pub struct Sent(Option<(Instant, Vec<Datum>)>);

impl Sent {
    /// Sends values that have changed, or were sent a while ago. A failure is logged once, until a call succeeds.
    pub async fn send(
        &mut self,
        cloudwatch: &CloudWatch,
        seen: &Seen,
        staffed: &BTreeSet<String>,
        complaints: &mut Complaints,
    ) {
        let data = data(seen, staffed);
        let is_recent = |(at, sent): &(Instant, Vec<Datum>)| {
            *sent == data && at.elapsed() + INTERVAL / 2 < SENT_AGAIN_AFTER
        };
        if self.0.as_ref().is_some_and(is_recent) {
            return;
        }
        let at = Instant::now();
        match cloudwatch.put(&data).await {
            Ok(()) => {
                self.0 = Some((at, data));
                complaints.retain(|whom| whom != CLOUDWATCH);
            }
            Err(error) => {
                // The next poll tries again.
                self.0 = None;
                let complaint = format!("cannot send the capacity to CloudWatch: {error}");
                if complaints.is_news(CLOUDWATCH, &complaint) {
                    tracing::warn!("{complaint}");
                }
                complaints.record(complaint);
            }
        }
    }
}

/// Returns the values of the groups whose number of nodes is for tasks to choose. A group without nodes has no percentage
/// while some of its instances are in service or launch: they will be nodes, or have just been.
pub fn data(seen: &Seen, staffed: &BTreeSet<String>) -> Vec<Datum> {
    let groups = seen.groups.iter().filter(|(_, group)| !group.is_of_managers);
    let of = |(name, group): (&String, &super::look::Group)| {
        data_of(name, group.capacity, staffed.contains(name))
    };
    groups.flat_map(of).collect()
}

fn data_of(group: &str, capacity: GroupCapacity, is_staffed: bool) -> Vec<Datum> {
    const COUNT: &str = "Count";
    const PERCENT: &str = "Percent";
    let needed = (capacity.nodes > 0 || !is_staffed).then(|| capacity.needed_percent());
    let values = [
        ("NodesNeeded", PERCENT, needed),
        ("Nodes", COUNT, Some(capacity.nodes as f64)),
        ("NodesIdle", COUNT, Some(capacity.idle as f64)),
        ("TasksPending", COUNT, Some(capacity.pending as f64)),
        ("CPUReserved", PERCENT, capacity.cpu_percent()),
        ("MemoryReserved", PERCENT, capacity.memory_percent()),
    ];
    let datum = |(name, unit, value): (&'static str, &'static str, Option<f64>)| {
        Some(Datum { name, unit, value: value?, group: group.to_owned() })
    };
    values.into_iter().filter_map(datum).collect()
}
