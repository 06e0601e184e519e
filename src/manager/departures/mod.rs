//! Serves departures: drains nodes that ask to leave, records when their tasks have stopped, confirms demotions, and
//! removes nodes that have left. The swarm leader polls every few seconds, the others more slowly, in case the leader's
//! skep is dead.
//!
//! Guarantees: a worker's request is served for the writer's own node alone ([`super::claims`]). Departures are served
//! side by side and across polls, each with a time limit: one that fails or hangs delays no other.

mod act;
mod decide;
mod desk;
mod rhythm;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use time::OffsetDateTime;
use tokio::time::{Instant, timeout};
use tracing::Instrument;

use super::claims::{self, Claim};
use super::complaints::show_unreadable;
use super::duty::{Duty, Poll};
use super::error::ManagerError;
use super::moves::{self, Moves};
use super::observe::{Fleet, lately};
use super::pace::{Departure, Key, Pace, Turn};
use super::{stand_in, traffic};
use crate::clients::docker::NodeView;
use crate::clients::ledger::{DepartureRow, DepartureState, Rows};
use crate::common::errors::chain;
use crate::common::instance::Role;
use crate::telemetry::metrics::metrics;

pub use decide::{Action, Age, decide};
use desk::Desk;
pub use rhythm::{BACKUP_INTERVAL, LEADER_INTERVAL, busy_pause, workers_interval};
use rhythm::{BUSY_BACKUP_INTERVAL, Steps, until_due};

/// Name of this duty, and of its trouble that it cannot read departure rows.
pub(super) const NAME: &str = "departures";
/// Maximum age of the node list by which a manager decides how often it polls.
pub const ROLE_AGE: Duration = Duration::from_secs(2);
/// Maximum age of the node list by which one departure is decided: the departures before it may have taken longer.
pub const LIST_AGE: Duration = Duration::from_secs(1);
/// Number of departures that are served side by side, and the time limit of each.
pub const AT_ONCE: usize = 8;
const LIMIT: Duration = Duration::from_secs(20);
/// Time for which a poll waits for the departures that it has found. The next poll finds the outcome of the others.
pub const PATIENCE: Duration = Duration::from_secs(2);

/// Departures that are being served. The key has the id of the instance, and whether it is a stand-in.
type Departures = Desk<(String, bool), Request, Result<Served, ManagerError>>;

/// A departure that a poll has found.
#[derive(Clone, Debug)]
struct Request {
    row: DepartureRow,
    read_at: Instant,
    /// Whether it could still receive traffic when its turn was decided.
    was_held: bool,
    turn: Turn,
}

/// State that one poll leaves for the next.
#[derive(Default)]
struct Memory {
    /// Time of the last read of all workers' requests.
    read_at: Option<Instant>,
    /// Workers whose departure is under way.
    under_way: BTreeSet<String>,
    /// Keys of rows that could not be read, when all were read last.
    unreadable: BTreeSet<String>,
    steps: Steps,
    /// Last failures, by instance id: a departure that is being served again is still one that fails.
    failing: BTreeMap<String, String>,
}

/// Serves departures for as long as this node is a manager.
pub(super) async fn run(fleet: &Fleet<'_>) {
    let (first, after_failure) = (Duration::ZERO, LEADER_INTERVAL);
    // State that only saves calls and log lines, and the time for which each node has been silent; by instance id.
    let stand_ins = RefCell::default();
    let (desk, pace, moves) = (Departures::default(), Pace::default(), Moves::default());
    let serving = desk.serve(AT_ONCE, async |request: &Request| {
        let served = timeout(LIMIT, serve(fleet, request, &stand_ins)).await;
        served.unwrap_or(Err(ManagerError::TimeLimit { after: LIMIT }))
    });
    let duty = Duty { name: NAME, first, after_failure, trouble: None };
    let span = || tracing::info_span!("duty", duty = NAME);
    tokio::select! {
        () = duty.run_paused_by(
            |pause| until_due(&fleet.node.departure_hints, pause),
            fleet,
            async |with: Poll<'_, Memory>| poll(with, &desk, &pace, &moves, &stand_ins).await,
        ) => {}
        () = serving.instrument(span()) => {}
        never = pace.serve(fleet).instrument(span()) => match never {},
    }
}

