//! Shows the whole fleet, as the ledger and Docker list it, for `skep status` and the page on a manager.

use std::collections::BTreeMap;
use std::time::Duration;

use time::OffsetDateTime;
use tokio::time::timeout;

use super::claims::{self, Claim};
use super::outsiders;
use super::placed::instance_of;
use crate::clients::docker::{NodeView, Quorum, SwarmError, SwarmErrorKind};
use crate::clients::ledger::{DepartureRow, DepartureState, LedgerError, Member, Rows};
use crate::common::errors::chain;
use crate::common::instance::Role;
use crate::common::report::{FleetMember, FleetView, Leaving, QuorumView, ViewSource};
use crate::common::state::in_utc;
use crate::node::Node;

/// Timeout for Docker, because an operator waits: Docker answers within milliseconds, and without a leader not for
/// half a minute.
const DOCKER_PATIENCE: Duration = Duration::from_secs(2);
/// Text for a swarm without a leader while that may be an election.
const NO_LEADER: &str = "no leader answers; if an election does not end this within a minute, the quorum is lost: run `skep recover`, which shows what can be done";
/// Text for a silent Docker on this host, which is no evidence about the swarm.
const DOCKER_SILENT: &str = "Docker on this host does not answer; run `skep status` on another manager to see whether the swarm has a leader";
/// Docker's state for a node that the managers have lost contact with: nothing confirms that it is alive.
const UNKNOWN: &str = "unknown";

/// Docker's state of a node whose tasks' states are up to date.
const READY: &str = "ready";

/// Adds the number of each node whose tasks' states are up to date.
fn add_tasks(members: &mut [FleetMember], tasks: &BTreeMap<String, usize>) {
    for member in members {
        let is_ready = member.docker_state.as_deref() == Some(READY);
        let id = member.node_id.as_ref().filter(|_| is_ready);
        member.tasks = id.map(|id| tasks.get(id).copied().unwrap_or_default());
    }
}

/// Returns the fleet, or `None` where this node is not a manager and cannot see it. The numbers of tasks are `None`.
pub async fn view_fleet(node: &Node) -> Option<FleetView> {
    look(node, false).await
}

/// Returns the fleet with the number of running tasks of each node, which costs a list of all tasks.
pub async fn view_fleet_and_tasks(node: &Node) -> Option<FleetView> {
    look(node, true).await
}

async fn look(node: &Node, with_tasks: bool) -> Option<FleetView> {
    let local = timeout(DOCKER_PATIENCE, node.swarm.fetch_local_node()).await;
    let is_docker_silent = local.is_err();
    let is_manager = match local {
        Ok(local) => local.ok()?.is_manager,
        Err(_) => node.role == Role::Manager,
    };
    if !is_manager {
        return None;
    }
    let listed_and_rows = async {
        let nodes = timeout(DOCKER_PATIENCE, node.swarm.fetch_nodes()).await;
        let listed: Option<&Vec<NodeView>> =
            nodes.as_ref().ok().and_then(|nodes| nodes.as_ref().ok());
        node.known_instances.add(listed.into_iter().flatten().filter_map(instance_of));
        let rows = fetch_rows(node, listed.map_or(&[], Vec::as_slice)).await;
        (nodes, rows)
    };
    let tasks = async {
        if !with_tasks {
            return None;
        }
        timeout(DOCKER_PATIENCE, node.swarm.count_running_tasks()).await.ok()?.ok()
    };
    let ((nodes, rows), tasks) = tokio::join!(listed_and_rows, tasks);
    let warnings = match &nodes {
        Ok(Ok(nodes)) if has_both_encryptions(nodes) => {
            let asked = timeout(DOCKER_PATIENCE, node.swarm.fetch_encrypted_networks()).await;
            warn_of_encryption(asked.ok().and_then(Result::ok)).into_iter().collect()
        }
        _ => Vec::new(),
    };
    let nodes = nodes.unwrap_or_else(|_| Err(SwarmError::silent("list the nodes")));
    let is_leaderless = !is_docker_silent
        && nodes
            .as_ref()
            .is_err_and(|error| error.kind == SwarmErrorKind::NoLeader || error.is_silence());
    let lost = node.state.now().quorum_lost();
    let source = match (&rows, &nodes) {
        (Ok(_), Ok(_)) => ViewSource::LedgerAndDocker,
        (Ok(_), Err(_)) => ViewSource::Ledger,
        (Err(_), Ok(_)) => ViewSource::Docker,
        (Err(_), Err(_)) => ViewSource::Nothing,
    };
    let problems: Vec<String> = [
        rows.as_ref().err().map(|error| chain(error)),
        nodes
            .as_ref()
            .err()
            .filter(|_| !is_leaderless && !is_docker_silent)
            .map(|error| chain(error)),
        is_docker_silent.then(|| DOCKER_SILENT.to_owned()),
        // Once it is certain, this node's own trouble has the same sentence.
        lost.or_else(|| is_leaderless.then(|| NO_LEADER.to_owned())),
    ]
    .into_iter()
    .flatten()
    .collect();
    let (members, departures) = rows.unwrap_or_default();
    let now = OffsetDateTime::now_utc();
    node.departed.add(&departures.rows, now);
    let quorum = nodes.as_ref().ok().map(|nodes| view(Quorum::of(nodes)));
    let mut members = merge(members, &departures.rows, nodes.ok());
    if let Some(tasks) = tasks {
        add_tasks(&mut members, &tasks);
    }
    // Verdicts about nodes that looked dead are those of the last list.
    let verdicts = if quorum.is_some() { node.state.now().verdicts } else { BTreeMap::new() };
    for member in &mut members {
        member.verdict = member.node_id.as_ref().and_then(|id| verdicts.get(id).cloned());
    }
    Some(FleetView {
        source,
        quorum,
        quorum_lost_since: None,
        outsiders: outsiders::find(source, &members, node.in_service.lately()),
        members,
        problem: (!problems.is_empty()).then(|| problems.join("; ")),
        warnings,
        departed: node.departed.of_last_day(now),
    })
}

