//! Observes Docker and the ledger for a departing node.

use std::net::IpAddr;
use std::time::Duration;

use tokio::time::Instant;

use super::budget::Budget;
use super::decide::{Blind, Clock, Observed};
use super::memory::{Flush, Memory};
use super::traffic::Wait;
use super::{traffic_look, which_swarm};
use crate::clients::docker::{
    LocalNode, LocalState, NodeView, Quorum, SwarmError, SwarmErrorKind, TaskContainer,
};
use crate::clients::ledger::{DepartureRow, DepartureState, LedgerError};
use crate::common::errors::chain;
use crate::common::instance::{Departure, Membership};
use crate::node::Node;
use crate::telemetry::metrics::metrics;

/// Time for another manager to confirm a demotion or a removal; managers observe at least every 2 s while a departure is
/// under way.
const CONFIRMATION_PATIENCE: Duration = Duration::from_secs(15);
/// See `boot::decide::SETTLE_TIME`.
const SETTLE_PATIENCE: Duration = Duration::from_secs(25);
/// A replacement of the last manager boots within minutes, or not at all.
const REPLACEMENT_PATIENCE: Duration = Duration::from_secs(300);
/// Outages of DynamoDB that were reported lasted seconds to a minute. A node that has left waits this long for the
/// ledger, so that managers remove it from the node list before its machine ends.
const LEDGER_PATIENCE: Duration = Duration::from_secs(300);
/// A Docker that runs answers within milliseconds, and within seconds on a busy machine. After this time it counts as
/// not answering.
const DOCKER_PATIENCE: Duration = Duration::from_secs(5);
/// After this time without an answer the node stops waiting for Docker: systemd starts one that has died within
/// seconds, and one with many containers needs a minute to start.
const DOCKER_BACK_WITHIN: Duration = Duration::from_secs(120);

/// Names under which a departure reports trouble.
const LEDGER: &str = "the departure's ledger";
const DOCKER: &str = "the departure's Docker";

/// Clears the trouble of the departure, which has ended.
pub fn stop_showing_trouble(node: &Node) {
    node.state.trouble(LEDGER, None);
    node.state.trouble(DOCKER, None);
}

/// Result of an observation.
pub enum Look {
    Seen(Box<Observed>),
    /// Docker does not answer.
    Blind(Box<Blind>),
}

/// Observes Docker and the ledger. The failure of one does not fail the observation: facts that cannot be read are
/// "cannot tell".
pub async fn observe(
    node: &Node,
    departure: &Departure,
    is_withdrawn: bool,
    budget: &Budget,
    memory: &mut Memory,
) -> Look {
    let (docker, row) =
        tokio::join!(ask_docker(node), node.ledger.fetch_departure(node.role, &node.instance.id));
    let ledger_trouble = row.as_ref().err().map(|error| chain(error));
    let write_trouble =
        memory.writes.why().map(|why| format!("this departure cannot write to the ledger: {why}"));
    let docker_trouble = docker.as_ref().err().map(|error| chain(error));
    let drain_trouble =
        memory.drains.why().map(|why| format!("this manager cannot be drained: {why}"));
    let show = |trouble: Option<String>| trouble.map(|trouble| format!("departure: {trouble}"));
    node.state.trouble(LEDGER, show(ledger_trouble.or(write_trouble)));
    node.state.trouble(DOCKER, show(docker_trouble.or(drain_trouble)));
    if memory.member.is_none() {
        memory.member = node.state.now().membership;
    }
    match docker {
        Ok((local, containers)) => {
            memory.silent_since = None;
            if !local.managers.is_empty() {
                memory.managers.clone_from(&local.managers);
            }
            let seen = see(node, is_withdrawn, budget, memory, local, containers, row).await;
            let mut seen = Box::new(seen);
            traffic_look::look(node, departure, memory, &mut seen);
            Look::Seen(seen)
        }
        Err(_) => {
            let seen = look_without_docker(node, budget, memory, row).await;
            Look::Blind(Box::new(seen))
        }
    }
}

async fn ask_docker(node: &Node) -> Result<(LocalNode, Vec<TaskContainer>), SwarmError> {
    let asked =
        async { tokio::try_join!(node.swarm.fetch_local_node(), node.swarm.fetch_containers()) };
    match tokio::time::timeout(DOCKER_PATIENCE, asked).await {
        Ok(answer) => answer,
        Err(_) => Err(SwarmError::silent("read /info and the containers")),
    }
}