async fn poll(
    Poll { fleet, memory, complaints }: Poll<'_, Memory>,
    desk: &Departures,
    pace: &Pace,
    moves: &Moves,
    stand_ins: &RefCell<stand_in::Memory>,
) -> Result<Duration, ManagerError> {
    let node = fleet.node;
    let nodes = fleet.nodes(lately(ROLE_AGE)).await?;
    let is_leader = fleet.is_leader(&nodes);
    let rows = memory.fetch(fleet, is_leader).await?;
    let read_at = Instant::now();
    show_unreadable(node, NAME, &memory.unreadable);
    for superseded in &rows.superseded {
        node.ledger.withdraw_stand_in(superseded).await?;
    }
    if let Some(why) = &rows.failed {
        complaints.record(why.clone());
    }
    let is_unanswered = |id: &str| rows.unanswered.contains(&format!("departure#{id}"));
    let is_known =
        |id: &str| is_unanswered(id) || rows.served.iter().any(|row| row.instance_id == id);
    stand_ins.borrow_mut().retain(is_known);
    complaints.retain(is_known);
    let is_own = |row: &&DepartureRow| {
        let claim = claims::check(&nodes, &row.instance_id, &row.node_id);
        matches!(claim, Claim::Own(_) | Claim::NotListed)
    };
    node.departed.add(rows.served.iter().filter(is_own), OffsetDateTime::now_utc());
    let proven: Vec<Departure<'_>> =
        rows.served.iter().filter_map(|row| Some((row, view_of(row, &nodes).ok()?))).collect();
    let now = OffsetDateTime::now_utc();
    let mut turns = pace.turns(fleet, &proven, is_unanswered, is_leader, complaints).await;
    let is_whole = rows.is_full && rows.unanswered.is_empty() && rows.failed.is_none();
    let departures = moves::Departures { rows: &proven, is_whole, is_leader };
    moves.advance(fleet, &departures, is_unanswered, &mut turns, complaints).await;
    let is_waiting = |turn: &&Turn| **turn != Turn::Now;
    let in_traffic = rows.served.iter().filter(|row| row.is_held(now)).count();
    metrics().departures_waiting(Some((in_traffic, turns.values().filter(is_waiting).count())));
    let requests = rows.served.iter().map(|row| {
        let turn = turns.get(&Key::of(row)).cloned().unwrap_or_default();
        let was_held = row.is_held(now);
        let request = Request { row: row.clone(), read_at, was_held, turn };
        ((row.instance_id.clone(), row.stand_in), request)
    });
    let served = desk.hand_in(requests, PATIENCE).await;
    let mut is_busy = false;
    memory.failing.retain(|id, _| is_known(id));
    memory.under_way.retain(|id| is_unanswered(id));
    for Request { row, .. } in desk.open() {
        if let Some(why) = memory.failing.get(&row.instance_id) {
            complaints.record(why.clone());
        }
        if row.role == Role::Worker {
            memory.under_way.insert(row.instance_id);
        }
    }
    for (Request { row, .. }, served) in served {
        let is_under_way = !matches!(served, Ok(Served::Over));
        is_busy |= matches!(served, Ok(Served::UnderWay));
        if is_under_way && row.role == Role::Worker {
            memory.under_way.insert(row.instance_id.clone());
        }
        if let Ok(Served::Refused(why)) = &served {
            if complaints.is_news(&row.instance_id, why) {
                tracing::warn!(instance = row.instance_id, "{why}");
            }
            complaints.record(why.clone());
            continue;
        }
        match &served {
            Ok(_) => memory.failing.remove(&row.instance_id),
            Err(why) => memory.failing.insert(row.instance_id.clone(), chain(why)),
        };
        complaints.take("serving its departure", &row.instance_id, served.map(drop))?;
    }
    Ok(match (is_leader, is_busy) {
        (false, true) => BUSY_BACKUP_INTERVAL,
        (false, false) => BACKUP_INTERVAL,
        (true, true) => memory.steps.pause(&rows.served),
        (true, false) => LEADER_INTERVAL,
    })
}

