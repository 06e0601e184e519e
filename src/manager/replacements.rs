//! Has broken workers replaced that ask for it: only managers may report an instance as unhealthy, so that no worker can
//! have its group terminated.
//!
//! Guarantees: a request is in the partition of the instance that it is about; it is followed only while the node repeats
//! it; at most one instance of a group in ten minutes, by a conditional write, without which nothing is asked; and only
//! an instance that Auto Scaling lists as healthy and in service. A node list, which comes from a leader, shows that the
//! swarm is well without that node.

use std::collections::BTreeMap;
use std::time::Duration;

use time::OffsetDateTime;
use tokio::time::Instant;

use super::duty::{Duty, Poll};
use super::error::ManagerError;
use super::node_edit::Rhythm;
use super::observe::{Fleet, lately};
use super::placed::instance_of;
use crate::clients::aws::autoscaling::{GroupInstance, LifecycleState};
use crate::clients::ledger::{Lease, LeaseOf, Member};
use crate::common::log_once::LogOnce;
use crate::common::timing::REPLACEMENT_ASKED_EVERY;

/// Name of this duty.
const NAME: &str = "replacements";
/// Time between two polls.
const INTERVAL: Duration = Duration::from_secs(30);
/// Age of a request up to which the node still asks: two writes may fail.
const STILL_ASKS: Duration = Duration::from_secs(3 * REPLACEMENT_ASKED_EVERY.as_secs() + 15);
/// Health status, as AWS writes it.
const UNHEALTHY: &str = "UNHEALTHY";

/// Reason why Auto Scaling does not list an instance.
pub const NOT_LISTED: &str = "Auto Scaling does not list this instance";

/// A node of the group whose replacement was asked for last.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Its instance id.
    pub by: String,
    /// The lease has expired, and others may be replaced.
    pub is_over: bool,
}

impl Asked {
    /// Returns what a group's last lease says; `None` if nobody has held one lately.
    #[must_use]
    pub fn of(lease: Option<Lease>, group: &str, now: OffsetDateTime) -> Option<Self> {
        let lease = lease.filter(|it| !it.is_long_over(now))?;
        Some(Self {
            is_over: lease.is_over(LeaseOf::Replacement { group }, now),
            by: lease.node_id,
        })
    }
}

/// A fact that a ruling needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Needed {
    /// The last lease of the group.
    Lease,
    /// Auto Scaling's answer about the instance, and about `other`, the one that was replaced last.
    Listed {
        /// Instance id.
        other: Option<String>,
    },
}

/// Whether a broken instance can be replaced now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ruling {
    /// It must stay for now, for this reason.
    Stay(&'static str),
    /// Auto Scaling can be asked, under the lease of the group.
    Ask {
        /// The lease is this instance's already: an earlier request had no effect within a grace period.
        is_lease_taken: bool,
    },
}

/// Rules on an instance by its group. Pure.
///
/// # Errors
/// The fact that must be looked up first: Auto Scaling, whose limit the account shares, is asked last.
pub fn rule(
    instance: &str,
    last: Option<&Option<Asked>>,
    listed: Option<&BTreeMap<String, GroupInstance>>,
) -> Result<Ruling, Needed> {
    let stay = |why| Ok(Ruling::Stay(why));
    let last = last.ok_or(Needed::Lease)?.as_ref();
    let is_lease_taken = last.is_some_and(|last| last.by == instance && !last.is_over);
    let other = last.filter(|last| last.by != instance);
    if other.is_some_and(|other| !other.is_over) {
        return stay("another node of the group has asked within ten minutes");
    }
    let other = other.map(|other| &other.by);
    let listed = listed.ok_or_else(|| Needed::Listed { other: other.cloned() })?;
    let Some(own) = listed.get(instance) else { return stay(NOT_LISTED) };
    if own.lifecycle_state != LifecycleState::InService {
        return stay("Auto Scaling does not have this instance in service");
    }
    if own.health == UNHEALTHY {
        return stay("Auto Scaling already lists it as unhealthy");
    }
    if other.and_then(|other| listed.get(other)).is_some_and(is_on_its_way) {
        return stay("another node of the group is still being replaced");
    }
    Ok(Ruling::Ask { is_lease_taken })
}

/// Whether the node's replacement is under way. A retained node has been replaced already, and stays unhealthy for as
/// long as an operator keeps it.
fn is_on_its_way(other: &GroupInstance) -> bool {
    let state = &other.lifecycle_state;
    !state.is_retained() && (other.health == UNHEALTHY || state.is_terminating())
}

/// The answers to requests that were logged, by instance.
type Logged = LogOnce<String, &'static str>;