async fn look_without_docker(
    node: &Node,
    budget: &Budget,
    memory: &mut Memory,
    row: Result<Option<DepartureRow>, LedgerError>,
) -> Blind {
    if memory.member.is_none() {
        // skep was restarted meanwhile: this node's member row has the node id.
        memory.member = own_row(node).await.ok().flatten();
    }
    memory.silent_since.get_or_insert_with(Instant::now);
    let is_ledger_readable = row.is_ok();
    let is_own = |row: &DepartureRow| {
        let is_node = memory.member.as_ref().is_none_or(|member| member.node_id == row.node_id);
        is_of_this_attempt(node, row) && is_node
    };
    Blind {
        row: row.ok().flatten().filter(is_own),
        is_ledger_readable,
        is_write_failing: memory.writes.is_recent(),
        is_member_known: memory.member.is_some(),
        is_flushed: memory.flush != Flush::NotYet,
        clock: clock(budget, memory),
    }
}

/// Whether the row is of this departure. A row of another start of the machine is void, and so is one of a departure
/// that failed.
fn is_of_this_attempt(node: &Node, row: &DepartureRow) -> bool {
    row.boot_id == node.boot_id && row.state != DepartureState::Failed
}

async fn own_row(node: &Node) -> Result<Option<Membership>, LedgerError> {
    let row = node.ledger.fetch_member(node.role, &node.instance.id).await?;
    Ok(row.map(|row| Membership {
        node_id: row.node_id,
        swarm_id: String::new(),
        generation: row.generation,
        role: node.role,
    }))
}

async fn see(
    node: &Node,
    is_withdrawn: bool,
    budget: &Budget,
    memory: &mut Memory,
    mut local: LocalNode,
    containers: Vec<TaskContainer>,
    row: Result<Option<DepartureRow>, LedgerError>,
) -> Observed {
    let mut is_ledger_readable = row.is_ok();
    let place = which_swarm::look(node, &mut local, memory.member.as_ref(), memory.ours).await;
    // The row of an earlier start of this machine is void, and the row of another node id is another node's.
    let row = row.ok().flatten().filter(|row| {
        let is_node = local.node_id.as_ref().is_none_or(|id| *id == row.node_id);
        is_of_this_attempt(node, row) && is_node
    });
    if local.state == LocalState::Active {
        memory.ours = place.ours;
    }
    if memory.member.is_none() && local.state == LocalState::Inactive && row.is_none() {
        // skep was restarted after the node had left: its member row has the node id that it had.
        match own_row(node).await {
            Ok(member) => memory.member = member,
            Err(_) => is_ledger_readable = false,
        }
    }
    let list = if local.is_manager && place.ours.is_yes() {
        look_as_manager(node, &local).await
    } else {
        ManagersLook::default()
    };
    count_killed(node, &containers, memory).await;
    memory.containers.clone_from(&containers);
    let (tasks, standalone): (Vec<_>, Vec<_>) =
        containers.into_iter().partition(|container| container.task_id.is_some());
    let late = standalone.iter().filter(|container| container.stops_after_flush).count();
    metrics().tasks_drained(memory.tasks.len().saturating_sub(tasks.len()));
    memory.tasks = tasks.iter().map(|container| container.name.clone()).collect();
    if !tasks.is_empty() && !clock(budget, memory).stop_over {
        // If no manager drains the node, the swarm starts tasks here again, which write more logs.
        memory.flush = Flush::NotYet;
    }
    let is_flushed = memory.flush.counts(&clock(budget, memory));
    let is_out = local.state == LocalState::Inactive;
    let is_word_missing = is_out || !local.is_manager && is_flushed && tasks.is_empty();
    memory.misses_word(is_word_missing, is_out, row.as_ref());
    Observed {
        is_withdrawn,
        ours: place.ours,
        certified: place.certified,
        is_joining: place.is_joining,
        was_member: memory.has_left || memory.member.is_some(),
        row,
        is_ledger_readable,
        is_write_failing: memory.writes.is_recent(),
        is_drain_failing: memory.drains.is_recent(),
        traffic: Wait::Over,
        awaits_turn: false,
        node: list.own,
        task_containers: tasks.len(),
        standalone_containers: standalone.len() - late,
        late_containers: late,
        listed_tasks: list.tasks,
        is_flushed,
        is_last_manager: list.is_last,
        quorum: list.quorum,
        is_other_going: list.is_other_going,
        clock: clock(budget, memory),
        local,
    }
}