/// The state of one departure after a poll.
#[derive(Debug)]
enum Served {
    UnderWay,
    /// Nothing more will be done for it, or only after a time that no poll needs to hurry for.
    Idle,
    /// Managers are done with it.
    Over,
    /// Its row must not be followed, for this reason.
    Refused(String),
}

async fn serve(
    fleet: &Fleet<'_>,
    Request { row, read_at, was_held, turn }: &Request,
    stand_ins: &RefCell<stand_in::Memory>,
) -> Result<Served, ManagerError> {
    let read_at = *read_at;
    let row = &if read_at.elapsed() > PATIENCE {
        // It has waited for others, and its node may have taken it back meanwhile.
        match fleet.node.ledger.fetch_departure_again(row).await? {
            Some(row) => row,
            None => return Ok(Served::Idle),
        }
    } else {
        row.clone()
    };
    let nodes = match row.state {
        // The row is kept to be shown; nothing is done for it.
        DepartureState::Removed => None,
        _ => Some(fleet.nodes(read_at.max(lately(LIST_AGE))).await?),
    };
    let view = match view_of(row, nodes.as_deref().map_or(&[], Vec::as_slice)) {
        Ok(view) => view,
        Err(served) => return Ok(served),
    };
    // A failure to find that out must not keep the managers from serving it.
    let (row, failure) = match traffic::note(fleet, row).await {
        Ok(row) => (row, None),
        Err(error) => (row.clone(), Some(error)),
    };
    if *was_held && !row.is_held(OffsetDateTime::now_utc()) {
        // Its turn has not been decided.
        return Ok(Served::UnderWay);
    }
    let is_under_way = act::serve(fleet.node, &row, view, turn, stand_ins).await?;
    if let Some(error) = failure {
        return Err(error);
    }
    Ok(match is_under_way {
        true => Served::UnderWay,
        false if row.state.is_over() => Served::Over,
        false => Served::Idle,
    })
}

/// Returns the node of a departure, if it is listed. Managers write the rows of managers and the stand-ins; the node that
/// a worker's own row names is a claim.
fn view_of<'a>(row: &DepartureRow, nodes: &'a [NodeView]) -> Result<Option<&'a NodeView>, Served> {
    if row.role == Role::Manager || row.stand_in {
        return Ok(nodes.iter().find(|view| view.id == row.node_id));
    }
    match claims::check(nodes, &row.instance_id, &row.node_id) {
        Claim::Own(view) => Ok(Some(view)),
        Claim::NotListed => Ok(None),
        Claim::Unproven => Err(Served::Idle),
        Claim::OfAnother(owner) => {
            let item = format!("departure#{}", row.instance_id);
            Err(Served::Refused(claims::refusal(&item, &row.node_id, owner)))
        }
    }
}

/// The rows of a poll.
#[derive(Debug, Default)]
struct Requests {
    served: Vec<DepartureRow>,
    /// Stand-ins for nodes that have requested their departure themselves.
    superseded: Vec<DepartureRow>,
    /// Sort keys of workers' requests that were not read.
    unanswered: BTreeSet<String>,
    /// Why the workers' requests could not be read.
    failed: Option<String>,
    /// Whether the requests of all workers were read, and not only of those that were under way.
    is_full: bool,
}

impl Memory {
    /// Reads the rows of all managers and all stand-ins, and those of the workers that are due.
    async fn fetch(
        &mut self,
        fleet: &Fleet<'_>,
        is_leader: bool,
    ) -> Result<Requests, ManagerError> {
        let now = Instant::now();
        let of_managers = fleet.departures(now).await?;
        let mut workers = fleet.worker_ids().await?;
        let told = fleet.node.departure_hints.take();
        // A node that was identified just now is not in a node list that is kept. What tells of others costs a list, and
        // no poll of all workers: see `until_due`.
        if told.iter().any(|id| !workers.contains(id)) && fleet.nodes(now).await.is_ok() {
            workers = fleet.worker_ids().await?;
        }
        let is_due = self.read_at.is_none_or(|at| now - at >= workers_interval(is_leader));
        let stood_in = of_managers.rows.iter().filter(|row| row.stand_in);
        let mut ids: BTreeSet<String> = stood_in.map(|row| row.instance_id.clone()).collect();
        self.under_way.extend(told.into_iter().filter(|id| workers.contains(id)));
        ids.extend(if is_due { workers } else { self.under_way.clone() });
        // A worker can have the reads of its own partition throttled. The requests of managers are served all the same.
        let read = fleet.node.ledger.fetch_workers_departures(&ids).await;
        let failed =
            read.as_ref().err().map(|error| format!("the workers' requests: {}", chain(error)));
        let own = read.unwrap_or_else(|_| Rows {
            unanswered: ids.iter().map(|id| format!("departure#{id}")).collect(),
            ..Rows::default()
        });
        if is_due && failed.is_none() {
            self.read_at = Some(now);
            self.unreadable = &of_managers.unreadable | &own.unreadable;
        }
        Ok(Requests { failed, is_full: is_due, ..merge(&of_managers.rows, own) })
    }
}

