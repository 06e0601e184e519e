//! Moves the tasks of services from nodes that leave, new tasks first: Docker drains a node by ending its tasks before it
//! starts others, also where a service says start-first.
//!
//! Guarantees: only a service with the label [`spec::WISH`] is moved, by an edit of its spec that stands in the same spec
//! ([`spec`]), so that every manager can take it back after any crash. An operator's change in between wins: an update
//! names the version that was read. A node waits for a limited share of its time ([`latest`]), whatever does not answer;
//! then it is drained as usual. Assumes nothing about earlier acts.
//!
//! The leader edits. Other managers let nodes wait by the same rules, and edit after [`BACKUP_AFTER`], in case the leader's
//! skep is dead.

mod decide;
mod spec;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::Value;
use time::OffsetDateTime;
use tokio::time::Instant;

use super::complaints::Complaints;
use super::error::ManagerError;
use super::observe::Fleet;
use super::pace::{Departure, Key, Turn};
use crate::clients::aws::ecr::Registry;
use crate::clients::docker::{Availability, NodeView, Service, ServiceTask, SwarmErrorKind};
use crate::clients::ledger::{DepartureRow, DepartureState, TurnFor};
use crate::common::errors::chain;
use crate::common::instance::Role;
use crate::common::log_once::LogOnce;
use crate::common::timing::LEAVE_SHARE;
use crate::config::Settings;

use decide::{Seen, Step, Wait, decide};

/// Share of the time left for draining in which a node's tasks are moved.
const SHARE: f64 = 0.5;
/// Interval of looking for edits that nobody waits for, such as those of a manager that has crashed.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// Time after which a manager that is not the leader edits, or takes an edit back.
const BACKUP_AFTER: time::Duration = time::Duration::seconds(20);

/// What a node waits for whose services cannot be read, or have just changed.
const UNKNOWN: &str = "the managers have read the services";

/// State that saves calls and log lines, and what has failed lately.
#[derive(Default)]
struct Memory {
    /// When this manager first saw that a node's tasks can be moved.
    since: BTreeMap<Key, OffsetDateTime>,
    /// Nodes from which a service could not be moved, by service.
    failed: BTreeMap<String, BTreeSet<String>>,
    /// Whether an edit was seen that was not taken back.
    is_open: bool,
    looked_at: Option<Instant>,
    logged: LogOnce<String, String>,
}

/// The moves, as one manager makes them.
#[derive(Default)]
pub(super) struct Moves(RefCell<Memory>);

