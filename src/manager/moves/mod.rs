//! Moves the tasks of services, new tasks first: from nodes that leave, because Docker drains a node by ending its tasks
//! before it starts others, also where a service says start-first; and to nodes that join, because Docker leaves them
//! empty ([`balance`]).
//!
//! Guarantees: only a service with the label [`spec::WISH`] or [`spec::BALANCE`] is moved, by an edit of its spec that
//! stands in the same spec ([`spec`]), so that every manager can take it back after any crash. An operator's change in
//! between wins: an update names the version that was read. A node waits for a limited share of its time ([`latest`]),
//! whatever does not answer; then it is drained as usual. Assumes nothing about earlier acts.
//!
//! The leader edits. Other managers let nodes wait by the same rules, and edit after [`BACKUP_AFTER`], in case the leader's
//! skep is dead. For balance, they only take edits back.

mod act;
mod balance;
mod decide;
mod remarks;
pub(in crate::manager) mod spec;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::Value;
use time::OffsetDateTime;
use tokio::time::{Instant, timeout};

use super::complaints::Complaints;
use super::error::ManagerError;
use super::node_edit::{row_of, rows_of};
use super::observe::Fleet;
use super::pace::{Departure, Key, Turn};
use crate::clients::aws::ecr::Registry;
use crate::clients::docker::{Availability, NodeView, Service, ServiceTask, SwarmErrorKind};
use crate::clients::ledger::{DepartureRow, DepartureState, TurnFor};
use crate::common::errors::chain;
use crate::common::fact::Fact;
use crate::common::instance::{Reason, Role};
use crate::common::labels::AVAILABILITY;
use crate::common::log_once::LogOnce;
use crate::common::timing::LEAVE_SHARE;
use crate::config::Settings;
use crate::node::Node;

use decide::{Seen, Step, decide};
pub use remarks::remarks;
use spec::Balanced;

/// Share of the time left for draining in which a node's tasks are moved.
const SHARE: f64 = 0.5;
/// Interval of looking for edits that nobody waits for, such as those of a manager that has crashed.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// The same while nodes leave, as long as no service asks to be moved.
const LOOK_AGAIN: Duration = Duration::from_secs(10);
/// Time limit of one look. A departure of another node must not wait for it.
const LIMIT: Duration = Duration::from_secs(10);
/// Time after which a manager that is not the leader edits, or takes an edit back.
const BACKUP_AFTER: time::Duration = time::Duration::seconds(20);
/// Time after an edit's own in which nodes that it names are not tried again.
const TRIED_FOR: time::Duration = time::Duration::minutes(1);
/// What a node waits for whose services cannot be read, or have just changed.
const UNKNOWN: &str = "the managers have read the services";

/// State that saves calls and log lines, and the time for which nodes have waited.
#[derive(Default)]
struct Memory {
    /// When this manager first saw that a node's tasks can be moved.
    since: BTreeMap<Key, OffsetDateTime>,
    /// Services that this manager has edited.
    edited: BTreeSet<String>,
    /// Whether a service asks to be moved before a drain, or is edited; `None` until this manager has looked.
    is_concerned: Option<bool>,
    /// Whether an edit was seen that was not taken back.
    is_open: bool,
    looked_at: Option<Instant>,
    /// The nodes that could be moved then.
    looked_for: BTreeSet<Key>,
    /// By the id of the service, and when its tasks are not moved.
    logged: LogOnce<(String, &'static str), String>,
}

/// The moves, as one manager makes them.
#[derive(Default)]
pub(super) struct Moves(RefCell<Memory>);

/// What is known of the departures.
pub(super) struct Departures<'a> {
    pub rows: &'a [Departure<'a>],
    /// Whether it is known of every instance if it leaves.
    pub is_whole: bool,
    pub is_leader: bool,
}

impl Departures<'_> {
    /// Whether no node leaves.
    fn is_quiet(&self) -> Fact {
        let is_under_way = |(row, view): &Departure<'_>| view.is_some() && !row.state.is_over();
        match self.rows.iter().any(is_under_way) {
            true => Fact::No,
            false if self.is_whole => Fact::Yes,
            false => Fact::CannotTell,
        }
    }
}