/// Has workers replaced for as long as this node is a manager.
pub(super) async fn run(fleet: &Fleet<'_>) {
    let duty = Duty { name: NAME, first: INTERVAL, after_failure: INTERVAL, trouble: None };
    duty.run(fleet, poll).await;
}

async fn poll(
    Poll { fleet, memory, complaints }: Poll<'_, Logged>,
) -> Result<Duration, ManagerError> {
    let nodes = fleet.nodes(lately(INTERVAL)).await?;
    let rhythm = Rhythm::of(fleet, &nodes);
    let workers = fleet.worker_ids().await?;
    let age = rhythm.read_interval(workers.len());
    let asks = |row: &Member| row.replace_because.is_some();
    let mut rows = fleet.workers(&workers, lately(age)).await?.rows;
    rows.retain(asks);
    if !rows.is_empty() {
        let asking = rows.iter().map(|row| row.instance_id.clone()).collect();
        rows = fleet.workers(&asking, Instant::now()).await?.rows;
        rows.retain(|row| still_asks(row, OffsetDateTime::now_utc()));
    }
    complaints.retain(|id| rows.iter().any(|row| row.instance_id == id));
    memory.retain(|id| rows.iter().any(|row| row.instance_id == *id));
    for row in &rows {
        let served = serve(fleet, row, memory).await;
        complaints.take("asking for its replacement", &row.instance_id, served)?;
    }
    // A broken node that still runs has a row; one that Docker lists as Down has been broken for minutes.
    let is_broken = nodes.iter().any(|view| view.is_down() && instance_of(view).is_some());
    Ok(if is_broken { INTERVAL / 2 } else { INTERVAL } + rhythm.patience)
}

/// Whether the node asks at present. Its clock and this one's differ by less than the patience.
fn still_asks(row: &Member, now: OffsetDateTime) -> bool {
    let asked_at = row.replace_asked_at.filter(|_| row.replace_because.is_some());
    asked_at.is_some_and(|at| (now - at).unsigned_abs() < STILL_ASKS)
}

async fn serve(fleet: &Fleet<'_>, row: &Member, logged: &mut Logged) -> Result<(), ManagerError> {
    let (node, instance) = (fleet.node, row.instance_id.as_str());
    let because = row.replace_because.as_deref().unwrap_or_default();
    let listed = fleet.groups(Instant::now()).await?;
    let Some(group) = listed.get(instance).map(|it| it.group.as_str()) else {
        log(logged, instance, because, NOT_LISTED);
        return Ok(());
    };
    let (of, now) = (LeaseOf::Replacement { group }, OffsetDateTime::now_utc());
    let last = Asked::of(node.ledger.fetch_lease(of).await?, group, now);
    match rule(instance, Some(&last), Some(&listed)) {
        Ok(Ruling::Ask { is_lease_taken }) => {
            let me = node.instance.id.as_str();
            if is_lease_taken || node.ledger.take_lease(of, instance, me, now).await? {
                node.autoscaling.set_unhealthy(instance).await?;
                log(logged, instance, because, "Auto Scaling is asked to replace it");
            }
        }
        Ok(Ruling::Stay(why)) => log(logged, instance, because, why),
        Err(_) => {}
    }
    Ok(())
}

/// Logs the answer to a request once, until it changes.
fn log(logged: &mut Logged, instance: &str, because: &str, what_follows: &'static str) {
    if logged.is_news(instance.to_owned(), what_follows) {
        tracing::warn!(instance, because, "this node asks for its replacement; {what_follows}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clients::ledger::MemberState;
    use crate::common::instance::{Instance, Membership, Role};

    const NOW: OffsetDateTime = time::macros::datetime!(2026-11-21 12:00 UTC);

    #[test]
    fn a_request_that_the_node_does_not_repeat_is_no_longer_one() {
        let (instance, own) = (Instance::example(), Membership::example());
        let row = Member::new(&instance, &own, Role::Worker, MemberState::Ready, NOW);
        let asks = |because: Option<&str>, age: i64| {
            let mut row = row.clone();
            row.replace_because = because.map(str::to_owned);
            row.replace_asked_at = Some(NOW - time::Duration::seconds(age));
            still_asks(&row, NOW)
        };
        assert!(asks(Some("Docker hangs"), 0) && asks(Some("Docker hangs"), 90));
        assert!(!asks(Some("Docker hangs"), 105), "it may be well again");
        assert!(!asks(Some("Docker hangs"), -105), "a clock that is far ahead");
        assert!(!asks(None, 0) && !still_asks(&row, NOW));
    }
}