/// Checks whether the tasks that were stopped here had their grace.
async fn count_killed(node: &Node, running: &[TaskContainer], memory: &mut Memory) {
    let ended: Vec<String> = memory.stopping.keys().cloned().collect();
    let unknown_before = memory.grace_unknown.clone();
    for id in ended {
        if running.iter().any(|container| container.id == id) {
            continue;
        }
        let Some(name) = memory.stopping.remove(&id) else { continue };
        match node.swarm.was_killed(&id).await {
            Ok(is_killed) => {
                memory.grace_unknown.remove(&name);
                if is_killed {
                    memory.killed.insert(name);
                }
            }
            Err(error) => {
                if memory.grace_unknown.insert(name.clone()) {
                    tracing::warn!(
                        container = name,
                        "cannot tell whether this task had its grace: {error}"
                    );
                }
                // Docker has removed the container, or its answer would take all the time that is left: it is not asked
                // again.
                let is_final =
                    matches!(error.kind, SwarmErrorKind::NotFound | SwarmErrorKind::TimedOut);
                if !is_final {
                    memory.stopping.insert(id, name);
                }
            }
        }
    }
    if memory.grace_unknown != unknown_before {
        let names = memory.grace_unknown.iter().cloned().collect();
        node.state.update(|state| state.grace_unknown = names);
    }
}

fn clock(budget: &Budget, memory: &Memory) -> Clock {
    let now = Instant::now();
    let waited = now - memory.start;
    Clock {
        traffic_over: now >= budget.traffic_until,
        patience_over: now >= budget.patience_until,
        drain_over: now >= budget.drain_until,
        stop_over: now >= budget.stop_until,
        leave_due: now >= budget.flush_until,
        over: now >= budget.deadline,
        confirmation_over: memory
            .word_missing
            .is_some_and(|(_, since)| now - since >= CONFIRMATION_PATIENCE),
        settle_over: waited >= SETTLE_PATIENCE,
        replacement_wait_over: now - memory.replacement_awaited_since >= REPLACEMENT_PATIENCE,
        ledger_over: memory.word_missing.is_some_and(|(_, since)| now - since >= LEDGER_PATIENCE),
        docker_over: memory.silent_since.is_some_and(|since| now - since >= DOCKER_BACK_WITHIN),
    }
}

/// Facts from the node list, on a manager; all unknown without a leader.
#[derive(Default)]
struct ManagersLook {
    own: Option<NodeView>,
    tasks: Option<usize>,
    is_last: bool,
    quorum: Quorum,
    is_other_going: bool,
}

impl ManagersLook {
    fn of(node_id: &str, address: IpAddr, nodes: Vec<NodeView>, tasks: usize) -> Self {
        let own = nodes.iter().find(|node| node.id == node_id);
        let others = || {
            nodes.iter().filter(|other| other.id != node_id && !is_earlier_attempt(other, address))
        };
        // A list that is empty, or does not have this manager in raft, proves nothing about other managers.
        let is_evidence =
            own.is_some_and(|own| own.raft.is_some()) && nodes.iter().any(NodeView::is_leader);
        Self {
            tasks: Some(tasks),
            is_last: is_evidence && others().all(NodeView::is_plain_worker),
            quorum: Quorum::of(&nodes),
            is_other_going: others().any(NodeView::is_being_demoted),
            own: own.cloned(),
        }
    }
}

/// Whether the entry is of a join of this host that failed after Docker had created the node: no process will use it
/// again.
fn is_earlier_attempt(other: &NodeView, own: IpAddr) -> bool {
    other.is_down() && other.raft.is_none() && other.ip() == Some(own)
}