/// A node that leaves and whose tasks can be moved.
#[derive(Clone, Copy, Debug)]
struct Leaving {
    since: OffsetDateTime,
    /// Until then it can wait for that.
    until: OffsetDateTime,
    is_paused: bool,
}

impl Moves {
    /// Takes the next step for each service, and lets nodes wait whose tasks are being moved: changes their turns. A
    /// failure lets them wait, for their limited time. `is_unanswered`: it could not be read whether the instance has a
    /// departure.
    pub(super) async fn advance(
        &self,
        fleet: &Fleet<'_>,
        departures: &Departures<'_>,
        is_unanswered: impl Fn(&str) -> bool,
        turns: &mut BTreeMap<Key, Turn>,
        complaints: &mut Complaints,
    ) {
        let now = OffsetDateTime::now_utc();
        let settings = &fleet.node.settings;
        let leaving = self.0.borrow_mut().observe(departures.rows, is_unanswered, settings, now);
        if !self.0.borrow().must_look(&leaving, departures, settings.balance.settle) {
            return;
        }
        self.0.borrow_mut().looked_for = leaving.keys().cloned().collect();
        let look = self.look(fleet, &leaving, departures, complaints);
        let looked = timeout(LIMIT, look).await;
        let waits = match looked.unwrap_or(Err(ManagerError::TimeLimit { after: LIMIT })) {
            Ok(waits) => waits,
            Err(error) => {
                let why = chain(&error);
                complaints.record(format!("cannot move tasks from nodes that leave: {why}"));
                if self.0.borrow().is_concerned == Some(false) {
                    return;
                }
                leaving.keys().map(|key| (key.node_id.clone(), UNKNOWN.to_owned())).collect()
            }
        };
        for (row, _) in departures.rows {
            let key = Key::of(row);
            if let (Some(it), Some(after)) = (leaving.get(&key), waits.get(&key.node_id)) {
                let turn = turns.entry(key).or_default();
                if *turn == Turn::Now {
                    *turn = wait(row, it.until, after, departures.is_leader, now);
                }
            }
        }
    }