/// Puts together what managers have written and what workers have requested themselves. A node's own request has
/// priority over a stand-in for the same node; where it is unknown whether there is one, the stand-in waits.
fn merge(by_managers: &[DepartureRow], own: Rows<DepartureRow>) -> Requests {
    let key = |row: &DepartureRow| (row.instance_id.clone(), row.node_id.clone());
    let is_alive = |row: &&DepartureRow| !row.stand_in && row.state != DepartureState::Failed;
    let requested: BTreeMap<_, _> =
        own.rows.iter().chain(by_managers).filter(is_alive).map(|row| (key(row), ())).collect();
    let mut all = Requests::default();
    for row in by_managers {
        if row.stand_in && requested.contains_key(&key(row)) {
            all.superseded.push(row.clone());
        } else if !(row.stand_in && own.hides(&row.instance_id)) {
            all.served.push(row.clone());
        }
    }
    all.served.extend(own.rows);
    all.unanswered = own.unanswered;
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clients::aws::stub::Stub;
    use crate::clients::docker::tests::fake_engine::{FakeEngine, RELEASES};
    use crate::common::instance::{self, Membership, Reason};
    use crate::common::labels::INSTANCE;
    use crate::node::Node;

    fn row(instance: &str, node_id: &str, role: Role, stand_in: bool) -> DepartureRow {
        let now = OffsetDateTime::UNIX_EPOCH;
        let departure =
            instance::Departure { reason: Reason::Spot, noticed_at: now, deadline: now };
        let mut row = DepartureRow::request(instance, node_id, role, &departure, "boot");
        row.stand_in = stand_in;
        row
    }

    #[test]
    fn a_nodes_own_request_comes_before_a_stand_in_and_one_that_may_exist_delays_it() {
        let stand_in = row("i-1", "n1", Role::Worker, true);
        let alone = merge(std::slice::from_ref(&stand_in), Rows::default());
        assert_eq!(alone.served, std::slice::from_ref(&stand_in));
        let own = |state| {
            let mut own = row("i-1", "n1", Role::Worker, false);
            own.state = state;
            Rows { rows: vec![own], ..Rows::default() }
        };
        let both = merge(std::slice::from_ref(&stand_in), own(DepartureState::Draining));
        assert_eq!((both.superseded.len(), both.served.len()), (1, 1));
        assert!(!both.served[0].stand_in);
        let failed = merge(std::slice::from_ref(&stand_in), own(DepartureState::Failed));
        assert_eq!((failed.superseded.len(), failed.served.len()), (0, 2), "it has given up");
        let unanswered = ["departure#i-1".to_owned()].into();
        let hidden = merge(&[stand_in], Rows { unanswered, ..Rows::default() });
        assert!(hidden.superseded.is_empty() && hidden.served.is_empty(), "cannot tell");
        let manager = row("i-2", "n2", Role::Manager, true);
        let of_managers =
            merge(&[manager, row("i-2", "n2", Role::Manager, false)], Rows::default());
        assert_eq!((of_managers.superseded.len(), of_managers.served.len()), (1, 1));
    }

    /// A worker can use up the reads of its own partition.
    #[tokio::test]
    async fn where_no_request_of_workers_can_be_read_those_of_managers_are_served() {
        let (engine, stub) = (FakeEngine::start(RELEASES[0]), Stub::start().await);
        let node = Node::example(engine.swarm(), &stub).await;
        node.known_instances.add(["i-1"].into_iter());
        stub.compute(|body| {
            let throttled = r#"{ "__type": "ThrottlingException", "message": "too fast" }"#;
            let is_workers = body.contains("RequestItems");
            Some(if is_workers {
                (400, throttled.into())
            } else {
                (200, r#"{ "Items": [] }"#.into())
            })
        });
        let membership = Membership::example();
        let fleet = Fleet::new(&node, &membership);
        let mut memory = Memory::default();
        let rows = memory.fetch(&fleet, true).await.unwrap();
        assert_eq!(rows.unanswered, ["departure#i-1".to_owned()].into(), "cannot tell");
        assert!(rows.failed.is_some_and(|why| why.contains("too fast")));
        assert!(memory.read_at.is_none(), "the next poll asks again");
    }

    /// A node list of two seconds ago does not have it.
    #[tokio::test]
    async fn a_worker_that_was_identified_just_now_is_read_when_it_tells_of_its_request() {
        const NEW: &str = "i-0123456789abcdef0";
        let (engine, stub) = (FakeEngine::start(RELEASES[0]), Stub::start().await);
        let node = Node::example(engine.swarm(), &stub).await;
        stub.always("KeyCondition", r#"{ "Items": [] }"#);
        stub.always("RequestItems", r#"{ "Responses": {}, "UnprocessedKeys": {} }"#);
        let membership = Membership { node_id: "n1".into(), ..Membership::example() };
        let fleet = Fleet::new(&node, &membership);
        fleet.nodes(lately(ROLE_AGE)).await.unwrap();
        engine.lock().node_spec["Labels"]["skep.instance"] = serde_json::json!(NEW);
        let mut memory = Memory { read_at: Some(Instant::now()), ..Memory::default() };
        node.departure_hints.give(NEW);
        memory.fetch(&fleet, true).await.unwrap();
        assert!(memory.under_way.contains(NEW));
    }

    /// The rows of all workers are not read for one.
    #[tokio::test]
    async fn a_worker_that_tells_of_its_request_is_read_before_the_others_are_due() {
        let (engine, stub) = (FakeEngine::start(RELEASES[0]), Stub::start().await);
        let node = Node::example(engine.swarm(), &stub).await;
        node.known_instances.add(["i-1", "i-2"].into_iter());
        stub.always("KeyCondition", r#"{ "Items": [] }"#);
        stub.always("RequestItems", r#"{ "Responses": {}, "UnprocessedKeys": {} }"#);
        let membership = Membership::example();
        let fleet = Fleet::new(&node, &membership);
        let mut memory = Memory { read_at: Some(Instant::now()), ..Memory::default() };
        node.departure_hints.give("i-2");
        node.departure_hints.give("i-unknown");
        assert!(!memory.fetch(&fleet, true).await.unwrap().is_full);
        let requests = stub.requests();
        let read: Vec<_> = requests.iter().filter(|it| it.contains("RequestItems")).collect();
        assert_eq!(read.len(), 1);
        assert!(read[0].contains("departure#i-2"), "{read:?}");
        assert!(!read[0].contains("i-1") && !read[0].contains("unknown"), "{read:?}");
    }

    #[test]
    fn a_workers_row_moves_no_other_node() {
        let mut view = NodeView::example("n1", Role::Worker);
        let workers = |node: &str| row("i-1", node, Role::Worker, false);
        let bare = [view.clone()];
        assert!(matches!(view_of(&workers("n1"), &bare), Err(Served::Idle)), "unproven");
        view.labels.insert(INSTANCE.to_owned(), "i-1".to_owned());
        let own = [view.clone()];
        assert!(matches!(view_of(&workers("n1"), &own), Ok(Some(_))));
        assert!(matches!(view_of(&workers("n9"), &own), Ok(None)));
        view.labels.insert(INSTANCE.to_owned(), "i-2".to_owned());
        let others = [view];
        let Err(Served::Refused(why)) = view_of(&workers("n1"), &others) else { panic!() };
        assert!(why.contains("departure#i-1") && why.contains("i-2"), "{why}");
        let stand_in = row("i-1", "n1", Role::Worker, true);
        assert!(matches!(view_of(&stand_in, &others), Ok(Some(_))), "a manager wrote it");
    }
}