/// Reads the rows of all members and of all departures, without those of workers that name a node which is not
/// proven to be theirs.
async fn fetch_rows(
    node: &Node,
    nodes: &[NodeView],
) -> Result<(Vec<Member>, Rows<DepartureRow>), LedgerError> {
    let known = node.known_instances.all();
    let (managers, mut workers, mut departures, mut of_workers) = tokio::try_join!(
        node.ledger.fetch_managers(),
        node.ledger.fetch_workers(&known),
        node.ledger.survey_departures(),
        node.ledger.fetch_workers_departures(&known)
    )?;
    let is_shown = |instance: &str, node_id: &str| {
        matches!(claims::check(nodes, instance, node_id), Claim::Own(_) | Claim::NotListed)
    };
    workers.rows.retain(|row| is_shown(&row.instance_id, &row.node_id));
    of_workers.rows.retain(|row| is_shown(&row.instance_id, &row.node_id));
    departures.extend(of_workers);
    Ok((managers.into_iter().chain(workers.rows).collect(), departures))
}

fn view(quorum: Quorum) -> QuorumView {
    let Quorum { managers, reachable } = quorum;
    QuorumView { managers, reachable, may_be_lost: quorum.may_be_lost() }
}

/// First engine whose packets of encrypted overlay networks older engines cannot read, and which cannot read theirs.
const OTHER_ENCRYPTION: u32 = 29;

/// Whether there are engines on both sides. An engine of unknown version is on neither.
fn has_both_encryptions(nodes: &[NodeView]) -> bool {
    let majors = || nodes.iter().filter(|node| !node.is_down()).filter_map(NodeView::engine_major);
    majors().any(|major| major < OTHER_ENCRYPTION)
        && majors().any(|major| major >= OTHER_ENCRYPTION)
}

/// Returns the warning. `encrypted` has the names of the networks concerned, if Docker has listed them.
fn warn_of_encryption(encrypted: Option<Vec<String>>) -> Option<String> {
    let which = match encrypted {
        Some(names) if names.is_empty() => return None,
        Some(names) => format!("the encrypted overlay networks {}", names.join(", ")),
        None => "encrypted overlay networks, if there are any,".to_owned(),
    };
    Some(format!(
        "{which} do not work between engines before {OTHER_ENCRYPTION} and later ones: bring all nodes to the same side, or run the services on nodes of one side meanwhile"
    ))
}