async fn look_as_manager(node: &Node, local: &LocalNode) -> ManagersLook {
    let Some(node_id) = &local.node_id else { return ManagersLook::default() };
    match tokio::try_join!(node.swarm.fetch_nodes(), node.swarm.count_live_tasks(node_id)) {
        Ok((nodes, tasks)) => ManagersLook::of(node_id, node.address, nodes, tasks),
        Err(error) => {
            tracing::debug!("{error}");
            ManagersLook::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use time::OffsetDateTime;

    use super::*;
    use crate::clients::aws::stub::Stub;
    use crate::clients::docker::RaftView;
    use crate::clients::docker::tests::fake_engine::{FakeEngine, Instead, RELEASES};
    use crate::common::fact::Fact;
    use crate::common::instance::{Reason, Role};
    use crate::lifecycle::leave::act::act;
    use crate::lifecycle::leave::decide::Step;
    use crate::lifecycle::leave::tests::listed;

    #[tokio::test(start_paused = true)]
    async fn managers_have_their_time_from_the_row_on_that_says_that_the_node_is_out() {
        let now = OffsetDateTime::UNIX_EPOCH;
        let departure = Departure { reason: Reason::Lifecycle, noticed_at: now, deadline: now };
        let mut row = DepartureRow::request("i-1", "node", Role::Worker, &departure, "boot");
        let start = Instant::now();
        let budget = Budget::new(start, start + 10 * LEDGER_PATIENCE, 0.2, LEDGER_PATIENCE, start);
        let mut memory = Memory::new(start);
        let look = |memory: &mut Memory, row: Option<&DepartureRow>| {
            memory.misses_word(true, true, row);
            let clock = clock(&budget, memory);
            (clock.confirmation_over, clock.ledger_over)
        };
        assert_eq!(look(&mut memory, None), (false, false));
        tokio::time::advance(4 * CONFIRMATION_PATIENCE).await;
        assert_eq!(look(&mut memory, None), (true, false), "no row is readable");
        assert_eq!(look(&mut memory, Some(&row)), (true, false), "it does not record that yet");
        row.state = DepartureState::Left;
        assert_eq!(look(&mut memory, Some(&row)), (false, false));
        tokio::time::advance(CONFIRMATION_PATIENCE / 2).await;
        assert_eq!(look(&mut memory, None), (false, false), "the ledger fails again");
        tokio::time::advance(CONFIRMATION_PATIENCE / 2).await;
        assert_eq!(look(&mut memory, Some(&row)), (true, false), "and adds no time");
    }

    /// The last manager leaves by force: that needs the node list as evidence.
    #[test]
    fn a_manager_is_the_last_one_only_by_a_list_that_has_it_and_a_leader() {
        let raft = |is_leader| Some(RaftView { is_leader, is_reachable: true });
        let own = |is_leader| listed(Role::Manager, raft(is_leader));
        let other = |node: NodeView| NodeView { id: "other".into(), ..node };
        let worker = || other(listed(Role::Worker, None));
        let address = IpAddr::from([10, 0, 0, 1]);
        let is_last = |nodes| ManagersLook::of("node", address, nodes, 0).is_last;
        assert!(is_last(vec![own(true)]) && is_last(vec![worker(), own(true)]));
        assert!(!is_last(vec![]), "it is empty");
        assert!(!is_last(vec![worker()]), "it does not list this node");
        assert!(!is_last(vec![listed(Role::Manager, None)]), "raft does not know this node");
        assert!(!is_last(vec![own(false)]), "it has no leader");
        assert!(!is_last(vec![own(true), other(own(false))]), "another manager");
        let joining = other(listed(Role::Manager, None));
        assert!(!is_last(vec![own(true), joining.clone()]), "another manager is joining");
        let at = |node: NodeView, address: &str| NodeView { address: Some(address.into()), ..node };
        let down = NodeView { state: "down".into(), ..joining.clone() };
        assert!(is_last(vec![own(true), at(down.clone(), "10.0.0.1")]), "its own earlier attempt");
        for other in ["10.0.0.2", "0.0.0.0", "::1", ""] {
            let other = at(down.clone(), other);
            assert!(!is_last(vec![own(true), other]), "it may be of another host");
        }
        assert!(!is_last(vec![own(true), down.clone()]), "it has no address");
        assert!(!is_last(vec![own(true), at(joining, "10.0.0.1")]), "it is not Down");
        let raft = NodeView { raft: raft(false), ..at(down, "10.0.0.1") };
        assert!(!is_last(vec![own(true), raft]), "raft counts it");
    }

    /// The ledger does not answer, so no manager drains the node, and the swarm starts tasks here again.
    #[tokio::test]
    async fn a_task_that_starts_after_the_flush_has_its_grace_and_is_flushed() {
        const WORKER: &str = r#"{ "Swarm": { "LocalNodeState": "active", "NodeID": "n1" } }"#;
        const TASK: &str = r#"[{ "Id": "c1", "Labels": { "com.docker.swarm.task.id": "t1" } }]"#;
        let (engine, stub) = (FakeEngine::start(RELEASES[0]), Stub::start().await);
        let node = Node::example(engine.swarm(), &stub).await;
        let containers = |answer| {
            engine.lock().instead.insert("/containers/json", Instead::Answer(answer));
        };
        engine.lock().instead.insert("/info", Instead::Answer(WORKER));
        containers("[]");
        let wall = OffsetDateTime::UNIX_EPOCH;
        let departure = Departure { reason: Reason::Lifecycle, noticed_at: wall, deadline: wall };
        let start = Instant::now();
        let later = start + Duration::from_secs(600);
        let mut budget = Budget {
            traffic_until: start,
            patience_until: start,
            drain_until: start,
            stop_until: later,
            flush_until: later,
            deadline: later,
        };
        let mut memory = Memory::new(start);
        (memory.ours, memory.flush) = (Fact::Yes, Flush::Whole);
        let look =
            async |memory: &mut Memory| match observe(&node, &departure, false, &budget, memory)
                .await
            {
                Look::Seen(seen) => *seen,
                Look::Blind(_) => panic!("Docker answers"),
            };
        let seen = look(&mut memory).await;
        assert!(seen.is_flushed && seen.task_containers == 0);
        containers(TASK);
        let leave = async |memory: &mut Memory, budget: &Budget, seen: &Observed| {
            act(&node, &departure, budget, seen, Step::Leave, memory).await.unwrap();
            engine.lock().asked.iter().any(|asked| asked.what.starts_with("POST /swarm/leave"))
        };
        assert!(!leave(&mut memory, &budget, &seen).await, "the observation is older");
        // A container that was created and has not started is removed; Docker refuses that for one that runs.
        let asked: Vec<String> = engine.lock().asked.iter().map(|it| it.what.clone()).collect();
        assert!(asked.iter().any(|it| it.starts_with("GET /containers") && it.contains("created")));
        let mut removals = asked.iter().filter(|it| it.starts_with("DELETE /containers/c1"));
        assert!(removals.next().is_some_and(|it| !it.contains("force=true")), "{asked:?}");
        let mut seen = look(&mut memory).await;
        assert!(!seen.is_flushed && seen.task_containers == 1);

        budget.stop_until = start;
        seen.clock = clock(&budget, &memory);
        assert!(leave(&mut memory, &budget, &seen).await, "there is no time for it");
    }

    /// A stopped task for which Docker does not report how it ended does not count as one that had its grace.
    #[tokio::test]
    async fn a_task_that_cannot_be_inspected_is_named() {
        const TASK: &str = "/containers/c1/json";
        let (engine, stub) = (FakeEngine::start(RELEASES[0]), Stub::start().await);
        let node = Node::example(engine.swarm(), &stub).await;
        let unknown = || node.state.now().grace_unknown;
        let mut memory = Memory::new(Instant::now());
        memory.stopping.insert("c1".to_owned(), "web.1".to_owned());

        engine.lock().instead.insert(TASK, Instead::Refusal(500, "the disk is busy"));
        count_killed(&node, &[], &mut memory).await;
        assert_eq!(unknown(), ["web.1"]);
        let outcome = node.state.now().with_killed("left");
        assert_eq!(outcome, "left; not known whether 1 task had its grace: web.1");
        // skep asks Docker again, and Docker answers.
        let ended = r#"{ "State": { "ExitCode": 137 } }"#;
        engine.lock().instead.insert(TASK, Instead::Answer(ended));
        count_killed(&node, &[], &mut memory).await;
        assert_eq!((unknown().len(), memory.killed.len()), (0, 1));

        memory.stopping.insert("c2".to_owned(), "web.2".to_owned());
        count_killed(&node, &[], &mut memory).await;
        assert_eq!(unknown(), ["web.2"]);
        assert!(memory.stopping.is_empty(), "Docker does not have it any more");
    }
}