    /// Returns for what each node must wait.
    async fn look(
        &self,
        fleet: &Fleet<'_>,
        leaving: &BTreeMap<Key, Leaving>,
        departures: &Departures<'_>,
        complaints: &mut Complaints,
    ) -> Result<BTreeMap<String, String>, ManagerError> {
        let (node, settings) = (fleet.node, &fleet.node.settings);
        let services = node.swarm.fetch_services().await?;
        let is_concerned = |it: &&Service| is_of_leavers(it) || has_label(it, spec::BALANCE);
        let concerned: Vec<&Service> = services.iter().filter(is_concerned).collect();
        self.0.borrow_mut().looked(&concerned);
        let mut waits = BTreeMap::new();
        if concerned.is_empty() {
            return Ok(waits);
        }
        let all = fleet.nodes(Instant::now()).await?;
        let nodes: Vec<&NodeView> = all.iter().filter(takes_tasks).collect();
        let of = |is_it: fn(&Leaving) -> bool| -> BTreeSet<String> {
            let all = leaving.iter().filter(|(_, it)| is_it(it));
            all.map(|(key, _)| key.node_id.clone()).collect()
        };
        let (leaves, paused) = (of(|_| true), of(|it| it.is_paused));
        let late = of(|it| it.since + BACKUP_AFTER < OffsetDateTime::now_utc());
        let until = leaving.values().map(|it| it.until).max();
        let is_quiet = departures.is_quiet();
        let settle = settings.balance.settle;
        let mut may_balance = departures.is_leader
            && leaving.is_empty()
            && is_quiet.is_yes()
            && has_settled(&concerned, &nodes, settle);
        for service in concerned {
            let record = spec::record(service.spec());
            let is_due = !leaving.is_empty() && is_of_leavers(service);
            if !is_due && record.is_none() && !may_balance {
                continue;
            }
            let tasks = node.swarm.fetch_tasks_of_service(&service.id).await?;
            let has_row = |id: &String| departures.rows.iter().any(|(row, _)| row.node_id == *id);
            let named = record.as_ref().map(|record| &record.nodes);
            let step = decide(&Seen {
                spec: service.spec(),
                has_other_credentials: may_have_other_credentials(service, settings),
                unfinished_update: service.unfinished_update(),
                is_operators_update: is_operators_update(service),
                tasks: &tasks,
                leaving: &leaves,
                paused: &paused,
                failed: &tried(service),
                nodes: &nodes,
                is_known: departures.is_whole || named.is_some_and(|it| it.iter().all(has_row)),
                is_quiet,
                giving: named.and_then(|it| giving(it.first()?, &all)),
                now: OffsetDateTime::now_utc().unix_timestamp(),
            });
            let step = match step {
                Step::None if may_balance => balance_step(fleet, service, &tasks, &nodes).await?,
                step => step,
            };
            // One at a time.
            may_balance &= !matches!(step, Step::Announce(_));
            let is_own = departures.is_leader
                || self.0.borrow().edited.contains(&service.id)
                || record.as_ref().is_some_and(is_left_behind);
            let may = match &step {
                Step::Move(nodes) => is_own || record.is_none() && nodes.is_subset(&late),
                Step::Restore | Step::GiveUp | Step::Given => is_own,
                Step::Announce(_) | Step::Pause(_) | Step::Give => departures.is_leader,
                Step::None | Step::Wait(..) | Step::Refuse(_) | Step::Uneven(_) => true,
            };
            let step = if may { step } else { step.of_another(&leaves) };
            match self.act(fleet, service, &tasks, step, until).await {
                Ok(Some((wait, nodes))) => {
                    let after = wait.in_words(service.name());
                    waits.extend(nodes.into_iter().map(|node| (node, after.clone())));
                }
                Ok(None) => {}
                Err(error) if error.is_not_manager() => return Err(error),
                // The next poll decides again. The update may have been accepted.
                Err(error) => {
                    waits.extend(leaves.iter().map(|node| (node.clone(), UNKNOWN.to_owned())));
                    let is_outrun = matches!(
                        &error,
                        ManagerError::Swarm(error)
                            if matches!(error.kind, SwarmErrorKind::Stale | SwarmErrorKind::NotFound)
                    );
                    let (name, why) = (service.name(), chain(&error));
                    if is_outrun {
                        tracing::debug!(service = name, "{why}");
                    } else {
                        complaints.record(format!("cannot move service {name}: {why}"));
                    }
                }
            }
        }
        Ok(waits)
    }
}