/// Returns every node that either of them lists: by node id, managers first. Without Docker's list nothing confirms the
/// rows, and every node is unknown.
fn merge(
    members: Vec<Member>,
    departures: &[DepartureRow],
    nodes: Option<Vec<NodeView>>,
) -> Vec<FleetMember> {
    let unseen = nodes.is_none().then(|| UNKNOWN.to_owned());
    let mut nodes: BTreeMap<String, NodeView> =
        nodes.into_iter().flatten().map(|node| (node.id.clone(), node)).collect();
    let mut fleet: Vec<FleetMember> = members
        .into_iter()
        .map(|row| {
            let node = nodes.remove(&row.node_id);
            let seen = seen_by_docker(Some(row.instance_id), row.node_id.clone(), row.role, node);
            FleetMember {
                docker_state: seen.docker_state.clone().or_else(|| unseen.clone()),
                zone: Some(row.zone),
                group: row.group,
                generation: Some(row.generation),
                leaving: leaving(departures, &row.node_id),
                state: Some(row.state.as_str().to_owned()),
                departure: departure_of(departures, &row.node_id),
                scheduling_hold: row
                    .scheduling_hold
                    .map(|scheduling_hold| scheduling_hold.as_str().to_owned()),
                updated_at: Some(row.updated_at),
                address: Some(row.address),
                ..seen
            }
        })
        .collect();
    fleet.extend(nodes.into_iter().map(|(id, node)| {
        let row = departures.iter().find(|row| row.node_id == id);
        let labelled = instance_of(&node).map(str::to_owned);
        let instance_id = labelled.or_else(|| row.map(|row| row.instance_id.clone()));
        FleetMember {
            leaving: leaving(departures, &id),
            departure: departure_of(departures, &id),
            ..seen_by_docker(instance_id, id, node.role, Some(node))
        }
    }));
    fleet.sort_by_key(|member| {
        (member.role != crate::common::instance::Role::Manager, member.address)
    });
    fleet
}

fn departure_of(departures: &[DepartureRow], node_id: &str) -> Option<String> {
    let row = departures.iter().find(|row| row.node_id == node_id)?;
    let by = if row.stand_in { " by the managers" } else { "" };
    let waiting = waiting_for(row).map(|why| format!(", waiting for {why}")).unwrap_or_default();
    Some(format!("{}: {}{by}{waiting}", row.reason, row.state.as_str()))
}

/// Returns what a departure waits for: its turn, by the managers' decision; else what its node reports.
fn waiting_for(row: &DepartureRow) -> Option<String> {
    let now = OffsetDateTime::now_utc();
    if let Some((by, after)) = turn(row, now) {
        return Some(format!("its turn to be drained, after {after}, until {}", in_utc(by)));
    }
    row.waiting_for.clone().filter(|_| row.state < DepartureState::Left)
}

/// Returns until when a node waits for its turn, and after whom.
fn turn(row: &DepartureRow, now: OffsetDateTime) -> Option<(OffsetDateTime, &str)> {
    let after = row.turn_after.as_deref().unwrap_or("others");
    row.turn_by.filter(|_| row.awaits_turn(now)).map(|by| (by, after))
}

/// Returns the same as data for the page; `None` also once the departure is over.
fn leaving(departures: &[DepartureRow], node_id: &str) -> Option<Leaving> {
    let row = departures.iter().find(|row| row.node_id == node_id)?;
    let turn = turn(row, OffsetDateTime::now_utc());
    (!row.state.is_over()).then(|| Leaving {
        reason: row.reason.as_str().to_owned(),
        state: row.state.as_str().to_owned(),
        requested_at: row.requested_at,
        deadline: row.deadline,
        waiting_for: waiting_for(row),
        turn_by: turn.map(|(by, _)| by),
        turn_after: turn.map(|(_, after)| after.to_owned()),
        stand_in: row.stand_in,
    })
}