impl Moves {
    /// Takes the next step for each service, and lets nodes wait whose tasks are being moved: changes their turns. A
    /// failure lets them wait, for their limited time. `is_whole`: no departure is unknown.
    pub(super) async fn advance(
        &self,
        fleet: &Fleet<'_>,
        (departures, is_whole): (&[Departure<'_>], bool),
        turns: &mut BTreeMap<Key, Turn>,
        is_leader: bool,
        complaints: &mut Complaints,
    ) {
        let now = OffsetDateTime::now_utc();
        let settings = &fleet.node.settings;
        let leaving = self.0.borrow_mut().observe(departures, settings, now);
        {
            let memory = self.0.borrow();
            let is_due = memory.looked_at.is_none_or(|at| at.elapsed() >= LOOK_EVERY);
            if leaving.is_empty() && !is_due && !(is_leader && memory.is_open) {
                return;
            }
        }
        let waits = match self.look(fleet, &leaving, is_whole, is_leader, complaints).await {
            Ok(waits) => waits,
            Err(error) => {
                let why = chain(&error);
                complaints.record(format!("cannot move tasks from nodes that leave: {why}"));
                leaving.keys().map(|key| (key.node_id.clone(), UNKNOWN.to_owned())).collect()
            }
        };
        for (row, _) in departures {
            let key = Key::of(row);
            if let (Some(until), Some(after)) = (leaving.get(&key), waits.get(&key.node_id)) {
                let turn = turns.entry(key).or_default();
                if *turn == Turn::Now {
                    *turn = wait(row, *until, after, is_leader, now);
                }
            }
        }
    }

    /// Returns for what each node must wait.
    async fn look(
        &self,
        fleet: &Fleet<'_>,
        leaving: &BTreeMap<Key, OffsetDateTime>,
        is_whole: bool,
        is_leader: bool,
        complaints: &mut Complaints,
    ) -> Result<BTreeMap<String, String>, ManagerError> {
        let (node, settings) = (fleet.node, &fleet.node.settings);
        let services = node.swarm.fetch_services().await?;
        let is_concerned = |it: &&Service| {
            let labels = &it.spec()["Labels"];
            !labels[spec::WISH].is_null() || !labels[spec::RECORD].is_null()
        };
        let concerned: Vec<&Service> = services.iter().filter(is_concerned).collect();
        {
            let mut memory = self.0.borrow_mut();
            memory.looked_at = Some(Instant::now());
            memory.is_open = concerned.iter().any(|it| spec::record(it.spec()).is_some());
            memory.failed.retain(|id, _| concerned.iter().any(|it| it.id == *id));
            memory.logged.retain(|id| concerned.iter().any(|it| it.id == *id));
        }
        let mut waits = BTreeMap::new();
        if concerned.is_empty() {
            return Ok(waits);
        }
        let nodes = fleet.nodes(Instant::now()).await?;
        let takes = |view: &&NodeView| view.availability == Availability::Active && view.is_ready();
        let nodes: Vec<&NodeView> = nodes.iter().filter(takes).collect();
        let leaves: BTreeSet<String> = leaving.keys().map(|key| key.node_id.clone()).collect();
        let until = leaving.values().max().copied();
        let is_late = |since: &OffsetDateTime| *since + BACKUP_AFTER < OffsetDateTime::now_utc();
        let may_act = is_leader || self.0.borrow().since.values().any(is_late);
        for service in concerned {
            let tasks = node.swarm.fetch_tasks_of_service(&service.id).await?;
            let none = BTreeSet::new();
            let failed = self.0.borrow().failed.get(&service.id).cloned().unwrap_or(none);
            let step = decide(&Seen {
                spec: service.spec(),
                has_other_credentials: may_have_other_credentials(service, settings),
                unfinished_update: service.unfinished_update(),
                tasks: &tasks,
                leaving: &leaves,
                failed: &failed,
                nodes: &nodes,
                is_whole,
                now: OffsetDateTime::now_utc().unix_timestamp(),
            });
            let step =
                if may_act || is_left_behind(service) { step } else { step.of_another(&leaves) };
            match self.act(fleet, service, &tasks, step, until).await {
                Ok(Some((wait, nodes))) => {
                    let after = wait.in_words(service.name());
                    waits.extend(nodes.into_iter().map(|node| (node, after.clone())));
                }
                Ok(None) => {}
                Err(error) if error.is_not_manager() => return Err(error),
                // Another writer was first: the next poll decides again.
                Err(ManagerError::Swarm(error))
                    if matches!(error.kind, SwarmErrorKind::Stale | SwarmErrorKind::NotFound) =>
                {
                    tracing::debug!(service = service.name(), "{error}");
                    waits.extend(leaves.iter().map(|node| (node.clone(), UNKNOWN.to_owned())));
                }
                // A refusal for one service must not delay the others.
                Err(error) => {
                    let why = chain(&error);
                    complaints.record(format!("cannot move service {}: {why}", service.name()));
                }
            }
        }
        Ok(waits)
    }

    /// Returns the nodes that must wait, and for what.
    async fn act(
        &self,
        fleet: &Fleet<'_>,
        service: &Service,
        tasks: &[ServiceTask],
        step: Step,
        until: Option<OffsetDateTime>,
    ) -> Result<Option<(Wait, BTreeSet<String>)>, ManagerError> {
        let (swarm, name) = (&fleet.node.swarm, service.name());
        match step {
            Step::None => Ok(None),
            Step::Wait(wait, nodes) => Ok(Some((wait, nodes))),
            Step::Move(nodes) => {
                let until = until.unwrap_or_else(OffsetDateTime::now_utc).unix_timestamp();
                let is_on = |task: &&ServiceTask| nodes.iter().any(|id| task.is_wanted_on(id));
                let at_once = tasks.iter().filter(is_on).count();
                let image = former_image(service);
                let spec = spec::edited(service.spec(), image, &nodes, at_once, until);
                swarm.update_service(service, &spec).await?;
                self.0.borrow_mut().is_open = true;
                tracing::info!(service = name, ?nodes, "moving its tasks, new ones first");
                Ok(Some((Wait::Moving, nodes)))
            }
            Step::Restore => {
                self.restore(fleet, service).await?;
                Ok(None)
            }
            Step::GiveUp => {
                if let Some(record) = spec::record(service.spec()) {
                    let mut memory = self.0.borrow_mut();
                    memory.failed.entry(service.id.clone()).or_default().extend(record.nodes);
                }
                tracing::warn!(
                    service = name,
                    "its tasks do not start on other nodes (`docker service ps`): those on nodes that leave are \
                     stopped first"
                );
                self.restore(fleet, service).await?;
                Ok(None)
            }
            Step::Refuse(why) => {
                if self.0.borrow_mut().logged.is_news(service.id.clone(), why.clone()) {
                    tracing::warn!(
                        service = name,
                        "its tasks are not moved before they are stopped: {why}"
                    );
                }
                Ok(None)
            }
        }
    }

    async fn restore(&self, fleet: &Fleet<'_>, service: &Service) -> Result<(), ManagerError> {
        fleet.node.swarm.update_service(service, &spec::restored(service.spec())).await?;
        tracing::info!(service = service.name(), "its spec is the operator's again");
        Ok(())
    }
}

impl Memory {
    /// Returns the nodes that can be moved from now, with the time until which they can wait for that.
    fn observe(
        &mut self,
        departures: &[Departure<'_>],
        settings: &Settings,
        now: OffsetDateTime,
    ) -> BTreeMap<Key, OffsetDateTime> {
        let mut leaving = BTreeMap::new();
        for (row, view) in departures {
            if view.is_some_and(|view| can_be_moved(row, view, now)) {
                let key = Key::of(row);
                let since = *self.since.entry(key.clone()).or_insert(now);
                let until = latest(row, since, settings);
                if now < until {
                    leaving.insert(key, until);
                }
            }
        }
        let is_there = |id: &str| departures.iter().any(|(row, _)| row.node_id == id);
        self.since.retain(|key, _| is_there(&key.node_id));
        self.failed.values_mut().for_each(|nodes| nodes.retain(|id| is_there(id)));
        leaving
    }
}

/// Whether the tasks of a leaving node can be moved: its traffic has ended, and its drain has not begun.
fn can_be_moved(row: &DepartureRow, view: &NodeView, now: OffsetDateTime) -> bool {
    row.state == DepartureState::Requested
        && row.role == Role::Worker
        && !row.is_held(now)
        && view.availability != Availability::Drain
        && !view.is_down()
}

/// Returns the time until which a node waits for its tasks to be moved, if they can be since `since`.
fn latest(row: &DepartureRow, since: OffsetDateTime, settings: &Settings) -> OffsetDateTime {
    let span = |from, until: OffsetDateTime| Duration::try_from(until - from).unwrap_or_default();
    let whole = span(row.requested_at, row.deadline);
    let drained_by =
        row.requested_at + whole.mul_f64(1.0 - LEAVE_SHARE - settings.leave.flush_share);
    let until = since + span(since, drained_by).mul_f64(SHARE);
    until.replace_nanosecond(0).unwrap_or(since)
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

/// Whether a service has an edit whose time is long over.
fn is_left_behind(service: &Service) -> bool {
    let until = spec::record(service.spec()).map(|record| record.until);
    let until = until.and_then(|until| OffsetDateTime::from_unix_timestamp(until).ok());
    until.is_some_and(|until| until + BACKUP_AFTER < OffsetDateTime::now_utc())
}

/// Returns the image to which `docker service rollback` leads, if it is another one, and an operator's.
fn former_image(service: &Service) -> Option<&str> {
    let previous = service.previous_spec()?;
    let image = previous["TaskTemplate"]["ContainerSpec"]["Image"].as_str()?;
    let is_own = !previous["Labels"][spec::RECORD].is_null();
    (!is_own && service.image() != Some(image)).then_some(image)
}

/// Whether the credentials of a service may have been renewed since its tasks were started: by skep, every few hours, or
/// by an operator's last update, which has changed nothing that can be seen.
fn may_have_other_credentials(service: &Service, settings: &Settings) -> bool {
    let is_ecr = service.image().and_then(Registry::of_image).is_some();
    let is_hidden = service.previous_spec() == Some(service.spec());
    settings.registry.ecr && is_ecr || is_hidden
}

/// Returns what an operator must know of each service that asks to be moved, or that was: its name, whether something is
/// wrong, and the sentence.
#[must_use]
pub fn remarks(
    services: &[Service],
    nodes: &[NodeView],
    settings: &Settings,
) -> Vec<(String, Result<String, String>)> {
    let nodes: Vec<&NodeView> = nodes.iter().collect();
    let remark = |service: &Service| {
        let spec = service.spec();
        let remark = match spec::wish(spec) {
            Err(why) => Err(why),
            Ok(Some(_)) if may_have_other_credentials(service, settings) => {
                Err(decide::OTHER_CREDENTIALS.to_owned())
            }
            Ok(Some(wish)) => match spec::obstacle(spec, wish, &[], &BTreeSet::new(), &nodes) {
                Some(why) => Err(why),
                None => Ok("its tasks are moved before their nodes are drained".to_owned()),
            },
            Ok(None) => Ok("it was moved".to_owned()),
        };
        let is_edited = |spec: &Value| !spec["Labels"][spec::RECORD].is_null();
        if !service.previous_spec().is_some_and(is_edited) {
            return spec::wish(spec).map_or(true, |wish| wish.is_some()).then_some(remark);
        }
        let image = spec["Labels"][spec::FORMER_IMAGE].as_str();
        let image =
            image.map_or_else(String::new, |image| format!("; the image before was {image}"));
        let rollback = format!(
            "`docker service rollback` leads to skep's own edit, which is taken back{image}"
        );
        Some(remark.map(|fine| format!("{fine}; {rollback}")))
    };
    services
        .iter()
        .filter_map(|service| Some((service.name().to_owned(), remark(service)?)))
        .collect()
}