impl Memory {
    /// Returns the nodes that can be moved from now.
    fn observe(
        &mut self,
        departures: &[Departure<'_>],
        is_unanswered: impl Fn(&str) -> bool,
        settings: &Settings,
        now: OffsetDateTime,
    ) -> BTreeMap<Key, Leaving> {
        let mut leaving = BTreeMap::new();
        for (row, view) in departures {
            let Some(view) = view.filter(|view| can_be_moved(row, view, now)) else { continue };
            let since = *self.since.entry(Key::of(row)).or_insert(now);
            let until = latest(row, since, settings);
            if now < until {
                let is_paused = view.availability == Availability::Pause;
                leaving.insert(Key::of(row), Leaving { since, until, is_paused });
            }
        }
        let is_there = |key: &Key| departures.iter().any(|(row, _)| Key::of(row) == *key);
        self.since.retain(|key, _| is_there(key) || is_unanswered(&key.instance_id));
        leaving
    }

    /// Whether the services must be read now: not in each poll, where no service asks to be moved.
    fn must_look(
        &self,
        leaving: &BTreeMap<Key, Leaving>,
        departures: &Departures<'_>,
        settle: Duration,
    ) -> bool {
        let age = self.looked_at.map(|at| at.elapsed());
        let is_older = |than: Duration| age.is_none_or(|age| age >= than);
        let is_new = leaving.keys().any(|key| !self.looked_for.contains(key));
        let is_own = departures.is_leader || !self.edited.is_empty();
        let every = LOOK_EVERY.min(settle);
        match leaving.is_empty() {
            true if self.is_open && is_own => true,
            // For balance, it must be known that no node leaves.
            true => is_older(every) && departures.is_whole || is_older(every * 2),
            false => is_new || self.is_concerned != Some(false) || is_older(LOOK_AGAIN),
        }
    }

    /// Records which services ask to be moved or are edited.
    fn looked(&mut self, concerned: &[&Service]) {
        let find = |id: &String| concerned.iter().find(|it| it.id == *id);
        let is_edited = |it: &&Service| spec::record(it.spec()).is_some();
        self.looked_at = Some(Instant::now());
        self.is_concerned = Some(concerned.iter().any(|it| is_of_leavers(it)));
        self.is_open = concerned.iter().any(is_edited);
        self.edited.retain(|id| find(id).is_some_and(is_edited));
        self.logged.retain(|(id, _)| find(id).is_some());
    }
}

fn has_label(service: &Service, label: &str) -> bool {
    !service.spec()["Labels"][label].is_null()
}

/// Whether a service concerns nodes that leave: it asks to be moved before a drain, or is edited.
fn is_of_leavers(service: &Service) -> bool {
    has_label(service, spec::WISH) || has_label(service, spec::RECORD)
}

fn takes_tasks(view: &&NodeView) -> bool {
    view.availability == Availability::Active && view.is_ready()
}

/// Returns the availability of a node that is ready, and whether skep has changed it.
fn giving(id: &str, nodes: &[NodeView]) -> Option<(Availability, bool)> {
    let view = nodes.iter().find(|view| view.id == id && view.is_ready())?;
    Some((view.availability, view.labels.contains_key(AVAILABILITY)))
}

/// Whether no node has joined for a while, and no service is edited.
fn has_settled(services: &[&Service], nodes: &[&NodeView], settle: Duration) -> bool {
    let has_joined = |view: &&NodeView| view.joined_at.is_none_or(|at| is_older(at, settle));
    services.iter().all(|it| spec::record(it.spec()).is_none()) && nodes.iter().all(has_joined)
}

fn is_older(at: OffsetDateTime, than: Duration) -> bool {
    at + than <= OffsetDateTime::now_utc()
}

/// Returns the first step towards balance, or none. A node gives up tasks only if skep activates it afterwards: that
/// needs its row.
async fn balance_step(
    fleet: &Fleet<'_>,
    service: &Service,
    tasks: &[ServiceTask],
    nodes: &[&NodeView],
) -> Result<Step, ManagerError> {
    let settings = &fleet.node.settings;
    if !is_older(service.updated_at, settings.balance.settle) {
        return Ok(Step::None);
    }
    let plan = balance::plan(&balance::Seen {
        spec: service.spec(),
        balanced: balanced(service),
        updated_at: service.updated_at,
        has_other_credentials: may_have_other_credentials(service, settings),
        is_being_updated: service.unfinished_update().is_some(),
        tasks,
        nodes,
    });
    let plan = match plan {
        Ok(Some(plan)) => plan,
        Ok(None) => return Ok(Step::None),
        Err(why) => return Ok(Step::Uneven(why)),
    };
    let view: Vec<NodeView> =
        nodes.iter().copied().filter(|it| it.id == plan.node).cloned().collect();
    let members = rows_of(fleet, &view, Instant::now()).await?;
    let row = row_of(&plan.node, &members).filter(|row| row.scheduling_hold.is_none());
    Ok(row.map_or(Step::None, |_| Step::Announce(plan)))
}

/// Returns what the last edits for balance were made for, unless an operator has updated the service since.
fn balanced(service: &Service) -> Option<Balanced> {
    let now = spec::record(service.spec());
    let before = || service.previous_spec().and_then(spec::record);
    let record = now.or_else(before).filter(|_| !is_operators_update(service))?;
    let is_in_time = service.updated_at.unix_timestamp() < record.until;
    // Taken back before the node has given up a task.
    let is_unused = record.keep.is_some() && record.is_bare() && !record.has_given && is_in_time;
    let balanced = record.balanced?;
    Some(match is_unused {
        true => Balanced { nodes: &balanced.nodes - &record.nodes, ..balanced },
        false => balanced,
    })
}

/// Whether the tasks of a leaving node can be moved: its traffic has ended, and its drain has not begun.
fn can_be_moved(row: &DepartureRow, view: &NodeView, now: OffsetDateTime) -> bool {
    row.state == DepartureState::Requested
        && row.role == Role::Worker
        && !row.is_held(now)
        && view.availability != Availability::Drain
        && !view.is_down()
}

/// Returns the time until which a node waits for its tasks to be moved, if they can be since `since`. A time that its row
/// has already counts, unless it is later: another manager may have seen it before.
fn latest(row: &DepartureRow, since: OffsetDateTime, settings: &Settings) -> OffsetDateTime {
    let span = |from, until: OffsetDateTime| Duration::try_from(until - from).unwrap_or_default();
    let whole = span(row.requested_at, row.deadline);
    let drained_by =
        row.requested_at + whole.mul_f64(1.0 - LEAVE_SHARE - settings.leave.flush_share);
    let left = span(since, drained_by).mul_f64(SHARE);
    let wait = match row.reason {
        // The other tasks of the node need nearly all of its time.
        Reason::Spot | Reason::Shutdown => left.min(whole.mul_f64(settings.pace.urgent_share)),
        _ => left,
    };
    let until = (since + wait).replace_nanosecond(0).unwrap_or(since);
    let known = row.turn_by.filter(|_| row.turn_for == TurnFor::OwnTasks);
    known.map_or(until, |known| known.min(until))
}

/// Returns the wait of a node. Another manager repeats what the row has: two that differ would write in turn.
fn wait(
    row: &DepartureRow,
    until: OffsetDateTime,
    after: &str,
    is_leader: bool,
    now: OffsetDateTime,
) -> Turn {
    let turn_for = TurnFor::OwnTasks;
    match (row.turn_by, &row.turn_after) {
        (Some(until), Some(after))
            if !is_leader && row.turn_for == turn_for && row.awaits_turn(now) =>
        {
            Turn::Wait { until, after: after.clone(), turn_for }
        }
        _ => Turn::Wait { until, after: after.to_owned(), turn_for },
    }
}

/// Whether the time of an edit is long over.
fn is_left_behind(record: &spec::Record) -> bool {
    let until = OffsetDateTime::from_unix_timestamp(record.until);
    until.is_ok_and(|until| until + BACKUP_AFTER < OffsetDateTime::now_utc())
}

/// Whether the last update of an edited service has changed its tasks otherwise: it is an operator's.
fn is_operators_update(service: &Service) -> bool {
    let tasks = |spec: &Value| spec::restored(spec)["TaskTemplate"].clone();
    service.previous_spec().is_some_and(|previous| tasks(previous) != tasks(service.spec()))
}

/// Returns the nodes from which the service was moved a short time ago, by any manager: what has not left them by then does
/// not start elsewhere.
fn tried(service: &Service) -> BTreeSet<String> {
    if spec::record(service.spec()).is_some() {
        return BTreeSet::new();
    }
    let record = service.previous_spec().and_then(spec::record);
    let is_recent = |record: &spec::Record| {
        let until = OffsetDateTime::from_unix_timestamp(record.until);
        until.is_ok_and(|until| OffsetDateTime::now_utc() < until + TRIED_FOR)
    };
    let record = record.filter(|it| it.keep.is_none() && is_recent(it));
    let record = record.filter(|_| !is_operators_update(service));
    record.map(|record| record.nodes).unwrap_or_default()
}

/// Whether the credentials of a service may have been renewed since its tasks were started: by skep, every few hours, or
/// by an operator's last update, which has changed nothing that can be seen.
fn may_have_other_credentials(service: &Service, settings: &Settings) -> bool {
    let is_ecr = service.image().and_then(Registry::of_image).is_some();
    let is_hidden = service.previous_spec() == Some(service.spec());
    settings.registry.ecr && is_ecr || is_hidden
}

/// Whether a service is edited so that its tasks leave this node.
///
/// # Errors
/// When Docker cannot list the services: it cannot be told.
pub(super) async fn is_named(node: &Node, node_id: &str) -> Result<bool, ManagerError> {
    let services = node.swarm.fetch_services().await?;
    let mut records = services.iter().filter_map(|service| spec::record(service.spec()));
    // A bare record constrains nothing, and an operator's update can hold it up for days.
    Ok(records.any(|it| it.nodes.contains(node_id) && !(it.is_bare() && is_left_behind(&it))))
}