fn seen_by_docker(
    instance_id: Option<String>,
    node_id: String,
    role: crate::common::instance::Role,
    node: Option<NodeView>,
) -> FleetMember {
    FleetMember {
        instance_id,
        role,
        node_id: Some(node_id),
        address: node.as_ref().and_then(NodeView::ip),
        zone: None,
        group: None,
        generation: None,
        leaving: None,
        state: None,
        docker_availability: node.as_ref().map(|node| node.availability.as_str().to_owned()),
        labels: node.as_ref().map(|node| node.labels.clone()).unwrap_or_default(),
        leader: node.as_ref().is_some_and(NodeView::is_leader),
        hostname: node.as_ref().map(|node| node.hostname.clone()).filter(|name| !name.is_empty()),
        engine: node.as_ref().and_then(|node| node.engine.clone()),
        joined_at: node.as_ref().and_then(|node| node.joined_at),
        docker_state: node.map(|node| node.state),
        departure: None,
        scheduling_hold: None,
        verdict: None,
        tasks: None,
        updated_at: None,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;
    use time::macros::datetime;

    use super::*;
    use crate::clients::aws::stub::Stub;
    use crate::clients::docker::tests::fake_engine::{FakeEngine, Instead, RELEASES};
    use crate::clients::ledger::fuzz;
    use crate::common::instance::{Departure, Reason};

    fn member() -> Member {
        serde_json::from_value(serde_json::json!({
            "instance_id": "i-1", "role": "manager", "node_id": "n1", "zone": "a",
            "address": "10.0.0.1", "generation": 1, "state": "ready", "updated_at": 0,
        }))
        .unwrap()
    }

    fn view(state: &str) -> NodeView {
        NodeView { state: state.into(), ..NodeView::example("n1", Role::Manager) }
    }

    /// Other managers may have a leader.
    #[tokio::test(start_paused = true)]
    async fn a_docker_that_is_silent_here_says_nothing_of_the_swarm() {
        let (engine, stub) = (FakeEngine::start(RELEASES[0]), Stub::start().await);
        let node = Node::example(engine.swarm(), &stub).await;
        stub.always("member#", r#"{ "Items": [], "Count": 0 }"#);
        stub.always("departure#", r#"{ "Items": [], "Count": 0 }"#);
        let problem = async || view_fleet(&node).await.unwrap().problem.unwrap();
        engine.lock().instead.insert("/nodes", Instead::Silence);
        engine.lock().instead.insert("/info", Instead::Silence);
        assert_eq!(problem().await, DOCKER_SILENT);
        const INFO: &str =
            r#"{ "Swarm": { "LocalNodeState": "active", "ControlAvailable": true } }"#;
        engine.lock().instead.insert("/info", Instead::Answer(INFO));
        assert_eq!(problem().await, NO_LEADER, "the list alone is missing");
    }

    /// Docker keeps the last known states of the tasks on a node that it no longer reaches.
    #[test]
    fn the_tasks_of_a_node_that_is_not_ready_are_not_known() {
        let counted = |state: Option<&str>, tasks: &[(&str, usize)]| {
            let nodes = state.map(|state| vec![view(state)]);
            let mut members = merge(vec![member()], &[], nodes.or_else(|| Some(vec![])));
            let tasks = tasks.iter().map(|(id, count)| ((*id).to_owned(), *count)).collect();
            add_tasks(&mut members, &tasks);
            members[0].tasks
        };
        assert_eq!(counted(Some("ready"), &[("n1", 3), ("n2", 1)]), Some(3));
        assert_eq!(counted(Some("ready"), &[("n2", 1)]), Some(0));
        for state in [Some("down"), Some("unknown"), Some("disconnected"), None] {
            assert_eq!(counted(state, &[("n1", 3)]), None, "{state:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_fleet_is_shown_without_a_list_of_tasks() {
        let (engine, stub) = (FakeEngine::start(RELEASES[0]), Stub::start().await);
        let node = Node::example(engine.swarm(), &stub).await;
        stub.always("member#", r#"{ "Items": [], "Count": 0 }"#);
        stub.always("departure#", r#"{ "Items": [], "Count": 0 }"#);
        const INFO: &str =
            r#"{ "Swarm": { "LocalNodeState": "active", "ControlAvailable": true } }"#;
        const NODES: &str = r#"[{ "ID": "n1", "Status": { "State": "ready" } }]"#;
        const TASKS: &str = r#"[
            { "ID": "t1", "NodeID": "n1", "Status": { "State": "running" } },
            { "ID": "t2", "NodeID": "n1", "Status": { "State": "shutdown" } },
            { "ID": "t3", "NodeID": "n1", "Status": { "State": "preparing" } }
        ]"#;
        engine.lock().instead.insert("/info", Instead::Answer(INFO));
        engine.lock().instead.insert("/nodes", Instead::Answer(NODES));
        engine.lock().instead.insert("/tasks", Instead::Answer(TASKS));
        let tasks = async || view_fleet_and_tasks(&node).await.unwrap().members[0].tasks;
        assert_eq!(tasks().await, Some(1), "one of the three runs");
        engine.lock().instead.insert("/tasks", Instead::Silence);
        assert_eq!(tasks().await, None);
    }

    #[test]
    fn nobody_is_ready_for_whom_nobody_vouches() {
        let shown = |nodes| merge(vec![member()], &[], nodes).remove(0).docker_state;
        assert_eq!(shown(Some(vec![view("ready")])).as_deref(), Some("ready"));
        assert_eq!(shown(Some(vec![view("down")])).as_deref(), Some("down"));
        assert_eq!(shown(Some(vec![])), None, "the managers do not list it");
        assert_eq!(shown(None).as_deref(), Some("unknown"), "there is no list");
    }

    #[test]
    fn engines_that_do_not_understand_each_others_encryption_are_told_of() {
        let node = |engine: Option<&str>, state: &str| NodeView {
            engine: engine.map(str::to_owned),
            ..view(state)
        };
        let is_mixed = |engines: &[(Option<&str>, &str)]| {
            let nodes: Vec<_> = engines.iter().map(|(it, state)| node(*it, state)).collect();
            has_both_encryptions(&nodes)
        };
        assert!(is_mixed(&[(Some("28.5.2"), "ready"), (Some("29.0.0-rc.1"), "ready")]));
        assert!(!is_mixed(&[(Some("20.10.24"), "ready"), (Some("28.5.2"), "ready")]));
        assert!(!is_mixed(&[(Some("29.0.1"), "ready"), (Some("30.1"), "ready")]));
        assert!(!is_mixed(&[(Some("29.0.1"), "ready"), (Some("28.5.2"), "down")]), "it is gone");
        assert!(!is_mixed(&[(Some("29.0.1"), "ready"), (None, "ready"), (Some("dev"), "ready")]));
        assert_eq!(warn_of_encryption(Some(vec![])), None);
        let text = warn_of_encryption(Some(vec!["secure".into()])).unwrap();
        assert!(text.starts_with("the encrypted overlay networks secure do not work"), "{text}");
        assert!(warn_of_encryption(None).unwrap().contains("if there are any"), "cannot tell");
    }

    #[test]
    fn a_departure_is_shown_with_its_end_until_it_is_over() {
        let (noticed_at, deadline) =
            (datetime!(2026-11-02 12:00 UTC), datetime!(2026-11-02 12:02 UTC));
        let departure = Departure { reason: Reason::Spot, noticed_at, deadline };
        let mut row = DepartureRow::request("i-1", "n1", Role::Worker, &departure, "boot");
        row.waiting_for = Some("the tasks to stop".into());
        let shown = |row: &DepartureRow| leaving(std::slice::from_ref(row), "n1");
        let seen = shown(&row).unwrap();
        assert_eq!((seen.reason.as_str(), seen.state.as_str()), ("spot", "requested"));
        assert_eq!((seen.requested_at, seen.deadline), (noticed_at, deadline));
        assert_eq!(seen.waiting_for.as_deref(), Some("the tasks to stop"));
        assert_eq!((seen.turn_by, seen.turn_after), (None, None));
        let by = OffsetDateTime::now_utc() + Duration::from_secs(60);
        (row.turn_by, row.turn_after) = (Some(by), Some("i-2 (service web)".into()));
        let seen = shown(&row).unwrap();
        let words = "its turn to be drained, after i-2 (service web), until 20";
        assert!(seen.waiting_for.unwrap().starts_with(words));
        assert_eq!(
            (seen.turn_by, seen.turn_after.as_deref()),
            (Some(by), Some("i-2 (service web)"))
        );
        assert!(departure_of(std::slice::from_ref(&row), "n1").unwrap().contains(words));
        row.state = DepartureState::Left;
        assert_eq!(shown(&row).unwrap().waiting_for, None, "it no longer waits");
        assert_eq!(shown(&row).unwrap().turn_by, None);
        row.state = DepartureState::Removed;
        assert_eq!(shown(&row), None);
        row.state = DepartureState::Failed;
        assert_eq!(shown(&row), None);
        assert_eq!(departure_of(std::slice::from_ref(&row), "n1").unwrap(), "spot: failed");
        assert_eq!(leaving(&[row], "n2"), None, "another node's");
    }

    #[test]
    fn a_node_is_shown_with_its_host_name_and_engine_if_it_has_reported_them() {
        let shown = |node: NodeView| {
            let member = merge(vec![member()], &[], Some(vec![node])).remove(0);
            (member.hostname, member.engine)
        };
        let named = NodeView {
            hostname: "ip-10-0-0-1".into(),
            engine: Some("28.5.2".into()),
            ..view("ready")
        };
        assert_eq!(shown(named), (Some("ip-10-0-0-1".into()), Some("28.5.2".into())));
        let silent = NodeView { hostname: String::new(), engine: None, ..view("ready") };
        assert_eq!(shown(silent), (None, None));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1_000))]

        /// Rows with any readable content.
        #[test]
        fn no_row_that_can_be_read_hides_the_fleet(
            members in fuzz::members(),
            departures in fuzz::departures(),
            nodes in prop::option::of(fuzz::nodes()),
        ) {
            check_rows(members.rows, &departures.rows, nodes);
        }
    }

    /// Checks that no row hides the others from an operator.
    pub(in crate::manager) fn check_rows(
        members: Vec<Member>,
        departures: &[DepartureRow],
        nodes: Option<Vec<NodeView>>,
    ) {
        let (many, listed) = (members.len(), nodes.as_ref().map_or(0, Vec::len));
        let fleet = merge(members, departures, nodes);
        assert!(fleet.len() >= many.max(listed));
        assert!(serde_json::to_string(&fleet).is_ok());
    }
}
